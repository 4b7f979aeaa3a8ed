//! Reads the table of kernels, `kernels/table.toml`: one entry per operation, architecture and
//! tile.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::archs::{self, Arch};
use crate::fields::{Fields, fail, line_of};

/// The table's path in the crate.
pub const PATH: &str = "kernels/table.toml";

/// The largest shared memory of a block on any GPU so far.
const MOST_SHARED: u32 = 227 << 10;

/// How streamed operands are read: the name in the table, in Rust and in CUDA C++.
pub const ACCESSES: [(&str, &str, &str); 3] = [
    ("vec", "Vectorised", "kVectorised"),
    ("vec_kn", "VectorisedKn", "kVectorisedKn"),
    ("any", "Any", "kAny"),
];

/// The checked table.
#[derive(Debug)]
pub struct Table {
    pub architectures: Vec<Architecture>,
    /// (name, C++ type).
    pub dtypes: Vec<(String, String)>,
    pub operations: Vec<Operation>,
    pub kernels: Vec<Kernel>,
}

/// A family of devices that share kernels.
#[derive(Debug)]
pub struct Architecture {
    pub name: String,
    /// The virtual architecture that the front end compiles for.
    pub compute: Arch,
}

/// The properties shared by all kernels of an operation.
#[derive(Debug)]
pub struct Operation {
    pub name: String,
    /// The pattern of tile names, over the fields of `block`.
    pub tile: String,
    /// The device code for each architecture, in the order of the table's. An architecture may
    /// state its own.
    pub code: Vec<Code>,
}

/// The device code of an operation.
#[derive(Debug, Clone)]
pub struct Code {
    /// The path of the header in `kernels/`.
    pub header: String,
    /// The C++ template over <element type, tile, access>.
    pub kernel: String,
    /// The C++ struct that the kernel takes.
    pub params: String,
}

/// One entry; operation, architecture, dtypes and accesses are indices.
#[derive(Debug)]
pub struct Kernel {
    /// The entry's line in the table, counted from 1.
    pub line: usize,
    pub operation: usize,
    pub architecture: usize,
    pub dtypes: Vec<usize>,
    pub accesses: Vec<usize>,
    pub tile: String,
    pub kernel: String,
    pub block: Block,
    /// Rows and columns of a warp's part of the output.
    pub warp: Option<(u32, u32)>,
    pub stages: Option<u32>,
    pub threads: u32,
    pub resident: u32,
    pub shared: u32,
    pub quality: Option<f64>,
}

/// The sizes of a block's tile; 0 for those that the operation doesn't have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Block {
    pub rows: u32,
    pub columns: u32,
    pub depth: u32,
    pub ranks: u32,
}

impl Block {
    /// The fields by name.
    pub fn fields(self) -> [(&'static str, u32); 4] {
        [
            ("rows", self.rows),
            ("columns", self.columns),
            ("depth", self.depth),
            ("ranks", self.ranks),
        ]
    }
}

/// Reads a table.
///
/// # Errors
/// The line, the entry and the field that is wrong, and what is allowed.
pub fn parse(text: &str) -> Result<Table, String> {
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, &span));
        format!("{PATH}:{line}: {}", error.message())
    })?;
    let root = Fields::of_table(
        text,
        "the table",
        document.get_ref(),
        document.span(),
        &["architectures", "dtypes", "operations", "kernels"],
    )?;

    let mut architectures = Vec::new();
    for (name, value) in root.named("architectures")? {
        let entry = format!("architecture {name}");
        let fields = Fields::of(text, &entry, value, &["compute"])?;
        let (compute, span) = fields.string("compute")?;
        let compute = archs::parse(compute)
            .map_err(|reason| fields.wrong(&span, "compute", compute, reason))?;
        let name = name.to_owned();
        architectures.push(Architecture { name, compute });
    }

    let mut dtypes = Vec::new();
    for (name, value) in root.named("dtypes")? {
        let DeValue::String(cpp) = value.get_ref() else {
            let reason = "must be a C++ type, quoted";
            return Err(fail(text, &value.span(), "dtypes", name, reason));
        };
        dtypes.push((name.to_owned(), cpp.to_string()));
    }

    let mut operations = Vec::new();
    for (name, value) in root.named("operations")? {
        let entry = format!("operation {name}");
        let own = architectures.iter().map(|a: &Architecture| a.name.as_str());
        let allowed: Vec<&str> = CODE.into_iter().chain(["tile"]).chain(own).collect();
        let fields = Fields::of(text, &entry, value, &allowed)?;
        let string = |field| fields.string(field).map(|(value, _)| value.to_owned());
        let shared = Code {
            header: string("header")?,
            kernel: string("kernel")?,
            params: string("params")?,
        };
        let code =
            architectures
                .iter()
                .map(|architecture| match fields.optional(&architecture.name) {
                    Some(own) => shared.overridden(text, &entry, &architecture.name, own),
                    None => Ok(shared.clone()),
                });
        operations.push(Operation {
            name: name.to_owned(),
            tile: string("tile")?,
            code: code.collect::<Result<_, _>>()?,
        });
    }

    let mut table = Table {
        architectures,
        dtypes,
        operations,
        kernels: Vec::new(),
    };
    for (index, value) in root.listed("kernels")?.iter().enumerate() {
        let kernel = table.kernel(text, index + 1, value)?;
        table.kernels.push(kernel);
    }
    Ok(table)
}

/// The fields of [`Code`].
const CODE: [&str; 3] = ["header", "kernel", "params"];

impl Code {
    /// The code with the fields that an architecture states for itself.
    fn overridden(
        &self,
        text: &str,
        operation: &str,
        architecture: &str,
        own: &Spanned<DeValue<'_>>,
    ) -> Result<Self, String> {
        let entry = format!("{operation} on {architecture}");
        let fields = Fields::of(text, &entry, own, &CODE)?;
        let string = |field, shared: &String| match fields.optional(field) {
            Some(_) => fields.string(field).map(|(value, _)| value.to_owned()),
            None => Ok(shared.clone()),
        };
        Ok(Self {
            header: string("header", &self.header)?,
            kernel: string("kernel", &self.kernel)?,
            params: string("params", &self.params)?,
        })
    }
}

impl Table {
    /// Drops the kernels that none of these devices could run.
    pub fn keep_those_for(&mut self, devices: &[Arch]) {
        let architectures = &self.architectures;
        self.kernels.retain(|kernel| {
            let compute = architectures[kernel.architecture].compute;
            archs::is_for(compute, devices)
        });
    }

    /// The code of a kernel.
    pub(crate) fn code(&self, kernel: &Kernel) -> &Code {
        &self.operations[kernel.operation].code[kernel.architecture]
    }

    fn kernel(
        &self,
        text: &str,
        number: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Kernel, String> {
        let entry = format!("kernel {number}");
        let allowed = [
            "operation",
            "architecture",
            "dtypes",
            "accesses",
            "tile",
            "kernel",
            "block",
            "warp",
            "stages",
            "threads",
            "resident",
            "shared",
            "quality",
        ];
        let fields = Fields::of(text, &entry, value, &allowed)?;
        let operations: Vec<&str> = self.operations.iter().map(|o| o.name.as_str()).collect();
        let operation = fields.one_of("operation", &operations)?;
        let architectures: Vec<&str> = self.architectures.iter().map(|a| a.name.as_str()).collect();
        let architecture = fields.one_of("architecture", &architectures)?;
        let dtypes: Vec<&str> = self.dtypes.iter().map(|(name, _)| name.as_str()).collect();
        let block = fields.block()?;
        let described = &self.operations[operation];
        let tile = match fields.optional("tile") {
            Some(_) => fields.string("tile")?.0.to_owned(),
            None => tile_name(&described.tile, block).map_err(|field| {
                fields.missing("block", &format!("`{field}`, a part of the tile's name"))
            })?,
        };
        let kernel = match fields.optional("kernel") {
            Some(_) => fields.string("kernel")?.0.to_owned(),
            None => described.code[architecture].kernel.clone(),
        };
        let optional = |field, allowed: Range<u32>| match fields.optional(field) {
            Some(_) => fields.number(field, allowed).map(Some),
            None => Ok(None),
        };
        let kernel = Kernel {
            line: line_of(text, &value.span()),
            operation,
            architecture,
            dtypes: fields.some_of("dtypes", &dtypes)?,
            accesses: fields.some_of("accesses", &ACCESSES.map(|(name, ..)| name))?,
            tile,
            kernel,
            block,
            warp: fields.warp()?,
            stages: optional("stages", 2..17)?,
            threads: fields.number("threads", 32..1025)?,
            resident: fields.number("resident", 1..33)?,
            shared: fields.number("shared", 0..MOST_SHARED + 1)?,
            quality: fields.quality()?,
        };
        if !kernel.threads.is_multiple_of(32) {
            let span = fields.span_of("threads");
            let given = kernel.threads;
            return Err(fields.wrong(
                &span,
                "threads",
                given,
                "must be whole warps: a multiple of 32",
            ));
        }
        for other in &self.kernels {
            let same = (other.operation, other.architecture, &other.tile)
                == (kernel.operation, kernel.architecture, &kernel.tile);
            if let Some(&dtype) = other
                .dtypes
                .iter()
                .find(|dtype| same && kernel.dtypes.contains(dtype))
            {
                let reason = format!(
                    "repeats the kernel of line {}: an operation has one entry per architecture, tile and dtype",
                    other.line
                );
                let what = format!(
                    "{} {} in {}",
                    described.name, kernel.tile, self.dtypes[dtype].0
                );
                return Err(fields.wrong(&value.span(), "tile", what, reason));
            }
        }
        Ok(kernel)
    }
}

/// `m{rows}n{columns}` with the block's numbers. The error is a field that is needed and missing.
fn tile_name(pattern: &str, block: Block) -> Result<String, &'static str> {
    let mut name = pattern.to_owned();
    for (field, value) in block.fields() {
        let place = format!("{{{field}}}");
        if name.contains(&place) && value == 0 {
            return Err(field);
        }
        name = name.replace(&place, &value.to_string());
    }
    Ok(name)
}

/// A name of the table as a Rust type: `grad_b` becomes `GradB`.
pub fn camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}
