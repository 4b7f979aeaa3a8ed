//! Random trees of random names, prefixes, ranks, types and kinds are merged, and compared with the
//! few lines of arithmetic that say what a merge is.
//!
//! All numbers are eighths and all scalings powers of two, so that every sum is exact in f32 and a
//! merge has one right result, bit by bit. DoRA divides by a norm, and has a bound instead.

mod adapter;
mod draw;
mod model;

use std::collections::BTreeMap;

use adapter::Made;
use draw::Draw;
use model::Model;

use crate::scene::{Numbers, Scene};

/// `LORA_KERNELS_RANDOM_TREES` sets another number.
const CASES: u64 = 300;

/// What a tensor of the result must be.
pub struct Expected {
    /// The sum before it is rounded.
    sum: Numbers,
    /// Its distance from `sum` may be this part of it, beside the rounding.
    tolerance: f64,
}

#[test]
fn random_trees_are_merged_as_the_arithmetic_says() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let cases = number("LORA_KERNELS_RANDOM_TREES").unwrap_or(CASES);
    let seeds = match number("LORA_KERNELS_RANDOM_TREE") {
        Some(seed) => seed..seed + 1,
        None => 0..cases,
    };
    for seed in seeds {
        case(seed);
    }
}

fn case(seed: u64) {
    let mut draw = Draw::new(seed);
    let scene = Scene::new("random", &format!("{}", seed % 16));
    let model = Model::draw(&mut draw);
    let mut expected = model.expected();
    let count = draw.pick(&[1, 1, 1, 2, 3]);
    let mut adapters = Vec::new();
    let mut is_undefined = false;
    for at in 0..count {
        let weight = if count == 1 {
            1.0
        } else {
            draw.pick(&[1.0, 0.5, -0.25, 2.0])
        };
        let made = Made::draw(&mut draw, &model, weight, count == 1);
        is_undefined |= made.add_to(&model, &mut expected);
        made.write(&scene, &format!("adapter{at}"));
        adapters.push(made);
    }
    let base = model.write(&scene, &mut draw);
    let mut arguments: Vec<String> = Vec::new();
    if adapters.iter().any(|made| made.weight != 1.0) {
        let weights: Vec<String> = adapters
            .iter()
            .map(|made| made.weight.to_string())
            .collect();
        arguments.push(format!("--weights={}", weights.join(",")));
    }
    let paths: Vec<String> = { adapters.iter().enumerate() }
        .map(|(at, made)| made.path(&format!("adapter{at}")))
        .collect();
    arguments.extend(adapters.iter().find_map(|made| made.scaling_argument()));
    let names: Vec<&str> = { adapters.iter() }
        .flat_map(|made| made.paths(&model))
        .collect();
    arguments.extend(model.map_argument(&mut draw, &names));
    let inputs: Vec<&str> = { std::iter::once(&*base) }
        .chain(paths.iter().map(String::as_str))
        .collect();
    let more: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let out = model.out();
    let described = format!(
        "case {seed}: merge {inputs:?} {more:?} in {}",
        scene.folder.display()
    );
    match scene.run(&inputs, out, &more) {
        Ok(_) => assert!(!is_undefined, "{described}: DoRA divided by 0"),
        Err((1, _)) if is_undefined => return,
        Err((status, message)) => panic!("{described}: status {status}: {message}"),
    }
    let mut got = BTreeMap::new();
    for file in model.files(out) {
        got.extend(scene.get(&file));
    }
    let names: Vec<&String> = got.keys().collect();
    assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{described}");
    for (name, expected) in &expected {
        compare(&got[name], expected, &format!("{described}: {name}"));
    }
}

#[track_caller]
fn compare(got: &Numbers, expected: &Expected, what: &str) {
    let Expected { sum, tolerance } = expected;
    assert_eq!((&got.shape, got.dtype), (&sum.shape, sum.dtype), "{what}");
    let rounded = Numbers::new(sum.dtype, &sum.shape, sum.values.clone());
    if *tolerance == 0.0 {
        assert_eq!(got.values, rounded.values, "{what}");
        return;
    }
    // One rounding of the type, and that of f32 in the quotient.
    let part = match sum.dtype {
        safetensors::Dtype::F32 => 0.0,
        safetensors::Dtype::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    };
    for (at, (got, exact)) in got.values.iter().zip(&sum.values).enumerate() {
        let bound = exact.abs() * (part + tolerance) + 1e-7;
        assert!(
            (got - exact).abs() <= bound,
            "{what}[{at}] is {got}, not {exact}"
        );
    }
}
