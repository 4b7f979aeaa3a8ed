//! Graphs made by stream capture: a list of work that is run in the order in which it was recorded.

use std::sync::Arc;

use super::abi::Out;
use super::code::Code;
use super::state::{Handle, State, current, driver};
use super::{Outcome, api, stream, work};

/// What `cuGraphExecUpdate` tells beside its code.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateInfo {
    result: u32,
    node: Handle,
    from_node: Handle,
}

const TOPOLOGY_CHANGED: u32 = 2;
const NODE_TYPE_CHANGED: u32 = 3;
const PARAMETERS_CHANGED: u32 = 5;
const ATTRIBUTES_CHANGED: u32 = 8;

fn instantiate(out: Out<Handle>, graph: Handle, flags: u64) -> Outcome {
    let (driver, _) = current()?;
    // AUTO_FREE_ON_LAUNCH, UPLOAD, USE_NODE_PRIORITY change nothing here; a launch from the device
    // is not there.
    if flags & 4 != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    if out.is_null() || flags > 15 {
        return Err(Code::INVALID_VALUE);
    }
    let mut state = driver.state();
    let copy = state.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?.clone();
    let handle = state.handle();
    state.executables.insert(handle, copy);
    out.set(handle)
}

/// Gives an executable graph the parameters of a graph that was captured again. The info says what
/// stands against it.
fn update(state: &mut State, executable: Handle, graph: Handle) -> Outcome<UpdateInfo> {
    let new = state.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
    let old = state
        .executables
        .get(&executable)
        .ok_or(Code::INVALID_VALUE)?;
    let info = |result, node| UpdateInfo {
        result,
        node,
        from_node: 0,
    };
    if old.work.len() != new.work.len() {
        return Ok(info(TOPOLOGY_CHANGED, 0));
    }
    for ((before, after), &node) in old.work.iter().zip(new.work.iter()).zip(new.nodes.iter()) {
        let result = if before.node_type() != after.node_type() {
            NODE_TYPE_CHANGED
        } else if before.is_cooperative() != after.is_cooperative() {
            ATTRIBUTES_CHANGED
        } else if std::mem::discriminant(before) != std::mem::discriminant(after)
            || old.context != new.context
        {
            PARAMETERS_CHANGED
        } else {
            continue;
        };
        return Ok(info(result, node));
    }
    let work = Arc::clone(&new.work);
    state
        .executables
        .get_mut(&executable)
        .ok_or(Code::INVALID_VALUE)?
        .work = work;
    Ok(info(0, 0))
}

api! {
    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        instantiate(executable, graph, flags)
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

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        let (driver, context) = current()?;
        let pieces = {
            let state = driver.state();
            let executable = state.executables.get(&executable).ok_or(Code::INVALID_VALUE)?;
            Arc::clone(&executable.work)
        };
        let context = stream::context_of(driver, context, stream)?;
        if stream::record(driver, context, stream, &pieces)? {
            return Ok(());
        }
        pieces.iter().try_for_each(|piece| work::give(driver, context, stream, piece.clone()))
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

    fn cuGraphDestroy(graph: Handle) {
        let mut state = driver()?.state();
        state.graphs.remove(&graph).ok_or(Code::INVALID_VALUE)?;
        state.nodes.retain(|_, &mut owner| owner != graph);
        Ok(())
    }
}
