//! Problems of logits, made of bytes by the fuzzer.
#![no_main]

use burn_cross_entropy_fuzz::loss::Case;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| burn_cross_entropy_fuzz::run(
    &Case::decode(bytes),
    Case::check
));
