//! Names inside a function body: each `{ }` may declare its own registers, variables and labels.

use std::collections::HashMap;

use super::ParseError;
use super::cursor::error_at;
use super::lexer::Token;

/// Deepest nesting of `{ }` taken; nvcc's output stays below ten.
const DEEPEST: u32 = 100;

#[derive(Default)]
struct Scope<'a> {
    parent: Option<usize>,
    depth: u32,
    /// Declared name to unique name.
    registers: HashMap<&'a str, String>,
    /// `%r<7>`: prefix to (count, type). The members get a name when they are first used, so a huge
    /// count costs nothing.
    ranges: HashMap<&'a str, (u32, &'a str)>,
    names: HashMap<&'a str, Name>,
}

/// A label or a variable.
#[derive(Clone)]
pub(super) struct Name {
    pub unique: String,
    pub is_label: bool,
}

/// All scopes of one function; finished ones are kept because labels are resolved at the end.
pub(super) struct Scopes<'a> {
    scopes: Vec<Scope<'a>>,
    current: usize,
    /// Registers in order of first use, with their type.
    pub registers: Vec<(String, String)>,
}

impl<'a> Scopes<'a> {
    pub fn new() -> Self {
        Self {
            scopes: vec![Scope::default()],
            current: 0,
            registers: Vec::new(),
        }
    }

    pub fn current(&self) -> usize {
        self.current
    }

    pub fn enter(&mut self, brace: &Token<'_>) -> Result<(), ParseError> {
        let depth = self.scopes.get(self.current).map_or(0, |scope| scope.depth) + 1;
        if depth > DEEPEST {
            return Err(error_at(brace, format!("at most {DEEPEST} nested scopes")));
        }
        self.scopes.push(Scope {
            parent: Some(self.current),
            depth,
            ..Scope::default()
        });
        self.current = self.scopes.len() - 1;
        Ok(())
    }

    /// Leaves the current scope; false if it was the function's body.
    pub fn leave(&mut self) -> bool {
        let parent = self.scopes.get(self.current).and_then(|scope| scope.parent);
        self.current = parent.unwrap_or(self.current);
        parent.is_some()
    }

    fn chain(&self, from: usize) -> impl Iterator<Item = (usize, &Scope<'a>)> {
        std::iter::successors(Some(from), |&index| self.scopes.get(index)?.parent)
            .filter_map(|index| Some((index, self.scopes.get(index)?)))
    }

    pub fn declare_register(&mut self, name: Token<'a>, ty: &'a str) -> Result<(), ParseError> {
        let unique = unique(name.text, self.current);
        if let Some(scope) = self.scopes.get_mut(self.current) {
            if scope.registers.insert(name.text, unique.clone()).is_some() {
                return Err(error_at(&name, "a register not yet declared in this scope"));
            }
            self.registers.push((unique, ty.to_owned()));
        }
        Ok(())
    }

    pub fn declare_range(
        &mut self,
        prefix: Token<'a>,
        count: u32,
        ty: &'a str,
    ) -> Result<(), ParseError> {
        let scope = self.scopes.get_mut(self.current);
        if scope.is_some_and(|scope| scope.ranges.insert(prefix.text, (count, ty)).is_some()) {
            return Err(error_at(
                &prefix,
                "a register prefix not yet declared in this scope",
            ));
        }
        Ok(())
    }

    /// The unique name of a declared register, as seen from the current scope.
    pub fn register(&mut self, name: &'a str) -> Option<String> {
        let mut member = None;
        for (index, scope) in self.chain(self.current) {
            if let Some(unique) = scope.registers.get(name) {
                return Some(unique.clone());
            }
            if let Some(ty) = range_type(scope, name) {
                member = Some((index, ty));
                break;
            }
        }
        let (index, ty) = member?;
        let unique = unique(name, index);
        self.registers.push((unique.clone(), ty.to_owned()));
        self.scopes
            .get_mut(index)?
            .registers
            .insert(name, unique.clone());
        Some(unique)
    }

    /// Declares a label or a variable in the current scope and returns its unique name.
    pub fn declare_name(&mut self, name: Token<'a>, is_label: bool) -> Result<String, ParseError> {
        let unique = unique(name.text, self.current);
        let declared = Name {
            unique: unique.clone(),
            is_label,
        };
        let scope = self.scopes.get_mut(self.current);
        if scope.is_some_and(|scope| scope.names.insert(name.text, declared).is_some()) {
            return Err(error_at(
                &name,
                "a label or variable name not yet used in this scope",
            ));
        }
        Ok(unique)
    }

    /// The label or variable that `name` means in `scope`.
    pub fn name(&self, scope: usize, name: &str) -> Option<&Name> {
        self.chain(scope)
            .find_map(|(_, scope)| scope.names.get(name))
    }
}

fn unique(name: &str, scope: usize) -> String {
    if scope == 0 {
        name.to_owned()
    } else {
        format!("{name}#{scope}")
    }
}

/// Whether `name` is a member of one of the scope's ranges: `%r12` of `%r<20>`.
fn range_type<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a str> {
    let digits = name
        .bytes()
        .rev()
        .take_while(u8::is_ascii_digit)
        .take(10)
        .count();
    (1..=digits).find_map(|digits| {
        let (prefix, number) = name.split_at_checked(name.len() - digits)?;
        let &(count, ty) = scope.ranges.get(prefix)?;
        let canonical = number == "0" || !number.starts_with('0');
        let index: u32 = number.parse().ok()?;
        (canonical && index < count).then_some(ty)
    })
}
