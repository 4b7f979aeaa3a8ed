//! Headers, also hostile ones, need at most twice their size in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use lora_kernels_adapters::{Error, TensorFile};

/// Counts the bytes that are allocated, and the most of them at a time. A reallocation counts as
/// both pieces of memory.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of a header, a little more than a power of two: what grows by doubling would have twice
/// that.
const BYTES: usize = (4 << 20) + 4096;
/// What doesn't depend on the header: a piece of the file, and paths.
const BESIDE: usize = 80 << 10;

/// A header of entries that `entry` makes until it has [`BYTES`].
fn repeated(mut entry: impl FnMut(usize) -> String) -> String {
    let mut text = String::from("{");
    for at in 0.. {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&entry(at));
        if text.len() >= BYTES {
            break;
        }
    }
    text + "}"
}

/// The least text of a tensor without elements.
fn empty(name: &str, shape: &str) -> String {
    format!("\"{name}\":{{\"dtype\":\"U8\",\"shape\":{shape},\"data_offsets\":[0,0]}}")
}

fn opened(path: &Path, header: &str) -> (Result<usize, Error>, usize) {
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(path, bytes).unwrap();
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let tensors = TensorFile::open(path).map(|file| file.tensors().len());
    (tensors, MOST.load(Ordering::Relaxed) - before)
}

/// One test, as others would allocate at the same time.
#[test]
fn a_header_needs_at_most_twice_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let metadata = |text: String| format!("{{\"__metadata__\":{{{text}}}}}");
    let long = "x".repeat(BYTES);
    let escaped = "\\\"".repeat(BYTES / 2);
    let pairs = repeated(|at| format!("\"{at:x}\":\"\""));
    let accepted = [
        (
            "many tensors",
            repeated(|at| empty(&format!("{at:x}"), "[0]")),
        ),
        (
            "some dimensions",
            repeated(|at| empty(&format!("{at:x}"), "[0,1,1,1,1,1,1]")),
        ),
        (
            "real names",
            repeated(|at| empty(&format!("model.layers.{at}.q_proj.weight"), "[0,4]")),
        ),
        ("a long name", format!("{{{}}}", empty(&long, "[0]"))),
        (
            "a long name of escapes",
            format!("{{{}}}", empty(&escaped, "[0]")),
        ),
        ("long metadata", metadata(format!("\"a\":\"{long}\""))),
        (
            "metadata of escapes",
            metadata(format!("\"a\":\"{escaped}\"")),
        ),
        ("a long key", metadata(format!("\"{long}\":\"\""))),
        (
            "many entries of metadata",
            metadata(pairs[1..pairs.len() - 1].to_owned()),
        ),
        ("white space", format!("{}{{}}", " ".repeat(BYTES))),
        (
            "an unknown field",
            format!("{{\"a\":{{\"x\":\"{long}\",{}}}", &empty("a", "[0]")[5..]),
        ),
    ];
    for (what, header) in &accepted {
        let (tensors, most) = opened(&path, header);
        assert!(tensors.is_ok(), "{what}: {}", tensors.unwrap_err());
        let bound = 2 * header.len() + BESIDE;
        assert!(
            most <= bound,
            "{what}: {most} bytes for a header of {}",
            header.len()
        );
    }
    let refused = [
        (
            "many dimensions",
            format!(
                "{{{}}}",
                empty("a", &format!("[0{}]", ",1".repeat(BYTES / 2)))
            ),
        ),
        (
            "more dimensions than names",
            repeated(|at| empty(&format!("{at:x}"), &format!("[0{}]", ",1".repeat(63)))),
        ),
        (
            "values in each other",
            format!("{{\"a\":{{\"x\":{}", "[".repeat(BYTES)),
        ),
        ("a long type", format!("{{\"a\":{{\"dtype\":\"{long}\"}}}}")),
        ("no end", format!("{{\"{long}")),
    ];
    for (what, header) in &refused {
        let (tensors, most) = opened(&path, header);
        let message = tensors.expect_err(what).to_string();
        assert!(
            message.len() < 1000 && message.contains("its "),
            "{what}: {message}"
        );
        assert!(most <= 2 * header.len() + BESIDE, "{what}: {most} bytes");
    }
}
