//! Figures derived from the counts.

use crate::document::{Counted, Plan, Planned, Product, Run, Shape};

impl Shape {
    /// `8192x4096x4096 r16 bf16 dropout`: tokens, in_features, out_features.
    pub fn name(&self) -> String {
        format!(
            "{}x{}x{} r{} {}{}",
            self.tokens,
            self.in_features,
            self.out_features,
            self.rank,
            self.dtype,
            if self.dropout { " dropout" } else { "" }
        )
    }
}

impl Run {
    pub fn name(&self) -> String {
        format!("{}/{}", self.shape.name(), self.pass)
    }

    pub fn sum(&self, of: impl Fn(&Counted) -> f64) -> f64 {
        self.launches.iter().map(of).sum()
    }

    /// MMA work beyond the formulas', in per cent of the product with the weight. `None` if no
    /// tensor core is used.
    pub fn extra_mma_percent(&self) -> Option<f64> {
        let done = self.sum(|launch| launch.mma_flops);
        (done > 0.0).then(|| 100.0 * (done - self.algorithm_flops as f64) / self.base_flops as f64)
    }

    /// MMA work divided by that of the formulas.
    pub fn mma_over_formulas(&self) -> f64 {
        self.sum(|launch| launch.mma_flops) / self.algorithm_flops as f64
    }

    pub fn sectors_over_minimum(&self) -> f64 {
        self.sum(|launch| launch.sectors) * 32.0 / self.compulsory_bytes as f64
    }
}

impl Plan {
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.device, self.shape.name(), self.pass)
    }

    pub fn bytes(&self) -> u64 {
        self.launches
            .iter()
            .map(|launch| launch.read + launch.written)
            .sum()
    }

    /// The launch that computes the product with the weight.
    pub fn product(&self) -> Option<(&Planned, &Product)> {
        self.launches
            .iter()
            .find_map(|launch| Some((launch, launch.product.as_ref()?)))
    }
}

impl Product {
    pub fn reads_over_compulsory(&self) -> f64 {
        self.read as f64 / self.compulsory_read as f64
    }

    /// Tiles in per cent of those that all multiprocessors could compute while the busiest one
    /// computes its own.
    pub fn wave_efficiency(&self) -> f64 {
        let busy = self.multiprocessors.min(self.blocks).max(1);
        let most = self.tiles.div_ceil(busy);
        100.0 * self.tiles as f64 / (most * self.multiprocessors).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_that_are_not_full() {
        let mut product = Product {
            tile: (128, 256, 64),
            tiles: 1024,
            blocks: 132,
            multiprocessors: 132,
            raster: String::new(),
            read: 29,
            written: 0,
            compulsory_read: 10,
            compulsory_written: 0,
        };
        assert_eq!((product.wave_efficiency() * 10.0).round(), 970.0);
        product.blocks = 128;
        assert_eq!((product.wave_efficiency() * 10.0).round(), 970.0);
        (product.tiles, product.blocks) = (132, 264);
        assert_eq!(product.wave_efficiency(), 100.0);
        assert_eq!(product.reads_over_compulsory(), 2.9);
    }
}
