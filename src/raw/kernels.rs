//! The loaded kernels, and the calls that launch them.

use std::ffi::c_void;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute, CUstream};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;

use super::driver::driver_error;
use super::images::image;
use super::params::{
    DropoutParams, ForwardParams, GradAParams, GradBParams, GradXParams, LAYOUT, ReduceParams, ShrinkParams,
};
use super::{BackwardArgs, DevicePointer, ForwardArgs};
use crate::plan::{DeviceProps, Launch, Region, Variant};
use crate::{BackwardPlan, Dropout, Error, ForwardPlan, Problem, Result, Tensor};

/// Every kernel of this crate, loaded into one CUDA context.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    props: DeviceProps,
    /// By [`Variant::index`].
    functions: Vec<CudaFunction>,
    contract: CudaFunction,
}

impl Kernels {
    /// Loads all kernels into a context and raises their shared-memory limits. Do it once per context, outside any graph capture.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`] in a build without kernels, [`Error::Device`] on a GPU before compute capability 8.0, [`Error::Driver`] if
    /// the driver refuses the images.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let contract_image = image("contract").ok_or(Error::KernelsNotBuilt)?;
        let props = query(context)?;
        crate::plan::check_device(&props)?;

        let mut module: Option<(String, Arc<CudaModule>)> = None;
        let mut functions = Vec::with_capacity(Variant::COUNT);
        // Variants of one image follow each other.
        for variant in Variant::all() {
            let name = variant.image();
            let loaded = match &module {
                Some((loaded, module)) if *loaded == name => module.clone(),
                _ => load_image(context, &name, image(&name).ok_or(Error::KernelsNotBuilt)?)?,
            };
            let function = load_function(&loaded, &variant.symbol())?;
            let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // A device with less shared memory can still run the other variants; the plan refuses this one.
            if variant.shared_bytes() <= props.shared_per_block {
                function
                    .set_attribute(limit, variant.shared_bytes() as i32)
                    .map_err(|error| driver_error(format!("raising the shared memory of {variant}"), error))?;
            }
            functions.push(function);
            module = Some((name, loaded));
        }
        let contract = load_function(&load_image(context, "contract", contract_image)?, "lora_contract")?;
        Ok(Self {
            context: context.clone(),
            props,
            functions,
            contract,
        })
    }

    /// What plans need to know of this device.
    pub fn props(&self) -> &DeviceProps {
        &self.props
    }

    /// The context the kernels were loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Enqueues a forward: the plan's two launches.
    ///
    /// # Errors
    /// [`Error::Null`], [`Error::Alignment`], [`Error::Buffer`], [`Error::Optional`], [`Error::Scaling`] or [`Error::DropoutProbability`] before
    /// anything is launched; [`Error::Driver`] if a launch fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device address of that context with the extent
    /// that the plan's problem gives it; outputs and `saved` overlap nothing else; all stay valid until the stream has run the call.
    pub unsafe fn forward_raw(&self, plan: &ForwardPlan, args: &ForwardArgs, stream: CUstream) -> Result<()> {
        let problem = plan.problem();
        check_scaling(args.scaling)?;
        check_optional("bias", args.bias != 0, problem.bias, "see Problem::with_bias")?;
        let dropout = check_dropout(args.dropout, problem)?;
        for (tensor, pointer) in [
            (Tensor::X, args.x),
            (Tensor::Weight, args.weight),
            (Tensor::LoraA, args.lora_a),
            (Tensor::LoraB, args.lora_b),
            (Tensor::Y, args.y),
        ] {
            check_pointer(problem, tensor, pointer)?;
        }
        if problem.bias {
            check_pointer(problem, Tensor::Bias, args.bias)?;
        }
        check_buffer("saved", args.saved, plan.saved().bytes())?;

        let sizes = Sizes::new(problem);
        let stride = |tensor| problem.layout(tensor).row_stride;
        let s = at(args.saved, plan.saved().s);
        let [shrink, forward] = &plan.launches;
        let params = ShrinkParams {
            x: args.x,
            lora_a: args.lora_a,
            s,
            mask: plan.saved().mask.map_or(0, |mask| at(args.saved, mask)),
            x_stride: stride(Tensor::X),
            lora_a_stride: stride(Tensor::LoraA),
            mask_row_bytes: plan.saved().mask_row_bytes as i64,
            m: sizes.m,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            scaling: args.scaling,
            lora_vectorised: plan.lora_a_vectorised.into(),
            dropout,
        };
        // SAFETY: the caller vouches for the pointers, the plan for grid and shared memory, and ShrinkParams is what this kernel takes.
        unsafe { self.launch(shrink, &params, stream)? };
        let params = ForwardParams {
            x: args.x,
            weight: args.weight,
            bias: args.bias,
            s,
            lora_b: args.lora_b,
            y: args.y,
            x_stride: stride(Tensor::X),
            weight_stride: stride(Tensor::Weight),
            lora_b_stride: stride(Tensor::LoraB),
            y_stride: stride(Tensor::Y),
            m: sizes.m,
            n: sizes.n,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            lora_vectorised: plan.lora_b_vectorised.into(),
            out_paired: plan.y_paired.into(),
            pad: 0,
        };
        // SAFETY: as above, with ForwardParams.
        unsafe { self.launch(forward, &params, stream) }
    }

    /// Enqueues a backward: the plan's three launches.
    ///
    /// # Errors
    /// As [`Kernels::forward_raw`].
    ///
    /// # Safety
    /// As [`Kernels::forward_raw`]; `saved` is what the forward of the same problem and inputs left.
    pub unsafe fn backward_raw(&self, plan: &BackwardPlan, args: &BackwardArgs, stream: CUstream) -> Result<()> {
        let problem = plan.problem();
        check_scaling(args.scaling)?;
        let dropout = check_dropout(args.dropout, problem)?;
        for (tensor, pointer) in [
            (Tensor::DY, args.dy),
            (Tensor::X, args.x),
            (Tensor::Weight, args.weight),
            (Tensor::LoraA, args.lora_a),
            (Tensor::LoraB, args.lora_b),
            (Tensor::DX, args.dx),
            (Tensor::DLoraA, args.d_lora_a),
            (Tensor::DLoraB, args.d_lora_b),
        ] {
            check_pointer(problem, tensor, pointer)?;
        }
        check_buffer("saved", args.saved, plan.saved().bytes())?;
        check_buffer("workspace", args.workspace, plan.workspace_bytes())?;

        let sizes = Sizes::new(problem);
        let stride = |tensor| problem.layout(tensor).row_stride;
        let regions = &plan.regions;
        let mask = plan.saved().mask.map_or(0, |mask| at(args.saved, mask));
        let mask_row_bytes = plan.saved().mask_row_bytes as i64;
        let [grad_b, grad_a, grad_x] = &plan.launches;

        let params = GradBParams {
            dy: args.dy,
            lora_b: args.lora_b,
            s: at(args.saved, plan.saved().s),
            t_partial: at(args.workspace, regions.t_partial),
            lora_b_partial: at(args.workspace, regions.lora_b_partial),
            dy_stride: stride(Tensor::DY),
            lora_b_stride: stride(Tensor::LoraB),
            m: sizes.m,
            n: sizes.n,
            r: sizes.r,
            r_pad: sizes.r_pad,
            rows_per_split: plan.dy_split.rows_per_split as i32,
            column_groups: plan.dy_split.column_groups as i32,
            m_splits: plan.dy_split.row_splits as i32,
            scaling: args.scaling,
            lora_vectorised: plan.lora_b_vectorised.into(),
            pad: 0,
        };
        // SAFETY: the caller vouches for the pointers, the plan for grid and shared memory, and GradBParams is what this kernel takes.
        unsafe { self.launch(grad_b, &params, stream)? };
        let params = GradAParams {
            x: args.x,
            mask,
            t_partial: at(args.workspace, regions.t_partial),
            t: at(args.workspace, regions.t),
            lora_a_partial: at(args.workspace, regions.lora_a_partial),
            x_stride: stride(Tensor::X),
            mask_row_bytes,
            m: sizes.m,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            t_partials: plan.dy_split.column_groups as i32,
            rows_per_split: plan.x_split.rows_per_split as i32,
            column_groups: plan.x_split.column_groups as i32,
            m_splits: plan.x_split.row_splits as i32,
            keep_scale: dropout.keep_scale,
            pad: 0,
            reduce_b: ReduceParams {
                partial: at(args.workspace, regions.lora_b_partial),
                out: args.d_lora_b,
                out_stride: stride(Tensor::DLoraB),
                partial_stride: i64::from(sizes.r_pad),
                split_stride: i64::from(sizes.n) * i64::from(sizes.r_pad),
                splits: plan.dy_split.row_splits as i32,
                rows: sizes.n,
                columns: sizes.r,
                blocks: plan.reduce_b_blocks as i32,
            },
        };
        // SAFETY: as above, with GradAParams.
        unsafe { self.launch(grad_a, &params, stream)? };
        let params = GradXParams {
            dy: args.dy,
            weight: args.weight,
            t: at(args.workspace, regions.t),
            lora_a: args.lora_a,
            mask,
            dx: args.dx,
            dy_stride: stride(Tensor::DY),
            weight_stride: stride(Tensor::Weight),
            lora_a_stride: stride(Tensor::LoraA),
            dx_stride: stride(Tensor::DX),
            mask_row_bytes,
            m: sizes.m,
            n: sizes.n,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            keep_scale: dropout.keep_scale,
            lora_vectorised: plan.lora_a_vectorised.into(),
            out_paired: plan.dx_paired.into(),
            reduce_a: ReduceParams {
                partial: at(args.workspace, regions.lora_a_partial),
                out: args.d_lora_a,
                out_stride: stride(Tensor::DLoraA),
                partial_stride: i64::from(sizes.k),
                split_stride: i64::from(sizes.k) * i64::from(sizes.r_pad),
                splits: plan.x_split.row_splits as i32,
                rows: sizes.r,
                columns: sizes.k,
                blocks: plan.reduce_a_blocks as i32,
            },
        };
        // SAFETY: as above, with GradXParams.
        unsafe { self.launch(grad_x, &params, stream) }
    }

    /// # Safety
    /// `params` is the struct that the kernel takes, and what it points to is as the kernel expects.
    unsafe fn launch<P: Pod>(&self, launch: &Launch, params: &P, stream: CUstream) -> Result<()> {
        let function = &self.functions[launch.variant.index()];
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the driver copies the parameters during the call and does not write to them; the rest is the caller's promise.
        unsafe {
            sys::cuLaunchKernel(
                function.cu_function(),
                launch.grid.0,
                launch.grid.1,
                1,
                launch.threads,
                1,
                1,
                launch.shared_bytes,
                stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(|error| driver_error(format!("launching {}", launch.variant), error))
    }

    /// What the kernels were compiled with, as the device reports it: parameter layouts, then tile constants. For tests.
    #[doc(hidden)]
    pub fn contract(&self) -> Result<Vec<u32>> {
        let words = LAYOUT.len() + TILE_CONSTANTS;
        let stream = self.context.default_stream();
        let what = |what: &'static str| move |error| driver_error(what, error);
        let mut out = stream
            .alloc_zeros::<u32>(words)
            .map_err(what("allocating the contract"))?;
        {
            use cudarc::driver::{LaunchConfig, PushKernelArg};
            let mut builder = stream.launch_builder(&self.contract);
            builder.arg(&mut out);
            let one = LaunchConfig {
                grid_dim: (1, 1, 1),
                block_dim: (1, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: the kernel takes one pointer and writes `words` words there.
            unsafe { builder.launch(one) }.map_err(what("launching lora_contract"))?;
        }
        stream.clone_dtoh(&out).map_err(what("reading the contract"))
    }

    /// The contract as the host believes it.
    #[doc(hidden)]
    pub fn expected_contract() -> Vec<u32> {
        let mut words = LAYOUT.to_vec();
        for variant in Variant::all().filter(|variant| variant.access == crate::plan::Access::Vectorised) {
            let (rows, columns) = variant.block();
            words.extend([rows as u32, columns as u32, variant.threads(), variant.shared_bytes()]);
        }
        words
    }
}

/// Four words for each variant of one access.
const TILE_CONSTANTS: usize = 4 * Variant::COUNT / 2;

struct Sizes {
    m: i32,
    n: i32,
    k: i32,
    r: i32,
    r_pad: i32,
}

impl Sizes {
    /// `Problem` keeps every dimension below 2^31, the padded rank included.
    fn new(problem: &Problem) -> Self {
        Self {
            m: problem.tokens as i32,
            n: problem.out_features as i32,
            k: problem.in_features as i32,
            r: problem.rank as i32,
            r_pad: problem.padded_rank() as i32,
        }
    }
}

fn at(buffer: DevicePointer, region: Region) -> DevicePointer {
    buffer + region.offset as u64
}

fn check_scaling(scaling: f32) -> Result<()> {
    if scaling.is_finite() {
        Ok(())
    } else {
        Err(Error::Scaling { given: scaling })
    }
}

fn check_optional(what: &'static str, given: bool, planned: bool, hint: &'static str) -> Result<()> {
    if given == planned {
        Ok(())
    } else {
        Err(Error::Optional { what, given, hint })
    }
}

fn check_dropout(dropout: Option<Dropout>, problem: &Problem) -> Result<DropoutParams> {
    check_optional(
        "dropout",
        dropout.is_some(),
        problem.dropout,
        "see Problem::with_dropout",
    )?;
    let Some(dropout) = dropout else {
        return Ok(DropoutParams {
            seed: 0,
            offset: 0,
            threshold: 0,
            keep_scale: 1.0,
        });
    };
    dropout.check()?;
    Ok(DropoutParams {
        seed: dropout.seed,
        offset: dropout.offset,
        threshold: dropout.threshold(),
        keep_scale: dropout.keep_scale(),
    })
}

/// The largest power of two, up to 256, that divides an address.
fn alignment(pointer: DevicePointer) -> usize {
    1 << pointer.trailing_zeros().min(8)
}

fn check_pointer(problem: &Problem, tensor: Tensor, pointer: DevicePointer) -> Result<()> {
    if pointer == 0 {
        return Err(Error::Null { what: tensor.name() });
    }
    let planned = problem.layout(tensor).alignment;
    if !pointer.is_multiple_of(planned as u64) {
        return Err(Error::Alignment {
            tensor,
            given: alignment(pointer),
            planned,
        });
    }
    Ok(())
}

fn check_buffer(buffer: &'static str, pointer: DevicePointer, needed: usize) -> Result<()> {
    if pointer == 0 && needed > 0 {
        return Err(Error::Null { what: buffer });
    }
    if !pointer.is_multiple_of(crate::plan::BUFFER_ALIGNMENT as u64) {
        return Err(Error::Buffer {
            buffer,
            given: needed,
            needed,
            alignment: alignment(pointer),
        });
    }
    Ok(())
}

fn query(context: &Arc<CudaContext>) -> Result<DeviceProps> {
    use CUdevice_attribute::*;
    let attribute = |attribute| {
        let value = context
            .attribute(attribute)
            .map_err(|error| driver_error("asking for the device's properties", error))?;
        Ok(value.max(0) as u32)
    };
    Ok(DeviceProps::new(
        (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    ))
}

fn load_image(context: &Arc<CudaContext>, name: &str, bytes: &[u8]) -> Result<Arc<CudaModule>> {
    context
        .load_module(Ptx::from_binary(bytes.to_vec()))
        .map_err(|error| driver_error(format!("loading the kernels of {name}"), error))
}

fn load_function(module: &Arc<CudaModule>, symbol: &str) -> Result<CudaFunction> {
    module
        .load_function(symbol)
        .map_err(|error| driver_error(format!("finding {symbol}"), error))
}
