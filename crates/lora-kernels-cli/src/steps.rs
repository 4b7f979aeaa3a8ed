//! Steps of searches, counted in tests: the number must grow with a file's size, not with its
//! square. Outside of tests nothing is counted.

#[cfg(test)]
thread_local! {
    static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts one step: a comparison, a look-up, an item of a list that is gone through.
#[inline(always)]
pub fn step() {
    #[cfg(test)]
    TAKEN.set(TAKEN.get() + 1);
}

/// The steps that `work` takes on this thread.
#[cfg(test)]
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = TAKEN.get();
    let result = work();
    (result, TAKEN.get() - before)
}

/// Checks that twice the size takes about twice the steps, and that steps are counted at all.
/// `work` is given a size.
#[cfg(test)]
pub fn assert_linear(size: usize, mut work: impl FnMut(usize)) {
    let mut of = |size| counted(|| work(size)).1;
    let (once, twice) = (of(size), of(2 * size));
    assert!(once >= size, "{once} steps for {size}: not counted");
    // A binary search takes one step more.
    assert!(
        twice <= 2 * once + once / 2,
        "{once} steps for {size}, and {twice} for twice as many"
    );
}
