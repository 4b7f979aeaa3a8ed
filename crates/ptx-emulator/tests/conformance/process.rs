//! Processes of their own: the first CUDA call decides which device a process has, and settings
//! hold for all of it.

use std::process::Command;

const DEVICE: &str = "PTX_EMULATOR_DEVICE";
const ALONE: &str = "CONFORMANCE_ALONE";

/// Runs a test's body on a device, in a process that runs nothing else; `test` is the test's whole
/// name.
#[track_caller]
pub fn alone_on(device: &str, test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(DEVICE, device)
        .env(ALONE, "1")
        .output()
        .expect("a process");
    let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    let text = text.concat();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
