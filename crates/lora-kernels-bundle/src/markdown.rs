//! results.md: the results for people to read.

use std::fmt::Write as _;

use crate::results::{MeasuredDevice, MeasuredLayer, Outcome, Pass, Results, Row, TestRun, Way};

/// The results as a Markdown page.
pub fn write(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = head(&mut text, results);
    let _ = tests(&mut text, &results.tests);
    let _ = if results.device.emulated {
        untimed(&mut text, results)
    } else {
        timed(&mut text, results)
    };
    text
}

fn head(text: &mut String, results: &Results) -> std::fmt::Result {
    let Results {
        date,
        seconds,
        complete,
        build,
        device,
        ..
    } = results;
    let MeasuredDevice {
        name,
        cuda,
        compute_capability,
        multiprocessors,
        ..
    } = device;
    writeln!(text, "# {name}, {date}\n")?;
    let driver = device.driver.as_deref().unwrap_or("unknown");
    let (l2, memory) = (device.l2_bytes >> 20, device.memory_bytes >> 30);
    writeln!(
        text,
        "- compute capability {compute_capability}, {multiprocessors} multiprocessors, {l2} MiB of L2, {memory} GiB"
    )?;
    writeln!(text, "- driver {driver}, which supports CUDA {cuda}")?;
    writeln!(
        text,
        "- commit {}, nvcc {}, machine code for {}",
        build.commit, build.nvcc, build.archs
    )?;
    let end = if *complete { "complete" } else { "**cut off**" };
    writeln!(text, "- {end} after {seconds} s")?;
    if let Some(cublas) = &results.cublas {
        writeln!(text, "- {cublas}")?;
    }
    for note in &results.notes {
        writeln!(text, "\n**{note}**")?;
    }
    Ok(())
}

fn tests(text: &mut String, tests: &[TestRun]) -> std::fmt::Result {
    if tests.is_empty() {
        return writeln!(text, "\nThe correctness suite was not run.");
    }
    let passed: u32 = tests.iter().map(|run| run.passed).sum();
    let is_bad = |run: &&TestRun| !matches!(run.outcome, Outcome::Passed | Outcome::NotRun);
    let bad: Vec<_> = tests.iter().filter(is_bad).collect();
    let good = tests.iter().filter(|run| run.outcome == Outcome::Passed);
    writeln!(text, "\n## Correctness\n")?;
    writeln!(
        text,
        "{} of {} runs passed, {passed} tests in all.\n",
        good.count(),
        tests.len()
    )?;
    writeln!(
        text,
        "| step | program | outcome | passed | failed | ignored | s |\n|---|---|---|---|---|---|---|"
    )?;
    for run in tests {
        let outcome = match run.outcome {
            Outcome::Running => "**cut off**",
            Outcome::NotRun => "not run",
            Outcome::Passed => "passed",
            Outcome::Failed => "**failed**",
            Outcome::TimedOut => "**ran out of time**",
            Outcome::NothingRun => "**ran no test**",
        };
        let TestRun {
            step,
            program,
            passed,
            failed,
            ignored,
            seconds,
            ..
        } = run;
        writeln!(
            text,
            "| {step} | {program} | {outcome} | {passed} | {failed} | {ignored} | {seconds} |"
        )?;
    }
    for run in bad.iter().filter(|run| !run.failures.is_empty()) {
        writeln!(text, "\nFailed in {} of {}:\n", run.program, run.step)?;
        for name in &run.failures {
            writeln!(text, "- `{name}`")?;
        }
    }
    Ok(())
}

/// The calls that ran without being timed.
fn untimed(text: &mut String, results: &Results) -> std::fmt::Result {
    bench_head(text, results)?;
    if results.timings.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\nThe device is emulated. Every call ran, none was timed: nothing here says how fast a GPU is."
    )?;
    writeln!(
        text,
        "\n| layer | type | pass | way | |\n|---|---|---|---|---|"
    )?;
    for row in &results.timings {
        let (layer, dtype, pass) = (shape(&row.layer), &row.layer.dtype, row.pass.name());
        let note = row.note.as_deref().unwrap_or_default();
        writeln!(
            text,
            "| {layer} | {dtype} | {pass} | {} | {note} |",
            way(row.way)
        )?;
    }
    Ok(())
}

fn bench_head(text: &mut String, results: &Results) -> std::fmt::Result {
    if !results.bench_failures.is_empty() || !results.timings.is_empty() {
        writeln!(text, "\n## Benches")?;
    }
    for failure in &results.bench_failures {
        writeln!(text, "\n**{failure}**")?;
    }
    Ok(())
}

fn timed(text: &mut String, results: &Results) -> std::fmt::Result {
    bench_head(text, results)?;
    if results.timings.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\nMedian, least and greatest time of a call in ten samples between CUDA events, after a warm-up; TFLOP/s of what is asked for, the adapter's share included where there is one. Every call has \
         other tensors than the one before, and these come round again only after more than twice the L2 cache. × is the time over that of the \
         plain cuBLAS product of the same pass, x·Wᵀ or dy·W, one for each projection. \"{}\" is Unsloth's sequence of cuBLAS calls: \
         for every projection three in forward, and seven in backward.",
        name(Way::Unsloth { rank: 1 })
    )?;
    for pass in [Pass::Forward, Pass::Backward] {
        let rows: Vec<_> = results
            .timings
            .iter()
            .filter(|row| row.pass == pass)
            .collect();
        if !rows.is_empty() {
            table(text, pass, &rows)?;
        }
    }
    Ok(())
}

fn table(text: &mut String, pass: Pass, rows: &[&Row]) -> std::fmt::Result {
    let title = if pass == Pass::Forward {
        "Forward"
    } else {
        "Backward"
    };
    writeln!(text, "\n### {title}\n")?;
    writeln!(
        text,
        "| layer | type | r | way | µs | from – to | TFLOP/s | × plain |\n|---|---|---|---|---|---|---|---|"
    )?;
    for row in rows {
        let (layer, dtype) = (shape(&row.layer), &row.layer.dtype);
        let rank = match row.way {
            Way::Plain => String::new(),
            Way::Unsloth { rank } | Way::Ours { rank, .. } => rank.to_string(),
        };
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(String::new, |value| format!("{value:.digits$}"))
        };
        let time = row
            .note
            .clone()
            .unwrap_or_else(|| number(row.microseconds, 1));
        let spread = row
            .microseconds_range
            .map_or_else(String::new, |[low, high]| format!("{low:.1} – {high:.1}"));
        let (tflops, ratio) = (number(row.tflops, 1), number(row.time_over_cublas, 3));
        writeln!(
            text,
            "| {layer} | {dtype} | {rank} | {} | {time} | {spread} | {tflops} | {ratio} |",
            name(row.way)
        )?;
    }
    means(text, rows)
}

/// The geometric means of the ratios for each way.
fn means(text: &mut String, rows: &[&Row]) -> std::fmt::Result {
    let mut names: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| row.way != Way::Plain) {
        if !names.contains(&name(row.way)) {
            names.push(name(row.way));
        }
    }
    for way in names {
        let of_way = rows.iter().filter(|row| name(row.way) == way);
        let logarithms: Vec<f64> = of_way
            .filter_map(|row| Some(row.time_over_cublas?.ln()))
            .collect();
        if !logarithms.is_empty() {
            let mean = (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp();
            writeln!(
                text,
                "\n{way}: × {mean:.3} in the geometric mean of {}.",
                logarithms.len()
            )?;
        }
    }
    Ok(())
}

/// M x K → N
fn shape(layer: &MeasuredLayer) -> String {
    let outputs: Vec<_> = layer.out_features.iter().map(usize::to_string).collect();
    format!(
        "{} x {} → {}",
        layer.tokens,
        layer.in_features,
        outputs.join(" + ")
    )
}

fn name(way: Way) -> String {
    match way {
        Way::Plain => "plain cuBLAS".to_owned(),
        Way::Unsloth { .. } => "three launches".to_owned(),
        Way::Ours { p: 0.0, .. } => "ours".to_owned(),
        Way::Ours { p, .. } => format!("ours, dropout {p}"),
    }
}

fn way(way: Way) -> String {
    match way {
        Way::Plain => name(way),
        Way::Unsloth { rank } | Way::Ours { rank, .. } => format!("{}, r = {rank}", name(way)),
    }
}

#[cfg(test)]
mod tests_of_text {
    use super::*;
    use crate::results::tests::{device, measurement, nanoseconds};
    use crate::results::{Bench, Build, Time, rows};

    fn results(emulated: bool, measurements: Vec<crate::results::Measurement>) -> Results {
        let device = device(emulated);
        let bench = Bench {
            emulated,
            measurements,
            ..Bench::default()
        };
        Results {
            date: "2026-01-02T03:04:05Z".to_owned(),
            seconds: 300,
            complete: true,
            notes: Vec::new(),
            build: Build::default(),
            tests: Vec::new(),
            bench_failures: Vec::new(),
            cublas: Some("cuBLAS 13.0.2 (libcublas.so.13)".to_owned()),
            timings: rows(&bench, &device).unwrap(),
            device,
        }
    }

    #[test]
    fn a_gpus_table_has_times_throughputs_and_ratios() {
        let ours = Way::Ours { rank: 16, p: 0.1 };
        let text = write(&results(
            false,
            vec![
                measurement(Way::Plain, Pass::Forward, nanoseconds(1e6)),
                measurement(ours, Pass::Forward, nanoseconds(1.25e6)),
            ],
        ));
        assert!(
            text.contains(
                "| 8192 x 4096 → 4096 | bf16 | 16 | ours, dropout 0.1 | 1250.0 | 625.0 – 2500.0 | 219.9 | 1.250 |"
            ),
            "{text}"
        );
        assert!(
            text.contains("ours, dropout 0.1: × 1.250 in the geometric mean of 1."),
            "{text}"
        );
        assert!(
            text.contains("The correctness suite was not run."),
            "{text}"
        );
    }

    #[test]
    fn an_emulated_devices_table_names_no_unit_of_time() {
        let ours = Way::Ours { rank: 16, p: 0.0 };
        let text = write(&results(
            true,
            vec![measurement(ours, Pass::Forward, Time::Emulated)],
        ));
        assert!(
            text.contains("| ours, r = 16 | emulated: not timed |"),
            "{text}"
        );
        assert!(!text.contains("µs") && !text.contains("FLOP"), "{text}");
    }

    #[test]
    fn failures_are_listed_by_name() {
        let mut results = results(false, Vec::new());
        results.tests.push(TestRun {
            step: "tests".to_owned(),
            program: "integration".to_owned(),
            outcome: Outcome::Failed,
            passed: 4,
            failed: 1,
            ignored: 0,
            failures: vec!["layers::in_bf16::odd".to_owned()],
            seconds: 3,
        });
        results
            .bench_failures
            .push("The bench ended early".to_owned());
        let text = write(&results);
        assert!(
            text.contains("0 of 1 runs passed, 4 tests in all."),
            "{text}"
        );
        assert!(
            text.contains("| tests | integration | **failed** | 4 | 1 | 0 | 3 |"),
            "{text}"
        );
        assert!(text.contains("- `layers::in_bf16::odd`"), "{text}");
        assert!(text.contains("**The bench ended early**"), "{text}");
    }
}
