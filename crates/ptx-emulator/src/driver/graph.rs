//! Graphs: made by stream capture or node by node, cloned, and made executable.

use std::sync::Arc;

use super::abi::{Out, report};
use super::code::Code;
use super::state::{Handle, State, current, driver};
use super::task::{Executable, Graph, Task};
use super::work::Work;
use super::{Outcome, api, stream};

/// What `cuGraphExecUpdate` tells beside its code.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateInfo {
    result: u32,
    node: Handle,
    from_node: Handle,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParams {
    flags: u64,
    upload_stream: Handle,
    error_node: Handle,
    result: u32,
}

const TOPOLOGY_CHANGED: u32 = 2;
const NODE_TYPE_CHANGED: u32 = 3;
const PARAMETERS_CHANGED: u32 = 5;
const ATTRIBUTES_CHANGED: u32 = 8;

/// A flag of `cuGraphInstantiate`: launches from kernels.
const DEVICE_LAUNCH: u64 = 4;

fn instantiate(out: Out<Handle>, graph: Handle, flags: u64) -> Outcome {
    let (driver, _) = current()?;
    // AUTO_FREE_ON_LAUNCH, UPLOAD, USE_NODE_PRIORITY change nothing here.
    if flags & DEVICE_LAUNCH != 0 {
        report(format_args!(
            "graph refused: graphs that kernels launch are not supported"
        ));
        return Err(Code::NOT_SUPPORTED);
    }
    if out.is_null() || flags > 15 {
        return Err(Code::INVALID_VALUE);
    }
    let mut state = driver.state();
    let executable = state.instantiate(graph, flags)?;
    let handle = state.handle();
    state.executables.insert(handle, Arc::new(executable));
    out.set(handle)
}

/// What stands against giving an executable graph the parameters of another graph.
fn difference(old: &Executable, new: &Executable) -> Option<(u32, Handle)> {
    if old.steps.len() != new.steps.len() {
        return Some((TOPOLOGY_CHANGED, 0));
    }
    for (before, after) in old.steps.iter().zip(&new.steps) {
        let sorted = |places: &[usize]| {
            let mut places = places.to_vec();
            places.sort_unstable();
            places
        };
        let is_cooperative =
            |task: &Task| matches!(task, Task::Work(work) if work.is_cooperative());
        let is_same_copy = match (&before.task, &after.task) {
            (Task::Work(Work::Rows(_)), _) | (_, Task::Work(Work::Rows(_))) => true,
            (Task::Work(before), Task::Work(after)) => {
                std::mem::discriminant(before) == std::mem::discriminant(after)
            }
            _ => true,
        };
        let result = if before.task.node_type() != after.task.node_type() {
            NODE_TYPE_CHANGED
        } else if sorted(&before.after) != sorted(&after.after) {
            TOPOLOGY_CHANGED
        } else if is_cooperative(&before.task) != is_cooperative(&after.task) {
            ATTRIBUTES_CHANGED
        } else if !is_same_copy || old.context != new.context {
            PARAMETERS_CHANGED
        } else {
            match before.child.as_ref().zip(after.child.as_ref()) {
                Some((before, after)) if difference(before, after).is_some() => TOPOLOGY_CHANGED,
                _ => continue,
            }
        };
        return Some((result, after.node));
    }
    None
}

/// Takes over what another graph's nodes do. The steps keep the names of their own nodes.
fn take_tasks(old: &mut Executable, new: Executable) {
    for (before, after) in old.steps.iter_mut().zip(new.steps) {
        before.task = after.task;
        if let (Some(before), Some(after)) = (&mut before.child, after.child) {
            take_tasks(Arc::make_mut(before), Arc::unwrap_or_clone(after));
        }
    }
}

/// Gives an executable graph the parameters of a graph of the same form. The info says what stands
/// against it.
fn update(state: &mut State, executable: Handle, graph: Handle) -> Outcome<UpdateInfo> {
    let old = state
        .executables
        .get(&executable)
        .ok_or(Code::INVALID_VALUE)?;
    let new = state.instantiate(graph, old.flags)?;
    let (result, node) = difference(old, &new).unwrap_or_default();
    if result == 0
        && let Some(old) = state.executables.get_mut(&executable)
    {
        take_tasks(Arc::make_mut(old), new);
    }
    Ok(UpdateInfo {
        result,
        node,
        from_node: 0,
    })
}

fn launch(executable: Handle, stream: Handle) -> Outcome {
    let (driver, context) = current()?;
    let executable = driver.state().executables.get(&executable).cloned();
    let executable = executable.ok_or(Code::INVALID_VALUE)?;
    let context = stream::context_of(driver, context, stream)?;
    let as_child = |state: &mut State| Ok(Some(Task::Child(state.graph_from(&executable)?)));
    if stream::record(driver, context, stream, as_child)? {
        return Ok(());
    }
    executable.give(driver, context, stream)
}

api! {
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        let (driver, context) = current()?;
        if graph.is_null() || flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut state = driver.state();
        let handle = state.handle();
        state.graphs.insert(handle, Graph::new(context));
        graph.set(handle)
    }

    fn cuGraphClone(clone: Out<Handle>, graph: Handle) {
        let driver = driver()?;
        if clone.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let made = driver.state().clone_graph(graph, false)?;
        clone.set(made)
    }

    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        instantiate(executable, graph, flags)
    }

    // The form of CUDA 10 and 11, which tells more of an error in a buffer.
    fn cuGraphInstantiate_v2(
        executable: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<u8>, room: usize,
    ) {
        error_node.set_if_wanted(0);
        if room > 0 {
            log.set_if_wanted(0);
        }
        instantiate(executable, graph, 0)
    }

    fn cuGraphInstantiateWithParams(executable: Out<Handle>, graph: Handle, params: Out<InstantiateParams>) {
        const ERROR: u32 = 1;
        let given = params.readable().get(0)?;
        let done = instantiate(executable, graph, given.flags);
        let result = if done.is_ok() { 0 } else { ERROR };
        params.set(InstantiateParams { error_node: 0, result, ..given })?;
        done
    }

    fn cuGraphExecGetFlags(executable: Handle, flags: Out<u64>) {
        let state = driver()?.state();
        let executable = state.executables.get(&executable).ok_or(Code::INVALID_VALUE)?;
        flags.set(executable.flags)
    }

    fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, info: Out<UpdateInfo>) {
        let (driver, _) = current()?;
        if info.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let found = update(&mut driver.state(), executable, graph)?;
        info.set(found)?;
        if found.result == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    // The form of CUDA 10 and 11.
    fn cuGraphExecUpdate(executable: Handle, graph: Handle, node: Out<Handle>, result: Out<u32>) {
        let (driver, _) = current()?;
        if result.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let found = update(&mut driver.state(), executable, graph)?;
        node.set_if_wanted(found.node);
        result.set(found.result)?;
        if found.result == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        launch(executable, stream)
    }

    fn cuGraphLaunch_ptsz(executable: Handle, stream: Handle) {
        launch(executable, stream::per_thread(stream))
    }

    fn cuGraphUpload(executable: Handle, stream: Handle) {
        let (driver, context) = current()?;
        stream::context_of(driver, context, stream)?;
        let known = driver.state().executables.contains_key(&executable);
        if known { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuGraphExecDestroy(executable: Handle) {
        let removed = driver()?.state().executables.remove(&executable);
        removed.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    // A graph in a node goes with its node.
    fn cuGraphDestroy(graph: Handle) {
        let ended = {
            let mut state = driver()?.state();
            if state.graph(graph)?.is_child {
                return Err(Code::INVALID_VALUE);
            }
            state.remove_graph(graph);
            state.release_of_graphs()
        };
        ended.destroy();
        Ok(())
    }
}
