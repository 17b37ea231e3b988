//! Collection of the results of the chunks: losses and outputs side by side, gradients of rows in their
//! places, gradients that are sums over rows added up.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Slice};

use super::OnLogits;
use super::window::{are_all, slices};
use crate::operation::{
    Gradients, Inputs, MaybeFloat, Projection, RowOutputs, Targets, WantedGradients,
    accumulation_dtype,
};

/// Losses and outputs, chunk by chunk.
pub(super) struct Parts<B: Backend> {
    losses: Vec<FloatTensor<B>>,
    numbers: Vec<FloatTensor<B>>,
    classes: Vec<IntTensor<B>>,
    divisors: Option<FloatTensor<B>>,
}

impl<B: Backend> Default for Parts<B> {
    fn default() -> Self {
        Self {
            losses: Vec::new(),
            numbers: Vec::new(),
            classes: Vec::new(),
            divisors: None,
        }
    }
}

impl<B: Backend> Parts<B> {
    pub(super) fn add(&mut self, loss: FloatTensor<B>, outputs: RowOutputs<B>) {
        self.losses.push(loss);
        if let RowOutputs::PerRow {
            numbers,
            classes,
            divisors,
        } = outputs
        {
            self.numbers.push(numbers);
            self.classes.push(classes);
            self.divisors = Some(match self.divisors.take() {
                None => divisors,
                Some(sum) => B::float_add(sum, divisors),
            });
        }
    }

    pub(super) fn finish(self, is_reduced: bool) -> (FloatTensor<B>, RowOutputs<B>) {
        let one = |mut tensors: Vec<FloatTensor<B>>, dim| match tensors.len() {
            1 => tensors.remove(0),
            _ => B::float_cat(tensors, dim),
        };
        let losses = one(self.losses, 0);
        let mut classes = self.classes;
        let outputs = match self.divisors {
            None => RowOutputs::Nothing,
            Some(divisors) => RowOutputs::PerRow {
                numbers: one(self.numbers, 1),
                classes: match classes.len() {
                    1 => classes.remove(0),
                    _ => B::int_cat(classes, 1),
                },
                divisors,
            },
        };
        let loss = if is_reduced {
            B::float_sum(losses)
        } else {
            losses
        };
        (loss, outputs)
    }
}

/// Gradients, chunk by chunk. Sums over rows are added up in the dtype of the arithmetic.
pub(super) struct Accumulated<B: Backend> {
    wanted: WantedGradients,
    hidden: Option<FloatTensor<B>>,
    weight: Option<FloatTensor<B>>,
    bias: Option<FloatTensor<B>>,
    leading: Option<FloatTensor<B>>,
    targets: Option<FloatTensor<B>>,
    float: FloatDType,
}

impl<B: Backend> Accumulated<B> {
    pub(super) fn new(
        projection: &Projection<B>,
        inputs: &Inputs<B>,
        wanted: WantedGradients,
    ) -> Self {
        let device = projection.hidden.device();
        let zeros = |wanted: bool, tensor: &FloatTensor<B>| {
            let dtype: FloatDType = tensor.dtype().into();
            wanted.then(|| B::float_zeros(tensor.shape(), &device, dtype))
        };
        let leading = projection.leading.as_option();
        Self {
            wanted,
            hidden: zeros(wanted.hidden, &projection.hidden),
            weight: None,
            bias: None,
            leading: leading.and_then(|leading| zeros(wanted.leading, leading)),
            targets: match &inputs.targets {
                Targets::Distributions(targets)
                | Targets::Sparse {
                    shares: targets, ..
                } => zeros(wanted.targets, targets),
                Targets::Indices(_) | Targets::Projected(_) | Targets::Alike(_) => None,
            },
            float: accumulation_dtype(projection.hidden.dtype()),
        }
    }

    /// Adds the gradients of the projection, computed from the gradient of a chunk's logits.
    pub(super) fn add<L: OnLogits<B>>(
        &mut self,
        rows: &Range<usize>,
        hidden: FloatTensor<B>,
        projection: &Projection<B>,
        gradients: Gradients<B>,
    ) {
        if rows.is_empty() {
            return;
        }
        put::<B>(&mut self.targets, rows, gradients.targets.into_option());
        let MaybeFloat::Some(logits) = gradients.logits else {
            return;
        };
        let [features, columns] = projection.weight.shape().dims();
        let logits = match projection.lead() {
            0 => logits,
            lead => {
                let lead = lead as isize;
                let first = [Slice::full(), Slice::new(0, Some(lead), 1)];
                let leading = B::float_slice(logits.clone(), &first);
                put::<B>(&mut self.leading, rows, Some(leading));
                if columns == 0 {
                    return;
                }
                B::float_slice(logits, &[Slice::full(), Slice::new(lead, None, 1)])
            }
        };
        if self.wanted.hidden && features > 0 {
            let weight = B::float_transpose(projection.weight.clone());
            let gradient = B::float_matmul(logits.clone(), weight);
            put::<B>(&mut self.hidden, rows, Some(gradient));
        }
        if self.wanted.weight && features > 0 {
            let gradient = L::product(B::float_transpose(hidden), logits.clone(), self.float);
            add::<B>(&mut self.weight, gradient);
        }
        if self.wanted.bias {
            add::<B>(&mut self.bias, L::column_sums(logits, self.float));
        }
    }

    pub(super) fn finish(self, projection: &Projection<B>) -> Gradients<B> {
        let device = projection.hidden.device();
        let sum = |wanted: bool, sum: Option<FloatTensor<B>>, tensor: &FloatTensor<B>| {
            let dtype: FloatDType = tensor.dtype().into();
            wanted.then(|| match sum {
                None => B::float_zeros(tensor.shape(), &device, dtype),
                Some(sum) => B::float_cast(B::float_reshape(sum, tensor.shape()), dtype),
            })
        };
        let bias = projection.bias.as_option();
        Gradients {
            logits: MaybeFloat::None,
            targets: self.targets.into(),
            hidden: self.hidden.into(),
            weight: sum(self.wanted.weight, self.weight, &projection.weight).into(),
            bias: bias
                .and_then(|bias| sum(self.wanted.bias, self.bias, bias))
                .into(),
            leading: self.leading.into(),
        }
    }
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, term: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        None => term,
        Some(sum) => B::float_add(sum, term),
    });
}

/// Writes a chunk's rows into the whole tensor.
fn put<B: Backend>(
    whole: &mut Option<FloatTensor<B>>,
    rows: &Range<usize>,
    part: Option<FloatTensor<B>>,
) {
    let Some(part) = part else { return };
    *whole = whole.take().map(|all| {
        let part = B::float_cast(part, all.dtype().into());
        match all.shape() {
            shape if are_all(rows, &shape) => part,
            shape => B::float_slice_assign(all, &slices(rows, &shape), part),
        }
    });
}
