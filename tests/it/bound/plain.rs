//! The results of every method of `CrossEntropyLoss`.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyBackend, CrossEntropyLoss, CrossEntropyTarget, ShardStatistics, TargetTensor,
    VocabularyShard,
};

use super::Results;
use crate::common::output::{distributions, indices, logits};
use crate::common::problem::Problem;

const FITS: &str = "the tensors fit each other";

/// A problem with rows behind and before the classes, every third of them ignored, and all options of a row.
fn of_indices() -> Problem {
    Problem::random(&[5, 7, 3], 1, false, 1).with_every_option()
}

fn of_distributions() -> Problem {
    Problem::random(&[3, 11, 5], 1, true, 2).with_every_option()
}

pub fn add_all<B: CrossEntropyBackend>(results: &mut Results, device: &Device) {
    let problem = of_indices();
    let loss = problem.config.init_for::<B>(device);
    let leaf = logits(&problem, device);
    let target = indices(&problem, device).expect("indices");
    let given = (leaf.clone(), target.clone());
    let of_logits = |gradients: &Gradients| vec![("logits", data(&leaf, gradients))];
    add_losses(results, "index targets", &loss, given, &of_logits);
    add_shards(results, &loss, &problem, device);

    let problem = of_distributions();
    let loss = problem.config.init_for::<B>(device);
    let leaf = logits(&problem, device);
    let shares = distributions(&problem, device).require_grad();
    let of_both = |gradients: &Gradients| {
        let of_shares = data(&shares, gradients);
        vec![("logits", data(&leaf, gradients)), ("targets", of_shares)]
    };
    let given = (leaf.clone(), shares.clone());
    add_losses(results, "distributions", &loss, given, &of_both);
    // The loss tracks only one of the two tensors.
    let constant = |tensor: &Tensor<3>| tensor.clone().detach().set_require_grad(false);
    let of_logits = loss.forward(leaf.clone(), constant(&shares));
    results.add_with_gradients("forward, logits alone", of_logits, &of_both);
    let of_shares = loss.forward(constant(&leaf), shares.clone());
    results.add_with_gradients("forward, targets alone", of_shares, &of_both);
}

fn data<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Option<TensorData> {
    leaf.grad(gradients).map(Tensor::into_data)
}

/// Adds the methods that take a target of either kind.
fn add_losses<B: CrossEntropyBackend, T: CrossEntropyTarget<3> + TargetTensor + Clone>(
    results: &mut Results,
    kind: &str,
    loss: &CrossEntropyLoss<B>,
    (logits, target): (Tensor<3>, T),
    of_leaves: super::OfLeaves<'_>,
) {
    let name = |method: &str| format!("{kind}: {method}");
    let given = || (logits.clone(), target.clone());
    let normalizer = || loss.normalizer(target.clone());
    results.add(&name("total_weight"), loss.total_weight(target.clone()));
    results.add(&name("normalizer, weight"), normalizer().total_weight());
    results.add(&name("normalizer, rows"), normalizer().counted_rows());

    let mut add = |method: &str, losses: Tensor<1>| {
        results.add_with_gradients(&name(method), losses, of_leaves);
    };
    let (x, t) = given();
    add("forward", loss.forward(x, t));
    let (x, t) = given();
    add("try_forward", loss.try_forward(x, t).expect(FITS));
    let (x, t) = given();
    add(
        "forward_normalized",
        loss.forward_normalized(x, t, normalizer()),
    );

    let mut add = |method: &str, losses: Tensor<2>| {
        results.add_with_gradients(&name(method), losses, of_leaves);
    };
    let (x, t) = given();
    add("forward_no_reduction", loss.forward_no_reduction(x, t));
    let (x, t) = given();
    let rows = loss.try_forward_no_reduction(x, t);
    add("try_forward_no_reduction", rows.expect(FITS));
    let (x, t) = given();
    add("log_prob", loss.log_prob(x, t));

    let (x, t) = given();
    let output = loss.forward_with_output(x, t);
    results.add_output(&name("forward_with_output"), output, of_leaves);
    let (x, t) = given();
    let output = loss.forward_with_entropy(x, t);
    results.add_output(&name("forward_with_entropy"), output, of_leaves);
    loss.check(&logits, &target).expect(FITS);
}

/// Adds the methods over a part of the classes.
fn add_shards<B: CrossEntropyBackend>(
    results: &mut Results,
    loss: &CrossEntropyLoss<B>,
    problem: &Problem,
    device: &Device,
) {
    let target = || indices(problem, device).expect("indices");
    let leaf = logits(problem, device);
    let shards = [0..3, 3..7].map(|range| VocabularyShard::new(range, 7));
    let part = |shard: &VocabularyShard| {
        let range = shard.range();
        leaf.clone().narrow(1, range.start, range.len())
    };
    let statistics = |shard| loss.shard_statistics(part(shard), target(), shard);
    for shard in &shards {
        results.add("shard_statistics", statistics(shard).into_tensor());
    }
    let all = ShardStatistics::combined(shards.iter().map(statistics));
    results.add("combined", all.clone().into_tensor());
    let normalizer = || loss.normalizer(target());
    let of_logits = |gradients: &Gradients| vec![("logits", data(&leaf, gradients))];
    let mut add = |method: &str, share: Tensor<1>| {
        results.add_with_gradients(method, share, &of_logits);
    };
    for shard in &shards {
        let share = loss.forward_shard(part(shard), target(), shard, &all);
        add("forward_shard", share);
        let share = loss.forward_shard_normalized(part(shard), target(), shard, &all, normalizer());
        add("forward_shard_normalized", share);
    }
}
