//! Kernel launches: checking the shape against the device and the kernel, and collecting the
//! parameters.

use std::sync::{Arc, OnceLock};

use super::abi::{Host, In, Out, report};
use super::code::Code;
use super::function::resident_blocks;
use super::state::{Driver, Function, Handle, current};
use super::stream::{self, per_thread};
use super::work::{Launch, Work, submit};
use super::{Outcome, api, library};
use crate::decode::KernelInfo;
use crate::exec::LaunchConfig;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ExtendedConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: Handle,
    attributes: In<Attribute>,
    attribute_count: u32,
}

/// `CUlaunchAttribute`: a number and a 64-byte union.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub cooperative: bool,
    /// Blocks of a cluster, where the launch says so.
    pub cluster: Option<[u32; 3]>,
    /// Whether it may start before the launch before it in its stream has ended.
    pub programmatic: bool,
}

/// Ends of the list that `extra` points to.
const EXTRA_END: usize = 0;
const EXTRA_POINTER: usize = 1;
const EXTRA_BYTES: usize = 2;
/// Kernel parameters are aligned to at most 128 bytes.
const LARGEST_ALIGNMENT_LOG2: u32 = 7;

fn check(driver: &Driver, function: &Function, shape: &Shape) -> Outcome {
    let refuse = |code: Code, why: String| {
        report(format_args!("launch of {} refused: {why}", function.name));
        Err(code)
    };
    let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
    let product = |sizes: [u32; 3]| sizes.iter().map(|&size| u64::from(size)).product::<u64>();
    let threads = product(shape.block);
    if gx == 0 || gx > i32::MAX as u32 || gy == 0 || gy > 65_535 || gz == 0 || gz > 65_535 {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "grid {:?} is outside 1..=2147483647, 1..=65535, 1..=65535",
                shape.grid
            ),
        );
    }
    let most = driver.model.max_threads_per_block;
    if bx == 0
        || bx > 1024
        || by == 0
        || by > 1024
        || bz == 0
        || bz > 64
        || threads > u64::from(most)
    {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "block {:?}: at most 1024, 1024, 64 and {most} threads",
                shape.block
            ),
        );
    }
    let info = function.info()?;
    if let Some(required) = info.req_ntid.filter(|&required| required != shape.block) {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "block {:?}, but the kernel requires {required:?}",
                shape.block
            ),
        );
    }
    let most = function.max_threads(driver)?;
    if threads > u64::from(most) {
        return refuse(
            Code::LAUNCH_OUT_OF_RESOURCES,
            format!("{threads} threads; the kernel was compiled for at most {most}"),
        );
    }
    let most = function.max_dynamic_shared(driver)?;
    if shape.dynamic_shared > most {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "{} bytes of dynamic shared memory; the function is set to at most {most} (cuFuncSetAttribute raises it)",
                shape.dynamic_shared
            ),
        );
    }
    check_cluster(driver, function, shape)?;
    if shape.cooperative {
        // A block has at most 1024 threads.
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        let each = resident_blocks(driver, function, threads, shape.dynamic_shared)?;
        let room = u64::from(each) * u64::from(driver.model.multiprocessors);
        if product(shape.grid) > room {
            return refuse(
                Code::COOPERATIVE_LAUNCH_TOO_LARGE,
                format!("only {room} blocks can be resident together"),
            );
        }
    }
    Ok(())
}

/// Whether the clusters that the launch asks for, or that the kernel requires, are possible.
fn check_cluster(driver: &Driver, function: &Function, shape: &Shape) -> Outcome {
    let refuse = |code: Code, why: String| {
        report(format_args!("launch of {} refused: {why}", function.name));
        Err(code)
    };
    let required = function.required_cluster()?;
    let Some(cluster) = shape.cluster.or(required) else {
        if function.info()?.explicit_cluster {
            let why = "the kernel needs clusters (.explicitcluster): say their size with the \
                       attribute CLUSTER_DIMENSION";
            return refuse(Code::INVALID_VALUE, why.to_owned());
        }
        return Ok(());
    };
    if let Some(required) = required.filter(|&required| required != cluster) {
        return refuse(
            Code::INVALID_VALUE,
            format!("clusters of {cluster:?} blocks, but the kernel requires {required:?}"),
        );
    }
    let size = cluster
        .iter()
        .fold(1_u32, |size, &n| size.saturating_mul(n));
    let (major, minor) = driver.model.compute_capability;
    if size > 1 && major < 9 {
        let why = format!(
            "clusters of {cluster:?} blocks on a device of compute capability {major}.{minor}; they \
             need 9.0 (PTX_EMULATOR_DEVICE=h100 emulates such a device)"
        );
        return refuse(Code::NOT_SUPPORTED, why);
    }
    if size == 0 || (0..3).any(|axis| !shape.grid[axis].is_multiple_of(cluster[axis])) {
        let why = format!(
            "clusters of {cluster:?} blocks in a grid of {:?}; each axis must divide the grid's",
            shape.grid
        );
        return refuse(Code::INVALID_VALUE, why);
    }
    let most = function.most_cluster_blocks(driver)?;
    if size > most {
        let why = format!(
            "clusters of {cluster:?} blocks; at most {most} are allowed here \
             (NON_PORTABLE_CLUSTER_SIZE_ALLOWED raises 8 to 16 on compute capability 9.0)"
        );
        return refuse(Code::INVALID_CLUSTER_SIZE, why);
    }
    Ok(())
}

/// The parameter space's bytes, from one pointer per parameter or from a whole buffer.
fn parameters(info: &KernelInfo, pointers: In<Host>, extra: In<usize>) -> Outcome<Vec<u8>> {
    let mut image = vec![0_u8; info.param_bytes as usize];
    if !extra.is_null() {
        if !pointers.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let bytes = extra_buffer(extra)?;
        if bytes.len() < image.len() {
            return Err(Code::INVALID_VALUE);
        }
        // A C structure of the parameters may end in padding; more than that are too many or too
        // large arguments. A type's alignment divides its size.
        let alignments = info
            .params
            .iter()
            .map(|param| 1 << param.size.trailing_zeros().min(LARGEST_ALIGNMENT_LOG2));
        if bytes.len() > image.len().next_multiple_of(alignments.max().unwrap_or(1)) {
            return Err(Code::LAUNCH_OUT_OF_RESOURCES);
        }
        image
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, &from)| *to = from);
        return Ok(image);
    }
    for (index, parameter) in info.params.iter().enumerate() {
        let (start, size) = (parameter.offset as usize, parameter.size as usize);
        let place = image.get_mut(start..start + size).ok_or(Code::UNKNOWN)?;
        place.copy_from_slice(pointers.get(index)?.bytes(size)?);
    }
    Ok(image)
}

fn extra_buffer<'a>(extra: In<usize>) -> Outcome<&'a [u8]> {
    let (mut pointer, mut size) = (None, None);
    for pair in 0..3 {
        match extra.get(pair * 2)? {
            EXTRA_END => break,
            EXTRA_POINTER => pointer = Some(extra.get(pair * 2 + 1)?),
            EXTRA_BYTES => {
                let place = In::<usize>::at(extra.get(pair * 2 + 1)?);
                size = Some(place.get(0)?);
            }
            _ => return Err(Code::INVALID_VALUE),
        }
    }
    let (pointer, size) = pointer.zip(size).ok_or(Code::INVALID_VALUE)?;
    Host::new(std::ptr::with_exposed_provenance_mut(pointer)).bytes(size)
}

/// Checks a launch and copies its parameters.
pub(super) fn prepare(
    driver: &Driver,
    handle: Handle,
    function: &Function,
    shape: &Shape,
    pointers: In<Host>,
    extra: In<usize>,
) -> Outcome<Launch> {
    check(driver, function, shape)?;
    let params = parameters(function.info()?, pointers, extra)?;
    Ok(Launch {
        function: handle,
        loaded: Arc::clone(&function.loaded),
        kernel: Arc::clone(&function.name),
        config: LaunchConfig {
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.dynamic_shared,
            cluster: shape.cluster.or(function.required_cluster()?),
            params,
        },
        cooperative: shape.cooperative,
        programmatic: shape.programmatic,
        pointers: OnceLock::new(),
    })
}

impl Launch {
    /// The same launch with other attributes, checked anew.
    pub(super) fn with(
        &self,
        driver: &Driver,
        function: &Function,
        cooperative: bool,
        cluster: Option<[u32; 3]>,
    ) -> Outcome<Self> {
        let shape = Shape {
            grid: self.config.grid,
            block: self.config.block,
            dynamic_shared: self.config.dynamic_shared,
            cooperative,
            cluster,
            programmatic: self.programmatic,
        };
        check(driver, function, &shape)?;
        Ok(Launch {
            function: self.function,
            loaded: Arc::clone(&self.loaded),
            kernel: Arc::clone(&self.kernel),
            config: LaunchConfig {
                cluster: cluster.or(function.required_cluster()?),
                ..self.config.clone()
            },
            cooperative,
            programmatic: self.programmatic,
            pointers: OnceLock::new(),
        })
    }
}

fn launch(
    handle: Handle,
    shape: &Shape,
    stream: Handle,
    pointers: In<Host>,
    extra: In<usize>,
) -> Outcome {
    let (driver, context) = current()?;
    let context = stream::context_of(driver, context, stream)?;
    let handle = library::function_in(driver, handle, context)?;
    let function = driver
        .state()
        .functions
        .get(&handle)
        .cloned()
        .ok_or(Code::INVALID_HANDLE)?;
    if function.context != context {
        return Err(Code::INVALID_HANDLE);
    }
    let launch = prepare(driver, handle, &function, shape, pointers, extra)?;
    submit(
        driver,
        function.context,
        stream,
        Work::Launch(Arc::new(launch)),
    )
}

/// Attributes of `cuLaunchKernelEx` that change nothing here: hints.
pub(super) const WITHOUT_EFFECT: [u32; 9] = [
    0,  // IGNORE
    1,  // ACCESS_POLICY_WINDOW
    3,  // SYNCHRONIZATION_POLICY
    5,  // CLUSTER_SCHEDULING_POLICY_PREFERENCE
    8,  // PRIORITY
    9,  // MEM_SYNC_DOMAIN_MAP
    10, // MEM_SYNC_DOMAIN
    14, // PREFERRED_SHARED_MEMORY_CARVEOUT
    16, // NVLINK_UTIL_CENTRIC_SCHEDULING
];

/// PROGRAMMATIC_STREAM_SERIALIZATION: the kernel may start when the one before it allows that.
pub(super) const PROGRAMMATIC: u32 = 6;

/// The shape of a configuration, with what its launch attributes say.
fn shape(config: &ExtendedConfig) -> Outcome<Shape> {
    let mut found = Shape {
        grid: config.grid,
        block: config.block,
        dynamic_shared: config.dynamic_shared,
        cooperative: false,
        cluster: None,
        programmatic: false,
    };
    for index in 0..config.attribute_count as usize {
        let Attribute { id, value, .. } = config.attributes.get(index)?;
        let [first, second, third, ..] = value;
        match id {
            2 => found.cooperative = first != 0,
            4 => found.cluster = Some([first, second, third]),
            PROGRAMMATIC => found.programmatic = first != 0,
            _ if WITHOUT_EFFECT.contains(&id) => {}
            _ => {
                let name = match id {
                    7 => "PROGRAMMATIC_EVENT",
                    11 => "PREFERRED_CLUSTER_DIMENSION",
                    12 => "LAUNCH_COMPLETION_EVENT",
                    13 => "DEVICE_UPDATABLE_KERNEL_NODE",
                    _ => "unknown",
                };
                report(format_args!(
                    "launch refused: attribute {id} ({name}) is not supported"
                ));
                return Err(Code::NOT_SUPPORTED);
            }
        }
    }
    Ok(found)
}

fn launch_extended(
    config: &ExtendedConfig,
    function: Handle,
    stream: Handle,
    pointers: In<Host>,
    extra: In<usize>,
) -> Outcome {
    launch(function, &shape(config)?, stream, pointers, extra)
}

/// The function of a configuration whose clusters are asked about, and the configuration's shape.
fn of_clusters(function: Handle, config: &ExtendedConfig) -> Outcome<(Function, Shape)> {
    let (driver, context) = current()?;
    let context = stream::context_of(driver, context, config.stream)?;
    let handle = library::function_in(driver, function, context);
    let handle = handle.map_err(|_| Code::INVALID_VALUE)?;
    let function = driver.state().functions.get(&handle).cloned();
    let shape = shape(config)?;
    Ok((function.ok_or(Code::INVALID_VALUE)?, shape))
}

/// Blocks of a shape that the device holds at once.
fn device_blocks(driver: &Driver, function: &Function, shape: &Shape) -> Outcome<u32> {
    let threads = shape
        .block
        .iter()
        .map(|&size| u64::from(size))
        .product::<u64>();
    let threads = u32::try_from(threads).map_err(|_| Code::INVALID_VALUE)?;
    let each = resident_blocks(driver, function, threads, shape.dynamic_shared)?;
    Ok(each.saturating_mul(driver.model.multiprocessors))
}

/// Clusters of a configuration that the device holds at once.
fn active_clusters(function: Handle, config: &ExtendedConfig) -> Outcome<u32> {
    let (driver, _) = current()?;
    let (function, shape) = of_clusters(function, config)?;
    check_cluster(driver, &function, &shape)?;
    let cluster = shape.cluster.or(function.required_cluster()?);
    // Checked, so the product is small.
    let size: u32 = cluster.unwrap_or([1; 3]).iter().product();
    Ok(device_blocks(driver, &function, &shape)? / size.max(1))
}

/// Blocks of the largest cluster that a configuration, whose own clusters don't count, can have.
fn largest_cluster(function: Handle, config: &ExtendedConfig) -> Outcome<u32> {
    let (driver, _) = current()?;
    let (function, shape) = of_clusters(function, config)?;
    if driver.model.compute_capability.0 < 9 {
        return Err(Code::NOT_SUPPORTED);
    }
    let most = function.most_cluster_blocks(driver)?;
    Ok(most.min(device_blocks(driver, &function, &shape)?))
}

api! {
    fn cuOccupancyMaxActiveClusters(clusters: Out<i32>, function: Handle, config: In<ExtendedConfig>) {
        clusters.set(active_clusters(function, &config.get(0)?)?.cast_signed())
    }

    fn cuOccupancyMaxPotentialClusterSize(blocks: Out<i32>, function: Handle, config: In<ExtendedConfig>) {
        blocks.set(largest_cluster(function, &config.get(0)?)?.cast_signed())
    }

    fn cuLaunchKernel(
        function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, dynamic_shared: u32, stream: Handle,
        pointers: In<Host>, extra: In<usize>,
    ) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic_shared, cooperative: false, cluster: None, programmatic: false };
        launch(function, &shape, stream, pointers, extra)
    }

    fn cuLaunchKernel_ptsz(
        function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, dynamic_shared: u32, stream: Handle,
        pointers: In<Host>, extra: In<usize>,
    ) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic_shared, cooperative: false, cluster: None, programmatic: false };
        launch(function, &shape, per_thread(stream), pointers, extra)
    }

    fn cuLaunchCooperativeKernel(
        function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, dynamic_shared: u32, stream: Handle,
        pointers: In<Host>,
    ) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic_shared, cooperative: true, cluster: None, programmatic: false };
        launch(function, &shape, stream, pointers, In::at(0))
    }

    fn cuLaunchKernelEx(config: In<ExtendedConfig>, function: Handle, pointers: In<Host>, extra: In<usize>) {
        let config = config.get(0)?;
        launch_extended(&config, function, config.stream, pointers, extra)
    }

    fn cuLaunchKernelEx_ptsz(config: In<ExtendedConfig>, function: Handle, pointers: In<Host>, extra: In<usize>) {
        let config = config.get(0)?;
        launch_extended(&config, function, per_thread(config.stream), pointers, extra)
    }
}
