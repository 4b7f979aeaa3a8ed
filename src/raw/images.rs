//! The compiled kernels, as build.rs left them.

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A fatbin.
pub struct Image {
    /// [`crate::plan::Variant::image`] of the kernels in it.
    pub unit: &'static str,
    pub bytes: &'static [u8],
}

/// What the kernels in this build have machine code for: compute capabilities such as `80` and
/// `90`, in ascending order, none in a build without kernels. Other GPUs, from 8.0 on, compile the
/// PTX that is always there.
pub fn built_architectures() -> &'static [&'static str] {
    ARCHITECTURES
}

/// The image of a unit; `None` in a build without kernels.
pub fn image(unit: &str) -> Option<&'static Image> {
    IMAGES.iter().find(|image| image.unit == unit)
}
