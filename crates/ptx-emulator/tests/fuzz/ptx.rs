//! Damaged PTX through the parser, the decoder and the loader.

use std::sync::Arc;

use ptx_emulator::decode::Program;
use ptx_emulator::exec::LoadedModule;
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;

use crate::random::Random;
use crate::trial;

pub const TEXTS: [&str; 8] = [
    include_str!("../fixtures/driver.ptx"),
    include_str!("../fixtures/parser.ptx"),
    include_str!("../ptx/async.ptx"),
    include_str!("../ptx/atomics.ptx"),
    include_str!("../ptx/blocks.ptx"),
    include_str!("../ptx/flow.ptx"),
    include_str!("../ptx/memory.ptx"),
    include_str!("../ptx/warps.ptx"),
];

/// Replacements for a token: extremes, and what has a meaning to a parser.
const TOKENS: [&str; 36] = [
    "0",
    "-1",
    "1",
    "3",
    "7",
    "32",
    "64",
    "127",
    "4096",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999",
    "0x7fffffff",
    "0xFFFFFFFFFFFFFFFF",
    "0f7F800000",
    "0f",
    "0d7FF0000000000000",
    "08",
    "1.5e999",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ";",
    ",",
    ".b8",
    ".align",
    "\"",
    "/*",
    "%r<4000000000>",
];

/// Texts that have become longer are damaged no further.
const LONGEST: usize = 100_000;

/// A text with one to eight damages.
pub fn damaged(random: &mut Random) -> String {
    let mut text = (*random.choose(&TEXTS)).to_owned();
    let times = if random.once_in(3) {
        1 + random.below(7)
    } else {
        1
    };
    for _ in 0..times {
        if text.len() > LONGEST {
            break;
        }
        text = match random.below(6) {
            0 => damage_lines(random, &text),
            1 | 2 => damage_token(random, &text),
            _ => swap_tokens(random, &text),
        };
    }
    text
}

fn damage_lines(random: &mut Random, text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return text.to_owned();
    }
    let at = random.below(lines.len());
    match random.below(6) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[random.below(lines.len())]),
        2 => lines.swap(at, random.below(text.lines().count())),
        3 => {
            let other: Vec<&str> = random.choose(&TEXTS).lines().collect();
            lines.insert(at, other[random.below(other.len())]);
        }
        4 => lines.truncate(at),
        _ => {
            let line = lines[at];
            lines.splice(at..at, std::iter::repeat_n(line, random.below(100)));
        }
    }
    lines.join("\n")
}

fn damage_token(random: &mut Random, text: &str) -> String {
    let spans = tokens(text);
    if spans.is_empty() {
        return text.to_owned();
    }
    let (start, end) = *random.choose(&spans);
    let (other_start, other_end) = *random.choose(&spans);
    let token = &text[start..end];
    let replacement = match random.below(9) {
        0 => String::new(),
        1 => format!("{token} {token}"),
        2 | 3 => (*random.choose(&TOKENS)).to_owned(),
        4 => text[other_start..other_end].to_owned(),
        5 => {
            let at = token.len() / 2;
            let letter = char::from(32 + random.below(95) as u8);
            format!("{}{letter}{}", &token[..at], &token[at..])
        }
        6 => token[..token.len() / 2].to_owned(),
        7 if random.once_in(50) => {
            (*random.choose(&["{", "(", "[", "-", "!", "+", "@"])).repeat(random.below(200_000))
        }
        _ => (*random.choose(&["\u{0}", "é", "\u{7f}", "%", ".", "::", "#", "%tid.x"])).to_owned(),
    };
    [&text[..start], &replacement, &text[end..]].concat()
}

/// Puts a token in place of another that looks alike, or a modifier in place of another: what is
/// left often parses, and may decode.
fn swap_tokens(random: &mut Random, text: &str) -> String {
    let other = random.choose(&TEXTS);
    let (spans, other_spans) = (tokens(text), tokens(other));
    if spans.is_empty() {
        return text.to_owned();
    }
    let (start, end) = *random.choose(&spans);
    let token = &text[start..end];
    let look = |token: &str| {
        token.bytes().next().map(|byte| {
            (
                byte.is_ascii_digit(),
                byte.is_ascii_alphabetic(),
                byte == b'%',
                byte == b'.',
            )
        })
    };
    let alike: Vec<&str> = other_spans
        .iter()
        .map(|&(start, end)| &other[start..end])
        .filter(|other| look(other) == look(token))
        .collect();
    if alike.is_empty() {
        return text.to_owned();
    }
    let mut replacement = alike[random.below(alike.len())].to_owned();
    if look(token).is_some_and(|(digit, ..)| digit) && random.once_in(2) {
        replacement = (*random.choose(&TOKENS[..17])).to_owned();
    } else if token.contains('.') && random.once_in(2) {
        let mut parts: Vec<&str> = token.split('.').collect();
        let others: Vec<&str> = replacement.split('.').collect();
        let at = random.below(parts.len());
        parts[at] = others[random.below(others.len())];
        replacement = parts.join(".");
    }
    [&text[..start], &replacement, &text[end..]].concat()
}

/// Where names, numbers and single marks lie. Damaged texts may hold more than ASCII, which is
/// passed over.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let part_of_word =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.');
    let mut spans = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let length = bytes[at..]
            .iter()
            .take_while(|byte| part_of_word(byte))
            .count()
            .max(1);
        if byte.is_ascii_graphic() {
            spans.push((at, at + length));
        }
        at += length;
    }
    spans
}

/// Goes through a text as `cuModuleLoadData` does; how far it came.
fn load(text: &str) -> &'static str {
    let Ok(module) = parse_module(text) else {
        return "not parsed";
    };
    let Ok(program) = Program::decode(&module) else {
        return "not decoded";
    };
    match LoadedModule::load(program, &Arc::new(DeviceMemory::new(1 << 30))) {
        Ok(_) => "loaded",
        Err(_) => "not loaded",
    }
}

#[test]
fn damaged_ptx_is_refused_or_loaded() {
    let outcomes = trial::run(10_000, || |case| load(&damaged(&mut Random::of_case(case))));
    // Damage that everything or nothing survives would test little.
    for stage in ["not parsed", "not decoded", "loaded"] {
        assert!(
            outcomes.contains_key(stage),
            "no text ended {stage}: {outcomes:?}"
        );
    }
}

#[test]
fn the_undamaged_texts_load() {
    for text in TEXTS {
        let module = parse_module(text).expect("PTX");
        // The parser's own text has instructions that the decoder refuses.
        assert!(Program::decode(&module).is_ok() || text == TEXTS[1]);
    }
}

#[test]
fn texts_that_failed_once_do_no_more() {
    for path in crate::fatbin::corpus("ptx") {
        let text = std::fs::read_to_string(&path).expect("a text");
        trial::attempt(|| load(&text)).unwrap_or_else(|wrong| panic!("{} {wrong}", path.display()));
    }
}

#[test]
fn nesting_without_end_is_refused() {
    for opener in ["{", "(", "[", "-", "!", "@", "|"] {
        for before in [
            ".visible .entry k()\n{\n",
            ".visible .entry k()\n{\nmov.u32 %r1, ",
            ".global .b32 g[4] = ",
        ] {
            let text = [
                ".version 9.0\n.target sm_80\n.address_size 64\n",
                before,
                &opener.repeat(1_000_000),
            ]
            .concat();
            assert_eq!(load(&text), "not parsed", "{before}{opener}...");
        }
    }
}
