//! Function bodies: declarations, labels, instructions, nested scopes; names are made unique on the
//! way.

use super::ParseError;
use super::cursor::{Cursor, error_at};
use super::lexer::{Kind, Token};
use super::operand::{list, operand};
use super::scope::Scopes;
use super::variable::{type_bytes, variable};
use crate::ast::{Function, Instruction, Operand, Place, Space, Statement};

/// A `.branchtargets` table: the scope and line it stands in, its name, its labels.
struct Targets<'a> {
    scope: usize,
    name: Token<'a>,
    labels: Vec<&'a str>,
}

struct Body<'a> {
    scopes: Scopes<'a>,
    /// (statement index, scope) of every instruction.
    instructions: Vec<(usize, usize)>,
    targets: Vec<Targets<'a>>,
    file: u32,
    line: u32,
}

/// Reads a body from its `{` to its `}` into `function`.
pub(super) fn body<'a>(cursor: &mut Cursor<'a>, function: &mut Function) -> Result<(), ParseError> {
    cursor.expect(b'{', "a function's header")?;
    let mut body = Body {
        scopes: Scopes::new(),
        instructions: Vec::new(),
        targets: Vec::new(),
        file: 0,
        line: 0,
    };
    loop {
        let token = cursor.peek();
        match token.kind {
            Kind::Mark(b'{') => {
                cursor.advance()?;
                body.scopes.enter(&token)?;
            }
            Kind::Mark(b'}') => {
                cursor.advance()?;
                if !body.scopes.leave() {
                    break;
                }
            }
            Kind::Mark(b';') => {
                cursor.advance()?;
            }
            Kind::Mark(b'@') => {
                cursor.advance()?;
                let negated = cursor.eat(b'!')?;
                let name = cursor.name("the guard's predicate register")?;
                let register = body.scopes.register(name.text);
                let register =
                    register.ok_or_else(|| error_at(&name, "a declared predicate register"))?;
                let opcode = cursor.name("an opcode")?;
                body.instruction(cursor, opcode, Some((register, negated)), function)?;
            }
            Kind::Word if token.text.starts_with('.') => body.directive(cursor, function)?,
            Kind::Word => {
                cursor.advance()?;
                if cursor.eat(b':')? {
                    body.label(cursor, token, function)?;
                } else {
                    body.instruction(cursor, token, None, function)?;
                }
            }
            _ => return Err(cursor.unexpected("an instruction, a label, a declaration or `}`")),
        }
    }
    body.resolve(cursor, function)?;
    function.registers = body.scopes.registers;
    Ok(())
}

impl<'a> Body<'a> {
    fn place(&self, token: &Token<'_>) -> Place {
        Place {
            ptx_line: token.line,
            file: self.file,
            line: self.line,
        }
    }

    fn directive(
        &mut self,
        cursor: &mut Cursor<'a>,
        function: &mut Function,
    ) -> Result<(), ParseError> {
        let token = cursor.advance()?;
        match token.text {
            ".reg" => self.registers(cursor),
            ".shared" => self.variables(cursor, &token, Space::Shared, function),
            ".local" => self.variables(cursor, &token, Space::Local, function),
            ".param" => self.variables(cursor, &token, Space::Param, function),
            ".loc" => {
                (self.file, self.line) = location(cursor)?;
                Ok(())
            }
            ".pragma" => cursor.skip_statement(),
            _ => Err(error_at(
                &token,
                "`.reg`, `.shared`, `.local`, `.param`, `.loc` or `.pragma` in a function's body",
            )),
        }
    }

    /// `.reg .b32 %r<7>, %a;`
    fn registers(&mut self, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        let ty = cursor.word("a register's type")?;
        let name = ty.text.strip_prefix('.').unwrap_or_default();
        if name != "pred" && type_bytes(name).is_none() {
            return Err(error_at(
                &ty,
                "a scalar register type (`.b32`, `.f32`, `.pred`, ...)",
            ));
        }
        loop {
            let register = cursor.name("a register's name")?;
            if cursor.eat(b'<')? {
                let count = cursor.u32("how many registers")?;
                cursor.expect(b'>', "the number of registers")?;
                self.scopes.declare_range(register, count, name)?;
            } else {
                self.scopes.declare_register(register, name)?;
            }
            if !cursor.eat(b',')? {
                return cursor.expect(b';', "a register declaration");
            }
        }
    }

    fn variables(
        &mut self,
        cursor: &mut Cursor<'a>,
        start: &Token<'a>,
        space: Space,
        function: &mut Function,
    ) -> Result<(), ParseError> {
        let (mut declared, name) = variable(cursor, space, false, self.place(start))?;
        if declared.size == 0 {
            return Err(error_at(start, "a variable with at least one byte"));
        }
        declared.name = self.scopes.declare_name(name, false)?;
        function.variables.push(declared);
        cursor.expect(b';', "a variable declaration")
    }

    fn label(
        &mut self,
        cursor: &mut Cursor<'a>,
        name: Token<'a>,
        function: &mut Function,
    ) -> Result<(), ParseError> {
        match cursor.peek().text {
            ".branchtargets" => {
                cursor.advance()?;
                let mut labels = vec![cursor.name("a label")?.text];
                while cursor.eat(b',')? {
                    labels.push(cursor.name("a label")?.text);
                }
                let scope = self.scopes.current();
                self.targets.push(Targets {
                    scope,
                    name,
                    labels,
                });
                cursor.expect(b';', "the labels")
            }
            // Indirect calls are checked against the callee itself.
            ".callprototype" | ".calltargets" => cursor.skip_statement(),
            _ => {
                let unique = self.scopes.declare_name(name, true)?;
                function.body.push(Statement::Label(unique));
                Ok(())
            }
        }
    }

    fn instruction(
        &mut self,
        cursor: &mut Cursor<'a>,
        opcode: Token<'a>,
        guard: Option<(String, bool)>,
        function: &mut Function,
    ) -> Result<(), ParseError> {
        let place = self.place(&opcode);
        let mut words = opcode.text.split('.');
        let name = words.next().unwrap_or_default();
        let modifiers: Vec<String> = words.map(str::to_owned).collect();
        let malformed = name.starts_with(['%', '$']) || modifiers.iter().any(String::is_empty);
        if malformed {
            return Err(error_at(&opcode, "an opcode with its modifiers"));
        }
        let operands = if name == "call" {
            self.call(cursor)?
        } else {
            let mut operands = Vec::new();
            while !cursor.at(b';') {
                if !operands.is_empty() {
                    cursor.expect(b',', &format!("an operand of `{}`", opcode.text))?;
                }
                operands.push(operand(cursor, &mut self.scopes)?);
            }
            operands
        };
        cursor.expect(b';', "an instruction")?;
        self.instructions
            .push((function.body.len(), self.scopes.current()));
        function.body.push(Statement::Instruction(Instruction {
            guard,
            opcode: name.to_owned(),
            modifiers,
            operands,
            place,
        }));
        Ok(())
    }

    /// `(results), callee, (arguments), prototype`, where all but the callee may be missing.
    fn call(&mut self, cursor: &mut Cursor<'a>) -> Result<Vec<Operand>, ParseError> {
        let mut results = Operand::Vector(Vec::new());
        if cursor.eat(b'(')? {
            results = list(cursor, &mut self.scopes, b')')?;
            cursor.expect(b',', "the results of a call")?;
        }
        let callee = operand(cursor, &mut self.scopes)?;
        let mut operands = vec![results, callee, Operand::Vector(Vec::new())];
        if cursor.eat(b',')? {
            if cursor.eat(b'(')? {
                operands.truncate(2);
                operands.push(list(cursor, &mut self.scopes, b')')?);
                if cursor.eat(b',')? {
                    operands.push(operand(cursor, &mut self.scopes)?);
                }
            } else {
                operands.push(operand(cursor, &mut self.scopes)?);
            }
        }
        Ok(operands)
    }

    /// Gives labels and variables their unique names, now that all are known.
    fn resolve(&self, cursor: &mut Cursor<'_>, function: &mut Function) -> Result<(), ParseError> {
        for &(index, scope) in &self.instructions {
            let Some(Statement::Instruction(instruction)) = function.body.get_mut(index) else {
                continue;
            };
            let line = instruction.place.ptx_line;
            match (
                instruction.opcode.as_str(),
                instruction.operands.as_mut_slice(),
            ) {
                ("bra", [target]) => self.resolve_label(target, scope, line)?,
                ("brx", [_, table]) => self.resolve_table(cursor, table, scope, line)?,
                _ => {
                    for operand in &mut instruction.operands {
                        self.rename(operand, scope);
                    }
                }
            }
        }
        Ok(())
    }

    fn resolve_label(
        &self,
        target: &mut Operand,
        scope: usize,
        line: u32,
    ) -> Result<(), ParseError> {
        let expected = || "a label of this function".to_owned();
        let Operand::Symbol(name, 0) = target else {
            let found = format!("{target:?}");
            return Err(ParseError {
                line,
                found,
                expected: expected(),
            });
        };
        match self.scopes.name(scope, name) {
            Some(label) if label.is_label => {
                *name = label.unique.clone();
                Ok(())
            }
            _ => {
                let found = format!("`{name}`");
                Err(ParseError {
                    line,
                    found,
                    expected: expected(),
                })
            }
        }
    }

    /// Puts the labels of a `.branchtargets` table in the place of its name.
    fn resolve_table(
        &self,
        cursor: &mut Cursor<'_>,
        table: &mut Operand,
        scope: usize,
        line: u32,
    ) -> Result<(), ParseError> {
        let found = match *table {
            Operand::Symbol(ref name, 0) => name.clone(),
            ref other => format!("{other:?}"),
        };
        // A table of the function's own scope is visible everywhere in it; nvcc declares each once,
        // next to its branch.
        let targets = self.targets.iter().find(|targets| {
            targets.name.text == found && (targets.scope == scope || targets.scope == 0)
        });
        let Some(targets) = targets else {
            return Err(ParseError {
                line,
                found: format!("`{found}`"),
                expected: "a `.branchtargets` table of this function".to_owned(),
            });
        };
        cursor.take_targets(targets.labels.len(), &targets.name)?;
        let mut labels = Vec::with_capacity(targets.labels.len());
        for &label in &targets.labels {
            let mut label = Operand::Symbol(label.to_owned(), 0);
            self.resolve_label(&mut label, targets.scope, targets.name.line)?;
            labels.push(label);
        }
        *table = Operand::Vector(labels);
        Ok(())
    }

    fn rename(&self, operand: &mut Operand, scope: usize) {
        match operand {
            Operand::Symbol(name, _) => {
                if let Some(found) = self.scopes.name(scope, name) {
                    *name = found.unique.clone();
                }
            }
            Operand::Address(Some(base), _) => self.rename(base, scope),
            Operand::Vector(items) => items.iter_mut().for_each(|item| self.rename(item, scope)),
            Operand::Pair(first, second) => {
                self.rename(first, scope);
                self.rename(second, scope);
            }
            _ => {}
        }
    }
}

/// `.loc file line column [, function_name label[+n], inlined_at file line column]` from behind
/// `.loc`: (file, line).
pub(super) fn location(cursor: &mut Cursor<'_>) -> Result<(u32, u32), ParseError> {
    let file = cursor.u32("a file number")?;
    let line = cursor.u32("a line number")?;
    cursor.u32("a column")?;
    while cursor.eat(b',')? {
        let attribute = cursor.name("`function_name` or `inlined_at`")?;
        match attribute.text {
            "function_name" => {
                cursor.name("the label of the function's name")?;
                if cursor.eat(b'+')? {
                    cursor.u32("an offset")?;
                }
            }
            "inlined_at" => {
                for what in ["a file number", "a line number", "a column"] {
                    cursor.u32(what)?;
                }
            }
            _ => return Err(error_at(&attribute, "`function_name` or `inlined_at`")),
        }
    }
    Ok((file, line))
}
