//! Random problems against the portable path in f64, or on a device without f64 against the oracle.

use burn::tensor::Device;

use crate::common::backends::{is_host, on_cubecl_runtimes, on_host_backends};
use crate::common::random::random_problems_agree;

/// As many as a build without optimisation runs in a few seconds.
const DEFAULT_CASES: u32 = 200;
/// Nearly every case is compiled anew there.
const DEFAULT_CASES_OF_A_DEVICE: u32 = 60;

fn a_random_problem_agrees_with_the_portable_path(device: &Device) {
    let default = if is_host(device) {
        DEFAULT_CASES
    } else {
        DEFAULT_CASES_OF_A_DEVICE
    };
    let number = std::env::var("FUZZ_CASES").map_or(default, |number| {
        number.parse().expect("FUZZ_CASES is a number")
    });
    random_problems_agree(number, device);
}

on_host_backends!(a_random_problem_agrees_with_the_portable_path);
on_cubecl_runtimes!(a_random_problem_agrees_with_the_portable_path);
