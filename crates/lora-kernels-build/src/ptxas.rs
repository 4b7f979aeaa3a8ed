//! What ptxas says of code that it compiles to something slower than was written.

use std::fmt;

/// A kind of such a remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Registers are spilled to local memory.
    Spill,
    /// C7510 and its like: each wgmma waits for the one before it.
    SerialisedWgmma,
    /// C7508 and its like: the roles of a kernel keep the same number of registers.
    IgnoredSetmaxnreg,
    /// C7517 and C7519: ptxas waits for wgmma, or orders registers before it, where the source
    /// doesn't.
    InjectedWgmmaOrder,
    /// Any other text.
    Other,
}

impl Kind {
    /// The kind of a line that nvcc printed.
    pub fn of(line: &str) -> Self {
        // The sentences are matched, because ptxas has a code for each reason.
        let says = |words: &str| line.contains(words);
        if says("wgmma.mma_async instructions are serialized") {
            Self::SerialisedWgmma
        } else if says("'setmaxnreg' ignored") {
            Self::IgnoredSetmaxnreg
        } else if says("is injected in around line") && says("warpgroup.") {
            Self::InjectedWgmmaOrder
        } else if says("spilled") {
            Self::Spill
        } else {
            Self::Other
        }
    }

    /// What it means for a kernel; nothing for other text.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Spill => "registers are spilled",
            Self::SerialisedWgmma => "each wgmma waits for the one before it",
            Self::IgnoredSetmaxnreg => "setmaxnreg has no effect",
            Self::InjectedWgmmaOrder => "ptxas added a fence or a wait to the kernel's wgmma",
            Self::Other => "",
        }
    }
}

/// A line that nvcc printed while it compiled a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    pub unit: String,
    pub kind: Kind,
    pub line: String,
}

impl Remark {
    fn new(unit: &str, line: &str) -> Self {
        Self {
            unit: unit.to_owned(),
            kind: Kind::of(line),
            line: line.to_owned(),
        }
    }

    /// The remarks of all that nvcc printed for a unit.
    pub fn all(unit: &str, printed: &str) -> Vec<Self> {
        let lines = printed.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Self::new(unit, line)).collect()
    }

    /// Reads one line of what [`Remark::to_line`] wrote.
    pub fn from_line(line: &str) -> Option<Self> {
        let (unit, line) = line.split_once('\t')?;
        Some(Self::new(unit, line))
    }

    pub fn to_line(&self) -> String {
        format!("{}\t{}", self.unit, self.line)
    }
}

/// `forward__sm90a__bf16: each wgmma waits for the one before it: ptxas info : (C7510) ...`
impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.unit)?;
        match self.kind {
            Kind::Other => {}
            kind => write!(f, "{}: ", kind.meaning())?,
        }
        f.write_str(&self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nvcc 13.0 prints them.
    const PRINTED: &str = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.

ptxas info    : (C7517) warpgroup.wait is injected in around line 65 by compiler to allow use of registers defined by GMMA in function 'f'
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to wgmma pipeline crossing function boundary at a function call in the function 'f'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'f'
ptxas warning : Registers are spilled to local memory in function 'f', 8 bytes spill stores, 8 bytes spill loads
warning #177-D: variable was declared but never referenced";

    #[test]
    fn each_kind_is_told_by_its_sentence() {
        use Kind::{IgnoredSetmaxnreg, InjectedWgmmaOrder, Other, SerialisedWgmma, Spill};
        let remarks = Remark::all("unit", PRINTED);
        let kinds: Vec<Kind> = remarks.iter().map(|remark| remark.kind).collect();
        let expected = [
            IgnoredSetmaxnreg,
            InjectedWgmmaOrder,
            SerialisedWgmma,
            SerialisedWgmma,
            Spill,
            Other,
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn a_remark_names_the_unit_and_what_it_means() {
        let remarks = Remark::all("forward", PRINTED);
        let text = remarks[0].to_string();
        assert!(
            text.starts_with("forward: setmaxnreg has no effect: ptxas info"),
            "{text}"
        );
        let text = remarks[5].to_string();
        assert!(text.starts_with("forward: warning #177-D"), "{text}");
    }

    #[test]
    fn remarks_are_written_and_read() {
        for remark in Remark::all("forward__sm90a__bf16", PRINTED) {
            assert_eq!(Remark::from_line(&remark.to_line()), Some(remark));
        }
        assert_eq!(Remark::from_line("no unit"), None);
    }
}
