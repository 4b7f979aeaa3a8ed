//! Gives the shared library the name that programs linked with it look for: that of the versions
//! they run with.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        let version = concat!(
            env!("CARGO_PKG_VERSION_MAJOR"),
            ".",
            env!("CARGO_PKG_VERSION_MINOR")
        );
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,liblora_kernels.so.{version}");
    }
}
