//! The forms of instructions that the decoder takes, found by asking it: each rule is put to work
//! on instructions that grow by the very words it asks for, until it takes them. Nothing is written
//! down a second time.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use rayon::prelude::*;

use super::builder::{ANY, Ask, Budget, Builder};
use super::form::Form;
use super::opcodes::RULES;
use super::types::Type;
use crate::ast::{Instruction, Module, Operand, Place};
use crate::parse::parse_module;

/// More required words than this has no instruction.
const MOST_WORDS: usize = 9;
/// With fewer words than these, any that the rule asked for is tried; with more, or where it names
/// what is missing, only what it asked for last.
const TRIED_FREELY: usize = 2;

/// A modifier.
type Word = &'static str;

/// Hears what a rule asks of an instruction.
#[derive(Default)]
pub(super) struct Listener {
    words: Vec<Word>,
    /// The words of the last request that could not be met.
    missing: Vec<Word>,
    types_asked: usize,
    types: &'static [&'static str],
    /// A refusal before that has nothing to do with the operands.
    pub looked_at_operands: Cell<bool>,
}

impl Listener {
    pub fn hear(&mut self, ask: &Ask) {
        self.missing.clear();
        match ask {
            Ask::Word(word) => self.words.push(word),
            Ask::Missing(words) => self.missing.clone_from(words),
            // A choice of types is followed by the taking of one, which counts.
            Ask::Type(known) if !known.is_empty() => self.types = known,
            Ask::Type(_) => {
                self.types_asked += 1;
                self.types = &[];
            }
        }
    }
}

/// An instruction without its operands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    words: BTreeSet<Word>,
    /// As written: the result's type first.
    types: Vec<&'static str>,
}

impl Shape {
    fn modifiers(&self) -> Vec<String> {
        self.words
            .iter()
            .chain(&self.types)
            .map(|&word| word.to_owned())
            .collect()
    }

    fn with_word(&self, word: Word) -> Shape {
        let mut shape = self.clone();
        shape.words.insert(word);
        shape
    }

    fn with_type(&self, ty: &'static str) -> Shape {
        let mut shape = self.clone();
        shape.types.insert(0, ty);
        shape
    }
}

struct Explorer {
    module: Module,
    /// Those that were right last come first.
    operands: Vec<Vec<Operand>>,
}

/// Lists of operands of every kind that an instruction may have.
fn operand_lists() -> Vec<Vec<Operand>> {
    let any = || Operand::Register(ANY.to_owned());
    let address = || Operand::Address(Some(Box::new(any())), 0);
    let vector = |n: usize| Operand::Vector((0..n).map(|_| any()).collect());
    let pair = || Operand::Pair(Box::new(any()), Box::new(any()));
    let label = || Operand::Symbol("label".to_owned(), 0);
    let mut lists: Vec<Vec<Operand>> = (0..6).map(|n| (0..n).map(|_| any()).collect()).collect();
    for n in [1, 2, 4, 8] {
        let values = || if n == 1 { any() } else { vector(n) };
        lists.push(vec![values(), address()]);
        lists.push(vec![address(), values()]);
        lists.push(vec![values(), address(), any()]);
        lists.push(vec![address(), values(), any()]);
        lists.push(vec![any(), vector(n)]);
        lists.push(vec![vector(n), any()]);
        lists.push(vec![vector(n), address(), vector(n)]);
    }
    lists.extend((1..5).map(|n| [vec![pair()], (0..n).map(|_| any()).collect()].concat()));
    lists.push(vec![any(), address(), any(), any()]);
    lists.push(vec![any(), any(), any(), any(), Operand::Integer(0)]);
    for bytes in [4, 16] {
        lists.push(vec![address(), address(), Operand::Integer(bytes)]);
        lists.push(vec![address(), address(), Operand::Integer(bytes), any()]);
    }
    lists.push(vec![address()]);
    lists.push(vec![Operand::Integer(0)]);
    lists.extend(bulk_lists(&any, &address));
    lists.push(vec![label()]);
    lists.push(vec![any(), Operand::Vector(vec![label()])]);
    lists.push(vec![
        vector(0),
        Operand::Symbol("callee".to_owned(), 0),
        vector(0),
    ]);
    // Fragments of matrices: the result, A, B and C.
    let of_mma = [
        (4, 2, 4),
        (4, 2, 2),
        (2, 1, 4),
        (2, 1, 2),
        (1, 1, 2),
        (8, 4, 4),
    ];
    let of_wmma = [
        (8, 8, 8),
        (8, 8, 4),
        (4, 4, 8),
        (8, 2, 8),
        (2, 8, 8),
        (2, 2, 8),
        (4, 1, 8),
        (1, 4, 8),
    ];
    // `wgmma` of N = 8: the result, A and B, whether D is kept, signs, transpositions.
    for sums in [2, 4] {
        for after in 0..=4 {
            let mut list = vec![vector(sums), any(), any(), any()];
            list.extend((0..after).map(|_| Operand::Integer(1)));
            lists.push(list);
        }
    }
    for (a, b, sums) in of_mma.into_iter().chain(of_wmma) {
        lists.push(vec![vector(sums), vector(a), vector(b), vector(sums)]);
    }
    lists
}

/// Those of bulk copies, tensor maps and their fences.
fn bulk_lists(any: &dyn Fn() -> Operand, address: &dyn Fn() -> Operand) -> Vec<Vec<Operand>> {
    let mut lists = vec![
        vec![address(), address(), any()],
        vec![address(), address(), any(), address()],
        vec![address(), address(), any(), address(), any()],
        vec![address(), address(), Operand::Integer(128)],
        vec![address(), Operand::Integer(128)],
        vec![address(), Operand::Integer(0)],
        vec![address(), Operand::Integer(0), any()],
    ];
    for rank in 1..=5 {
        let coordinates = || Operand::Vector((0..rank).map(|_| any()).collect());
        let tile = || Operand::Vector(vec![address(), coordinates()]);
        lists.push(vec![tile()]);
        lists.push(vec![tile(), address()]);
        lists.push(vec![address(), tile(), address()]);
        lists.push(vec![address(), tile(), address(), any()]);
    }
    lists
}

impl Explorer {
    /// Whether the decoder takes the instruction with some operands, and what it asked for: where
    /// it refuses, with those operands that brought it farthest.
    fn ask(&mut self, opcode: &str, shape: &Shape) -> (bool, Listener) {
        let mut inst = Instruction {
            guard: None,
            opcode: opcode.to_owned(),
            modifiers: shape.modifiers(),
            operands: Vec::new(),
            place: Place::default(),
        };
        let mut farthest = Listener::default();
        for index in 0..self.operands.len() {
            std::mem::swap(&mut inst.operands, &mut self.operands[index]);
            let mut builder = Builder::new(&self.module, Budget::new());
            builder.listener = Some(Listener::default());
            let taken = super::opcodes::instruction(&mut Form::new(&mut builder, &inst)).is_ok();
            let heard = builder.listener.take().unwrap_or_default();
            std::mem::swap(&mut inst.operands, &mut self.operands[index]);
            if taken {
                self.operands[..=index].rotate_right(1);
                return (true, heard);
            }
            if !heard.looked_at_operands.get() {
                return (false, heard);
            }
            let length = |listener: &Listener| listener.words.len() + listener.types_asked;
            if length(&heard) >= length(&farthest) {
                farthest = heard;
            }
        }
        (false, farthest)
    }

    /// The smallest instructions of an opcode that are taken, each with the words that may be
    /// added.
    fn forms(&mut self, opcode: &str) -> BTreeMap<Shape, BTreeSet<Word>> {
        let mut open = vec![Shape {
            words: BTreeSet::new(),
            types: Vec::new(),
        }];
        let mut seen: BTreeSet<Shape> = open.iter().cloned().collect();
        let mut taken: BTreeMap<Shape, Vec<Word>> = BTreeMap::new();
        while let Some(shape) = open.pop() {
            let (is_taken, heard) = self.ask(opcode, &shape);
            if is_taken {
                taken.insert(shape, heard.words);
                continue;
            }
            for next in continuations(&shape, &heard) {
                if next.words.len() <= MOST_WORDS && seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        let mut forms = BTreeMap::new();
        for (shape, words) in taken {
            let mut optional = BTreeSet::new();
            for word in words.into_iter().filter(|word| !shape.words.contains(word)) {
                if self.ask(opcode, &shape.with_word(word)).0 {
                    optional.insert(word);
                }
            }
            forms.insert(shape, optional);
        }
        // Those that another one gives with words that it may have. A word that makes another
        // instruction of it, `tensor`, is none of these.
        let all = forms.clone();
        let gives = |(other, optional): (&Shape, &BTreeSet<Word>), shape: &Shape| {
            other.types == shape.types
                && other.words != shape.words
                && other.words.is_subset(&shape.words)
                && shape
                    .words
                    .difference(&other.words)
                    .all(|word| optional.contains(word))
        };
        forms.retain(|shape, _| !all.iter().any(|form| gives(form, shape)));
        forms
    }
}

/// What to try after a refusal.
fn continuations(shape: &Shape, heard: &Listener) -> Vec<Shape> {
    let wanted = heard.types_asked > shape.types.len();
    let choosing = !heard.types.is_empty() && heard.types_asked == shape.types.len();
    if wanted {
        return Type::WORDS
            .iter()
            .map(|(word, _)| shape.with_type(word))
            .collect();
    }
    if choosing {
        return heard
            .types
            .iter()
            .map(|word| shape.with_type(word))
            .collect();
    }
    words_to_try(shape, heard)
}

fn words_to_try(shape: &Shape, heard: &Listener) -> Vec<Shape> {
    let mut absent = heard
        .words
        .iter()
        .filter(|word| !shape.words.contains(*word));
    let settled = !heard.missing.is_empty() && heard.types_asked > 0;
    if shape.words.len() < TRIED_FREELY && !settled {
        return absent
            .chain(&heard.missing)
            .map(|&word| shape.with_word(word))
            .collect();
    }
    if !heard.missing.is_empty() {
        return heard
            .missing
            .iter()
            .map(|&word| shape.with_word(word))
            .collect();
    }
    absent
        .next_back()
        .map(|&word| shape.with_word(word))
        .into_iter()
        .collect()
}

/// A table of the instruction forms that the decoder takes, in Markdown.
///
/// Modifiers are given in alphabetical order, not in that of PTX; any order is taken.
pub fn catalogue() -> String {
    let text = ".version 8.0 .target sm_80 .address_size 64 .func callee() { ret; }";
    let module = parse_module(text).unwrap_or_default();
    let mut names: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let found: Vec<_> = names
        .into_par_iter()
        .map(|name| {
            let mut explorer = Explorer {
                module: module.clone(),
                operands: operand_lists(),
            };
            (name, explorer.forms(name))
        })
        .collect();
    let mut table =
        String::from("| opcode | with one of | may have | types |\n|---|---|---|---|\n");
    for (name, forms) in found {
        // Types of the same words, then words of the same types.
        let mut by_words: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for (shape, optional) in forms {
            let words: Vec<Word> = shape.words.into_iter().collect();
            let optional: Vec<Word> = optional.into_iter().collect();
            let types = by_words
                .entry((words.join("."), optional.join(" ")))
                .or_default();
            types.insert(shape.types.join("."));
        }
        let mut by_types: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for ((words, optional), types) in by_words {
            let types: Vec<String> = types.into_iter().collect();
            by_types
                .entry((types.join(" "), optional))
                .or_default()
                .push(words);
        }
        for ((types, optional), words) in by_types {
            // Writing to a string can't fail.
            let _ = writeln!(
                table,
                "| {name} | {} | {optional} | {types} |",
                words.join(" ")
            );
        }
    }
    table
}
