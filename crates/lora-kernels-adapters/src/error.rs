//! Errors of reading and writing files. A message names the file, what it holds, and what is
//! allowed.

use std::path::PathBuf;

use crate::shown::EscapedPath as Escaped;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file was refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("can't {doing} {}: {source}", Escaped(path))]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path that doesn't lead to a regular file.
    #[error("{} is {what}, not a file", Escaped(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What the path leads to.
        what: &'static str,
    },
    /// A link out of the folder of a model or an adapter.
    #[error(
        "{} is a link that leads out of its folder, to {place}, and isn't followed: put the file \
         itself there",
        path.display()
    )]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        place: String,
    },
    /// A file that was changed after it was opened, so that what was read of it may be of several
    /// contents.
    #[error("{} was changed while it was read: {what}", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
        /// What was found, as a sentence about the file.
        what: &'static str,
    },
    /// A file that isn't safetensors, or is damaged.
    #[error("{} is no valid safetensors file: {reason}", Escaped(path))]
    Safetensors {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that isn't the JSON it should be.
    #[error("{} is not the JSON it should be: {reason}", Escaped(path))]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file far larger than any real one.
    #[error("{} has {bytes} bytes; such a file has at most {limit}", Escaped(path))]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest that is read.
        limit: u64,
    },
    /// A field of `adapter_config.json` with an impossible value.
    #[error("{}: {field} is {given}; it must be {allowed}", Escaped(path))]
    Field {
        /// The config file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        given: String,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// A tensor whose type or shape is wrong, or that doesn't fit the module's other tensors.
    #[error("{}: tensor {name} {reason}", Escaped(path))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name there.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A rank in the file that differs from the config's.
    #[error(
        "{}: module {module} has rank {given}, but its config gives it {expected} (r, or \
         rank_pattern where a key matches)",
        Escaped(path)
    )]
    Rank {
        /// The file with the tensors.
        path: PathBuf,
        /// The module's path.
        module: String,
        /// The rank in the file: the rows of lora_A.
        given: usize,
        /// The config's rank.
        expected: usize,
    },
    /// Something that holds no adapter in a format this crate reads.
    #[error("{} is no adapter that can be read: {reason}", Escaped(path))]
    NoAdapter {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for, and what to do.
        reason: String,
    },
    /// A module whose tensors don't fit its config.
    #[error("{}: module {module} {reason}", Escaped(path))]
    Module {
        /// The file with the tensors.
        path: PathBuf,
        /// The module's path.
        module: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file with several adapters, read without saying which.
    #[error(
        "{} holds several adapters, and one must be chosen by its name: {}",
        Escaped(path),
        names.join(", ")
    )]
    Adapters {
        /// The file.
        path: PathBuf,
        /// The adapters' names, or the first of them.
        names: Vec<String>,
    },
    /// A folder with several adapters in folders of their own, read without saying which.
    #[error(
        "{} holds several adapters in folders of their own, and one must be given{}: {}",
        Escaped(path),
        newest.as_ref().map(|newest| format!(" (the newest is {newest})")).unwrap_or_default(),
        names.join(", ")
    )]
    AdapterFolders {
        /// The folder.
        path: PathBuf,
        /// The folders below it, or the first of them.
        names: Vec<String>,
        /// The last of a trainer's checkpoints, as a path.
        newest: Option<String>,
    },
    /// A file without the adapter of the given name.
    #[error("{} holds no adapter {wanted}; it holds {}", Escaped(path), names.join(", "))]
    NoSuchAdapter {
        /// The file.
        path: PathBuf,
        /// The name given.
        wanted: String,
        /// The adapters' names, or the first of them.
        names: Vec<String>,
    },
    /// A file that holds no scaling, read without giving one.
    #[error(
        "{} is in {format} format, which holds no scaling for {module}: give it, as lora_alpha or \
         as the scaling itself",
        Escaped(path)
    )]
    NoScaling {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: crate::Format,
        /// The first module that lacks one.
        module: String,
    },
    /// A scaling that was given although the file holds one for every module.
    #[error(
        "{} has its scaling in {holder}: one given beside it would contradict that",
        Escaped(path)
    )]
    ScalingGiven {
        /// The file or folder.
        path: PathBuf,
        /// Where the scaling is.
        holder: &'static str,
    },
    /// A scaling or lora_alpha that no computation can use.
    #[error(
        "{name} {given}: it must be finite and more than 0, and so must the scaling that comes of \
         it in f32"
    )]
    Scaling {
        /// `scaling` or `lora_alpha`.
        name: &'static str,
        /// The number.
        given: f64,
    },
    /// A folder or file that holds no base model.
    #[error("{} is no base model: {reason}", Escaped(path))]
    NoBase {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// An entry of `model.safetensors.index.json` that can't be followed.
    #[error("{}: shard {shard} {reason}", Escaped(path))]
    Shard {
        /// The index file.
        path: PathBuf,
        /// The name it gives.
        shard: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the adapter wants and the base model lacks, or that several could be.
    #[error(
        "{wanted} is not in the base model{}",
        candidates_text(.mapped, *.ambiguous, .candidates)
    )]
    Unresolved {
        /// The tensor looked for, by the adapter's path.
        wanted: String,
        /// Its name with the replacements of the other names, where that differs.
        mapped: Option<String>,
        /// Whether several tensors fit, rather than none.
        ambiguous: bool,
        /// Tensors that fit, or have the most similar names.
        candidates: Vec<String>,
        /// Replacements under which it would be found.
        replacements: Vec<crate::base::Replacement>,
    },
    /// Two of the adapter's names, or two of their leading parts, that would be the same in the
    /// base model.
    #[error(
        "{first} and {second} of the adapter would both be {there} in the base model; is this its \
         base model?"
    )]
    Clash {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// What both would be.
        there: String,
    },
    /// A component of an adapter that the base model may or may not be.
    #[error("the adapter's component {component} {reason}")]
    Component {
        /// Its name.
        component: String,
        /// What is in doubt.
        reason: String,
    },
    /// An adapter that a reader would refuse, so it isn't written.
    #[error("can't write the adapter: {reason}")]
    Unwritable {
        /// What is wrong with it.
        reason: String,
    },
    /// A complete output that can't be renamed to its final name.
    #[error(
        "can't give {} its name: {source}; it is complete, and lies in {}: move it from there, or \
         the next run that writes this removes it",
        Escaped(path),
        Escaped(kept)
    )]
    NotPlaced {
        /// The final name.
        path: PathBuf,
        /// The temporary name under which it was kept.
        kept: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An output that is complete and has its name, where something after that failed.
    #[error("{} is complete, but {reason}", Escaped(path))]
    Placed {
        /// Its name.
        path: PathBuf,
        /// What failed, and what it means.
        reason: String,
    },
    /// An output that another run, of this process or of another, is writing.
    #[error(
        "{} is being written by another run, which has it in {} so far: wait for that to end, or \
         name another output",
        Escaped(path),
        Escaped(partial)
    )]
    Busy {
        /// The output.
        path: PathBuf,
        /// Its temporary name.
        partial: PathBuf,
    },
    /// An output that already exists.
    #[error("{} exists: {hint}", Escaped(path))]
    Exists {
        /// The path.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
}

fn candidates_text(mapped: &Option<String>, ambiguous: bool, candidates: &[String]) -> String {
    let list = candidates.join(", ");
    let name = match mapped {
        Some(mapped) => format!("as {mapped}"),
        None => "under that name".into(),
    };
    match (ambiguous, candidates.is_empty()) {
        (true, _) => format!(" {name}, and more than one tensor could be it: {list}"),
        (false, true) => format!(
            " {name}, and no tensor there has a similar name; is this the adapter's base model?"
        ),
        (false, false) => {
            format!(" {name}, nor with another prefix; the closest are {list}")
        }
    }
}
