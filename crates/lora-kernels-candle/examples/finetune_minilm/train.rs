//! The training loop.

use std::time::Instant;

use candle_core::Var;
use candle_nn::{AdamW, Optimizer};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::Failure;
use crate::model::Model;
use crate::objective::loss;
use crate::recording::Recording;

/// The loss of a step, before the adapter changes, and PEFT's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    pub step: usize,
    pub loss: f64,
    pub peft: f64,
    pub difference: f64,
    pub seconds: f64,
}

/// Trains for the given number of steps, and calls `show` after each.
pub fn train(
    model: &Model,
    variables: Vec<Var>,
    recording: &Recording,
    steps: usize,
    show: impl Fn(&Step) -> String,
) -> Result<Vec<Step>, Failure> {
    let mut optimiser = AdamW::new(variables, recording.optimiser.clone())?;
    let bar = ProgressBar::new(steps as u64);
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {elapsed} gone, {eta} to go");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.tick();
    let mut done = Vec::new();
    for (index, &peft) in recording.losses.iter().take(steps).enumerate() {
        let started = Instant::now();
        let (ids, mask) = recording.batch(index)?;
        let loss = loss(&model.forward(&ids, &mask)?, &mask)?;
        optimiser.backward_step(&loss)?;
        let loss = f64::from(loss.to_scalar::<f32>()?);
        let step = Step {
            step: index + 1,
            loss,
            peft,
            difference: loss - peft,
            seconds: started.elapsed().as_secs_f64(),
        };
        bar.suspend(|| eprintln!("{}", show(&step)));
        bar.inc(1);
        done.push(step);
    }
    bar.finish_and_clear();
    Ok(done)
}
