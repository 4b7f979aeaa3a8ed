//! Compares lora-kernels with its peers on the same shapes, emulated GPU and model.

use super::figures::over;
use super::markdown::{self, MIB};
use lora_kernels_report::document::{Document, OURS, Plan, Run, Shape};

const INTRODUCTION: &str = "
## Side by side

The peers are written anew from their published structure, as kernels of decent quality: `crates/lora-kernels-baselines/README.md` says what each does. MMA work and
sectors were counted on the emulated device, DRAM traffic is of the same model as ours.
";

/// A way to compute a layer, forward and backward.
struct Entry<'a> {
    who: &'a str,
    plans: [&'a Plan; 2],
    runs: [&'a Run; 2],
}

pub fn table(text: &mut String, document: &Document) {
    let entries = entries(document);
    let mut shapes: Vec<(&Shape, &str)> = entries
        .iter()
        .map(|e| (&e.plans[0].shape, e.plans[0].device.as_str()))
        .collect();
    shapes.dedup();
    if entries.iter().all(|entry| entry.who == OURS) {
        return;
    }
    text.push_str(INTRODUCTION);
    for (shape, device) in shapes {
        let same = || {
            entries
                .iter()
                .filter(move |entry| entry.plans[0].shape == *shape)
        };
        let Some(executed) = same().next().map(|entry| &entry.runs[0].shape) else {
            continue;
        };
        text.push_str(&format!(
            "\nDRAM traffic of {} on {device}; sectors and MMA work of {}.\n",
            shape.name(),
            executed.name()
        ));
        let ours: f64 = same()
            .filter(|entry| entry.who == OURS)
            .map(Entry::bytes)
            .sum();
        let head = [
            "",
            "launches, forward",
            "backward",
            "DRAM MiB, forward",
            "backward",
            "both",
            "over ours",
            "sectors over the tensors', forward",
            "backward",
            "MMA work over the formulas', forward",
            "backward",
        ];
        markdown::table(text, &head, same().map(|entry| entry.row(ours)));
    }
}

/// The entries with both a model and a run, sorted by shape, with ours first.
fn entries(document: &Document) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry> = Vec::new();
    for pair in document.plans.chunks(2) {
        let [forward, backward] = pair else { continue };
        let compared = |plan: &&Plan| {
            plan.who != OURS && plan.shape == forward.shape && plan.device == forward.device
        };
        if !document.plans.iter().any(|plan| compared(&plan)) {
            continue;
        }
        // The largest shape that was executed with the same type and dropout.
        let of_pass = |pass: &str| {
            let like = |run: &&Run| {
                let (a, b) = (&run.shape, &forward.shape);
                run.who == forward.who
                    && run.pass == pass
                    && (&a.dtype, a.dropout) == (&b.dtype, b.dropout)
            };
            document
                .runs
                .iter()
                .filter(like)
                .max_by_key(|run| run.base_flops)
        };
        if let (Some(first), Some(second)) = (of_pass("forward"), of_pass("backward")) {
            entries.push(Entry {
                who: &forward.who,
                plans: [forward, backward],
                runs: [first, second],
            });
        }
    }
    entries.sort_by_key(|entry| (entry.plans[0].shape.dropout, entry.who != OURS));
    entries
}

impl Entry<'_> {
    fn bytes(&self) -> f64 {
        self.plans.iter().map(|plan| plan.bytes() as f64).sum()
    }

    fn row(&self, ours: f64) -> Vec<String> {
        let mut row = vec![if self.who == OURS {
            format!("**{OURS}**")
        } else {
            self.who.to_owned()
        }];
        row.extend(self.plans.map(|plan| plan.launches.len().to_string()));
        row.extend(
            self.plans
                .map(|plan| format!("{:.1}", plan.bytes() as f64 / MIB)),
        );
        row.push(format!("{:.1}", self.bytes() / MIB));
        row.push(format!("{:.2}", over(self.bytes(), ours)));
        row.extend(
            self.runs
                .map(|run| format!("{:.2}", run.sectors_over_minimum())),
        );
        row.extend(
            self.runs
                .map(|run| format!("{:.4}", run.mma_over_formulas())),
        );
        row
    }
}
