//! A loss bound to a backend at compile time, and a device with gradient checkpointing, have the bits of the
//! dispatched loss on a device without it: in every result and gradient of every public method.
//!
//! All other tests go through the runtime dispatch only. The forms differ in the way that a call takes, not
//! in the maths, so problems of a few rows tell them apart.

mod contrastive;
mod plain;
mod projected;

use burn::backend::Dispatch;
use burn::tensor::kind::Basic;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyBackend, CrossEntropyOutput};

use crate::common::backends::{is_host, is_processor};

/// Attempts at equal bits. A device may take another kernel for the same matrix product the next time, until
/// it has found the fastest one by trying. Forms that really differ do so every time.
const ATTEMPTS: usize = 6;

/// The results of every method, under the name of the method.
#[derive(Default)]
struct Results(Vec<(String, Option<TensorData>)>);

/// Returns the gradients of all tracked tensors of a call, by name.
type OfLeaves<'a> = &'a dyn Fn(&Gradients) -> Vec<(&'static str, Option<TensorData>)>;

impl Results {
    fn add<const D: usize, K: Basic>(&mut self, name: &str, tensor: Tensor<D, K>) {
        self.0.push((name.to_string(), Some(tensor.into_data())));
    }

    /// Adds losses of any shape, and the gradients of a sum that weighs each of them differently.
    fn add_with_gradients<const D: usize>(
        &mut self,
        name: &str,
        losses: Tensor<D>,
        of_leaves: OfLeaves<'_>,
    ) {
        let count = losses.shape().num_elements();
        let factors: Vec<f32> = (0..count).map(|at| at as f32 - 1.75).collect();
        let factors = TensorData::new(factors, losses.shape());
        let factors = Tensor::<D>::from_data(factors, &losses.device());
        let gradients = (losses.clone() * factors).sum().backward();
        self.add(name, losses);
        for (leaf, gradient) in of_leaves(&gradients) {
            self.0
                .push((format!("{name}, gradient of {leaf}"), gradient));
        }
    }

    /// Adds every field of an output, and the gradients of its loss.
    fn add_output<const R: usize>(
        &mut self,
        name: &str,
        output: CrossEntropyOutput<R>,
        of_leaves: OfLeaves<'_>,
    ) {
        let field = |field: &str| format!("{name}, {field}");
        self.add(&field("correct"), output.correct());
        self.add(&field("in_top"), output.in_top(2));
        self.add(&field("counted"), output.counted());
        self.add(&field("z_loss"), output.z_loss());
        self.add_with_gradients(name, output.loss, of_leaves);
        self.add(&field("lse"), output.lse);
        self.add(&field("log_prob"), output.log_prob);
        self.add(&field("max_log_prob"), output.max_log_prob);
        self.add(&field("predicted"), output.predicted);
        self.add(&field("target_class"), output.target_class);
        self.add(&field("target_rank"), output.target_rank);
        self.add(&field("total_weight"), output.total_weight);
        self.add(&field("counted_rows"), output.counted_rows);
        if let Some(entropy) = output.entropy {
            self.add(&field("entropy"), entropy);
        }
    }

    /// Results of every method of every loss. CubeCL's runtimes are one type, bound and dispatched by the
    /// same code. They leave out the contrastive losses, and the processor's runtime leaves out the
    /// projection too, because Burn tries dozens of kernels for the tensor operations around them.
    fn of<B: CrossEntropyBackend>(device: &Device) -> Self {
        let mut results = Self::default();
        plain::add_all::<B>(&mut results, device);
        if !is_processor(device) {
            projected::add_all::<B>(&mut results, device);
        }
        if is_host(device) {
            contrastive::add_all::<B>(&mut results, device);
        }
        results
    }

    /// The names of the results that differ.
    fn differing_from(&self, other: &Self) -> Vec<String> {
        assert_eq!(self.0.len(), other.0.len());
        let pairs = self.0.iter().zip(&other.0);
        let differing = pairs.filter(|(one, other)| one != other);
        differing.map(|((name, _), _)| name.clone()).collect()
    }
}

/// Asserts that the loss over `B` on `device` has the bits of the dispatched one on `plain`.
#[track_caller]
fn assert_same_bits<B: CrossEntropyBackend>(device: &Device, plain: &Device) {
    let attempts = if is_host(plain) { 1 } else { ATTEMPTS };
    let mut differing = Vec::new();
    for _ in 0..attempts {
        differing = Results::of::<B>(device).differing_from(&Results::of::<Dispatch>(plain));
        if differing.is_empty() {
            return;
        }
    }
    panic!(
        "{} on {device:?} differs in {differing:#?}",
        std::any::type_name::<B>()
    );
}

#[test]
fn a_result_that_differs_is_named() {
    let results = || {
        let number = |number: f32| Some(TensorData::from([number]));
        Results(vec![
            ("one".to_string(), number(1.0)),
            ("forward".to_string(), None),
            ("other".to_string(), number(0.0)),
        ])
    };
    assert!(results().differing_from(&results()).is_empty());
    let mut other = results();
    other.0[1].1 = Some(TensorData::from([0.0f32]));
    other.0[2].1 = Some(TensorData::from([-0.0f32]));
    assert_eq!(results().differing_from(&other), ["forward", "other"]);
}

macro_rules! same_bits_on {
    ($device:ident, $backend:path) => {
        mod $device {
            use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
            use burn::backend::{Autodiff, Dispatch};
            use burn::tensor::Device;

            use super::assert_same_bits;

            fn plain() -> Device {
                crate::common::backends::$device().autodiff()
            }

            fn checkpointing() -> Device {
                plain().gradient_checkpointing()
            }

            #[test]
            fn a_bound_loss_has_the_bits_of_the_dispatched_one() {
                assert_same_bits::<Autodiff<$backend>>(&plain(), &plain());
            }

            #[test]
            fn a_checkpointing_device_has_the_bits_of_another() {
                assert_same_bits::<Dispatch>(&checkpointing(), &plain());
            }

            #[test]
            fn a_bound_loss_on_a_checkpointing_device_has_the_bits_of_the_dispatched_one() {
                type Bound = Autodiff<$backend, BalancedCheckpointing>;
                assert_same_bits::<Bound>(&checkpointing(), &plain());
            }
        }
    };
}

#[cfg(feature = "flex")]
same_bits_on!(flex, burn::backend::Flex);
#[cfg(feature = "ndarray")]
same_bits_on!(ndarray, burn::backend::NdArray);
#[cfg(feature = "cpu")]
same_bits_on!(cpu, burn::backend::Cpu);
#[cfg(feature = "wgpu")]
same_bits_on!(wgpu, burn::backend::Wgpu);
#[cfg(feature = "cuda")]
same_bits_on!(cuda, burn::backend::Cuda);
