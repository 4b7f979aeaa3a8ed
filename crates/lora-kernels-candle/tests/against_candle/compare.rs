//! Compares a call with the same formulas computed operation by operation in candle, in f64.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use lora_kernels::reference::{KeepMask, relative_error};
use lora_kernels::{Dropout, WeightLayout};
use lora_kernels_candle::{Backend, Lora, Options, Projection, lora_linears};

use crate::data::{backends, exact, numbers, values, variable};

#[derive(Debug, Clone)]
pub struct ComparisonCase {
    /// The dimensions of x; the last one is in_features.
    pub x: Vec<usize>,
    /// (out_features, rank) of each projection.
    pub projections: Vec<(usize, usize)>,
    pub dtype: DType,
    pub adapter_dtype: DType,
    pub bias: bool,
    pub weight_layout: WeightLayout,
    pub dropout: Option<Dropout>,
}

impl ComparisonCase {
    pub fn new(x: &[usize], projections: &[(usize, usize)]) -> Self {
        Self {
            x: x.to_vec(),
            projections: projections.to_vec(),
            dtype: DType::F32,
            adapter_dtype: DType::F32,
            bias: true,
            weight_layout: WeightLayout::OutIn,
            dropout: None,
        }
    }

    pub fn dtypes(self, dtype: DType, adapter_dtype: DType) -> Self {
        Self {
            dtype,
            adapter_dtype,
            ..self
        }
    }

    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    pub fn transposed(self) -> Self {
        let weight_layout = WeightLayout::InOut;
        Self {
            weight_layout,
            ..self
        }
    }

    pub fn dropout(self, p: f32, offset: u64) -> Self {
        let seed = 0x5EED_0000_0001_0203;
        let dropout = Some(Dropout { p, seed, offset });
        Self { dropout, ..self }
    }

    pub fn in_features(&self) -> usize {
        self.x[self.x.len() - 1]
    }

    pub fn layers(&self) -> Result<Vec<Projection>> {
        let layers = self.projections.iter().zip(10..);
        layers
            .map(|(&(out_features, rank), seed)| self.layer(out_features, rank, seed * 100))
            .collect()
    }

    fn layer(&self, out_features: usize, rank: usize, seed: u64) -> Result<Projection> {
        let in_features = self.in_features();
        let weight = match self.weight_layout {
            WeightLayout::OutIn => [out_features, in_features],
            WeightLayout::InOut => [in_features, out_features],
        };
        let lora = (rank > 0).then(|| {
            let a = variable(&[rank, in_features], 0.4, seed + 3, self.adapter_dtype)?;
            let b = variable(&[out_features, rank], 0.4, seed + 4, self.adapter_dtype)?;
            let scaling = 1.7 - 0.01 * seed as f32 / 100.0;
            Ok::<_, candle_core::Error>(Lora {
                a: a.into_inner(),
                b: b.into_inner(),
                scaling,
            })
        });
        let bias = self
            .bias
            .then(|| numbers(&[out_features], 1.0, seed + 2, self.dtype));
        Ok(Projection {
            weight: numbers(&weight, 0.3, seed + 1, self.dtype)?,
            bias: bias.transpose()?,
            lora: lora.transpose()?,
        })
    }

    pub fn options(&self, backend: &Backend) -> Options {
        Options {
            dropout: self.dropout,
            weight_layout: self.weight_layout,
            backend: backend.clone(),
            ..Options::default()
        }
    }

    /// The factor of each element of x on its way to the adapters, in f64.
    pub fn mask(&self) -> Result<Option<Tensor>> {
        let Some(dropout) = self.dropout else {
            return Ok(None);
        };
        let columns = self.in_features();
        let rows = self.x.iter().product::<usize>() / columns;
        let mask = KeepMask::new(rows, columns, &dropout);
        let elements = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let kept = |(row, column)| {
            if mask.keeps(row, column) {
                f64::from(dropout.keep_scale())
            } else {
                0.0
            }
        };
        let factors: Vec<f64> = elements.map(kept).collect();
        Tensor::from_vec(factors, self.x.as_slice(), &Device::Cpu).map(Some)
    }

    /// Runs forward and backward on both backends and compares them with candle in f64.
    pub fn check(&self) -> Result<()> {
        self.check_view(&self.x.clone(), &|x| Ok(x.clone()))
    }

    /// Like [`ComparisonCase::check`], with x made by `view` from a variable of `dims`.
    pub fn check_view(
        &self,
        dims: &[usize],
        view: &dyn Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        for (name, backend) in backends() {
            let what = format!("{name}: {self:?}");
            let root = variable(dims, 1.0, 1, self.dtype)?;
            let layers = self.layers()?;
            let ys = lora_linears(&view(&root)?, &layers, &self.options(&backend))?;
            let expected_root = exact(&root)?;
            let expected_layers: Vec<Exact> = layers
                .iter()
                .map(|layer| Exact::new(layer, self))
                .collect::<Result<_>>()?;
            let x = view(&expected_root)?;
            let mask = self.mask()?;
            let expected_ys = expected_layers
                .iter()
                .map(|layer| layer.forward(&x, mask.as_ref()));
            let expected_ys: Vec<Tensor> = expected_ys.collect::<Result<_>>()?;

            let (mut loss, mut expected_loss) = (Vec::new(), Vec::new());
            for (i, (y, expected)) in ys.iter().zip(&expected_ys).enumerate() {
                assert_eq!(y.dims(), expected.dims(), "y {i}, {what}");
                assert_eq!(y.dtype(), self.dtype, "y {i}, {what}");
                assert_close(y, expected, self.dtype, &format!("y {i}, {what}"))?;
                let dy = numbers(y.dims(), 1.0, 50 + i as u64, self.dtype)?;
                loss.push(
                    y.to_dtype(DType::F32)?
                        .mul(&dy.to_dtype(DType::F32)?)?
                        .sum_all()?,
                );
                expected_loss.push(expected.mul(&dy.to_dtype(DType::F64)?)?.sum_all()?);
            }
            let gradients = Tensor::stack(&loss, 0)?.sum_all()?.backward()?;
            let expected_gradients = Tensor::stack(&expected_loss, 0)?.sum_all()?.backward()?;
            let gradient = |tensor: &Tensor| gradients.get(tensor).cloned().expect("a gradient");
            let expected =
                |tensor: &Tensor| expected_gradients.get(tensor).cloned().expect("a gradient");
            assert_close(
                &gradient(&root),
                &expected(&expected_root),
                self.dtype,
                &format!("dx, {what}"),
            )?;
            for (i, (layer, exact)) in layers.iter().zip(&expected_layers).enumerate() {
                assert!(
                    gradients.get(&layer.weight).is_none(),
                    "the weight is frozen, {what}"
                );
                let (Some(lora), Some((a, b, _))) = (&layer.lora, &exact.lora) else {
                    continue;
                };
                for (name, given, exact) in [("d_lora_A", &lora.a, a), ("d_lora_B", &lora.b, b)] {
                    let given = gradient(given);
                    assert_eq!(given.dtype(), self.adapter_dtype, "{name} {i}, {what}");
                    assert_close(
                        &given,
                        &expected(exact),
                        self.dtype,
                        &format!("{name} {i}, {what}"),
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// A projection in f64.
pub struct Exact {
    /// (in_features, out_features)
    weight: Tensor,
    bias: Option<Tensor>,
    /// A, B and the scaling. A and B have the values to which they are rounded when used.
    pub lora: Option<(Var, Var, f64)>,
}

impl Exact {
    pub fn new(layer: &Projection, case: &ComparisonCase) -> Result<Self> {
        let weight = layer.weight.to_dtype(DType::F64)?;
        let lora = layer.lora.as_ref().map(|lora| {
            let used = |tensor: &Tensor| exact(&tensor.detach().to_dtype(case.dtype)?);
            Ok::<_, candle_core::Error>((used(&lora.a)?, used(&lora.b)?, f64::from(lora.scaling)))
        });
        Ok(Self {
            weight: match case.weight_layout {
                WeightLayout::OutIn => weight.t()?,
                WeightLayout::InOut => weight,
            },
            bias: layer
                .bias
                .as_ref()
                .map(|bias| bias.to_dtype(DType::F64))
                .transpose()?,
            lora: lora.transpose()?,
        })
    }

    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let x = x.reshape(((), x.dim(D::Minus1)?))?;
        dims.pop();
        dims.push(self.weight.dim(1)?);
        let mut y = x.matmul(&self.weight)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some((a, b, scaling)) = &self.lora {
            let dropped = match mask {
                Some(mask) => x.mul(&mask.reshape(x.shape())?)?,
                None => x,
            };
            y = (y + (dropped.matmul(&a.t()?)?.matmul(&b.t()?)? * *scaling)?)?;
        }
        y.reshape(dims)
    }
}

/// Checks the relative error of a whole tensor. Every element is a sum of f32 products, for which
/// 1e-5 is enough at these sizes. In 16-bit types, S or T and then the element itself are each
/// rounded by at most 2⁻⁸ (bf16) or 2⁻¹¹ (f16) of their values.
pub fn assert_close(given: &Tensor, expected: &Tensor, dtype: DType, what: &str) -> Result<()> {
    let bound = match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    };
    let error = relative_error(&values(given)?, &values(expected)?);
    assert!(
        error <= bound,
        "relative error {error:e}, {bound:e} is allowed: {what}"
    );
    Ok(())
}
