//! The one place that launches.

use std::ffi::c_void;

use cudarc::driver::sys::{
    self, CUfunction, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchConfig, CUresult, CUstream,
};

use super::driver::driver_error;
use super::kernels::Kernels;
use crate::plan::{Launch, LaunchAttribute};
use crate::{Error, Result};

impl Kernels {
    /// # Safety
    /// `params` is the struct that the kernel takes, and the memory that it points to is as the
    /// kernel expects.
    #[inline]
    pub(super) unsafe fn launch(
        &self,
        launch: &Launch,
        params: &[u8],
        stream: CUstream,
    ) -> Result<()> {
        let function = self.function(launch)?;
        // SAFETY: the caller's promise.
        unsafe { launch_function(function, launch, self.overlaps, params, stream) }
            .result()
            .map_err(|error| driver_error(format!("launching {}", launch.variant), error))
    }

    /// The kernel of a launch.
    pub(super) fn function(&self, launch: &Launch) -> Result<CUfunction> {
        self.loaded(launch).ok_or_else(|| Error::NoKernel {
            what: launch.variant.to_string(),
        })
    }
}

/// Calls cuLaunchKernelEx. Unless launches may overlap, a programmatic one is like any other: its
/// kernel's waiting ends at once.
///
/// # Safety
/// As for [`Kernels::launch`], and `function` is the kernel of the launch.
#[inline]
pub(super) unsafe fn launch_function(
    function: CUfunction,
    launch: &Launch,
    overlaps: bool,
    params: &[u8],
    stream: CUstream,
) -> CUresult {
    let mut attributes = [no_attribute(); LaunchAttribute::MOST];
    let mut count = 0;
    for (slot, attribute) in attributes.iter_mut().zip(wanted(launch, overlaps)) {
        *slot = encoded(attribute);
        count += 1;
    }
    let config = CUlaunchConfig {
        gridDimX: launch.blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared_bytes,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: count,
    };
    let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
    // SAFETY: the driver copies the configuration, the attributes and the parameters during the
    // call and doesn't write to them. The caller promises the rest.
    unsafe {
        sys::cuLaunchKernelEx(
            &config,
            function,
            arguments.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
}

fn wanted(launch: &Launch, overlaps: bool) -> impl Iterator<Item = LaunchAttribute> {
    let all = launch.attributes();
    all.filter(move |attribute| overlaps || *attribute != LaunchAttribute::Programmatic)
}

fn no_attribute() -> CUlaunchAttribute {
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
        pad: [0; 4],
        value: CUlaunchAttributeValue { pad: [0; 64] },
    }
}

/// An attribute in the driver's form.
fn encoded(attribute: LaunchAttribute) -> CUlaunchAttribute {
    let mut encoded = no_attribute();
    match attribute {
        LaunchAttribute::Cluster { blocks } => {
            encoded.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            encoded.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                x: blocks,
                y: 1,
                z: 1,
            };
        }
        LaunchAttribute::Programmatic => {
            encoded.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            encoded.value.programmaticStreamSerializationAllowed = 1;
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, DeviceProps, ForwardPlan, Problem};

    #[test]
    fn launches_that_may_not_overlap_keep_their_clusters() {
        let problem = Problem::new(64, 64, 64, 8, DType::BF16).unwrap();
        let plan = ForwardPlan::new(&problem, &DeviceProps::h100()).unwrap();
        let mut launch = plan.launches()[1].clone();
        (launch.cluster, launch.programmatic) = (2, true);
        let cluster = LaunchAttribute::Cluster { blocks: 2 };
        assert!(wanted(&launch, true).eq([cluster, LaunchAttribute::Programmatic]));
        assert!(wanted(&launch, false).eq([cluster]));
    }

    #[test]
    fn a_cluster_lies_along_the_grid() {
        let cluster = encoded(LaunchAttribute::Cluster { blocks: 2 });
        assert_eq!(
            cluster.id,
            CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        );
        // SAFETY: the id says which field of the union was written.
        let dimensions = unsafe { cluster.value.clusterDim };
        assert_eq!((dimensions.x, dimensions.y, dimensions.z), (2, 1, 1));
    }

    #[test]
    fn programmatic_launches_may_overlap_the_one_before() {
        let programmatic = encoded(LaunchAttribute::Programmatic);
        assert_eq!(
            programmatic.id,
            CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        );
        // SAFETY: as above.
        let allowed = unsafe { programmatic.value.programmaticStreamSerializationAllowed };
        assert_eq!(allowed, 1);
    }
}
