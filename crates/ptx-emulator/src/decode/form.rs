//! One instruction on its way to the decoded form: its modifiers are taken word by word, its
//! operands by type, and what is left over at the end is refused.

use super::DecodeError;
use super::builder::{Ask, Builder, Constant, Home, PARAM_WINDOW, bare};
use super::op::{Class, Inst, Move, Op, Reg, Round, Window};
use super::types::{Float, Type};
use crate::ast::{Instruction, Operand};

/// The roundings of IEEE 754.
pub(super) const ROUNDINGS: [(&str, Round); 4] = [
    ("rn", Round::Nearest),
    ("rz", Round::Zero),
    ("rm", Round::Down),
    ("rp", Round::Up),
];

pub(super) struct Form<'b, 'm> {
    pub builder: &'b mut Builder<'m>,
    pub inst: &'m Instruction,
    words: Vec<&'m str>,
}

/// Where an address points before any register is read.
pub(super) struct Address {
    pub base: Reg,
    pub offset: i32,
    /// The space that the base symbol belongs to, where the base is a symbol.
    pub home: Option<Home>,
}

impl<'b, 'm> Form<'b, 'm> {
    pub fn new(builder: &'b mut Builder<'m>, inst: &'m Instruction) -> Self {
        let words = inst.modifiers.iter().map(String::as_str).collect();
        Form {
            builder,
            inst,
            words,
        }
    }

    pub fn error(&self, reason: impl Into<String>) -> DecodeError {
        let mut opcode = self.inst.opcode.clone();
        for word in &self.inst.modifiers {
            opcode.push('.');
            opcode.push_str(word);
        }
        DecodeError {
            line: self.inst.place.ptx_line,
            opcode,
            reason: reason.into(),
        }
    }

    /// Whether `word` is among the modifiers; it stays there.
    pub fn has(&mut self, word: &'static str) -> bool {
        self.builder.asked(&Ask::Word(word));
        self.words.contains(&word)
    }

    /// Takes `word` if it is among the modifiers.
    pub fn flag(&mut self, word: &'static str) -> bool {
        self.builder.asked(&Ask::Word(word));
        match self.words.iter().position(|w| *w == word) {
            Some(at) => {
                self.words.remove(at);
                true
            }
            None => false,
        }
    }

    /// Takes the first modifier that is a key of `choices`.
    pub fn one_of<T: Copy>(&mut self, choices: &[(&'static str, T)]) -> Option<T> {
        for (word, _) in choices {
            self.builder.asked(&Ask::Word(word));
        }
        for at in 0..self.words.len() {
            if let Some(&(_, value)) = choices.iter().find(|(word, _)| *word == self.words[at]) {
                self.words.remove(at);
                return Some(value);
            }
        }
        None
    }

    pub fn need<T: Copy>(&mut self, choices: &[(&'static str, T)]) -> Result<T, DecodeError> {
        if let Some(value) = self.one_of(choices) {
            return Ok(value);
        }
        let words = choices.iter().map(|(word, _)| *word).collect();
        self.builder.asked(&Ask::Missing(words));
        Err({
            let words: Vec<_> = choices.iter().map(|(w, _)| format!(".{w}")).collect();
            self.error(format!("expected one of {}", words.join(" ")))
        })
    }

    /// Takes a shape with an N of its own, as the N and what its word stands for. The words are
    /// written with `nN` in place of a number, and so they are found in the catalogue.
    pub fn shape(&mut self, words: &[(&'static str, u32)]) -> Result<(u32, u32), DecodeError> {
        words
            .iter()
            .for_each(|(word, _)| self.builder.asked(&Ask::Word(word)));
        let lists = self.builder.listener.is_some();
        for at in 0..self.words.len() {
            for (word, value) in words {
                let Some((before, after)) = word.split_once('N') else {
                    continue;
                };
                let n = self.words[at].strip_prefix(before);
                let n = match n.and_then(|rest| rest.strip_suffix(after)) {
                    Some("N") if lists => Some(8),
                    Some(digits) => digits.parse().ok(),
                    None => None,
                };
                if let Some(n) = n {
                    self.words.remove(at);
                    return Ok((n, *value));
                }
            }
        }
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let reason = format!("expected a shape among .{}", names.join(" ."));
        self.builder.asked(&Ask::Missing(names));
        Err(self.error(reason))
    }

    /// Takes the last modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Type, DecodeError> {
        self.builder.asked(&Ask::Type(&[]));
        match self.words.last().and_then(|word| Type::parse(word)) {
            Some(ty) => {
                self.words.pop();
                Ok(ty)
            }
            None => Err(self.error("the opcode does not end in a known type")),
        }
    }

    /// Takes the last modifier, which must be one of these types.
    pub fn ty_among(&mut self, words: &'static [&'static str]) -> Result<Type, DecodeError> {
        self.builder.asked(&Ask::Type(words));
        match self.words.last().filter(|word| words.contains(word)) {
            Some(_) => self.ty(),
            None => Err(self.error("these types are not supported")),
        }
    }

    /// The last modifier if it is a type, left in place.
    pub fn peek_ty(&self) -> Option<Type> {
        self.words.last().and_then(|word| Type::parse(word))
    }

    /// Moves the type to the end, where most instructions have it, if it is not there already.
    pub fn type_last(&mut self) {
        if self.peek_ty().is_none()
            && let Some(at) = self
                .words
                .iter()
                .rposition(|word| Type::parse(word).is_some())
        {
            let ty = self.words.remove(at);
            self.words.push(ty);
        }
    }

    /// Refuses modifiers that nobody took.
    pub fn done(&self) -> Result<(), DecodeError> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(self.error(format!("modifier .{word} is not supported here"))),
        }
    }

    pub fn refuse_type(&self) -> DecodeError {
        self.error("not supported for this type")
    }

    /// The bits of an operand that is a declared register.
    pub fn declared_bits(&mut self, index: usize) -> Option<u32> {
        match self.inst.operands.get(index) {
            Some(Operand::Register(name)) => self.lookup(name).map(|(_, bits)| bits),
            _ => None,
        }
    }

    pub fn operands(&self) -> usize {
        self.builder.looked_at_operands();
        self.inst.operands.len()
    }

    pub fn expect_operands(
        &self,
        counts: std::ops::RangeInclusive<usize>,
    ) -> Result<(), DecodeError> {
        if counts.contains(&self.operands()) {
            return Ok(());
        }
        Err(self.error(format!(
            "{} operands given, {} to {} allowed",
            self.operands(),
            counts.start(),
            counts.end()
        )))
    }

    pub fn operand(&self, index: usize) -> Result<&'m Operand, DecodeError> {
        self.builder.looked_at_operands();
        self.inst
            .operands
            .get(index)
            .ok_or_else(|| self.error(format!("operand {} is missing", index + 1)))
    }

    fn lookup(&mut self, name: &str) -> Option<(Reg, u32)> {
        self.builder.frame().registers.get(name).copied()
    }

    fn wrong_size(&self, name: &str, has: u32, wants: u32) -> DecodeError {
        self.error(format!(
            "register {name} has {has} bits where {wants} are expected"
        ))
    }

    /// A source operand of the given size.
    pub fn source(&mut self, operand: &Operand, ty: Type) -> Result<Reg, DecodeError> {
        let bits = ty.bits();
        let class = class_of(bits);
        match operand {
            Operand::Register(name) if self.builder.is_any(name) => Ok(self.builder.junk(class)),
            Operand::Register(name) => match self.lookup(name) {
                Some((reg, declared)) => {
                    let fits = reg.class() == Some(class)
                        && (class != Class::Word || bits <= declared)
                        && declared != 128;
                    if fits {
                        Ok(reg)
                    } else {
                        Err(self.wrong_size(name, declared, bits))
                    }
                }
                None => self.special(name, class),
            },
            Operand::Integer(value) if class != Class::Pred => {
                let value = match ty {
                    Type::Float(Float::F32 | Float::F64) => {
                        return Err(self.error("an integer immediate where a float is expected"));
                    }
                    _ => *value & mask(bits),
                };
                Ok(self.builder.constant(class, Constant::Bits(value)))
            }
            Operand::F32(value) => {
                let value = match bits {
                    32 => u64::from(*value),
                    64 => f64::from(f32::from_bits(*value)).to_bits(),
                    _ => return Err(self.error("a float immediate does not fit this type")),
                };
                Ok(self.builder.constant(class, Constant::Bits(value)))
            }
            Operand::F64(value) => {
                let value = match bits {
                    32 => u64::from((f64::from_bits(*value) as f32).to_bits()),
                    64 => *value,
                    _ => return Err(self.error("a float immediate does not fit this type")),
                };
                Ok(self.builder.constant(class, Constant::Bits(value)))
            }
            Operand::Symbol(name, offset) if matches!(bits, 32 | 64) => {
                let value = self.symbol(name, *offset)?;
                Ok(self.builder.constant(class, value))
            }
            _ => Err(self.error(format!("{operand:?} can't be a {bits}-bit source"))),
        }
    }

    /// The address of a variable in its own state space.
    fn symbol(&mut self, name: &str, offset: i64) -> Result<Constant, DecodeError> {
        let at = |base: u32| Constant::Bits(i64::from(base).wrapping_add(offset) as u64);
        Ok(match self.builder.home(name)? {
            Some(Home::Shared(base) | Home::Local(base) | Home::KernelParam(base)) => at(base),
            Some(Home::DynamicShared) => Constant::DynamicShared(offset),
            Some(Home::Module(index)) => Constant::Variable(index, offset),
            None => match super::indirect::address(self.builder.module, name) {
                Some(address) => Constant::Bits(address.wrapping_add(offset.cast_unsigned())),
                None => {
                    return Err(self.error(format!("{name} is not a variable of this module")));
                }
            },
        })
    }

    /// Reads a special register into a fresh slot.
    fn special(&mut self, name: &str, class: Class) -> Result<Reg, DecodeError> {
        if name == "WARP_SZ" {
            return Ok(self.builder.constant(class, Constant::Bits(32)));
        }
        if let Some(constant) = super::special::constant(name).filter(|_| class == Class::Word) {
            self.builder.uses_reserved_shared |= matches!(constant, Constant::ReservedShared(_));
            return Ok(self.builder.constant(class, constant));
        }
        let Some((special, bits)) = super::special::special(name) else {
            return Err(self.error(format!(
                "{name} is neither declared nor a known special register"
            )));
        };
        // 16-bit reads of 32-bit special registers were PTX 1.x; a 32-bit read of a 64-bit one is
        // not allowed.
        if class_of(bits) != class {
            return Err(self.error(format!("{name} does not have this size")));
        }
        let reg = self.builder.fresh(class);
        let mut inst = bare(Op::Move(Move::Special(special)));
        inst.d[0] = reg;
        let place = self.inst.place;
        self.builder.emit(inst, place)?;
        Ok(reg)
    }

    pub fn src(&mut self, index: usize, ty: Type) -> Result<Reg, DecodeError> {
        let operand = self.operand(index)?;
        self.source(operand, ty)
    }

    /// A source that may be wider than the type (`ld`, `st`, `cvt`).
    pub fn relaxed_src(&mut self, operand: &Operand, ty: Type) -> Result<Reg, DecodeError> {
        if let Operand::Register(name) = operand
            && let Some((reg, declared)) = self.lookup(name)
        {
            let allowed = ty != Type::Pred && (ty.bits()..128).contains(&declared);
            return if allowed {
                Ok(reg)
            } else {
                Err(self.wrong_size(name, declared, ty.bits()))
            };
        }
        self.source(operand, ty)
    }

    /// A destination of the given size.
    pub fn destination(&mut self, operand: &Operand, ty: Type) -> Result<Reg, DecodeError> {
        let bits = ty.bits();
        let class = class_of(bits);
        match operand {
            Operand::Register(name) if self.builder.is_any(name) => Ok(self.builder.junk(class)),
            Operand::Register(name) => match self.lookup(name) {
                Some((reg, declared))
                    if reg.class() == Some(class) && (bits..128).contains(&declared) =>
                {
                    Ok(reg)
                }
                Some((_, declared)) => Err(self.wrong_size(name, declared, bits)),
                None => Err(self.error(format!("{name} is not a declared register"))),
            },
            Operand::Sink => Ok(self.builder.junk(class)),
            _ => Err(self.error(format!("{operand:?} can't be a destination"))),
        }
    }

    pub fn dst(&mut self, index: usize, ty: Type) -> Result<Reg, DecodeError> {
        let operand = self.operand(index)?;
        self.destination(operand, ty)
    }

    /// A destination that may be wider than the type, and its declared bits.
    pub fn relaxed_dst(&mut self, operand: &Operand, ty: Type) -> Result<(Reg, u32), DecodeError> {
        match operand {
            Operand::Register(name) if !self.builder.is_any(name) => match self.lookup(name) {
                Some((reg, declared))
                    if (ty.bits()..128).contains(&declared) && ty != Type::Pred =>
                {
                    Ok((reg, declared))
                }
                Some((_, declared)) => Err(self.wrong_size(name, declared, ty.bits())),
                None => Err(self.error(format!("{name} is not a declared register"))),
            },
            _ => Ok((self.destination(operand, ty)?, ty.bits())),
        }
    }

    /// The halves of a 128-bit register, low half first.
    fn pair(&mut self, name: &str) -> Result<[Reg; 2], DecodeError> {
        if self.builder.is_any(name) {
            return Ok([self.builder.junk(Class::Wide); 2]);
        }
        match self.lookup(name) {
            Some((low, 128)) => Ok([low, Reg::new(Class::Wide, low.index() as u32 + 1)]),
            Some((_, declared)) => Err(self.wrong_size(name, declared, 128)),
            None => Err(self.error(format!("{name} is not a declared register"))),
        }
    }

    /// A 128-bit source.
    pub fn wide_source(&mut self, operand: &Operand) -> Result<[Reg; 2], DecodeError> {
        match operand {
            Operand::Register(name) => self.pair(name),
            Operand::Integer(value) => {
                let halves = [*value, 0].map(Constant::Bits);
                Ok(halves.map(|half| self.builder.constant(Class::Wide, half)))
            }
            _ => Err(self.error(format!("{operand:?} can't be a 128-bit source"))),
        }
    }

    /// A 128-bit destination.
    pub fn wide_destination(&mut self, operand: &Operand) -> Result<[Reg; 2], DecodeError> {
        match operand {
            Operand::Register(name) => self.pair(name),
            Operand::Sink => Ok([self.builder.junk(Class::Wide); 2]),
            _ => Err(self.error(format!("{operand:?} can't be a destination"))),
        }
    }

    /// A predicate source, and whether it is negated.
    pub fn predicate(&mut self, index: usize) -> Result<(Reg, bool), DecodeError> {
        match self.operand(index)? {
            Operand::NegatedPredicate(name) => match self.lookup(name) {
                Some((reg, 1)) => Ok((reg, true)),
                _ => Err(self.error(format!("{name} is not a predicate"))),
            },
            operand => Ok((self.source(operand, Type::Pred)?, false)),
        }
    }

    /// The elements of a `{...}`, or the operand itself.
    pub fn elements(&self, index: usize) -> Result<&'m [Operand], DecodeError> {
        Ok(match self.operand(index)? {
            Operand::Vector(items) => items,
            other => std::slice::from_ref(other),
        })
    }

    /// Splits `[base+offset]`.
    pub fn address(&mut self, index: usize) -> Result<Address, DecodeError> {
        let operand = self.operand(index)?;
        self.address_of(operand, index)
    }

    /// Splits `[base+offset]`, which is operand `index` or a part of it.
    pub fn address_of(&mut self, operand: &Operand, index: usize) -> Result<Address, DecodeError> {
        let Operand::Address(base, offset) = operand else {
            return Err(self.error(format!("operand {} must be an address", index + 1)));
        };
        let narrow = i32::try_from(*offset);
        let far = |form: &Self| form.error(format!("address offset {offset} exceeds 32 bits"));
        match base.as_deref() {
            None => {
                let base = self
                    .builder
                    .constant(Class::Wide, Constant::Bits(*offset as u64));
                Ok(Address {
                    base,
                    offset: 0,
                    home: None,
                })
            }
            Some(Operand::Register(name)) if self.builder.is_any(name) => Ok(Address {
                base: self.builder.junk(Class::Wide),
                offset: 0,
                home: None,
            }),
            Some(Operand::Register(name)) => match self.lookup(name) {
                Some((reg, 32 | 64)) => {
                    let offset = narrow.map_err(|_| far(self))?;
                    Ok(Address {
                        base: reg,
                        offset,
                        home: None,
                    })
                }
                Some(_) => Err(self.error(format!("{name} is too narrow for an address"))),
                None => Err(self.error(format!("{name} is not a declared register"))),
            },
            Some(Operand::Symbol(name, more)) => {
                let home = self.builder.home(name)?;
                let value = self.symbol(name, offset.wrapping_add(*more))?;
                let base = self.builder.constant(Class::Wide, value);
                Ok(Address {
                    base,
                    offset: 0,
                    home,
                })
            }
            Some(other) => Err(self.error(format!("{other:?} can't be the base of an address"))),
        }
    }

    /// The window of an instruction without a state space, by its address: a symbol belongs to a
    /// space, a register is generic.
    pub fn window_of(&self, address: &Address) -> Window {
        match address.home {
            Some(Home::Shared(_) | Home::DynamicShared) => Window::Shared,
            Some(Home::Local(_)) => Window::Local,
            Some(Home::KernelParam(_)) => Window::Param,
            Some(Home::Module(_)) => Window::Global,
            None => Window::Generic,
        }
    }

    /// Appends the operation under the instruction's guard.
    pub fn emit(&mut self, mut inst: Inst) -> Result<(), DecodeError> {
        self.done()?;
        if let Some((name, negated)) = &self.inst.guard {
            match self.lookup(name) {
                Some((reg, 1)) => inst.guard = reg,
                _ => return Err(self.error(format!("guard {name} is not a predicate"))),
            }
            inst.guard_negated = *negated;
        }
        let place = self.inst.place;
        self.builder.emit(inst, place)
    }

    /// Emits `op` with one destination and the given sources.
    pub fn emit_simple(&mut self, op: Op, d: Reg, sources: &[Reg]) -> Result<(), DecodeError> {
        let mut inst = bare(op);
        inst.d[0] = d;
        for (slot, source) in inst.s.iter_mut().zip(sources) {
            *slot = *source;
        }
        self.emit(inst)
    }

    /// The base of the window that holds a state space's addresses.
    pub fn window_base(space: &str) -> Option<u64> {
        Some(match space {
            "shared" | "shared::cta" | "shared::cluster" => super::builder::SHARED_WINDOW,
            "local" => super::builder::LOCAL_WINDOW,
            "param" | "param::entry" => PARAM_WINDOW,
            "global" | "const" => 0,
            _ => return None,
        })
    }
}

pub(super) fn class_of(bits: u32) -> Class {
    match bits {
        1 => Class::Pred,
        64 | 128 => Class::Wide,
        _ => Class::Word,
    }
}

fn mask(bits: u32) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}
