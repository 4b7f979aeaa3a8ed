//! What can be wrong with files. Every message names the file, what it holds, and what is allowed.

use std::path::PathBuf;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file was refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path that leads to something else than a regular file.
    #[error("{} is {what}, not a file", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that isn't safetensors, or is damaged.
    #[error("{} is no valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that isn't the JSON it should be.
    #[error("{} is not the JSON it should be: {reason}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file far larger than any real one.
    #[error("{} has {bytes} bytes; such a file has at most {limit}", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest that is read.
        limit: u64,
    },
    /// A field of `adapter_config.json` with an impossible value.
    #[error("{}: {field} is {given}; it must be {allowed}", path.display())]
    Field {
        /// The config file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What stands there.
        given: String,
        /// What may.
        allowed: &'static str,
    },
    /// A tensor whose type, shape or company is wrong.
    #[error("{}: tensor {name} {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name there.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A rank in the file that isn't the config's.
    #[error(
        "{}: module {module} has rank {given}, but adapter_config.json gives it {expected} (r, or rank_pattern where a key matches)",
        path.display()
    )]
    Rank {
        /// The file with the tensors.
        path: PathBuf,
        /// The module's path.
        module: String,
        /// Rows of its lora_A.
        given: usize,
        /// The config's rank.
        expected: usize,
    },
    /// Something that holds no adapter in a format this crate reads.
    #[error("{} is no adapter that can be read: {reason}", path.display())]
    NoAdapter {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for, and what to do.
        reason: String,
    },
    /// A format without a scaling of its own, and none given.
    #[error("{} is in {format} format, which holds no scaling: give it, as lora_alpha or as the scaling itself", path.display())]
    NoScaling {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: crate::Format,
    },
    /// A scaling given for a format that has its own.
    #[error(
        "{} is a PEFT folder, whose adapter_config.json has lora_alpha and r: a scaling given beside it would contradict them",
        path.display()
    )]
    ScalingGiven {
        /// The folder.
        path: PathBuf,
    },
    /// A scaling or lora_alpha that no computation can use.
    #[error(
        "{name} {given}: it must be finite and more than 0, and so must the scaling that comes of it in f32"
    )]
    Scaling {
        /// `scaling` or `lora_alpha`.
        name: &'static str,
        /// The number.
        given: f64,
    },
    /// A folder or file that holds no base model.
    #[error("{} is no base model: {reason}", path.display())]
    NoBase {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// An entry of `model.safetensors.index.json` that can't be followed.
    #[error("{}: shard {shard} {reason}", path.display())]
    Shard {
        /// The index file.
        path: PathBuf,
        /// The name it gives.
        shard: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A module of the adapter to which no tensor, or more than one, of the base corresponds.
    #[error("{wanted} is not in the base model{}", candidates_text(*.ambiguous, .candidates))]
    Unresolved {
        /// The tensor looked for, by the adapter's path.
        wanted: String,
        /// Whether several tensors fit, rather than none.
        ambiguous: bool,
        /// Tensors that fit, or come close.
        candidates: Vec<String>,
    },
    /// Modules whose paths would have to be changed in different ways.
    #[error(
        "the adapter's paths don't lie in the base model in one way: {first} corresponds to {first_tensor}, but {second} to {second_tensor}; is this the adapter's base model?"
    )]
    Prefixes {
        /// A tensor by the adapter's path.
        first: String,
        /// Its tensor.
        first_tensor: String,
        /// Another.
        second: String,
        /// And its tensor.
        second_tensor: String,
    },
    /// Something to be written that a reader would refuse.
    #[error("can't write the adapter: {reason}")]
    Unwritable {
        /// What is wrong with it.
        reason: String,
    },
    /// An output that is complete and can't get its name.
    #[error("can't give {} its name: {source}; it is complete, and lies in {}: move it from there, or the next run that writes this removes it", path.display(), kept.display())]
    NotPlaced {
        /// The name it should have.
        path: PathBuf,
        /// The one it has.
        kept: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An output that exists.
    #[error("{} exists: {hint}", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
}

fn candidates_text(ambiguous: bool, candidates: &[String]) -> String {
    let list = candidates.join(", ");
    match (ambiguous, candidates.is_empty()) {
        (true, _) => format!(" under that name, and more than one tensor ends like it: {list}"),
        (false, true) => {
            ", and no tensor there has a similar name; is this the adapter's base model?".into()
        }
        (false, false) => {
            format!(" under that name, nor with another prefix; the closest are {list}")
        }
    }
}
