//! Programs that the emulator's authors did not shape, run through the driver as any client would,
//! against references in f64. `README.md` beside this file says where they come from.

mod candle;
mod committed;
mod compiled;
mod cutlass;
mod gpu;
mod numbers;
mod outcome;
mod pairs;
mod process;
mod product;
mod triton;
