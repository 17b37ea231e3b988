//! The operation on the CubeCL backend itself, without Burn's fusion around it, and in the middle of a fused
//! stream.

use burn::backend::DispatchDevice;
use burn::backend::TensorMetadata;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyLossConfig;
use burn_cross_entropy::backend::CrossEntropyOperation;
use burn_cross_entropy::operation::{
    Forward, Inputs, Logits, Options, Saved, Targets, Wanted, WantedGradients,
};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use crate::common::backends::tests_on;
use crate::common::problem::{self, Outcome, Problem};
use crate::common::run::{self, numbers};
use crate::common::{oracle, tolerance};

type CubeDevice = <CubeBackend as burn::backend::BackendTypes>::Device;

/// The device as the CubeCL backend takes it.
fn of_cubecl(device: &Device) -> CubeDevice {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device) => device.clone(),
        other => panic!("{other:?} is not driven by CubeCL"),
    }
}

fn float(values: &[f64], shape: &[usize], device: &CubeDevice) -> CubeTensor {
    let data = TensorData::new(values.to_vec(), shape.to_vec()).convert_dtype(DType::F32);
    CubeBackend::float_from_data(data, device)
}

fn values(tensor: FloatTensor<CubeBackend>) -> Vec<f64> {
    let data = burn::backend::read_sync(CubeBackend::float_into_data(tensor));
    data.expect("the device computes").iter().collect()
}

fn options(problem: &Problem) -> Options {
    Options {
        class_dim: problem.class_dim,
        ignore_indices: problem.config.ignore_indices.as_slice().into(),
        label_smoothing: problem.config.label_smoothing,
        z_loss: problem.config.z_loss,
        ..Options::default()
    }
}

fn wanted(problem: &Problem) -> WantedGradients {
    WantedGradients {
        targets: matches!(problem.targets, problem::Targets::Distributions(_)),
        ..WantedGradients::LOGITS
    }
}

fn inputs(problem: &Problem, device: &CubeDevice) -> Inputs<CubeBackend> {
    Inputs::new(match &problem.targets {
        problem::Targets::Indices(indices) => {
            let data = TensorData::new(indices.clone(), run::row_shape(problem));
            let data = data.convert_dtype(DType::I32);
            Targets::Indices(CubeBackend::int_from_data(data, device))
        }
        problem::Targets::Distributions(shares) => {
            Targets::Distributions(float(shares, &problem.shape, device))
        }
    })
}

fn problems() -> Vec<Problem> {
    let shapes: [&[usize]; 3] = [&[7, 131], &[2, 5, 33], &[67, 12]];
    let problem = |(seed, shape): (usize, &[usize]), soft| {
        Problem::random(shape, 1, soft, seed as u64)
            .with_config(|config| config.with_label_smoothing(0.1).with_z_loss(0.01))
    };
    let soft = shapes.into_iter().enumerate().map(|of| problem(of, true));
    let indices = shapes.into_iter().enumerate().map(|of| problem(of, false));
    indices.chain(soft).collect()
}

/// The forward keeps the logits. The backward writes over them, and over the distributions, because nothing
/// else holds either.
fn the_backend_alone_computes_in_place(device: &Device) {
    let device = of_cubecl(device);
    for problem in problems() {
        let options = options(&problem);
        let logits = || Logits::Tensor(float(&problem.logits, &problem.shape, &device));
        let inputs = inputs(&problem, &device);
        let wanted = wanted(&problem);
        let Forward { loss, saved, .. } = CubeBackend::cross_entropy(
            logits(),
            inputs.clone(),
            options.clone(),
            Wanted::gradients(wanted),
        );
        let Saved::Statistics { statistics, .. } = &saved else {
            panic!("the logits are kept");
        };
        let rows = problem.rows();
        assert_eq!(statistics.shape().num_elements() / rows, 4);
        let loss = values(loss);
        let alone = CubeBackend::cross_entropy(
            logits(),
            inputs.clone(),
            options.clone(),
            Wanted::default(),
        );
        assert!(matches!(alone.saved, Saved::Nothing));
        assert_eq!(loss, values(alone.loss), "with and without a backward");
        let upstream = float(&problem.upstream, &[1], &device);
        let gradients =
            CubeBackend::cross_entropy_backward(saved, inputs, upstream, options, wanted);
        let logits_gradient = gradients.logits.into_option();
        let logits_gradient = logits_gradient.expect("the logits' gradient was asked for");
        let targets_gradient = gradients.targets.into_option();
        let found = Outcome {
            loss,
            logits_gradient: values(logits_gradient),
            targets_gradient: targets_gradient.map(values),
            terms: problem::Terms::default(),
        };
        let expected = oracle::solve(&problem);
        tolerance::assert_close("unfused", &problem, &found, &expected, DType::F32);
    }
}

/// Operations before and after the loss, none of which has run when the loss is called.
fn the_middle_of_a_fused_stream(device: &Device) {
    for problem in problems() {
        let problem::Targets::Indices(indices) = &problem.targets else {
            continue;
        };
        let [rows, classes] = [problem.rows(), problem.classes()];
        if problem.inner() != 1 {
            continue;
        }
        let halves: Vec<f64> = problem.logits.iter().map(|logit| logit / 2.0).collect();
        let leaf: Tensor<2> = run::float_tensor(&halves, &[rows, classes], (device, DType::F32));
        let leaf = leaf.require_grad();
        let data = TensorData::new(indices.clone(), [rows]);
        let targets = Tensor::<1, Int>::from_data(data, device);
        let config = CrossEntropyLossConfig::new()
            .with_label_smoothing(problem.config.label_smoothing)
            .with_z_loss(problem.config.z_loss);
        let logits = (leaf.clone() + 3.0) * 2.0 - 6.0;
        let loss = config.init(device).forward(logits, targets);
        let doubled = (loss * 4.0 + 1.0) * 0.5;
        let gradient = leaf
            .grad(&doubled.backward())
            .expect("the leaf requires it");
        let expected = oracle::solve(&problem);
        let factor = 4.0 / problem.upstream[0];
        for (found, expected) in numbers(gradient).iter().zip(&expected.logits_gradient) {
            let expected = factor * expected;
            // The logits were rounded on the way.
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        let found = numbers(doubled)[0];
        assert!((found - (2.0 * expected.loss[0] + 0.5)).abs() < 1e-4);
    }
}

tests_on! {
    cubecl: [
        the_backend_alone_computes_in_place,
        the_middle_of_a_fused_stream,
    ],
}
