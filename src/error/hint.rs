//! Hints: what to do about an error.

use std::fmt;

use super::Argument;

/// What to do about an error, as data. Its text uses this crate's names; bindings of other
/// languages can write their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// The plan's problem says whether there is a bias.
    Bias,
    /// The plan's problem says whether there is dropout.
    Dropout,
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
    },
    /// The images have no code for this GPU.
    NotCompiledForDevice {
        /// As in [`Hint::OlderDriver`].
        supports: i32,
    },
    /// An earlier launch faulted.
    FaultedContext,
    /// No context, or a destroyed one, is current on the thread.
    NoCurrentContext,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Hint::Bias => f.write_str("see Problem::with_bias"),
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
            Hint::OlderDriver { supports } => {
                f.write_str("the driver is older than the nvcc that compiled the kernels")?;
                driver(f, supports)?;
                f.write_str(
                    "; update the driver, or build with an nvcc that is no newer than the driver",
                )
            }
            Hint::NotCompiledForDevice { supports } => {
                f.write_str(
                    "the kernels were not compiled for this GPU; build with \
                     LORA_KERNELS_CUDA_ARCHS naming its compute capability",
                )?;
                driver(f, supports)
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
fn driver(f: &mut fmt::Formatter<'_>, supports: i32) -> fmt::Result {
    f.write_str(" (images built by nvcc 13.0 need driver 580 or later")?;
    if supports > 0 {
        let (major, minor) = (supports / 1000, supports % 1000 / 10);
        write!(f, "; this driver supports up to CUDA {major}.{minor}")?;
    }
    f.write_str(")")
}
