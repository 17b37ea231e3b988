//! The problem, the oracle and the tolerances of the crate's tests.
#![allow(dead_code, reason = "the tests use all of it")]

use burn::tensor::DType;

#[path = "../../tests/it/common/archive.rs"]
pub mod archive;
#[path = "../../tests/it/common/details.rs"]
pub mod details;
#[path = "../../tests/it/common/expected.rs"]
pub mod expected;
#[path = "../../tests/it/common/oracle.rs"]
pub mod oracle;
#[path = "../../tests/it/common/problem.rs"]
pub mod problem;
#[path = "../../tests/it/common/row_value.rs"]
pub mod row_value;
#[path = "../../tests/it/common/run.rs"]
pub mod run;
#[path = "../../tests/it/common/teacher.rs"]
pub mod teacher;
#[path = "../../tests/it/common/tolerance.rs"]
pub mod tolerance;
#[path = "../../tests/it/common/values.rs"]
pub mod values;

/// The smallest normal number of a dtype that the crate computes in. A product below it has few digits, or none.
pub fn smallest_of(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MIN_POSITIVE,
        _ => f32::MIN_POSITIVE.into(),
    }
}

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
