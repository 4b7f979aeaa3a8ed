//! From an image that a program hands over (fatbin, PTX text) to a module that can run.

use std::collections::HashMap;
use std::sync::Arc;

use super::abi::{Host, report};
use super::code::Code;
use super::state::Driver;
use super::{Outcome, cuda_version, rewrite};
use crate::exec::LoadedModule;
use crate::{decode::Program, fatbin, parse};

const ELF: [u8; 4] = *b"\x7fELF";
/// `__fatBinC_Wrapper_t`, which nvcc puts before the fatbin of a program: its magic number, and
/// where its pointer to the fatbin lies.
const WRAPPER: u32 = 0x4662_43B1;
const WRAPPED_AT: usize = 8;

/// A module ready to run, with what its functions report about it.
pub(super) struct Image {
    pub loaded: LoadedModule,
    /// Architecture number of the PTX: 80 for `sm_80`.
    pub target: u32,
    /// PTX version as 10 * major + minor.
    pub ptx_version: u32,
}

/// A refusal: the code, and the sentence for the log.
pub(super) struct Refusal {
    pub code: Code,
    pub reason: String,
}

fn refuse<T>(code: Code, reason: impl ToString) -> Result<T, Refusal> {
    Err(Refusal {
        code,
        reason: reason.to_string(),
    })
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self {
            code,
            reason: "the image is a null pointer".to_owned(),
        }
    }
}

/// Loads what `image` points to; its size is in its own header, or it is NUL-terminated text.
pub(super) fn load(driver: &Driver, image: Host) -> Outcome<Image> {
    load_or_refuse(driver, image).map_err(|refusal| log(&refusal))
}

/// Puts a refusal on stderr.
pub(super) fn log(refusal: &Refusal) -> Code {
    report(format_args!("module refused: {}", refusal.reason));
    refusal.code
}

pub(super) fn load_or_refuse(driver: &Driver, image: Host) -> Result<Image, Refusal> {
    load_bytes(driver, bytes_of(image)?)
}

/// The bytes of an image of unknown size.
pub(super) fn bytes_of<'a>(image: Host) -> Result<&'a [u8], Refusal> {
    let mut image = image;
    let mut start = start_of(image)?;
    if start == WRAPPER.to_le_bytes() {
        let pointer = image.try_read::<8>(WRAPPED_AT).map(usize::from_le_bytes);
        let Some(pointer) = pointer.filter(|&pointer| pointer != 0) else {
            return refuse(Code::INVALID_IMAGE, "the fatbin's wrapper points nowhere");
        };
        image = Host::new(std::ptr::with_exposed_provenance_mut(pointer));
        start = start_of(image)?;
    }
    if start == fatbin::MAGIC.to_le_bytes() {
        let mut header = [0_u8; fatbin::HEADER_BYTES];
        header.copy_from_slice(image.bytes(fatbin::HEADER_BYTES)?);
        // A damaged header must not lead outside of the program's memory.
        let checked = fatbin::check_entries(&header, |at| image.try_read(at));
        return match checked.and_then(|()| fatbin::declared_bytes(&header)) {
            Ok(size) => Ok(image.bytes(size)?),
            Err(error) => refuse(Code::INVALID_IMAGE, error),
        };
    }
    if start == ELF {
        return Ok(image.bytes(ELF.len())?);
    }
    Ok(image.text_bytes()?)
}

/// The first bytes of an image. Text may be shorter: nothing is looked at past its terminator.
fn start_of(image: Host) -> Outcome<[u8; 4]> {
    let mut start = [0_u8; 4];
    for (index, byte) in start.iter_mut().enumerate() {
        *byte = image.bytes(index + 1)?.last().copied().unwrap_or(0);
        if *byte == 0 {
            break;
        }
    }
    Ok(start)
}

/// Loads an image of known size.
pub(super) fn load_bytes(driver: &Driver, bytes: &[u8]) -> Result<Image, Refusal> {
    if bytes.starts_with(&fatbin::MAGIC.to_le_bytes()) {
        return from_fatbin(driver, bytes);
    }
    if bytes.starts_with(&ELF) {
        return refuse(
            Code::NO_BINARY_FOR_GPU,
            "the image is a cubin (machine code); an emulated device runs PTX only. Compile with code=compute_XX as well",
        );
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => from_text(driver, text.trim_end_matches('\0')),
        Err(_) => refuse(
            Code::INVALID_IMAGE,
            "the image is neither a fatbin nor PTX text",
        ),
    }
}

fn from_fatbin(driver: &Driver, bytes: &[u8]) -> Result<Image, Refusal> {
    let images = match fatbin::ptx_images(bytes) {
        Ok(images) => images,
        Err(error) => return refuse(Code::INVALID_IMAGE, error),
    };
    let sm = driver.sm();
    let Some(image) = fatbin::choose(&images, sm) else {
        let has: Vec<String> = images
            .iter()
            .map(|image| format!("sm_{}{}", image.sm, if image.exact { "a" } else { "" }))
            .collect();
        let has = if has.is_empty() {
            "no PTX".to_owned()
        } else {
            format!("PTX for {}", has.join(", "))
        };
        return refuse(
            Code::NO_BINARY_FOR_GPU,
            format!("the fatbin has {has}; an emulated sm_{sm} device can't run it"),
        );
    };
    if image.is_zstd()
        && let Err(reason) = cuda_version::check_zstd()
    {
        return refuse(Code::INVALID_IMAGE, reason);
    }
    let loaded = image
        .text()
        .and_then(|text| Ok((text, fatbin::registers(bytes, sm)?)));
    match loaded {
        Ok((text, registers)) => from_ptx(driver, &text, &registers),
        Err(error) => refuse(Code::INVALID_IMAGE, error),
    }
}

fn from_text(driver: &Driver, text: &str) -> Result<Image, Refusal> {
    from_ptx(driver, text, &HashMap::new())
}

/// `registers` has those of a thread of each kernel, as far as they are known.
fn from_ptx(
    driver: &Driver,
    text: &str,
    registers: &HashMap<String, u32>,
) -> Result<Image, Refusal> {
    let changed = rewrite::apply(text);
    let module = match parse::parse_module(changed.as_deref().unwrap_or(text)) {
        Ok(module) => module,
        Err(error) => return refuse(Code::INVALID_PTX, error),
    };
    let (major, minor) = module.version;
    let ptx_version = major.saturating_mul(10).saturating_add(minor);
    if let Err(reason) = cuda_version::check_ptx(ptx_version) {
        return refuse(Code::UNSUPPORTED_PTX_VERSION, reason);
    }
    let target = module.target.trim_start_matches("sm_");
    let number = target.trim_end_matches(['a', 'f']);
    let exact = number.len() < target.len();
    let (number, sm) = (number.parse().unwrap_or(u32::MAX), driver.sm());
    if number > sm || (exact && number != sm) {
        return refuse(
            Code::INVALID_PTX,
            format!(
                "PTX for {} does not run on an sm_{sm} device",
                module.target
            ),
        );
    }
    let mut program = match Program::decode(&module) {
        Ok(program) => program,
        Err(error) => return refuse(Code::INVALID_PTX, error),
    };
    program.set_registers(registers);
    let loaded = match LoadedModule::load(program, &driver.memory) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(Code::OUT_OF_MEMORY, error),
    };
    let most = driver.model.max_shared_per_block;
    if let Some(kernel) = loaded.kernels().find(|kernel| kernel.static_shared > most) {
        let (name, bytes) = (&kernel.name, kernel.static_shared);
        return refuse(
            Code::INVALID_PTX,
            format!(
                "{name} declares {bytes} bytes of shared memory, at most {most} can be declared (more can be dynamic)"
            ),
        );
    }
    Ok(Image {
        loaded,
        target: number,
        ptx_version,
    })
}

impl Image {
    pub fn share(self) -> (Arc<LoadedModule>, u32, u32) {
        (Arc::new(self.loaded), self.target, self.ptx_version)
    }
}
