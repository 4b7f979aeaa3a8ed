//! The compiled kernels, as build.rs left them.

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The fatbin made of `kernels/<name>.cu`; `None` in a build without kernels.
pub fn image(name: &str) -> Option<&'static [u8]> {
    IMAGES.iter().find(|(stem, _)| *stem == name).map(|&(_, bytes)| bytes)
}
