//! The loss curves as an SVG.

use std::fmt::Write;

use crate::train::Step;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 44.0;

/// Both losses by step. PEFT's curve is wider and drawn first, so that both can be seen where they
/// agree.
pub fn svg(steps: &[Step], title: &str) -> String {
    let highest = steps
        .iter()
        .map(|step| step.loss.max(step.peft))
        .fold(1.0, f64::max)
        .ceil();
    let last = steps.len().saturating_sub(1).max(1) as f64;
    let x = |step: usize| LEFT + (WIDTH - LEFT - RIGHT) * step as f64 / last;
    let y = |loss: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / highest;
    let points = |of: fn(&Step) -> f64| {
        let points = steps
            .iter()
            .enumerate()
            .map(|(i, step)| format!("{:.1},{:.1}", x(i), y(of(step))));
        points.collect::<Vec<_>>().join(" ")
    };
    let mut grid = String::new();
    for loss in 0..=highest as usize {
        let at = y(loss as f64);
        let _ = writeln!(
            grid,
            r##"<path d="M{LEFT} {at:.1}H{:.1}" stroke="#ddd"/>"##,
            WIDTH - RIGHT
        );
        let _ = writeln!(
            grid,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{loss}</text>"#,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for step in (0..steps.len()).step_by(steps.len().div_ceil(12).max(1)) {
        let below = HEIGHT - BOTTOM + 18.0;
        let _ = writeln!(
            grid,
            r#"<text x="{:.1}" y="{below:.1}" text-anchor="middle">{}</text>"#,
            x(step),
            step + 1
        );
    }
    let legend = WIDTH - 330.0;
    let mut markers = String::new();
    for (i, step) in steps.iter().enumerate() {
        let _ = writeln!(
            markers,
            r##"<circle cx="{:.1}" cy="{:.1}" r="2.5" fill="#06c"/>"##,
            x(i),
            y(step.loss)
        );
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="24" font-size="15">{title}</text>
<path d="M{legend} 42h28" stroke="#f90" stroke-width="6"/><text x="{:.1}" y="46">PEFT</text>
<path d="M{:.1} 42h28" stroke="#06c" stroke-width="1.5"/><text x="{:.1}" y="46">lora-kernels with candle</text>
{grid}<text x="{:.1}" y="{:.1}" text-anchor="middle">step</text>
<text x="{LEFT}" y="46" text-anchor="middle">loss</text>
<polyline points="{}" fill="none" stroke="#f90" stroke-width="6" stroke-linejoin="round"/>
<polyline points="{}" fill="none" stroke="#06c" stroke-width="1.5"/>
{markers}</svg>
"##,
        legend + 36.0,
        legend + 90.0,
        legend + 126.0,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        points(|step| step.peft),
        points(|step| step.loss),
    )
}
