//! What the chunks give, one after the other, as one: losses and details side by side, gradients of rows
//! in their places, gradients that are sums added up.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice};

use super::{Chunks, OnLogits, rows_slice};
use crate::operation::linear::{LinearGradients, LinearGradientsOf, MaybeFloat, Projection};
use crate::operation::{Details, Gradients, Targets, accumulation_dtype};

/// Losses and details, chunk by chunk.
pub(super) struct Parts<B: Backend> {
    losses: Vec<FloatTensor<B>>,
    numbers: Vec<FloatTensor<B>>,
    classes: Vec<IntTensor<B>>,
    totals: Option<FloatTensor<B>>,
}

impl<B: Backend> Default for Parts<B> {
    fn default() -> Self {
        Self {
            losses: Vec::new(),
            numbers: Vec::new(),
            classes: Vec::new(),
            totals: None,
        }
    }
}

impl<B: Backend> Parts<B> {
    pub(super) fn add(&mut self, loss: FloatTensor<B>, details: Details<B>) {
        self.losses.push(loss);
        if let Details::PerRow {
            numbers,
            classes,
            totals,
        } = details
        {
            self.numbers.push(numbers);
            self.classes.push(classes);
            self.totals = Some(match self.totals.take() {
                None => totals,
                Some(sum) => B::float_add(sum, totals),
            });
        }
    }

    pub(super) fn finish(self, is_reduced: bool) -> (FloatTensor<B>, Details<B>) {
        let one = |mut tensors: Vec<FloatTensor<B>>, dim| match tensors.len() {
            1 => tensors.remove(0),
            _ => B::float_cat(tensors, dim),
        };
        let losses = one(self.losses, 0);
        let mut classes = self.classes;
        let details = match self.totals {
            None => Details::Nothing,
            Some(totals) => Details::PerRow {
                numbers: one(self.numbers, 1),
                classes: match classes.len() {
                    1 => classes.remove(0),
                    _ => B::int_cat(classes, 1),
                },
                totals,
            },
        };
        let loss = if is_reduced {
            B::float_sum(losses)
        } else {
            losses
        };
        (loss, details)
    }
}

/// Gradients, chunk by chunk. Those that sums over rows go into are added up in the dtype of the
/// arithmetic.
pub(super) struct Accumulated<B: Backend> {
    of: LinearGradientsOf,
    input: Option<FloatTensor<B>>,
    weight: Option<FloatTensor<B>>,
    bias: Option<FloatTensor<B>>,
    own: Option<FloatTensor<B>>,
    targets: Option<FloatTensor<B>>,
    float: FloatDType,
}

impl<B: Backend> Accumulated<B> {
    pub(super) fn new<L: OnLogits<B>>(
        projection: &Projection<B>,
        chunks: &Chunks<'_, B, L>,
        wanted: bool,
    ) -> Self {
        let of = match wanted {
            true => chunks.options.gradients_of,
            false => LinearGradientsOf::default(),
        };
        let zeros = |wanted: bool, tensor: &FloatTensor<B>| {
            let dtype: FloatDType = tensor.dtype().into();
            wanted.then(|| B::float_zeros(tensor.shape(), &chunks.device, dtype))
        };
        Self {
            of,
            input: zeros(of.input, &projection.input),
            weight: None,
            bias: None,
            own: match &projection.own {
                MaybeFloat::Some(own) => zeros(of.own, own),
                MaybeFloat::None => None,
            },
            targets: match &chunks.inputs.targets {
                Targets::Distributions(targets) => zeros(of.targets, targets),
                Targets::Indices(_) => None,
            },
            float: accumulation_dtype(projection.input.dtype()),
        }
    }

    /// Takes in what the gradient of a chunk's logits comes to.
    pub(super) fn add(
        &mut self,
        rows: &Range<usize>,
        input: FloatTensor<B>,
        projection: &Projection<B>,
        gradients: Gradients<B>,
    ) {
        if rows.is_empty() {
            return;
        }
        let (logits, targets) = match gradients {
            Gradients::Logits { logits } => (Some(logits), None),
            Gradients::Targets { targets } => (None, Some(targets)),
            Gradients::Both { logits, targets } => (Some(logits), Some(targets)),
        };
        put::<B>(&mut self.targets, rows, targets);
        let Some(logits) = logits else { return };
        let [features, columns] = projection.weight.shape().dims();
        let logits = match &projection.own {
            MaybeFloat::None => logits,
            MaybeFloat::Some(_) => {
                let own = [Slice::full(), Slice::new(0, Some(1), 1)];
                let own = B::float_slice(logits.clone(), &own);
                let own = B::float_reshape(own, Shape::new([rows.len()]));
                put::<B>(&mut self.own, rows, Some(own));
                if columns == 0 {
                    return;
                }
                B::float_slice(logits, &[Slice::full(), Slice::new(1, None, 1)])
            }
        };
        if self.of.input && features > 0 {
            let weight = B::float_transpose(projection.weight.clone());
            let gradient = B::float_matmul(logits.clone(), weight);
            put::<B>(&mut self.input, rows, Some(gradient));
        }
        if self.of.weight && features > 0 {
            let gradient = B::float_matmul(B::float_transpose(input), logits.clone());
            add::<B>(&mut self.weight, gradient, self.float);
        }
        if self.of.bias {
            let logits = B::float_cast(logits, self.float);
            add::<B>(&mut self.bias, B::float_sum_dim(logits, 0), self.float);
        }
    }

    pub(super) fn finish(self, projection: &Projection<B>) -> LinearGradients<B> {
        let device = projection.input.device();
        let sum = |wanted: bool, sum: Option<FloatTensor<B>>, tensor: &FloatTensor<B>| {
            let dtype: FloatDType = tensor.dtype().into();
            wanted.then(|| match sum {
                None => B::float_zeros(tensor.shape(), &device, dtype),
                Some(sum) => B::float_cast(B::float_reshape(sum, tensor.shape()), dtype),
            })
        };
        LinearGradients {
            input: self.input.into(),
            weight: sum(self.of.weight, self.weight, &projection.weight).into(),
            bias: match &projection.bias {
                MaybeFloat::None => MaybeFloat::None,
                MaybeFloat::Some(bias) => sum(self.of.bias, self.bias, bias).into(),
            },
            own: self.own.into(),
            targets: self.targets.into(),
        }
    }
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, term: FloatTensor<B>, float: FloatDType) {
    let term = B::float_cast(term, float);
    *sum = Some(match sum.take() {
        None => term,
        Some(sum) => B::float_add(sum, term),
    });
}

/// Writes a chunk's rows.
fn put<B: Backend>(
    whole: &mut Option<FloatTensor<B>>,
    rows: &Range<usize>,
    part: Option<FloatTensor<B>>,
) {
    let Some(part) = part else { return };
    *whole = whole.take().map(|all| {
        let mut window = vec![Slice::full(); all.shape().num_dims()];
        window[0] = rows_slice(rows);
        let part = B::float_cast(part, all.dtype().into());
        B::float_slice_assign(all, &window, part)
    });
}
