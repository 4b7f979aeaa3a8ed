//! Everything that problems, plans and calls refuse. Nothing runs when they refuse.

mod call;
mod calls;
mod elsewhere;
mod lengths;
mod problems;
mod projections;
mod raw;

const M: usize = 20;
const K: usize = 40;
const N: usize = 24;
const R: usize = 8;
