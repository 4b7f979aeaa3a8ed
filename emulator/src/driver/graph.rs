//! Graphs made by stream capture: a list of work that is run in the order in which it was recorded.

use std::sync::Arc;

use super::abi::{In, Out};
use super::code::Code;
use super::state::{Graph, Handle, current, driver};
use super::{api, stream, work};

api! {
    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        let (driver, _) = current()?;
        // AUTO_FREE_ON_LAUNCH, UPLOAD, USE_NODE_PRIORITY change nothing here; a launch from the device is not there.
        if flags & 4 != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        if executable.is_null() || flags > 15 {
            return Err(Code::INVALID_VALUE);
        }
        let mut state = driver.state();
        let source = state.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)?;
        let copy = Graph { context: source.context, work: Arc::clone(&source.work) };
        let handle = state.handle();
        state.executables.insert(handle, copy);
        executable.set(handle)
    }

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        let (driver, context) = current()?;
        let pieces = {
            let state = driver.state();
            let executable = state.executables.get(&executable).ok_or(Code::INVALID_HANDLE)?;
            Arc::clone(&executable.work)
        };
        let context = stream::context_of(driver, context, stream)?;
        if stream::record(driver, context, stream, &pieces)? {
            return Ok(());
        }
        pieces.iter().try_for_each(|piece| work::run(driver, context, piece))
    }

    fn cuGraphUpload(executable: Handle, stream: Handle) {
        let (driver, context) = current()?;
        stream::context_of(driver, context, stream)?;
        let known = driver.state().executables.contains_key(&executable);
        if known { Ok(()) } else { Err(Code::INVALID_HANDLE) }
    }

    // Nodes have no handles here; how many there are can be asked.
    fn cuGraphGetNodes(graph: Handle, nodes: In<Handle>, count: Out<usize>) {
        let state = driver()?.state();
        let graph = state.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)?;
        if !nodes.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        count.set(graph.work.len())
    }

    fn cuGraphExecDestroy(executable: Handle) {
        let removed = driver()?.state().executables.remove(&executable);
        removed.map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }

    fn cuGraphDestroy(graph: Handle) {
        let removed = driver()?.state().graphs.remove(&graph);
        removed.map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }
}
