//! `doctor`: the driver and devices found, what will be used, and what to do.

use lora_kernels::cudarc::driver::{CudaContext, result, sys};
use lora_kernels::raw::{built_architectures, built_toolkit};
use lora_kernels::{Error, Kernels};
use serde::Serialize;

use crate::failure::Failure;
use crate::show;

const AFTER_HELP: &str = "\
Looks for the driver, asks it for its devices, and loads the kernels on each as a program would. Exit status 0 if at least one device runs them, else 3.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Findings {
    version: &'static str,
    /// Compute capabilities for which this build has machine code.
    architectures: Vec<&'static str>,
    /// The release of the nvcc that compiled the kernels.
    nvcc: Option<String>,
    /// The oldest driver that loads what that nvcc made.
    oldest_driver: Option<u32>,
    driver: bool,
    /// The CUDA version that the driver supports.
    cuda: Option<String>,
    devices: Vec<DeviceFindings>,
    /// Whether at least one device can run the kernels.
    usable: bool,
    advice: Vec<String>,
}

#[derive(Serialize)]
struct DeviceFindings {
    number: usize,
    name: String,
    compute_capability: Option<String>,
    memory_bytes: Option<usize>,
    /// The code the device runs: machine code of an architecture, or PTX that the driver compiles.
    code: Option<String>,
    usable: bool,
    problem: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let findings = examine();
    if arguments.json {
        show::json(&findings)?;
    } else {
        print(&findings)?;
    }
    match findings.usable {
        true => Ok(()),
        false => Err(Failure::NoDevice(
            "no device runs the kernels here, see above".into(),
        )),
    }
}

fn examine() -> Findings {
    let toolkit = built_toolkit();
    let mut findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        architectures: built_architectures().to_vec(),
        nvcc: toolkit.map(|toolkit| format!("{}.{}", toolkit.nvcc.0, toolkit.nvcc.1)),
        oldest_driver: toolkit.and_then(|toolkit| toolkit.driver),
        ..Findings::default()
    };
    if findings.architectures.is_empty() {
        findings.advice.push(Error::KernelsNotBuilt.to_string());
    }
    // SAFETY: this loads and closes the driver library, whose initialisers run in every CUDA
    // program.
    findings.driver = unsafe { sys::is_culib_present() };
    if !findings.driver {
        findings.advice.push(Error::NoDriver.to_string());
        return findings;
    }
    findings.cuda = driver_version();
    match CudaContext::device_count() {
        Ok(0) => findings.advice.push("the driver has no device: is there a GPU, and does CUDA_VISIBLE_DEVICES hide it?".into()),
        Ok(count) => findings.devices = (0..count.max(0) as usize).map(device).collect(),
        Err(error) => findings.advice.push(format!(
            "the driver doesn't start ({error:?}): a driver and a kernel module of different versions, or no permission for /dev/nvidia*; nvidia-smi may say \
             more"
        )),
    }
    findings.usable = findings.devices.iter().any(|device| device.usable);
    let problems = findings
        .devices
        .iter()
        .filter_map(|device| Some((device.number, device.problem.as_ref()?)));
    findings
        .advice
        .extend(problems.map(|(number, problem)| format!("device {number}: {problem}")));
    findings
}

fn driver_version() -> Option<String> {
    let mut version = 0;
    // SAFETY: the call writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .ok()?;
    Some(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn device(number: usize) -> DeviceFindings {
    let handle = result::device::get(number as i32).ok();
    let name = handle.and_then(|device| result::device::get_name(device).ok());
    let mut found = DeviceFindings {
        number,
        name: name.unwrap_or_else(|| "a device without a name".into()),
        compute_capability: None,
        memory_bytes: None,
        code: None,
        usable: false,
        problem: None,
    };
    let context = match lora_kernels::context(number) {
        Ok(context) => context,
        Err(error) => {
            found.problem = Some(error.to_string());
            return found;
        }
    };
    found.memory_bytes = context.total_mem().ok();
    if let Ok((major, minor)) = context.compute_capability() {
        found.compute_capability = Some(format!("{major}.{minor}"));
        found.code = Some(code_for(major, minor));
    }
    match Kernels::load(&context) {
        Ok(_) => found.usable = true,
        Err(error) => found.problem = Some(error.to_string()),
    }
    found
}

/// Machine code runs on devices of its generation that are at least as new. A suffix `a` limits it
/// to one compute capability.
fn code_for(major: i32, minor: i32) -> String {
    let fits = |architecture: &&&str| {
        let exact = architecture.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: i32 = exact.parse().unwrap_or_default();
        match exact.len() == architecture.len() {
            true => number / 10 == major && number % 10 <= minor,
            false => number == 10 * major + minor,
        }
    };
    match built_architectures().iter().rfind(fits) {
        Some(architecture) => format!("machine code for {architecture}"),
        None => "PTX for 8.0, compiled by the driver when it is loaded".into(),
    }
}

fn print(findings: &Findings) -> Result<(), Failure> {
    show::line(&format!("lora-kernels {}", findings.version))?;
    let built = match findings.architectures.join(", ") {
        none if none.is_empty() => "none: this build has no kernels".to_owned(),
        list => format!("machine code for {list}; PTX for 8.0, which newer GPUs compile"),
    };
    show::line(&format!("kernels  {built}"))?;
    if let Some(nvcc) = &findings.nvcc {
        let needs = findings.oldest_driver.map_or_else(
            || format!("a driver that supports CUDA {nvcc}"),
            |driver| format!("driver {driver} or later"),
        );
        show::line(&format!(
            "         compiled by nvcc {nvcc}, whose machine code needs {needs}"
        ))?;
    }
    let driver = match (&findings.cuda, findings.driver) {
        (Some(version), _) => format!("present, CUDA {version}"),
        (None, true) => "present, of an unknown version".into(),
        (None, false) => "none".into(),
    };
    show::line(&format!("driver   {driver}"))?;
    for device in &findings.devices {
        let capability = device.compute_capability.as_deref().unwrap_or("unknown");
        let memory = device
            .memory_bytes
            .map_or_else(|| "unknown".into(), |bytes| show::bytes(bytes as u64));
        show::line(&format!(
            "device {} {}: compute capability {capability}, {memory} of memory",
            device.number, device.name
        ))?;
        if device.usable {
            show::line(&format!(
                "         will be used with {}",
                device.code.as_deref().unwrap_or("its code")
            ))?;
        }
    }
    findings
        .advice
        .iter()
        .try_for_each(|advice| show::line(&format!("problem  {advice}")))
}
