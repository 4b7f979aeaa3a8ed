//! The images of the compiled kernels, made by build.rs.

use crate::Toolkit;

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A fatbin.
pub struct Image {
    /// [`crate::plan::Variant::image`] of the kernels in it.
    pub unit: &'static str,
    pub bytes: &'static [u8],
}

/// The compute capabilities for which this build has machine code, such as `80` and `90`, in
/// ascending order. There are none in a build without kernels. Drivers compile the PTX, which is
/// always included, for other GPUs from 8.0 on.
pub fn built_architectures() -> &'static [&'static str] {
    ARCHITECTURES
}

/// The nvcc that compiled the kernels; `None` in a build without kernels.
pub fn built_toolkit() -> Option<Toolkit> {
    TOOLKIT
}

/// The image of a unit; `None` in a build without kernels.
pub fn image(unit: &str) -> Option<&'static Image> {
    IMAGES.iter().find(|image| image.unit == unit)
}
