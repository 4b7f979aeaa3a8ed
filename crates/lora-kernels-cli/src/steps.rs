//! Steps of searches, which tests count. Outside of tests nothing is counted.

/// Counts one step: a comparison, a look-up, an item of a list that is gone through.
#[inline(always)]
pub fn step() {
    #[cfg(test)]
    lora_kernels_fuzz::step();
}
