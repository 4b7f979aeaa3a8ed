//! Nodes of graphs: listing them, making kernel nodes, and changing what one launches, in its graph
//! or in an executable graph only.

use std::sync::Arc;

use super::abi::{Host, In, Out};
use super::code::Code;
use super::edges::several;
use super::launch::{PROGRAMMATIC, Shape, WITHOUT_EFFECT, prepare};
use super::state::{Driver, Handle, State, current, driver};
use super::task::{Node, Task};
use super::work::{Launch, Work};
use super::{Outcome, api, library};

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
    /// A library's kernel, where `function` is 0.
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
            | Work::OnHost { .. }
            | Work::Rows(_) => 1,
            Work::Fill(_) => 2,
            Work::Call { .. } => 3,
            Work::Memory(_) => 12,
            Work::Free(_) => 11,
        }
    }

    pub fn is_cooperative(&self) -> bool {
        matches!(self, Work::Launch(launch) if launch.cooperative)
    }
}

impl Task {
    fn kernel(&self) -> Outcome<&Arc<Launch>> {
        match self {
            Task::Work(Work::Launch(launch)) => Ok(launch),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

/// A node's parameters, in memory that the node owns.
fn kernel_params(state: &State, node: Handle) -> Outcome<KernelParams> {
    let context = state.graph(state.graph_of(node)?)?.context;
    let launch = state.node(node)?.task.kernel()?;
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
        context,
    })
}

/// What a kernel node of a graph of `context` launches; a new one, or one that launched `old`.
pub(super) fn kernel_task(
    driver: &Driver,
    context: Handle,
    params: &KernelParams,
    old: Option<&Launch>,
) -> Outcome<Task> {
    let handle = match (params.function, params.kernel) {
        (0, kernel) => {
            let chosen = if params.context == 0 {
                context
            } else {
                params.context
            };
            library::function_in(driver, kernel, chosen).map_err(|_| Code::INVALID_VALUE)?
        }
        // A library's kernel passed as a function, as launches take it.
        (function, _) => {
            library::function_in(driver, function, context).map_err(|_| Code::INVALID_VALUE)?
        }
    };
    let function = driver.state().functions.get(&handle).cloned();
    let function = function.ok_or(Code::INVALID_VALUE)?;
    if function.context != context {
        return Err(Code::INVALID_VALUE);
    }
    let shape = Shape {
        grid: params.grid,
        block: params.block,
        dynamic_shared: params.dynamic_shared,
        cooperative: old.is_some_and(|old| old.cooperative),
        cluster: old.and_then(|old| old.config.cluster),
        programmatic: old.is_some_and(|old| old.programmatic),
    };
    let launch = prepare(
        driver,
        handle,
        &function,
        &shape,
        params.pointers,
        params.extra,
    )?;
    Ok(Task::Work(Work::Launch(Arc::new(launch))))
}

/// A kernel node's context and what it launches.
fn launched(state: &State, node: Handle) -> Outcome<(Handle, Arc<Launch>)> {
    let context = state.graph(state.graph_of(node)?)?.context;
    let launch = state.node(node)?.task.kernel()?;
    Ok((context, Arc::clone(launch)))
}

fn set_in_graph(node: Handle, params: &KernelParams) -> Outcome {
    let driver = driver()?;
    let (context, old) = launched(&driver.state(), node)?;
    let task = kernel_task(driver, context, params, Some(&old))?;
    driver.state().node_mut(node)?.task = task;
    Ok(())
}

fn set_in_executable(executable: Handle, node: Handle, params: &KernelParams) -> Outcome {
    let (driver, _) = current()?;
    let (context, old) = {
        let state = driver.state();
        state.graph_of(node)?;
        let executable = state
            .executables
            .get(&executable)
            .ok_or(Code::INVALID_VALUE)?;
        let step = executable.step(node).ok_or(Code::INVALID_VALUE)?;
        (executable.context, Arc::clone(step.task.kernel()?))
    };
    let task = kernel_task(driver, context, params, Some(&old))?;
    set_task(&mut driver.state(), executable, node, task)
}

/// Changes what a step of an executable graph does; its kind stays.
pub(super) fn set_task(state: &mut State, executable: Handle, node: Handle, task: Task) -> Outcome {
    state.graph_of(node)?;
    let executable = state.executables.get_mut(&executable);
    let executable = Arc::make_mut(executable.ok_or(Code::INVALID_VALUE)?);
    let step = executable.step_mut(node).ok_or(Code::INVALID_VALUE)?;
    if step.task.node_type() != task.node_type() {
        return Err(Code::INVALID_VALUE);
    }
    step.task = task;
    Ok(())
}

/// Makes a kernel node.
fn add_kernel(
    out: Out<Handle>,
    graph: Handle,
    after: (In<Handle>, usize),
    params: &KernelParams,
) -> Outcome {
    let driver = driver()?;
    let context = driver.state().graph(graph)?.context;
    let after = several(after.0, after.1)?;
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let task = kernel_task(driver, context, params, None)?;
    let node = driver.state().add_node(graph, task, &after)?;
    out.set(node)
}

/// Attributes of a kernel node that have a meaning here.
const COOPERATIVE: u32 = 2;
const CLUSTER: u32 = 4;

fn get_attribute(node: Handle, attribute: u32) -> Outcome<[u32; 16]> {
    let state = driver()?.state();
    let launch = state.node(node)?.task.kernel()?;
    let mut value = [0; 16];
    match attribute {
        COOPERATIVE => value[0] = u32::from(launch.cooperative),
        CLUSTER => value[..3].copy_from_slice(&launch.config.cluster.unwrap_or([1; 3])),
        PROGRAMMATIC => value[0] = u32::from(launch.programmatic),
        _ if WITHOUT_EFFECT.contains(&attribute) => {}
        _ => return Err(Code::INVALID_VALUE),
    }
    Ok(value)
}

fn set_attribute(node: Handle, attribute: u32, value: &[u32; 16]) -> Outcome {
    let driver = driver()?;
    let (_, launch) = launched(&driver.state(), node)?;
    let &[first, second, third, ..] = value;
    let (mut cooperative, mut cluster) = (launch.cooperative, launch.config.cluster);
    match attribute {
        COOPERATIVE => cooperative = first != 0,
        CLUSTER => cluster = Some([first, second, third]),
        PROGRAMMATIC => {}
        _ if WITHOUT_EFFECT.contains(&attribute) => return Ok(()),
        _ => return Err(Code::INVALID_VALUE),
    }
    let function = driver.state().functions.get(&launch.function).cloned();
    let function = function.ok_or(Code::INVALID_VALUE)?;
    let mut changed = launch.with(driver, &function, cooperative, cluster)?;
    if attribute == PROGRAMMATIC {
        changed.programmatic = first != 0;
    }
    driver.state().node_mut(node)?.task = Task::Work(Work::Launch(Arc::new(changed)));
    Ok(())
}

/// Handles of a graph's nodes.
fn handles<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<Handle> {
    nodes.map(|node| node.handle).collect()
}

/// Lists nodes as `cuGraphGetNodes` does: up to `count` of them, the rest of the room null; without
/// room, how many there are.
pub(super) fn list(all: &[Handle], nodes: Out<Handle>, count: Out<usize>) -> Outcome {
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
        let found = handles(state.graph(graph)?.nodes.iter());
        list(&found, nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let state = driver()?.state();
        let found = state.graph(graph)?.nodes.iter().filter(|node| node.after.is_empty());
        list(&handles(found), nodes, count)
    }

    fn cuGraphNodeGetType(node: Handle, node_type: Out<u32>) {
        let state = driver()?.state();
        node_type.set(state.node(node)?.task.node_type())
    }

    fn cuGraphDestroyNode(node: Handle) {
        driver()?.state().remove_node(node)
    }

    fn cuGraphNodeFindInClone(found: Out<Handle>, node: Handle, clone: Handle) {
        let state = driver()?.state();
        if state.graph(clone)?.origin != state.graph_of(node)? {
            return Err(Code::INVALID_VALUE);
        }
        let copy = state.graph(clone)?.nodes.iter().find(|copy| copy.origin == node);
        found.set(copy.ok_or(Code::INVALID_VALUE)?.handle)
    }

    // Of the kinds of nodes, these can be switched off: kernels, copies and fills.
    fn cuGraphNodeSetEnabled(executable: Handle, node: Handle, enabled: u32) {
        let mut state = driver()?.state();
        let executable = state.executables.get_mut(&executable).ok_or(Code::INVALID_VALUE)?;
        let step = Arc::make_mut(executable).step_mut(node).ok_or(Code::INVALID_VALUE)?;
        if step.task.node_type() > 2 {
            return Err(Code::INVALID_VALUE);
        }
        step.is_enabled = enabled != 0;
        Ok(())
    }

    fn cuGraphNodeGetEnabled(executable: Handle, node: Handle, enabled: Out<u32>) {
        let state = driver()?.state();
        let executable = state.executables.get(&executable).ok_or(Code::INVALID_VALUE)?;
        let step = executable.step(node).filter(|step| step.task.node_type() <= 2);
        enabled.set(u32::from(step.ok_or(Code::INVALID_VALUE)?.is_enabled))
    }

    fn cuGraphAddKernelNode_v2(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelParams>,
    ) {
        add_kernel(node, graph, (after, count), &params.get(0)?)
    }

    fn cuGraphAddKernelNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelParamsV1>,
    ) {
        add_kernel(node, graph, (after, count), &params.get(0)?.into())
    }

    fn cuGraphKernelNodeGetAttribute(node: Handle, attribute: u32, value: Out<[u32; 16]>) {
        value.set(get_attribute(node, attribute)?)
    }

    fn cuGraphKernelNodeSetAttribute(node: Handle, attribute: u32, value: In<[u32; 16]>) {
        set_attribute(node, attribute, &value.get(0)?)
    }

    fn cuGraphKernelNodeCopyAttributes(to: Handle, from: Handle) {
        for attribute in [COOPERATIVE, CLUSTER] {
            set_attribute(to, attribute, &get_attribute(from, attribute)?)?;
        }
        Ok(())
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
