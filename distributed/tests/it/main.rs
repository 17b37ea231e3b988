//! The loss on devices that share no memory with the test: the devices of a remote server.

mod data_parallel;
mod losses;
mod vocabulary_shards;

use std::sync::LazyLock;

use burn::tensor::{Device, Int, Tensor, TensorData};
use distributed::Loopback;

/// Two devices of one server, shared by all tests, because a process keeps its sessions until it ends.
fn two_devices() -> [Device; 2] {
    static SERVER: LazyLock<Loopback> =
        LazyLock::new(|| Loopback::start(2).expect("a server on the loopback interface"));
    SERVER.devices().try_into().expect("two devices")
}

/// Numbers between -3 and 3 that follow no pattern of the classes.
fn scores<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let numbers = (0..count).map(|at| ((at * at * 7 + at * 13) % 97) as f32 / 16.0 - 3.0);
    let data = TensorData::new(numbers.collect::<Vec<f32>>(), shape);
    Tensor::from_data(data, device)
}

fn targets(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

/// The allowed difference of two f32 results that are each within 2e-6 of the truth, as a share of the
/// largest number.
const TWO_RESULTS: f32 = 4e-6;

/// Compares numbers with a tolerance relative to the largest one, as the crate's own tests do.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0f32, |largest, e| largest.max(e.abs()));
    assert!(largest > 0.0, "nothing to compare");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance * largest;
        let close = (found - expected).abs() <= allowed;
        assert!(
            close,
            "number {at} is {found:e}, expected {expected:e} +- {allowed:e}"
        );
    }
}
