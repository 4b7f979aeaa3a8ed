//! Files that are refused, and the messages.

use safetensors::Dtype;

use super::layer_file::LayerFile;
use super::{IN, OUT, RANK, TOKENS, assert_refused, assert_status, folder, replay, written};

#[test]
fn each_defect_of_a_file_is_named_in_one_line() {
    let folder = folder("defects");
    let good = LayerFile::good;
    let mut no_metadata = good();
    no_metadata.metadata.clear();
    let cases: Vec<(LayerFile, &[&str])> = vec![
        (good().without("x"), &["tensor x is missing"]),
        (good().without("weight"), &["tensor weight is missing"]),
        (good().without("lora_A"), &["tensor lora_A is missing"]),
        (good().without("lora_B"), &["tensor lora_B is missing"]),
        (
            good().with("weight", &[OUT, IN + 1]),
            &["tensor weight is 17 x 25", "17 x 24"],
        ),
        (
            good().with("lora_A", &[RANK, IN - 1]),
            &["tensor lora_A is 3 x 23", "3 x 24"],
        ),
        (
            good().with("lora_B", &[OUT, RANK + 1]),
            &["tensor lora_B is 17 x 4", "17 x 3"],
        ),
        (
            good().with("lora_B", &[OUT + 1, RANK]),
            &["tensor lora_B is 18 x 3", "17 x 3"],
        ),
        (
            good().with("bias", &[OUT - 1]),
            &["tensor bias is 1 x 16", "1 x 17"],
        ),
        (
            good().with("bias", &[1, OUT]),
            &["tensor bias has shape [1, 17]", "one dimension"],
        ),
        (
            good().with("dy", &[TOKENS, IN]),
            &["tensor dy is 5 x 24", "5 x 17"],
        ),
        (
            good().with("y", &[TOKENS + 1, OUT]),
            &["tensor y is 6 x 17", "5 x 17"],
        ),
        (
            good().with("dx", &[TOKENS, OUT]),
            &["tensor dx is 5 x 17", "5 x 24"],
        ),
        (
            good().with("d_lora_A", &[IN, RANK]),
            &["tensor d_lora_A is 24 x 3", "3 x 24"],
        ),
        (
            good().with("d_lora_B", &[RANK, OUT]),
            &["tensor d_lora_B is 3 x 17", "17 x 3"],
        ),
        (
            good().with("x", &[1, TOKENS, IN]),
            &["tensor x has shape [1, 5, 24]", "two dimensions"],
        ),
        (
            good().with("x", &[0, IN]).with("dy", &[0, OUT]),
            &["tensor x has shape [0, 24]", "empty"],
        ),
        (
            good().with_bytes("weight", Dtype::F64, &[OUT, IN], vec![0; 8 * OUT * IN]),
            &["tensor weight is F64", "F32, F16 or BF16"],
        ),
        (
            good().with_bytes("y", Dtype::I32, &[TOKENS, OUT], vec![0; 4 * TOKENS * OUT]),
            &["tensor y is I32"],
        ),
        (
            good().with_first("x", f32::NAN),
            &["tensor x holds NaN at (0, 0)"],
        ),
        (
            good().with_first("dy", f32::INFINITY),
            &["tensor dy holds inf at (0, 0)"],
        ),
        (no_metadata, &["no scaling"]),
        (good().with_scaling("NaN"), &["scaling is \"NaN\""]),
        (good().with_scaling("-inf"), &["scaling is \"-inf\""]),
        (good().with_scaling("1e39"), &["scaling is \"1e39\""]),
        (good().with_scaling("two"), &["scaling is \"two\""]),
        (good().with_scaling(""), &["scaling is \"\""]),
    ];
    for (case, fragments) in cases {
        let path = written(&folder, &case.bytes());
        let output = replay(&path, &[]);
        assert_refused(&output, fragments);
        assert_refused(&output, &[path.to_str().unwrap()]);
    }
}

#[test]
fn a_number_too_large_for_the_type_is_refused() {
    let folder = folder("too_large");
    let path = written(
        &folder,
        &LayerFile::good().with_first("weight", 65520.0).bytes(),
    );
    assert_refused(
        &replay(&path, &["--dtype", "f16"]),
        &["tensor weight holds 65520 at (0, 0)", "too large for f16"],
    );
}

#[test]
fn what_is_no_safetensors_file_is_refused() {
    let folder = folder("no_safetensors");
    let good = LayerFile::good().bytes();
    let garbage: Vec<u8> = (0..4096u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for bytes in [
        &b""[..],
        b"{}",
        &garbage,
        &good[..good.len() - 1],
        &good[..40],
    ] {
        assert_refused(
            &replay(&written(&folder, bytes), &[]),
            &["is not a safetensors file"],
        );
    }
    assert_refused(
        &replay(&folder.join("absent.safetensors"), &[]),
        &["cannot read", "absent.safetensors"],
    );
    assert_refused(&replay(&folder, &[]), &["cannot read"]);
}

/// Whoever opened the one would wait for ever, and whoever read the other would run out of memory.
#[test]
fn pipes_and_devices_are_refused_at_once() {
    let folder = folder("no_file");
    let pipe = folder.join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    // A program that waits for the pipe's writer goes on when one comes and goes.
    let (ended, rest) = std::sync::mpsc::channel();
    let waiting = pipe.clone();
    let writer = std::thread::spawn(move || {
        let in_time = rest
            .recv_timeout(std::time::Duration::from_secs(120))
            .is_ok();
        if !in_time {
            drop(std::fs::OpenOptions::new().write(true).open(waiting));
        }
        in_time
    });
    let output = replay(&pipe, &[]);
    let _ = ended.send(());
    assert!(writer.join().unwrap(), "it waited for the pipe");
    assert_refused(&output, &["cannot read", "it is not a file"]);
    assert_refused(
        &replay("/dev/zero".as_ref(), &[]),
        &["cannot read", "it is not a file"],
    );
}

#[test]
fn an_output_that_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = folder("bad_out");
    let case = written(&folder, &LayerFile::good().bytes());
    let before = std::fs::read(&case).unwrap();
    for out in [
        folder.join("absent/out.safetensors"),
        folder.clone(),
        case.clone(),
    ] {
        assert_refused(
            &replay(&case, &["--out", out.to_str().unwrap()]),
            &["cannot write"],
        );
    }
    assert_eq!(std::fs::read(&case).unwrap(), before);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn unknown_arguments_are_refused() {
    let folder = folder("arguments");
    let case = written(&folder, &LayerFile::good().bytes());
    assert_status(&replay(&case, &["--dtype", "f64"]), 2);
    assert_status(&replay(&case, &["--output", "here"]), 2);
}
