//! The report of a run: what changed in the model, and what storing it lost.

use std::path::Path;

use lora_kernels::MergeReport;
use lora_kernels_adapters::Tensor;
use serde::Serialize;

use super::change::{Change, Remarks};
use super::folder::Unreadable;
use super::{Arguments, Direction};
use crate::failure::Failure;
use crate::show;

#[derive(Serialize)]
pub struct Report {
    command: &'static str,
    base: String,
    adapters: Vec<String>,
    output: String,
    device: String,
    /// Weights to which adapters were added.
    merged: Vec<Figures>,
    total: Option<Figures>,
    /// Tensors replaced by ones that were trained in full.
    replaced: Vec<String>,
    /// Tensors that the base model lacks: the adapter's, or a tied head that is written apart.
    added: Vec<String>,
    /// Biases to which lora_B's biases were added.
    biases: Vec<String>,
    /// Embeddings of which single rows were replaced (trainable_token_indices).
    rows: Vec<TrainedRows>,
    /// Where BASE and ADAPTERs were found, if not where they were named.
    followed: Vec<String>,
    /// How the adapters' names were mapped to the base's, as `--map` takes it.
    mapping: Vec<String>,
    /// Parts of the adapters that belong to other components of a pipeline.
    other_components: Vec<String>,
    /// What `--skip` left out.
    skipped: Vec<String>,
    /// Fields of configs that follow the tensors.
    edited: Vec<Edited>,
    /// Files taken from an adapter's folder.
    taken_over: Vec<TakenOver>,
    /// Things the user should check.
    warnings: Vec<String>,
    /// Files of the folder that were not copied.
    left_out: Vec<String>,
    /// Files that the result lacks because they can't be read, with the reasons.
    unreadable: Vec<String>,
    #[serde(skip)]
    sum: MergeReport,
}

/// Rows of an embedding that were put in place of the base's.
#[derive(Serialize)]
struct TrainedRows {
    tensor: String,
    rows: usize,
}

/// A config's changed fields.
#[derive(Serialize)]
struct Edited {
    file: String,
    changes: Vec<String>,
}

/// A file that the adapter's folder has for the merged model.
#[derive(Serialize)]
struct TakenOver {
    file: String,
    from: String,
    /// Whether the base has one of this name, which was left out.
    instead_of_the_bases: bool,
}

/// The report's entry for one tensor.
pub struct Entry {
    figures: Figures,
    replaced: bool,
    biased: bool,
    rows: usize,
    pub merged: Option<MergeReport>,
}

#[derive(Serialize, Clone)]
struct Figures {
    tensor: String,
    dtype: String,
    shape: Vec<usize>,
    ranks: Vec<usize>,
    scalings: Vec<f32>,
    /// Whether the rows were brought to DoRA's magnitudes.
    dora: bool,
    elements: u64,
    /// Elements with a delta other than 0.
    changed_by_adapters: u64,
    /// The number of these that are stored unchanged.
    unchanged: u64,
    unchanged_share: f64,
    relative_error: f64,
    non_finite: u64,
}

impl Figures {
    fn fill(&mut self, report: &MergeReport) {
        self.elements = report.elements;
        self.changed_by_adapters = report.nonzero;
        self.unchanged = report.unchanged;
        self.unchanged_share = report.unchanged_share();
        self.relative_error = report.relative_error();
        self.non_finite = report.non_finite;
    }

    fn row(&self) -> Vec<String> {
        let ranks: Vec<String> = self.ranks.iter().map(usize::to_string).collect();
        vec![
            self.tensor.clone(),
            self.dtype.clone(),
            ranks.join(","),
            self.elements.to_string(),
            format!("{:.2} %", 100.0 * self.unchanged_share),
            format!("{:.1e}", self.relative_error),
        ]
    }
}

impl Entry {
    pub fn new(tensor: Tensor<'_>, change: &Change<'_>) -> Self {
        Self {
            figures: Figures {
                tensor: tensor.name.to_owned(),
                dtype: format!("{:?}", tensor.dtype),
                shape: { change.replaced }
                    .map_or(tensor.shape, |new| new.shape)
                    .to_vec(),
                ranks: change.loras.iter().map(|lora| lora.rank).collect(),
                scalings: change.loras.iter().map(|lora| lora.factor).collect(),
                dora: change.magnitude.is_some(),
                elements: 0,
                changed_by_adapters: 0,
                unchanged: 0,
                unchanged_share: 0.0,
                relative_error: 0.0,
                non_finite: 0,
            },
            replaced: change.replaced.is_some(),
            biased: !change.biases.is_empty(),
            rows: change.rows.iter().map(|rows| rows.indices.len()).sum(),
            merged: None,
        }
    }
}

impl Report {
    pub fn new(device: String, direction: Direction, arguments: &Arguments) -> Self {
        Self {
            command: match direction {
                Direction::Merge => "merge",
                Direction::Unmerge => "unmerge",
            },
            base: arguments.base.display().to_string(),
            adapters: arguments
                .adapters
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            output: arguments.output.display().to_string(),
            device,
            merged: Vec::new(),
            total: None,
            replaced: Vec::new(),
            added: Vec::new(),
            biases: Vec::new(),
            rows: Vec::new(),
            followed: Vec::new(),
            mapping: Vec::new(),
            other_components: Vec::new(),
            skipped: Vec::new(),
            edited: Vec::new(),
            taken_over: Vec::new(),
            warnings: Vec::new(),
            left_out: Vec::new(),
            unreadable: Vec::new(),
            sum: MergeReport::default(),
        }
    }

    pub fn changed(&mut self, entry: Entry) {
        let Entry {
            mut figures,
            replaced,
            biased,
            rows,
            merged,
        } = entry;
        if replaced {
            self.replaced.push(figures.tensor.clone());
        }
        if biased {
            self.biases.push(figures.tensor.clone());
        }
        if rows > 0 {
            self.rows.push(TrainedRows {
                tensor: figures.tensor.clone(),
                rows,
            });
        }
        if let Some(report) = merged {
            figures.fill(&report);
            self.sum.add(&report);
            self.merged.push(figures);
        }
    }

    pub fn added(&mut self, name: &str) {
        self.added.push(name.to_owned());
    }

    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// What was found out before anything was written.
    pub fn remarks(&mut self, remarks: &Remarks) {
        let Remarks {
            followed,
            mapping,
            other_components,
            skipped,
            warnings,
        } = remarks.clone();
        self.followed.extend(followed);
        self.mapping.extend(mapping);
        self.other_components.extend(other_components);
        self.skipped.extend(skipped);
        self.warnings.extend(warnings);
    }

    pub fn edited(&mut self, file: &str, changes: &[String]) {
        self.edited.push(Edited {
            file: file.to_owned(),
            changes: changes.to_vec(),
        });
    }

    pub fn taken_over(&mut self, file: &str, from: &Path, instead_of_the_bases: bool) {
        self.taken_over.push(TakenOver {
            file: file.to_owned(),
            from: from.display().to_string(),
            instead_of_the_bases,
        });
    }

    pub fn left_out(&mut self, names: Vec<String>) {
        self.left_out.extend(names);
    }

    pub fn unreadable(&mut self, files: &[Unreadable]) {
        self.unreadable
            .extend(files.iter().map(Unreadable::to_string));
    }

    /// What the result lacks: an error once it is printed.
    pub fn incomplete(&self) -> Option<Failure> {
        let files = self.unreadable.iter().map(String::as_str);
        (!self.unreadable.is_empty()).then(|| Failure::Incomplete {
            output: self.output.clone(),
            files: show::few(files),
        })
    }

    pub fn print(mut self, json: bool) -> Result<(), Failure> {
        let mut dtypes: Vec<&str> = self
            .merged
            .iter()
            .map(|figures| figures.dtype.as_str())
            .collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        let mut total = Figures {
            tensor: "in all".into(),
            dtype: dtypes.join(","),
            shape: Vec::new(),
            ranks: Vec::new(),
            scalings: Vec::new(),
            dora: false,
            elements: 0,
            changed_by_adapters: 0,
            unchanged: 0,
            unchanged_share: 0.0,
            relative_error: 0.0,
            non_finite: 0,
        };
        total.fill(&self.sum);
        self.merged.sort_by(|a, b| a.tensor.cmp(&b.tensor));
        if json {
            self.total = Some(total);
            return show::json(&self);
        }
        let head = [
            "weight",
            "type",
            "rank",
            "elements",
            "unchanged",
            "relative error",
        ]
        .map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(self.merged.iter().map(Figures::row));
        rows.push(total.row());
        show::lines(&show::table(&rows))?;
        show::line(
            "unchanged: of the weights that the adapters change, the share that storing rounds back \
             to what it was",
        )?;
        show::line(
            "relative error: how far the stored change is from the adapters', 0 is exact and 1 as if \
             nothing were merged",
        )?;
        let dora = self.merged.iter().filter(|figures| figures.dora);
        let dora: Vec<String> = dora.map(|figures| figures.tensor.clone()).collect();
        let rows = self.rows.iter();
        let rows: Vec<String> = rows
            .map(|rows| format!("{} ({})", rows.tensor, show::count(rows.rows, "row")))
            .collect();
        let edited = self.edited.iter();
        let edited: Vec<String> = edited
            .map(|edited| format!("{}: {}", edited.file, edited.changes.join(", ")))
            .collect();
        let taken = self.taken_over.iter();
        let taken: Vec<String> = taken
            .map(|taken| match taken.instead_of_the_bases {
                true => format!("{} (instead of the base's)", taken.from),
                false => taken.from.clone(),
            })
            .collect();
        let mapping: Vec<String> = self.mapping.iter().map(|it| explained(it)).collect();
        for (names, what) in [
            (&self.followed, "found"),
            (&mapping, "names mapped"),
            (&self.other_components, "left out, for other components"),
            (&self.skipped, "skipped"),
            (&dora, "brought to DoRA's magnitudes"),
            (&rows, "single rows replaced by the adapter's"),
            (&edited, "changed with the tensors"),
            (&taken, "taken over from the adapter"),
            (&self.biases, "lora_B's bias added to"),
            (&self.replaced, "replaced by the adapter's"),
            (&self.added, "added"),
            (&self.left_out, "not copied"),
        ] {
            if !names.is_empty() {
                show::line(&format!("{what}: {}", names.join(", ")))?;
            }
        }
        for warning in &self.warnings {
            show::line(&format!("warning: {warning}"))?;
        }
        for file in &self.unreadable {
            show::line(&format!(
                "warning: left out, because it can't be read: {file}"
            ))?;
        }
        if total.non_finite > 0 {
            show::line(&format!("NaN or infinite: {} elements", total.non_finite))?;
        }
        show::line(&format!(
            "{} written, computed on {}",
            self.output, self.device
        ))
    }
}

/// A replacement, with words where it isn't plain what it does.
fn explained(replacement: &str) -> String {
    match replacement.split_once('=') {
        Some(("", to)) => format!("{replacement} ({to} in front of all others)"),
        Some((from, "")) => format!("{replacement} ({from} taken off)"),
        Some((from, to)) if from == to => format!("{replacement} (as it is)"),
        _ => replacement.to_owned(),
    }
}
