//! The floor of the arithmetic: the mean loss and its gradient over rows of f32 by AVX-512, without an option, a
//! check or a rounding error that is looked after. No loss that offers more is expected to be faster.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::agreement::Outcome;
use crate::entries::{Entry, Kind, Phase, Precision};
use crate::rounds::Contender;

/// Numbers of a register.
const LANES: usize = 16;
/// Registers that are summed side by side.
const SIDE_BY_SIDE: usize = 4;

pub struct RowFloor {
    logits: Vec<f32>,
    /// The logits, then the gradient.
    buffer: Vec<f32>,
    targets: Vec<usize>,
    classes: usize,
    threads: usize,
}

impl RowFloor {
    /// `None` for entries that are not rows of f32 with index targets, and on other processors.
    pub fn new(entry: &Entry, threads: usize) -> Option<Self> {
        let is_for_rows = entry.shape.len() == 2
            && entry.classes() >= LANES
            && entry.kind == Kind::Index
            && entry.precision == Precision::F32
            && entry.phase == Phase::ForwardBackward;
        if !is_for_rows || !is_x86_feature_detected!("avx512f") {
            return None;
        }
        let logits = entry.logits().try_into_vec::<f32>().ok()?;
        Some(Self {
            buffer: logits.clone(),
            logits,
            targets: (0..entry.rows())
                .map(|row| entry.class_of(row) as usize)
                .collect(),
            classes: entry.classes(),
            threads,
        })
    }

    pub fn outcome(&mut self, probes: &[usize]) -> Outcome {
        self.buffer.copy_from_slice(&self.logits);
        let scale = 1.0 / self.targets.len() as f32;
        let rows = self.buffer.chunks_mut(self.classes).zip(&self.targets);
        // SAFETY: the constructor has looked for the instructions.
        let losses = rows.map(|(row, &target)| unsafe { loss_and_gradient(row, target, scale) });
        let sum: f64 = losses.map(f64::from).sum();
        let mut outcome = Outcome::of_loss(sum / self.targets.len() as f64);
        outcome.add(&self.buffer, 0, probes);
        outcome
    }
}

impl Contender for RowFloor {
    /// Seconds of the slowest thread, as for the copy.
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        let scale = 1.0 / self.targets.len() as f32;
        let (classes, rows) = (self.classes, self.targets.len().div_ceil(self.threads));
        let places = self.buffer.chunks_mut(rows * classes);
        let logits = self.logits.chunks(rows * classes);
        let parts: Vec<_> = places.zip(logits).zip(self.targets.chunks(rows)).collect();
        let start = Barrier::new(parts.len());
        let by_thread: Vec<Vec<f64>> = thread::scope(|scope| {
            let start = &start;
            let threads: Vec<_> = (parts.into_iter())
                .map(|((place, logits), targets)| {
                    scope.spawn(move || {
                        let once = |_| {
                            place.copy_from_slice(logits);
                            start.wait();
                            let start = Instant::now();
                            for (row, &target) in place.chunks_mut(classes).zip(targets) {
                                // SAFETY: the constructor has looked for the instructions.
                                black_box(unsafe { loss_and_gradient(row, target, scale) });
                            }
                            start.elapsed().as_secs_f64()
                        };
                        (0..=repetitions).map(once).collect()
                    })
                })
                .collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results.map(|times| times.expect("it computes")).collect()
        });
        let slowest = |repetition: usize| {
            let times = by_thread.iter().map(|times: &Vec<f64>| times[repetition]);
            times.fold(0.0, f64::max)
        };
        Ok((1..=repetitions).map(slowest).collect())
    }
}

/// Loss of a row, whose gradient replaces it.
#[target_feature(enable = "avx512f")]
fn loss_and_gradient(row: &mut [f32], target: usize, scale: f32) -> f32 {
    let logit = row[target];
    let largest = maximum(row);
    let sum = exponentials(row, largest);
    let factor = _mm512_set1_ps(scale / sum);
    let (registers, rest) = row.as_chunks_mut::<LANES>();
    for register in registers {
        store(register, _mm512_mul_ps(load(register), factor));
    }
    for number in rest {
        *number *= scale / sum;
    }
    row[target] -= scale;
    sum.ln() + largest - logit
}

#[target_feature(enable = "avx512f")]
fn maximum(row: &[f32]) -> f32 {
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); SIDE_BY_SIDE];
    let (registers, rest) = row.as_chunks::<LANES>();
    let (blocks, others) = registers.as_chunks::<SIDE_BY_SIDE>();
    for block in blocks {
        for (largest, register) in largest.iter_mut().zip(block) {
            *largest = _mm512_max_ps(*largest, load(register));
        }
    }
    for register in others {
        largest[0] = _mm512_max_ps(largest[0], load(register));
    }
    let [a, b, c, d] = largest;
    let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
    rest.iter()
        .fold(largest, |largest, &number| largest.max(number))
}

/// Replaces the logits by their exponentials, and adds these up.
#[target_feature(enable = "avx512f")]
fn exponentials(row: &mut [f32], largest: f32) -> f32 {
    let shift = _mm512_set1_ps(largest);
    let mut sums = [_mm512_setzero_ps(); SIDE_BY_SIDE];
    let (registers, rest) = row.as_chunks_mut::<LANES>();
    let (blocks, others) = registers.as_chunks_mut::<SIDE_BY_SIDE>();
    for block in blocks {
        for (sum, register) in sums.iter_mut().zip(block) {
            let exponential = exp(_mm512_sub_ps(load(register), shift));
            store(register, exponential);
            *sum = _mm512_add_ps(*sum, exponential);
        }
    }
    for register in others {
        let exponential = exp(_mm512_sub_ps(load(register), shift));
        store(register, exponential);
        sums[0] = _mm512_add_ps(sums[0], exponential);
    }
    let mut padded = [f32::NEG_INFINITY; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    let exponential = exp(_mm512_sub_ps(load(&padded), shift));
    store(&mut padded, exponential);
    rest.copy_from_slice(&padded[..rest.len()]);
    sums[1] = _mm512_add_ps(sums[1], exponential);
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// Exponential of numbers up to 0, by the polynomial of Cephes's `expf`.
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ];
    let n = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm512_roundscale_ps::<0>(n);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    let mut series = _mm512_set1_ps(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        series = _mm512_fmadd_ps(series, r, _mm512_set1_ps(*coefficient));
    }
    let series = _mm512_fmadd_ps(series, _mm512_mul_ps(r, r), r);
    _mm512_scalef_ps(_mm512_add_ps(series, _mm512_set1_ps(1.0)), n)
}

#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32; LANES]) -> __m512 {
    // SAFETY: there are 16 numbers.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store(numbers: &mut [f32; LANES], register: __m512) {
    // SAFETY: there is room for 16 numbers.
    unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), register) }
}
