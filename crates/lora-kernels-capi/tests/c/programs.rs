//! C programs on the shared and the static library: compiled with gcc, warnings being errors, and
//! run on the device that tests run on.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use lora_kernels_test_device::{Selection, select};

const SANITIZE: [&str; 3] = ["-fsanitize=address", "-g", "-fno-omit-frame-pointer"];
/// What programs that are linked with the shared library look for.
const SONAME: &str = concat!(
    "liblora_kernels.so.",
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);
/// What Rust's standard library needs where it is linked statically
/// (`rustc --print native-static-libs`).
const SYSTEM: [&str; 6] = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

#[derive(Clone, Copy, PartialEq)]
pub enum Linked<'a> {
    Shared,
    Static,
    /// Statically, with a library in another folder.
    StaticIn(&'a Path),
}

/// Where programs find what they are compiled, linked and run with.
pub struct Folders {
    /// Of the programs.
    pub out: PathBuf,
    /// `liblora_kernels.so`, which is also there by its soname, and `.a`, named as installed.
    pub libraries: PathBuf,
    /// The emulated driver under the names that programs look for; none where the machine's own is
    /// used.
    pub driver: Option<PathBuf>,
}

pub fn folders() -> &'static Folders {
    static FOLDERS: OnceLock<Folders> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
        let libraries = out.join("lib");
        let deps = std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .to_owned();
        for (suffix, name) in [
            ("so", SONAME),
            ("so", "liblora_kernels.so"),
            ("a", "liblora_kernels.a"),
        ] {
            let built = deps.join("liblora_kernels_capi").with_extension(suffix);
            link(&built, &libraries.join(name));
        }
        let driver = match select().expect("a device, real or emulated") {
            Selection::Emulated { path } => {
                let folder = out.join("cuda");
                for name in ["libcuda.so", "libcuda.so.1"] {
                    link(&path, &folder.join(name));
                }
                Some(folder)
            }
            Selection::Real => None,
        };
        Folders {
            out,
            libraries,
            driver,
        }
    })
}

pub fn link(to: &Path, at: &Path) {
    assert!(to.is_file(), "{} is missing", to.display());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(at);
    std::os::unix::fs::symlink(to, at).unwrap();
}

pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{} can't be run: {error}", command.get_program().display())
    });
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}\n{stderr}",
        output.status
    );
    output
}

pub struct Program {
    path: PathBuf,
    sanitized: bool,
}

pub fn compile(
    compiler: &str,
    source: &Path,
    linked: Linked<'_>,
    flags: &[&str],
    libraries: &[&str],
) -> Program {
    let folders = folders();
    let sanitized = flags.contains(&SANITIZE[0]);
    let name = format!(
        "{}-{}{}",
        source.file_name().unwrap().display(),
        match linked {
            Linked::Shared => "shared",
            Linked::Static => "static",
            Linked::StaticIn(_) => "static-in",
        },
        if sanitized { "-asan" } else { "" }
    );
    let path = folders.out.join(name);
    let mut command = Command::new(compiler);
    command
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"])
        .args(flags);
    command
        .arg("-I")
        .arg(here("include"))
        .arg("-I")
        .arg(here("tests/c"));
    command.arg(source).arg("-o").arg(&path);
    let libraries_of_ours = match linked {
        Linked::StaticIn(folder) => folder,
        Linked::Shared | Linked::Static => &folders.libraries,
    };
    command.arg("-L").arg(libraries_of_ours);
    match linked {
        Linked::Shared => command.arg("-llora_kernels"),
        _ => command.arg("-l:liblora_kernels.a").args(SYSTEM),
    };
    if let Some(driver) = &folders.driver {
        command.arg("-L").arg(driver);
    }
    command.args(libraries).args(["-lm", "-pthread"]);
    succeed(command);
    Program { path, sanitized }
}

pub fn run(program: &Program, driver: Option<&Path>) -> String {
    run_with(program, driver, &[])
}

pub fn run_with(program: &Program, driver: Option<&Path>, arguments: &[&Path]) -> String {
    let mut command = Command::new(&program.path);
    let found = [Some(folders().libraries.as_path()), driver];
    let found: Vec<&OsStr> = found.into_iter().flatten().map(Path::as_os_str).collect();
    command.args(arguments);
    command.env("LD_LIBRARY_PATH", found.join(OsStr::new(":")));
    if program.sanitized {
        command.env("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0");
    }
    String::from_utf8(succeed(command).stdout).unwrap()
}

pub const C: [&str; 1] = ["-std=c11"];

pub fn sanitized_c() -> Vec<&'static str> {
    [&C[..], &SANITIZE].concat()
}

/// Against the shared library as it is, and against the static one under AddressSanitizer with its
/// search for leaks.
fn both_ways(source: &str) {
    let source = here(source);
    let driver = folders().driver.as_deref();
    run(
        &compile("gcc", &source, Linked::Shared, &C, &["-lcuda"]),
        driver,
    );
    run(
        &compile("gcc", &source, Linked::Static, &sanitized_c(), &["-lcuda"]),
        driver,
    );
}

#[test]
fn layers_are_right() {
    both_ways("tests/c/layer.c");
}

#[test]
fn layers_leave_nothing_behind_in_the_shared_library() {
    let program = compile(
        "gcc",
        &here("tests/c/layer.c"),
        Linked::Shared,
        &sanitized_c(),
        &["-lcuda"],
    );
    assert_eq!(
        run(&program, folders().driver.as_deref()).lines().count(),
        3
    );
}

#[test]
fn rows_go_through_adapters_of_a_table_forward_and_backward() {
    both_ways("tests/c/table.c");
}

#[test]
fn shards_draw_the_mask_of_the_whole() {
    both_ways("tests/c/masks.c");
}

#[test]
fn merges_are_right() {
    both_ways("tests/c/merge.c");
}

#[test]
fn bad_input_is_refused_with_its_number_and_a_text() {
    both_ways("tests/c/errors.c");
}

#[test]
fn what_forward_saves_is_one_buffer_or_two_and_has_a_record() {
    both_ways("tests/c/saved.c");
}

#[test]
fn negative_numbers_are_shown_as_they_were_given() {
    both_ways("tests/c/negative.c");
}

#[test]
fn contexts_captures_and_threads_are_left_in_peace() {
    both_ways("tests/c/state.c");
}

#[test]
fn what_is_freed_in_a_call_lives_until_it_returns_and_takes_no_context_with_it() {
    both_ways("tests/c/freed.c");
}

#[test]
fn a_fault_on_the_device_is_an_error_and_no_crash() {
    both_ways("tests/c/fault.c");
}

#[test]
fn plans_need_no_driver() {
    // The loader looks here before it looks where drivers are installed, and a file that is no
    // library ends its search.
    let none = folders().out.join("no-driver");
    std::fs::create_dir_all(&none).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(none.join(name), "no library").unwrap();
    }
    for (linked, flags) in [
        (Linked::Shared, C.to_vec()),
        (Linked::Static, sanitized_c()),
    ] {
        let program = compile("gcc", &here("tests/c/plan.c"), linked, &flags, &[]);
        let printed = run(&program, Some(&none));
        assert!(
            printed.contains("saved") && printed.contains("workspace"),
            "{printed}"
        );
    }
}

#[test]
fn the_header_is_cpp_too() {
    let program = compile(
        "g++",
        &here("tests/c/header.cpp"),
        Linked::Shared,
        &["-std=c++17"],
        &[],
    );
    run(&program, None);
}

#[test]
fn the_example_of_the_readme_runs() {
    let readme = std::fs::read_to_string(here("README.md")).unwrap();
    let example = readme
        .split("```c\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let source = folders().out.join("example.c");
    std::fs::write(&source, example.expect("an example in C")).unwrap();
    let program = compile("gcc", &source, Linked::Shared, &C, &["-lcuda"]);
    let printed = run(&program, folders().driver.as_deref());
    assert!(printed.contains("y[0] = 6.75"), "{printed}");
}

#[test]
fn the_shared_library_is_looked_for_by_its_version() {
    let mut readelf = Command::new("readelf");
    readelf
        .arg("-d")
        .arg(folders().libraries.join("liblora_kernels.so"));
    let printed = String::from_utf8(succeed(readelf).stdout).unwrap();
    assert!(printed.contains(&format!("[{SONAME}]")), "{printed}");
}

#[test]
fn the_shared_library_exports_the_api_and_nothing_else() {
    let library = folders().libraries.join("liblora_kernels.so");
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only", "-P"]).arg(&library);
    let symbols = String::from_utf8(succeed(nm).stdout).unwrap();
    let mut symbols: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    symbols.sort_unstable();

    let header = std::fs::read_to_string(here("include/lora_kernels.h")).unwrap();
    let lines = header
        .lines()
        .filter(|line| !line.starts_with("//") && !line.starts_with(' '));
    let called = lines.filter_map(|line| line.split('(').next().filter(|before| *before != line));
    let mut declared: Vec<&str> = called
        .filter_map(|before| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("lora_"))
        .collect();
    declared.sort_unstable();
    assert_eq!(symbols, declared);
}
