//! Calls of the loss.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Shape, Tensor};

use super::checks::{RangeCheck, check_row_weights_shape, device_of, unwrap};
use super::cross_entropy::{CrossEntropyLoss, Request, RequestedReduction};
use super::logits::{GivenLogits, LogitsSource};
use super::normalizer::Normalizer;
use super::output::OutputTensors;
use super::target::sealed::FromRows;
use super::target::{
    CrossEntropyTarget, LogitsRank, OutputOf, RowLosses, Target, TargetClasses, TargetTensor,
};
use crate::dispatch::CrossEntropyBackend;
use crate::error::CrossEntropyError;
use crate::operation::{InputValues, MaybeFloat, Outputs, Role, RowValue, row_shape};
use crate::portable;

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    /// Computes the reduced loss, a tensor of one element.
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the tensors do not fit each other or the
    /// configuration, or, on the CPU backends, if a target is out of range.
    pub fn forward<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Tensor<1> {
        unwrap(self.try_forward(logits, target))
    }

    /// Computes the loss of every row, in the shape of the logits without the class dimension, for logits
    /// of rank 1 one element. `reduction` and `empty` do not apply.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<4>::zeros([2, 3, 4, 5], &device);
    /// let labels = Tensor::<3, Int>::zeros([2, 4, 5], &device);
    /// let rows: Tensor<3> = loss.forward_no_reduction(logits, labels);
    /// assert_eq!(rows.dims(), [2, 4, 5]);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_no_reduction<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        unwrap(self.try_forward_no_reduction(logits, target))
    }

    /// [`forward`](Self::forward) that returns an error instead of a panic. It does not wait for the device
    /// either: [`check`](Self::check) finds targets out of range there.
    ///
    /// # Errors
    ///
    /// - [`ShapeMismatch`](CrossEntropyError::ShapeMismatch), [`NoClasses`](CrossEntropyError::NoClasses),
    ///   [`ClassDimOutOfRange`](CrossEntropyError::ClassDimOutOfRange),
    ///   [`WeightLength`](CrossEntropyError::WeightLength): the shapes do not fit
    /// - [`RowWeightsShape`](CrossEntropyError::RowWeightsShape): there is not one weight for each row
    /// - [`IgnoredDistributions`](CrossEntropyError::IgnoredDistributions),
    ///   [`FactorOfDistributions`](CrossEntropyError::FactorOfDistributions),
    ///   [`SmoothingOverOthers`](CrossEntropyError::SmoothingOverOthers),
    ///   [`InvalidConfig`](CrossEntropyError::InvalidConfig): an option has no meaning for the target
    /// - [`UnsupportedDtype`](CrossEntropyError::UnsupportedDtype)
    /// - [`DeviceMismatch`](CrossEntropyError::DeviceMismatch),
    ///   [`CheckpointingMismatch`](CrossEntropyError::CheckpointingMismatch),
    ///   [`WrongBackend`](CrossEntropyError::WrongBackend): tensors that cannot be in one call
    /// - [`TargetOutOfRange`](CrossEntropyError::TargetOutOfRange), on Flex and NdArray
    /// - [`Projection`](CrossEntropyError::Projection): the tensors of [`ProjectedLogits`](crate::ProjectedLogits) do not fit
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::zeros([2, 3], &device);
    /// let targets = Tensor::<1, Int>::from_ints([0, 3], &device);
    /// let error = loss.try_forward(logits, targets).unwrap_err();
    /// assert!(error.to_string().contains("the target of row 1 is 3"));
    /// ```
    pub fn try_forward<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let request = Request::loss(RequestedReduction::Configured);
        let forward = self.compute(logits.into_logits(), target.into_target(), request)?;
        Ok(Tensor::from_dispatch(forward.loss))
    }

    /// [`forward_no_reduction`](Self::forward_no_reduction) that returns an error, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// As [`try_forward`](Self::try_forward).
    pub fn try_forward_no_reduction<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let request = Request::loss(RequestedReduction::PerRow);
        let forward = self.compute(logits.into_logits(), target.into_target(), request)?;
        Ok(<Tensor<D> as FromRows>::from_rows(forward.loss))
    }

    /// Checks a call without computing it: all checks of [`try_forward`](Self::try_forward), and the value of
    /// every index target on every backend. Waits for the device.
    ///
    /// # Errors
    ///
    /// As [`try_forward`](Self::try_forward), and
    /// [`TargetOutOfRange`](CrossEntropyError::TargetOutOfRange) on every backend.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::zeros([2, 3], &device);
    /// let targets = Tensor::<1, Int>::from_ints([0, 3], &device);
    /// let error = loss.check(&logits, &targets).unwrap_err();
    /// assert!(error.to_string().contains("the target of row 1 is 3"));
    /// ```
    pub fn check<const D: usize>(
        &self,
        logits: &(impl LogitsSource<D> + Clone),
        target: &(impl CrossEntropyTarget<D> + Clone),
    ) -> Result<(), CrossEntropyError> {
        let (logits, target) = (logits.clone().into_logits(), target.clone().into_target());
        for (_, tensor) in logits.tensors() {
            B::check(tensor, Role::Logits)?;
        }
        let device = device_of(logits.tensor());
        let check = RangeCheck::Always;
        match target.classes {
            TargetClasses::Teacher(teacher) => {
                let (loss, target) = self.beside_teacher(&logits, &teacher, target.row_weights)?;
                loss.check_call(&logits, &target, &device, check)?;
            }
            TargetClasses::Distributions(ref targets) => {
                B::check(targets, Role::Targets)?;
                self.check_call(&logits, &target, &device, check)?;
            }
            TargetClasses::Sparse(ref sparse) => {
                for tensor in sparse.of_shares() {
                    B::check(tensor, Role::Targets)?;
                }
                self.check_call(&logits, &target, &device, check)?;
            }
            TargetClasses::Indices(_) | TargetClasses::Projected(_) | TargetClasses::Alike(_) => {
                self.check_call(&logits, &target, &device, check)?;
            }
        }
        Ok(())
    }

    /// Computes the reduced loss, and in the same pass over the logits the outputs of
    /// [`CrossEntropyOutput`](crate::CrossEntropyOutput) except the entropy.
    ///
    /// Gradients flow through the loss alone. For gradients of log-probabilities there is
    /// [`log_prob`](Self::log_prob).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_output<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> OutputOf<D>
    where
        Tensor<D>: LogitsRank,
    {
        unwrap(self.output(logits.into_logits(), target.into_target(), Outputs::Rows))
    }

    /// [`forward_with_output`](Self::forward_with_output) with the entropy of every row, which takes
    /// two exponentials more for each logit (one on a GPU).
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::zeros([1, 8], &device);
    /// let output = loss.forward_with_entropy(logits, Tensor::<1, Int>::zeros([1], &device));
    /// let entropy = output.entropy.unwrap().into_scalar::<f32>();
    /// assert!((entropy - 8f32.ln()).abs() < 1e-6);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_entropy<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> OutputOf<D>
    where
        Tensor<D>: LogitsRank,
    {
        let outputs = Outputs::RowsAndEntropy;
        unwrap(self.output(logits.into_logits(), target.into_target(), outputs))
    }

    /// Computes the log-probability of each row's target, with gradients: `x[y] - lse`, for a distribution
    /// `p` the sum of `p[c] (x[c] - lse)`. An ignored row has 0. The options `ignore_indices`, `class_dim`,
    /// `logits`, `logit_scale` and `logit_softcap` apply; class weights, label smoothing, z-loss, `row_factor`
    /// and `reduction` do not. The row weights of a weighted target multiply it.
    ///
    /// Serves objectives that are made of log-probabilities, such as in reinforcement learning. Takes one
    /// pass over the logits, like [`forward_no_reduction`](Self::forward_no_reduction).
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex().autodiff();
    /// let policy = CrossEntropyLossConfig::new().with_logit_scale(1.0 / 0.7).init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0]], &device).require_grad();
    /// let actions = Tensor::<1, Int>::from_ints([1, 0], &device);
    /// let advantages = Tensor::<1>::from_floats([0.5, -2.0], &device);
    ///
    /// let objective = -(policy.log_prob(logits.clone(), actions) * advantages).mean();
    /// let gradient = logits.grad(&objective.backward()).unwrap();
    /// assert_eq!(gradient.dims(), [2, 2]);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn log_prob<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        let loss = Self::from_parts(None, self.settings.of_log_prob());
        let request = Request::loss(RequestedReduction::PerRow);
        let target = target.into_target().of_distribution();
        let forward = unwrap(loss.compute(logits.into_logits(), target, request));
        <Tensor<D> as FromRows>::from_rows(Dispatch::float_neg(forward.loss))
    }

    /// Computes the entropy of every row's probabilities in nats, with gradients: `-sum_c p[c] ln p[c]`, for logits
    /// of rank 1 one element. The options `class_dim`, `logit_scale` and `logit_softcap` apply, all others do
    /// not: there is no target, so every row counts.
    ///
    /// A class of logit minus infinity adds 0, and has a gradient of 0. A row without a distribution (NaN or plus
    /// infinity among its logits, or nothing but minus infinity) is NaN. Gradient: `-p[c] (ln p[c] + entropy)`. Takes one
    /// pass over the logits from memory, also over [`ProjectedLogits`](crate::ProjectedLogits), whose logits exist in
    /// chunks.
    ///
    /// An objective with an entropy bonus, as in policy gradients (Mnih et al., A3C,
    /// <https://arxiv.org/abs/1602.01783>):
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex().autodiff();
    /// let policy = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0]], &device).require_grad();
    /// let actions = Tensor::<1, Int>::from_ints([1, 0], &device);
    ///
    /// let entropy = policy.entropy(logits.clone()).mean();
    /// let objective = policy.forward(logits.clone(), actions) - entropy * 0.01;
    /// assert!(logits.grad(&objective.backward()).is_some());
    /// ```
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the tensors do not fit each other or the configuration, and where
    /// `logits` is false.
    pub fn entropy<const D: usize>(&self, logits: impl LogitsSource<D>) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        let value = unwrap(self.value_of_rows(logits.into_logits(), RowValue::Entropy, None));
        <Tensor<D> as FromRows>::from_rows(value)
    }

    /// Computes the log-sum-exp of every row's logits, with gradients: `ln sum_c exp(x[c])`, with `x` the logits
    /// after scale and softcap. Otherwise like [`entropy`](Self::entropy); the gradient is `p[c]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex().autodiff();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::zeros([1, 4], &device).require_grad();
    /// let lse = loss.lse(logits.clone());
    /// let gradient = logits.grad(&lse.backward()).unwrap();
    /// assert!((lse.into_scalar::<f32>() - 4f32.ln()).abs() < 1e-6);
    /// assert_eq!(gradient.into_data().to_vec::<f32>().unwrap(), [0.25; 4]);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`entropy`](Self::entropy).
    pub fn lse<const D: usize>(&self, logits: impl LogitsSource<D>) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        let value = unwrap(self.value_of_rows(logits.into_logits(), RowValue::LogSumExp, None));
        <Tensor<D> as FromRows>::from_rows(value)
    }

    /// Shape of the rows of logits.
    pub(super) fn rows_of(&self, logits: &GivenLogits) -> Result<Shape, CrossEntropyError> {
        logits.check()?;
        Ok(row_shape(&logits.shape(), self.class_dim_of(logits)?))
    }

    /// Values of the rows, for which a class that they all have is the target. Rows of weight 0 are ignored.
    pub(crate) fn value_of_rows(
        &self,
        logits: GivenLogits,
        value: RowValue,
        row_weights: Option<DispatchTensor>,
    ) -> Result<DispatchTensor, CrossEntropyError> {
        if self.settings.values == InputValues::Probabilities {
            return Err(CrossEntropyError::ValueOfProbabilities);
        }
        let loss = Self::from_parts(None, self.settings.of_value(value));
        let rows = loss.rows_of(&logits)?;
        let target = Target {
            row_weights,
            ..Target::of_first_class(&rows, &device_of(logits.tensor()))
        };
        let computed = loss.compute(logits, target, Request::loss(RequestedReduction::PerRow))?;
        Ok(computed.loss)
    }

    /// Computes the sum of the losses divided by a normalizer, a tensor of one element: this batch's share
    /// of the mean over many batches, see [`Normalizer`]. `reduction` does not apply. With a normalizer of 0
    /// the loss is the value of `empty`, and the gradient is 0.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0], [4.0, 4.0]], &device);
    /// let targets = Tensor::<1, Int>::from_ints([0, 1, 0], &device);
    ///
    /// let mean = loss.forward(logits.clone(), targets.clone()).into_scalar::<f32>();
    /// let normalizer = loss.normalizer(targets.clone());
    /// let [first, second] = [0..2, 2..3].map(|rows| {
    ///     let logits = logits.clone().slice([rows.clone()]);
    ///     let targets = targets.clone().slice([rows]);
    ///     let share = loss.forward_normalized(logits, targets, normalizer.clone());
    ///     share.into_scalar::<f32>()
    /// });
    /// assert!((first + second - mean).abs() < 1e-6);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and if the normalizer is not of one element.
    pub fn forward_normalized<const D: usize>(
        &self,
        logits: impl LogitsSource<D>,
        target: impl CrossEntropyTarget<D>,
        normalizer: impl Into<Normalizer>,
    ) -> Tensor<1> {
        let request = Request::loss(RequestedReduction::Over(normalizer.into()));
        let forward = self.compute(logits.into_logits(), target.into_target(), request);
        Tensor::from_dispatch(unwrap(forward).loss)
    }

    /// Computes the divisors of `Mean` over these targets, see [`Normalizer`]. The host does not wait for the
    /// device. (On a GPU a target that is not a class counts too, unless it is negative or there are class
    /// weights: the targets alone do not give the number of classes.)
    ///
    /// # Panics
    ///
    /// As [`total_weight`](Self::total_weight).
    pub fn normalizer(&self, target: impl TargetTensor) -> Normalizer {
        let target = target.into_target();
        let total_weight = unwrap(self.weigh(target.clone(), self.weight.as_ref()));
        let counted_rows = match &self.weight {
            None => total_weight.clone(),
            Some(_) => unwrap(self.weigh(target, None)),
        };
        Normalizer::of_target(total_weight, counted_rows)
    }

    /// Computes the divisor of `Mean`, a tensor of one element in f32 without gradient: for indices the sum
    /// of the class weights of the targets that are not ignored (without class weights the number of these
    /// targets), for distributions the number of rows.
    ///
    /// For losses that are accumulated over micro-batches or devices there is
    /// [`normalizer`](Self::normalizer).
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new()
    ///     .with_weight(Some(vec![1.0, 0.5, 4.0]))
    ///     .init(&device);
    /// let targets = Tensor::<1, Int>::from_ints([2, 1, -100], &device);
    /// assert_eq!(loss.total_weight(targets).into_scalar::<f32>(), 4.5);
    /// ```
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the class dimension does not exist in the
    /// distributions, if the class weights do not fit their classes or, on the CPU backends, if an
    /// index has no class weight.
    pub fn total_weight(&self, target: impl TargetTensor) -> Tensor<1> {
        unwrap(self.weigh(target.into_target(), self.weight.as_ref()))
    }

    /// Sum of the weights of the counted rows; without weights the number of counted rows.
    fn weigh(
        &self,
        target: Target,
        weight: Option<&Tensor<1>>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let indices = match &target.classes {
            TargetClasses::Indices(indices) => indices,
            TargetClasses::Distributions(targets) => {
                self.check_ignored_of_distributions()?;
                let class_dim = self.class_dim(&targets.shape())?;
                self.check_weight_length(&targets.shape(), class_dim)?;
                let rows = row_shape(&targets.shape(), class_dim);
                return self.weigh_rows(&rows, targets, target.row_weights);
            }
            TargetClasses::Sparse(sparse) => {
                let shape = sparse.shares.shape();
                let rows = row_shape(&shape, self.class_dim(&shape)?);
                return self.weigh_rows(&rows, &sparse.shares, target.row_weights);
            }
            TargetClasses::Teacher(teacher) => {
                self.check_ignored_of_distributions()?;
                let logits = teacher.logits();
                let class_dim = self.class_dim_of(logits)?;
                self.check_weight_length(&logits.shape(), class_dim)?;
                let rows = row_shape(&logits.shape(), class_dim);
                return self.weigh_rows(&rows, logits.tensor(), target.row_weights);
            }
            TargetClasses::Projected(_) | TargetClasses::Alike(_) => {
                unreachable!("only a call has a projection beside it")
            }
        };
        let device = device_of(indices);
        // Without class weights the number of classes is unknown. Negative targets are still bad.
        let classes = self
            .weight
            .as_ref()
            .map_or(i64::MAX as usize, |weight| weight.dims()[0]);
        self.check_indices(&target, &device, classes, RangeCheck::WhereFree)?;
        if let Some(row_weights) = &target.row_weights {
            self.check_row_weights(row_weights, &device)?;
            let shape = indices.shape();
            // An unsqueezed label map has as many elements as its rows.
            if row_weights.shape().num_elements() != shape.num_elements() {
                check_row_weights_shape(row_weights, &shape)?;
            }
        }
        let weights = match weight {
            None => MaybeFloat::None,
            Some(_) => self.weights_on(&device),
        };
        let total = portable::total_weight::<Dispatch>(
            indices.clone(),
            weights,
            target.row_weights.into(),
            &self.settings.ignore_indices,
        );
        Ok(Tensor::from_dispatch(total))
    }

    /// Number of rows in this shape, or the sum of their weights. `targets` has their device.
    fn weigh_rows(
        &self,
        rows: &Shape,
        targets: &DispatchTensor,
        row_weights: Option<DispatchTensor>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        B::check(targets, Role::Targets)?;
        let count = rows.num_elements();
        let device = device_of(targets).without_autodiff();
        let Some(row_weights) = row_weights else {
            return Ok(Tensor::full([1], count as f32, (&device, DType::F32)));
        };
        self.check_row_weights(&row_weights, &device)?;
        check_row_weights_shape(&row_weights, rows)?;
        if count == 0 {
            return Ok(Tensor::zeros([1], (&device, DType::F32)));
        }
        let row_weights = Dispatch::float_reshape(row_weights, Shape::new([count]));
        let row_weights = Tensor::<1>::from_dispatch(row_weights);
        Ok(row_weights.cast(DType::F32).sum())
    }

    /// Computes the loss with the outputs of rows.
    pub(crate) fn output<const D: usize>(
        &self,
        logits: GivenLogits,
        target: Target,
        outputs: Outputs,
    ) -> Result<OutputOf<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let request = Request {
            reduction: RequestedReduction::Configured,
            outputs,
        };
        let row_weights = target.row_weights.clone();
        let computed = self.compute(logits, target, request)?;
        Ok(<Tensor<D> as FromRows>::output(OutputTensors {
            loss: computed.loss,
            outputs: computed.outputs,
            has_entropy: outputs == Outputs::RowsAndEntropy,
            rows: computed.rows,
            classes: computed.classes,
            row_weights,
            divided_by: computed.divided_by,
            z_loss: computed.z_loss,
            empty: self.settings.empty,
        }))
    }
}
