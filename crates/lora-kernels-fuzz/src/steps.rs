//! Steps, counted: the number must grow with the size of what is searched, not with its square.

use std::cell::Cell;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// Counts one step on this thread.
pub fn step() {
    TAKEN.set(TAKEN.get() + 1);
}

/// Checks that twice the size takes about twice the steps, and that steps are counted at all.
/// `work` is given a size.
///
/// # Panics
/// If they don't grow so.
pub fn assert_linear(size: usize, mut work: impl FnMut(usize)) {
    let mut counted = |size| {
        let before = TAKEN.get();
        work(size);
        TAKEN.get() - before
    };
    let (once, twice) = (counted(size), counted(2 * size));
    assert!(once >= size, "{once} steps for {size}: not counted");
    // A binary search takes one step more.
    assert!(
        twice <= 2 * once + once / 2,
        "{once} steps for {size}, and {twice} for twice as many"
    );
}
