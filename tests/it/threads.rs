//! Results do not depend on the number of threads, to the bit.
//!
//! The number of threads of a process is set once, so each number needs a process of its own: this test
//! binary again, with the test that prints the bits.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::process::Command;

use burn::nn::loss::Reduction;
use burn::tensor::Device;

use crate::common::problem::Problem;
use crate::common::run;
use crate::linear::projected::{Form, Projected};

/// The prefix of the lines that count.
const MARK: &str = "bits: ";

/// Rows, classes and positions that do not divide evenly among threads or blocks, each more than the kernels
/// compute on one thread (2^17 elements).
const SHAPES: [&[usize]; 5] = [
    &[20_011, 7],
    &[151, 1003],
    &[3, 50_257],
    &[5, 61, 515],
    &[17, 130, 67],
];

fn problems(shape: &[usize]) -> Vec<Problem> {
    let indices = Problem::random(shape, 1, false, 1);
    let shares = Problem::random(shape, 1, true, 2).with_weights();
    let every_option = indices.clone().with_weights().with_ignored(-1);
    let every_option = every_option.with_config(|config| {
        config
            .with_label_smoothing(0.1)
            .with_z_loss(0.02)
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0))
    });
    vec![
        indices,
        shares.unreduced(),
        every_option.with_config(|config| config.with_reduction(Reduction::Sum)),
    ]
}

/// Prints one line for each problem, made of everything that was computed.
fn print_bits(device: &Device) {
    for shape in SHAPES {
        for (number, problem) in problems(shape).iter().enumerate() {
            let outcome = run::solve(problem, device);
            let mut hasher = DefaultHasher::new();
            let targets = outcome.targets_gradient.unwrap_or_default();
            for value in [&outcome.loss, &outcome.logits_gradient, &targets]
                .into_iter()
                .flatten()
            {
                assert!(value.is_finite());
                hasher.write_u64(value.to_bits());
            }
            println!("\n{MARK}{shape:?} {number} {:016x}", hasher.finish());
        }
    }
    // The chunks do not divide the rows.
    let projected = Projected::random([403, 67, 1003], false, 3);
    let found = projected.found(Form::chunked(Some(140)), device);
    let mut hasher = DefaultHasher::new();
    let parts = [&found.loss, &found.input, &found.weight];
    for value in parts.into_iter().chain(&found.bias).flatten() {
        assert!(value.is_finite());
        hasher.write_u64(value.to_bits());
    }
    println!("\n{MARK}projection {:016x}", hasher.finish());
}

/// Runs the test of this name with `threads` threads, and returns its lines.
fn bits_of(test: &str, threads: usize) -> Vec<String> {
    let binary = std::env::current_exe().expect("a test knows where it lies");
    let output = Command::new(binary)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .output()
        .expect("this binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{test} with {threads} threads: {text}"
    );
    text.lines()
        .filter(|line| line.starts_with(MARK))
        .map(str::to_string)
        .collect()
}

fn assert_same_bits(test: &str) {
    let [one, two, eight] = [1, 2, 8].map(|threads| bits_of(test, threads));
    let expected: usize = SHAPES.map(|shape| problems(shape).len()).iter().sum();
    assert_eq!(
        one.len(),
        expected + 1,
        "a test that did not run prints nothing"
    );
    assert_eq!(one, two);
    assert_eq!(one, eight);
}

macro_rules! same_bits_on {
    ($device:ident) => {
        mod $device {
            #[test]
            #[ignore = "prints what `any_number_of_threads_gives_the_same_bits` compares"]
            fn bits() {
                super::print_bits(&crate::common::backends::$device().autodiff());
            }

            #[test]
            fn any_number_of_threads_gives_the_same_bits() {
                super::assert_same_bits(concat!("threads::", stringify!($device), "::bits"));
            }
        }
    };
}

#[cfg(feature = "flex")]
same_bits_on!(flex);
#[cfg(feature = "ndarray")]
same_bits_on!(ndarray);

/// Checks that RAYON_NUM_THREADS has an effect, on Linux, which lists a process's threads.
#[cfg(all(feature = "flex", target_os = "linux"))]
#[test]
fn the_number_of_threads_can_be_set() {
    let test = "threads::print_number_of_threads";
    let [one, eight] = [1, 8].map(|threads| bits_of(test, threads));
    assert!(one.len() == 1 && eight.len() == 1);
    assert_ne!(one, eight);
}

#[cfg(all(feature = "flex", target_os = "linux"))]
#[test]
#[ignore = "prints what `the_number_of_threads_can_be_set` compares"]
fn print_number_of_threads() {
    let problem = Problem::random(&[67, 3001], 1, false, 1);
    let device = crate::common::backends::flex().autodiff();
    run::solve(&problem, &device);
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux has it");
    println!("\n{MARK}{}", threads.count());
}
