//! A layer as a sequence of matrix products: the base product alone, and the way Unsloth's
//! `matmul_lora` and `LoRA_QKV` go.

/// A contiguous row-major matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Of the first element, on the device.
    pub address: u64,
    /// As it lies in memory, row-major and contiguous.
    pub rows: usize,
    /// As it lies in memory.
    pub columns: usize,
}

/// A factor of a product: a matrix, or its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// What lies in memory.
    pub stored: Matrix,
    /// Whether the product takes its transpose.
    pub transposed: bool,
}

impl Factor {
    /// Of the factor.
    pub fn rows(&self) -> usize {
        if self.transposed {
            self.stored.columns
        } else {
            self.stored.rows
        }
    }

    /// Of the factor.
    pub fn columns(&self) -> usize {
        if self.transposed {
            self.stored.rows
        } else {
            self.stored.columns
        }
    }
}

impl Matrix {
    /// The matrix as a factor.
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
    /// On the left.
    pub a: Factor,
    /// On the right.
    pub b: Factor,
    /// The result.
    pub c: Matrix,
    /// Of the product.
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

/// Tensors of one call. M = tokens, K = in_features.
#[derive(Debug, Clone)]
pub struct Layer {
    /// (M, K)
    pub x: Matrix,
    /// (M, K)
    pub dx: Matrix,
    /// Those that share x.
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
    /// Of the adapter.
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

/// y = x·Wᵀ, no adapter.
pub fn plain_forward(layer: &Layer) -> Vec<Product> {
    let base = |one: &Projection| base(layer, one);
    layer.projections.iter().map(base).collect()
}

/// dx = Σ dy·W, no adapter.
pub fn plain_backward(layer: &Layer) -> Vec<Product> {
    let numbered = layer.projections.iter().enumerate();
    numbered
        .map(|(index, one)| base_gradient(layer, index, one))
        .collect()
}

/// mm, mm, addmm for every projection.
pub fn unsloth_forward(layer: &Layer) -> Vec<Product> {
    let three = |one: &Projection| {
        let expand = Product::new(one.y, one.s.as_is(), one.lora_b.transposed());
        [
            base(layer, one),
            shrink(layer, one),
            expand.scaled(one.scaling).adding(true),
        ]
    };
    layer.projections.iter().flat_map(three).collect()
}

/// x·Aᵀ is not kept but computed again, and dy·B is computed twice.
pub fn unsloth_backward(layer: &Layer) -> Vec<Product> {
    let gradients = |one: &Projection| {
        [
            narrow_gradient(one),
            Product::new(one.d_lora_a, one.t.transposed(), layer.x.as_is()).scaled(one.scaling),
            shrink(layer, one),
            Product::new(one.d_lora_b, one.dy.transposed(), one.s.as_is()).scaled(one.scaling),
        ]
    };
    let input = |(index, one): (usize, &Projection)| {
        let adapter = Product::new(layer.dx, one.t.as_is(), one.lora_a.as_is());
        [
            base_gradient(layer, index, one),
            narrow_gradient(one),
            adapter.scaled(one.scaling).adding(true),
        ]
    };
    let mut products: Vec<_> = layer.projections.iter().flat_map(gradients).collect();
    products.extend(layer.projections.iter().enumerate().flat_map(input));
    products
}

fn base(layer: &Layer, one: &Projection) -> Product {
    Product::new(one.y, layer.x.as_is(), one.weight.transposed())
}

fn base_gradient(layer: &Layer, index: usize, one: &Projection) -> Product {
    Product::new(layer.dx, one.dy.as_is(), one.weight.as_is()).adding(index > 0)
}

fn shrink(layer: &Layer, one: &Projection) -> Product {
    Product::new(one.s, layer.x.as_is(), one.lora_a.transposed())
}

fn narrow_gradient(one: &Projection) -> Product {
    Product::new(one.t, one.dy.as_is(), one.lora_b.as_is())
}
