//! Reads, computes and writes at the same time, within bounded memory.
//!
//! One thread reads the pieces of all jobs in order. Each lane of the engine has a thread of its
//! own and computes one piece at a time. The calling thread takes the results in order and writes
//! them. As the pieces don't depend on the number of lanes, neither do the results.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use lora_kernels::MergeReport;
use lora_kernels_adapters::Tensor;

use super::buffer::Pool;
use super::compute::{Input, Outcome, Pass, compute};
use super::engine::{Engine, Lane};
use super::factors;
use super::job::{Job, Piece};
use super::product::Across;
use super::wide::Scales;
use crate::failure::Failure;
use crate::threads::spawn;

/// Pieces that are read ahead of those that are computed.
const AHEAD: usize = 2;

type Answer = Result<Outcome, Failure>;

/// A piece on its way to a lane.
struct Task<'j, 'a> {
    job: &'j Job<'a>,
    piece: Piece,
    pass: Pass,
    input: Input,
    answer: Sender<Answer>,
}

/// The results of a run, in the order of the jobs and of their pieces.
pub struct Results<'p> {
    answers: Receiver<Receiver<Answer>>,
    scales: Sender<Arc<[f64]>>,
    pool: &'p Pool,
    blocks: usize,
}

/// Computes `jobs`. `write` takes the results of every job, in this order.
pub fn run<'j, 'a: 'j, R>(
    engine: &Engine,
    jobs: &[&'j Job<'a>],
    write: impl FnOnce(Results<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let blocks = engine.blocks_at_once();
    let factors = jobs.iter().map(|job| job.factor_bytes()).max();
    let mut lanes = engine.lanes(factors.unwrap_or_default())?;
    let pieces = jobs.iter().flat_map(|job| job.grid.pieces(blocks));
    lanes.truncate(pieces.take(lanes.len()).count());
    let largest = jobs.iter().map(|job| job.grid.largest_piece(blocks)).max();
    let pool = &Pool::new(
        largest.unwrap_or_default() * size_of::<f32>(),
        engine.context(),
    );
    let (answers, taken) = sync_channel(lanes.len() + AHEAD);
    let (tasks, queue) = channel();
    let (scales, gate) = channel();
    let queue = Arc::new(Mutex::new(queue));
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(lanes.len() + 1);
        for lane in lanes {
            let queue = queue.clone();
            threads.push(spawn(scope, move || work(&lane, pool, &queue))?);
        }
        let reader = Reader {
            pool,
            packs: matches!(engine, Engine::Cpu),
            blocks,
            answers,
            tasks,
            gate,
        };
        // The error says only that the results aren't wanted any more.
        threads.push(spawn(scope, move || {
            let _ = jobs.iter().try_for_each(|job| reader.job(job));
        })?);
        // When the results are dropped, every thread comes to its end.
        let written = write(Results {
            answers: taken,
            scales,
            pool,
            blocks,
        });
        // Without this, a thread's panic would become one of the scope. Each of them is joined.
        let panicked = { threads.into_iter() }
            .map(std::thread::ScopedJoinHandle::join)
            .filter(Result::is_err)
            .count();
        match panicked {
            0 => written,
            _ => written.and_then(|_| Err(Failure::Wrong("a thread panicked at its work".into()))),
        }
    })
}

fn work(lane: &Lane, pool: &Pool, queue: &Mutex<Receiver<Task<'_, '_>>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Task {
            job,
            piece,
            pass,
            input,
            answer,
        }) = next
        else {
            return;
        };
        let computed = compute(lane, pool, job, piece, &pass, input);
        // Nobody waits for it after an error elsewhere.
        let _ = answer.send(computed);
    }
}

/// Nobody takes the results any more.
struct Stopped;

/// Asks the system to read a tensor, and doesn't wait for it.
fn prefetch(tensor: &Tensor<'_>) {
    if let Some((file, place)) = tensor.place() {
        file.prefetch(place);
    }
}

struct Reader<'r, 'j, 'a> {
    pool: &'r Pool,
    /// Whether the lanes want what the pieces of a matrix share.
    packs: bool,
    blocks: usize,
    answers: SyncSender<Receiver<Answer>>,
    tasks: Sender<Task<'j, 'a>>,
    gate: Receiver<Arc<[f64]>>,
}

impl<'j, 'a> Reader<'_, 'j, 'a> {
    fn job(&self, job: &'j Job<'a>) -> Result<(), Stopped> {
        for lora in &job.change.loras {
            [lora.a, lora.b].iter().for_each(prefetch);
        }
        let mut scales = None;
        if job.has_column_norms() {
            self.pass(job, &Pass::Squares)?;
            scales = Some(self.gate.recv().map_err(|_| Stopped)?);
        }
        self.pass(job, &Pass::Bytes(scales))
    }

    fn pass(&self, job: &'j Job<'a>, pass: &Pass) -> Result<(), Stopped> {
        let mut shared = None;
        for piece in job.grid.pieces(self.blocks) {
            let (answer, result) = channel();
            // Waits here while enough pieces are on their way.
            self.answers.send(result).map_err(|_| Stopped)?;
            let input = match self.read(job, piece, &mut shared) {
                Ok(input) => input,
                Err(error) => {
                    let _ = answer.send(Err(error));
                    return Err(Stopped);
                }
            };
            let task = Task {
                job,
                piece,
                pass: pass.clone(),
                input,
                answer,
            };
            self.tasks.send(task).map_err(|_| Stopped)?;
        }
        Ok(())
    }

    /// `shared` is what the last piece shares with the others of its matrix.
    fn read(
        &self,
        job: &Job<'_>,
        piece: Piece,
        shared: &mut Option<(usize, Arc<[Across]>)>,
    ) -> Result<Input, Failure> {
        let begin = job.grid.place(piece) * job.source_bytes();
        let bytes = piece.rows * job.grid.columns * job.source_bytes();
        let mut source = self.pool.take(bytes);
        job.source.read_into(begin, source.bytes_mut()?)?;
        let across = match shared {
            Some((matrix, across)) if *matrix == piece.matrix => across.clone(),
            _ if !self.packs => Arc::default(),
            _ => factors::across(job, piece)?.into(),
        };
        *shared = Some((piece.matrix, across.clone()));
        Ok(Input { source, across })
    }
}

impl Results<'_> {
    fn next(&self) -> Result<Outcome, Failure> {
        let ended = |_| Failure::Wrong("a thread ended before its work was done".into());
        self.answers
            .recv()
            .and_then(|answer| answer.recv())
            .map_err(ended)?
    }

    /// Takes the results of the next job, piece by piece, and adds up what is counted.
    pub fn of(
        &self,
        job: &Job<'_>,
        mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<Totals, Failure> {
        let out_of_step = || Failure::Wrong("the pieces came in another order".into());
        let mut totals = Totals::default();
        if let Some(magnitude) = job.change.magnitude.filter(|_| job.has_column_norms()) {
            let mut squares = vec![0.0; job.grid.columns];
            for _ in job.grid.pieces(self.blocks) {
                let Outcome::Squares(blocks) = self.next()? else {
                    return Err(out_of_step());
                };
                for block in blocks {
                    squares
                        .iter_mut()
                        .zip(block)
                        .for_each(|(sum, square)| *sum += square);
                }
            }
            let scales = Scales::new(&magnitude, 0..job.grid.columns, &squares)?;
            totals.without_norm = scales.without_norm;
            // If the reader has ended, an error comes with the next piece.
            let _ = self.scales.send(scales.scales.into());
        }
        for _ in job.grid.pieces(self.blocks) {
            let Outcome::Bytes(made) = self.next()? else {
                return Err(out_of_step());
            };
            write(made.bytes.bytes()?)?;
            self.pool.give_back(made.bytes);
            totals.non_finite += made.non_finite;
            totals.without_norm += made.without_norm;
            if let Some(report) = made.report {
                totals.report.get_or_insert_default().add(&report);
            }
        }
        Ok(totals)
    }
}

/// What is counted over a tensor of the result.
#[derive(Default)]
pub struct Totals {
    /// What storing it loses, where adapters were added.
    pub report: Option<MergeReport>,
    /// Elements that are NaN or infinite.
    pub non_finite: u64,
    /// Out_features whose row is 0, so that DoRA's magnitude can't be given to it.
    pub without_norm: u64,
}
