//! Threads of a run.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::failure::Failure;

/// Starts a thread. Where the system gives no more of them, that is an error, not a panic as in
/// [`Scope::spawn`].
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Failure> {
    { Builder::new().spawn_scoped(scope, work) }
        .map_err(|error| Failure::Refused(format!("can't start a thread: {error}")))
}
