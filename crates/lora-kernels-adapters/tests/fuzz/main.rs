//! Configs, headers and indices with random damage cause no panic, no disproportionate allocation,
//! and an error of one line that a terminal can show. The cases are the same on every run;
//! `LORA_KERNELS_FUZZ_CASES` is their number for each reader.

mod seeds;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use lora_kernels_adapters::base::{Mapping, Resolver};
use lora_kernels_adapters::shown::is_plain;
use lora_kernels_adapters::{Adapter, BaseModel, Error, PeftConfig, ReadOptions, Scaling};
use lora_kernels_fuzz::{Mutator, folder};

const CASES: u64 = 8_000;
const CASES_VARIABLE: &str = "LORA_KERNELS_FUZZ_CASES";

fn cases() -> u64 {
    std::env::var(CASES_VARIABLE).map_or(CASES, |text| text.parse().expect(CASES_VARIABLE))
}

/// The files have a few kilobytes; a compiled pattern may take a megabyte.
const LARGEST_ALLOCATION: usize = 8 << 20;

struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded to the system's allocator; only a maximum is recorded.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of this function, which is the system
        // allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

#[track_caller]
fn check<T>(case: u64, result: Result<T, Error>) -> Option<T> {
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(
        largest <= LARGEST_ALLOCATION,
        "case {case} allocated {largest} bytes at once"
    );
    result
        .map_err(|error| {
            let text = error.to_string();
            assert!(
                text.len() < 2000 && text.chars().all(is_plain),
                "case {case}: {text:?}"
            );
        })
        .ok()
}

/// Calls every method of an adapter and reads every byte of it.
fn use_adapter(adapter: &Adapter) {
    for module in adapter.modules() {
        let (r, k, n) = (module.rank, module.in_features, module.out_features);
        assert!(r > 0 && k > 0 && n > 0 && module.scaling > 0.0 && module.scaling.is_finite());
        let size = module.a.element_type().unwrap().size();
        assert!(module.a.bytes() >= r * k * size && module.b.bytes() == n * r * size);
        for tensor in [
            Some(module.a),
            Some(module.b),
            module.bias,
            module.magnitude,
        ]
        .into_iter()
        .flatten()
        {
            black_box(
                tensor
                    .read()
                    .unwrap()
                    .iter()
                    .map(|&byte| u64::from(byte))
                    .sum::<u64>(),
            );
        }
    }
    black_box(adapter.saved().count() + adapter.unknown().count());
    black_box(adapter.config().map(PeftConfig::variants));
}

fn fixture(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/fixtures").join(name).join(file)).unwrap()
}

#[test]
fn configs() {
    let seeds = ["patterns", "lora_bias", "dora"].map(|name| fixture(name, "adapter_config.json"));
    let mut read = 0;
    for case in 0..cases() {
        let mut mutator = Mutator::new(case);
        let text = String::from_utf8_lossy(&mutator.text(&seeds[case as usize % seeds.len()]))
            .into_owned();
        if let Some(config) = check(
            case,
            PeftConfig::parse(&text, Path::new("adapter_config.json")),
        ) {
            read += 1;
            black_box((
                config.rank_of("blocks.1.attn.q"),
                config.scaling_of("x"),
                config.variants(),
            ));
            check(
                case,
                PeftConfig::parse(&config.to_json(), Path::new("again")),
            )
            .expect("what was read is read again");
        }
    }
    assert!(
        read > cases() / 10,
        "only {read} configs got through: the damage is too great to test anything"
    );
}

#[test]
fn adapters() {
    let seeds = ["patterns", "dora", "conv", "bias_all"]
        .map(|name| fixture(name, "adapter_model.safetensors"));
    let folder = folder();
    let path = folder.path().join("adapter_model.safetensors");
    std::fs::write(
        folder.path().join("adapter_config.json"),
        r#"{"r": 3, "lora_alpha": 5, "target_parameters": ["x"]}"#,
    )
    .unwrap();
    let mut read = 0;
    for case in 0..cases() {
        let mut mutator = Mutator::new(case);
        std::fs::write(
            &path,
            mutator.safetensors(&seeds[case as usize % seeds.len()]),
        )
        .unwrap();
        if let Some(adapter) = check(case, Adapter::read(folder.path(), &ReadOptions::default())) {
            read += 1;
            use_adapter(&adapter);
        }
    }
    assert!(read > cases() / 20, "only {read} adapters got through");
}

/// Reads damaged copies of a file without a config; how many could be read.
fn read_single(good: &[u8]) -> u64 {
    let folder = folder();
    let path = folder.path().join("lora.safetensors");
    let mut read = 0;
    for case in 0..cases() {
        std::fs::write(&path, Mutator::new(case).safetensors(good)).unwrap();
        let mut options = ReadOptions::default();
        let mut result = Adapter::read(&path, &options);
        if let Err(Error::NoScaling { .. }) = result {
            options.scaling = Some(Scaling::Alpha(5.0));
            result = Adapter::read(&path, &options);
        }
        if let Some(adapter) = check(case, result) {
            read += 1;
            use_adapter(&adapter);
        }
    }
    read
}

#[test]
fn loralib() {
    let good = std::fs::read("tests/fixtures/loralib.safetensors").unwrap();
    assert!(read_single(&good) > cases() / 20);
}

#[test]
fn mistral() {
    assert!(read_single(&seeds::mistral()) > cases() / 20);
}

#[test]
fn diffusers() {
    assert!(read_single(&seeds::diffusers()) > cases() / 20);
}

#[test]
fn kohya() {
    assert!(read_single(&seeds::kohya()) > cases() / 20);
}

/// A model's own config.
#[test]
fn configs_of_models() {
    let folder = folder();
    let shard = fixture("base", "model.safetensors");
    std::fs::write(folder.path().join("model.safetensors"), shard).unwrap();
    let mut read = 0;
    for case in 0..cases() {
        let text = Mutator::new(case).text(seeds::CONFIG.as_bytes());
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        if let Some(base) = check(case, BaseModel::open(folder.path())) {
            read += 1;
            black_box(base.names().count());
        }
    }
    assert!(read > cases() / 20, "only {read} models got through");
}

#[test]
fn indices_and_shards() {
    let folder = folder();
    let shard = fixture("base", "model.safetensors");
    let adapter = Adapter::read(
        Path::new("tests/fixtures/patterns"),
        &ReadOptions::default(),
    )
    .unwrap();
    let good = folder.path().join("one.safetensors");
    std::fs::write(&good, &shard).unwrap();
    let names: Vec<String> = BaseModel::open(&good)
        .unwrap()
        .names()
        .map(str::to_owned)
        .collect();
    let map: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .map(|name| (name.clone(), "one.safetensors".into()))
        .collect();
    let index =
        serde_json::json!({"metadata": {"total_size": 9748}, "weight_map": map}).to_string();
    let mut read = 0;
    for case in 0..cases() {
        let mut mutator = Mutator::new(case);
        let (text, bytes) = match case % 2 {
            0 => (mutator.text(index.as_bytes()), shard.clone()),
            _ => (index.clone().into_bytes(), mutator.safetensors(&shard)),
        };
        std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
        std::fs::write(&good, bytes).unwrap();
        if let Some(base) = check(case, BaseModel::open(folder.path())) {
            read += 1;
            let resolver = Resolver::new(&base, &adapter.wanted(), &Mapping::default(), &[]);
            for module in adapter.modules() {
                let name = format!("{}.weight", module.path);
                check(case, resolver.resolve(module.component, &name));
            }
        }
    }
    assert!(read > cases() / 20, "only {read} models got through");
}
