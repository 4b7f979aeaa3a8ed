//! Which library this is.

/// Of this header: major << 16 | minor << 8 | patch. Numbers and layouts stay as they are where
/// major and minor do.
pub const LORA_VERSION: u32 = 0x000100;

/// LORA_VERSION of the library, which a program can compare with that of the header it was compiled
/// with.
#[unsafe(no_mangle)]
pub extern "C" fn lora_version() -> u32 {
    LORA_VERSION
}

const _: () = {
    const fn number(text: &str) -> u32 {
        let (mut number, mut index) = (0, 0);
        while index < text.len() {
            number = 10 * number + (text.as_bytes()[index] - b'0') as u32;
            index += 1;
        }
        number
    }
    let package = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    assert!(
        LORA_VERSION == package,
        "LORA_VERSION must be the package's version"
    );
};
