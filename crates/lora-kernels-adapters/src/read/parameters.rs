//! PEFT's adapters on bare parameters (`target_parameters`): which of a module's wrappers has which
//! rank and scaling.

use crate::PeftConfig;
use crate::shown::shape;

/// The most wrappers of one module, and the most parameters that the config may mean. Real modules
/// have two.
const MOST_WRAPPERS: usize = 4;
const MOST_PARAMETERS: usize = 8;
/// The most parameters of one module that the config may name.
const MOST_NAMED: usize = 64;

/// A wrapper's rank, scaling and number of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wrapped {
    pub rank: usize,
    pub scaling: f32,
    pub experts: usize,
}

/// Whether the module at `path` is wrapped for its parameters rather than adapted as a layer.
/// `wrappers` is the number of its pairs of matrices, and `rows` those of the outer lora_A. An
/// error is a sentence that follows the module's name.
pub(super) fn is_wrapped(
    config: &PeftConfig,
    path: &str,
    wrappers: usize,
    rows: usize,
) -> Result<bool, String> {
    if config.own_parameters(path).next().is_some() {
        return Ok(true);
    }
    let names = config.bare_parameters();
    if names.len() == 0 {
        return Ok(false);
    }
    let of_layer = (config.rank_of(path), config.scaling_of(path));
    if wrappers > 1 || rows != of_layer.0 {
        return Ok(true);
    }
    // Both a layer and a parameter of another rank may have as many rows.
    let explains = |name: &str| {
        let full = super::keys::joined(path, name);
        let (rank, scaling) = (config.rank_of(&full), config.scaling_of(&full));
        (rank, scaling) != of_layer && split(rows, rank, scaling).is_some()
    };
    if !{ names.take(MOST_NAMED) }.any(explains) {
        return Ok(false);
    }
    config
        .targets(path)
        .map(|is_layer| !is_layer)
        .ok_or_else(|| {
            format!(
                "has lora_A of {rows} rows: its config explains them as a layer's and as those of \
             target_parameters, and its target_modules is no list that would tell"
            )
        })
}

/// Ranks and scalings of a module's wrappers, whose lora_A have these rows. An error is a sentence
/// that follows the module's name.
pub(super) fn wrapped(
    config: &PeftConfig,
    path: &str,
    rows: &[usize],
) -> Result<Vec<Wrapped>, String> {
    // A config may name thousands: these are of every module, and aren't listed for each.
    let bare = config.bare_parameters().len();
    let mut names: Vec<&str> = match bare <= MOST_NAMED {
        true => config.parameters_of(path),
        false => config.own_parameters(path).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let count = match bare <= MOST_NAMED {
        true => names.len(),
        false => {
            bare + { names.iter() }
                .filter(|name| !config.is_bare(name))
                .count()
        }
    };
    if rows.len() > count {
        return Err(format!(
            "has {} adapted parameters, and target_parameters names {count} of it",
            rows.len()
        ));
    }
    if count > MOST_NAMED {
        return Err(format!(
            "may have {count} parameters by its config's target_parameters, and at most \
             {MOST_NAMED} can be told apart"
        ));
    }
    let mut options: Vec<(usize, f32)> = Vec::with_capacity(names.len());
    for name in &names {
        // PEFT matches rank_pattern and alpha_pattern with the parameter's name.
        let full = super::keys::joined(path, name);
        options.push((config.rank_of(&full), config.scaling_of(&full)));
    }
    if options.iter().all(|option| *option == options[0]) {
        options.truncate(1);
        let (rank, scaling) = options[0];
        let of = |rows: &usize| split(*rows, rank, scaling);
        return match rows.iter().map(of).collect::<Option<Vec<Wrapped>>>() {
            Some(found) if alike(&found) => Ok(found),
            _ => Err(format!(
                "has lora_A of {} rows, and its config gives it rank {rank}: they must be the same \
                 number of experts times the rank",
                shape(rows)
            )),
        };
    }
    if rows.len() > MOST_WRAPPERS || options.len() > MOST_PARAMETERS {
        return Err("has more adapted parameters of different ranks than can be told apart".into());
    }
    let mut found: Vec<Vec<Wrapped>> = Vec::new();
    assign(rows, &options, &mut Vec::new(), &mut found);
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "has lora_A of {} rows, which no ranks of its config explain",
            shape(rows)
        )),
        _ => Err(format!(
            "has parameters with different ranks or scalings in its config, and which of them has \
             which can't be told from lora_A's {} rows",
            shape(rows)
        )),
    }
}

fn split(rows: usize, rank: usize, scaling: f32) -> Option<Wrapped> {
    (rows > 0 && rows.is_multiple_of(rank)).then(|| Wrapped {
        rank,
        scaling,
        experts: rows / rank,
    })
}

/// Whether all have the module's number of experts. PEFT takes a parameter of two dimensions, such
/// as the experts' biases, for one matrix.
fn alike(found: &[Wrapped]) -> bool {
    let mut experts = found.iter().map(|one| one.experts).filter(|&n| n > 1);
    let first = experts.next();
    experts.all(|other| Some(other) == first)
}

/// All ways of giving each wrapper a parameter of its own that differ in what they give.
fn assign(
    rows: &[usize],
    options: &[(usize, f32)],
    taken: &mut Vec<usize>,
    found: &mut Vec<Vec<Wrapped>>,
) {
    let Some(&next) = rows.get(taken.len()) else {
        let way = taken
            .iter()
            .zip(rows)
            .filter_map(|(&at, &rows)| split(rows, options[at].0, options[at].1));
        let way: Vec<Wrapped> = way.collect();
        if alike(&way) && !found.contains(&way) {
            found.push(way);
        }
        return;
    };
    for (at, &(rank, scaling)) in options.iter().enumerate() {
        if !taken.contains(&at) && split(next, rank, scaling).is_some() {
            taken.push(at);
            assign(rows, options, taken, found);
            taken.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(more: &str) -> PeftConfig {
        let text = format!(
            r#"{{"r": 2, "lora_alpha": 4,
                "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]{more}}}"#
        );
        PeftConfig::parse(&text, Path::new("x")).unwrap()
    }

    const PATH: &str = "layers.0.mlp.experts";

    #[test]
    fn rows_are_experts_times_rank() {
        let found = wrapped(&config(""), PATH, &[6, 6]).unwrap();
        let one = Wrapped {
            rank: 2,
            scaling: 2.0,
            experts: 3,
        };
        assert_eq!(found, [one, one]);
        assert!(wrapped(&config(""), PATH, &[6, 8]).is_err());
        // One of them is a matrix, as biases of experts are.
        assert_eq!(wrapped(&config(""), PATH, &[6, 2]).unwrap()[1].experts, 1);
        assert!(wrapped(&config(""), PATH, &[5]).is_err());
        assert!(wrapped(&config(""), PATH, &[6, 6, 6]).is_err());
        assert!(wrapped(&config(""), "layers.0.mlp.gate", &[6]).is_err());
        assert_eq!(is_wrapped(&config(""), PATH, 1, 2), Ok(true));
        let layer = "layers.0.self_attn.q_proj";
        assert_eq!(is_wrapped(&config(""), layer, 1, 2), Ok(false));
    }

    /// Two rows are a layer's of rank 2, or two experts' of rank 1.
    #[test]
    fn layers_are_told_from_parameters_of_another_rank() {
        let of = |targets: &str, pattern: &str, path: &str| {
            let text = format!(
                r#"{{"r": 2, "target_parameters": ["gate_up_proj"], "rank_pattern": {{{pattern}}},
                    "target_modules": {targets}}}"#
            );
            let config = PeftConfig::parse(&text, Path::new("x")).unwrap();
            is_wrapped(&config, path, 1, 2)
        };
        let one = r#""gate_up_proj": 1"#;
        assert_eq!(of("null", one, PATH), Ok(true));
        assert_eq!(of(r#"["q_proj"]"#, one, PATH), Ok(true));
        assert_eq!(of(r#"["q_proj"]"#, one, "layers.0.q_proj"), Ok(false));
        assert_eq!(of(r#"".*q_proj""#, "", "layers.0.q_proj"), Ok(false));
        assert!(of(r#"".*q_proj""#, one, "layers.0.q_proj").is_err());
    }

    #[test]
    fn different_ranks_are_told_apart_by_the_number_of_experts() {
        let ranks = r#", "rank_pattern": {".*\\.gate_up_proj": 4},
            "alpha_pattern": {".*\\.gate_up_proj": 8}"#;
        let found = wrapped(&config(ranks), PATH, &[12, 6]).unwrap();
        let ranks_found: Vec<_> = found.iter().map(|one| (one.rank, one.experts)).collect();
        assert_eq!(ranks_found, [(4, 3), (2, 3)]);
        // One pair of matrices may be either parameter's.
        assert!(wrapped(&config(ranks), PATH, &[12]).is_err());
        let alphas = r#", "alpha_pattern": {".*\\.gate_up_proj": 8}"#;
        assert!(
            wrapped(&config(alphas), PATH, &[6, 6])
                .unwrap_err()
                .contains("can't be told")
        );
    }
}
