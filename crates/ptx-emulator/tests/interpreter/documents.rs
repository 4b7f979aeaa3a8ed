//! Tables in the documents are what the code says of itself. `PTX_EMULATOR_BLESS=1` writes them
//! anew.

use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

use ptx_emulator::decode::catalogue;
use ptx_emulator::device::DeviceModel;
use ptx_emulator::settings;

static TABLE: LazyLock<String> = LazyLock::new(catalogue);

/// Holds the lines between the two marks of a document to what was made.
fn hold(document: &str, mark: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).expect("the document");
    let [start, end] = ["from", "to"]
        .map(|side| format!("<!-- {mark}made by tests/interpreter/documents.rs {side} here -->\n"));
    let (before, rest) = text.split_once(&start).expect("the start of the table");
    let (table, after) = rest.split_once(&end).expect("the end of the table");
    if std::env::var_os("PTX_EMULATOR_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{start}{made}{end}{after}"))
            .expect("the document can be written");
        return;
    }
    let stale = made
        .lines()
        .find(|line| !table.lines().any(|has| has == *line));
    assert!(
        table == made,
        "{document} is stale, first at {stale:?}: run this test with PTX_EMULATOR_BLESS=1"
    );
}

#[test]
fn the_instructions_are_those_that_the_decoder_takes() {
    hold("docs/instructions.md", "", &TABLE);
}

#[test]
fn the_readme_has_every_setting() {
    let mut made = String::from("| variable | values | meaning |\n|---|---|---|\n");
    for setting in settings::ALL {
        writeln!(
            made,
            "| `{}{}` | {} | {} |",
            settings::PREFIX,
            setting.name,
            setting.values,
            setting.meaning
        )
        .expect("a string takes everything");
    }
    hold("README.md", "settings: ", &made);
}

#[test]
fn every_virtual_device_is_documented() {
    let devices = settings::ALL[0].values;
    for model in DeviceModel::ALL {
        assert!(
            devices.contains(&format!("`{}`", model.key)),
            "{}",
            model.key
        );
    }
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
    assert!(row("| wgmma | aligned.m64nNk16").ends_with("f32.bf16.bf16 f32.f16.f16 |"));
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
