//! The table of kernels: what is made of it, and what its errors say.

use lora_kernels_build::archs::parse_list;
use lora_kernels_build::table::{Table, parse};

const TABLE: &str = include_str!("table.toml");

fn table() -> Table {
    parse(TABLE).unwrap()
}

/// The error of the table with `from` replaced.
fn error(from: &str, to: &str) -> String {
    assert!(TABLE.contains(from), "{from}");
    parse(&TABLE.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn an_entry_is_a_function_per_dtype_and_access() {
    let units = table().units();
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(
        names,
        ["sum__sm80__f16", "sum__sm80__f32", "grad_b__sm90__f16"]
    );
    let source = &units[0].source;
    assert!(source.contains("#include \"skinny/sum.cuh\""), "{source}");
    for (access, template) in [("vec", "kVectorised"), ("any", "kAny")] {
        let symbol =
            format!("lora_sum__sm80__f16__m64r16_{access}(const __grid_constant__ SumParams p)");
        assert!(source.contains(&symbol), "{source}");
        let instance = format!("Sum<__half, Tile_m64r16, Access::{template}>");
        assert!(source.contains(&format!("{instance}::run(p);")), "{source}");
        assert!(
            source.contains(&format!("threads_are<128, {instance}::kThreads>")),
            "{source}"
        );
        assert!(
            source.contains(&format!("shared_is<4096, {instance}::kSharedBytes>")),
            "{source}"
        );
    }
    assert!(source.contains("__launch_bounds__(128, 3)"), "{source}");
    assert!(
        source.contains("#line 29 \"kernels/table.toml\""),
        "{source}"
    );
    assert!(
        units[1].source.contains("Sum<float, Tile_m64r16"),
        "{}",
        units[1].source
    );
    // An entry may have a name and a template of its own.
    let odd = &units[2].source;
    assert!(odd.contains("lora_grad_b__sm90__f16__last_vec_kn"), "{odd}");
    assert!(
        odd.contains("Last<__half, Tile_last, Access::kVectorisedKn>::run(p);"),
        "{odd}"
    );
}

#[test]
fn an_architecture_may_have_code_of_its_own() {
    let here = "architecture = \"sm90\"\ndtypes = [\"f16\"]\naccesses = [\"vec_kn\"]\n";
    let on = |architecture: &str| {
        let text = TABLE.replace(here, &here.replace("sm90", architecture));
        let units = parse(&text.replace("kernel = \"Last\"\n", ""))
            .unwrap()
            .units();
        units.last().unwrap().source.clone()
    };
    for (architecture, header, params) in [
        ("sm80", "\"skinny/grad_b.cuh\"", " GradBParams p"),
        ("sm90", "\"skinny/sm90/grad_b.cuh\"", " GradBSm90Params p"),
    ] {
        let source = on(architecture);
        assert!(
            source.contains(header) && source.contains(params),
            "{source}"
        );
        assert!(source.contains("    GradB<__half"), "{source}");
    }
}

#[test]
fn kernels_that_no_chosen_device_runs_are_left_out() {
    for (devices, symbols) in [("80,90", 5), ("90a", 5), ("80,100", 4)] {
        let mut table = table();
        table.keep_those_for(&parse_list("V", devices).unwrap());
        assert_eq!(table.rust().matches("Row {").count(), symbols, "{devices}");
        let sm90 = table.units().iter().any(|unit| unit.name.contains("sm90"));
        assert_eq!(sm90, symbols == 5, "{devices}");
    }
}

#[test]
fn plans_get_a_row_per_symbol() {
    let rust = table().rust();
    assert_eq!(rust.matches("Row {").count(), 5);
    for field in [
        "symbol: \"lora_sum__sm80__f16__m64r16_vec\"",
        "unit: \"sum__sm80__f16\"",
        "operation: Operation::GradB",
        "arch: Arch::Sm90",
        "dtype: DType::F32",
        "Tile { name: \"m64r16\", rows: 64, columns: 16, depth: 0, ranks: 16 }",
        "access: Access::VectorisedKn",
        "resident: 3",
        "quality: 0.5",
        "quality: 1.0",
    ] {
        assert!(rust.contains(field), "{field}: {rust}");
    }
}

#[test]
fn an_error_names_line_entry_field_and_what_is_allowed() {
    for (from, to, parts) in [
        (
            "operation = \"sum\"",
            "operation = \"summ\"",
            ["toml:30: kernel 1: operation `summ`", "sum, grad_b"],
        ),
        (
            "dtypes = [\"f16\", \"f32\"]",
            "dtypes = [\"f16\", \"f8\"]",
            ["kernel 1: dtypes `f8`", "f16, f32"],
        ),
        (
            "dtypes = [\"f16\", \"f32\"]",
            "dtypes = [\"f16\", \"f16\"]",
            ["dtypes `f16`", "twice"],
        ),
        (
            "dtypes = [\"f16\", \"f32\"]",
            "dtypes = []",
            ["dtypes must be a list", "f16, f32"],
        ),
        (
            "accesses = [\"vec\", \"any\"]",
            "accesses = \"vec\"",
            ["accesses must be a list", "vec, vec_kn, any"],
        ),
        (
            "architecture = \"sm80\"",
            "architecture = \"sm70\"",
            ["architecture `sm70`", "sm80, sm90"],
        ),
        (
            "threads = 128",
            "threads = 100",
            ["threads `100`", "multiple of 32"],
        ),
        (
            "threads = 128",
            "threads = 2048",
            ["threads must be", "from 32 to 1024"],
        ),
        (
            "threads = 128",
            "threads = \"many\"",
            ["threads must be", "from 32 to 1024"],
        ),
        (
            "threads = 128\n",
            "",
            ["toml:29: kernel 1: threads is missing", "from 32 to 1024"],
        ),
        (
            "resident = 3",
            "resident = 0",
            ["resident must be", "from 1 to 32"],
        ),
        (
            "shared = 4096",
            "shared = 240000",
            ["shared must be", "to 232448"],
        ),
        (
            "quality = 0.5",
            "quality = 2",
            ["kernel 2: quality must be", "at most 1"],
        ),
        (
            "rows = 64, ranks = 16",
            "rows = 64",
            ["kernel 1: block is missing", "`ranks`"],
        ),
        (
            "rows = 64, ranks = 16",
            "rows = 64, rank = 16",
            [
                "kernel 1: rank is not a field",
                "rows, columns, depth, ranks",
            ],
        ),
        (
            "resident = 3",
            "residents = 3",
            ["residents is not a field", "resident, shared"],
        ),
        (
            "compute = \"80\"",
            "compute = \"8\"",
            ["architecture sm80: compute `8`", "compute capability"],
        ),
        (
            "header = \"skinny/sum.cuh\"\n",
            "",
            ["operation sum: header is missing", "quoted"],
        ),
        (
            "[operations.grad_b.sm90]",
            "[operations.grad_b.sm70]",
            ["operation grad_b: sm70 is not a field", "tile, sm80, sm90"],
        ),
        (
            "params = \"GradBSm90Params\"",
            "tile = \"GradBSm90Params\"",
            [
                "operation grad_b on sm90: tile is not a field",
                "header, kernel, params",
            ],
        ),
        ("[dtypes]", "[dtypes", ["kernels/table.toml:8:", ""]),
    ] {
        let error = error(from, to);
        let named = parts.iter().all(|part| error.contains(part));
        assert!(
            named && error.starts_with("kernels/table.toml:"),
            "{to}: {error}"
        );
    }
}

#[test]
fn a_kernel_is_stated_once() {
    let first = TABLE.find("[[kernels]]").unwrap();
    let second = TABLE[first + 1..].find("[[kernels]]").unwrap() + first + 1;
    let twice = format!("{TABLE}\n{}", &TABLE[first..second]);
    let error = parse(&twice).unwrap_err();
    assert!(
        error.contains("kernel 3: tile `sum m64r16 in f16` repeats the kernel of line 29"),
        "{error}"
    );
    // The same tile for another dtype is another kernel.
    let split = TABLE.replacen("[\"f16\", \"f32\"]", "[\"f32\"]", 1);
    let other = TABLE[first..second].replacen("[\"f16\", \"f32\"]", "[\"f16\"]", 1);
    assert_eq!(
        parse(&format!("{split}\n{other}")).unwrap().kernels.len(),
        3
    );
}
