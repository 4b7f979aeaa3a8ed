//! The table of supported instructions in the README is what the decoder says of itself.

use std::path::Path;
use std::sync::LazyLock;

use ptx_emulator::decode::catalogue;

const START: &str = "<!-- made by tests/catalogue.rs: from here -->\n";
const END: &str = "<!-- made by tests/catalogue.rs: to here -->\n";

static TABLE: LazyLock<String> = LazyLock::new(catalogue);

/// `PTX_EMULATOR_BLESS=1` writes the table anew.
#[test]
fn the_readme_has_the_table_of_instructions_that_the_decoder_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once(START).expect("the start of the table");
    let (table, after) = rest.split_once(END).expect("the end of the table");
    let made = TABLE.as_str();
    if std::env::var_os("PTX_EMULATOR_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{START}{made}{END}{after}"))
            .expect("the README can be written");
        return;
    }
    let stale = table
        .lines()
        .zip(made.lines())
        .find(|(has, wanted)| has != wanted);
    assert!(
        table == made,
        "the table is stale, first at {stale:?}: run this test with PTX_EMULATOR_BLESS=1"
    );
}

/// The decoder takes exactly the forms in the table, as far as a few that are easy to get wrong
/// show.
#[test]
fn the_table_tells_forms_apart() {
    let table = TABLE.as_str();
    let row = |start: &str| {
        table
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(row("| add |  | cc sat |"), "| add |  | cc sat | s32 |");
    assert!(row("| mma | aligned.col.m8n8k4.row.sync").ends_with("| f64.f64.f64.f64 |"));
    assert_eq!(row("| lop3 "), "| lop3 |  |  | b32 |");
    assert!(!table.contains("wgmma"));
    for taken in [
        "| call |",
        "| brx |",
        "| cp |",
        "| ldmatrix |",
        "| setp |",
        "| bar |",
    ] {
        assert!(table.contains(taken), "{taken}");
    }
}
