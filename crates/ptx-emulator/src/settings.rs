//! Settings from the environment. Nothing else in this crate reads a variable.
//!
//! A setting's variable is [`PREFIX`] and the setting's name. An empty value counts as none.

use std::env;

/// The start of every variable's name.
pub const PREFIX: &str = "PTX_EMULATOR_";

/// Prefixes of earlier versions. They are still understood; where a variable has both spellings,
/// the one with [`PREFIX`] counts.
const FORMER_PREFIXES: [&str; 1] = ["LORA_EMULATOR_"];

/// A setting of the emulated driver, as its documentation describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The variable's name without [`PREFIX`].
    pub name: &'static str,
    /// What it may be set to, in Markdown.
    pub values: &'static str,
    /// What it changes, in Markdown.
    pub meaning: &'static str,
}

const fn setting(name: &'static str, values: &'static str, meaning: &'static str) -> Setting {
    Setting {
        name,
        values,
        meaning,
    }
}

/// Every setting that the driver reads when `cuInit` is called.
#[rustfmt::skip]
pub const ALL: [Setting; 14] = [
    setting("DEVICE", "`a100` (default), `a100-40gb`, `rtx3090`, `rtx4090`, `l40s`, `h100`, `h200`, `b200`, `rtx5090`",
        "the virtual device: its limits, its compute capability, its tensor cores"),
    setting("NUMERICS", "`f32fma`, `ampere`, `hopper`",
        "how `mma` sums, if not as the virtual device does"),
    setting("DRIVER_VERSION", "`11000` to `13000`",
        "the CUDA version that the driver reports, as 1000 * major + 10 * minor; images that are \
         too new for it are refused"),
    setting("CHECKS", "`on` (default), `off`",
        "whether launches are checked"),
    setting("SCHEDULE", "`fair` (default), `seed:7`, `last-block-first`, `one-ahead`, `starve-warp`",
        "the order in which blocks and warps have their turns; all but `fair` run on one thread \
         and can be repeated exactly"),
    setting("COPIES", "`latest` (default), `earliest`",
        "when asynchronous copies and the operands of `wgmma` are moved: when they are waited for, \
         or when they are issued"),
    setting("STREAMS", "`now` (default), `latest`, `latest-kernels`",
        "when streams do their work: when it is given to them, when the host waits for it, or \
         kernels only then and copies and fills as soon as their order allows; late streams show a \
         missing wait in every run"),
    setting("UNWRITTEN", "`report` (default), `fill`, `off`",
        "device memory that nothing has written, copied to the host: its bytes arrive as `0xff`, \
         and the copy fails if a kernel has had to do with the allocation; they only arrive so; \
         or they are zero"),
    setting("BLOCKS", "`all` (default), `none`, `every:16`, `0,7,64-79`",
        "the blocks of each launch to run"),
    setting("COUNTERS", "a file's path",
        "count everything that is launched and write it there as JSON: at the end, after a fault, \
         and about every second"),
    setting("DRAM", "`on`, `off` (default)",
        "count DRAM traffic with it, under a model of L2"),
    setting("DRAM_L2_BYTES", "a number",
        "the model's L2, if not half of the device's"),
    setting("DRAM_BLOCKS", "a number",
        "blocks on a multiprocessor at once, if registers allow fewer than threads, shared memory \
         and block slots do"),
    setting("LOG", "anything",
        "one line on stderr for each launch, with its counts"),
];

/// A variable that is set.
pub(crate) struct Found {
    /// The name it was found under, for messages.
    pub variable: String,
    pub value: String,
}

/// A setting by its name without the prefix, in either case.
pub(crate) fn find(name: &str) -> Option<Found> {
    let name = name.to_uppercase();
    [PREFIX]
        .into_iter()
        .chain(FORMER_PREFIXES)
        .find_map(|prefix| {
            let variable = format!("{prefix}{name}");
            let value = read(&variable)?;
            Some(Found { variable, value })
        })
}

/// A setting's value by its name without the prefix.
pub fn value(name: &str) -> Option<String> {
    find(name).map(|found| found.value)
}

/// A variable by its whole name.
pub(crate) fn read(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// One sentence about all variables that are set under a former prefix; `None` if there are none.
pub(crate) fn former_spellings() -> Option<String> {
    let mut renamed: Vec<String> = env::vars_os()
        .filter_map(|(name, _)| {
            let name = name.to_str()?;
            let end = FORMER_PREFIXES
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))?;
            Some(format!("{name} is now called {PREFIX}{end}"))
        })
        .collect();
    renamed.sort();
    (!renamed.is_empty()).then(|| renamed.join(", "))
}
