//! Variable declarations: `.shared .align 16 .b8 tile[4096];`, parameters, initialised globals (PTX
//! ISA section 5.4).

use super::ParseError;
use super::cursor::{Cursor, Number, error_at};
use super::lexer::{Kind, Token};
use crate::ast::{Link, Place, Space, Variable};

const ADDRESS_BYTES: u64 = 8;

/// Size in bytes of a fundamental type, without its dot.
pub(super) fn type_bytes(ty: &str) -> Option<u64> {
    Some(match ty {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

/// Reads one variable from behind its state space (`.align ... name[...] = ...`), up to but not
/// including `,`, `)` or `;`. The name's token comes with it, for the caller to declare.
pub(super) fn variable<'a>(
    cursor: &mut Cursor<'a>,
    space: Space,
    is_extern: bool,
    place: Place,
) -> Result<(Variable, Token<'a>), ParseError> {
    let mut align = None;
    let mut vector = 1_u64;
    let mut ty: Option<&'a str> = None;
    loop {
        let token = cursor.peek();
        match token.text {
            ".align" => {
                cursor.advance()?;
                let token = cursor.peek();
                let value = cursor.u32("an alignment")?;
                if !value.is_power_of_two() || value > 1 << 20 {
                    return Err(error_at(
                        &token,
                        "an alignment that is a power of two up to 1 MiB",
                    ));
                }
                align = Some(value);
            }
            ".v2" | ".v4" | ".v8" => {
                cursor.advance()?;
                vector = match token.text {
                    ".v2" => 2,
                    ".v4" => 4,
                    _ => 8,
                };
            }
            ".ptr" if space == Space::Param && ty.is_some() => {
                cursor.advance()?;
                pointer_attributes(cursor)?;
            }
            ".attribute" => {
                cursor.advance()?;
                attribute(cursor)?;
            }
            _ => match token.text.strip_prefix('.') {
                Some(name) if ty.is_none() && type_bytes(name).is_some() => {
                    cursor.advance()?;
                    ty = Some(name);
                }
                Some(_) => return Err(cursor.unexpected("a variable's type, alignment or name")),
                None => break,
            },
        }
    }
    let Some(ty) = ty else {
        return Err(cursor.unexpected("a variable's type (`.b8`, `.u32`, ...) before its name"));
    };
    let name = cursor.name("a variable's name")?;
    let element = type_bytes(ty).unwrap_or(1) * vector;
    let size = array_bytes(cursor, element, space == Space::Shared && is_extern)?;
    let mut init = Vec::new();
    let mut links = Vec::new();
    if cursor.eat(b'=')? {
        if !matches!(space, Space::Global | Space::Const) {
            return Err(error_at(
                &name,
                "no initial value outside `.global` and `.const`",
            ));
        }
        initialiser(cursor, ty, size, name.text, (&mut init, &mut links))?;
    }
    let declared = Variable {
        name: name.text.to_owned(),
        space,
        align: align.unwrap_or(u32::try_from(element).unwrap_or(1)),
        ty: ty.to_owned(),
        size,
        is_extern,
        init,
        links,
        place,
    };
    Ok((declared, name))
}

fn pointer_attributes(cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
    if [".global", ".shared", ".const", ".local"].contains(&cursor.peek().text) {
        cursor.advance()?;
    }
    if cursor.at_word(".align") {
        cursor.advance()?;
        cursor.u32("the alignment that a `.ptr` promises")?;
    }
    Ok(())
}

/// `.attribute(.managed)`: device memory is one memory here, so managed variables are plain ones.
fn attribute(cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
    cursor.expect(b'(', "`.attribute`")?;
    if !cursor.at_word(".managed") {
        return Err(cursor.unexpected("`.managed`, the only attribute this emulator has"));
    }
    cursor.advance()?;
    cursor.expect(b')', "`.managed`")
}

fn array_bytes(
    cursor: &mut Cursor<'_>,
    element: u64,
    may_be_unsized: bool,
) -> Result<u64, ParseError> {
    let mut bytes = element;
    while cursor.at(b'[') {
        let bracket = cursor.advance()?;
        if may_be_unsized && cursor.eat(b']')? {
            return Ok(0);
        }
        let count = cursor.integer("the length of the array")?;
        bytes = bytes
            .checked_mul(count)
            .filter(|&bytes| bytes <= 1 << 40)
            .ok_or_else(|| error_at(&bracket, "an array of at most 1 TiB"))?;
        cursor.expect(b']', "the length of the array")?;
    }
    Ok(bytes)
}

fn initialiser(
    cursor: &mut Cursor<'_>,
    ty: &str,
    size: u64,
    name: &str,
    (bytes, links): (&mut Vec<u8>, &mut Vec<Link>),
) -> Result<(), ParseError> {
    let braced = cursor.eat(b'{')?;
    while !(braced && cursor.eat(b'}')?) {
        let token = cursor.peek();
        if token.kind == Kind::Word && !token.text.starts_with('.') {
            if type_bytes(ty) != Some(ADDRESS_BYTES) {
                return Err(error_at(
                    &token,
                    "an address in a variable of 64-bit elements",
                ));
            }
            let (symbol, addend) = address(cursor)?;
            let offset = bytes.len() as u64;
            links.push(Link {
                offset,
                symbol,
                addend,
            });
            bytes.extend_from_slice(&[0; ADDRESS_BYTES as usize]);
        } else {
            let what = format!("an initial value of `{name}`: a number or an address");
            let number = cursor.number(&what)?;
            let encoded = encode(number, ty)
                .ok_or_else(|| error_at(&token, format!("a value of type `.{ty}`")))?;
            bytes.extend_from_slice(&encoded);
        }
        if bytes.len() as u64 > size {
            return Err(error_at(
                &token,
                format!("at most {size} bytes of initial values for `{name}`"),
            ));
        }
        if !braced {
            break;
        }
        if !cursor.at(b'}') {
            cursor.expect(b',', "an initial value")?;
        }
    }
    Ok(())
}

/// `name`, `name+16` or `generic(name)+16`: the spaces of variables share their addresses here.
fn address(cursor: &mut Cursor<'_>) -> Result<(String, i64), ParseError> {
    let mut name = cursor.name("a variable's or a function's name")?;
    if name.text == "generic" && cursor.eat(b'(')? {
        name = cursor.name("a variable's name")?;
        cursor.expect(b')', "the name")?;
    }
    let addend = super::operand::offset(cursor)?;
    Ok((name.text.to_owned(), addend))
}

/// Little-endian bytes of a literal stored as `ty`.
fn encode(number: Number, ty: &str) -> Option<Vec<u8>> {
    let bytes = usize::try_from(type_bytes(ty)?).ok()?;
    let bits = match (number, ty) {
        (Number::Integer(value), "f32" | "f64" | "f16" | "bf16" | "b128") if value != 0 => {
            return None;
        }
        (Number::Integer(value), _) => value,
        (Number::F32(bits), "f32" | "b32") => u64::from(bits),
        (Number::F32(bits), "f64" | "b64") => f64::from(f32::from_bits(bits)).to_bits(),
        #[allow(clippy::cast_possible_truncation)]
        (Number::F64(bits), "f32" | "b32") => u64::from((f64::from_bits(bits) as f32).to_bits()),
        (Number::F64(bits), "f64" | "b64") => bits,
        _ => return None,
    };
    let mut encoded = bits.to_le_bytes().to_vec();
    encoded.resize(bytes, 0);
    Some(encoded)
}
