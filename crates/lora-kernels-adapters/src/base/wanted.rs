//! What an adapter looks for in a base model.

use crate::{Adapter, Kind, Module};

/// A tensor, or a module with several, that an adapter looks for in a base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name by the adapter's path, such as `encoder.layer.0.attention.self.query.weight`. For a
    /// module (see [`Fits::Module`]) its path.
    pub name: String,
    /// The part of a pipeline that it belongs to, if the adapter names one.
    pub component: Option<String>,
    /// Whether its path has underscores in place of its dots.
    pub flattened: bool,
    /// Which shapes fit. A name is found whatever its shape; shapes only decide between several
    /// tensors that it could mean.
    pub fits: Fits,
    /// Whether the adapter can't be merged without it. The names of the others don't count when
    /// replacements are looked for, unless there are no required ones.
    pub required: bool,
}

/// Which shapes a wanted tensor may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fits {
    /// Every shape.
    Any,
    /// This shape.
    Exactly(Vec<usize>),
    /// (out_features, in_features) or its transpose; also (out_features, in_features, 1, ...), as
    /// convolutions of one element have it.
    Matrix {
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
    },
    /// An embedding: (any number of rows, columns).
    Columns(usize),
    /// A convolution: (out_features, any number of channels, kernel ...).
    Kernel {
        /// Rows.
        out_features: usize,
        /// The kernel's sizes.
        kernel: Vec<usize>,
    },
    /// The name is a module's, which holds tensors under whatever names.
    Module,
}

impl Fits {
    /// Whether a tensor of this shape fits.
    pub fn fits(&self, shape: &[usize]) -> bool {
        match self {
            Fits::Any | Fits::Module => true,
            Fits::Exactly(expected) => shape == expected,
            Fits::Matrix {
                out_features: n,
                in_features: k,
            } => match shape {
                [rows, columns] => (rows, columns) == (n, k) || (rows, columns) == (k, n),
                [rows, columns, kernel @ ..] => {
                    (rows, columns) == (n, k) && kernel.iter().all(|&size| size == 1)
                }
                _ => false,
            },
            Fits::Columns(columns) => matches!(shape, [_, found] if found == columns),
            Fits::Kernel {
                out_features,
                kernel,
            } => matches!(shape, [n, _, found @ ..] if n == out_features && found == kernel),
        }
    }

    fn of(module: &Module<'_>) -> Self {
        let matrix = Fits::Matrix {
            out_features: module.out_features,
            in_features: module.in_features,
        };
        match module.kind {
            Kind::Linear => matrix,
            Kind::Embedding => Fits::Columns(module.out_features),
            Kind::Convolution => Fits::Kernel {
                out_features: module.out_features,
                kernel: module.a.shape.get(2..).unwrap_or_default().to_vec(),
            },
            Kind::Parameter | Kind::Stacked => Fits::Module,
        }
    }
}

impl Adapter {
    /// Everything that this adapter looks for in a base model: the weights of its modules and
    /// tokens, which it needs, and those that it replaces or adds, which the base model may lack.
    pub fn wanted(&self) -> Vec<Wanted> {
        let below = |path: &str, name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        let component = |component: Option<&str>| component.map(str::to_owned);
        let mut wanted = Vec::new();
        for module in self.modules() {
            let fits = Fits::of(&module);
            let name = match (module.kind, module.path.rsplit_once('.')) {
                // A base model may hold a stack as one tensor, with or without `weight`, or expert
                // by expert, with a number in the middle of the name.
                (Kind::Stacked, Some((parent, _))) => parent.to_owned(),
                (Kind::Stacked | Kind::Parameter, _) => module.path.to_owned(),
                _ => below(module.path, "weight"),
            };
            let weight = Wanted {
                name,
                component: component(module.component),
                flattened: module.flattened,
                fits,
                required: true,
            };
            if module.bias.is_some() {
                wanted.push(Wanted {
                    name: below(module.path, "bias"),
                    fits: Fits::Exactly(vec![module.out_features]),
                    required: false,
                    ..weight.clone()
                });
            }
            wanted.push(weight);
        }
        wanted.extend(self.tokens().map(|tokens| {
            Wanted {
                name: below(tokens.path, "weight"),
                component: component(tokens.component),
                flattened: false,
                fits: tokens
                    .rows
                    .shape
                    .get(1)
                    .map_or(Fits::Any, |&columns| Fits::Columns(columns)),
                required: true,
            }
        }));
        wanted.extend(self.saved().chain(self.base_weights()).map(|saved| Wanted {
            name: saved.name.to_owned(),
            component: component(saved.component),
            flattened: false,
            fits: Fits::Exactly(saved.tensor.shape.to_vec()),
            required: false,
        }));
        wanted
    }
}
