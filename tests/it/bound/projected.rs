//! Every method of `LinearCrossEntropyLoss`, and of `CrossEntropyLoss` over a projection.

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyBackend, CrossEntropyLoss, CrossEntropyTarget, LinearCrossEntropyLoss,
    LinearCrossEntropyLossConfig, ProjectedLogits, TargetTensor,
};

use super::Results;
use crate::common::backends::is_host;
use crate::common::problem::Targets;
use crate::common::run::float_tensor;
use crate::linear::projected::Projected;

const FITS: &str = "the tensors fit each other";
/// Sizes of batch, sequence, features and classes. Burn tunes a matrix product for sizes up to the next power
/// of two, which is 8 for all products here and for those of the contrastive loss.
const SIZES: [usize; 4] = [2, 3, 5, 7];

/// The tensors of a projection, all of them leaves.
struct Leaves {
    input: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
}

impl Leaves {
    fn new(projected: &Projected, device: &Device) -> Self {
        let [batch, length, features, classes] = SIZES;
        let options = (device, DType::F32);
        let bias = projected.bias.as_ref().expect("there is one");
        Self {
            input: float_tensor(&projected.input, &[batch, length, features], options)
                .require_grad(),
            weight: float_tensor(&projected.weight, &[features, classes], options).require_grad(),
            bias: float_tensor(bias, &[classes], options).require_grad(),
        }
    }

    fn gradients(&self, of: &Gradients) -> Vec<(&'static str, Option<TensorData>)> {
        vec![
            ("input", self.input.grad(of).map(Tensor::into_data)),
            ("weight", self.weight.grad(of).map(Tensor::into_data)),
            ("bias", self.bias.grad(of).map(Tensor::into_data)),
        ]
    }

    fn logits(&self, chunk: Option<usize>) -> ProjectedLogits<3> {
        let logits = ProjectedLogits::new(self.input.clone(), self.weight.clone());
        let logits = logits.with_bias(Some(self.bias.clone()));
        match chunk {
            Some(rows) => logits.with_chunk_rows(rows),
            None => logits,
        }
    }

    fn linear(&self, device: &Device) -> Linear {
        let [_, _, features, classes] = SIZES;
        let mut linear = LinearConfig::new(features, classes).init(device);
        linear.weight = Param::from_tensor(self.weight.clone());
        linear.bias = Some(Param::from_tensor(self.bias.clone()));
        linear
    }
}

pub fn add_all<B: CrossEntropyBackend>(results: &mut Results, device: &Device) {
    let [batch, length, features, classes] = SIZES;
    // Chunks of fewer rows are products of other sizes.
    let cases: &[(bool, Option<usize>)] = match is_host(device) {
        true => &[(false, Some(4)), (false, None), (true, Some(4))],
        false => &[(false, None), (true, None)],
    };
    for &(soft, chunk) in cases {
        let projected = Projected::random([batch * length, features, classes], soft, 3)
            .with(|problem| problem.with_every_option());
        let config = projected.problem.config.clone();
        let losses = Losses {
            linear: LinearCrossEntropyLossConfig::new()
                .with_loss(config.clone())
                .with_chunk_rows(chunk)
                .init_for::<B>(device),
            // Distributions alone do not tell that their classes are in the last dimension.
            of_logits: config.with_class_dim(-1).init_for::<B>(device),
            chunk,
        };
        let leaves = Leaves::new(&projected, device);
        match &projected.problem.targets {
            Targets::Indices(indices) => {
                let data = TensorData::new(indices.clone(), [batch, length]);
                let target = Tensor::<2, Int>::from_data(data, device);
                let of_leaves = |of: &Gradients| leaves.gradients(of);
                let kind = format!("projection, index targets, chunks of {chunk:?}");
                add_losses(results, &kind, &losses, (&leaves, target), &of_leaves);
            }
            Targets::Distributions(shares) => {
                let shape = [batch, length, classes];
                let shares: Tensor<3> = float_tensor(shares, &shape, (device, DType::F32));
                let shares = shares.require_grad();
                let of_leaves = |of: &Gradients| {
                    let mut all = leaves.gradients(of);
                    all.push(("targets", shares.grad(of).map(Tensor::into_data)));
                    all
                };
                let given = (&leaves, shares.clone());
                add_losses(
                    results,
                    "projection, distributions",
                    &losses,
                    given,
                    &of_leaves,
                );
            }
        }
    }
}

/// One configuration, as the loss of a projection and as the loss of any logits.
struct Losses<B: CrossEntropyBackend> {
    linear: LinearCrossEntropyLoss<B>,
    of_logits: CrossEntropyLoss<B>,
    chunk: Option<usize>,
}

fn add_losses<B: CrossEntropyBackend, T: CrossEntropyTarget<3> + TargetTensor + Clone>(
    results: &mut Results,
    kind: &str,
    losses: &Losses<B>,
    (leaves, target): (&Leaves, T),
    of_leaves: super::OfLeaves<'_>,
) {
    let name = |method: &str| format!("{kind}: {method}");
    let t = || target.clone();
    let given = || {
        (
            leaves.input.clone(),
            leaves.weight.clone(),
            Some(leaves.bias.clone()),
        )
    };
    let Losses {
        linear: loss,
        of_logits,
        chunk,
    } = losses;
    let normalizer = || of_logits.normalizer(t());

    let mut add = |method: &str, losses: Tensor<1>| {
        results.add_with_gradients(&name(method), losses, of_leaves);
    };
    let (x, w, b) = given();
    add("forward", loss.forward(x, w, b, t()));
    let (x, w, b) = given();
    add("try_forward", loss.try_forward(x, w, b, t()).expect(FITS));
    let (x, w, b) = given();
    add(
        "forward, no bias",
        loss.forward(x, w, b.filter(|_| false), t()),
    );
    let logits = || leaves.logits(*chunk);
    add("forward, logits", of_logits.forward(logits(), t()));
    let share = of_logits.forward_normalized(logits(), t(), normalizer());
    add("forward_normalized", share);
    let linear = leaves.linear(&leaves.input.device());
    add(
        "forward_linear",
        loss.forward_linear(leaves.input.clone(), &linear, t()),
    );

    add_rows(results, kind, losses, (leaves, target), of_leaves);
}

/// Adds the methods that return a number for every row.
fn add_rows<B: CrossEntropyBackend, T: CrossEntropyTarget<3> + TargetTensor + Clone>(
    results: &mut Results,
    kind: &str,
    losses: &Losses<B>,
    (leaves, target): (&Leaves, T),
    of_leaves: super::OfLeaves<'_>,
) {
    let name = |method: &str| format!("{kind}: {method}");
    let t = || target.clone();
    let logits = || leaves.logits(losses.chunk);
    let mut add = |method: &str, losses: Tensor<2>| {
        results.add_with_gradients(&name(method), losses, of_leaves);
    };
    let (x, w, b) = (
        leaves.input.clone(),
        leaves.weight.clone(),
        Some(leaves.bias.clone()),
    );
    let rows = losses.linear.forward_no_reduction(x, w, b, t());
    add("forward_no_reduction", rows);
    let loss = &losses.of_logits;
    let rows = loss.try_forward_no_reduction(logits(), t());
    add("try_forward_no_reduction", rows.expect(FITS));
    add("log_prob", loss.log_prob(logits(), t()));

    let output = loss.forward_with_output(logits(), t());
    results.add_output(&name("forward_with_output"), output, of_leaves);
    let output = loss.forward_with_entropy(logits(), t());
    results.add_output(&name("forward_with_entropy"), output, of_leaves);
}
