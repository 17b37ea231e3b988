//! The loss as a part of a user's model.

use burn::backend::Dispatch;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{
    CrossEntropyBackend, CrossEntropyLoss, CrossEntropyLossConfig, EmptyReduction, RowFactor,
    SmoothingOver,
};

use crate::common::backends::tests_on;
use crate::common::run::numbers;

#[derive(Module, Debug)]
struct Classifier {
    linear: Linear,
    loss: CrossEntropyLoss,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        Self {
            linear: LinearConfig::new(2, 3).init(device),
            loss: CrossEntropyLossConfig::new()
                .with_weight(Some(vec![1.0, 2.0, 0.5]))
                .with_label_smoothing(0.1)
                .init(device),
        }
    }

    fn forward(&self, device: &Device) -> Tensor<1> {
        let inputs = Tensor::<2>::from_floats([[1.0, -1.0], [0.5, 2.0]], device);
        let targets = Tensor::<1, Int>::from_ints([2, 0], device);
        self.loss.forward(self.linear.forward(inputs), targets)
    }
}

fn trains_and_validates<B: CrossEntropyBackend>(device: &Device) {
    let plain = device.clone().without_autodiff();
    let config = CrossEntropyLossConfig::new().with_weight(Some(vec![1.0, 2.0]));
    let loss = config.init_for::<B>(&plain).train();
    let value = |loss: &CrossEntropyLoss<B>, device: &Device| {
        let logits = Tensor::<2>::from_floats([[0.5, 1.0]], device);
        let value = loss.forward(logits, Tensor::<1, Int>::zeros([1], device));
        assert_eq!(value.is_autodiff(), device.is_autodiff());
        numbers(value)
    };
    assert_eq!(value(&loss, device), value(&loss.valid(), &plain));
}

fn a_loss_trains_and_validates(device: &Device) {
    trains_and_validates::<Dispatch>(device);
}

#[cfg(feature = "flex")]
#[test]
fn a_bound_loss_trains_and_validates() {
    trains_and_validates::<burn::backend::Autodiff<burn::backend::Flex>>(
        &Device::flex().autodiff(),
    );
}

fn a_model_trains_and_validates_with_the_loss_as_a_field(device: &Device) {
    let plain = device.clone().without_autodiff();
    // `train` turns autodiff on with the default strategy, not with that of `device`.
    let model = Classifier::new(&plain).train();
    let loss = model.forward(&model.linear.weight.val().device());
    let gradients = loss.clone().backward();
    let gradient = model.linear.weight.val().grad(&gradients);
    assert!(gradient.is_some_and(|gradient| numbers(gradient).iter().any(|entry| *entry != 0.0)));

    let valid = model.valid();
    let value = valid.forward(&plain);
    assert!(!value.is_autodiff());
    assert_eq!(numbers(value), numbers(loss));
}

fn a_loss_has_no_parameters(device: &Device) {
    let config = CrossEntropyLossConfig::new().with_weight(Some(vec![1.0; 3]));
    assert_eq!(config.init(device).num_params(), 0);
    assert_eq!(Classifier::new(device).num_params(), 2 * 3 + 3);
}

fn a_loss_shows_its_options(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.25)
        .with_smoothing_over(SmoothingOver::ValidClasses)
        .with_ignore_indices(vec![255])
        .init(device);
    let shown = format!("{loss}");
    assert!(shown.contains("label_smoothing: 0.25"), "{shown}");
    assert!(shown.contains("smoothing_over: ValidClasses"), "{shown}");
    assert!(shown.contains("[255]"), "{shown}");
}

tests_on! {
    one_of_each_kind: [
        a_loss_trains_and_validates,
        a_model_trains_and_validates_with_the_loss_as_a_field,
        a_loss_has_no_parameters,
        a_loss_shows_its_options,
    ],
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn a_loss_follows_its_model_to_another_device() {
    let (flex, ndarray) = (Device::flex(), Device::ndarray());
    let model = Classifier::new(&flex);
    let expected = numbers(model.forward(&flex))[0];
    let moved = model.to_device(&ndarray);
    let found = numbers(moved.forward(&ndarray))[0];
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    let forked = moved.fork(&flex.clone().autodiff());
    let found = numbers(forked.forward(&flex.autodiff()))[0];
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
}

/// The backend on which the class weights were made does not matter.
#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn class_weights_follow_the_logits() {
    use burn::tensor::{DType, TensorData};

    let loss: CrossEntropyLoss<Dispatch> = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 2.0]))
        .init(&Device::flex());
    let device = Device::ndarray().autodiff().gradient_checkpointing();
    let data = TensorData::from([[0.5, 1.0]]);
    let logits = Tensor::<2>::from_data(data, (&device, DType::F64)).require_grad();
    let value = loss.forward(logits.clone(), Tensor::<1, Int>::from_ints([1], &device));
    assert_eq!(value.dtype(), DType::F64);
    assert!(logits.grad(&value.backward()).is_some());
}

#[test]
fn a_configuration_survives_its_json() {
    let config = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![0.0, 1.5]))
        .with_class_dim(-1)
        .with_logit_softcap(Some(30.0))
        .with_empty(EmptyReduction::Zero);
    let json = serde_json::to_string(&config).expect("a configuration is serialisable");
    let read: CrossEntropyLossConfig = serde_json::from_str(&json).expect("what was written");
    assert_eq!(format!("{config:?}"), format!("{read:?}"));
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = CrossEntropyLossConfig::default();
    assert_eq!(config.weight, None);
    assert_eq!(config.ignore_indices, [-100]);
    assert_eq!(config.label_smoothing, 0.0);
    assert_eq!(config.smoothing_over, SmoothingOver::Classes);
    assert!(matches!(config.reduction, burn::nn::loss::Reduction::Mean));
    assert!(config.logits);
    assert_eq!(config.class_dim, 1);
    assert_eq!(config.logit_scale, 1.0);
    assert_eq!(config.logit_softcap, None);
    assert_eq!(config.z_loss, 0.0);
    assert_eq!(config.row_factor, RowFactor::None);
    assert_eq!(config.empty, EmptyReduction::Nan);
}
