//! What only the emulated device tells or takes: counters, chosen blocks, schedules, other devices.
//! All of these belong to the process, so each test has one of its own.

mod counters;
mod devices;
mod large_tensors;
mod real_size;
mod schedules;
