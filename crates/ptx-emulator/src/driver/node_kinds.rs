//! Nodes of graphs that launch no kernel: copies, fills, calls of the host, graphs in graphs,
//! events and nodes that do nothing.

use super::abi::{Host, In, Out};
use super::code::Code;
use super::edges::{Edge, check_default, several};
use super::node::{KernelParams, kernel_task, set_task};
use super::rows::{Copy3D, Rows};
use super::state::{Driver, Handle, State, current, driver};
use super::task::Task;
use super::work::{Fill, HostFunction, Work};
use super::{Outcome, api};

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FillParams {
    to: u64,
    pitch: usize,
    value: u32,
    element_bytes: u32,
    width: usize,
    height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CallParams {
    function: Option<HostFunction>,
    argument: Host,
}

/// `CUgraphNodeParams`: a kind, and a union of what the kinds have.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NodeParams {
    kind: u32,
    reserved: [u32; 3],
    of_kind: OfKind,
    reserved_end: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
union OfKind {
    room: [u64; 29],
    kernel: KernelParams,
    copy: CopyParams,
    fill: FillParams,
    call: CallParams,
    /// A graph or an event.
    handle: Handle,
}

/// `CUDA_MEMCPY_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CopyParams {
    flags: u32,
    reserved: u32,
    context: Handle,
    copy: Copy3D,
}

fn copy_task(driver: &Driver, copy: &Copy3D, context: Handle) -> Outcome<Task> {
    check_context(driver, context)?;
    Ok(Task::Work(Work::Rows(Box::new(Rows::new(copy)?))))
}

/// Null stands for the graph's own.
fn check_context(driver: &Driver, context: Handle) -> Outcome {
    if context == 0 {
        return Ok(());
    }
    let usable = driver.state().usable(context);
    usable.map_err(|code| match code {
        Code::CONTEXT_IS_DESTROYED => Code::INVALID_CONTEXT,
        code => code,
    })
}

fn fill_task(driver: &Driver, params: &FillParams, context: Handle) -> Outcome<Task> {
    check_context(driver, context)?;
    if ![1, 2, 4].contains(&params.element_bytes) {
        return Err(Code::INVALID_VALUE);
    }
    let fill = Fill {
        to: params.to,
        element: params.value.to_le_bytes(),
        element_bytes: params.element_bytes as usize,
        width: params.width as u64,
        rows: params.height as u64,
        pitch: params.pitch as u64,
    };
    fill.check()?;
    Ok(Task::Work(Work::Fill(fill)))
}

fn call_task(params: &CallParams) -> Outcome<Task> {
    let function = params.function.ok_or(Code::INVALID_VALUE)?;
    let argument = params.argument;
    Ok(Task::Work(Work::Call { function, argument }))
}

fn event_task(driver: &Driver, event: Handle, task: impl Fn(Handle) -> Task) -> Outcome<Task> {
    let known = driver.state().events.contains_key(&event);
    if known {
        Ok(task(event))
    } else {
        Err(Code::INVALID_VALUE)
    }
}

/// A task that holds a copy of a graph, for a node of another.
fn child_task(state: &mut State, graph: Handle, child: Handle) -> Outcome<Task> {
    state.check_room(graph, Some(child))?;
    Ok(Task::Child(state.clone_graph(child, true)?))
}

/// Makes a node; `after` are the nodes that it waits for and their number.
fn add(
    out: Out<Handle>,
    graph: Handle,
    after: (In<Handle>, usize),
    task: impl FnOnce(&Driver) -> Outcome<Task>,
) -> Outcome {
    let driver = driver()?;
    driver.state().graph(graph)?;
    let after = several(after.0, after.1)?;
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let task = task(driver)?;
    let child = match &task {
        Task::Child(child) => Some(*child),
        _ => None,
    };
    let mut state = driver.state();
    let made = state.add_node(graph, task, &after);
    if let (Err(_), Some(child)) = (&made, child) {
        state.remove_graph(child);
    }
    out.set(made?)
}

/// Makes a node of any kind.
fn add_any(
    out: Out<Handle>,
    graph: Handle,
    after: (In<Handle>, usize),
    params: Out<NodeParams>,
) -> Outcome {
    let given = params.readable().get(0)?;
    add(out, graph, after, |driver| task_of(driver, graph, &given))?;
    // The program learns which graph the node owns.
    let made = out.readable().get(0)?;
    let owned = match driver()?.state().node(made)?.task {
        Task::Child(child) => child,
        _ => return Ok(()),
    };
    params.set(NodeParams {
        of_kind: OfKind { handle: owned },
        ..given
    })
}

fn task_of(driver: &Driver, graph: Handle, params: &NodeParams) -> Outcome<Task> {
    if params.reserved != [0; 3] || params.reserved_end != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let union = params.of_kind;
    match params.kind {
        0 => {
            let context = driver.state().graph(graph)?.context;
            // SAFETY: every field of the union is plain numbers, of which all values are valid;
            // the kind says which the program has set.
            kernel_task(driver, context, unsafe { &union.kernel }, None)
        }
        1 => {
            // SAFETY: as above.
            let copy = unsafe { union.copy };
            copy_task(driver, &copy.copy, copy.context)
        }
        // SAFETY: as above. The context, which follows the numbers of the first form, is not used.
        2 => fill_task(driver, unsafe { &union.fill }, 0),
        3 => {
            // SAFETY: as above. The function is null or, by the API's contract, a function.
            let call = unsafe { union.call };
            call_task(&call)
        }
        // SAFETY: as above.
        4 => child_task(&mut driver.state(), graph, unsafe { union.handle }),
        5 => Ok(Task::Empty),
        // SAFETY: as above.
        6 => event_task(driver, unsafe { union.handle }, Task::Wait),
        // SAFETY: as above.
        7 => event_task(driver, unsafe { union.handle }, Task::Record),
        8..=13 => Err(Code::NOT_SUPPORTED),
        _ => Err(Code::INVALID_VALUE),
    }
}

/// As [`task_of`], of a node that is there. A graph in it stays the one that it is.
fn changed_task(driver: &Driver, graph: Handle, params: &NodeParams) -> Outcome<Task> {
    const CHILD: u32 = 4;
    if params.kind == CHILD {
        return Err(Code::NOT_SUPPORTED);
    }
    task_of(driver, graph, params)
}

/// Changes what a node does; its kind stays. The code of a node of another kind is that of a bad
/// value.
fn set(node: Handle, task: impl FnOnce(&Driver) -> Outcome<Task>) -> Outcome {
    let driver = driver()?;
    let kind = driver.state().node(node)?.task.node_type();
    let task = task(driver)?;
    if kind != task.node_type() {
        return Err(Code::INVALID_VALUE);
    }
    driver.state().node_mut(node)?.task = task;
    Ok(())
}

fn set_in_executable(
    executable: Handle,
    node: Handle,
    task: impl FnOnce(&Driver) -> Outcome<Task>,
) -> Outcome {
    let (driver, _) = current()?;
    let task = task(driver)?;
    set_task(&mut driver.state(), executable, node, task)
}

/// What a node does.
fn task(node: Handle) -> Outcome<Task> {
    Ok(driver()?.state().node(node)?.task.clone())
}

fn event_of(node: Handle, is_wait: bool) -> Outcome<Handle> {
    match task(node)? {
        Task::Wait(event) if is_wait => Ok(event),
        Task::Record(event) if !is_wait => Ok(event),
        _ => Err(Code::INVALID_VALUE),
    }
}

api! {
    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        add(node, graph, (after, count), |_| Ok(Task::Empty))
    }

    fn cuGraphAddMemcpyNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, copy: In<Copy3D>, context: Handle,
    ) {
        let copy = copy.get(0)?;
        add(node, graph, (after, count), |driver| copy_task(driver, &copy, context))
    }

    fn cuGraphMemcpyNodeGetParams(node: Handle, copy: Out<Copy3D>) {
        let given = match task(node)? {
            Task::Work(Work::Rows(rows)) => rows.given,
            Task::Work(work) => Copy3D::of(&work).ok_or(Code::INVALID_VALUE)?,
            _ => return Err(Code::INVALID_VALUE),
        };
        copy.set(given)
    }

    fn cuGraphMemcpyNodeSetParams(node: Handle, copy: In<Copy3D>) {
        let copy = copy.get(0)?;
        set(node, |driver| copy_task(driver, &copy, 0))
    }

    fn cuGraphExecMemcpyNodeSetParams(executable: Handle, node: Handle, copy: In<Copy3D>, context: Handle) {
        let copy = copy.get(0)?;
        set_in_executable(executable, node, |driver| copy_task(driver, &copy, context))
    }

    fn cuGraphAddMemsetNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<FillParams>, context: Handle,
    ) {
        let params = params.get(0)?;
        add(node, graph, (after, count), |driver| fill_task(driver, &params, context))
    }

    fn cuGraphMemsetNodeGetParams(node: Handle, params: Out<FillParams>) {
        let Task::Work(Work::Fill(fill)) = task(node)? else {
            return Err(Code::INVALID_VALUE);
        };
        params.set(FillParams {
            to: fill.to,
            pitch: fill.pitch as usize,
            value: u32::from_le_bytes(fill.element),
            element_bytes: u32::try_from(fill.element_bytes).unwrap_or(0),
            width: fill.width as usize,
            height: fill.rows as usize,
        })
    }

    fn cuGraphMemsetNodeSetParams(node: Handle, params: In<FillParams>) {
        let params = params.get(0)?;
        set(node, |driver| fill_task(driver, &params, 0))
    }

    fn cuGraphExecMemsetNodeSetParams(executable: Handle, node: Handle, params: In<FillParams>, context: Handle) {
        let params = params.get(0)?;
        set_in_executable(executable, node, |driver| fill_task(driver, &params, context))
    }

    fn cuGraphAddHostNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<CallParams>,
    ) {
        let params = params.get(0)?;
        add(node, graph, (after, count), |_| call_task(&params))
    }

    fn cuGraphHostNodeGetParams(node: Handle, params: Out<CallParams>) {
        let Task::Work(Work::Call { function, argument }) = task(node)? else {
            return Err(Code::INVALID_VALUE);
        };
        params.set(CallParams { function: Some(function), argument })
    }

    fn cuGraphHostNodeSetParams(node: Handle, params: In<CallParams>) {
        let params = params.get(0)?;
        set(node, |_| call_task(&params))
    }

    fn cuGraphExecHostNodeSetParams(executable: Handle, node: Handle, params: In<CallParams>) {
        let params = params.get(0)?;
        set_in_executable(executable, node, |_| call_task(&params))
    }

    fn cuGraphAddChildGraphNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle,
    ) {
        add(node, graph, (after, count), |driver| child_task(&mut driver.state(), graph, child))
    }

    fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: Out<Handle>) {
        match task(node)? {
            Task::Child(child) => graph.set(child),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    fn cuGraphAddEventRecordNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle,
    ) {
        add(node, graph, (after, count), |driver| event_task(driver, event, Task::Record))
    }

    fn cuGraphEventRecordNodeGetEvent(node: Handle, event: Out<Handle>) {
        event.set(event_of(node, false)?)
    }

    fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) {
        set(node, |driver| event_task(driver, event, Task::Record))
    }

    fn cuGraphExecEventRecordNodeSetEvent(executable: Handle, node: Handle, event: Handle) {
        set_in_executable(executable, node, |driver| event_task(driver, event, Task::Record))
    }

    fn cuGraphAddEventWaitNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle,
    ) {
        add(node, graph, (after, count), |driver| event_task(driver, event, Task::Wait))
    }

    fn cuGraphEventWaitNodeGetEvent(node: Handle, event: Out<Handle>) {
        event.set(event_of(node, true)?)
    }

    fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) {
        set(node, |driver| event_task(driver, event, Task::Wait))
    }

    fn cuGraphExecEventWaitNodeSetEvent(executable: Handle, node: Handle, event: Handle) {
        set_in_executable(executable, node, |driver| event_task(driver, event, Task::Wait))
    }

    fn cuGraphNodeSetParams(node: Handle, params: In<NodeParams>) {
        let params = params.get(0)?;
        let graph = driver()?.state().graph_of(node)?;
        set(node, |driver| changed_task(driver, graph, &params))
    }

    fn cuGraphExecNodeSetParams(executable: Handle, node: Handle, params: In<NodeParams>) {
        let params = params.get(0)?;
        let graph = driver()?.state().graph_of(node)?;
        set_in_executable(executable, node, |driver| changed_task(driver, graph, &params))
    }

    fn cuGraphAddNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: Out<NodeParams>,
    ) {
        add_any(node, graph, (after, count), params)
    }

    fn cuGraphAddNode_v2(
        node: Out<Handle>, graph: Handle, after: In<Handle>, edges: In<Edge>, count: usize, params: Out<NodeParams>,
    ) {
        check_default(edges, count.min(1 << 20))?;
        add_any(node, graph, (after, count), params)
    }
}
