//! The compiled kernels, as build.rs left them.

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// What the kernels in this build have machine code for: compute capabilities such as `80` and
/// `90a`, in ascending order, none in a build without kernels. Other GPUs, from 8.0 on, compile the
/// PTX that is always there.
pub fn built_architectures() -> &'static [&'static str] {
    ARCHITECTURES
}

/// The fatbin made of `kernels/<name>.cu`; `None` in a build without kernels.
pub fn image(name: &str) -> Option<&'static [u8]> {
    IMAGES
        .iter()
        .find(|(stem, _)| *stem == name)
        .map(|&(_, bytes)| bytes)
}
