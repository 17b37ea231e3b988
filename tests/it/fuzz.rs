//! Compares random problems with the oracle.

use burn::tensor::Device;

use crate::common::backends::{is_host, is_processor, on_every_backend};
use crate::common::random::{number_of_problems, random_problems_agree};

/// Cases on the host: a build without optimisation runs them in a few seconds.
const CASES_OF_THE_HOST: u32 = 200;
/// Cases on the processor runtime, which compiles nearly every case anew, in milliseconds.
const CASES_OF_THE_PROCESSOR: u32 = 80;
/// Cases on other devices, whose compilers take several times as long for kernels with the same source.
const CASES_OF_A_SHADER: u32 = 20;

fn a_random_problem_agrees_with_the_oracle(device: &Device) {
    let default = if is_host(device) {
        CASES_OF_THE_HOST
    } else if is_processor(device) {
        CASES_OF_THE_PROCESSOR
    } else {
        CASES_OF_A_SHADER
    };
    random_problems_agree(number_of_problems(default), device);
}

on_every_backend!(a_random_problem_agrees_with_the_oracle,);
