//! Decode: what the launches of a batch of few tokens ask of a device, ours and others', and how
//! long they take by [`crate::bound`] with the latencies that one launch can't hide. Nothing here
//! was measured.

use serde::{Deserialize, Serialize};

use crate::bound::Work;
use crate::document::OURS;
use crate::rates::{DRAM_TRIP, L2_TRIP, Rates};

/// Our forward of a layer that trains: two launches, which decode took before it had its own.
pub const BEFORE: &str = "two launches";
/// Our forward for inference without adapters in the batch.
pub const WITHOUT: &str = "no adapter";

/// A batch by one way to compute it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decode {
    /// [`OURS`], [`BEFORE`], [`WITHOUT`], or a peer.
    pub who: String,
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub rank: usize,
    /// Distinct adapters in the batch.
    pub adapters: usize,
    pub launches: Vec<Work>,
    /// Wavefronts of shared memory beyond the fewest.
    pub conflicts: f64,
    /// Sectors that `cp.async` moves beyond the fewest, by whole sectors.
    pub partial_sectors: f64,
    /// Of the copies, those of the weight over its size, where nothing else is copied but x.
    pub weight_reads: Option<f64>,
    /// What the one launch is, if it is our decode.
    pub stream: Option<Stream>,
}

/// How our decode launch streams the weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Steps of all tiles.
    pub steps: u64,
    pub blocks: u64,
    /// Blocks that the device holds at a time.
    pub places: u64,
    /// Blocks of a multiprocessor.
    pub resident: u64,
    /// Bytes of the weight that a block has asked for and not got.
    pub ahead: u64,
    /// Pieces that S is computed in.
    pub items: u64,
    /// Round trips to DRAM of an item, and those to L2 (ticket, arrival, slices).
    pub dram_trips: f64,
    pub l2_trips: f64,
    /// Whether tiles may have several blocks.
    pub shared: bool,
}

impl Stream {
    /// Bytes of the weight in flight per multiprocessor.
    pub fn in_flight(&self) -> f64 {
        (self.resident * self.ahead) as f64
    }

    /// How evenly the steps are shared out, in percent.
    pub fn wave_efficiency(&self) -> f64 {
        wave_efficiency(self.steps, self.blocks, self.places)
    }

    /// µs until S is ready, after the launch's start: each block takes one piece after the other,
    /// and the last one sums the slices and says so.
    pub fn s_us(&self) -> f64 {
        if self.items == 0 {
            return 0.0;
        }
        let rounds = self.items.div_ceil(self.blocks.max(1)) as f64;
        rounds * (self.dram_trips * DRAM_TRIP + self.l2_trips * L2_TRIP) + 3.0 * L2_TRIP
    }

    /// µs after the last byte of the weight, which nothing hides: a shared tile's part is written,
    /// counted and read again; then S's flag is read, and B.
    pub fn tail_us(&self) -> f64 {
        let shared = if self.shared { 4.0 * L2_TRIP } else { 0.0 };
        let low_rank = if self.items > 0 {
            L2_TRIP + DRAM_TRIP
        } else {
            0.0
        };
        shared + low_rank
    }
}

/// The mean number of steps of a place over that of the busiest one, in percent.
pub fn wave_efficiency(steps: u64, blocks: u64, places: u64) -> f64 {
    let busiest = steps.div_ceil(blocks.max(1)).max(1);
    100.0 * steps as f64 / (busiest * places.max(1)) as f64
}

impl Decode {
    /// `16x4096x4096 r16 D8`
    pub fn layer(&self) -> String {
        let Self {
            tokens,
            in_features,
            out_features,
            rank,
            adapters,
            ..
        } = self;
        format!("{tokens}x{in_features}x{out_features} r{rank} D{adapters}")
    }

    /// Bytes of the weight, in 16 bits.
    pub fn weight_bytes(&self) -> f64 {
        2.0 * (self.in_features * self.out_features) as f64
    }

    /// Elements of all adapters of the batch.
    pub fn adapter_elements(&self) -> f64 {
        let each = self.rank * (self.in_features + self.out_features);
        (self.adapters * each) as f64
    }

    /// W, the batch's adapters, x and y, each once.
    pub fn compulsory_bytes(&self) -> f64 {
        let tokens = (self.tokens * (self.in_features + self.out_features)) as f64;
        self.weight_bytes() + 2.0 * (self.adapter_elements() + tokens)
    }

    /// The same of the plain product, without adapters.
    pub fn plain_bytes(&self) -> f64 {
        self.compulsory_bytes() - 2.0 * self.adapter_elements()
    }

    fn sum(&self, of: impl Fn(&Work) -> f64) -> f64 {
        self.launches.iter().map(of).sum()
    }

    pub fn dram_over_compulsory(&self) -> f64 {
        self.sum(|work| work.dram_bytes) / self.compulsory_bytes()
    }

    pub fn sectors_over_compulsory(&self) -> f64 {
        self.sum(|work| work.all.sectors) * 32.0 / self.compulsory_bytes()
    }

    pub fn instructions(&self) -> f64 {
        self.sum(|work| work.all.instructions)
    }

    /// The product alone: its bytes at the sustained rate of a long read, or its operations at
    /// cuBLAS's, and one launch's ramp.
    pub fn plain_us(&self, rates: &Rates) -> f64 {
        let work = Work {
            dram_bytes: self.plain_bytes(),
            library_flops: 2.0 * (self.tokens * self.in_features * self.out_features) as f64,
            ..Work::default()
        };
        work.us(rates)
    }

    /// The launches one after the other, each as long as its limit and its ramp; without latencies.
    pub fn work_us(&self, rates: &Rates) -> f64 {
        self.sum(|work| work.us(rates))
    }

    /// The same; and our one launch waits for S if that takes longer than the weight, and has a
    /// tail.
    pub fn us(&self, rates: &Rates) -> f64 {
        let work = self.work_us(rates);
        match self.stream {
            Some(stream) => work.max(stream.s_us() + rates.ramp.value) + stream.tail_us(),
            None => work,
        }
    }

    pub fn over_plain(&self, rates: &Rates) -> f64 {
        self.us(rates) / self.plain_us(rates)
    }

    pub fn is_ours(&self) -> bool {
        self.who == OURS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::H100;

    fn ours(items: u64) -> Decode {
        let mut decode = Decode {
            who: OURS.to_owned(),
            tokens: 1,
            in_features: 4096,
            out_features: 4096,
            rank: 16,
            adapters: 1,
            launches: vec![Work::default()],
            conflicts: 0.0,
            partial_sectors: 0.0,
            weight_reads: None,
            stream: Some(Stream {
                steps: 4096,
                blocks: 264,
                places: 264,
                resident: 2,
                ahead: 32 << 10,
                items,
                dram_trips: 4.0,
                l2_trips: 2.0,
                shared: true,
            }),
        };
        decode.launches[0].dram_bytes = decode.compulsory_bytes();
        decode
    }

    #[test]
    fn s_is_hidden_until_it_takes_longer_than_the_weight() {
        let hidden = ours(8);
        let tail = 5.0 * L2_TRIP + DRAM_TRIP;
        let expected = hidden.work_us(&H100) + tail;
        assert!((hidden.us(&H100) - expected).abs() < 1e-9);
        let many = ours(264 * 100);
        assert!(many.us(&H100) > 10.0 * hidden.us(&H100));
        // Without adapters, only the shared tiles' sums are at the end.
        assert!((ours(0).us(&H100) - ours(0).work_us(&H100) - 4.0 * L2_TRIP).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_over_what_is_compulsory() {
        let decode = ours(8);
        let bytes = 2.0 * (4096.0 * 4096.0 + 16.0 * 8192.0 + 8192.0);
        assert_eq!(decode.compulsory_bytes(), bytes);
        assert_eq!(decode.dram_over_compulsory(), 1.0);
        assert_eq!(decode.layer(), "1x4096x4096 r16 D1");
    }

    #[test]
    fn steps_that_do_not_share_out_evenly_leave_places_idle() {
        assert_eq!(wave_efficiency(264, 264, 264), 100.0);
        assert!((wave_efficiency(265, 264, 264) - 50.19).abs() < 0.01);
        assert_eq!(wave_efficiency(132, 132, 264), 50.0);
    }
}
