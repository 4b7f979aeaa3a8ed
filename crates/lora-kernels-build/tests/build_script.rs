//! The parts of build.rs: which GPUs, which nvcc, and what is compiled again after a change.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use lora_kernels_build::nvcc::Machine;
use lora_kernels_build::units;

mod arch_list {
    use lora_kernels_build::archs::{DEFAULT, gencode, known_to, parse, parse_list};

    fn names(list: &str) -> Vec<String> {
        parse_list("V", list)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_spelling_is_read() {
        assert_eq!(names("80,89,90"), ["80", "89", "90"]);
        assert_eq!(names("8.0 9.0a"), ["80", "90"]);
        assert_eq!(names("sm_90a"), ["90"]);
        assert_eq!(names("compute_86; sm_100a"), ["86", "100"]);
        assert_eq!(names("12.0"), ["120"]);
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        assert_eq!(names("90 80,8.0 90a"), ["80", "90"]);
    }

    #[test]
    fn what_is_no_capability_is_refused_by_name() {
        for item in [
            "native",
            "all",
            "8",
            "8.10",
            "+80",
            "8.+0",
            "90b",
            "1e2",
            "80a9",
            "sm_",
            "-1",
            "99999999999",
            "é",
        ] {
            let error = parse_list("LORA_KERNELS_CUDA_ARCHS", &format!("80,{item}")).unwrap_err();
            assert!(
                error.contains("LORA_KERNELS_CUDA_ARCHS") && error.contains(&format!("`{item}`")),
                "{error}"
            );
        }
        assert!(parse_list("V", " , ").is_err());
    }

    #[test]
    fn gpus_too_old_for_the_kernels_are_refused() {
        for item in ["75", "7.5", "sm_61"] {
            assert!(
                parse_list("V", item).unwrap_err().contains("older than 80"),
                "{item}"
            );
        }
    }

    #[test]
    fn families_of_gpus_are_refused() {
        for item in ["100f", "sm_120f", "compute_100f", "10.0f"] {
            let error = parse_list("V", item).unwrap_err();
            assert!(error.contains(item) && error.contains("family"), "{error}");
        }
        assert!(!parse("f").unwrap_err().contains("family"));
    }

    #[test]
    fn a_unit_has_one_front_end_pass_and_its_ptx() {
        let args = gencode(parse("80").unwrap(), &parse_list("V", DEFAULT).unwrap());
        let all = "arch=compute_80,code=[sm_80,sm_86,sm_89,sm_90,sm_120,compute_80]";
        assert_eq!(args, ["-gencode", all]);
    }

    #[test]
    fn a_unit_is_compiled_for_devices_that_run_it_only() {
        let devices = parse_list("V", "80,89,90,100").unwrap();
        let codes = |compute| gencode(parse(compute).unwrap(), &devices)[1].clone();
        let later = "arch=compute_89,code=[sm_89,sm_90,sm_100,compute_89]";
        assert_eq!(codes("89"), later);
        assert_eq!(codes("90a"), "arch=compute_90a,code=[sm_90a,compute_90a]");
        assert_eq!(codes("120a"), "arch=compute_120a,code=[compute_120a]");
    }

    #[test]
    fn ptx_is_there_whatever_is_asked_for() {
        for compute in ["90", "90a"] {
            let args = gencode(parse(compute).unwrap(), &parse_list("V", "80").unwrap());
            let ptx = format!("arch=compute_{compute},code=[compute_{compute}]");
            assert_eq!(args[1], ptx);
        }
    }

    #[test]
    fn what_nvcc_does_not_list_is_unknown_to_it() {
        let (known, unknown) = known_to(
            "sm_80\nsm_90\nsm_100\n",
            &parse_list("V", "80,90a,120").unwrap(),
        );
        assert_eq!(known, parse_list("V", "80,90").unwrap());
        assert_eq!(unknown, parse_list("V", "120").unwrap());
    }
}

/// A machine with these environment variables, and with these releases of nvcc at their paths.
#[derive(Default)]
struct Fake {
    vars: HashMap<&'static str, &'static str>,
    releases: HashMap<&'static str, &'static str>,
}

impl Machine for Fake {
    fn var(&self, name: &str) -> Option<OsString> {
        self.vars.get(name).map(OsString::from)
    }

    fn version(&self, path: &Path) -> Option<String> {
        let release = self.releases.get(path.to_str()?)?;
        Some(format!(
            "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release {release}, V{release}.88\n"
        ))
    }
}

/// A machine with these environment variables and no nvcc.
fn machine(vars: &[(&'static str, &'static str)]) -> Fake {
    Fake {
        vars: vars.iter().copied().collect(),
        releases: HashMap::new(),
    }
}

#[cfg(unix)]
mod nvcc_search {
    use super::Fake;
    use lora_kernels_build::nvcc::find;

    fn machine(
        vars: &[(&'static str, &'static str)],
        releases: &[(&'static str, &'static str)],
    ) -> Fake {
        Fake {
            releases: releases.iter().copied().collect(),
            ..super::machine(vars)
        }
    }

    const CHECKOUT: &str = "/checkout";
    const INSTALLED: &str = "/checkout/.toolchain/nvidia/cu13/bin/nvcc";

    fn found(machine: &Fake) -> String {
        find(machine, CHECKOUT.as_ref())
            .unwrap()
            .path
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn places_are_tried_in_the_documented_order() {
        let vars = [
            ("NVCC", "/n/nvcc"),
            ("CUDA_HOME", "/h"),
            ("CUDA_PATH", "/c"),
            ("PATH", "/p:/q"),
        ];
        let order = [
            "/n/nvcc",
            "/h/bin/nvcc",
            "/c/bin/nvcc",
            "/p/nvcc",
            "/q/nvcc",
            "/usr/local/cuda/bin/nvcc",
            INSTALLED,
        ];
        let mut machine = machine(&vars, &order.map(|path| (path, "13.0")));
        for path in order {
            assert_eq!(found(&machine), path);
            machine.releases.remove(path);
            if path == "/n/nvcc" {
                machine.vars.remove("NVCC");
            }
        }
        assert!(find(&machine, CHECKOUT.as_ref()).is_err());
    }

    #[test]
    fn nothing_found_names_the_variables_and_the_setup_command() {
        let error = find(&machine(&[], &[]), CHECKOUT.as_ref()).unwrap_err();
        for part in [
            "NVCC",
            "CUDA_HOME",
            "CUDA_PATH",
            "PATH",
            "cargo xtask setup",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_old_compiler_is_passed_over_and_mentioned() {
        let mut machine = machine(
            &[("PATH", "/usr/bin")],
            &[("/usr/bin/nvcc", "11.5"), (INSTALLED, "13.0")],
        );
        assert_eq!(found(&machine), INSTALLED);
        machine.releases.remove(INSTALLED);
        let error = find(&machine, CHECKOUT.as_ref()).unwrap_err();
        assert!(
            error.contains("/usr/bin/nvcc") && error.contains("11.5"),
            "{error}"
        );
    }

    #[test]
    fn nvcc_that_is_named_is_used_or_an_error() {
        let releases = [
            ("/p/nvcc-12", "12.4"),
            ("/old/nvcc", "11.8"),
            (INSTALLED, "13.0"),
        ];
        let with = |named| machine(&[("NVCC", named), ("PATH", "/p")], &releases);
        assert_eq!(found(&with("nvcc-12")), "/p/nvcc-12");
        for named in ["/missing/nvcc", "/old/nvcc", "nvcc-99"] {
            assert!(
                find(&with(named), CHECKOUT.as_ref())
                    .unwrap_err()
                    .contains(named)
            );
        }
    }

    #[test]
    fn releases_compare_as_numbers() {
        let nvcc = find(
            &machine(&[("CUDA_HOME", "/h")], &[("/h/bin/nvcc", "13.10")]),
            CHECKOUT.as_ref(),
        )
        .unwrap();
        assert_eq!(nvcc.release, (13, 10));
    }
}

mod nvcc_flags {
    use super::machine;
    use lora_kernels_build::arguments::arguments;
    use lora_kernels_build::flags::Flags;
    use lora_kernels_build::host::advice;

    fn flags(name: &'static str, value: &'static str) -> Result<Flags, String> {
        Flags::find(&machine(&[(name, value)]))
    }

    /// The arguments of nvcc 13.0 where these variables are set.
    fn with(variables: &[(&'static str, &'static str)]) -> Result<String, String> {
        let machine = machine(variables);
        let flags = Flags::find(&machine)?;
        Ok(arguments(&machine, (13, 0), &flags)?.join(" "))
    }

    #[test]
    fn flags_that_would_change_results_or_images_are_refused_by_name() {
        for name in ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"] {
            for (value, option) in [
                ("-lineinfo -use_fast_math", "use_fast_math"),
                ("--use_fast_math", "use_fast_math"),
                ("-fmad=true", "fmad"),
                ("--fmad true", "fmad"),
                ("-ftz=true", "ftz"),
                ("-prec-div=false", "prec-div"),
                ("-ptx", "ptx"),
                ("-rdc=true", "rdc"),
                ("--relocatable-device-code true", "relocatable-device-code"),
                ("-dc", "dc"),
                ("-dryrun", "dryrun"),
                ("-o /tmp/x", "o"),
                ("-optf flags.txt", "optf"),
                ("--options-file=flags.txt", "options-file"),
            ] {
                let error = flags(name, value).unwrap_err();
                assert!(
                    error.contains(&format!("{name}={value}: `{option}`")),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn flags_that_people_set_are_passed_on() {
        for value in [
            "-ccbin /usr/bin/g++-12",
            "-ccbin=g++-12 -allow-unsupported-compiler",
            "--threads 4 -lineinfo -G",
            "-Xcompiler -fno-plt -Xcompiler=-O2",
            "-Xcompiler -c -Xptxas -v",
            "-rdc=false --relocatable-device-code false",
            "-gencode arch=compute_90,code=sm_90",
            "-I/usr/include -DNDEBUG -std=c++20 --diag-suppress 20012",
        ] {
            assert!(flags("NVCC_APPEND_FLAGS", value).is_ok(), "{value}");
        }
    }

    #[test]
    fn arguments_leave_to_the_flags_what_the_flags_say() {
        let usual = with(&[]).unwrap();
        for part in ["-std=c++17", "-fmad=false", "--compress-mode=size"] {
            assert!(usual.contains(part), "{usual}");
        }
        assert!(!usual.contains("ccbin"), "{usual}");
        let own = with(&[("NVCC_CCBIN", "g++-12")]).unwrap();
        assert!(own.contains("-ccbin g++-12"), "{own}");

        for flag in ["-ccbin /opt/g++", "--compiler-bindir=/opt/g++"] {
            let both = with(&[("NVCC_CCBIN", "g++-12"), ("NVCC_PREPEND_FLAGS", flag)]).unwrap();
            assert_eq!(both, usual);
        }
        let standard = with(&[("NVCC_APPEND_FLAGS", "--std c++20")]).unwrap();
        assert!(!standard.contains("-std"), "{standard}");
        for flag in ["--compress-mode=balance", "-no-compress"] {
            let compression = with(&[("NVCC_APPEND_FLAGS", flag)]).unwrap();
            assert!(!compression.contains("compress"), "{compression}");
        }
    }

    #[test]
    fn advice_names_the_newest_host_compiler_that_nvcc_takes() {
        // What nvcc 13.0 prints, with its source line.
        let words = "crt/host_config.h:137:2: error: #error -- unsupported GNU version! gcc \
                     versions later than 15 are not supported! The nvcc flag\n  137 | #error -- \
                     unsupported GNU version! gcc versions later than 15 are not supported!\n";
        let advice_of_gcc = advice(words).unwrap();
        for part in [
            "g++ 15 or older",
            "NVCC_CCBIN=g++-15",
            "-allow-unsupported-compiler",
        ] {
            assert!(advice_of_gcc.contains(part), "{advice_of_gcc}");
        }
        let clang = "host_config.h:151:2: error: #error -- unsupported clang version! clang \
                     version must be less than 21 and greater than 3.2 .";
        assert!(advice(clang).unwrap().contains("set NVCC_CCBIN"));
    }

    #[test]
    fn advice_is_given_where_there_is_no_host_compiler() {
        for words in [
            "gcc: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler \
             properties.",
            "gcc: fatal error: cannot execute 'cc1plus': execvp: No such file or directory",
            "nvcc fatal   : Cannot find compiler 'cl.exe' in PATH",
        ] {
            assert!(advice(words).unwrap().contains("NVCC_CCBIN"), "{words}");
        }
        assert_eq!(advice("kernels/a.cu(3): error: expected a \";\""), None);
    }
}

#[test]
fn depfiles_are_read_as_make_would() {
    let rule = "out.fatbin : kernels/a.cu \\\n    kernels/with\\ space.cuh \\\n    /cuda/bin/..//include/b.h kernels/c$$d\\#.h\n";
    let files = [
        "kernels/a.cu",
        "kernels/with space.cuh",
        "/cuda/bin/..//include/b.h",
        "kernels/c$d#.h",
    ];
    assert_eq!(units::dependencies(rule), files);
    assert!(units::dependencies("").is_empty());
}

/// With a shell script in nvcc's place: the image is the unit and its headers, one after the other.
#[cfg(unix)]
mod incremental {
    use std::fs;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::machine;
    use lora_kernels_build::flags::Flags;
    use lora_kernels_build::units::{Compiler, Image, Unit};

    const NVCC: &str = r#"
echo "$NVCC_PREPEND_FLAGS+$NVCC_APPEND_FLAGS" > flags
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift ;;
        -MF) deps=$2; shift ;;
        *.cu) unit=$1 ;;
    esac
    shift
done
headers=$(sed -n 's/#include "\(.*\)"/kernels\/\1/p' "$unit")
if grep -q WRONG "$unit" $headers; then echo "$unit(1): error: WRONG" >&2; exit 2; fi
if grep -q HOST "$unit" $headers; then cat kernels/host >&2; exit 1; fi
grep -h warning "$unit" $headers >&2
cat "$unit" $headers > "$out"
echo "$out : $unit $headers" > "$deps"
"#;

    struct Checkout {
        root: PathBuf,
        compiler: Compiler,
    }

    impl Drop for Checkout {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    impl Checkout {
        /// Units a and b share one.cuh, b alone has two.cuh.
        fn new(name: &str) -> Self {
            let root =
                PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("build_script_{name}"));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(root.join("kernels")).unwrap();
            let script = root.join("nvcc.sh");
            fs::write(&script, NVCC).unwrap();
            let compiler = Compiler {
                nvcc: "/bin/sh".into(),
                version: "13.0".to_owned(),
                args: vec![script.to_str().unwrap().to_owned()],
                flags: Flags::default(),
                store: root.join("store"),
                root: root.clone(),
            };
            let checkout = Self { root, compiler };
            checkout.write("a.cu", "#include \"one.cuh\"\na");
            checkout.write("b.cu", "#include \"one.cuh\"\n#include \"two.cuh\"\nb");
            checkout.write("one.cuh", "1");
            checkout.write("two.cuh", "2");
            checkout
        }

        /// Dated back, as a file edited well before the build is.
        fn write(&self, file: &str, text: &str) {
            let path = self.root.join("kernels").join(file);
            fs::write(&path, text).unwrap();
            let past = SystemTime::now() - Duration::from_secs(60);
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(past)
                .unwrap();
        }

        fn build(&self) -> Result<Vec<Image>, String> {
            let units = ["a", "b"].map(|name| Unit {
                name: name.to_owned(),
                source: self.root.join(format!("kernels/{name}.cu")),
                args: vec!["-DUNIT".to_owned()],
            });
            self.compiler.build(&units, 2)
        }

        /// The units for which the compiler ran. Every image must be what its sources say now,
        /// wherever it is from.
        fn compiled(&self) -> Vec<String> {
            let read =
                |file: &str| fs::read_to_string(self.root.join("kernels").join(file)).unwrap();
            let images = self.build().unwrap();
            for image in &images {
                let headers = if image.name == "a" {
                    read("one.cuh")
                } else {
                    read("one.cuh") + &read("two.cuh")
                };
                let expected = read(&format!("{}.cu", image.name)) + &headers;
                assert_eq!(
                    fs::read_to_string(&image.fatbin).unwrap(),
                    expected,
                    "image of {}",
                    image.name
                );
            }
            images
                .into_iter()
                .filter(|image| image.compiled)
                .map(|image| image.name)
                .collect()
        }
    }

    #[test]
    fn a_touched_file_compiles_nothing() {
        let checkout = Checkout::new("touched");
        assert_eq!(checkout.compiled(), ["a", "b"]);
        checkout.write("one.cuh", "1");
        checkout.write("a.cu", "#include \"one.cuh\"\na");
        assert!(checkout.compiled().is_empty());
    }

    #[test]
    fn an_edited_file_compiles_its_users_only() {
        let checkout = Checkout::new("edited");
        checkout.compiled();
        checkout.write("two.cuh", "2 changed");
        assert_eq!(checkout.compiled(), ["b"]);
        checkout.write("a.cu", "#include \"one.cuh\"\na changed");
        assert_eq!(checkout.compiled(), ["a"]);
        checkout.write("one.cuh", "1 changed");
        assert_eq!(checkout.compiled(), ["a", "b"]);
        checkout.write("unrelated.cuh", "nobody includes it");
        assert!(checkout.compiled().is_empty());
    }

    #[test]
    fn going_back_compiles_nothing() {
        let checkout = Checkout::new("back");
        checkout.compiled();
        checkout.write("one.cuh", "1 changed");
        checkout.compiled();
        checkout.write("one.cuh", "1");
        assert!(checkout.compiled().is_empty());
    }

    #[test]
    fn other_arguments_or_another_compiler_compile_everything() {
        let mut checkout = Checkout::new("arguments");
        checkout.compiled();
        checkout.compiler.args.push("-DX".to_owned());
        assert_eq!(checkout.compiled(), ["a", "b"]);
        checkout.compiler.version = "13.1".to_owned();
        assert_eq!(checkout.compiled(), ["a", "b"]);
    }

    #[test]
    fn nvccs_own_variables_reach_it_and_another_value_compiles_everything() {
        let mut checkout = Checkout::new("flags");
        let mut build = |prepended: &'static str, appended: &'static str| {
            let machine = machine(&[
                ("NVCC_PREPEND_FLAGS", prepended),
                ("NVCC_APPEND_FLAGS", appended),
            ]);
            checkout.compiler.flags = Flags::find(&machine).unwrap();
            let compiled = checkout.compiled().len();
            let seen = fs::read_to_string(checkout.root.join("flags")).unwrap();
            (compiled, seen.trim().to_owned())
        };
        assert_eq!(build("", ""), (2, "+".to_owned()));
        assert_eq!(build("-DA -DB", ""), (2, "-DA -DB+".to_owned()));
        assert_eq!(build("", "-DA  -DB "), (2, "+-DA -DB".to_owned()));
        assert_eq!(build("-DA", "-DB"), (2, "-DA+-DB".to_owned()));
        // White space is no other value.
        assert_eq!(build("  ", "-DA -DB").0, 0);
        assert_eq!(build("", "").0, 0);
    }

    #[test]
    fn a_host_compiler_that_nvcc_refuses_points_at_nvcc_ccbin() {
        let checkout = Checkout::new("host");
        let refusal = "host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions \
                       later than 15 are not supported! The nvcc flag";
        checkout.write("host", refusal);
        checkout.write("two.cuh", "HOST");
        let error = checkout.build().unwrap_err();
        assert!(
            error.contains("set NVCC_CCBIN to g++ 15 or older") && error.contains(refusal),
            "{error}"
        );
    }

    #[test]
    fn a_file_edited_while_it_was_compiled_is_compiled_again() {
        let checkout = Checkout::new("raced");
        let path = checkout.root.join("kernels/two.cuh");
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert_eq!(checkout.compiled(), ["a", "b"]);
        assert_eq!(checkout.compiled(), ["b"]);
    }

    #[test]
    fn an_image_that_is_gone_is_made_again() {
        let checkout = Checkout::new("gone");
        for image in checkout.build().unwrap() {
            fs::remove_file(image.fatbin).unwrap();
        }
        assert_eq!(checkout.compiled(), ["a", "b"]);
    }

    #[test]
    fn warnings_are_repeated_when_nothing_is_compiled() {
        let checkout = Checkout::new("warnings");
        checkout.write("two.cuh", "warning: spilled");
        for _ in 0..2 {
            let images = checkout.build().unwrap();
            assert_eq!(images[0].warnings, "");
            assert_eq!(images[1].warnings, "warning: spilled\n");
        }
    }

    #[test]
    fn a_failure_names_the_unit_and_what_the_compiler_said() {
        let checkout = Checkout::new("failure");
        checkout.compiled();
        checkout.write("two.cuh", "WRONG");
        let error = checkout.build().unwrap_err();
        assert!(
            error.contains("nvcc failed on ")
                && error.contains("kernels/b.cu")
                && error.contains("error: WRONG"),
            "{error}"
        );
        checkout.write("two.cuh", "2");
        assert!(checkout.compiled().is_empty());
    }

    #[test]
    fn a_store_does_not_grow_without_end() {
        let checkout = Checkout::new("prune");
        for edit in 0..10 {
            checkout.write("a.cu", &format!("#include \"one.cuh\"\na{edit}"));
            checkout.compiled();
        }
        let fatbins = fs::read_dir(checkout.root.join("store")).unwrap().flatten();
        let fatbins = fatbins.filter(|entry| entry.file_name().to_string_lossy().starts_with("a."));
        assert_eq!(
            fatbins
                .filter(|entry| entry.path().extension().is_some_and(|e| e == "fatbin"))
                .count(),
            6
        );
    }
}
