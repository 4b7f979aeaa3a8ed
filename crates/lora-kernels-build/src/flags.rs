//! The flags in nvcc's own environment variables.

use std::process::Command;

use crate::nvcc::Machine;

const PREPEND: &str = "NVCC_PREPEND_FLAGS";
const APPEND: &str = "NVCC_APPEND_FLAGS";

/// nvcc puts the flags of the first variable before its arguments, and those of the second after
/// them.
pub const VARIABLES: [&str; 2] = [PREPEND, APPEND];

/// Options that change what the kernels compute. The source determines every f32 operation, and
/// `--device cpu` gives the same bits.
const ARITHMETIC: [&str; 5] = ["fmad", "ftz", "prec-div", "prec-sqrt", "use_fast_math"];

/// Options by which nvcc would write something else than a fatbin that a driver loads, or write it
/// elsewhere.
const OUTPUT: [&str; 48] = [
    "E",
    "M",
    "MF",
    "MM",
    "V",
    "c",
    "clean",
    "clean-targets",
    "compile",
    "cubin",
    "cuda",
    "dc",
    "dependency-output",
    "device-c",
    "device-link",
    "device-w",
    "dlink",
    "dlink-time-opt",
    "dlto",
    "dryrun",
    "dw",
    "e",
    "entries",
    "ewp",
    "extensible-whole-program",
    "fdevice-syntax-only",
    "generate-dependencies",
    "generate-nonsystem-dependencies",
    "h",
    "help",
    "lib",
    "link",
    "lto",
    "ltoir",
    "o",
    "odir",
    "optix-ir",
    "output-directory",
    "output-file",
    "preprocess",
    "ptx",
    "rdc",
    "reloc-ptx",
    "relocatable-device-code",
    "relocatable-ptx",
    "run",
    "shared",
    "version",
];

/// Options that name a file of more options, whose contents no build would notice.
const FILES: [&str; 2] = ["optf", "options-file"];

/// Options whose next word belongs to another program: `-Xcompiler -c` is no option of nvcc.
const FORWARDED: [&str; 10] = [
    "Xarchive",
    "Xcompiler",
    "Xlinker",
    "Xnvlink",
    "Xptxas",
    "archive-options",
    "compiler-options",
    "linker-options",
    "nvlink-options",
    "ptxas-options",
];

/// The flags of `NVCC_PREPEND_FLAGS` and `NVCC_APPEND_FLAGS`, in words: nvcc splits them at white
/// space and knows no quotes.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub struct Flags {
    prepended: Vec<String>,
    appended: Vec<String>,
}

impl Flags {
    /// Reads the variables.
    ///
    /// # Errors
    /// If a flag would change what the kernels compute, or if it would make nvcc write something
    /// else than the images.
    pub fn find(machine: &dyn Machine) -> Result<Self, String> {
        let [prepended, appended] = VARIABLES.map(|name| {
            let value = machine.var(name).unwrap_or_default();
            let value = value
                .to_str()
                .ok_or_else(|| format!("{name}={}: it is no Unicode text", value.display()))?;
            let words: Vec<String> = value.split_whitespace().map(str::to_owned).collect();
            check(name, &words)?;
            Ok::<_, String>(words)
        });
        Ok(Self {
            prepended: prepended?,
            appended: appended?,
        })
    }

    /// Whether one of `options` is among the flags. They are written without the leading `-` or
    /// `--`.
    pub fn have(&self, options: &[&str]) -> bool {
        [&self.prepended, &self.appended]
            .into_iter()
            .flat_map(|words| self::options(words))
            .any(|(option, _)| options.contains(&option))
    }

    /// The words of nvcc's command line, with `arguments` where nvcc has its own.
    pub(crate) fn around<'f>(&'f self, arguments: &'f [String]) -> Vec<&'f String> {
        let words = [&self.prepended, arguments, &self.appended];
        words.into_iter().flatten().collect()
    }

    /// Gives the flags to a process of nvcc, whatever the environment says now.
    pub fn give(&self, nvcc: &mut Command) {
        for (name, words) in VARIABLES.into_iter().zip([&self.prepended, &self.appended]) {
            if words.is_empty() {
                nvcc.env_remove(name);
            } else {
                nvcc.env(name, words.join(" "));
            }
        }
    }
}

fn check(variable: &str, words: &[String]) -> Result<(), String> {
    for (option, value) in options(words) {
        let reason = if ARITHMETIC.contains(&option) {
            "would change what the kernels compute, which has the same bits in every build"
        } else if FILES.contains(&option) {
            "names a file of options, and changes of that file would go unnoticed; write the \
             options themselves"
        } else if OUTPUT.contains(&option) && value != Some("false") {
            "would make nvcc write something else than the images that the build embeds"
        } else {
            continue;
        };
        let given = words.join(" ");
        return Err(format!(
            "{variable}={given}: `{option}` {reason}; unset the variable for this build, or leave \
             this option out"
        ));
    }
    Ok(())
}

/// The options among words, without their leading `-` or `--`, and their values where there are
/// any: `-rdc=true` and `--rdc true` are (rdc, true).
fn options(words: &[String]) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut rest = words.iter().map(String::as_str).peekable();
    std::iter::from_fn(move || {
        loop {
            let word = rest.next()?;
            let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                continue;
            };
            if let Some((option, value)) = option.split_once('=') {
                return Some((option, Some(value)));
            }
            if FORWARDED.contains(&option) {
                return Some((option, rest.next()));
            }
            return Some((
                option,
                rest.peek().filter(|word| !word.starts_with('-')).copied(),
            ));
        }
    })
}
