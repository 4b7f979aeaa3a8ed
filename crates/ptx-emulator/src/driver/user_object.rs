//! User objects: what a program ties to the life of its graphs, and how it is ended.

use super::abi::{Host, Out};
use super::code::Code;
use super::state::{Handle, State, driver};
use super::work::HostFunction;
use super::{Outcome, api};

/// `CU_USER_OBJECT_NO_DESTRUCTOR_SYNC`, which every object must have.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// `CU_GRAPH_USER_OBJECT_MOVE`: the graph takes references over from the caller.
const MOVE: u32 = 1;

#[derive(Clone, Copy)]
pub(super) struct UserObject {
    pointer: Host,
    destroy: HostFunction,
    references: u64,
}

/// An object whose last reference is gone: the caller ends it without a lock held.
#[must_use]
pub(super) struct Ended(Vec<UserObject>);

impl Ended {
    pub fn destroy(self) {
        for UserObject {
            pointer, destroy, ..
        } in self.0
        {
            // SAFETY: the program gave the function and its argument for exactly this call.
            unsafe { destroy(std::ptr::with_exposed_provenance_mut(pointer.address())) };
        }
    }
}

impl State {
    fn object(&mut self, object: Handle) -> Outcome<&mut UserObject> {
        self.user_objects
            .get_mut(&object)
            .ok_or(Code::INVALID_VALUE)
    }

    fn release(&mut self, object: Handle, count: u64) -> Outcome<Ended> {
        let found = self.object(object)?;
        found.references = found
            .references
            .checked_sub(count)
            .ok_or(Code::INVALID_VALUE)?;
        if found.references > 0 {
            return Ok(Ended(Vec::new()));
        }
        Ok(Ended(
            self.user_objects.remove(&object).into_iter().collect(),
        ))
    }

    /// Gives back what graphs that are gone held.
    pub fn release_of_graphs(&mut self) -> Ended {
        let gone: Vec<(Handle, Handle)> = self
            .graph_objects
            .keys()
            .filter(|(graph, _)| !self.graphs.contains_key(graph))
            .copied()
            .collect();
        let mut all = Vec::new();
        for key in gone {
            let count = self.graph_objects.remove(&key).unwrap_or(0);
            all.extend(
                self.release(key.1, count)
                    .map_or(Vec::new(), |ended| ended.0),
            );
        }
        Ended(all)
    }
}

fn references(count: u32) -> Outcome<u64> {
    match count {
        0 => Err(Code::INVALID_VALUE),
        _ if count > i32::MAX.cast_unsigned() => Err(Code::INVALID_VALUE),
        _ => Ok(u64::from(count)),
    }
}

api! {
    fn cuUserObjectCreate(
        object: Out<Handle>, pointer: Host, destroy: Option<HostFunction>, count: u32, flags: u32,
    ) {
        let destroy = destroy.ok_or(Code::INVALID_VALUE)?;
        if object.is_null() || flags != NO_DESTRUCTOR_SYNC {
            return Err(Code::INVALID_VALUE);
        }
        let references = references(count)?;
        let mut state = driver()?.state();
        let handle = state.handle();
        state.user_objects.insert(handle, UserObject { pointer, destroy, references });
        object.set(handle)
    }

    fn cuUserObjectRetain(object: Handle, count: u32) {
        let mut state = driver()?.state();
        state.object(object)?.references += references(count)?;
        Ok(())
    }

    fn cuUserObjectRelease(object: Handle, count: u32) {
        let ended = driver()?.state().release(object, references(count)?)?;
        ended.destroy();
        Ok(())
    }

    fn cuGraphRetainUserObject(graph: Handle, object: Handle, count: u32, flags: u32) {
        let count = references(count)?;
        if flags & !MOVE != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut state = driver()?.state();
        state.graph(graph)?;
        let of_graphs = state.graph_objects.iter().filter(|((_, held), _)| *held == object);
        let held: u64 = of_graphs.map(|(_, count)| count).sum();
        let found = state.object(object)?;
        if flags == 0 {
            found.references += count;
        } else if found.references - held.min(found.references) < count {
            return Err(Code::INVALID_VALUE);
        }
        *state.graph_objects.entry((graph, object)).or_default() += count;
        Ok(())
    }

    fn cuGraphReleaseUserObject(graph: Handle, object: Handle, count: u32) {
        let count = references(count)?;
        let ended = {
            let mut state = driver()?.state();
            state.graph(graph)?;
            let held = state.graph_objects.get_mut(&(graph, object)).ok_or(Code::INVALID_VALUE)?;
            *held = held.checked_sub(count).ok_or(Code::INVALID_VALUE)?;
            if *held == 0 {
                state.graph_objects.remove(&(graph, object));
            }
            state.release(object, count)?
        };
        ended.destroy();
        Ok(())
    }
}
