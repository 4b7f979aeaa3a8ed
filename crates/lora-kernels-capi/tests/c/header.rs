//! The committed header is what cbindgen makes of the sources.

use std::path::Path;

use cbindgen::{Builder, Config};

/// Set to 1, the test writes the header instead of comparing it.
const UPDATE: &str = "LORA_KERNELS_UPDATE_HEADER";

const HEADER: &str = "include/lora_kernels.h";

/// In the order in which a reader wants them.
const SOURCES: [&str; 14] = [
    "version",
    "status",
    "enumerations",
    "device",
    "layout",
    "problem",
    "planned",
    "plan",
    "handle",
    "arguments",
    "calls",
    "table",
    "merge_plan",
    "merge",
];

#[test]
fn the_header_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::from_file(folder.join("cbindgen.toml")).expect("cbindgen.toml");
    let builder = SOURCES
        .into_iter()
        .fold(Builder::new().with_config(config), |builder, name| {
            builder.with_src(folder.join("src").join(name).with_extension("rs"))
        });
    let mut made = Vec::new();
    builder
        .generate()
        .expect("the sources parse")
        .write(&mut made);
    let made = String::from_utf8(made).expect("a text");

    let header = folder.join(HEADER);
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(&header, made).expect("the header can be written");
        return;
    }
    let committed = std::fs::read_to_string(&header).expect("the committed header");
    assert!(
        committed == made,
        "{HEADER} is not what the sources say: run the test with {UPDATE}=1 and commit it"
    );
}
