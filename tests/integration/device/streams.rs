//! Concurrent calls on two streams, each with its own memory, don't affect each other.

use crate::common::call::{BackwardCall, ForwardCall};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};

/// Pairs of different sizes, and a pair of the same size: the same kernels with other arguments.
fn pairs() -> Vec<[LayerCase; 2]> {
    let small = LayerCase::new(70, 1032, 72, 8)
        .multiprocessors(1000)
        .dropout(0.1);
    let shared = LayerCase::sharing_x(130, 136, &[(72, 24), (40, 3)]).multiprocessors(1);
    vec![
        [small.clone(), shared],
        [small.clone(), small.scaling(-0.7).dropout(0.4)],
    ]
}

fn two_streams_at_once_give_the_bits_of_one<T: Number>() {
    let context = gpu().kernels.context();
    let streams = [(); 2].map(|()| context.new_stream().expect("a stream"));
    for cases in pairs() {
        let layers = cases.map(|case| TestLayer::<T>::random(&case));
        let alone = [0, 1].map(|i| layers[i].forward());
        let expected =
            [0, 1].map(|i| [alone[i].bits(), layers[i].backward(&alone[i].saved).bits()].concat());

        let plans = [0, 1].map(|i| (layers[i].forward_plan(), layers[i].backward_plan()));
        let mut forward = [0, 1].map(|i| ForwardCall::new(&layers[i], &plans[i].0));
        let mut backward =
            [0, 1].map(|i| BackwardCall::new(&layers[i], &plans[i].1, &alone[i].saved));
        gpu().stream.synchronize().expect("the device is well");
        for _ in 0..3 {
            for i in [0, 1] {
                forward[i]
                    .run(&streams[i], &plans[i].0)
                    .expect("forward runs");
            }
            for i in [0, 1] {
                let mut arguments = backward[i].arguments();
                arguments.saved = forward[i].saved.view().into();
                let run = gpu().kernels.backward(&streams[i], &plans[i].1, arguments);
                run.expect("backward runs");
            }
        }
        for (i, stream) in streams.iter().enumerate() {
            stream.synchronize().expect("the device is well");
            let given = [
                forward[i].read_back().bits(),
                backward[i].read_back().bits(),
            ]
            .concat();
            assert_same_bits(&given, &expected[i], &format!("stream {i}"));
        }
    }
}

for_each_dtype!(two_streams_at_once_give_the_bits_of_one);
