//! What a cubin, ptxas' ELF file of machine code, tells about its kernels.
//!
//! The section `.nv.info` is a list of attributes; its layout is not documented by NVIDIA. The
//! figures are those that `cuobjdump --dump-resource-usage` prints.

use std::collections::HashMap;

use object::elf::{EM_CUDA, FileHeader64, SHT_SYMTAB};
use object::read::elf::{FileHeader, SectionHeader};
use object::{LittleEndian, SymbolIndex};

const INFO: &[u8] = b".nv.info";
/// An attribute's value follows it, with its size before it; all others are four bytes in all.
const SIZED: u8 = 4;
/// `EIATTR_REGCOUNT`: a function's symbol and its registers.
const REGISTERS: u8 = 0x2f;

/// The registers of each function of a cubin, by its name. Empty for what is no cubin.
pub(crate) fn registers(cubin: &[u8]) -> HashMap<String, u32> {
    read(cubin).unwrap_or_default()
}

fn read(cubin: &[u8]) -> object::Result<HashMap<String, u32>> {
    let mut found = HashMap::new();
    let header = FileHeader64::<LittleEndian>::parse(cubin)?;
    if header.e_machine(LittleEndian) != EM_CUDA {
        return Ok(found);
    }
    let sections = header.sections(LittleEndian, cubin)?;
    let symbols = sections.symbols(LittleEndian, cubin, SHT_SYMTAB)?;
    let Some((_, info)) = sections.section_by_name(LittleEndian, INFO) else {
        return Ok(found);
    };
    // Names of functions don't share bytes, so more than the file has are damage: to look for the
    // ends of long names again and again would take for ever.
    let mut room = cubin.len();
    for (symbol, registers) in Attributes(info.data(LittleEndian, cubin)?) {
        let symbol = symbols.symbol(SymbolIndex(symbol as usize))?;
        let name = symbols.symbol_name(LittleEndian, symbol)?;
        let Some(left) = room.checked_sub(name.len() + 1) else {
            break;
        };
        room = left;
        if let Ok(name) = std::str::from_utf8(name) {
            found.insert(name.to_owned(), registers);
        }
    }
    Ok(found)
}

/// Pairs of a symbol's index and its registers.
struct Attributes<'a>(&'a [u8]);

impl Iterator for Attributes<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&[form, attribute, low, high], rest) = self.0.split_first_chunk()?;
            let size = match form {
                SIZED => usize::from(u16::from_le_bytes([low, high])),
                _ => 0,
            };
            let (value, rest) = rest.split_at_checked(size)?;
            self.0 = rest;
            if (form, attribute) == (SIZED, REGISTERS)
                && let Some((&[s0, s1, s2, s3], rest)) = value.split_first_chunk()
                && let Some(&[r0, r1, r2, r3]) = rest.first_chunk()
            {
                return Some((
                    u32::from_le_bytes([s0, s1, s2, s3]),
                    u32::from_le_bytes([r0, r1, r2, r3]),
                ));
            }
        }
    }
}
