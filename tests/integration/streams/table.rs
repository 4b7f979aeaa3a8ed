//! Every call, with memory of each kind of stream, on each kind of stream, in one thread or two,
//! and every way to end the memory's use: the results are those of a call that waits for
//! everything.

use std::sync::Arc;
use std::thread;

use lora_kernels::Kernels;
use lora_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream};

use super::calls::{Call, Inputs};
use crate::common::device::gpu;

/// A stream of the kernels' context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Default,
    New,
    PerThread,
    /// Of a second object for the same context, which counts its own streams.
    DefaultOfOther,
    NewOfOther,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Default,
        Kind::New,
        Kind::PerThread,
        Kind::DefaultOfOther,
        Kind::NewOfOther,
    ];

    fn stream(self, contexts: &[Arc<CudaContext>; 2]) -> Arc<CudaStream> {
        let [context, other] = contexts;
        match self {
            Kind::Default => context.default_stream(),
            Kind::New => context.new_stream().expect("a stream"),
            Kind::PerThread => context.per_thread_stream(),
            Kind::DefaultOfOther => other.default_stream(),
            Kind::NewOfOther => other.new_stream().expect("a stream"),
        }
    }
}

/// What happens to the inputs once the call has returned.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Freed,
    FreedByAnotherThread,
    /// After the last further stream was dropped: from then on cudarc waits for nothing.
    FreedAfterStreams,
    Overwritten,
}

impl Ending {
    const ALL: [Ending; 4] = [
        Ending::Freed,
        Ending::FreedByAnotherThread,
        Ending::FreedAfterStreams,
        Ending::Overwritten,
    ];

    fn apply(self, mut inputs: Inputs, stream: Arc<CudaStream>) {
        match self {
            Ending::Freed => drop(inputs),
            Ending::FreedByAnotherThread => elsewhere(|| {
                let context = inputs.x.context().clone();
                context.bind_to_thread().expect("a context");
                drop(inputs);
            }),
            Ending::FreedAfterStreams => {
                drop(stream);
                drop(inputs);
            }
            Ending::Overwritten => {
                for memory in inputs.each() {
                    let home = memory.stream().clone();
                    let nans = vec![f32::NAN; memory.len()];
                    home.memcpy_htod(&nans, memory).expect("a copy");
                }
            }
        }
    }
}

/// Whether to make the call in another thread: where a stream is the thread's own, both.
fn threads(home: Kind, on: Kind) -> impl Iterator<Item = bool> {
    let own = [home, on].contains(&Kind::PerThread);
    [false, true].into_iter().take(1 + usize::from(own))
}

/// Runs in another thread, and waits for that thread, but not for the device.
fn elsewhere<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join().expect("the thread does well"))
}

/// The numbers of results, read on their own stream.
fn read(results: &[CudaSlice<f32>]) -> Vec<Vec<u32>> {
    let results = results.iter().map(|result| {
        let read = result.stream().clone_dtoh(result).expect("a copy");
        read.into_iter().map(f32::to_bits).collect()
    });
    results.collect()
}

/// The results of a call on the default stream that waits for everything.
fn expected(call: Call, kernels: &Arc<Kernels>) -> Vec<Vec<u32>> {
    let stream = kernels.context().default_stream();
    let inputs = Inputs::on(&stream);
    stream.synchronize().expect("the device does well");
    let results = call.run(kernels, &stream, &inputs).expect("the call runs");
    stream.synchronize().expect("the device does well");
    read(&results)
}

fn the_results_are_those_of_a_call_that_waits() {
    let kernels = &gpu().kernels;
    let other = lora_kernels::context(0).expect("a second object");
    let contexts = [kernels.context().clone(), other];
    for call in Call::ALL {
        let expected = expected(call, kernels);
        for home in Kind::ALL {
            for on in Kind::ALL {
                for ending in Ending::ALL {
                    for in_thread in threads(home, on) {
                        // A context's first new stream waits for everything before it.
                        let (stream, home_stream) = (on.stream(&contexts), home.stream(&contexts));
                        let inputs = Inputs::on(&home_stream);
                        drop(home_stream);
                        let run = || call.run(kernels, &stream, &inputs);
                        let results = if in_thread { elsewhere(run) } else { run() };
                        let scenario = format!(
                            "{call:?} on {on:?}, memory of {home:?}, {ending:?}, in another thread: {in_thread}"
                        );
                        let results = results.unwrap_or_else(|error| panic!("{scenario}: {error}"));
                        ending.apply(inputs, stream);
                        assert_eq!(read(&results), expected, "{scenario}");
                    }
                }
            }
        }
    }
}

/// A weight that two streams read, of which cudarc remembers the last.
fn memory_that_two_streams_read_outlives_both() {
    let kernels = &gpu().kernels;
    let context = kernels.context();
    for call in Call::ALL {
        let expected = expected(call, kernels);
        let streams = [(); 3].map(|()| context.new_stream().expect("a stream"));
        let inputs = Inputs::on(&context.default_stream());
        let results = streams.each_ref().map(|stream| {
            let results = call.run(kernels, stream, &inputs);
            results.unwrap_or_else(|error| panic!("{call:?}: {error}"))
        });
        drop(inputs);
        for results in results.iter().rev() {
            assert_eq!(read(results), expected, "{call:?}");
        }
    }
}

super::late!(
    the_results_are_those_of_a_call_that_waits,
    memory_that_two_streams_read_outlives_both,
);
