//! Random input to what a program hands the emulated driver: damaged PTX, damaged fatbins, and
//! entry points with senseless arguments. None may panic, run for ever or allocate much.
//!
//! A case is decided by its number alone, so every run of a number of cases is the same.
//! `PTX_EMULATOR_FUZZ_CASES` sets how many each test runs, `PTX_EMULATOR_FUZZ_FIRST` the first one.
//! Inputs that failed once are kept in `corpus/` and run every time.

mod driver;
mod fatbin;
mod ptx;
mod random;
mod trial;

#[global_allocator]
static COUNTING: trial::Counting = trial::Counting;
