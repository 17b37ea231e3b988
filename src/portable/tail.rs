//! The tail of sparse distributions: the share that the classes besides a row's entries have together.
//!
//! The loss is that of the entries plus the tail's part, and so are the gradients. With `R` and `E` the sums of
//! exponentials over the rest and over the entries, both beside one maximum, and `t` the tail:
//!
//! ```text
//! loss   = t (lse - lse_rest) = t ln(1 + E / R)
//! dx[c]  = t E / (E + R) exp(x[c]) / E       at an entry
//!        = -t E / (E + R) exp(x[c]) / R      elsewhere
//! ```
//!
//! No sum is a difference of others, so that the loss keeps its digits where the entries have almost nothing and where
//! they have almost all.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice};

use super::call::{Call, Rows, Scores};
use super::counting::{Counting, Ignored};
use super::elementary::{cast, data, is_minus_infinity, log1p};
use super::sparse::Entries;
use crate::operation::{
    Forward, Geometry, Gradients, Inputs, MaybeFloat, Options, RowOutputs, Targets,
    WantedGradients, accumulation_dtype,
};

/// Computes a loss whose sparse distributions may have tails by `plain`, which takes them without.
pub(crate) fn forward<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: &Options,
    plain: impl FnOnce(FloatTensor<B>, Inputs<B>) -> Forward<B>,
) -> Forward<B> {
    if !inputs.targets.have_tails() {
        return plain(logits, inputs);
    }
    let call = Call::<B>::new(&logits, options);
    let (inputs, tail) = apart(inputs, options.class_dim);
    let parts = call.parts(logits.clone(), &inputs, tail);
    let forward = plain(logits, inputs.clone());
    let losses = parts.losses(&call);
    let outputs = match forward.outputs {
        RowOutputs::Nothing => RowOutputs::Nothing,
        RowOutputs::PerRow {
            numbers,
            classes,
            divisors,
        } => RowOutputs::PerRow {
            numbers: call.with_log_prob_of_tail(numbers, parts.rows.settle(losses.clone())),
            classes,
            divisors,
        },
    };
    // The tail has no z-loss, as if it were of probabilities.
    let scores = Scores::Probabilities(parts.share.clone());
    let loss = call.reduced(losses, &scores, &parts.rows, &inputs);
    Forward {
        loss: B::float_add(forward.loss, loss),
        outputs,
        ..forward
    }
}

/// Computes the gradients of a loss whose sparse distributions may have tails by `plain`, which takes them without.
pub(crate) fn backward<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &Options,
    wanted: WantedGradients,
    plain: impl FnOnce(FloatTensor<B>, Inputs<B>, FloatTensor<B>) -> Gradients<B>,
) -> Gradients<B> {
    if !inputs.targets.have_tails() {
        return plain(logits, inputs, upstream);
    }
    let call = Call::<B>::new(&logits, options);
    let dtype: FloatDType = logits.dtype().into();
    let (inputs, tail) = apart(inputs, options.class_dim);
    // The sum of two gradients is rounded once.
    let logits = cast::<B>(logits, call.float);
    let parts = call.parts(logits.clone(), &inputs, tail);
    let (scale, _) = call.upstream_scales(upstream.clone(), &parts.rows);
    let of_logits = wanted.logits.then(|| {
        let gradient = parts.logits_gradient(&call, scale.clone());
        let gradient = call.chain_transform(gradient, call.view(logits.clone()));
        let gradient = parts.rows.settle_full(gradient, &call.geometry);
        B::float_reshape(gradient, call.shape.clone())
    });
    let of_tail = wanted.targets.then(|| parts.share_gradient(&call, scale));
    let gradients = plain(logits, inputs, upstream);
    let sum = |a: MaybeFloat<B>, b: Option<FloatTensor<B>>| match (a.into_option(), b) {
        (Some(a), Some(b)) => MaybeFloat::Some(B::float_cast(B::float_add(a, b), dtype)),
        _ => MaybeFloat::None,
    };
    let targets = match (gradients.targets.into_option(), of_tail) {
        (Some(shares), Some(tail)) => MaybeFloat::Some(joined::<B>(shares, tail, options)),
        _ => MaybeFloat::None,
    };
    Gradients {
        logits: sum(gradients.logits, of_logits),
        targets,
        ..gradients
    }
}

/// What a row's shares leave of 1, at least 0, in the shape of the shares with one in the place of the entries.
/// Ignored classes have no share.
pub(crate) fn rest_of_shares<B: Backend>(
    classes: IntTensor<B>,
    shares: FloatTensor<B>,
    options: &Options,
) -> FloatTensor<B> {
    let (shape, float) = (shares.shape(), accumulation_dtype(shares.dtype()));
    let mut of_tail = shape.clone();
    of_tail[options.class_dim] = 1;
    if shape.num_elements() == 0 {
        // CubeCL cannot fill tensors without elements.
        return data::<B>(of_tail, 1.0, &shares.device(), float);
    }
    let entries = Geometry::new(&shape, options.class_dim).full();
    let ignored = Ignored {
        indices: &options.ignore_indices,
        weights: None,
    };
    let counting = Counting::<B>::new(classes, entries.clone(), None, ignored);
    let shares = cast::<B>(B::float_reshape(shares, entries.clone()), float);
    let sum = B::float_sum_dim(counting.settle(shares, entries), 1);
    let rest = B::float_add_scalar(B::float_neg(sum), 1.0.into());
    B::float_reshape(B::float_clamp_min(rest, 0.0.into()), of_tail)
}

/// Shares of entries followed by those of the tails, in the wider of their dtypes.
pub(crate) fn with_tails<B: Backend>(
    shares: FloatTensor<B>,
    tails: FloatTensor<B>,
    class_dim: usize,
) -> FloatTensor<B> {
    // CubeCL cannot concatenate tensors without elements.
    if shares.shape().num_elements() == 0 {
        return tails;
    }
    let dtype = match shares.dtype() == tails.dtype() {
        true => shares.dtype().into(),
        false => match [shares.dtype(), tails.dtype()].map(accumulation_dtype) {
            [FloatDType::F32, FloatDType::F32] => FloatDType::F32,
            _ => FloatDType::F64,
        },
    };
    let tensors = [shares, tails].map(|tensor| cast::<B>(tensor, dtype));
    B::float_cat(tensors.to_vec(), class_dim)
}

/// Gradients of entries followed by those of the tails, in the dtype of the former.
fn joined<B: Backend>(
    shares: FloatTensor<B>,
    tails: FloatTensor<B>,
    options: &Options,
) -> FloatTensor<B> {
    let mut of_tail = shares.shape();
    of_tail[options.class_dim] = 1;
    let tails = B::float_cast(B::float_reshape(tails, of_tail), shares.dtype().into());
    with_tails::<B>(shares, tails, options.class_dim)
}

/// The inputs without tails, and the tails.
fn apart<B: Backend>(inputs: Inputs<B>, class_dim: usize) -> (Inputs<B>, FloatTensor<B>) {
    let Targets::Sparse { classes, shares } = inputs.targets else {
        unreachable!("sparse distributions alone have tails");
    };
    let count = shares.shape()[class_dim] as isize - 1;
    let part = |from: isize, to: isize| {
        let mut window = vec![Slice::full(); shares.shape().num_dims()];
        window[class_dim] = Slice::new(from, Some(to), 1);
        B::float_slice(shares.clone(), &window)
    };
    let tail = part(count, count + 1);
    let shares = match count {
        0 => {
            let mut nothing = shares.shape();
            nothing[class_dim] = 0;
            B::float_zeros(nothing, &shares.device(), shares.dtype().into())
        }
        _ => part(0, count),
    };
    let targets = Targets::Sparse { classes, shares };
    (Inputs { targets, ..inputs }, tail)
}

/// Exponentials of some of the classes of each row.
struct Sums<B: Backend> {
    maximum: FloatTensor<B>,
    /// Sum of `exp(x - maximum)` without the maximum's own 1; -1 where there is no class.
    others: FloatTensor<B>,
}

impl<B: Backend> Sums<B> {
    fn whole(&self) -> FloatTensor<B> {
        B::float_add_scalar(self.others.clone(), 1.0.into())
    }

    fn is_empty(&self, call: &Call<'_, B>) -> BoolTensor<B> {
        B::float_equal_elem(self.whole(), 0.0.into(), call.bool)
    }

    /// `factor / sum` at every class, 0 where there is none.
    fn parts(
        &self,
        factor: FloatTensor<B>,
        x: FloatTensor<B>,
        call: &Call<'_, B>,
    ) -> FloatTensor<B> {
        let factor = B::float_div(factor, self.whole());
        let factor = B::float_mask_fill(factor, self.is_empty(call), 0.0.into());
        let exponentials = B::float_exp(call.difference(x, self.maximum.clone()));
        B::float_mul(exponentials, factor)
    }
}

/// The entries and the rest of each row.
struct Parts<B: Backend> {
    rows: Rows<B>,
    /// Share of the tail.
    share: FloatTensor<B>,
    x: FloatTensor<B>,
    is_entry: BoolTensor<B>,
    entries: Sums<B>,
    rest: Sums<B>,
    /// `exp` of the entries' log-sum-exp and of that of the rest, both beside the larger maximum.
    sizes: [FloatTensor<B>; 2],
}

impl<B: Backend> Call<'_, B> {
    fn parts(&self, logits: FloatTensor<B>, inputs: &Inputs<B>, tail: FloatTensor<B>) -> Parts<B> {
        let entries = Entries::<B>::of(inputs, &logits, self.options);
        let is_entry = entries.mask(self.float, self.bool);
        let x = self.transformed(self.view(logits));
        let is_rest = B::bool_not(is_entry.clone());
        let without = |mask| B::float_mask_fill(x.clone(), mask, f64::NEG_INFINITY.into());
        let of_both = [without(is_rest), without(is_entry.clone())];
        let maxima = of_both.clone().map(|x| B::float_max_dim(x, 1));
        // In place of the maximum of no class stands that of the others.
        let or = |a: &FloatTensor<B>, b: FloatTensor<B>| {
            let nothing = is_minus_infinity::<B>(a.clone(), self.bool);
            B::float_mask_where(a.clone(), nothing, b)
        };
        let zero = B::float_zeros(self.geometry.per_row(), &self.device, self.float);
        let [of_entries, of_rest] = &maxima;
        let maxima = [
            or(of_entries, of_rest.clone()),
            or(of_rest, of_entries.clone()),
        ];
        let maxima = maxima.map(|maximum| or(&maximum, zero.clone()));
        let [entries, rest] = [0, 1].map(|at| {
            let (x, maximum) = (of_both[at].clone(), maxima[at].clone());
            let is_maximum = self.equals_row(x.clone(), maximum.clone());
            Sums::<B> {
                others: self.others_than(is_maximum, x, maximum.clone()),
                maximum,
            }
        });
        let above = self.difference(entries.maximum.clone(), rest.maximum.clone());
        let size = |sums: &Sums<B>, above: FloatTensor<B>| {
            let beside = B::float_exp(B::float_clamp_max(above, 0.0.into()));
            B::float_mul(sums.whole(), beside)
        };
        let sizes = [
            size(&entries, above.clone()),
            size(&rest, B::float_neg(above)),
        ];
        Parts {
            rows: self.rows(inputs),
            share: cast::<B>(B::float_reshape(tail, self.geometry.per_row()), self.float),
            x,
            is_entry,
            entries,
            rest,
            sizes,
        }
    }

    /// Numbers of the outputs whose log-probability has that of the tail, minus these losses.
    fn with_log_prob_of_tail(
        &self,
        numbers: FloatTensor<B>,
        losses: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let log_prob = B::float_sub(self.unstacked(&numbers, 1), losses);
        let line = Shape::new([1, self.geometry.rows()]);
        let window = [Slice::new(1, Some(2), 1), Slice::full()];
        B::float_slice_assign(numbers, &window, B::float_reshape(log_prob, line))
    }
}

impl<B: Backend> Parts<B> {
    /// `lse - lse_rest`.
    fn surprisals(&self, call: &Call<'_, B>) -> FloatTensor<B> {
        let [entries, rest] = self.sizes.clone();
        let log1p = |number| log1p::<B>(number, call.bool);
        let small = log1p(B::float_div(entries.clone(), rest.clone()));
        let maxima = [&self.entries, &self.rest].map(|sums| sums.maximum.clone());
        let [of_entries, of_rest] = maxima;
        let above = call.difference(of_entries, of_rest);
        let sums = B::float_sub(
            log1p(self.entries.others.clone()),
            log1p(self.rest.others.clone()),
        );
        let further = log1p(B::float_div(rest.clone(), entries.clone()));
        let large = B::float_add(B::float_add(above, sums), further);
        let is_small = B::float_lower_equal(entries, rest, call.bool);
        let surprisals = B::float_mask_where(large, is_small, small);
        B::float_mask_fill(surprisals, self.rest.is_empty(call), f64::INFINITY.into())
    }

    /// `t (lse - lse_rest)`; a tail of 0 adds nothing.
    fn losses(&self, call: &Call<'_, B>) -> FloatTensor<B> {
        let nothing = B::float_equal_elem(self.share.clone(), 0.0.into(), call.bool);
        let losses = B::float_mul(self.share.clone(), self.surprisals(call));
        B::float_mask_fill(losses, nothing, 0.0.into())
    }

    /// Gradient of the scores under a factor of each row.
    fn logits_gradient(&self, call: &Call<'_, B>, scale: FloatTensor<B>) -> FloatTensor<B> {
        let [entries, rest] = self.sizes.clone();
        let p = B::float_div(entries.clone(), B::float_add(entries, rest));
        let push = B::float_mul(B::float_mul(scale, self.share.clone()), p);
        let at_rest = self
            .rest
            .parts(B::float_neg(push.clone()), self.x.clone(), call);
        let at_entries = self.entries.parts(push, self.x.clone(), call);
        B::float_mask_where(at_rest, self.is_entry.clone(), at_entries)
    }

    /// Gradient of the tails' shares under a factor of each row: nothing of an infinite one arrives through a factor of
    /// 0.
    fn share_gradient(&self, call: &Call<'_, B>, scale: FloatTensor<B>) -> FloatTensor<B> {
        let surprisals = self.surprisals(call);
        let scale = B::float_expand(scale, call.geometry.per_row());
        let nothing = B::float_equal_elem(scale.clone(), 0.0.into(), call.bool);
        let infinite = B::float_is_inf(surprisals.clone(), call.bool);
        let gradient = B::float_mul(surprisals, scale);
        let lost = B::bool_and(nothing, infinite);
        (self.rows).settle(B::float_mask_fill(gradient, lost, 0.0.into()))
    }
}
