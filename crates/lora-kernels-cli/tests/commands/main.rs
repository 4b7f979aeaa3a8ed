//! The program as its users run it, on the device that there is: a GPU, or the emulated one.

mod adapters;
mod common;
mod inspect_plan_doctor;
mod merge;
mod random;
mod replay;
mod reports;
mod scene;
mod terminal;
