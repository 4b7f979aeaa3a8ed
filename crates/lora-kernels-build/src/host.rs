//! The C++ compiler that nvcc works with: what to do when nvcc can't use it.

/// nvcc's words if there is no C++ compiler where it looks for one, or if that can't compile.
const MISSING: [&str; 5] = [
    "Failed to preprocess host compiler properties",
    "Cannot find compiler",
    "Could not set up the environment for Microsoft Visual Studio",
    "No supported version of Visual Studio",
    "cc1plus",
];

/// What to do if `words`, which nvcc printed when it failed, say that it can't work with the host
/// compiler.
pub fn advice(words: &str) -> Option<String> {
    let refusal = words.lines().find(|line| {
        // The line that shows the source has the same text after a `|`.
        line.contains("error") && line.contains("#error -- unsupported ")
    });
    if let Some(refusal) = refusal {
        return Some(unsupported(refusal));
    }
    MISSING
        .iter()
        .any(|missing| words.contains(missing))
        .then(|| {
            "nvcc found no C++ compiler that it can use: install g++ (Debian, Ubuntu: apt install \
         g++), or set NVCC_CCBIN to the path of a C++ compiler"
                .to_owned()
        })
}

/// `refusal` is nvcc's line, such as `#error -- unsupported GNU version! gcc versions later than 15
/// are not supported! The nvcc flag ...`.
fn unsupported(refusal: &str) -> String {
    let newest = refusal
        .split_once("gcc versions later than ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .filter(|version| version.bytes().all(|byte| byte.is_ascii_digit()));
    let (which, example) = match newest {
        Some(newest) => (
            format!("g++ {newest} or older"),
            format!("NVCC_CCBIN=g++-{newest} (Debian, Ubuntu: apt install g++-{newest})"),
        ),
        None => (
            "one that it supports".to_owned(),
            "NVCC_CCBIN=/usr/bin/g++-12".to_owned(),
        ),
    };
    format!(
        "nvcc doesn't support this version of the C++ compiler: set NVCC_CCBIN to {which}, for \
         example {example}; NVCC_APPEND_FLAGS=-allow-unsupported-compiler makes nvcc try this one"
    )
}
