//! docs/report.json: every figure on a line of its own, so that changes can be read; and the
//! comparison with the committed document.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::figures::{
    Better, KERNEL_COLUMNS, WGMMA_COLUMNS, better, kernel_row, peers_key, wgmma_row,
};
use super::goals::{Goal, Outcome};
use super::kernels::Compiled;
use lora_kernels_report::document::PeerKernel;

const SCHEMA: u32 = 2;

/// The report that is compared.
pub struct Report<'a> {
    pub nvcc: String,
    pub kernels: &'a [Compiled],
    /// CUTLASS's kernels; none in the quick form.
    pub cutlass: &'a [(Compiled, PeerKernel)],
    pub figures: &'a BTreeMap<String, f64>,
    pub goals: &'a [Goal],
}

impl Report<'_> {
    pub fn to_json(&self) -> String {
        let mut text = format!(
            "{{\n\"schema\": {SCHEMA},\n\"nvcc\": {},\n",
            json!(self.nvcc)
        );
        for (name, columns) in COLUMNS {
            let _ = writeln!(text, "\"{name}\": {},", json!(names(columns)));
        }
        let rows = self.kernels.iter().map(kernel_row);
        section(
            &mut text,
            "kernels",
            rows.map(|(key, row)| (key, Value::from(row))),
        );
        text.push_str(",\n");
        let peers = self.cutlass.iter().map(|(kernel, _)| kernel);
        let peers = peers
            .filter_map(wgmma_row)
            .map(|(key, row)| (peers_key(&key), row));
        let rows = self.kernels.iter().filter_map(wgmma_row).chain(peers);
        section(
            &mut text,
            "wgmma_kernels",
            rows.map(|(key, row)| (key, Value::from(row))),
        );
        text.push_str(",\n");
        section(
            &mut text,
            "figures",
            self.figures
                .iter()
                .map(|(key, &value)| (key.clone(), number(value))),
        );
        text.push_str(",\n");
        section(
            &mut text,
            "goals",
            self.goals
                .iter()
                .map(|goal| (goal.what.to_owned(), goal_json(goal))),
        );
        text.push_str("\n}\n");
        text
    }

    /// The figures that are worse than in the committed document or can't be compared with it, one
    /// line each.
    ///
    /// The quick form has fewer figures, and the kernels of fewer architectures. Everything it has
    /// must be in the committed document. Committed kernels of `archs` and figures of the shapes
    /// that it ran must be in it.
    pub fn regressions(&self, committed: &str, archs: &[&str]) -> Result<Vec<String>, String> {
        let committed: Map<String, Value> =
            serde_json::from_str(committed).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        let same_columns = COLUMNS
            .iter()
            .all(|(name, columns)| committed.get(*name) == Some(&json!(names(columns))));
        if committed.get("schema") != Some(&json!(SCHEMA)) || !same_columns {
            return Err("it has other columns than this version of xtask writes".to_owned());
        }
        let old_nvcc = committed
            .get("nvcc")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if old_nvcc == self.nvcc {
            let rows = self.kernels.iter().map(kernel_row).collect();
            let old = object(&committed, "kernels")?;
            compare_kernels(&KERNEL_COLUMNS, &rows, old, archs, &mut found);
            let rows = self.kernels.iter().filter_map(wgmma_row).collect();
            let old = object(&committed, "wgmma_kernels")?;
            compare_kernels(&WGMMA_COLUMNS, &rows, old, archs, &mut found);
        } else {
            eprintln!(
                "note: the kernels were compiled by nvcc {}, those of the committed report by {old_nvcc}: their code is not compared",
                self.nvcc
            );
        }
        compare_figures(self.figures, object(&committed, "figures")?, &mut found);
        compare_goals(self.goals, object(&committed, "goals")?, &mut found);
        Ok(found)
    }
}

type Columns = [(&'static str, Option<Better>)];

/// The names in the document of the columns of its tables.
const COLUMNS: [(&str, &Columns); 2] = [
    ("kernel_columns", &KERNEL_COLUMNS),
    ("wgmma_columns", &WGMMA_COLUMNS),
];

fn names(columns: &Columns) -> Vec<&'static str> {
    columns.iter().map(|(name, _)| *name).collect()
}

fn section(text: &mut String, name: &str, entries: impl Iterator<Item = (String, Value)>) {
    let lines: Vec<String> = entries
        .map(|(key, value)| format!("{}: {value}", json!(key)))
        .collect();
    let _ = write!(text, "\"{name}\": {{\n{}\n}}", lines.join(",\n"));
}

/// A number as JSON; whole numbers have no decimal point.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn goal_json(goal: &Goal) -> Value {
    json!({
        "worst": goal.worst.as_ref().map(|worst| number(worst.value)),
        "at": goal.worst.as_ref().map(|worst| &worst.at),
        "bar": number(goal.bar),
        "aim": goal.aim.map(number),
        "outcome": outcome_name(goal.outcome()),
    })
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotMet => "not met",
        Outcome::Met => "met",
        Outcome::AimMet => "aim met",
    }
}

fn object<'a>(
    document: &'a Map<String, Value>,
    name: &str,
) -> Result<&'a Map<String, Value>, String> {
    document
        .get(name)
        .and_then(Value::as_object)
        .ok_or(format!("it has no {name:?}"))
}

const AGAIN: &str = "run `cargo xtask report` and commit what it writes";

fn compare_kernels(
    columns: &Columns,
    now: &BTreeMap<String, Vec<Value>>,
    committed: &Map<String, Value>,
    archs: &[&str],
    found: &mut Vec<String>,
) {
    let compared = |key: &str| archs.contains(&key.split('/').next().unwrap_or_default());
    for (key, row) in now.iter().filter(|(key, _)| compared(key)) {
        let Some(old) = committed.get(key).and_then(Value::as_array) else {
            found.push(format!("{key} is not in the committed report: {AGAIN}"));
            continue;
        };
        for ((name, better), (new, old)) in columns.iter().zip(row.iter().zip(old)) {
            match (new.as_f64(), old.as_f64(), better) {
                (Some(new), Some(old), Some(better)) if worse(new, old, *better) => {
                    found.push(format!("{key} {name}: {new}, committed {old}"));
                }
                (None, Some(old), Some(_)) => {
                    found.push(format!("{key} {name}: none, committed {old}"))
                }
                _ => {}
            }
        }
    }
    for key in committed.keys() {
        if compared(key) && !now.contains_key(key) {
            found.push(format!(
                "{key} is in the committed report and not built: {AGAIN}"
            ));
        }
    }
}

fn compare_figures(
    now: &BTreeMap<String, f64>,
    committed: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    for (key, &new) in now {
        match (committed.get(key).and_then(Value::as_f64), better(key)) {
            (None, _) => found.push(format!("{key} is not in the committed report: {AGAIN}")),
            (Some(old), Some(better)) if worse(new, old, better) => {
                found.push(format!("{key}: {new}, committed {old}"));
            }
            _ => {}
        }
    }
}

fn compare_goals(now: &[Goal], committed: &Map<String, Value>, found: &mut Vec<String>) {
    for goal in now {
        let old = committed
            .get(goal.what)
            .and_then(|old| old.get("outcome"))
            .and_then(Value::as_str);
        let met = old.is_some_and(|old| old != outcome_name(Outcome::NotMet));
        if met && goal.outcome() == Outcome::NotMet {
            let now = goal
                .worst
                .as_ref()
                .map_or("nothing to look at".to_owned(), |worst| {
                    format!("{} by {}", worst.value, worst.at)
                });
            found.push(format!("goal no longer met: {}: {now}", goal.what));
        }
    }
}

/// Both numbers are rounded from deterministic counts, so any difference counts.
fn worse(new: f64, old: f64, better: Better) -> bool {
    match better {
        Better::Lower => new > old,
        Better::Higher => new < old,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(figures: &BTreeMap<String, f64>) -> Report<'_> {
        Report {
            nvcc: "13.0".to_owned(),
            kernels: &[],
            cutlass: &[],
            figures,
            goals: &[],
        }
    }

    fn figures(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
        values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), *value))
            .collect()
    }

    #[test]
    fn what_got_worse_is_named_and_what_got_better_is_not() {
        let committed = figures(&[
            ("a/launches", 2.0),
            ("b/wave_efficiency_percent", 97.5),
            ("a/mma_flops", 7.0),
        ]);
        let committed = report(&committed).to_json();
        let check =
            |values: &[(&str, f64)]| report(&figures(values)).regressions(&committed, &["80"]);
        assert_eq!(check(&[("a/launches", 2.0)]), Ok(vec![]));
        assert_eq!(
            check(&[("a/launches", 1.0), ("a/mma_flops", 9.0)]),
            Ok(vec![])
        );
        assert_eq!(
            check(&[("a/launches", 3.0)]),
            Ok(vec!["a/launches: 3, committed 2".to_owned()])
        );
        let found = check(&[("b/wave_efficiency_percent", 97.4)]);
        assert_eq!(
            found,
            Ok(vec![
                "b/wave_efficiency_percent: 97.4, committed 97.5".to_owned()
            ])
        );
    }

    #[test]
    fn figures_that_are_not_committed_are_named() {
        let committed = report(&figures(&[])).to_json();
        let found = report(&figures(&[("new/launches", 1.0)])).regressions(&committed, &["80"]);
        assert!(
            found.is_ok_and(
                |found| found.len() == 1 && found[0].starts_with("new/launches is not in")
            )
        );
    }

    #[test]
    fn a_kernel_that_spills_or_is_gone_is_named() {
        let row = |local: i64| {
            let mut row = vec![Value::Null; KERNEL_COLUMNS.len()];
            row[1] = json!(local);
            row
        };
        let committed: Map<String, Value> = [("80/f", 0), ("80/g", 0), ("90a/f", 0)]
            .into_iter()
            .map(|(key, local)| (key.to_owned(), Value::from(row(local))))
            .collect();
        let mut found = Vec::new();
        let now = [("80/f".to_owned(), row(8))].into_iter().collect();
        compare_kernels(&KERNEL_COLUMNS, &now, &committed, &["80"], &mut found);
        assert_eq!(found[0], "80/f local_bytes: 8, committed 0");
        assert!(found.len() == 2 && found[1].starts_with("80/g is in the committed report"));
    }

    #[test]
    fn other_columns_are_refused() {
        assert!(
            report(&figures(&[]))
                .regressions("{\"schema\": 0}", &["80"])
                .is_err()
        );
        assert!(
            report(&figures(&[]))
                .regressions("no json", &["80"])
                .is_err()
        );
    }
}
