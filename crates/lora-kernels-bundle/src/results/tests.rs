use super::*;

pub fn device(emulated: bool) -> MeasuredDevice {
    MeasuredDevice {
        name: if emulated {
            "Emulated NVIDIA A100"
        } else {
            "NVIDIA A100"
        }
        .to_owned(),
        emulated,
        driver: Some("580.65.06".to_owned()),
        cuda: "13.0".to_owned(),
        compute_capability: "8.0".to_owned(),
        multiprocessors: 108,
        l2_bytes: 40 << 20,
        memory_bytes: 40 << 30,
    }
}

pub fn measurement(way: Way, pass: Pass, time: Time) -> Measurement {
    let layer = MeasuredLayer {
        tokens: 8192,
        in_features: 4096,
        out_features: vec![4096],
        dtype: "bf16".to_owned(),
    };
    Measurement {
        layer,
        pass,
        way,
        flops: 274_877_906_944,
        time,
    }
}

pub fn nanoseconds(median: f64) -> Time {
    Time::Nanoseconds {
        median,
        low: median * 0.5,
        high: median * 2.0,
    }
}

const OURS: Way = Way::Ours { rank: 16, p: 0.1 };

#[test]
fn times_become_microseconds_tflops_and_a_ratio_to_the_plain_product_of_the_same_pass() {
    let bench = Bench {
        emulated: false,
        cublas: "cuBLAS".to_owned(),
        measurements: vec![
            measurement(Way::Plain, Pass::Forward, nanoseconds(1e6)),
            measurement(Way::Plain, Pass::Backward, nanoseconds(4e6)),
            measurement(OURS, Pass::Forward, nanoseconds(1.25e6)),
            measurement(OURS, Pass::Backward, nanoseconds(5e6)),
        ],
    };
    let rows = rows(&bench, &device(false)).unwrap();
    assert_eq!(rows[0].time_over_cublas, Some(1.0));
    assert_eq!(rows[2].microseconds, Some(1250.0));
    assert_eq!(rows[2].microseconds_range, Some([625.0, 2500.0]));
    assert_eq!(rows[2].time_over_cublas, Some(1.25));
    assert_eq!(rows[3].time_over_cublas, Some(1.25));
    let tflops = rows[2].tflops.unwrap();
    assert!((tflops - 219.9).abs() < 0.1, "{tflops}");
}

#[test]
fn a_later_bench_replaces_what_it_measured_again() {
    let of = |way, median| measurement(way, Pass::Forward, nanoseconds(median));
    let bench = |measurements| Bench {
        cublas: "cuBLAS".to_owned(),
        measurements,
        ..Bench::default()
    };
    let mut all = bench(vec![of(Way::Plain, 2.0), of(OURS, 3.0)]);
    all.merge(bench(vec![
        of(OURS, 4.0),
        of(Way::Unsloth { rank: 16 }, 5.0),
    ]));
    let expected = [
        of(Way::Plain, 2.0),
        of(OURS, 4.0),
        of(Way::Unsloth { rank: 16 }, 5.0),
    ];
    assert_eq!(all.measurements, expected);
    // A bench whose time was over has nothing better.
    let over = Time::Missing("the time was over".to_owned());
    all.merge(bench(vec![measurement(OURS, Pass::Forward, over)]));
    assert_eq!(all.measurements, expected);
}

#[test]
fn a_time_is_the_median_of_the_samples_after_the_warm_up() {
    let samples = [900.0, 800.0, 4.0, 1.0, 3.0, 2.0];
    let expected = Time::Nanoseconds {
        median: 2.5,
        low: 1.0,
        high: 4.0,
    };
    assert_eq!(Time::of(&samples, 4, false), Some(expected));
    assert_eq!(
        Time::of(&samples, 7, false),
        None,
        "a try, not a measurement"
    );
    assert_eq!(Time::of(&samples, 4, true), Some(Time::Emulated));
    assert_eq!(Time::of(&[], 4, true), None);
}

#[test]
fn without_cublas_there_is_a_time_and_no_ratio() {
    let bench = Bench {
        measurements: vec![
            measurement(
                Way::Plain,
                Pass::Forward,
                Time::Missing("no cuBLAS found".to_owned()),
            ),
            measurement(OURS, Pass::Forward, nanoseconds(1e6)),
        ],
        ..Bench::default()
    };
    let rows = rows(&bench, &device(false)).unwrap();
    assert_eq!(
        (rows[0].microseconds, rows[0].note.as_deref()),
        (None, Some("no cuBLAS found"))
    );
    assert_eq!(
        (rows[1].microseconds, rows[1].time_over_cublas),
        (Some(1000.0), None)
    );
}

#[test]
fn a_time_from_an_emulated_device_is_refused() {
    for emulated in [(true, false), (false, true)] {
        let mut bench = Bench {
            emulated: emulated.0,
            ..Bench::default()
        };
        bench.measurements = vec![measurement(OURS, Pass::Forward, Time::Emulated)];
        let rows_of = |bench: &Bench| rows(bench, &device(emulated.1));
        assert_eq!(rows_of(&bench).unwrap()[0].note.as_deref(), Some(EMULATED));
        bench
            .measurements
            .push(measurement(OURS, Pass::Backward, nanoseconds(1.0)));
        assert!(
            rows_of(&bench)
                .unwrap_err()
                .contains("an interpreter's time")
        );
    }
}
