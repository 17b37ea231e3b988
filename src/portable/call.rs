//! One call as scores, shares and counted rows, from which loss and gradient are computed.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{BoolDType, FloatDType, Shape, Slice};

use super::counting::{Counting, Ignored, RowWeights};
use super::elementary::{
    cast, full, is_minus_infinity, log1p, reshape_scalar, scaled_difference, sum_classes, tanh,
};
use crate::operation::shard::ClassWindow;
use crate::operation::{
    Geometry, InputValues, Inputs, MaybeFloat, Options, RowReduction, TargetValues, Targets,
    accumulation_dtype, bend_of,
};

/// Source of the surprisals: scores of logits with the row statistics, or probabilities.
pub(super) enum Scores<B: Backend> {
    Logits {
        x: FloatTensor<B>,
        maximum: FloatTensor<B>,
        others: FloatTensor<B>,
    },
    Probabilities(FloatTensor<B>),
}

/// Classes of each row that are not masked.
#[derive(Clone)]
pub(super) struct Valid<B: Backend> {
    /// Mask of the other classes, in the shape of the logits.
    pub(super) masked: BoolTensor<B>,
    /// Number of valid classes of each row.
    pub(super) count: FloatTensor<B>,
}

impl<B: Backend> Valid<B> {
    /// Share of a class that is not masked, where they have this share together; one number per row.
    pub(super) fn even(&self, smoothing: f64) -> FloatTensor<B> {
        B::float_mul_scalar(B::float_recip(self.count.clone()), smoothing.into())
    }
}

/// Facts of all rows that follow from their targets alone.
pub(super) struct Rows<B: Backend> {
    /// Absent for distributions.
    pub(super) counting: Option<Counting<B>>,
    /// Weights of the rows, where they are given.
    pub(super) weights: Option<RowWeights<B>>,
    pub(super) divisor: Divisor<B>,
}

/// Divisor of the sum over the rows.
pub(super) enum Divisor<B: Backend> {
    /// The losses are not added up.
    PerRow,
    Number(f64),
    /// Divisor of the losses and divisor of the z-losses, shape `[2]`.
    Pair(FloatTensor<B>),
}

/// One call: its options, the geometry of its logits, and the dtypes of its arithmetic.
pub(super) struct Call<'a, B: Backend> {
    pub(super) options: &'a Options,
    pub(super) geometry: Geometry,
    /// Window of the vocabulary that the classes of the logits are.
    pub(super) window: ClassWindow,
    pub(super) shape: Shape,
    pub(super) device: B::Device,
    pub(super) float: FloatDType,
    pub(super) bool: BoolDType,
}

impl<'a, B: Backend> Call<'a, B> {
    pub(super) fn new(logits: &FloatTensor<B>, options: &'a Options) -> Self {
        let window = ClassWindow {
            first: 0,
            of: logits.shape()[options.class_dim],
        };
        Self::on_window(logits, window, options)
    }

    pub(super) fn on_window(
        logits: &FloatTensor<B>,
        window: ClassWindow,
        options: &'a Options,
    ) -> Self {
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

    /// Tensor of the logits' shape as `[outer, classes, inner]` in the accumulation dtype.
    pub(super) fn view(&self, tensor: FloatTensor<B>) -> FloatTensor<B> {
        cast::<B>(B::float_reshape(tensor, self.geometry.full()), self.float)
    }

    /// Scores of logits: the logits, or with a softcap the capped ones. The identity for probabilities.
    pub(super) fn transformed(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let InputValues::Logits {
            scale,
            softcap: Some(cap),
        } = self.options.values
        else {
            return x;
        };
        let bent = B::float_mul_scalar(x.clone(), bend_of(scale, cap).into());
        let capped = B::float_mul_scalar(tanh::<B>(bent, self.bool), cap.into());
        // Infinite logits are masks, not numbers: they pass.
        let infinite = B::float_is_inf(x.clone(), self.bool);
        B::float_mask_where(capped, infinite, x)
    }

    /// Difference of scores, as one of scaled logits.
    pub(super) fn difference(&self, a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
        scaled_difference::<B>(a, b, self.options.scale_of_scores())
    }

    pub(super) fn scores(&self, logits: FloatTensor<B>) -> Scores<B> {
        let x = self.transformed(self.view(logits));
        if self.options.values == InputValues::Probabilities {
            return Scores::Probabilities(x);
        }
        let maximum = B::float_max_dim(x.clone(), 1);
        let others = self.others(x.clone(), maximum.clone());
        Scores::Logits { x, maximum, others }
    }

    /// `sum_c exp(x[c] - maximum)` without the 1 of the maximum, which `log1p` adds. So the loss of a
    /// confident row, the logarithm of the sum, keeps its relative accuracy.
    fn others(&self, x: FloatTensor<B>, maximum: FloatTensor<B>) -> FloatTensor<B> {
        let is_maximum = self.equals_row(x.clone(), maximum.clone());
        let others = self.others_than(is_maximum, x, maximum.clone());
        self.without_distribution(others, maximum)
    }

    /// Sum of `exp(x - maximum)` without the 1 of the maximum, without the check that the maximum is
    /// finite.
    pub(super) fn others_than(
        &self,
        is_maximum: BoolTensor<B>,
        x: FloatTensor<B>,
        maximum: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let ties = sum_classes::<B>(B::bool_into_float(is_maximum.clone(), self.float));
        let others = B::float_exp(self.difference(x, maximum));
        let others = sum_classes::<B>(B::float_mask_fill(others, is_maximum, 0.0.into()));
        B::float_add(others, B::float_sub_scalar(ties, 1.0.into()))
    }

    /// Replaces the others by NaN where the row has no finite maximum and so no distribution.
    pub(super) fn without_distribution(
        &self,
        others: FloatTensor<B>,
        maximum: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let infinite = B::float_is_inf(maximum, self.bool);
        B::float_mask_fill(others, infinite, f64::NAN.into())
    }

    /// Mask of the elements of `x` that equal the number of their row.
    pub(super) fn equals_row(&self, x: FloatTensor<B>, row: FloatTensor<B>) -> BoolTensor<B> {
        let row = B::float_expand(row, self.geometry.full());
        B::float_equal(x, row, self.bool)
    }

    /// `-ln p[c]` of every class.
    pub(super) fn surprisals(&self, scores: &Scores<B>) -> FloatTensor<B> {
        match scores {
            Scores::Logits { x, maximum, others } => B::float_add(
                self.difference(maximum.clone(), x.clone()),
                log1p::<B>(others.clone(), self.bool),
            ),
            Scores::Probabilities(s) => B::float_neg(B::float_log(s.clone())),
        }
    }

    /// Log-sum-exp of every row; `None` for probabilities.
    pub(super) fn lse(&self, scores: &Scores<B>) -> Option<FloatTensor<B>> {
        match scores {
            Scores::Logits {
                maximum, others, ..
            } => {
                let maximum = match self.options.scale_of_scores() {
                    1.0 => maximum.clone(),
                    scale => B::float_mul_scalar(maximum.clone(), scale.into()),
                };
                let above = log1p::<B>(others.clone(), self.bool);
                Some(B::float_add(maximum, above))
            }
            Scores::Probabilities(_) => None,
        }
    }

    /// Log-sum-exp of every row for the z-loss; `None` where the z-loss is off.
    pub(super) fn penalised_lse(&self, scores: &Scores<B>) -> Option<FloatTensor<B>> {
        if self.options.z_loss == 0.0 {
            return None;
        }
        self.lse(scores)
    }

    /// Replaces the losses by NaN where the row has no distribution, also if no class has a share.
    pub(super) fn spoiled(&self, losses: FloatTensor<B>, scores: &Scores<B>) -> FloatTensor<B> {
        match scores {
            Scores::Probabilities(_) => losses,
            Scores::Logits { others, .. } => {
                let spoiled = B::float_is_nan(others.clone(), self.bool);
                B::float_mask_fill(losses, spoiled, f64::NAN.into())
            }
        }
    }

    pub(super) fn per_class(&self, weights: &FloatTensor<B>) -> FloatTensor<B> {
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

    /// Classes that are not masked, where the label smoothing is spread over these.
    pub(super) fn valid(&self, scores: &Scores<B>) -> Option<Valid<B>> {
        let (Scores::Logits { x, .. } | Scores::Probabilities(x)) = scores;
        let masked = self.masked(x.clone())?;
        let valid = B::bool_into_float(B::bool_not(masked.clone()), self.float);
        Some(Valid {
            masked,
            count: sum_classes::<B>(valid),
        })
    }

    /// Mask of the classes that the label smoothing leaves out, where it leaves out any.
    pub(super) fn masked(&self, x: FloatTensor<B>) -> Option<BoolTensor<B>> {
        self.options.masked().map(|masked| match masked {
            0.0 => B::float_equal_elem(x, 0.0.into(), self.bool),
            _ => is_minus_infinity::<B>(x, self.bool),
        })
    }

    /// Shares `a[c]` of every class, and the mask of the shares that are 0. Label smoothing is spread over the
    /// `valid` classes, or without such over all.
    pub(super) fn shares(
        &self,
        inputs: &Inputs<B>,
        counting: Option<&Counting<B>>,
        valid: Option<Valid<B>>,
    ) -> (FloatTensor<B>, BoolTensor<B>) {
        let target = match (&inputs.targets, counting) {
            (Targets::Distributions(targets), _) => self.distribution(targets),
            (_, Some(counting)) => self.one_hot(counting),
            (_, None) => unreachable!("indices are always counted"),
        };
        let smoothing = self.options.label_smoothing;
        let mut shares = if smoothing == 0.0 {
            target
        } else {
            let remaining = B::float_mul_scalar(target, (1.0 - smoothing).into());
            match valid {
                None => {
                    let even = smoothing / self.window.of as f64;
                    B::float_add_scalar(remaining, even.into())
                }
                Some(valid) => {
                    let even = B::float_expand(valid.even(smoothing), self.geometry.full());
                    let even = B::float_mask_fill(even, valid.masked, 0.0.into());
                    B::float_add(remaining, even)
                }
            }
        };
        if let MaybeFloat::Some(weights) = &inputs.weights {
            shares = B::float_mul(shares, self.per_class(weights));
        }
        let none = B::float_equal_elem(shares.clone(), 0.0.into(), self.bool);
        (shares, none)
    }

    /// Distributions of the rows: the targets, or the probabilities of a teacher's logits.
    pub(super) fn distribution(&self, targets: &FloatTensor<B>) -> FloatTensor<B> {
        let x = self.view(targets.clone());
        match self.options.targets {
            TargetValues::Shares => x,
            TargetValues::Logits { scale } => {
                let options = Options {
                    values: InputValues::Logits {
                        scale,
                        softcap: None,
                    },
                    ..self.options.clone()
                };
                let teacher = Call::<B>::new(targets, &options);
                let scores = teacher.scores(targets.clone());
                teacher.softmax_of(&scores).unwrap_or(x)
            }
        }
    }

    pub(super) fn one_hot(&self, counting: &Counting<B>) -> FloatTensor<B> {
        B::bool_into_float(self.is_target(counting), self.float)
    }

    /// Mask of the classes that are the target of their row.
    pub(super) fn is_target(&self, counting: &Counting<B>) -> BoolTensor<B> {
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

    pub(super) fn rows(&self, inputs: &Inputs<B>) -> Rows<B> {
        let per_row = self.geometry.per_row();
        let weights = RowWeights::new(&inputs.row_weights, per_row.clone(), self.float);
        let counting = match &inputs.targets {
            Targets::Indices(indices) => {
                let ignored = Ignored {
                    indices: &self.options.ignore_indices,
                    weights: weights.as_ref(),
                };
                let classes = Some(self.window.of);
                Some(Counting::new(indices.clone(), per_row, classes, ignored))
            }
            Targets::Distributions(_)
            | Targets::Sparse { .. }
            | Targets::Projected(_)
            | Targets::Alike(_) => None,
        };
        let divisor = match &inputs.reduction {
            RowReduction::None => Divisor::PerRow,
            RowReduction::Mean => {
                Divisor::Pair(self.divisors_of_mean(inputs, counting.as_ref(), weights.as_ref()))
            }
            RowReduction::Sum { divisor } => Divisor::Number(*divisor),
            RowReduction::Normalized { divisors } => {
                Divisor::Pair(cast::<B>(divisors.clone(), self.float))
            }
        };
        Rows {
            counting,
            weights,
            divisor,
        }
    }

    /// Divisors of a mean over the rows, shape `[2]`.
    pub(super) fn divisors_of_mean(
        &self,
        inputs: &Inputs<B>,
        counting: Option<&Counting<B>>,
        weights: Option<&RowWeights<B>>,
    ) -> FloatTensor<B> {
        match (counting, weights) {
            (Some(counting), weights) => {
                counting.divisors_of_mean(&inputs.weights, weights, self.float)
            }
            (None, Some(weights)) => weights.divisors_of_mean(),
            (None, None) => {
                let rows = self.geometry.rows() as f64;
                full::<B>(Shape::new([2]), rows, &self.device, self.float)
            }
        }
    }

    /// Two numbers of a pair, each of shape `[1, 1, 1]`.
    pub(super) fn split(&self, pair: &FloatTensor<B>) -> [FloatTensor<B>; 2] {
        [0, 1].map(|at| {
            let one = B::float_slice(pair.clone(), &[Slice::new(at, Some(at + 1), 1)]);
            reshape_scalar::<B>(one)
        })
    }

    /// Stacks numbers per row into one tensor of shape `[numbers, rows]`.
    pub(super) fn stacked(&self, numbers: Vec<FloatTensor<B>>) -> FloatTensor<B> {
        let line = Shape::new([1, self.geometry.rows()]);
        let lines = numbers.into_iter();
        let lines = lines.map(|number| B::float_reshape(number, line.clone()));
        B::float_cat(lines.collect(), 0)
    }

    /// One of the stacked numbers, in the shape of [`Geometry::per_row`].
    pub(super) fn unstacked(&self, stacked: &FloatTensor<B>, at: isize) -> FloatTensor<B> {
        let line = [Slice::new(at, Some(at + 1), 1), Slice::full()];
        let line = B::float_slice(stacked.clone(), &line);
        B::float_reshape(line, self.geometry.per_row())
    }
}

impl<B: Backend> Rows<B> {
    /// Counting of the index targets; panics for distributions.
    pub(super) fn indices(&self) -> &Counting<B> {
        let Some(counting) = &self.counting else {
            unreachable!("indices are always counted");
        };
        counting
    }

    /// Replaces the numbers of ignored rows by 0, of rows with a bad target by NaN. Selects: a product would
    /// keep the NaN of an ignored row.
    pub(super) fn settle(&self, per_row: FloatTensor<B>) -> FloatTensor<B> {
        let shape = per_row.shape();
        self.settle_in(per_row, shape)
    }

    pub(super) fn settle_full(&self, full: FloatTensor<B>, geometry: &Geometry) -> FloatTensor<B> {
        self.settle_in(full, geometry.full())
    }

    fn settle_in(&self, values: FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
        match (&self.counting, &self.weights) {
            (Some(counting), _) => counting.settle(values, shape),
            (None, Some(weights)) => {
                let none = B::bool_expand(weights.none.clone(), shape);
                B::float_mask_fill(values, none, 0.0.into())
            }
            (None, None) => values,
        }
    }

    /// Numbers of the rows times the rows' weights.
    pub(super) fn weighed(&self, per_row: FloatTensor<B>) -> FloatTensor<B> {
        match &self.weights {
            None => per_row,
            Some(weights) => B::float_mul(per_row, weights.weights.clone()),
        }
    }

    /// Mask of the rows that do not count, where there may be any.
    pub(super) fn dropped(&self) -> Option<BoolTensor<B>> {
        match (&self.counting, &self.weights) {
            (Some(counting), _) => Some(counting.dropped()),
            (None, Some(weights)) => Some(weights.none.clone()),
            (None, None) => None,
        }
    }
}
