//! The cross-entropy and its gradients in plain tensor operations.
//!
//! This is the portable implementation, for tensors on a backend without a fused one, and what the
//! fused ones are tested and timed against. It holds tensors of the size of the logits while it
//! computes (several of them), which is what the fused ones are there to avoid.
//!
//! Every function first views the logits as `[outer, classes, inner]` ([`Geometry`]), so that all
//! ranks and class dimensions are one case, and casts to the accumulation dtype. Both kinds of
//! target become *shares* `a[c]`, the factor of `-ln p[c]` in the loss of a row:
//!
//! ```text
//! q[c] = (1 - e) p[c] + e / C       p one-hot for an index, e the label smoothing
//! a[c] = w[c] q[c]                  w the class weights
//! loss = sum_c a[c] (lse - x[c])    a share of 0 adds nothing, also where x[c] is -inf
//! dx   = (sum_c a[c]) softmax(x) - a
//! ```
//!
//! [`CrossEntropyLoss`](crate::CrossEntropyLoss) is the door; called directly, for a test or a
//! measurement, shapes and options are the caller's to get right:
//!
//! ```
//! use burn::backend::Dispatch;
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_cross_entropy::operation::{
//!     ClassWeights, Denominators, DetailsOf, GradientsOf, InputValues, Inputs, Options,
//!     RowReduction, Targets,
//! };
//! use burn_cross_entropy::{EmptyReduction, reference};
//!
//! let device = Device::flex();
//! let logits = Tensor::<2>::zeros([3, 2], &device).into_dispatch();
//! let targets = Tensor::<1, Int>::zeros([3], &device).into_dispatch();
//! let options = Options {
//!     class_dim: 1,
//!     ignore_indices: [-100].as_slice().into(),
//!     label_smoothing: 0.0,
//!     values: InputValues::Logits { scale: 1.0, softcap: None },
//!     z_loss: 0.0,
//!     reduction: RowReduction::Sum,
//!     empty: EmptyReduction::Nan,
//!     gradients_of: GradientsOf::Logits,
//!     keep: false,
//!     details: DetailsOf::Nothing,
//! };
//! let inputs = Inputs {
//!     targets: Targets::Indices(targets),
//!     weights: ClassWeights::Equal,
//!     normalizer: Denominators::OfRows,
//! };
//! let result = reference::cross_entropy::<Dispatch>(logits, inputs, &options);
//! let loss = Tensor::<1>::from_dispatch(result.loss).into_scalar::<f32>();
//! assert!((loss - 3.0 * 2f32.ln()).abs() < 1e-6);
//! ```

mod counting;
mod details;
mod elementary;
mod shard;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{BoolDType, FloatDType, Shape, Slice};

use self::counting::Counting;
use self::elementary::{
    cast, data, full, log1p, reshape_scalar, sum_all, sum_classes, tanh, tanh_slope,
};

pub(crate) use self::elementary::cast_int;
pub(crate) use self::shard::{
    ShardCall, combined_statistics, shard_loss, shard_statistics, statistics_per_row,
};

use crate::operation::{
    ClassWeights, Denominators, EmptyReduction, Forward, Geometry, Gradients, GradientsOf,
    InputValues, Inputs, NOTHING_SAVED, Options, RowReduction, Saved, Targets, accumulation_dtype,
};

/// The loss in the shape of [`Options::loss_shape`], and what else the options ask for.
pub fn cross_entropy<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: &Options,
) -> Forward<B> {
    let call = Call::<B>::new(&logits, options);
    if call.geometry.rows() == 0 {
        return Forward {
            loss: call.loss_of_no_rows(&inputs),
            saved: call.nothing_saved(logits),
            details: call.details_of_no_rows(),
        };
    }
    let scores = call.scores(logits.clone());
    let rows = call.rows(&inputs);
    let loss = call.loss(&scores, &inputs, &rows);
    let details = call.details(&scores, &inputs, &rows);
    let saved = match scores {
        _ if !options.keep => Saved::Nothing,
        Scores::Logits {
            maximum, others, ..
        } => Saved::Logits {
            logits,
            statistics: call.stacked([maximum, others]),
            denominators: call.denominators(&rows),
        },
        Scores::Probabilities(_) => Saved::AsGiven { input: logits },
    };
    Forward {
        loss,
        saved,
        details,
    }
}

/// The gradients for an upstream gradient in the shape of the loss.
pub fn cross_entropy_backward<B: Backend>(
    saved: Saved<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &Options,
) -> Gradients<B> {
    let (logits, statistics) = match saved {
        Saved::Logits {
            logits, statistics, ..
        } => (logits, Some(statistics)),
        Saved::AsGiven { input } => (input, None),
        Saved::Gradients { gradients } => {
            return multiplied::<B>(gradients, upstream, options);
        }
        Saved::Nothing => unreachable!("{NOTHING_SAVED}"),
    };
    let call = Call::<B>::new(&logits, options);
    let logits_dtype: FloatDType = logits.dtype().into();
    let logits_shape = logits.shape();
    if call.geometry.rows() == 0 {
        return call.gradients_of_no_rows(logits, inputs);
    }
    let scores = match statistics {
        Some(statistics) => Scores::Logits {
            x: call.transformed(call.view(logits.clone())),
            maximum: call.unstacked(&statistics, 0),
            others: call.unstacked(&statistics, 1),
        },
        None => call.scores(logits.clone()),
    };
    let rows = call.rows(&inputs);
    let scales = call.upstream_scales(upstream, &rows);

    let logits_gradient = || {
        let gradient = call.logits_gradient(&scores, call.view(logits), &inputs, &rows, &scales);
        B::float_cast(B::float_reshape(gradient, logits_shape), logits_dtype)
    };
    let targets_gradient = || {
        let Targets::Distributions(targets) = &inputs.targets else {
            unreachable!("index targets have no gradient, so none is asked for");
        };
        let gradient = call.targets_gradient(&scores, &inputs, &scales);
        let gradient = B::float_reshape(gradient, targets.shape());
        B::float_cast(gradient, targets.dtype().into())
    };
    match options.gradients_of {
        GradientsOf::Logits => Gradients::Logits {
            logits: logits_gradient(),
        },
        GradientsOf::Targets => Gradients::Targets {
            targets: targets_gradient(),
        },
        GradientsOf::Both => Gradients::Both {
            targets: targets_gradient(),
            logits: logits_gradient(),
        },
    }
}

/// Gradients that were made for an upstream gradient of 1. (This implementation saves none.)
fn multiplied<B: Backend>(
    gradients: Gradients<B>,
    upstream: FloatTensor<B>,
    options: &Options,
) -> Gradients<B> {
    let multiply = |gradient: FloatTensor<B>| {
        let (shape, dtype) = (gradient.shape(), gradient.dtype());
        let call = Call::<B>::new(&gradient, options);
        let upstream = cast::<B>(upstream.clone(), call.float);
        let upstream = match options.reduction {
            RowReduction::None => B::float_reshape(upstream, call.geometry.per_row()),
            _ => reshape_scalar::<B>(upstream),
        };
        let product = B::float_mul(call.view(gradient), upstream);
        cast::<B>(B::float_reshape(product, shape), dtype.into())
    };
    gradients.map(multiply)
}

/// The denominator of [`RowReduction::Mean`] over index targets, shape `[1]`: the sum of
/// `weights[target]` over the counted rows, in f32.
pub fn total_weight<B: Backend>(
    indices: IntTensor<B>,
    weights: ClassWeights<B>,
    ignore_indices: &[i64],
) -> FloatTensor<B> {
    let rows = indices.shape().num_elements();
    let classes = match &weights {
        ClassWeights::Equal => None,
        ClassWeights::PerClass(weights) => Some(weights.shape().num_elements()),
    };
    let counting = Counting::<B>::new(indices, Shape::new([rows]), classes, ignore_indices);
    counting.total_weight(&weights, FloatDType::F32)
}

/// What [`RowReduction::Mean`] divides the losses and the z-losses of index targets by, shape `[2]`.
pub(crate) fn denominators_of_mean<B: Backend>(
    indices: IntTensor<B>,
    weights: &ClassWeights<B>,
    classes: usize,
    options: &Options,
    float: FloatDType,
) -> FloatTensor<B> {
    let rows = indices.shape().num_elements();
    if rows == 0 {
        return full::<B>(Shape::new([2]), 0.0, &indices.device(), float);
    }
    let ignored = &options.ignore_indices;
    let counting = Counting::<B>::new(indices, Shape::new([rows]), Some(classes), ignored);
    let numbers =
        [weights, &ClassWeights::Equal].map(|weights| counting.total_weight(weights, float));
    B::float_cat(numbers.to_vec(), 0)
}

/// The rows of a tensor `[rows, _]`, made 0 where an index target does not count.
pub(crate) fn counted_rows_of<B: Backend>(
    tensor: FloatTensor<B>,
    indices: IntTensor<B>,
    classes: usize,
    options: &Options,
) -> FloatTensor<B> {
    let shape = tensor.shape();
    let rows = Shape::new([shape[0], 1]);
    let counting = Counting::<B>::new(indices, rows, Some(classes), &options.ignore_indices);
    let dropped = B::bool_expand(counting.dropped(), shape);
    B::float_mask_fill(tensor, dropped, 0.0.into())
}

/// The surprisals' source: transformed logits with their row statistics, or probabilities.
enum Scores<B: Backend> {
    Logits {
        x: FloatTensor<B>,
        maximum: FloatTensor<B>,
        others: FloatTensor<B>,
    },
    Probabilities(FloatTensor<B>),
}

/// What is known of every row from its target alone.
struct Rows<B: Backend> {
    /// Absent for distributions: every row counts.
    counting: Option<Counting<B>>,
    /// What the losses and the z-losses are divided by, shape `[1, 1, 1]`; for means only.
    totals: Option<(FloatTensor<B>, FloatTensor<B>)>,
}

/// A contiguous part of all classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassWindow {
    /// The first class of the part.
    pub(crate) first: usize,
    /// The number of all classes.
    pub(crate) of: usize,
}

/// One call: its options, the geometry of its logits, and the dtypes of its arithmetic.
struct Call<'a, B: Backend> {
    options: &'a Options,
    geometry: Geometry,
    /// What of the vocabulary the classes of the logits are.
    window: ClassWindow,
    shape: Shape,
    device: B::Device,
    float: FloatDType,
    bool: BoolDType,
}

impl<'a, B: Backend> Call<'a, B> {
    fn new(logits: &FloatTensor<B>, options: &'a Options) -> Self {
        let window = ClassWindow {
            first: 0,
            of: logits.shape()[options.class_dim],
        };
        Self::on_window(logits, window, options)
    }

    fn on_window(logits: &FloatTensor<B>, window: ClassWindow, options: &'a Options) -> Self {
        let shape = logits.shape();
        let device = logits.device();
        Self {
            options,
            geometry: Geometry::new(&shape, options.class_dim),
            window,
            shape,
            float: accumulation_dtype(logits.dtype()),
            bool: get_or_init_device_settings::<B>(&device).bool_dtype,
            device,
        }
    }

    /// A tensor of the shape of the logits as `[outer, classes, inner]` in the accumulation dtype.
    fn view(&self, tensor: FloatTensor<B>) -> FloatTensor<B> {
        cast::<B>(B::float_reshape(tensor, self.geometry.full()), self.float)
    }

    /// Scale and softcap of the logits; the identity for probabilities.
    fn transformed(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let InputValues::Logits { scale, softcap } = self.options.values else {
            return x;
        };
        let x = if scale == 1.0 {
            x
        } else {
            B::float_mul_scalar(x, scale.into())
        };
        match softcap {
            None => x,
            Some(cap) => {
                let bent = tanh::<B>(B::float_div_scalar(x, cap.into()), self.bool);
                B::float_mul_scalar(bent, cap.into())
            }
        }
    }

    fn scores(&self, logits: FloatTensor<B>) -> Scores<B> {
        let x = self.transformed(self.view(logits));
        if self.options.values == InputValues::Probabilities {
            return Scores::Probabilities(x);
        }
        let maximum = B::float_max_dim(x.clone(), 1);
        let others = self.others(x.clone(), maximum.clone());
        Scores::Logits { x, maximum, others }
    }

    /// `sum_c exp(x[c] - maximum)` without the maximum's own 1, which is left to `log1p`: the loss
    /// of a confident row is the logarithm of the sum, and keeps its relative accuracy so.
    fn others(&self, x: FloatTensor<B>, maximum: FloatTensor<B>) -> FloatTensor<B> {
        let is_maximum = self.equals_row(x.clone(), maximum.clone());
        let others = self.others_than(is_maximum, x, maximum.clone());
        self.without_distribution(others, maximum)
    }

    /// [`Self::others`] before a look at the maximum.
    fn others_than(
        &self,
        is_maximum: BoolTensor<B>,
        x: FloatTensor<B>,
        maximum: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let ties = sum_classes::<B>(B::bool_into_float(is_maximum.clone(), self.float));
        let others = B::float_exp(B::float_sub(x, maximum));
        let others = sum_classes::<B>(B::float_mask_fill(others, is_maximum, 0.0.into()));
        B::float_add(others, B::float_sub_scalar(ties, 1.0.into()))
    }

    /// The others, NaN where the row has no finite maximum and so no distribution.
    fn without_distribution(
        &self,
        others: FloatTensor<B>,
        maximum: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let infinite = B::float_is_inf(maximum, self.bool);
        B::float_mask_fill(others, infinite, f64::NAN.into())
    }

    /// Where the elements of `x` equal the number of their row.
    fn equals_row(&self, x: FloatTensor<B>, row: FloatTensor<B>) -> BoolTensor<B> {
        let row = B::float_expand(row, self.geometry.full());
        B::float_equal(x, row, self.bool)
    }

    /// `-ln p[c]` of every class.
    fn surprisals(&self, scores: &Scores<B>) -> FloatTensor<B> {
        match scores {
            Scores::Logits { x, maximum, others } => B::float_add(
                B::float_sub(maximum.clone(), x.clone()),
                log1p::<B>(others.clone(), self.bool),
            ),
            Scores::Probabilities(s) => B::float_neg(B::float_log(s.clone())),
        }
    }

    fn per_class(&self, weights: &FloatTensor<B>) -> FloatTensor<B> {
        let ClassWindow { first, of } = self.window;
        let classes = self.geometry.classes;
        let weights = if classes == of {
            weights.clone()
        } else {
            let (first, end) = (first as isize, (first + classes) as isize);
            B::float_slice(weights.clone(), &[Slice::new(first, Some(end), 1)])
        };
        cast::<B>(
            B::float_reshape(weights, self.geometry.per_class()),
            self.float,
        )
    }

    /// The shares `a[c]` of every class, and where they are 0.
    fn shares(
        &self,
        inputs: &Inputs<B>,
        counting: Option<&Counting<B>>,
    ) -> (FloatTensor<B>, BoolTensor<B>) {
        let target = match (&inputs.targets, counting) {
            (Targets::Distributions(targets), _) => self.view(targets.clone()),
            (Targets::Indices(_), Some(counting)) => self.one_hot(counting),
            (Targets::Indices(_), None) => unreachable!("indices are always counted"),
        };
        let smoothing = self.options.label_smoothing;
        let mut shares = if smoothing == 0.0 {
            target
        } else {
            let even = smoothing / self.window.of as f64;
            let kept = B::float_mul_scalar(target, (1.0 - smoothing).into());
            B::float_add_scalar(kept, even.into())
        };
        if let ClassWeights::PerClass(weights) = &inputs.weights {
            shares = B::float_mul(shares, self.per_class(weights));
        }
        let none = B::float_equal_elem(shares.clone(), 0.0.into(), self.bool);
        (shares, none)
    }

    fn one_hot(&self, counting: &Counting<B>) -> FloatTensor<B> {
        B::bool_into_float(self.is_target(counting), self.float)
    }

    /// Where the class is the target.
    fn is_target(&self, counting: &Counting<B>) -> BoolTensor<B> {
        let full = self.geometry.full();
        let first = self.window.first as i64;
        let classes = B::int_arange(
            first..first + self.geometry.classes as i64,
            &self.device,
            counting.index.dtype().into(),
        );
        let classes = B::int_expand(
            B::int_reshape(classes, self.geometry.per_class()),
            full.clone(),
        );
        let index = B::int_expand(counting.index.clone(), full);
        B::int_equal(classes, index, self.bool)
    }

    fn rows(&self, inputs: &Inputs<B>) -> Rows<B> {
        let counting = match &inputs.targets {
            Targets::Indices(indices) => Some(Counting::new(
                indices.clone(),
                self.geometry.per_row(),
                Some(self.window.of),
                &self.options.ignore_indices,
            )),
            Targets::Distributions(_) => None,
        };
        let totals = match self.options.reduction {
            RowReduction::Mean => {
                let all = || self.full_row(self.geometry.rows() as f64);
                Some(match &counting {
                    Some(counting) => (
                        reshape_scalar::<B>(counting.total_weight(&inputs.weights, self.float)),
                        reshape_scalar::<B>(
                            counting.total_weight(&ClassWeights::Equal, self.float),
                        ),
                    ),
                    None => (all(), all()),
                })
            }
            RowReduction::Normalized => Some(self.given_denominators(inputs)),
            RowReduction::None | RowReduction::Sum | RowReduction::BatchMean(_) => None,
        };
        Rows { counting, totals }
    }

    fn given_denominators(&self, inputs: &Inputs<B>) -> (FloatTensor<B>, FloatTensor<B>) {
        let Denominators::Given(numbers) = &inputs.normalizer else {
            unreachable!("a normalised loss comes with what it is divided by");
        };
        let number = |at: isize| {
            let one = B::float_slice(numbers.clone(), &[Slice::new(at, Some(at + 1), 1)]);
            reshape_scalar::<B>(cast::<B>(one, self.float))
        };
        (number(0), number(1))
    }

    fn full_row(&self, value: f64) -> FloatTensor<B> {
        full::<B>(Shape::new([1, 1, 1]), value, &self.device, self.float)
    }

    /// `2 z lse` and `z lse^2` are made of this; absent where the z-loss is off.
    fn penalised_lse(&self, scores: &Scores<B>) -> Option<FloatTensor<B>> {
        if self.options.z_loss == 0.0 {
            return None;
        }
        self.lse(scores)
    }

    /// The log-sum-exp of every row; of probabilities there is none.
    fn lse(&self, scores: &Scores<B>) -> Option<FloatTensor<B>> {
        match scores {
            Scores::Logits {
                maximum, others, ..
            } => Some(B::float_add(
                maximum.clone(),
                log1p::<B>(others.clone(), self.bool),
            )),
            Scores::Probabilities(_) => None,
        }
    }

    /// The losses, NaN where the row has no distribution, also if none of its classes has a share.
    fn spoiled(&self, losses: FloatTensor<B>, scores: &Scores<B>) -> FloatTensor<B> {
        match scores {
            Scores::Probabilities(_) => losses,
            Scores::Logits { others, .. } => {
                let spoiled = B::float_is_nan(others.clone(), self.bool);
                B::float_mask_fill(losses, spoiled, f64::NAN.into())
            }
        }
    }

    fn loss_of_no_rows(&self, inputs: &Inputs<B>) -> FloatTensor<B> {
        let shape = self.options.loss_shape(&self.shape);
        if self.options.reduction == RowReduction::Normalized {
            // 0, unless there were no other rows either.
            let row = Shape::new([1, 1, 1]);
            let zero = data::<B>(row, 0.0, &self.device, self.float);
            let (total, _) = self.given_denominators(inputs);
            return B::float_reshape(self.mean(zero, &total), shape);
        }
        let value = match (self.options.reduction, self.options.empty) {
            (RowReduction::Mean | RowReduction::BatchMean(0), EmptyReduction::Nan) => f64::NAN,
            _ => 0.0,
        };
        data::<B>(shape, value, &self.device, self.float)
    }

    fn nothing_saved(&self, logits: FloatTensor<B>) -> Saved<B> {
        match self.options.values {
            _ if !self.options.keep => Saved::Nothing,
            InputValues::Probabilities => Saved::AsGiven { input: logits },
            InputValues::Logits { .. } => {
                let nothing = |shape| data::<B>(shape, 0.0, &self.device, self.float);
                Saved::Logits {
                    logits,
                    statistics: nothing(Shape::new([2, 0])),
                    denominators: nothing(Shape::new([2])),
                }
            }
        }
    }

    /// Tensors without elements are their own gradients.
    fn gradients_of_no_rows(&self, logits: FloatTensor<B>, inputs: Inputs<B>) -> Gradients<B> {
        let targets = match inputs.targets {
            Targets::Distributions(targets) => targets,
            Targets::Indices(_) => return Gradients::Logits { logits },
        };
        match self.options.gradients_of {
            GradientsOf::Logits => Gradients::Logits { logits },
            GradientsOf::Targets => Gradients::Targets { targets },
            GradientsOf::Both => Gradients::Both { logits, targets },
        }
    }

    /// Numbers per row as one tensor of shape `[numbers, rows]`.
    fn stacked<const N: usize>(&self, numbers: [FloatTensor<B>; N]) -> FloatTensor<B> {
        let line = Shape::new([1, self.geometry.rows()]);
        let lines = numbers.map(|number| B::float_reshape(number, line.clone()));
        B::float_cat(lines.to_vec(), 0)
    }

    /// One of the stacked numbers, in the shape of [`Geometry::per_row`].
    fn unstacked(&self, stacked: &FloatTensor<B>, at: isize) -> FloatTensor<B> {
        let line = [Slice::new(at, Some(at + 1), 1), Slice::full()];
        let line = B::float_slice(stacked.clone(), &line);
        B::float_reshape(line, self.geometry.per_row())
    }

    /// What the losses and the z-losses are divided by, for a reader that knows nothing of the rows.
    fn denominators(&self, rows: &Rows<B>) -> FloatTensor<B> {
        let one = |number: &FloatTensor<B>| B::float_reshape(number.clone(), Shape::new([1]));
        match (&rows.totals, self.options.reduction) {
            (Some((total, counted)), _) => B::float_cat(vec![one(total), one(counted)], 0),
            (None, RowReduction::BatchMean(samples)) => {
                full::<B>(Shape::new([2]), samples as f64, &self.device, self.float)
            }
            (None, _) => full::<B>(Shape::new([2]), 1.0, &self.device, self.float),
        }
    }

    fn loss(&self, scores: &Scores<B>, inputs: &Inputs<B>, rows: &Rows<B>) -> FloatTensor<B> {
        let (shares, none) = self.shares(inputs, rows.counting.as_ref());
        let terms = B::float_mul(shares, self.surprisals(scores));
        let losses = sum_classes::<B>(B::float_mask_fill(terms, none, 0.0.into()));
        self.reduced(losses, scores, rows)
    }

    /// The result, of the losses of the rows without their penalties.
    fn reduced(
        &self,
        losses: FloatTensor<B>,
        scores: &Scores<B>,
        rows: &Rows<B>,
    ) -> FloatTensor<B> {
        let output = self.options.loss_shape(&self.shape);
        let losses = self.spoiled(losses, scores);
        let losses = rows.settle(losses);
        let penalties = self.penalised_lse(scores).map(|lse| {
            let square = B::float_mul(lse.clone(), lse);
            rows.settle(B::float_mul_scalar(square, self.options.z_loss.into()))
        });
        let loss = match &rows.totals {
            None => {
                let losses = match penalties {
                    None => losses,
                    Some(penalties) => B::float_add(losses, penalties),
                };
                match self.options.reduction {
                    RowReduction::None => losses,
                    RowReduction::BatchMean(samples) => {
                        B::float_div_scalar(sum_all::<B>(losses), (samples as f64).into())
                    }
                    RowReduction::Sum | RowReduction::Mean | RowReduction::Normalized => {
                        sum_all::<B>(losses)
                    }
                }
            }
            Some((total, counted)) => {
                let mean = self.mean(losses, total);
                match penalties {
                    None => mean,
                    Some(penalties) => B::float_add(mean, self.mean(penalties, counted)),
                }
            }
        };
        B::float_reshape(loss, output)
    }

    /// The sum of `losses` over `total`, or what `empty` says where that is 0.
    fn mean(&self, losses: FloatTensor<B>, total: &FloatTensor<B>) -> FloatTensor<B> {
        let sum = reshape_scalar::<B>(sum_all::<B>(losses));
        let nothing = B::float_equal_elem(total.clone(), 0.0.into(), self.bool);
        let spoiled = B::float_is_nan(sum.clone(), self.bool);
        let value = match self.options.empty {
            EmptyReduction::Nan => f64::NAN,
            EmptyReduction::Zero => 0.0,
        };
        let mean = B::float_mask_fill(B::float_div(sum, total.clone()), nothing, value.into());
        // A bad target is no empty mean.
        B::float_mask_fill(mean, spoiled, f64::NAN.into())
    }

    /// What the gradient of each row's loss, and that of its z-loss, is multiplied by.
    fn upstream_scales(
        &self,
        upstream: FloatTensor<B>,
        rows: &Rows<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let upstream = cast::<B>(upstream, self.float);
        let upstream = match self.options.reduction {
            RowReduction::None => B::float_reshape(upstream, self.geometry.per_row()),
            RowReduction::BatchMean(samples) => {
                B::float_div_scalar(reshape_scalar::<B>(upstream), (samples as f64).into())
            }
            RowReduction::Sum | RowReduction::Mean | RowReduction::Normalized => {
                reshape_scalar::<B>(upstream)
            }
        };
        match &rows.totals {
            None => (upstream.clone(), upstream),
            Some((total, counted)) => (
                self.share_of(upstream.clone(), total),
                self.share_of(upstream, counted),
            ),
        }
    }

    /// `upstream / total`, 0 where there is nothing to share it among.
    fn share_of(&self, upstream: FloatTensor<B>, total: &FloatTensor<B>) -> FloatTensor<B> {
        let nothing = B::float_equal_elem(total.clone(), 0.0.into(), self.bool);
        B::float_mask_fill(B::float_div(upstream, total.clone()), nothing, 0.0.into())
    }

    fn logits_gradient(
        &self,
        scores: &Scores<B>,
        logits: FloatTensor<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
        scales: &(FloatTensor<B>, FloatTensor<B>),
    ) -> FloatTensor<B> {
        let (shares, none) = self.shares(inputs, rows.counting.as_ref());
        let gradient = match scores {
            Scores::Probabilities(s) => {
                let gradient = B::float_neg(B::float_div(shares, s.clone()));
                let gradient = B::float_mask_fill(gradient, none, 0.0.into());
                B::float_mul(gradient, scales.0.clone())
            }
            Scores::Logits { x, maximum, others } => {
                let softmax = self.softmax(x, maximum, others);
                // Where the others' sum is below 1, the largest class has more than a half.
                let majority = B::float_lower_elem(others.clone(), 1.0.into(), self.bool);
                let majority = B::bool_and(
                    self.equals_row(x.clone(), maximum.clone()),
                    B::bool_expand(majority, self.geometry.full()),
                );
                let gradient = self.softmax_gradient(softmax.clone(), shares, majority);
                let gradient = self.with_penalty(gradient, softmax, scores, scales);
                self.chain_transform(gradient, logits)
            }
        };
        rows.settle_full(gradient, &self.geometry)
    }

    fn softmax(
        &self,
        x: &FloatTensor<B>,
        maximum: &FloatTensor<B>,
        others: &FloatTensor<B>,
    ) -> FloatTensor<B> {
        let exponential = B::float_exp(B::float_sub(x.clone(), maximum.clone()));
        let sum = B::float_add_scalar(others.clone(), 1.0.into());
        B::float_div(exponential, sum)
    }

    /// The gradient of the rows' losses, multiplied by what reaches them, and that of the z-losses.
    fn with_penalty(
        &self,
        gradient: FloatTensor<B>,
        softmax: FloatTensor<B>,
        scores: &Scores<B>,
        (scale, penalty_scale): &(FloatTensor<B>, FloatTensor<B>),
    ) -> FloatTensor<B> {
        let gradient = B::float_mul(gradient, scale.clone());
        match self.penalised_lse(scores) {
            None => gradient,
            Some(lse) => {
                let slope = B::float_mul_scalar(lse, (2.0 * self.options.z_loss).into());
                let slope = B::float_mul(slope, penalty_scale.clone());
                B::float_add(gradient, B::float_mul(softmax, slope))
            }
        }
    }

    /// `A softmax - a` with `A = sum_c a[c]`. At a class of more than half the probability that
    /// difference cancels when the row is confident, so there it is minus the sum of the others,
    /// which it equals because a row of this gradient sums to 0. (Below a half it is that sum which
    /// cancels, when the target is another class.)
    fn softmax_gradient(
        &self,
        softmax: FloatTensor<B>,
        shares: FloatTensor<B>,
        majority: BoolTensor<B>,
    ) -> FloatTensor<B> {
        let total = sum_classes::<B>(shares.clone());
        let gradient = B::float_sub(B::float_mul(softmax, total), shares);
        let others = B::float_mask_fill(gradient.clone(), majority.clone(), 0.0.into());
        let rest = B::float_neg(sum_classes::<B>(others));
        let rest = B::float_expand(rest, self.geometry.full());
        B::float_mask_where(gradient, majority, rest)
    }

    /// The chain rule through softcap and scale: `dx/dlogit = scale (1 - tanh^2)`.
    fn chain_transform(&self, gradient: FloatTensor<B>, logits: FloatTensor<B>) -> FloatTensor<B> {
        let InputValues::Logits { scale, softcap } = self.options.values else {
            return gradient;
        };
        let gradient = match softcap {
            None => gradient,
            Some(cap) => {
                let v = B::float_mul_scalar(logits, (scale / cap).into());
                B::float_mul(gradient, tanh_slope::<B>(v))
            }
        };
        if scale == 1.0 {
            gradient
        } else {
            B::float_mul_scalar(gradient, scale.into())
        }
    }

    /// `d loss / d p[c] = (1 - e) w[c] (-ln p[c])`, 0 where its factor is.
    fn targets_gradient(
        &self,
        scores: &Scores<B>,
        inputs: &Inputs<B>,
        (scale, _): &(FloatTensor<B>, FloatTensor<B>),
    ) -> FloatTensor<B> {
        let kept = 1.0 - self.options.label_smoothing;
        if kept == 0.0 {
            return full::<B>(self.geometry.full(), 0.0, &self.device, self.float);
        }
        let gradient = B::float_mul_scalar(self.surprisals(scores), kept.into());
        let gradient = match &inputs.weights {
            ClassWeights::Equal => gradient,
            ClassWeights::PerClass(weights) => {
                let weights = self.per_class(weights);
                let none = B::float_equal_elem(weights.clone(), 0.0.into(), self.bool);
                let none = B::bool_expand(none, self.geometry.full());
                B::float_mask_fill(B::float_mul(gradient, weights), none, 0.0.into())
            }
        };
        B::float_mul(gradient, scale.clone())
    }
}

impl<B: Backend> Rows<B> {
    /// What is known of index targets.
    fn indices(&self) -> &Counting<B> {
        let Some(counting) = &self.counting else {
            unreachable!("indices are always counted");
        };
        counting
    }

    /// A number per row, made 0 where the row is ignored and NaN where its target is no class. By
    /// selection, never by multiplication, which would let the NaN of an ignored row through.
    fn settle(&self, per_row: FloatTensor<B>) -> FloatTensor<B> {
        match &self.counting {
            None => per_row,
            Some(counting) => {
                let shape = per_row.shape();
                counting.settle(per_row, shape)
            }
        }
    }

    fn settle_full(&self, full: FloatTensor<B>, geometry: &Geometry) -> FloatTensor<B> {
        match &self.counting {
            None => full,
            Some(counting) => counting.settle(full, geometry.full()),
        }
    }
}
