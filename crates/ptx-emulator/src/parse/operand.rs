//! Operands: registers, immediates, symbols, addresses, vectors (PTX ISA section 6).

use super::ParseError;
use super::cursor::{Cursor, Number};
use super::lexer::Kind;
use super::scope::Scopes;
use crate::ast::Operand;

/// One operand, pairs and brackets included.
pub(super) fn operand<'a>(
    cursor: &mut Cursor<'a>,
    scopes: &mut Scopes<'a>,
) -> Result<Operand, ParseError> {
    match cursor.peek().kind {
        Kind::Mark(b'[') => address(cursor, scopes),
        Kind::Mark(b'{') => {
            cursor.advance()?;
            list(cursor, scopes, b'}')
        }
        _ => {
            let first = scalar(cursor, scopes)?;
            if cursor.eat(b'|')? {
                let second = scalar(cursor, scopes)?;
                return Ok(Operand::Pair(Box::new(first), Box::new(second)));
            }
            Ok(first)
        }
    }
}

/// The rest of a list up to `close`; the opening mark has been read.
pub(super) fn list<'a>(
    cursor: &mut Cursor<'a>,
    scopes: &mut Scopes<'a>,
    close: u8,
) -> Result<Operand, ParseError> {
    let mut items = Vec::new();
    while !cursor.eat(close)? {
        if !items.is_empty() {
            cursor.expect(b',', "an operand of the list")?;
        }
        items.push(scalar(cursor, scopes)?);
    }
    Ok(Operand::Vector(items))
}

fn scalar<'a>(cursor: &mut Cursor<'a>, scopes: &mut Scopes<'a>) -> Result<Operand, ParseError> {
    let token = cursor.peek();
    match token.kind {
        Kind::Number | Kind::Mark(b'-') => Ok(match cursor.number("a number")? {
            Number::Integer(value) => Operand::Integer(value),
            Number::F32(bits) => Operand::F32(bits),
            Number::F64(bits) => Operand::F64(bits),
        }),
        Kind::Mark(b'!') => {
            cursor.advance()?;
            let name = cursor.name("a predicate register after `!`")?;
            match scopes.register(name.text) {
                Some(register) => Ok(Operand::NegatedPredicate(register)),
                None => Err(super::cursor::error_at(
                    &name,
                    "a declared predicate register after `!`",
                )),
            }
        }
        Kind::Mark(b'~') => {
            cursor.advance()?;
            Ok(Operand::Integer(!cursor.integer("an integer after `~`")?))
        }
        Kind::Word if !token.text.starts_with('.') => {
            cursor.advance()?;
            let base = named(token.text, scopes);
            match base {
                Operand::Symbol(name, _) => Ok(Operand::Symbol(name, offset(cursor)?)),
                other => Ok(other),
            }
        }
        _ => Err(cursor.unexpected("an operand")),
    }
}

/// A register if one is declared or the name can only be a special one, otherwise a symbol.
fn named<'a>(name: &'a str, scopes: &mut Scopes<'a>) -> Operand {
    if name == "_" {
        return Operand::Sink;
    }
    match scopes.register(name) {
        Some(register) => Operand::Register(register),
        None if name.starts_with('%') || name == "WARP_SZ" => Operand::Register(name.to_owned()),
        None => Operand::Symbol(name.to_owned(), 0),
    }
}

/// `+16`, `-4`, `+-4`, or nothing.
pub(super) fn offset(cursor: &mut Cursor<'_>) -> Result<i64, ParseError> {
    let mut total = 0_i64;
    loop {
        let plus = cursor.eat(b'+')?;
        if !plus && !cursor.at(b'-') {
            return Ok(total);
        }
        let value = cursor.integer("a byte offset")?;
        total = total.wrapping_add(value.cast_signed());
    }
}

/// `[base+offset]`, or a tensor map with coordinates `[map, {x, y}]`.
fn address<'a>(cursor: &mut Cursor<'a>, scopes: &mut Scopes<'a>) -> Result<Operand, ParseError> {
    cursor.advance()?;
    let token = cursor.peek();
    let address = if token.kind == Kind::Word && !token.text.starts_with('.') {
        cursor.advance()?;
        let base = named(token.text, scopes);
        Operand::Address(Some(Box::new(base)), offset(cursor)?)
    } else {
        let absolute = cursor.integer("an address: a register, a variable or an integer")?;
        Operand::Address(None, absolute.cast_signed().wrapping_add(offset(cursor)?))
    };
    if cursor.eat(b',')? {
        cursor.expect(b'{', "a tensor map")?;
        let coordinates = list(cursor, scopes, b'}')?;
        cursor.expect(b']', "the coordinates")?;
        return Ok(Operand::Vector(vec![address, coordinates]));
    }
    cursor.expect(b']', "an address")?;
    Ok(address)
}
