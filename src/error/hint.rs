//! Hints: what to do about an error.

use std::fmt;

use super::Argument;

/// What to do about an error, as data. Its text uses this crate's names; bindings of other
/// languages can write their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// [`crate::Problem::with_row_adapters`].
    RowAdapters,
    /// The plan's problem says whether there is a bias.
    Bias,
    /// The plan's problem says whether there is dropout.
    Dropout,
    /// The seed and the offset of a dropout are in device memory.
    DropoutWords,
    /// The plan's problem says whether the dropout's mask is stored.
    Mask,
    /// The plan's problem says whether backward computes dx.
    InputGradient,
    /// A projection has an adapter if its rank is not 0.
    Rank,
    /// Gradients to add to are given for each projection that has an adapter, and for no other.
    GradientsOfAdapters,
    /// The plan's problem says whether there is a report.
    Report,
    /// The plan's problem must have this tensor's layout.
    Layout(Argument),
    /// Plans are made with the properties of the kernels' device.
    DeviceOfKernels,
    /// Merging has a problem of its own.
    MergeProblem,
    /// The tensors of a merge.
    MergeTensors,
    /// The driver is older than the nvcc that compiled the kernels.
    OlderDriver {
        /// The newest CUDA version that the driver supports, as returned by cuDriverGetVersion:
        /// 12040 for 12.4, 0 if unknown.
        supports: i32,
        /// The nvcc that compiled the kernels.
        toolkit: Toolkit,
    },
    /// The images have no code for this GPU.
    NotCompiledForDevice {
        /// As in [`Hint::OlderDriver`].
        supports: i32,
        /// The nvcc that compiled the kernels.
        toolkit: Toolkit,
    },
    /// An earlier launch faulted.
    FaultedContext,
    /// No context, or a destroyed one, is current on the thread.
    NoCurrentContext,
}

/// The nvcc that compiled the kernels of a build, and the driver that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Toolkit {
    /// Its release, the major and the minor version.
    pub nvcc: (u32, u32),
    /// The oldest driver that loads machine code of this release; `None` if it isn't known. PTX,
    /// which GPUs take that the build has no machine code for, needs a driver that supports the
    /// release itself.
    pub driver: Option<u32>,
}

impl Toolkit {
    /// Whether a driver that supports CUDA up to `supports`, as returned by cuDriverGetVersion, is
    /// older than the release. 0 is an unknown version, which isn't.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_newer_than(&self, supports: i32) -> bool {
        let (major, minor) = self.nvcc;
        supports > 0 && i64::from(supports) < 1000 * i64::from(major) + 10 * i64::from(minor)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Hint::RowAdapters => f.write_str("see Problem::with_row_adapters"),
            Hint::Bias => f.write_str("see Problem::with_bias"),
            Hint::DropoutWords => f.write_str(
                "give a raw call the address of two u64 as the seed, at a multiple of 8, and 0 as the offset; see Problem::with_dropout_from_memory",
            ),
            Hint::Dropout => f.write_str("see Problem::with_dropout"),
            Hint::Mask => f.write_str("see Problem::with_mask"),
            Hint::InputGradient => f.write_str("see Problem::with_input_gradient"),
            Hint::Rank => f.write_str("see the rank in Problem::sharing_x"),
            Hint::GradientsOfAdapters => {
                f.write_str("give them for each projection that has an adapter, and for no other")
            }
            Hint::Report => f.write_str("see MergeProblem::with_report and with_safe"),
            Hint::Layout(argument) => {
                f.write_str("make a plan for this layout, by ")?;
                match argument {
                    Argument::Tensor(tensor, Some(projection)) => {
                        write!(f, "with_layout_of({projection}, {tensor:?}, ..)")?;
                    }
                    Argument::Adapter(tensor, adapter) => {
                        write!(f, "with_adapter_layout({adapter}, {tensor:?}, ..)")?;
                    }
                    Argument::Tensor(tensor, None) => write!(f, "with_layout({tensor:?}, ..)")?,
                    _ => f.write_str("with_layout")?,
                }
                f.write_str(" of its problem; a smaller alignment takes slower kernels")
            }
            Hint::DeviceOfKernels => {
                f.write_str("make the plan with Kernels::props of these kernels")
            }
            Hint::MergeProblem => f.write_str("weights are merged by a MergeProblem"),
            Hint::MergeTensors => f.write_str(
                "its tensors are weight and merged, and of each adapter lora_A and lora_B",
            ),
            Hint::OlderDriver { supports, toolkit } => {
                f.write_str("the driver is older than the nvcc that compiled the kernels (")?;
                driver(f, supports, &toolkit)?;
                f.write_str(
                    "); update the driver, or build with an nvcc that is no newer than the driver",
                )
            }
            Hint::NotCompiledForDevice { supports, toolkit } => {
                f.write_str(
                    "the kernels were not compiled for this GPU; build with \
                     LORA_KERNELS_CUDA_ARCHS naming its compute capability (",
                )?;
                driver(f, supports, &toolkit)?;
                f.write_str(")")
            }
            Hint::FaultedContext => f.write_str(
                "an earlier launch of this context faulted; the context can't be used any more",
            ),
            Hint::NoCurrentContext => f.write_str(
                "make the context that the kernels were loaded into current on this thread, and \
                 keep it alive while they are in use",
            ),
        }
    }
}

/// The driver that the images need, and the driver that was found.
fn driver(f: &mut fmt::Formatter<'_>, supports: i32, toolkit: &Toolkit) -> fmt::Result {
    let (major, minor) = toolkit.nvcc;
    write!(f, "images built by nvcc {major}.{minor} need ")?;
    let found = (supports / 1000, supports % 1000 / 10);
    match toolkit.driver {
        // Within a major version the number alone decides nothing: an older driver loads machine
        // code, and no PTX.
        Some(driver) if i64::from(found.0) != i64::from(major) => {
            write!(f, "driver {driver} or later")?;
        }
        _ => write!(f, "a driver that supports CUDA {major}.{minor}")?,
    }
    if supports > 0 {
        write!(
            f,
            "; this driver supports up to CUDA {}.{}",
            found.0, found.1
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(nvcc: (u32, u32), driver: Option<u32>, supports: i32) -> String {
        let toolkit = Toolkit { nvcc, driver };
        Hint::OlderDriver { supports, toolkit }.to_string()
    }

    #[test]
    fn a_driver_of_an_older_cuda_is_told_its_own_version_and_the_driver_that_is_needed() {
        let old = text((13, 0), Some(580), 12_040);
        assert!(
            old.contains(
                "images built by nvcc 13.0 need driver 580 or later; this driver supports up to \
                 CUDA 12.4"
            ),
            "{old}"
        );
        let unknown = text((13, 0), Some(580), 0);
        assert!(unknown.contains("need driver 580 or later)"), "{unknown}");
    }

    #[test]
    fn within_a_major_version_the_release_itself_is_what_the_driver_must_support() {
        for driver in [Some(525), None] {
            let minor = text((12, 9), driver, 12_040);
            assert!(
                minor.contains(
                    "need a driver that supports CUDA 12.9; this driver supports up to CUDA 12.4"
                ),
                "{minor}"
            );
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn versions_compare_by_major_and_minor() {
        let toolkit = |nvcc| Toolkit { nvcc, driver: None };
        assert!(toolkit((13, 0)).is_newer_than(12_090));
        assert!(toolkit((12, 9)).is_newer_than(12_080));
        assert!(!toolkit((13, 0)).is_newer_than(13_000));
        assert!(!toolkit((12, 4)).is_newer_than(13_000));
        assert!(!toolkit((13, 0)).is_newer_than(0));
    }
}
