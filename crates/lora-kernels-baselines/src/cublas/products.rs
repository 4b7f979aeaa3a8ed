//! A layer as a sequence of matrix products: the base product alone, and the sequence of Unsloth's
//! `matmul_lora` and `LoRA_QKV`.

/// A contiguous row-major matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// The device address of the first element.
    pub address: u64,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub columns: usize,
}

/// A factor of a product: a matrix, or its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// The matrix as stored.
    pub stored: Matrix,
    /// Whether the factor is the transpose of the stored matrix.
    pub transposed: bool,
}

impl Factor {
    /// Rows of the factor.
    pub fn rows(&self) -> usize {
        if self.transposed {
            self.stored.columns
        } else {
            self.stored.rows
        }
    }

    /// Columns of the factor.
    pub fn columns(&self) -> usize {
        if self.transposed {
            self.stored.rows
        } else {
            self.stored.columns
        }
    }
}

impl Matrix {
    /// The matrix itself as a factor.
    pub fn as_is(self) -> Factor {
        Factor {
            stored: self,
            transposed: false,
        }
    }

    /// Its transpose as a factor.
    pub fn transposed(self) -> Factor {
        Factor {
            stored: self,
            transposed: true,
        }
    }
}

/// c = alpha·a·b, or c += alpha·a·b
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// The left factor.
    pub a: Factor,
    /// The right factor.
    pub b: Factor,
    /// The result.
    pub c: Matrix,
    /// The factor of the product.
    pub alpha: f32,
    /// Whether the product is added to the result's old values.
    pub add: bool,
}

impl Product {
    fn new(c: Matrix, a: Factor, b: Factor) -> Self {
        Self {
            a,
            b,
            c,
            alpha: 1.0,
            add: false,
        }
    }

    fn scaled(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    fn adding(self, add: bool) -> Self {
        Self { add, ..self }
    }
}

/// The tensors of a call. M = tokens, K = in_features.
#[derive(Debug, Clone)]
pub struct LayerTensors {
    /// (M, K)
    pub x: Matrix,
    /// (M, K)
    pub dx: Matrix,
    /// The projections that share x.
    pub projections: Vec<Projection>,
}

/// N = out_features, r = rank.
#[derive(Debug, Clone, Copy)]
pub struct Projection {
    /// (N, K)
    pub weight: Matrix,
    /// (r, K)
    pub lora_a: Matrix,
    /// (N, r)
    pub lora_b: Matrix,
    /// The adapter's scaling.
    pub scaling: f32,
    /// (M, N)
    pub y: Matrix,
    /// (M, N)
    pub dy: Matrix,
    /// (r, K)
    pub d_lora_a: Matrix,
    /// (N, r)
    pub d_lora_b: Matrix,
    /// x·Aᵀ, (M, r)
    pub s: Matrix,
    /// dy·B, (M, r)
    pub t: Matrix,
}

/// y = x·Wᵀ, without the adapter.
pub fn plain_forward(layer: &LayerTensors) -> Vec<Product> {
    let base = |projection: &Projection| base(layer, projection);
    layer.projections.iter().map(base).collect()
}

/// dx = Σ dy·W, without the adapter.
pub fn plain_backward(layer: &LayerTensors) -> Vec<Product> {
    let numbered = layer.projections.iter().enumerate();
    numbered
        .map(|(index, projection)| base_gradient(layer, index, projection))
        .collect()
}

/// Unsloth's forward: mm, mm, addmm for every projection.
pub fn unsloth_forward(layer: &LayerTensors) -> Vec<Product> {
    let three = |projection: &Projection| {
        let expand = Product::new(
            projection.y,
            projection.s.as_is(),
            projection.lora_b.transposed(),
        );
        [
            base(layer, projection),
            shrink(layer, projection),
            expand.scaled(projection.scaling).adding(true),
        ]
    };
    layer.projections.iter().flat_map(three).collect()
}

/// Unsloth's backward. x·Aᵀ is computed again instead of kept, and dy·B is computed twice.
pub fn unsloth_backward(layer: &LayerTensors) -> Vec<Product> {
    let gradients = |projection: &Projection| {
        [
            narrow_gradient(projection),
            Product::new(
                projection.d_lora_a,
                projection.t.transposed(),
                layer.x.as_is(),
            )
            .scaled(projection.scaling),
            shrink(layer, projection),
            Product::new(
                projection.d_lora_b,
                projection.dy.transposed(),
                projection.s.as_is(),
            )
            .scaled(projection.scaling),
        ]
    };
    let input = |(index, projection): (usize, &Projection)| {
        let adapter = Product::new(layer.dx, projection.t.as_is(), projection.lora_a.as_is());
        [
            base_gradient(layer, index, projection),
            narrow_gradient(projection),
            adapter.scaled(projection.scaling).adding(true),
        ]
    };
    let mut products: Vec<_> = layer.projections.iter().flat_map(gradients).collect();
    products.extend(layer.projections.iter().enumerate().flat_map(input));
    products
}

fn base(layer: &LayerTensors, projection: &Projection) -> Product {
    Product::new(
        projection.y,
        layer.x.as_is(),
        projection.weight.transposed(),
    )
}

fn base_gradient(layer: &LayerTensors, index: usize, projection: &Projection) -> Product {
    Product::new(layer.dx, projection.dy.as_is(), projection.weight.as_is()).adding(index > 0)
}

fn shrink(layer: &LayerTensors, projection: &Projection) -> Product {
    Product::new(
        projection.s,
        layer.x.as_is(),
        projection.lora_a.transposed(),
    )
}

fn narrow_gradient(projection: &Projection) -> Product {
    Product::new(
        projection.t,
        projection.dy.as_is(),
        projection.lora_b.as_is(),
    )
}
