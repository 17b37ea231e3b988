//! Compares the projection and the loss in one, on a backend without an implementation, with plain tensor
//! operations in f64 on Flex.

use burn::nn::loss::Reduction;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyLossConfig, LinearCrossEntropyLoss, LinearCrossEntropyLossConfig, ProjectedLogits,
};

use super::floats;

const ROWS: usize = 7;
const FEATURES: usize = 3;
const CLASSES: usize = 5;
const LABELS: [i64; ROWS] = [4, 0, -100, 2, 2, -100, 1];

/// Rows of a chunk: one, numbers that do not divide the rows, all, more.
const CHUNKS: [usize; 6] = [1, 2, 3, 5, 7, 100];

const SMOOTHING: f64 = 0.125;
const Z_LOSS: f64 = 0.0625;
const SCALE: f64 = 0.5;
const SOFTCAP: f64 = 3.0;
const CLASS_WEIGHTS: [f64; CLASSES] = [1.0, 0.5, 2.0, 0.25, 3.0];
const UPSTREAM: [f64; ROWS] = [0.5, -1.5, 2.0, 3.0, -0.25, 1.0, 0.75];
const UPSTREAM_OF_REDUCED: f64 = -2.5;

/// The reductions of the losses; `None` is one loss per row.
const REDUCTIONS: [Option<Reduction>; 4] = [
    None,
    Some(Reduction::Mean),
    Some(Reduction::Sum),
    Some(Reduction::BatchMean),
];

/// The options of a call, without its numbers.
#[derive(Clone, Copy, Debug)]
struct Case {
    reduction: Option<&'static Reduction>,
    chunk: usize,
    has_bias: bool,
    is_soft: bool,
    /// Whether input, weight, bias and target distributions require a gradient.
    tracked: [bool; 4],
}

/// The loss, and the gradients of input, weight, bias and target distributions.
struct Found {
    loss: Vec<f64>,
    gradients: [Option<Vec<f64>>; 4],
}

/// A tensor of numbers around `mean` without a pattern that rows, features or classes share.
fn leaf<const D: usize>(
    shape: [usize; D],
    mean: f64,
    is_tracked: bool,
    (device, dtype): (&Device, DType),
) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let number = |at: usize| mean + ((at + count) as f64 * 1.618).sin();
    let numbers: Vec<f64> = (0..count).map(number).collect();
    let data = TensorData::new(numbers, shape).convert_dtype(dtype);
    let tensor = Tensor::from_data(data, (device, dtype));
    if is_tracked {
        tensor.require_grad()
    } else {
        tensor
    }
}

/// The tensors of a call, in one dtype on one device.
struct Given {
    input: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    shares: Tensor<2>,
}

impl Given {
    fn new(case: Case, dtype: DType, device: &Device) -> Self {
        let [input, weight, bias, shares] = case.tracked;
        let on = (device, dtype);
        Self {
            input: leaf([ROWS, FEATURES], 0.0, input, on),
            weight: leaf([FEATURES, CLASSES], 0.0, weight, on),
            bias: leaf([CLASSES], 0.0, bias, on),
            shares: leaf([ROWS, CLASSES], 1.0, shares, on),
        }
    }

    fn found(self, case: Case, loss: Tensor<1>) -> Found {
        let double = |data: TensorData| data.iter::<f64>().collect::<Vec<_>>();
        let values = double(loss.to_data());
        if !case.tracked.contains(&true) {
            return Found {
                loss: values,
                gradients: [None, None, None, None],
            };
        }
        let objective = match case.reduction {
            None => {
                let data = TensorData::new(UPSTREAM.to_vec(), [ROWS]).convert_dtype(loss.dtype());
                let upstream = Tensor::from_data(data, (&loss.device(), loss.dtype()));
                (loss * upstream).sum()
            }
            Some(_) => loss * UPSTREAM_OF_REDUCED,
        };
        let gradients = objective.backward();
        let of = |tensor: &Tensor<2>| tensor.grad(&gradients).map(|grad| double(grad.into_data()));
        let of_bias = self.bias.grad(&gradients);
        Found {
            loss: values,
            gradients: [
                of(&self.input),
                of(&self.weight),
                of_bias.map(|gradient| double(gradient.into_data())),
                of(&self.shares),
            ],
        }
    }
}

fn loss_config(case: Case) -> CrossEntropyLossConfig {
    let weights = CLASS_WEIGHTS.map(|weight| weight as f32);
    let reduction = case.reduction.cloned().unwrap_or(Reduction::Mean);
    CrossEntropyLossConfig::new()
        .with_label_smoothing(SMOOTHING)
        .with_z_loss(Z_LOSS)
        .with_logit_scale(SCALE)
        .with_logit_softcap(Some(SOFTCAP))
        .with_weight(Some(weights.to_vec()))
        .with_reduction(reduction)
}

fn loss_of(case: Case, device: &Device) -> LinearCrossEntropyLoss {
    LinearCrossEntropyLossConfig::new()
        .with_loss(loss_config(case))
        .with_chunk_rows(Some(case.chunk))
        .init(device)
}

fn found(case: Case) -> Found {
    let device = Device::ndarray().autodiff();
    let given = Given::new(case, DType::F32, &device);
    let input = given.input.clone();
    let value = value_of(case, &given, input, &device);
    given.found(case, value)
}

fn value_of(case: Case, given: &Given, input: Tensor<2>, device: &Device) -> Tensor<1> {
    let loss = loss_of(case, device);
    let (weight, shares) = (given.weight.clone(), given.shares.clone());
    let bias = case.has_bias.then(|| given.bias.clone());
    let labels = Tensor::<1, Int>::from_ints(LABELS, device);
    match (case.reduction, case.is_soft) {
        (None, true) => loss.forward_no_reduction(input, weight, bias, shares),
        (None, false) => loss.forward_no_reduction(input, weight, bias, labels),
        (Some(_), true) => loss.forward(input, weight, bias, shares),
        (Some(_), false) => loss.forward(input, weight, bias, labels),
    }
}

/// The result in f64 and in one piece, with Burn's own gradients.
fn expected(case: Case) -> Found {
    let device = Device::flex().autodiff();
    let given = Given::new(case, DType::F64, &device);
    let constant = |numbers: Vec<f64>, shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(numbers, shape), (&device, DType::F64))
    };
    let logits = given.input.clone().matmul(given.weight.clone());
    let logits = if case.has_bias {
        logits + given.bias.clone().unsqueeze()
    } else {
        logits
    };
    let x = (logits * (SCALE / SOFTCAP)).tanh() * SOFTCAP;
    let log_p = log_softmax(x.clone(), 1);
    let lse = (x - log_p.clone()).narrow(1, 0, 1);

    let counts = |label: &i64| case.is_soft || *label != -100;
    let counted: Vec<f64> = LABELS
        .iter()
        .map(|label| f64::from(counts(label)))
        .collect();
    let total: f64 = if case.is_soft {
        ROWS as f64
    } else {
        let counted = LABELS.iter().filter(|label| counts(label));
        counted.map(|&label| CLASS_WEIGHTS[label as usize]).sum()
    };
    let number: f64 = counted.iter().sum();
    let target = if case.is_soft {
        given.shares.clone()
    } else {
        let classes = 0..CLASSES as i64;
        let one_hot = LABELS.iter().flat_map(|label| {
            let is_target = move |class| f64::from(class == *label);
            classes.clone().map(is_target)
        });
        constant(one_hot.collect(), [ROWS, CLASSES])
    };
    let shares = target * (1.0 - SMOOTHING) + SMOOTHING / CLASSES as f64;
    let shares = shares * constant(CLASS_WEIGHTS.to_vec(), [1, CLASSES]);
    let counted = constant(counted, [ROWS, 1]);
    let losses = (shares * log_p).sum_dim(1).neg() * counted.clone();
    let penalties = lse.clone() * lse * Z_LOSS * counted;
    let value = match case.reduction {
        None => (losses + penalties).squeeze_dim(1),
        Some(Reduction::Sum) => (losses + penalties).sum(),
        Some(Reduction::BatchMean) => (losses + penalties).sum() / ROWS as f64,
        Some(_) => losses.sum() / total + penalties.sum() / number,
    };
    given.found(case, value)
}

/// Asserts agreement of sums of a few dozen numbers of about 1 in f32.
#[track_caller]
fn assert_close(name: &str, case: Case, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name} of {case:?}");
    for (found, expected) in found.iter().zip(expected) {
        let bound = 4e-6 * expected.abs().max(1.0);
        let difference = (found - expected).abs();
        assert!(difference < bound, "{name} of {case:?}: {found} {expected}");
    }
}

#[track_caller]
fn assert_same(case: Case, found: &Found, expected: &Found) {
    assert_close("loss", case, &found.loss, &expected.loss);
    let names = ["input", "weight", "bias", "target"];
    let gradients = found.gradients.iter().zip(&expected.gradients);
    for (name, (found, expected)) in names.into_iter().zip(gradients) {
        assert_eq!(found.is_some(), expected.is_some(), "{name} of {case:?}");
        if let (Some(found), Some(expected)) = (found, expected) {
            assert_close(name, case, found, expected);
        }
    }
}

/// Every reduction over both kinds of target.
fn cases() -> impl Iterator<Item = Case> {
    REDUCTIONS.iter().flat_map(|reduction| {
        [false, true].map(|is_soft| Case {
            reduction: reduction.as_ref(),
            chunk: 3,
            has_bias: true,
            is_soft,
            tracked: [true, true, true, is_soft],
        })
    })
}

#[test]
fn a_projection_has_the_loss_and_gradients_of_its_logits_in_chunks_of_every_size() {
    for case in cases() {
        for chunk in CHUNKS {
            let case = Case { chunk, ..case };
            let expected = expected(case);
            assert_eq!(expected.gradients[2].as_ref().map(Vec::len), Some(CLASSES));
            assert_same(case, &found(case), &expected);
        }
    }
}

#[test]
fn a_projection_needs_no_bias() {
    for case in cases() {
        let case = Case {
            has_bias: false,
            tracked: [true, true, false, case.is_soft],
            ..case
        };
        assert_same(case, &found(case), &expected(case));
    }
}

#[test]
fn only_what_requires_a_gradient_gets_one() {
    for case in cases() {
        for of in 0..16 {
            let tracked = [1, 2, 4, 8].map(|bit| of & bit != 0);
            if tracked[3] && !case.is_soft {
                continue;
            }
            let case = Case { tracked, ..case };
            let found = found(case);
            for (gradient, is_tracked) in found.gradients.iter().zip(tracked) {
                assert_eq!(gradient.is_some(), is_tracked, "{case:?}");
            }
            assert_same(case, &found, &expected(case));
        }
    }
}

/// An ignored row spoils neither its loss nor, through the product with the input, the gradient of the
/// weight.
#[test]
fn an_ignored_row_spoils_nothing_whatever_its_input_holds() {
    let ignored = LABELS.map(|label| label == -100);
    for case in cases().filter(|case| !case.is_soft) {
        let device = Device::ndarray().autodiff();
        let given = Given::new(case, DType::F32, &device);
        let spoil: Vec<f32> = ignored
            .iter()
            .flat_map(|&ignored| [if ignored { f32::NAN } else { 0.0 }; FEATURES])
            .collect();
        let spoil = Tensor::from_data(TensorData::new(spoil, [ROWS, FEATURES]), &device);
        let input = given.input.clone() + spoil;
        let value = value_of(case, &given, input, &device);
        assert_same(case, &given.found(case, value), &expected(case));
    }
}

#[test]
fn the_details_of_a_projection_are_those_of_its_logits() {
    let device = Device::ndarray().autodiff();
    for case in cases().filter(|case| case.reduction.is_some()) {
        let given = Given::new(case, DType::F32, &device);
        let logits = given.input.clone().matmul(given.weight.clone());
        let logits = logits + given.bias.clone().unsqueeze();
        let projected = ProjectedLogits::new(given.input, given.weight)
            .with_bias(Some(given.bias))
            .with_chunk_rows(case.chunk);
        let loss = loss_config(case).init(&device);
        let labels = Tensor::<1, Int>::from_ints(LABELS, &device);
        let (found, expected) = if case.is_soft {
            let shares = given.shares;
            (
                loss.forward_with_entropy(projected, shares.clone()),
                loss.forward_with_entropy(logits, shares),
            )
        } else {
            (
                loss.forward_with_entropy(projected, labels.clone()),
                loss.forward_with_entropy(logits, labels),
            )
        };
        let integers =
            |tensor: Tensor<1, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(integers(found.predicted), integers(expected.predicted));
        assert_eq!(integers(found.target_rank), integers(expected.target_rank));
        assert_eq!(
            integers(found.target_class),
            integers(expected.target_class)
        );
        let entropies = [found.entropy, expected.entropy].map(|it| it.expect("it was asked for"));
        let [found_entropy, expected_entropy] = entropies;
        super::assert_close(&floats(found.lse), &floats(expected.lse));
        super::assert_close(&floats(found.log_prob), &floats(expected.log_prob));
        let [found_max, expected_max] = [found.max_log_prob, expected.max_log_prob].map(floats);
        super::assert_close(&found_max, &expected_max);
        super::assert_close(&floats(found_entropy), &floats(expected_entropy));
    }
}
