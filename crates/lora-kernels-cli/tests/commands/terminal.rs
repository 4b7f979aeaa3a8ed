//! What reaches a terminal: names from files, from arguments and of files may hold characters that
//! a terminal obeys, or doesn't show.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

use lora_kernels_adapters::{DType, PeftConfig};
use nix::pty::openpty;

use crate::common::{assert_status, folder, lora_kernels, stdout};
use crate::merge::model::{adapter, write};

/// A title for the window, text from right to left, a blank without width, and a control sequence
/// in one character.
const HOSTILE: &str = "\u{1b}]0;x\u{7}\u{202e}\u{200b}\u{9b}31m";

/// Runs the program on a terminal; its exit status, and everything that the terminal got.
fn on_terminal(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let terminal = openpty(None, None).unwrap();
    let mut command = lora_kernels();
    command.current_dir(folder).args(arguments);
    command.env("TERM", "xterm");
    command.stdout(terminal.slave.try_clone().unwrap());
    command.stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut text = Vec::new();
    // At its end, reading a terminal that nobody holds open any more is an error.
    let _ = File::from(terminal.master).read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    (child.wait().unwrap().code(), text)
}

#[test]
fn nothing_hostile_reaches_a_terminal_raw() {
    let folder = folder("terminal", "hostile");
    let module = format!("a.{HOSTILE}.q");
    let weight = format!("{module}.weight");
    write(
        &folder.join("base.safetensors"),
        DType::F32,
        &[(&weight, &[5, 7])],
    );
    let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
    let modules = [(module.as_str(), 3, 7, 5)];
    let hostile = format!("adapter{HOSTILE}");
    adapter(&folder.join(&hostile), DType::F32, 1, config, &modules);
    let broken = folder.join("broken");
    std::fs::create_dir(&broken).unwrap();
    let value = serde_json::to_string(HOSTILE).unwrap();
    let config = format!("{{\"peft_type\": \"LORA\", \"r\": {value}, {value}: 1}}");
    std::fs::write(broken.join("adapter_config.json"), config).unwrap();
    std::fs::copy(
        folder.join(&hostile).join("adapter_model.safetensors"),
        broken.join("adapter_model.safetensors"),
    )
    .unwrap();
    let out = format!("out{HOSTILE}");
    let option = format!("--{HOSTILE}");
    let merge = ["merge", "base.safetensors", &hostile, "--device", "cpu"];
    let with = |more: &[&'_ str]| -> Vec<String> {
        merge
            .iter()
            .chain(more)
            .map(|&part| part.to_owned())
            .collect()
    };
    let owned = |arguments: &[&str]| arguments.iter().map(|&part| part.to_owned()).collect();
    let runs: Vec<(i32, Vec<String>)> = vec![
        (0, with(&["-o", &out])),
        (0, with(&["-o", "out", "--json"])),
        (2, with(&["-o", &out])),
        (2, with(&["-o", "other", "--skip", HOSTILE])),
        (2, with(&["-o", "other", "--map", HOSTILE])),
        (2, with(&["-o", "other", "--weights", HOSTILE])),
        (2, with(&["-o", "other", HOSTILE])),
        (2, with(&["-o", &format!("{HOSTILE}/other")])),
        (2, with(&["-o", "other", &option])),
        (0, owned(&["inspect", &hostile])),
        (0, owned(&["inspect", "--json", &hostile])),
        (2, owned(&["inspect", HOSTILE])),
        (2, owned(&["inspect", "broken"])),
        (2, owned(&["replay", HOSTILE])),
        (2, owned(&["plan", "-m", HOSTILE])),
        (
            2,
            owned(&[
                "plan", "-m", "8", "-k", "8", "-n", "8", "-r", "2", "--on", HOSTILE,
            ]),
        ),
        (2, owned(&[HOSTILE])),
        (2, owned(&["help", HOSTILE])),
    ];
    for (status, arguments) in runs {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (ended, text) = on_terminal(&folder, &arguments);
        assert_eq!(ended, Some(status), "{arguments:?}: {text:?}");
        for raw in ["\u{1b}]", "\u{7}", "\u{202e}", "\u{200b}", "\u{9b}"] {
            assert!(!text.contains(raw), "{raw:?} after {arguments:?}: {text:?}");
        }
        assert!(
            text.contains("202e"),
            "{arguments:?} shows no name: {text:?}"
        );
    }
}

/// The escaped document is the same one.
#[test]
fn json_keeps_every_name_as_it_is() {
    let folder = folder("terminal", "json");
    let module = format!("a.{HOSTILE}\u{e0041}.q");
    let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
    let modules = [(module.as_str(), 3, 7, 5)];
    let path = adapter(&folder.join("adapter"), DType::F32, 1, config, &modules);
    let mut command = lora_kernels();
    let output = command.args(["inspect", "--json"]).arg(path).output();
    let output = output.unwrap();
    assert_status(&output, 0);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["modules"][0]["path"], module);
    assert!(stdout(&output).is_ascii());
}

/// Where stderr can't be written to, the status still tells; where stdout can't, it says so.
#[test]
fn what_cannot_be_printed_has_its_status() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = |arguments: &[&str], is_error: bool| {
        let mut command = lora_kernels();
        command.args(arguments);
        match is_error {
            true => command.stderr(full()),
            false => command.stdout(full()),
        };
        command.output().unwrap()
    };
    assert_status(&run(&["inspect", "absent"], true), 2);
    assert_status(&run(&["no-such-command"], true), 2);
    for arguments in [&["--help"][..], &["--version"], &["merge", "--help"]] {
        let output = run(arguments, false);
        assert_status(&output, 4);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.starts_with("error: can't print"), "{stderr}");
        assert_status(&run(arguments, true), 0);
    }
}
