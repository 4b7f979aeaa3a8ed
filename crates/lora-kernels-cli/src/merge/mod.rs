//! `merge` and `unmerge`.

mod access;
mod buffer;
mod change;
mod changes;
mod choice;
mod compute;
mod copies;
mod engine;
mod factors;
mod flush;
mod folder;
mod header;
mod job;
mod language;
mod layout;
pub mod numbers;
mod pipeline;
mod product;
mod progress;
mod report;
mod shard;
mod target;
#[cfg(test)]
mod tests;
mod wide;

use std::path::PathBuf;

use lora_kernels_adapters::base::Replacement;
use lora_kernels_adapters::output::{self, OutputFile, OutputFolder};
use lora_kernels_adapters::{BaseModel, OpenedFiles};

use crate::device::Choice;
use crate::failure::Failure;
use crate::read::Reading;
use crate::signals::Watch;
use access::Sources;
use changes::{Choices, Skip, Weighted};
use choice::Chosen;
use engine::Engine;
use folder::{Companions, FilesFrom};
use progress::Progress;
use report::Report;
use shard::{Plan, Target};

const AFTER_HELP: &str = "\
Examples:
  lora-kernels merge my-model my-adapter -o merged
  lora-kernels merge my-model style facts -o both --weights 0.7,0.3
  lora-kernels merge my-model lora.safetensors -o merged --scaling 2
  lora-kernels merge my-model my-adapter -o merged --map model.language_model.=model.
  lora-kernels merge my-model my-adapter -o merged --skip lm_head
  lora-kernels unmerge merged my-adapter -o my-model-again

OUT is a folder or a file, as the model is that BASE leads to. A folder's other files are copied, \
other formats of the weights are not. An adapter's tokenizer, chat template and generation config \
go with the model that it is merged into; config.json follows a resized vocabulary and a head \
that is written apart. OUT has its name only when it is complete: what a killed run leaves is \
called .OUT.partial-<process>, and the next run that writes OUT removes it. Of several runs to \
one OUT, one works, and the others say so at once.

What can't be merged is refused by name, and --skip leaves it out. Where modules were trained \
whole (modules_to_save, bias), merge puts them in place of the base's; unmerge can't bring those \
back, and refuses. What unmerge gives is the base within two roundings: keep the base. DoRA can't \
be unmerged, and takes neither a factor of --weights nor another adapter on the same weight.

What storing loses: a weight in bf16 has 8 bits, so small changes are rounded away. The table \
tells which share of the changed weights stayed as they were, and how far the stored change is \
from the adapter's.";

/// The arguments of both commands.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The model: its folder (Hugging Face's, diffusers', Mistral's), its index of shards, or a
    /// safetensors file; a trainer's, a pipeline's or a cache's folder with one that the adapters
    /// fit works, too
    base: PathBuf,
    /// The adapters: PEFT folders, or safetensors files of Mistral, loralib, diffusers, ComfyUI or
    /// kohya; a trainer's or a cache's folder with one of them works, too
    #[arg(required = true, value_name = "ADAPTER")]
    adapters: Vec<PathBuf>,
    /// Where the result goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// A factor for each adapter, in their order, on top of its scaling [default: 1 each]
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "W,W..."
    )]
    weights: Vec<f64>,
    #[command(flatten)]
    reading: Reading,
    /// Replace the leading segments FROM of the adapters' names by TO, such as
    /// model.language_model.=model. [default: found from the names; may be given several times]
    #[arg(long, value_name = "FROM=TO")]
    map: Vec<Replacement>,
    /// Merge only this part of adapters for several parts of a pipeline, such as transformer
    /// [default: those that BASE is; may be given several times]
    #[arg(long, value_name = "NAME")]
    component: Vec<String>,
    /// Where to compute: the number of a GPU, or cpu, which gives the same bits
    #[arg(long, default_value = "0", value_name = "N|cpu")]
    device: Choice,
    /// Whether square weights are stored transposed, (in_features, out_features), where the
    /// adapters don't tell; other weights' shapes tell
    #[arg(long, value_enum, value_name = "yes|no")]
    fan_in_fan_out: Option<YesNo>,
    /// Whose tokenizer, chat template, generation config and processor the result gets, where
    /// adapters bring some: base, or the number of an adapter, from 1 [default: the adapters',
    /// where they don't differ among each other]
    #[arg(long, value_name = "base|N")]
    files_from: Option<FilesFrom>,
    /// Whether the matrices of fused experts are stored transposed, (in_features, out_features), as
    /// gpt-oss and Llama 4 have them, where they are square and nothing tells
    #[arg(long, value_enum, value_name = "yes|no")]
    experts_transposed: Option<YesNo>,
    /// Leave out modules and tensors of the adapters: parts of their names, such as lm_head,
    /// layers.3 or 'vision*'
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME...")]
    skip: Vec<String>,
    /// Write the head apart from the embeddings that the model ties it to, as it was in BASE but
    /// for single rows, which are trained in both (trainable_token_indices)
    #[arg(long)]
    untie: bool,
    /// Replace OUT if it exists and holds nothing else than a model and what this run writes
    #[arg(long)]
    force: bool,
    /// Go on without files beside the weights, of BASE and of ADAPTERs, that can't be read: the
    /// report names them, and the exit status is 5
    #[arg(long)]
    skip_unreadable: bool,
    /// Write weights that are NaN or infinite instead of stopping
    #[arg(long)]
    allow_non_finite: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum YesNo {
    Yes,
    No,
}

/// Whether adapters are added to weights or taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Merge,
    Unmerge,
}

pub fn run(arguments: &Arguments, direction: Direction) -> Result<(), Failure> {
    let opened = OpenedFiles::begin();
    merge(arguments, direction, &opened).map_err(|failure| failure.or_change(&opened))
}

fn merge(arguments: &Arguments, direction: Direction, opened: &OpenedFiles) -> Result<(), Failure> {
    let weights = weights(&arguments.weights, arguments.adapters.len())?;
    let candidates = BaseModel::candidates(&arguments.base)?;
    // What is skipped may be what can't be read.
    let partial = !arguments.skip.is_empty();
    let adapters = arguments.reading.read(&arguments.adapters, partial)?;
    let weighted: Vec<Weighted<'_>> = adapters
        .iter()
        .zip(&arguments.adapters)
        .zip(weights)
        .map(|((adapter, path), weight)| Weighted {
            adapter,
            path,
            weight,
        })
        .collect();
    let (selected, skipped) = changes::select(&weighted, &Skip::new(&arguments.skip))?;
    let Chosen { base, resolvers } = choice::choose(&candidates, &selected, arguments)?;
    let overwrite = target::check(base, &adapters, arguments)?;
    output::check_free(&arguments.output)?;
    let progress = Progress::waiting("checking the adapters");
    let choices = Choices {
        direction,
        fan_in_fan_out: arguments.fan_in_fan_out.map(|answer| answer == YesNo::Yes),
        experts_transposed: arguments
            .experts_transposed
            .map(|answer| answer == YesNo::Yes),
        untie: arguments.untie,
    };
    let mut changes = changes::collect(base, &selected, &resolvers, &choices)?;
    changes.remarks.skipped = skipped;
    for (adapter, path) in adapters.iter().zip(&arguments.adapters) {
        let how = adapter.followed();
        let how = how.map(|how| format!("{} {how}", path.display()));
        changes.remarks.followed.extend(how);
    }
    copies::change_all(base, &mut changes)?;
    choice::remark(&mut changes.remarks, base, &resolvers);
    let sources = Sources::new(base, &adapters, &arguments.output)?;
    let options = folder::Options {
        from: arguments.files_from,
        skip_unreadable: arguments.skip_unreadable,
    };
    let companions = Companions::plan(base, &weighted, &changes, direction, &sources, &options)?;
    let replaced = target::Replaced::new(companions.names(base));
    replaced.check(&arguments.output)?;
    let plan = Plan::new(base, &changes)?;
    let engine = Engine::open(arguments.device)?;

    let mut work = Work {
        engine: &engine,
        allow_non_finite: arguments.allow_non_finite,
        signals: Watch::begin(),
        progress,
        report: Report::new(engine.name()?, direction, arguments),
    };
    work.report.remarks(&changes.remarks);
    companions.tell(&mut work.report);
    let remaining = match base.folder() {
        None => {
            let mut output = OutputFile::create_with_mode(
                &arguments.output,
                overwrite,
                sources.all.file_mode(),
            )?;
            let path = output.path().to_owned();
            work.write(&plan, |_| Target::new(output.file().try_clone(), &path))?;
            work.progress.wait("bringing the file to the disk");
            output.flush()?;
            work.go_on()?;
            opened.check_unchanged()?;
            placed(output.finish())?
        }
        Some(folder) => {
            let mut output = OutputFolder::create_with_mode(
                &arguments.output,
                overwrite,
                sources.all.folder_mode(),
            )?;
            work.write(&plan, |name| {
                let path = output.path().join(name);
                let access = sources.merged(&folder.join(name))?;
                Target::new(access.create(&path), &path)
            })?;
            work.progress.wait("copying the folder's other files");
            let unreadable = companions.write(&work, output.path(), &sources, &options)?;
            work.report.unreadable(&unreadable);
            work.progress.wait("bringing the files to the disk");
            output.flush()?;
            work.go_on()?;
            opened.check_unchanged()?;
            placed(output.finish_removing(|file| replaced.holds(file)))?
        }
    };
    work.progress.finish();
    // From here on, a signal may end the program at once.
    drop(work.signals);
    let remaining = remaining.or_else(|| work.report.incomplete());
    work.report.print(arguments.json)?;
    remaining.map_or(Ok(()), Err)
}

/// The weight of each adapter.
fn weights(given: &[f64], adapters: usize) -> Result<Vec<f64>, Failure> {
    let refuse = |text: String| Err(Failure::Refused(text));
    match given {
        [] => Ok(vec![1.0; adapters]),
        _ if given.len() != adapters => refuse(format!(
            "--weights has {} numbers and there are {adapters} adapters: give one for each, in \
             their order",
            given.len()
        )),
        _ => match given
            .iter()
            .find(|weight| !weight.is_finite() || **weight == 0.0)
        {
            Some(weight) => refuse(format!(
                "--weights: {weight} is no factor for an adapter; it must be finite and not 0"
            )),
            None => Ok(given.to_vec()),
        },
    }
}

/// The state of one run.
struct Work<'a> {
    engine: &'a Engine,
    allow_non_finite: bool,
    signals: Watch,
    progress: Progress,
    report: Report,
}

impl Work<'_> {
    /// Stops an interrupted run. Called between pieces of work, so that an early end removes the
    /// partial output.
    fn go_on(&self) -> Result<(), Failure> {
        #[cfg(test)]
        crate::between::step();
        self.signals
            .check()
            .inspect_err(|_| self.progress.abandon())
    }
}

/// An output that is complete under its name is reported, and what failed after that as well.
fn placed(finished: Result<(), lora_kernels_adapters::Error>) -> Result<Option<Failure>, Failure> {
    match finished {
        Ok(()) => Ok(None),
        Err(error @ lora_kernels_adapters::Error::Placed { .. }) => Ok(Some(error.into())),
        Err(error) => Err(error.into()),
    }
}
