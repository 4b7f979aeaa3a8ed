//! What the devices of the modelled bound can do, each figure with its source.

/// A figure and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sourced {
    pub value: f64,
    pub source: &'static str,
}

/// The rates of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// The emulated device of this name ran the kernels.
    pub key: &'static str,
    pub name: &'static str,
    pub multiprocessors: u32,
    /// GHz. A GPU at its power limit runs slower; for tensor cores `plain` has that in it.
    pub clock: Sourced,
    /// GB/s of a long read. The data sheet's is `dram_peak`.
    pub dram: Sourced,
    pub dram_peak: f64,
    /// GB/s from L2, to all multiprocessors together.
    pub l2: Sourced,
    /// TFLOP/s that cuBLAS reaches in large bf16 products, of the data sheet's `tensor_peak`. On
    /// Hopper by `wgmma`, before it by `mma.sync`.
    pub plain: Sourced,
    pub tensor_peak: f64,
    /// The share of `plain` that `mma.sync` reaches.
    pub mma_share: Sourced,
    /// µs that a launch takes which does next to nothing.
    pub ramp: Sourced,
}

/// Per clock and multiprocessor.
pub const ISSUE_SLOTS: f64 = 4.0;
pub const SHARED_BYTES: f64 = 128.0;
/// 32-bit integer additions, comparisons and logic.
pub const INTEGER_LANES: f64 = 64.0;
/// Bytes that a multiprocessor takes from L2.
pub const INGRESS_BYTES: f64 = 64.0;

/// µs of a read that L2 answers, or of an atomic operation or a fence; assumed, for all devices.
pub const L2_TRIP: f64 = 0.3;
/// µs of a read that DRAM answers while it is busy; assumed: Little's law for the copies that are
/// known to reach DRAM's rate has about this.
pub const DRAM_TRIP: f64 = 0.7;

/// The source of the rates per clock.
pub const PER_CLOCK_SOURCE: &str = "CUDA C++ Programming Guide, \"Arithmetic Instructions\" and \
    \"Compute Capabilities\"; what a multiprocessor takes from L2: DeepGEMM's cost model";

const DATA_SHEET_CLOCK: &str = "the clock of the data sheet's tensor peak";
const HOPPER_L2: Sourced = Sourced {
    value: 9_700.0,
    source: "gpu-benches, gpu-l2-cache/h200.txt, 20 to 40 MB",
};
const HOPPER_MMA: Sourced = Sourced {
    value: 0.629 / 0.95,
    source: "arXiv 2501.12084 §6.2: mma.sync reaches 62.9 % of the peak, wgmma 95 %",
};
const HOPPER_RAMP: Sourced = Sourced {
    value: 2.3,
    source: "gpu-benches, gpu-small-kernels/h200_graph.txt, 4096 elements",
};
const ALL_OF_IT: Sourced = Sourced {
    value: 1.0,
    source: "cuBLAS uses mma.sync there",
};

pub const A100: Rates = Rates {
    key: "a100",
    name: "A100",
    multiprocessors: 108,
    clock: Sourced {
        value: 1.41,
        source: DATA_SHEET_CLOCK,
    },
    dram: Sourced {
        value: 1_730.0,
        source: "gpu-benches, gpu-l2-cache/a100_80.txt, beyond 1 GB",
    },
    dram_peak: 2_039.0,
    l2: Sourced {
        value: 5_400.0,
        source: "gpu-benches, gpu-l2-cache/a100_80.txt, up to 25 MB",
    },
    plain: Sourced {
        value: 265.0,
        source: "published for cuBLAS: about 270",
    },
    tensor_peak: 312.0,
    mma_share: ALL_OF_IT,
    ramp: Sourced {
        value: 1.3,
        source: "gpu-benches, gpu-small-kernels/a100_80_graph.txt, 4096 elements",
    },
};

pub const RTX4090: Rates = Rates {
    key: "rtx4090",
    name: "RTX 4090",
    multiprocessors: 128,
    clock: Sourced {
        value: 2.52,
        source: DATA_SHEET_CLOCK,
    },
    dram: Sourced {
        value: 0.922 * 1_008.0,
        source: "the share of its peak that an L40 reaches: gpu-benches, gpu-l2-cache/l40.txt",
    },
    dram_peak: 1_008.0,
    l2: Sourced {
        value: 5_200.0,
        source: "of an L40, the same chip: gpu-benches, gpu-l2-cache/l40.txt",
    },
    plain: Sourced {
        value: 160.0,
        source: "published for cuBLAS: 156 to 168",
    },
    tensor_peak: 165.2,
    mma_share: ALL_OF_IT,
    ramp: Sourced {
        value: 0.9,
        source: "of an L40: gpu-benches, gpu-small-kernels/l40_graph.txt, 4096 elements",
    },
};

pub const H100: Rates = Rates {
    key: "h100",
    name: "H100",
    multiprocessors: 132,
    clock: Sourced {
        value: 1.83,
        source: DATA_SHEET_CLOCK,
    },
    dram: Sourced {
        value: 0.81 * 3_350.0,
        source: "the share of its peak that an H200 reaches",
    },
    dram_peak: 3_350.0,
    l2: HOPPER_L2,
    plain: Sourced {
        value: 745.0,
        source: "published for cuBLAS: 716 to 798 (fast.cu, DeepGEMM's and others' tables)",
    },
    tensor_peak: 989.4,
    mma_share: HOPPER_MMA,
    ramp: HOPPER_RAMP,
};

pub const H200: Rates = Rates {
    key: "h200",
    name: "H200",
    dram: Sourced {
        value: 3_888.0,
        source: "gpu-benches, gpu-l2-cache/h200.txt, beyond 0.1 GB",
    },
    dram_peak: 4_800.0,
    plain: Sourced {
        value: 785.0,
        source: "published for cuBLAS: 759 to 798",
    },
    ..H100
};

impl Rates {
    pub const ALL: [Rates; 4] = [A100, RTX4090, H100, H200];

    /// The rates of an emulated device.
    pub fn by_key(key: &str) -> Option<&'static Rates> {
        const { &Rates::ALL }.iter().find(|rates| rates.key == key)
    }

    /// TFLOP/s of `mma.sync`.
    pub fn mma(&self) -> f64 {
        self.plain.value * self.mma_share.value
    }
}
