//! Generates code from the table of kernels: a `.cu` file per operation, architecture and dtype,
//! and the rows that Rust reads.

use std::fmt::Write as _;

use crate::table::{ACCESSES, Kernel, PATH, Table, camel_case};

/// A `.cu` file to be compiled.
#[derive(Debug, PartialEq, Eq)]
pub struct Unit {
    /// `<operation>__<architecture>__<dtype>`, the file's name without its extension.
    pub name: String,
    /// Index of the architecture in the table.
    pub architecture: usize,
    pub source: String,
}

/// A kernel, which has one symbol.
struct Symbol<'t> {
    kernel: &'t Kernel,
    dtype: usize,
    access: usize,
}

impl Table {
    /// All symbols. The symbols of a unit are consecutive.
    fn symbols(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.by_unit()
            .flat_map(move |(operation, architecture, dtype)| {
                let kernels = self.kernels.iter().filter(move |kernel| {
                    (kernel.operation, kernel.architecture) == (operation, architecture)
                        && kernel.dtypes.contains(&dtype)
                });
                kernels.flat_map(move |kernel| {
                    let accesses = kernel.accesses.iter();
                    accesses.map(move |&access| Symbol {
                        kernel,
                        dtype,
                        access,
                    })
                })
            })
    }

    /// Operation, architecture and dtype of every unit, indices into the table.
    fn by_unit(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let operations = 0..self.operations.len();
        operations.flat_map(move |operation| {
            (0..self.architectures.len()).flat_map(move |architecture| {
                (0..self.dtypes.len()).map(move |dtype| (operation, architecture, dtype))
            })
        })
    }

    fn unit_name(&self, kernel: &Kernel, dtype: usize) -> String {
        let operation = &self.operations[kernel.operation].name;
        let architecture = &self.architectures[kernel.architecture].name;
        format!("{operation}__{architecture}__{}", self.dtypes[dtype].0)
    }

    fn name(&self, symbol: &Symbol<'_>) -> String {
        let (unit, tile) = (
            self.unit_name(symbol.kernel, symbol.dtype),
            &symbol.kernel.tile,
        );
        format!("lora_{unit}__{tile}_{}", ACCESSES[symbol.access].0)
    }

    /// The number of stages of each kernel that has some, by its symbol.
    pub fn stages(&self) -> Vec<(String, u32)> {
        let stages = self.symbols().filter_map(|symbol| {
            let stages = symbol.kernel.stages?;
            Some((self.name(&symbol), stages))
        });
        stages.collect()
    }

    /// The `.cu` files.
    pub fn units(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        // The entry whose tile was declared last.
        let mut declared = 0;
        for symbol in self.symbols() {
            let kernel = symbol.kernel;
            let name = self.unit_name(kernel, symbol.dtype);
            if units.last().is_none_or(|unit| unit.name != name) {
                units.push(Unit {
                    name,
                    architecture: kernel.architecture,
                    source: self.preamble(kernel),
                });
                declared = 0;
            }
            let Some(unit) = units.last_mut() else {
                continue;
            };
            if declared != kernel.line {
                unit.source += &self.tile(kernel);
                declared = kernel.line;
            }
            unit.source += &self.shell(&symbol);
        }
        units
    }

    fn preamble(&self, kernel: &Kernel) -> String {
        let header = &self.code(kernel).header;
        format!(
            "// Made from {PATH} by build.rs: what is edited here is lost.\n#include \"common/table.cuh\"\n#include \"{header}\"\n"
        )
    }

    /// The constants of an entry, for the kernels' templates.
    fn tile(&self, kernel: &Kernel) -> String {
        let mut text = format!("\nstruct {} {{\n", tile_type(kernel));
        let warp = kernel.warp.unwrap_or_default();
        let mut constants: Vec<(&str, u32)> = vec![("kThreads", kernel.threads)];
        for (field, value) in kernel.block.fields() {
            let name = match field {
                "rows" => "kRows",
                "columns" => "kColumns",
                "depth" => "kDepth",
                _ => "kRanks",
            };
            constants.push((name, value));
        }
        constants.extend([("kWarpRows", warp.0), ("kWarpColumns", warp.1)]);
        constants.push(("kStages", kernel.stages.unwrap_or_default()));
        for (name, value) in constants.into_iter().filter(|&(_, value)| value != 0) {
            let _ = writeln!(text, "    static constexpr int {name} = {value};");
        }
        text += "};\n";
        text
    }

    /// A kernel function, and the comparison of its template with the entry.
    fn shell(&self, symbol: &Symbol<'_>) -> String {
        let kernel = symbol.kernel;
        let (threads, resident, shared) = (kernel.threads, kernel.resident, kernel.shared);
        let block = kernel.block;
        let params = &self.code(kernel).params;
        let instance = format!(
            "{}<{}, {}, Access::{}>",
            kernel.kernel,
            self.dtypes[symbol.dtype].1,
            tile_type(kernel),
            ACCESSES[symbol.access].2
        );
        let columns = block_columns(kernel);
        // An error here is an error in the table, so compilers must name the table's line.
        let line = kernel.line;
        let name = self.name(symbol);
        format!(
            "
#line {line} \"{PATH}\"
static_assert(table::threads_are<{threads}, {instance}::kThreads>());
#line {line} \"{PATH}\"
static_assert(table::shared_is<{shared}, {instance}::kSharedBytes>());
#line {line} \"{PATH}\"
static_assert(table::block_is<{rows}, {instance}::kBlockRows, {columns}, {instance}::kBlockColumns>());
#line {line} \"{PATH}\"
extern \"C\" __global__ void __launch_bounds__({threads}, {resident})
    {name}(const __grid_constant__ {params} p) {{
    {instance}::run(p);
}}
",
            rows = block.rows,
        )
    }

    /// Rows for `src/plan/variant.rs`, which includes them.
    pub fn rust(&self) -> String {
        let mut text = format!("// Made from {PATH} by build.rs.\n\nstatic ROWS: &[Row] = &[\n");
        for symbol in self.symbols() {
            let kernel = symbol.kernel;
            let block = kernel.block;
            let _ = writeln!(
                text,
                "    Row {{
        symbol: {symbol:?},
        unit: {unit:?},
        operation: Operation::{operation},
        arch: Arch::{arch},
        dtype: DType::{dtype},
        tile: Tile {{ name: {tile:?}, rows: {rows}, columns: {columns}, depth: {depth}, ranks: {ranks} }},
        access: Access::{access},
        threads: {threads},
        shared_bytes: {shared},
        resident: {resident},
        quality: {quality:?},
    }},",
                symbol = self.name(&symbol),
                unit = self.unit_name(kernel, symbol.dtype),
                operation = camel_case(&self.operations[kernel.operation].name),
                arch = camel_case(&self.architectures[kernel.architecture].name),
                dtype = self.dtypes[symbol.dtype].0.to_uppercase(),
                tile = kernel.tile,
                rows = block.rows,
                columns = block_columns(kernel),
                depth = block.depth,
                ranks = block.ranks,
                access = ACCESSES[symbol.access].1,
                threads = kernel.threads,
                shared = kernel.shared,
                resident = kernel.resident,
                quality = kernel.quality.unwrap_or(1.0),
            );
        }
        text += "];\n";
        text
    }
}

/// The columns of the output that a block covers. If the entry has none, they are its columns of S,
/// which has a column per rank.
fn block_columns(kernel: &Kernel) -> u32 {
    match kernel.block.columns {
        0 => kernel.block.ranks,
        columns => columns,
    }
}

fn tile_type(kernel: &Kernel) -> String {
    format!("Tile_{}", kernel.tile)
}
