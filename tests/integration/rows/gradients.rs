//! The typed table of gradients: a forward and a backward with it, and what it refuses.

use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::{
    AdapterTable, Backward, BackwardPlan, BackwardProjection, DType, Error, Flags, Forward,
    ForwardPlan, ForwardProjection, GradientTable, MatMut, MatRef, Problem, Projection,
    RawTableGradients, Role, RowAdapters, RowLists, Rows, TableLora, TableWithGradients,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::common::device::gpu;

const TOKENS: usize = 6;
const IN: usize = 40;
const OUT: [usize; 2] = [24, 9];
const LARGEST: [usize; 2] = [20, 8];
/// Slot 3 is empty.
const RANKS: [Option<[usize; 2]>; 4] = [Some([3, 8]), Some([20, 0]), Some([16, 5]), None];

fn problem() -> Problem {
    let projection = |(out_features, rank)| Projection { out_features, rank };
    let projections: Vec<_> = OUT.into_iter().zip(LARGEST).map(projection).collect();
    let rows = RowAdapters::Table {
        slots: RANKS.len(),
        per_row: 2,
    };
    Problem::sharing_x(TOKENS, IN, &projections, DType::F32)
        .and_then(|problem| problem.with_row_adapters(rows))
        .expect("sizes in range")
}

/// Numbers of a matrix, on host and device.
struct Numbers {
    host: Vec<f32>,
    device: CudaSlice<f32>,
}

impl Numbers {
    fn new(random: &mut SmallRng, count: usize) -> Self {
        let host: Vec<f32> = (0..count).map(|_| random.random_range(-1.0..1.0)).collect();
        let device = gpu().stream.clone_htod(&host).expect("memory");
        Self { host, device }
    }

    fn at(&self, index: usize) -> f64 {
        self.host[index].into()
    }
}

/// A layer, a table, and a batch with its saved S.
struct Trained {
    x: Numbers,
    dy: Vec<Numbers>,
    weights: Vec<Numbers>,
    /// (A, B, scaling) of each slot and projection
    adapters: Vec<Vec<Option<(Numbers, Numbers, f32)>>>,
    table: AdapterTable,
    lists: RowLists,
    named: [Vec<(usize, f32)>; TOKENS],
}

impl Trained {
    fn new() -> Self {
        let random = &mut SmallRng::seed_from_u64(5);
        let stream = &gpu().stream;
        let mut table = AdapterTable::new(stream, &problem()).expect("a table");
        let mut adapters = Vec::new();
        for (slot, ranks) in RANKS.iter().enumerate() {
            let mut parts = Vec::new();
            for (&rank, n) in ranks.iter().flatten().zip(OUT) {
                parts.push((rank > 0).then(|| {
                    let a = Numbers::new(random, rank * IN);
                    (a, Numbers::new(random, n * rank), 0.5 + slot as f32)
                }));
            }
            if let Some(ranks) = ranks {
                let on_device = parts.iter().zip(ranks).map(|(part, &rank)| {
                    let (a, b, scaling) = part.as_ref()?;
                    Some(TableLora {
                        a: a.device.clone(),
                        b: b.device.clone(),
                        rank,
                        scaling: *scaling,
                    })
                });
                table.replace(slot, on_device.collect()).expect("a slot");
            }
            adapters.push(parts);
        }
        let named = [
            vec![(0, 1.0)],
            vec![],
            vec![(2, -0.5), (0, 2.0)],
            vec![(1, 1.5)],
            vec![(0, 0.0), (1, 1.0)],
            vec![(2, 1.0)],
        ];
        let lists: Vec<_> = named.iter().map(Vec::as_slice).collect();
        Self {
            x: Numbers::new(random, TOKENS * IN),
            dy: OUT.map(|n| Numbers::new(random, TOKENS * n)).into(),
            weights: OUT.map(|n| Numbers::new(random, n * IN)).into(),
            adapters,
            lists: table.lists(&lists).expect("slots with adapters"),
            table,
            named,
        }
    }

    /// A forward, then a backward, of which dx is returned.
    fn step(&self, problem: &Problem, gradients: &mut GradientTable) -> Result<Vec<f32>, Error> {
        let (stream, kernels) = (&gpu().stream, &gpu().kernels);
        let forward = ForwardPlan::new(problem, kernels.props())?;
        let backward = BackwardPlan::new(problem, kernels.props())?;
        let buffer = |bytes: usize| stream.clone_htod(&vec![0xFF_u8; bytes.max(1)]);
        let mut saved = buffer(forward.saved().bytes()).expect("memory");
        let most = forward.workspace_bytes().max(backward.workspace_bytes());
        let mut workspace = buffer(most).expect("memory");
        let slots = stream.clone_htod(self.lists.slots()).expect("memory");
        let weights = stream.clone_htod(self.lists.weights()).expect("memory");
        let mut y: Vec<_> = { OUT.iter() }
            .map(|n| stream.alloc_zeros::<f32>(TOKENS * n).expect("memory"))
            .collect();
        let mut flags = Flags::new(stream, forward.flags_bytes())?;
        let weight = |i: usize| MatRef::new(self.weights[i].device.as_view(), OUT[i], IN);
        let projections = y.iter_mut().enumerate().map(|(i, y)| ForwardProjection {
            weight: weight(i),
            bias: None,
            lora: None,
            y: MatMut::new(y.as_view_mut(), TOKENS, OUT[i]),
        });
        let record = kernels.forward(
            stream,
            &forward,
            Forward::<f32> {
                x: MatRef::new(self.x.device.as_view(), TOKENS, IN),
                projections: projections.collect(),
                dropout: None,
                saved: saved.as_view_mut().into(),
                workspace: Some(workspace.as_view_mut()),
                rows: Some(Rows {
                    table: &self.table,
                    slots: slots.as_view(),
                    weights: Some(weights.as_view()),
                }),
                flags: Some(&mut flags),
            },
        )?;
        let mut dx = stream.alloc_zeros::<f32>(TOKENS * IN).expect("memory");
        let projections = (0..OUT.len()).map(|i| BackwardProjection {
            dy: MatRef::new(self.dy[i].device.as_view(), TOKENS, OUT[i]),
            weight: weight(i),
            lora: None,
            gradients: None,
        });
        kernels.backward(
            stream,
            &backward,
            Backward::<f32> {
                x: MatRef::new(self.x.device.as_view(), TOKENS, IN),
                projections: projections.collect(),
                dropout: None,
                saved: saved.as_view().into(),
                record,
                dx: Some(MatMut::new(dx.as_view_mut(), TOKENS, IN)),
                workspace: Some(workspace.as_view_mut()),
                rows: Some(Rows {
                    table: TableWithGradients {
                        adapters: &self.table,
                        gradients,
                    },
                    slots: slots.as_view(),
                    weights: Some(weights.as_view()),
                }),
            },
        )?;
        Ok(stream.clone_dtoh(&dx).expect("dx"))
    }

    /// (dA, dB) of an adapter in a projection, in f64
    fn expected(&self, slot: usize, projection: usize) -> (Vec<f64>, Vec<f64>) {
        let part = self.adapters[slot][projection].as_ref();
        let (a, b, scaling) = part.expect("an adapter");
        let (n, rank) = (OUT[projection], a.host.len() / IN);
        let (mut da, mut db) = (vec![0.0; rank * IN], vec![0.0; n * rank]);
        let named = self.named.iter().enumerate();
        for (row, weight) in named.flat_map(|(row, list)| {
            let own = list.iter().filter(move |&&(named, _)| named == slot);
            own.map(move |&(_, weight)| (row, f64::from(weight)))
        }) {
            let factor = f64::from(*scaling) * weight;
            for r in 0..rank {
                let dy = |c: usize| self.dy[projection].at(row * n + c);
                let t: f64 = (0..n).map(|c| dy(c) * b.at(c * rank + r)).sum();
                let s: f64 = { 0..IN }
                    .map(|k| self.x.at(row * IN + k) * a.at(r * IN + k))
                    .sum();
                for k in 0..IN {
                    da[r * IN + k] += factor * t * self.x.at(row * IN + k);
                }
                for c in 0..n {
                    db[c * rank + r] += factor * s * dy(c);
                }
            }
        }
        (da, db)
    }

    /// Compares all gradients with `times` the right ones.
    #[track_caller]
    fn check(&self, gradients: &GradientTable, slots: &[usize], times: f64) {
        for (&slot, projection) in slots.iter().flat_map(|slot| [(slot, 0), (slot, 1)]) {
            let given = gradients.get::<f32>(slot, projection).expect("f32");
            let Some(given) = given else {
                assert!(
                    self.adapters[slot][projection].is_none(),
                    "{slot} {projection}"
                );
                continue;
            };
            let (da, db) = self.expected(slot, projection);
            assert_eq!(given.rank, RANKS[slot].unwrap()[projection]);
            for (given, expected) in [(given.a, da), (given.b, db)] {
                let given = gpu().stream.clone_dtoh(&given).expect("gradients");
                assert_eq!(given.len(), expected.len());
                for (given, expected) in given.iter().zip(&expected) {
                    let difference = (f64::from(*given) - times * expected).abs();
                    assert!(difference < 1e-3, "{slot} {projection}: {given} {expected}");
                }
            }
        }
    }
}

#[test]
fn each_adapter_gets_its_own() {
    let trained = Trained::new();
    let plain = problem();
    let mut gradients = GradientTable::new(&gpu().stream, &plain).expect("a table");
    // Slot 1 is frozen: its rows have their part of dx all the same.
    for slot in [0, 2] {
        gradients
            .insert(&trained.table, slot)
            .expect("an adapter there");
    }
    let frozen = trained.step(&plain, &mut gradients).expect("a step");
    trained.check(&gradients, &[0, 2], 1.0);
    gradients
        .insert(&trained.table, 1)
        .expect("an adapter there");
    let all = trained.step(&plain, &mut gradients).expect("a step");
    trained.check(&gradients, &[0, 1, 2], 1.0);
    assert_eq!(frozen, all);

    let adding = plain
        .with_accumulate(Role::DLoraA, true)
        .and_then(|problem| problem.with_accumulate(Role::DLoraB, true))
        .expect("outputs");
    trained.step(&adding, &mut gradients).expect("a step");
    trained.check(&gradients, &[0, 1, 2], 2.0);
    gradients.zero().expect("zeros");
    trained.check(&gradients, &[0, 1, 2], 0.0);
    trained.step(&adding, &mut gradients).expect("a step");
    trained.check(&gradients, &[0, 1, 2], 1.0);

    // In memory of somebody else, whose rows are further apart
    let (rank, stride) = (3, IN + 3);
    let a = gpu()
        .stream
        .clone_htod(&vec![7.0_f32; rank * stride])
        .unwrap();
    let b = gpu().stream.clone_htod(&[7.0_f32; OUT[0] * 3]).unwrap();
    let part = RawTableGradients {
        a: address(&a),
        a_stride: stride as i64,
        b: address(&b),
        b_stride: rank as i64,
        rank,
    };
    // SAFETY: the memory stays until the results are read.
    unsafe { gradients.replace_raw(0, &[Some(part), None]) }.expect("a slot");
    assert!(gradients.get::<f32>(0, 0).expect("f32").is_none());
    trained.step(&problem(), &mut gradients).expect("a step");
    let (da, db) = trained.expected(0, 0);
    let (a, b) = (
        gpu().stream.clone_dtoh(&a).unwrap(),
        gpu().stream.clone_dtoh(&b).unwrap(),
    );
    for (at, &given) in a.iter().enumerate() {
        let (row, column) = (at / stride, at % stride);
        let expected = if column < IN {
            da[row * IN + column]
        } else {
            7.0
        };
        assert!((f64::from(given) - expected).abs() < 1e-3, "{at}");
    }
    for (given, expected) in b.iter().zip(db) {
        assert!((f64::from(*given) - expected).abs() < 1e-3);
    }
}

fn address(slice: &CudaSlice<f32>) -> u64 {
    use lora_kernels::cudarc::driver::DevicePtr;
    slice.device_ptr(&gpu().stream).0
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut trained = Trained::new();
    let stream = &gpu().stream;
    let mut gradients = GradientTable::new(stream, &problem()).expect("a table");
    let error = gradients.insert(&trained.table, 3).unwrap_err();
    assert!(
        matches!(error, Error::NoAdapterThere { slot: 3, .. }),
        "{error}"
    );
    let error = gradients.insert(&trained.table, 4).unwrap_err();
    assert!(matches!(error, Error::NoSlot { given: 4, .. }), "{error}");
    gradients
        .insert(&trained.table, 0)
        .expect("an adapter there");
    let error = gradients.get::<half::bf16>(0, 0).unwrap_err();
    assert!(matches!(error, Error::PlannedDType { .. }), "{error}");
    assert!(gradients.get::<f32>(0, 2).expect("f32").is_none());
    assert!(gradients.get::<f32>(9, 0).expect("f32").is_none());

    // Another adapter takes the slot: dA would be written past its end.
    trained.step(&problem(), &mut gradients).expect("a step");
    let part = |rank: usize, projection: usize| TableLora {
        a: stream.alloc_zeros::<f32>(rank * IN).unwrap(),
        b: stream.alloc_zeros::<f32>(OUT[projection] * rank).unwrap(),
        rank,
        scaling: 1.0,
    };
    let wider = vec![Some(part(4, 0)), Some(part(8, 1))];
    trained.table.replace(0, wider).expect("a slot");
    let error = trained.step(&problem(), &mut gradients).unwrap_err();
    assert!(
        matches!(
            error,
            Error::GradientRank {
                slot: 0,
                projection: 0,
                given: 3,
                adapter: 4
            }
        ),
        "{error}"
    );
    gradients
        .insert(&trained.table, 0)
        .expect("an adapter there");
    trained.step(&problem(), &mut gradients).expect("a step");
    // Nobody is there to write to them.
    trained.table.remove(0).expect("a slot");
    trained.step(&problem(), &mut gradients).expect("a step");
    assert!(trained.table.take_wrong().expect("a word"));
    gradients.remove(0).expect("a slot");
    assert!(gradients.get::<f32>(0, 0).expect("f32").is_none());

    let other = Problem::new(TOKENS, IN, 8, 4, DType::F32).unwrap();
    let rows = RowAdapters::Table {
        slots: RANKS.len(),
        per_row: 2,
    };
    let other = other.with_row_adapters(rows).unwrap();
    let mut others = GradientTable::new(stream, &other).expect("a table");
    let error = others.insert(&trained.table, 1).unwrap_err();
    assert!(matches!(error, Error::OtherTable { .. }), "{error}");
    let error = trained.step(&problem(), &mut others).unwrap_err();
    assert!(matches!(error, Error::OtherTable { .. }), "{error}");
}
