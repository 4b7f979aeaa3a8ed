//! A case filled with numbers, and its runs on the device.

use lora_kernels::{BackwardPlan, Error, ForwardPlan, Role};

use super::call::{BackwardCall, ForwardCall};
pub use super::case::LayerCase;
use super::check::bits;
use super::data::{Placed, Placement};
use super::device::{Number, gpu};

/// A layer with adapters of type `A`.
#[derive(Clone)]
pub struct TestLayer<T, A = T> {
    pub case: LayerCase,
    pub x: Placed<T>,
    pub projections: Vec<Projection<T, A>>,
    /// dx before a backward; `None` if dx is not computed.
    pub dx: Option<Placed<T>>,
}

#[derive(Clone)]
pub struct Projection<T, A> {
    pub weight: Placed<T>,
    pub bias: Option<Placed<T>>,
    pub lora: Option<Lora<A>>,
    pub dy: Placed<T>,
    /// y before a forward.
    pub y: Placed<T>,
    /// The adapter's gradients before a backward.
    pub gradients: Option<Lora<A>>,
}

/// lora_A and lora_B, or their gradients.
#[derive(Clone)]
pub struct Lora<A> {
    pub a: Placed<A>,
    pub b: Placed<A>,
}

/// The results of a forward.
pub struct ForwardRun<T> {
    pub y: Vec<Placed<T>>,
    pub saved: Vec<u8>,
}

/// The results of a backward.
pub struct BackwardRun<T, A = T> {
    pub dx: Option<Placed<T>>,
    pub gradients: Vec<Option<Lora<A>>>,
}

impl<T: Number, A: Number> TestLayer<T, A> {
    /// Random numbers scaled so that every sum is around 1 for all sizes. Nothing overflows in f16
    /// or vanishes beside another term.
    pub fn random(case: &LayerCase) -> Self {
        let per = |count: usize| 1.0 / count as f32;
        let projection = |i: usize| {
            let adapted = case.projections[i].rank > 0;
            Projection {
                weight: case.random(i, Role::Weight, per(case.in_features)),
                bias: case.bias.then(|| case.random(i, Role::Bias, 1.0)),
                lora: adapted.then(|| Lora {
                    a: case.random(i, Role::LoraA, per(case.in_features)),
                    b: case.random(i, Role::LoraB, per(case.projections[i].rank)),
                }),
                dy: case.random(i, Role::DY, per(case.projections[i].out_features)),
                y: case.output(i, Role::Y),
                gradients: adapted.then(|| Lora {
                    a: case.output(i, Role::DLoraA),
                    b: case.output(i, Role::DLoraB),
                }),
            }
        };
        Self {
            x: case.random(0, Role::X, 1.0),
            projections: (0..case.projections.len()).map(projection).collect(),
            dx: case.input_gradient.then(|| case.output(0, Role::DX)),
            case: case.clone(),
        }
    }

    /// The same numbers in other placements.
    pub fn placed_as(&self, case: LayerCase) -> Self {
        let lora = |i: usize, lora: &Lora<A>, [a, b]: [Role; 2]| Lora {
            a: lora.a.moved(case.placement_of(i, a)),
            b: lora.b.moved(case.placement_of(i, b)),
        };
        let projection = |(i, from): (usize, &Projection<T, A>)| {
            let to = |tensor| case.placement_of(i, tensor);
            Projection {
                weight: from.weight.moved(to(Role::Weight)),
                bias: from.bias.as_ref().map(|bias| bias.moved(to(Role::Bias))),
                lora: (from.lora.as_ref()).map(|from| lora(i, from, [Role::LoraA, Role::LoraB])),
                dy: from.dy.moved(to(Role::DY)),
                y: from.y.moved(to(Role::Y)),
                gradients: (from.gradients.as_ref())
                    .map(|from| lora(i, from, [Role::DLoraA, Role::DLoraB])),
            }
        };
        Self {
            x: self.x.moved(case.placement_of(0, Role::X)),
            projections: self
                .projections
                .iter()
                .enumerate()
                .map(projection)
                .collect(),
            dx: self
                .dx
                .as_ref()
                .map(|dx| dx.moved(case.placement_of(0, Role::DX))),
            case,
        }
    }

    pub fn moved(&self, placement: Placement) -> Self {
        self.placed_as(self.case.clone().placed(placement))
    }

    /// The only projection, or the first.
    pub fn first(&mut self) -> &mut Projection<T, A> {
        &mut self.projections[0]
    }

    pub fn lora(&mut self) -> &mut Lora<A> {
        self.projections[0]
            .lora
            .as_mut()
            .expect("the first projection is adapted")
    }

    pub fn forward_plan(&self) -> ForwardPlan {
        self.case.forward_plan_with::<T, A>()
    }

    pub fn backward_plan(&self) -> BackwardPlan {
        self.case.backward_plan_with::<T, A>()
    }

    pub fn forward(&self) -> ForwardRun<T> {
        self.try_forward(&self.forward_plan())
            .expect("forward runs")
    }

    pub fn backward(&self, saved: &[u8]) -> BackwardRun<T, A> {
        self.try_backward(&self.backward_plan(), saved)
            .expect("backward runs")
    }

    pub fn try_forward(&self, plan: &ForwardPlan) -> Result<ForwardRun<T>, Error> {
        let mut call = ForwardCall::new(self, plan);
        call.run(&gpu().stream, plan)?;
        Ok(call.read_back())
    }

    pub fn try_backward(
        &self,
        plan: &BackwardPlan,
        saved: &[u8],
    ) -> Result<BackwardRun<T, A>, Error> {
        let mut call = BackwardCall::new(self, plan, saved);
        call.run(&gpu().stream, plan)?;
        let run = call.read_back();
        assert!(
            call.saved.read_back("saved") == saved,
            "backward changed what forward saved"
        );
        Ok(run)
    }

    /// Everything that forward and backward write, with names.
    pub fn written(&self) -> Vec<(String, Vec<u8>)> {
        let forward = self.forward();
        let backward = self.backward(&forward.saved);
        [forward.bits(), backward.bits()].concat()
    }
}

impl<T: Number> ForwardRun<T> {
    pub fn bits(&self) -> Vec<(String, Vec<u8>)> {
        let y = self
            .y
            .iter()
            .enumerate()
            .map(|(i, y)| (format!("y {i}"), bits(y)));
        y.chain([("saved".to_owned(), self.saved.clone())])
            .collect()
    }
}

impl<T: Number, A: Number> BackwardRun<T, A> {
    pub fn dx(&self) -> &Placed<T> {
        self.dx.as_ref().expect("dx was wanted")
    }

    /// The gradients of the first projection.
    pub fn lora(&self) -> &Lora<A> {
        self.gradients[0]
            .as_ref()
            .expect("the first projection is adapted")
    }

    pub fn bits(&self) -> Vec<(String, Vec<u8>)> {
        let dx = self.dx.iter().map(|dx| ("dx".to_owned(), bits(dx)));
        let adapted = self.gradients.iter().enumerate();
        let adapted = adapted.filter_map(|(i, gradients)| Some((i, gradients.as_ref()?)));
        let gradients = adapted.flat_map(|(i, Lora { a, b })| {
            [
                (format!("d_lora_A {i}"), bits(a)),
                (format!("d_lora_B {i}"), bits(b)),
            ]
        });
        dx.chain(gradients).collect()
    }
}

/// Panics at the first result that differs.
#[track_caller]
pub fn assert_same_bits(given: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)], what: &str) {
    assert_eq!(given.len(), expected.len(), "{what}");
    for ((name, given), (expected_name, expected)) in given.iter().zip(expected) {
        assert_eq!(name, expected_name, "{what}");
        let at = given
            .iter()
            .zip(expected)
            .position(|(given, expected)| given != expected);
        assert!(given == expected, "{name}, from byte {at:?} on: {what}");
    }
}
