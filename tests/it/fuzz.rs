//! Random problems against the portable path in f64, or on a device without f64 against the oracle.

use burn::tensor::Device;

use crate::common::backends::{is_host, is_processor, on_every_backend};
use crate::common::random::random_problems_agree;

/// As many as a build without optimisation runs in a few seconds.
const CASES_OF_THE_HOST: u32 = 200;
/// Nearly every case is compiled anew on CubeCL's runtimes: in milliseconds here,
const CASES_OF_THE_PROCESSOR: u32 = 80;
/// and in several times that by a shader compiler, whose kernels have the same source.
const CASES_OF_A_SHADER: u32 = 20;

fn a_random_problem_agrees_with_the_portable_path(device: &Device) {
    let default = if is_host(device) {
        CASES_OF_THE_HOST
    } else if is_processor(device) {
        CASES_OF_THE_PROCESSOR
    } else {
        CASES_OF_A_SHADER
    };
    let number = std::env::var("FUZZ_CASES").map_or(default, |number| {
        number.parse().expect("FUZZ_CASES is a number")
    });
    random_problems_agree(number, device);
}

on_every_backend!(a_random_problem_agrees_with_the_portable_path,);
