//! The problem, the oracle and the tolerances of the crate's tests.
#![allow(dead_code, reason = "the tests use all of it")]

#[path = "../../tests/it/common/details.rs"]
pub mod details;
#[path = "../../tests/it/common/expected.rs"]
pub mod expected;
#[path = "../../tests/it/common/oracle.rs"]
pub mod oracle;
#[path = "../../tests/it/common/problem.rs"]
pub mod problem;
#[path = "../../tests/it/common/run.rs"]
pub mod run;
#[path = "../../tests/it/common/tolerance.rs"]
pub mod tolerance;
#[path = "../../tests/it/common/values.rs"]
pub mod values;

/// In place of the tests' list of backends: everything here runs on Flex.
pub mod backends {
    use burn::tensor::Device;

    pub fn is_host(_: &Device) -> bool {
        true
    }

    pub fn has_tf32(_: &Device) -> bool {
        false
    }
}
