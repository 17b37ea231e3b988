//! Runs one training step on every backend of the build: the command line, the backends and the table.
//!
//! `cargo run --release --example switch_backends --features ndarray,wgpu -- --help` explains the
//! options.

#[path = "../common/numbers.rs"]
#[allow(dead_code)] // This example has no whole numbers but the seed.
mod numbers;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/start.rs"]
mod start;
mod step;

use std::process::ExitCode;

use burn::backend::Autodiff;
use burn::tensor::{Device, Tensor};
use burn_cross_entropy::{CrossEntropyBackend, CrossEntropyLossConfig};
use clap::Parser;

use crate::numbers::seed;
use crate::start::started;
use crate::step::{CLASSES, Outcome, Start};

/// Equal steps; the shortest time is shown.
const STEPS: usize = 5;

/// One training step of a small model on every backend of the build, from the same weights and data.
///
/// Each backend runs the step twice: with the loss that finds the backend in its tensors at run time ("any"),
/// and with the loss that is bound to the backend at compile time ("bound"). The code of the step is the
/// same. Cargo features add backends, any of ndarray, cpu, wgpu, cuda and rocm: `--features ndarray,wgpu`. A
/// backend that fails is named with the reason, and the others are tried. It takes some seconds, and on a
/// device longer, because its kernels are compiled first; Ctrl-C ends it.
#[derive(Parser)]
#[command(name = "switch_backends", version)]
struct Arguments {
    /// Allowed difference of the numbers from those of the first line, as a share of the loss and of the
    /// largest entry of the gradient.
    #[arg(long, value_name = "SHARE", default_value_t = 1e-5)]
    #[arg(value_parser = tolerance, allow_negative_numbers = true)]
    tolerance: f64,

    /// Seed of the weights and the data.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = seed, allow_negative_numbers = true)]
    seed: u64,
}

fn tolerance(text: &str) -> Result<f64, String> {
    let tolerance = text.parse().ok();
    tolerance
        .filter(|tolerance: &f64| tolerance.is_finite() && *tolerance >= 0.0)
        .ok_or_else(|| "it must be a finite number of at least 0".to_string())
}

fn main() -> ExitCode {
    match run(&Arguments::parse(), &candidates()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// A backend of this build.
struct Candidate {
    name: &'static str,
    device: fn() -> Device,
    steps: fn(&Start, &Device) -> Result<[Outcome; 2], String>,
}

/// Lists the backends of this build. No other place names backends.
fn candidates() -> Vec<Candidate> {
    vec![
        #[cfg(feature = "flex")]
        Candidate {
            name: "flex",
            device: Device::flex,
            steps: both_forms::<Autodiff<burn::backend::Flex>>,
        },
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // Burn deprecates NdArray; this crate still supports it.
        Candidate {
            name: "ndarray",
            device: Device::ndarray,
            steps: both_forms::<Autodiff<burn::backend::NdArray>>,
        },
        #[cfg(feature = "cpu")]
        Candidate {
            name: "cpu",
            device: Device::cpu,
            steps: both_forms::<Autodiff<burn::backend::Cpu>>,
        },
        #[cfg(feature = "wgpu")]
        Candidate {
            name: "wgpu",
            device: || Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            steps: both_forms::<Autodiff<burn::backend::Wgpu>>,
        },
        #[cfg(feature = "cuda")]
        Candidate {
            name: "cuda",
            device: || Device::cuda(0),
            steps: both_forms::<Autodiff<burn::backend::Cuda>>,
        },
        #[cfg(feature = "rocm")]
        Candidate {
            name: "rocm",
            device: || Device::rocm(0),
            steps: both_forms::<Autodiff<burn::backend::Rocm>>,
        },
    ]
}

/// Returns the device once it has answered, or the error.
fn opened(device: fn() -> Device) -> Result<Device, String> {
    started(|| {
        let device = device();
        let answer = Tensor::<1>::zeros([1], &device).try_into_data();
        answer.map(|_| device).map_err(|error| error.to_string())
    })
}

/// Runs the step with the loss of all backends, and with the loss of `B`.
fn both_forms<B: CrossEntropyBackend>(
    start: &Start,
    device: &Device,
) -> Result<[Outcome; 2], String> {
    let config = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.1)
        .with_weight(Some(
            (0..CLASSES)
                .map(|class| 0.5 + class as f32 / CLASSES as f32)
                .collect(),
        ));
    let device = device.clone().autodiff();
    let any = config.init(&device);
    let bound = config.init_for::<B>(&device);
    Ok([
        shortest(|| start.step(&any, &device))?,
        shortest(|| start.step(&bound, &device))?,
    ])
}

/// Runs equal steps and returns the one with the shortest time: a device compiles its kernels in the first
/// step, and other programs delay any of them.
fn shortest(step: impl Fn() -> Result<Outcome, String>) -> Result<Outcome, String> {
    let mut shortest = step()?;
    for _ in 1..STEPS {
        let again = step()?;
        if again.time < shortest.time {
            shortest = again;
        }
    }
    Ok(shortest)
}

/// Tries every backend, prints a line for each outcome and each failure, and ends in an error if there was one.
fn run(arguments: &Arguments, candidates: &[Candidate]) -> Result<(), String> {
    if candidates.is_empty() {
        return Err("this build has no backend; build with --features flex".to_string());
    }
    let start = Start::new(arguments.seed);
    let mut first: Option<Outcome> = None;
    let mut failed = Vec::new();
    println!(
        "{:<9} {:<6} {:>12} {:>12} {:>14} {:>12} {:>10}",
        "backend", "loss", "before", "after", "gradient norm", "difference", "time"
    );
    for candidate in candidates {
        let tried = outcomes(candidate, &start).and_then(|outcomes| {
            compare(candidate.name, outcomes, &mut first, arguments.tolerance)
        });
        if let Err(reason) = tried {
            println!("{:<9} failed: {reason}", candidate.name);
            failed.push(candidate.name);
        }
    }
    if !failed.is_empty() {
        return Err(format!(
            "{} of {} backends failed: {}; the lines above say why",
            failed.len(),
            candidates.len(),
            failed.join(", ")
        ));
    }
    match candidates.len() {
        1 => println!("This build has one backend; --features ndarray,wgpu,cuda adds others."),
        _ => println!("All agree to {:.1e}.", arguments.tolerance),
    }
    Ok(())
}

/// The outcomes of both forms of the loss, or why there are none. Burn panics where a device fails.
fn outcomes(candidate: &Candidate, start: &Start) -> Result<[Outcome; 2], String> {
    let device = opened(candidate.device).map_err(|reason| {
        format!(
            "it does not start on this machine ({reason}); build without --features {} to leave it out",
            candidate.name
        )
    })?;
    started(|| (candidate.steps)(start, &device))
        .map_err(|reason| format!("it starts, but its step fails ({reason})"))
}

/// Prints the outcomes of a backend beside the first of all, and refuses those that differ from it.
fn compare(
    name: &str,
    outcomes: [Outcome; 2],
    first: &mut Option<Outcome>,
    tolerance: f64,
) -> Result<(), String> {
    let mut largest: f64 = 0.0;
    for (form, outcome) in ["any", "bound"].into_iter().zip(outcomes) {
        let difference = first
            .as_ref()
            .map_or(0.0, |first| outcome.difference(first));
        println!(
            "{name:<9} {form:<6} {:>12.7} {:>12.7} {:>14.7} {difference:>12.1e} {:>7.2} ms",
            outcome.loss_before,
            outcome.loss_after,
            outcome.gradient_norm(),
            1e3 * outcome.time.as_secs_f64(),
        );
        largest = largest.max(difference);
        first.get_or_insert(outcome);
    }
    if largest > tolerance {
        return Err(format!(
            "it differs from the first line by {largest:.1e}, more than the tolerance of {tolerance:.1e}"
        ));
    }
    Ok(())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn both_forms_agree_and_the_step_lowers_the_loss() {
        let start = Start::new(3);
        let [any, bound] =
            both_forms::<Autodiff<burn::backend::Flex>>(&start, &Device::flex()).unwrap();
        assert_eq!(bound.difference(&any), 0.0);
        assert!(any.loss_after < any.loss_before);
    }

    #[test]
    fn numbers_that_are_none_are_beyond_every_tolerance() {
        let start = Start::new(3);
        let [any, mut bound] =
            both_forms::<Autodiff<burn::backend::Flex>>(&start, &Device::flex()).unwrap();
        bound.loss_after = f64::NAN;
        assert_eq!(bound.difference(&any), f64::INFINITY);
        bound.loss_after = any.loss_after;
        bound.gradient[0] = f32::NAN;
        assert_eq!(bound.difference(&any), f64::INFINITY);
    }
    /// A backend that is Flex but for its step.
    fn candidate(
        name: &'static str,
        steps: fn(&Start, &Device) -> Result<[Outcome; 2], String>,
    ) -> Candidate {
        Candidate {
            name,
            device: Device::flex,
            steps,
        }
    }

    #[test]
    fn a_backend_that_fails_is_named_and_the_others_are_tried() {
        static TRIED: AtomicUsize = AtomicUsize::new(0);
        let works = |start: &Start, device: &Device| {
            TRIED.fetch_add(1, Ordering::SeqCst);
            both_forms::<Autodiff<burn::backend::Flex>>(start, device)
        };
        let missing = Candidate {
            device: || panic!("no such device"),
            ..candidate("missing", works)
        };
        let arguments = Arguments::parse_from(["switch_backends"]);
        let all = [
            missing,
            candidate("refusing", |_, _| Err("out of memory".to_string())),
            candidate("panicking", |_, _| panic!("lost")),
            candidate("one", works),
            candidate("other", works),
        ];
        let error = run(&arguments, &all).unwrap_err();
        let expected = "3 of 5 backends failed: missing, refusing, panicking;";
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(TRIED.load(Ordering::SeqCst), 2);
        assert_eq!(run(&arguments, &all[3..]), Ok(()));

        let start = Start::new(1);
        for (candidate, part) in all.iter().zip(["no such device", "out of memory", "lost"]) {
            let error = outcomes(candidate, &start).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
