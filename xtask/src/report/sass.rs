//! Parses the output of `cuobjdump -sass`.

/// The machine code of a kernel for an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// As in `sm_<arch>`.
    pub arch: String,
    pub symbol: String,
    pub instructions: Vec<Instruction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub address: u64,
    /// Whether a predicate before it says if it is run.
    pub guarded: bool,
    /// The opcode with its modifiers: `HMMA.16816.F32.BF16`.
    pub opcode: String,
    /// As written: `R24, gdesc[UR8], R24, gsb0`.
    pub operands: String,
    /// The target of a branch.
    pub target: Option<u64>,
}

impl Instruction {
    /// The opcode without modifiers.
    pub fn name(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// The last operand, if it is a number: of `WARPGROUP.DEPBAR.LE gsb0, 0x1` it is 1.
    pub fn immediate(&self) -> Option<u64> {
        self.operands.split(", ").last().and_then(hexadecimal)
    }

    /// Whether it adds floats in memory in an undefined order.
    pub fn is_float_atomic(&self) -> bool {
        let reduces =
            self.opcode.starts_with("ATOM") || self.name() == "RED" || self.name() == "REDG";
        let floats = ["F16", "F16x2", "BF16", "BF16x2", "BF16_V2", "F32", "F64"];
        self.name() == "UTMAREDG"
            || (reduces
                && self
                    .opcode
                    .split('.')
                    .any(|modifier| floats.contains(&modifier)))
    }
}

/// The functions, in the order of the listing.
pub fn parse(listing: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    let mut arch = String::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("code for sm_") {
            name.clone_into(&mut arch);
        } else if let Some(symbol) = line.strip_prefix("Function : ") {
            functions.push(Function {
                arch: arch.clone(),
                symbol: symbol.to_owned(),
                instructions: Vec::new(),
            });
        } else if let (Some(function), Some(instruction)) =
            (functions.last_mut(), instruction(line))
        {
            function.instructions.push(instruction);
        }
    }
    functions
}

/// `/*5eb0*/  @!P0 BRA 0x5a00 ;  /* encoding */`; the second half of an encoding is on a line of
/// its own.
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let (text, _) = rest.split_once(';')?;
    let text = text.trim();
    let guarded = text.starts_with('@');
    let text = if guarded {
        text.split_once(' ')?.1.trim_start()
    } else {
        text
    };
    let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
    let branches = opcode.split('.').next() == Some("BRA");
    let target = operands
        .split_whitespace()
        .next_back()
        .filter(|_| branches)
        .and_then(hexadecimal);
    Some(Instruction {
        address,
        guarded,
        opcode: opcode.to_owned(),
        operands: operands.trim().to_owned(),
        target,
    })
}

/// `0x1f0`
fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Code of one instruction per word, 16 bytes apart: an opcode, or an opcode and the number of the
/// instruction that it goes to, behind an `@` if it is guarded.
#[cfg(test)]
pub fn function(code: &str) -> Function {
    let instructions = code.split_whitespace().enumerate().map(|(index, word)| {
        let guarded = word.starts_with('@');
        let (opcode, target) = word
            .trim_start_matches('@')
            .split_once(':')
            .unwrap_or((word, ""));
        let target = target.parse().ok().map(|number: u64| 16 * number);
        Instruction {
            address: 16 * index as u64,
            guarded,
            opcode: opcode.to_owned(),
            operands: target.map_or(String::new(), |target| format!("{target:#x}")),
            target,
        }
    });
    Function {
        arch: "80".to_owned(),
        symbol: "f".to_owned(),
        instructions: instructions.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
	code for sm_80
		Function : first
	.headerflags	@\"EF_CUDA_SM80\"
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;       /* 0x00000a00ff017624 */
                                                                                 /* 0x000fe400078e00ff */
        /*0010*/              @!P0 BRA 0x30 ;                                    /* 0x00000a00ff017624 */
        /*0020*/                   BRA.U !UP0, 0x0 ;                             /* 0x00000a00ff017624 */
        /*0030*/                   RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2.64], R5 ; /* 0x00000a00ff017624 */
        /*0040*/                   BRA 0x40;                                     /* 0x00000a00ff017624 */
	code for sm_90a
		Function : second
        /*0000*/                   ATOMG.E.ADD.STRONG.GPU PT, R2, [R2.64], R5 ;  /* 0x00000a00ff017624 */
        /*0010*/                   REDUX.SUM.S32 UR4, R2 ;                       /* 0x00000a00ff017624 */
";

    #[test]
    fn functions_instructions_and_targets() {
        let functions = parse(LISTING);
        let names: Vec<_> = functions
            .iter()
            .map(|f| (f.arch.as_str(), f.symbol.as_str()))
            .collect();
        assert_eq!(names, [("80", "first"), ("90a", "second")]);
        let targets: Vec<_> = functions[0]
            .instructions
            .iter()
            .map(|i| (i.name(), i.target))
            .collect();
        let expected = [
            ("IMAD", None),
            ("BRA", Some(0x30)),
            ("BRA", Some(0)),
            ("RED", None),
            ("BRA", Some(0x40)),
        ];
        assert_eq!(targets, expected);
    }

    #[test]
    fn float_atomics_are_told_from_integer_ones() {
        let found: Vec<Vec<bool>> = parse(LISTING)
            .iter()
            .map(|f| {
                f.instructions
                    .iter()
                    .map(Instruction::is_float_atomic)
                    .collect()
            })
            .collect();
        assert_eq!(
            found,
            [vec![false, false, false, true, false], vec![false, false]]
        );
    }
}
