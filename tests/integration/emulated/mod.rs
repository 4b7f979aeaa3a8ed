//! Tests that need the emulated device: counters, chosen blocks, schedules and other devices. All
//! of these are process-wide, so each test has a process of its own.

mod counters;
mod devices;
mod large_tensors;
mod real_size;
mod schedules;
