//! `printf` and `assert` of a kernel (CUDA C++ Programming Guide, "Formatted output" and
//! "Assertion").

use std::ffi::{CString, c_int};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::fault::FaultKind;
use super::interpret::{Run, first_lane};
use super::registers::{LANES, lanes};
use super::space::Spaces;
use super::trap::{Outcome, Trap};
use crate::decode::op::{Inst, Window};

/// Text of one launch that is kept before it is written: the size of a GPU's buffer, which loses
/// the oldest text where this one writes it out.
const MOST_KEPT: usize = 1 << 20;
/// A string that a kernel prints is cut here.
const LONGEST_STRING: usize = 1 << 16;
/// Widths and precisions are cut here.
const WIDEST: u32 = 1 << 12;

/// Where the `printf` of kernels goes, when a launch ends or has printed a lot.
#[derive(Debug, Clone, Default)]
pub enum Printer {
    /// The C library's `stdout`, so that the order with the host's own `printf` stays.
    #[default]
    Stdout,
    /// Into memory.
    Buffer(Arc<Mutex<Vec<u8>>>),
}

impl Printer {
    fn write(&self, text: &[u8]) {
        match self {
            Printer::Stdout => to_stdout(text),
            Printer::Buffer(buffer) => buffer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(text),
        }
    }
}

fn to_stdout(text: &[u8]) {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // SAFETY: the C library opens `stdout` before any code of the program runs, and its functions
    // take turns by themselves; `text` is readable for its length. What can't be written is lost,
    // as on a GPU.
    unsafe {
        libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout);
        libc::fflush(stdout);
    }
}

/// What a launch has printed, in the order in which its threads did.
pub(crate) struct Printed<'a> {
    printer: &'a Printer,
    text: Mutex<Vec<u8>>,
}

impl<'a> Printed<'a> {
    pub fn new(printer: &'a Printer) -> Self {
        let text = Mutex::default();
        Printed { printer, text }
    }

    fn push(&self, more: &[u8]) {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(more);
        if text.len() > MOST_KEPT {
            self.printer.write(&std::mem::take(&mut *text));
        }
    }
}

impl Drop for Printed<'_> {
    fn drop(&mut self) {
        let text = self.text.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !text.is_empty() {
            self.printer.write(text);
        }
    }
}

impl Run<'_, '_, '_> {
    /// `vprintf`, lane by lane. The result is the number of arguments, or -1 without a format.
    #[cold]
    pub(super) fn print(&mut self, inst: &Inst, active: u32) -> Outcome {
        let (formats, values) = (
            *self.warp.regs.wide(inst.s[0]),
            *self.warp.regs.wide(inst.s[1]),
        );
        let mut counts = [0; LANES];
        let mut text = Vec::new();
        let (_, _, mut spaces) = self.parts();
        for lane in lanes(active) {
            if formats[lane] == 0 {
                counts[lane] = u32::MAX;
                continue;
            }
            let mut reader = Reader {
                spaces: &mut spaces,
                lane,
            };
            let format = reader.string(formats[lane])?;
            let mut arguments = Arguments {
                at: values[lane],
                count: 0,
            };
            formatted(&format, &mut reader, &mut arguments, &mut text)?;
            counts[lane] = arguments.count;
        }
        self.launch.printed.push(&text);
        self.warp.regs.set_word(inst.d[0], active, &counts);
        Ok(())
    }

    /// What a false `assert` says.
    #[cold]
    pub(super) fn assertion(&mut self, inst: &Inst, active: u32) -> Box<Trap> {
        let lane = first_lane(active);
        let mut message = "an assert() of the kernel is false".to_owned();
        if inst.s.iter().all(|reg| reg.is_some()) {
            let [text, file, line, function] = inst.s.map(|reg| self.warp.regs.any(reg)[lane]);
            let (_, _, mut spaces) = self.parts();
            let mut reader = Reader {
                spaces: &mut spaces,
                lane,
            };
            let mut string = |address| {
                let bytes = reader.string(address).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let (text, file, function) = (string(text), string(file), string(function));
            message.push_str(&format!(": {file}:{line}: {function}: `{text}`"));
        }
        Trap::new(FaultKind::Assert, lane, message)
    }
}

/// A lane's view of memory.
struct Reader<'r, 's, 'g> {
    spaces: &'r mut Spaces<'s, 'g>,
    lane: usize,
}

impl Reader<'_, '_, '_> {
    fn value(&mut self, address: u64, bytes: u32) -> Result<u64, Box<Trap>> {
        let lane = self.lane;
        let found = self
            .spaces
            .resolve(Window::Generic, [address; LANES], 1 << lane, bytes)?;
        let mut raw = [0; 8];
        // SAFETY: `resolve` found `bytes` readable bytes, at most 8, that the launch keeps alive.
        unsafe {
            std::ptr::copy_nonoverlapping(
                found[lane] as *const u8,
                raw.as_mut_ptr(),
                bytes as usize,
            );
        }
        Ok(u64::from_le_bytes(raw))
    }

    /// The bytes up to a zero.
    fn string(&mut self, address: u64) -> Result<Vec<u8>, Box<Trap>> {
        let mut bytes = Vec::new();
        while bytes.len() < LONGEST_STRING {
            match self.value(address.wrapping_add(bytes.len() as u64), 1)? {
                0 => break,
                byte => bytes.push(byte as u8),
            }
        }
        Ok(bytes)
    }
}

/// The arguments behind a format, each aligned to its size.
struct Arguments {
    at: u64,
    count: u32,
}

impl Arguments {
    fn next(&mut self, reader: &mut Reader<'_, '_, '_>, bytes: u32) -> Result<u64, Box<Trap>> {
        let size = u64::from(bytes);
        let at = self.at.checked_next_multiple_of(size).unwrap_or(u64::MAX);
        self.at = at.wrapping_add(size);
        self.count += 1;
        reader.value(at, bytes)
    }
}

/// One conversion of a format: `%-8.3lld`.
#[derive(Default)]
struct Conversion {
    flags: String,
    width: Option<u32>,
    precision: Option<u32>,
    /// `l` or `ll`.
    is_long: bool,
    is_short: bool,
    is_char: bool,
    kind: u8,
}

impl Conversion {
    /// For the C library; `size` stands before the conversion's letter.
    fn pattern(&self, size: &str) -> CString {
        struct Given(char, Option<u32>);
        impl fmt::Display for Given {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match (self.0, self.1) {
                    (_, None) => Ok(()),
                    ('.', Some(value)) => write!(f, ".{value}"),
                    (_, Some(value)) => write!(f, "{value}"),
                }
            }
        }
        let (width, precision) = (Given(' ', self.width), Given('.', self.precision));
        let kind = char::from(self.kind);
        // There is no zero byte in it.
        CString::new(format!("%{}{width}{precision}{size}{kind}", self.flags)).unwrap_or_default()
    }
}

/// Appends what a format and its arguments print.
fn formatted(
    format: &[u8],
    reader: &mut Reader<'_, '_, '_>,
    arguments: &mut Arguments,
    out: &mut Vec<u8>,
) -> Outcome {
    let mut rest = format;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        if let Some(behind) = rest.strip_prefix(b"%") {
            out.push(b'%');
            rest = behind;
            continue;
        }
        let start = rest;
        match conversion(&mut rest, reader, arguments)? {
            Some(found) => convert(&found, reader, arguments, out)?,
            None => {
                // No conversion: as it stands.
                out.push(b'%');
                out.extend_from_slice(&start[..start.len() - rest.len()]);
            }
        }
    }
    Ok(())
}

/// Reads a conversion from behind its `%`; a `*` takes an argument.
fn conversion(
    rest: &mut &[u8],
    reader: &mut Reader<'_, '_, '_>,
    arguments: &mut Arguments,
) -> Result<Option<Conversion>, Box<Trap>> {
    let mut found = Conversion::default();
    while let Some((&flag, behind)) = rest.split_first().filter(|(f, _)| b"#0- +".contains(f)) {
        if !found.flags.contains(char::from(flag)) {
            found.flags.push(char::from(flag));
        }
        *rest = behind;
    }
    let mut number = |rest: &mut &[u8]| -> Result<Option<i64>, Box<Trap>> {
        if let Some(behind) = rest.strip_prefix(b"*") {
            *rest = behind;
            let value = arguments.next(reader, 4)?;
            return Ok(Some(i64::from(value as i32)));
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (text, behind) = rest.split_at(digits);
        *rest = behind;
        let value = text.iter().fold(0_i64, |value, digit| {
            (value * 10 + i64::from(digit - b'0')).min(i64::from(WIDEST))
        });
        Ok((digits > 0).then_some(value))
    };
    let cut = |value: i64| value.unsigned_abs().min(u64::from(WIDEST)) as u32;
    if let Some(width) = number(rest)? {
        if width < 0 && !found.flags.contains('-') {
            found.flags.push('-');
        }
        found.width = Some(cut(width));
    }
    if let Some(behind) = rest.strip_prefix(b".") {
        *rest = behind;
        // A negative precision counts as none.
        found.precision = match number(rest)? {
            Some(precision) if precision < 0 => None,
            precision => Some(cut(precision.unwrap_or(0))),
        };
    }
    while let Some((&size, behind)) = rest.split_first().filter(|(s, _)| b"hlLjzt".contains(s)) {
        found.is_char |= size == b'h' && found.is_short;
        found.is_short |= size == b'h';
        found.is_long |= b"ljzt".contains(&size);
        *rest = behind;
    }
    let Some((&kind, behind)) = rest.split_first() else {
        return Ok(None);
    };
    *rest = behind;
    found.kind = kind;
    Ok(b"cdiouxXpeEfFgGaAs".contains(&kind).then_some(found))
}

fn convert(
    how: &Conversion,
    reader: &mut Reader<'_, '_, '_>,
    arguments: &mut Arguments,
    out: &mut Vec<u8>,
) -> Outcome {
    match how.kind {
        b's' => {
            let address = arguments.next(reader, 8)?;
            let text = if address == 0 {
                b"(null)".to_vec()
            } else {
                reader.string(address)?
            };
            // A string of a kernel has no zero byte: it ended there.
            let text = CString::new(text).unwrap_or_default();
            print(out, &how.pattern(""), |to, room, pattern| {
                // SAFETY: `print` vouches for the buffer and the pattern, which wants one string.
                unsafe { libc::snprintf(to, room, pattern, text.as_ptr()) }
            });
        }
        b'p' => {
            let address = arguments.next(reader, 8)? as usize;
            let pointer = std::ptr::without_provenance::<libc::c_void>(address);
            print(out, &how.pattern(""), |to, room, pattern| {
                // SAFETY: as above; a pointer is printed, not followed.
                unsafe { libc::snprintf(to, room, pattern, pointer) }
            });
        }
        b'c' => {
            let value = arguments.next(reader, 4)? as c_int;
            if value as u8 == 0 {
                // The C library's string would end here.
                let blanks = how.width.unwrap_or(1).saturating_sub(1) as usize;
                let left = how.flags.contains('-');
                out.extend(std::iter::repeat_n(b' ', if left { 0 } else { blanks }));
                out.push(0);
                out.extend(std::iter::repeat_n(b' ', if left { blanks } else { 0 }));
                return Ok(());
            }
            print(out, &how.pattern(""), |to, room, pattern| {
                // SAFETY: as above, with one `int`.
                unsafe { libc::snprintf(to, room, pattern, value) }
            });
        }
        b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
            let value = f64::from_bits(arguments.next(reader, 8)?);
            print(out, &how.pattern(""), |to, room, pattern| {
                // SAFETY: as above, with one `double`.
                unsafe { libc::snprintf(to, room, pattern, value) }
            });
        }
        _ if how.is_long => {
            let value = arguments.next(reader, 8)?;
            print(out, &how.pattern("ll"), |to, room, pattern| {
                // SAFETY: as above, with one `long long`.
                unsafe { libc::snprintf(to, room, pattern, value) }
            });
        }
        _ => {
            let value = arguments.next(reader, 4)? as u32;
            let size = match (how.is_char, how.is_short) {
                (true, _) => "hh",
                (_, true) => "h",
                _ => "",
            };
            print(out, &how.pattern(size), |to, room, pattern| {
                // SAFETY: as above, with one `int`.
                unsafe { libc::snprintf(to, room, pattern, value) }
            });
        }
    }
    Ok(())
}

/// Appends what `write` gives, which is asked for its length first.
fn print(
    out: &mut Vec<u8>,
    pattern: &CString,
    write: impl Fn(*mut libc::c_char, usize, *const libc::c_char) -> c_int,
) {
    let length = write(std::ptr::null_mut(), 0, pattern.as_ptr());
    let Ok(length) = usize::try_from(length) else {
        return;
    };
    let mut text = vec![0_u8; length + 1];
    write(text.as_mut_ptr().cast(), text.len(), pattern.as_ptr());
    text.pop();
    out.append(&mut text);
}
