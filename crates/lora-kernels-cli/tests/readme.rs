//! What the README says is understood. It is a program of its own because it reads the checkout,
//! which the programs that are carried to a machine with a GPU don't have.

use std::collections::BTreeSet;
use std::path::Path;

/// Each row of the tables of adapters, bases and what travels names the tests that show it.
#[test]
fn every_row_of_the_readme_has_its_tests() {
    let readme = std::fs::read_to_string("README.md").unwrap();
    let mut tests = BTreeSet::new();
    for folder in ["tests", "src", "../lora-kernels-adapters/tests"] {
        collect(Path::new(folder), &mut tests);
    }
    let mut rows = 0;
    let mut in_table = false;
    for line in readme.lines() {
        in_table = line.ends_with("| test |") || (in_table && line.starts_with('|'));
        let cells: Vec<&str> = line.split(" | ").collect();
        let (true, &[_, named]) = (in_table, &cells[..]) else {
            continue;
        };
        if line.ends_with("| test |") {
            continue;
        }
        rows += 1;
        let named: Vec<&str> = named.trim_end_matches(" |").split(", ").collect();
        for name in named {
            let name = name.trim_matches('`');
            assert!(tests.contains(name), "there is no test `{name}`: {line}");
        }
    }
    assert!(rows > 30, "the tables have {rows} rows");
}

/// The names of the functions that follow a line `#[test]`.
fn collect(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if let Some((name, _)) = line.strip_prefix("fn ").and_then(|f| f.split_once('('))
                    && is_test
                {
                    tests.insert(name.to_owned());
                }
                // Further attributes may stand between.
                is_test = line == "#[test]" || (is_test && line.starts_with("#["));
            }
        }
    }
}
