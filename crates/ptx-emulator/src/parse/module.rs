//! Module-scope directives: version, target, files, variables, function headers.

use super::ParseError;
use super::cursor::{Cursor, error_at};
use super::function::{body, location};
use super::lexer::{Kind, Token};
use super::variable::variable;
use crate::ast::{Function, Module, Place, Space, Variable};

pub(super) fn parse(text: &str) -> Result<Module, ParseError> {
    let mut cursor = Cursor::new(text)?;
    let mut module = Module::default();
    header(&mut cursor, &mut module)?;
    while cursor.peek().kind != Kind::End {
        item(&mut cursor, &mut module)?;
    }
    Ok(module)
}

/// `.version`, `.target`, `.address_size`: a module starts with them, in this order.
fn header(cursor: &mut Cursor<'_>, module: &mut Module) -> Result<(), ParseError> {
    if !cursor.at_word(".version") {
        return Err(cursor.unexpected("`.version`: a PTX module starts with it"));
    }
    cursor.advance()?;
    let version = cursor.advance()?;
    let numbers = version
        .text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    module.version = numbers.ok_or_else(|| error_at(&version, "a version, such as 9.0"))?;
    if !cursor.at_word(".target") {
        return Err(cursor.unexpected("`.target`"));
    }
    cursor.advance()?;
    let target = cursor.name("a target, such as sm_80")?;
    if !target.text.starts_with("sm_") {
        return Err(error_at(&target, "a target, such as sm_80"));
    }
    module.target = target.text.to_owned();
    while cursor.eat(b',')? {
        cursor.name("a target option")?;
    }
    if cursor.at_word(".address_size") {
        cursor.advance()?;
        let size = cursor.peek();
        if cursor.u32("64")? != 64 {
            return Err(error_at(
                &size,
                "64: this emulator has 64-bit addresses only",
            ));
        }
    }
    Ok(())
}

fn item(cursor: &mut Cursor<'_>, module: &mut Module) -> Result<(), ParseError> {
    let mut is_extern = false;
    loop {
        let token = cursor.advance()?;
        match token.text {
            ".visible" | ".weak" | ".common" => {}
            ".extern" => is_extern = true,
            ".file" => {
                let number = cursor.u32("a file number")?;
                if cursor.peek().kind != Kind::Text {
                    return Err(cursor.unexpected("a file name in quotes"));
                }
                let path = cursor.advance()?.text.to_owned();
                while cursor.eat(b',')? {
                    cursor.integer("a time stamp or a file size")?;
                }
                module.files.push((number, path));
                return Ok(());
            }
            ".section" => {
                cursor.word("a section's name")?;
                while cursor.peek().kind == Kind::Word {
                    cursor.advance()?;
                }
                return cursor.skip_braces();
            }
            ".loc" => return location(cursor).map(|_| ()),
            ".pragma" => return cursor.skip_statement(),
            ".global" => return variables(cursor, &token, Space::Global, is_extern, module),
            ".const" => return variables(cursor, &token, Space::Const, is_extern, module),
            ".shared" => return variables(cursor, &token, Space::Shared, is_extern, module),
            ".entry" | ".func" => return function(cursor, &token, module),
            ";" => return Ok(()),
            _ => {
                return Err(error_at(
                    &token,
                    "`.entry`, `.func`, `.global`, `.const`, `.shared`, `.file` or `.section`",
                ));
            }
        }
    }
}

fn place_of(token: &Token<'_>) -> Place {
    Place {
        ptx_line: token.line,
        ..Place::default()
    }
}

fn variables(
    cursor: &mut Cursor<'_>,
    start: &Token<'_>,
    space: Space,
    is_extern: bool,
    module: &mut Module,
) -> Result<(), ParseError> {
    if is_extern && space != Space::Shared {
        return Err(error_at(
            start,
            "a definition: there is no linker here, so only `.shared` may be `.extern`",
        ));
    }
    let (declared, _) = variable(cursor, space, is_extern, place_of(start))?;
    let unsized_extern = is_extern && space == Space::Shared;
    if declared.size == 0 && !unsized_extern {
        return Err(error_at(start, "a variable with at least one byte"));
    }
    module.variables.push(declared);
    cursor.expect(b';', "a variable declaration")
}

fn function(
    cursor: &mut Cursor<'_>,
    start: &Token<'_>,
    module: &mut Module,
) -> Result<(), ParseError> {
    let returns = if cursor.at(b'(') {
        parameters(cursor)?
    } else {
        Vec::new()
    };
    let name = cursor.name("a function's name")?;
    let params = if cursor.at(b'(') {
        parameters(cursor)?
    } else {
        Vec::new()
    };
    let mut function = Function {
        name: name.text.to_owned(),
        is_entry: start.text == ".entry",
        returns,
        params,
        max_ntid: None,
        req_ntid: None,
        req_cluster: None,
        explicit_cluster: false,
        max_cluster_rank: None,
        registers: Vec::new(),
        variables: Vec::new(),
        body: Vec::new(),
        place: place_of(&name),
    };
    loop {
        let token = cursor.peek();
        match token.text {
            ";" => {
                cursor.advance()?;
                return Ok(());
            }
            "{" => break,
            ".noreturn" | ".blocksareclusters" => {
                cursor.advance()?;
            }
            ".explicitcluster" => {
                function.explicit_cluster = true;
                cursor.advance()?;
            }
            ".maxclusterrank" => {
                cursor.advance()?;
                function.max_cluster_rank = Some(positive(cursor)?);
            }
            ".maxntid" if function.req_ntid.is_some() => {
                return Err(cursor.unexpected("no `.maxntid` beside `.reqntid`"));
            }
            ".reqntid" if function.max_ntid.is_some() => {
                return Err(cursor.unexpected("no `.reqntid` beside `.maxntid`"));
            }
            ".maxntid" => function.max_ntid = Some(dimensions(cursor)?),
            ".reqntid" => function.req_ntid = Some(dimensions(cursor)?),
            ".reqnctapercluster" => function.req_cluster = Some(dimensions(cursor)?),
            ".minnctapersm" | ".maxnctapersm" | ".maxnreg" => {
                cursor.advance()?;
                positive(cursor)?;
            }
            ".pragma" => cursor.skip_statement()?,
            _ => {
                return Err(
                    cursor.unexpected("a performance directive, `;` or the function's body")
                );
            }
        }
    }
    body(cursor, &mut function)?;
    module.functions.push(function);
    Ok(())
}

fn dimensions(cursor: &mut Cursor<'_>) -> Result<[u32; 3], ParseError> {
    cursor.advance()?;
    let mut sizes = [positive(cursor)?, 1, 1];
    for size in sizes.iter_mut().skip(1) {
        if !cursor.eat(b',')? {
            break;
        }
        *size = positive(cursor)?;
    }
    Ok(sizes)
}

fn positive(cursor: &mut Cursor<'_>) -> Result<u32, ParseError> {
    let token = cursor.peek();
    match cursor.u32("a number above zero")? {
        0 => Err(error_at(&token, "a number above zero")),
        value => Ok(value),
    }
}

/// `(.param .u64 a, .param .align 16 .b8 b[32])`
fn parameters(cursor: &mut Cursor<'_>) -> Result<Vec<Variable>, ParseError> {
    cursor.expect(b'(', "a function's name")?;
    let mut params = Vec::new();
    while !cursor.eat(b')')? {
        if !params.is_empty() {
            cursor.expect(b',', "a parameter")?;
        }
        let token = cursor.peek();
        if token.text != ".param" {
            return Err(cursor.unexpected("`.param` (parameters in registers are not taken)"));
        }
        cursor.advance()?;
        params.push(variable(cursor, Space::Param, false, place_of(&token))?.0);
    }
    Ok(params)
}
