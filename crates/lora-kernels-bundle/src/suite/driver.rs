//! Checks whether the driver is new enough for the images.

use lora_kernels_build::nvcc::oldest_driver;
use lora_kernels_bundle::results::MeasuredDevice;

/// The errors that drivers return for images that they can't load: CUDA_ERROR_INVALID_IMAGE (200)
/// and CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222).
const REFUSALS: [&str; 2] = [
    "CUDA_ERROR_INVALID_IMAGE",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
];

/// A note if the driver belongs to an older major version of CUDA than the images.
pub fn too_old(device: &MeasuredDevice, nvcc: &str) -> Option<String> {
    let (driver, images) = (version(&device.cuda)?, version(nvcc)?);
    (driver.0 < images.0).then(|| what_to_do(device, nvcc))
}

/// A note if a program printed that the driver refused an image.
pub fn refused(text: &str, device: &MeasuredDevice, nvcc: &str) -> Option<String> {
    let refusal = REFUSALS.iter().find(|refusal| text.contains(*refusal))?;
    let older = version(&device.cuda)? < version(nvcc)?;
    older.then(|| format!("{refusal}: {}", what_to_do(device, nvcc)))
}

fn what_to_do(device: &MeasuredDevice, nvcc: &str) -> String {
    let driver = device.driver.as_deref().unwrap_or("of this machine");
    // Within a major version, it depends on the contents of the images.
    let (cuda, images) = (version(&device.cuda), version(nvcc));
    let oldest = images
        .filter(|images| cuda.is_some_and(|cuda| cuda.0 < images.0))
        .and_then(|images| oldest_driver(images.0));
    let needed = oldest.map_or_else(
        || format!("one that supports CUDA {nvcc}"),
        |oldest| format!("driver {oldest} or newer"),
    );
    format!(
        "the driver {driver} supports CUDA {}, but images built by nvcc {nvcc} need {needed}: update the driver, or make the bundle with an older nvcc",
        device.cuda
    )
}

/// Parses "13.0" as (13, 0).
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(driver: &str, cuda: &str) -> MeasuredDevice {
        MeasuredDevice {
            name: "NVIDIA A100".to_owned(),
            emulated: false,
            driver: Some(driver.to_owned()),
            cuda: cuda.to_owned(),
            compute_capability: "8.0".to_owned(),
            multiprocessors: 108,
            l2_bytes: 40 << 20,
            memory_bytes: 40 << 30,
        }
    }

    #[test]
    fn an_older_driver_is_told_which_one_is_needed() {
        let old = device("550.54.15", "12.4");
        let note = too_old(&old, "13.0").unwrap();
        for part in ["550.54.15", "CUDA 12.4", "nvcc 13.0", "driver 580"] {
            assert!(note.contains(part), "{part} is not in: {note}");
        }
        assert_eq!(too_old(&device("580.65.06", "13.0"), "13.0"), None);
        // With the same major version it may load.
        assert_eq!(too_old(&old, "12.9"), None);
    }

    #[test]
    fn a_refused_image_is_explained_by_the_driver_only_where_that_is_older() {
        let printed = "DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"...\")";
        let old = device("550.54.15", "12.4");
        let note = refused(printed, &old, "12.9").unwrap();
        assert!(
            note.contains("UNSUPPORTED_PTX_VERSION")
                && note.contains("one that supports CUDA 12.9"),
            "{note}"
        );
        assert_eq!(refused(printed, &device("580.65.06", "13.0"), "13.0"), None);
        assert_eq!(refused("all well", &old, "13.0"), None);
    }
}
