//! Nodes of graphs: listing them, and changing what a kernel node launches, in its graph or in an
//! executable graph only.

use std::sync::Arc;

use super::abi::{Host, In, Out};
use super::code::Code;
use super::launch::{Shape, prepare};
use super::state::{Driver, Graph, Handle, State, current, driver};
use super::work::{Launch, Work};
use super::{Outcome, api};

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    pointers: In<Host>,
    extra: In<usize>,
    kernel: Handle,
    context: Handle,
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`, which callers of the first versions pass: it ends before `kernel`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParamsV1 {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    pointers: In<Host>,
    extra: In<usize>,
}

impl From<KernelParamsV1> for KernelParams {
    fn from(first: KernelParamsV1) -> Self {
        let KernelParamsV1 {
            function,
            grid,
            block,
            dynamic_shared,
            pointers,
            extra,
        } = first;
        Self {
            function,
            grid,
            block,
            dynamic_shared,
            pointers,
            extra,
            kernel: 0,
            context: 0,
        }
    }
}

impl Work {
    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Work::Launch(_) => 0,
            Work::ToDevice { .. }
            | Work::ToHost { .. }
            | Work::OnDevice { .. }
            | Work::OnHost { .. } => 1,
            Work::Fill(_) => 2,
            Work::Call { .. } => 3,
        }
    }

    pub fn is_cooperative(&self) -> bool {
        matches!(self, Work::Launch(launch) if launch.cooperative)
    }
}

impl Graph {
    fn position(&self, node: Handle) -> Outcome<usize> {
        self.nodes
            .iter()
            .position(|&known| known == node)
            .ok_or(Code::INVALID_VALUE)
    }

    fn work_of(&self, node: Handle) -> Outcome<&Work> {
        self.work
            .get(self.position(node)?)
            .ok_or(Code::INVALID_VALUE)
    }

    fn kernel_of(&self, node: Handle) -> Outcome<&Arc<Launch>> {
        match self.work_of(node)? {
            Work::Launch(launch) => Ok(launch),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    fn replace(&mut self, node: Handle, work: Work) -> Outcome {
        let at = self.position(node)?;
        if let Some(place) = Arc::make_mut(&mut self.work).get_mut(at) {
            *place = work;
        }
        Ok(())
    }
}

/// The graph that a node is part of.
fn graph_of(state: &State, node: Handle) -> Outcome<Handle> {
    state.nodes.get(&node).copied().ok_or(Code::INVALID_VALUE)
}

/// A node's parameters, in memory that the node owns.
fn kernel_params(state: &State, node: Handle) -> Outcome<KernelParams> {
    let graph = graph_of(state, node)?;
    let graph = state.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
    let launch = graph.kernel_of(node)?;
    let info = launch
        .loaded
        .kernel(&launch.kernel)
        .ok_or(Code::INVALID_VALUE)?;
    let pointers = launch.pointers.get_or_init(|| {
        let start = launch.config.params.as_ptr().expose_provenance();
        info.params
            .iter()
            .map(|param| start + param.offset as usize)
            .collect()
    });
    Ok(KernelParams {
        function: launch.function,
        grid: launch.config.grid,
        block: launch.config.block,
        dynamic_shared: launch.config.dynamic_shared,
        pointers: In::at(pointers.as_ptr().expose_provenance()),
        extra: In::at(0),
        kernel: 0,
        context: graph.context,
    })
}

/// What a kernel node of `old` is to launch from now on.
fn changed(
    driver: &Driver,
    state: &State,
    old: &Graph,
    node: Handle,
    params: &KernelParams,
) -> Outcome<Work> {
    let cooperative = old.kernel_of(node)?.cooperative;
    let cluster = old.kernel_of(node)?.config.cluster;
    if params.function == 0 && params.kernel != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    let function = state
        .functions
        .get(&params.function)
        .ok_or(Code::INVALID_VALUE)?;
    if function.context != old.context {
        return Err(Code::INVALID_VALUE);
    }
    let shape = Shape {
        grid: params.grid,
        block: params.block,
        dynamic_shared: params.dynamic_shared,
        cooperative,
        cluster,
    };
    let launch = prepare(
        driver,
        params.function,
        function,
        &shape,
        params.pointers,
        params.extra,
    )?;
    Ok(Work::Launch(Arc::new(launch)))
}

fn set_in_graph(node: Handle, params: &KernelParams) -> Outcome {
    let driver = driver()?;
    let mut state = driver.state();
    let graph = graph_of(&state, node)?;
    let old = state.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
    let work = changed(driver, &state, old, node, params)?;
    state
        .graphs
        .get_mut(&graph)
        .ok_or(Code::INVALID_VALUE)?
        .replace(node, work)
}

fn set_in_executable(executable: Handle, node: Handle, params: &KernelParams) -> Outcome {
    let (driver, _) = current()?;
    let mut state = driver.state();
    graph_of(&state, node)?;
    let old = state
        .executables
        .get(&executable)
        .ok_or(Code::INVALID_VALUE)?;
    let work = changed(driver, &state, old, node, params)?;
    state
        .executables
        .get_mut(&executable)
        .ok_or(Code::INVALID_VALUE)?
        .replace(node, work)
}

/// Lists nodes as `cuGraphGetNodes` does: up to `count` of them, the rest of the room null; without
/// room, how many there are.
fn list(all: &[Handle], nodes: Out<Handle>, count: Out<usize>) -> Outcome {
    if nodes.is_null() {
        return count.set(all.len());
    }
    let room = count.readable().get(0)?;
    for index in 0..room {
        nodes.set_at(index, all.get(index).copied().unwrap_or(0));
    }
    count.set(all.len().min(room))
}

api! {
    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let state = driver()?.state();
        let graph = state.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        list(&graph.nodes, nodes, count)
    }

    fn cuGraphNodeGetType(node: Handle, node_type: Out<u32>) {
        let state = driver()?.state();
        let graph = state.graphs.get(&graph_of(&state, node)?).ok_or(Code::INVALID_VALUE)?;
        node_type.set(graph.work_of(node)?.node_type())
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle, params: Out<KernelParams>) {
        params.set(kernel_params(&driver()?.state(), node)?)
    }

    fn cuGraphKernelNodeGetParams(node: Handle, params: Out<KernelParamsV1>) {
        let KernelParams { function, grid, block, dynamic_shared, pointers, extra, .. } =
            kernel_params(&driver()?.state(), node)?;
        params.set(KernelParamsV1 { function, grid, block, dynamic_shared, pointers, extra })
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelParams>) {
        set_in_graph(node, &params.get(0)?)
    }

    fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelParamsV1>) {
        set_in_graph(node, &params.get(0)?.into())
    }

    fn cuGraphExecKernelNodeSetParams_v2(executable: Handle, node: Handle, params: In<KernelParams>) {
        set_in_executable(executable, node, &params.get(0)?)
    }

    fn cuGraphExecKernelNodeSetParams(executable: Handle, node: Handle, params: In<KernelParamsV1>) {
        set_in_executable(executable, node, &params.get(0)?.into())
    }
}
