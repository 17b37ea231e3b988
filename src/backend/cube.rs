//! Operation on every CubeCL runtime: wgpu, Vulkan, Metal, WebGPU, CUDA, ROCm. The tensor's device
//! determines the runtime. This file handles layout, dtype and allocation; the maths is in the kernels.
//!
//! The forward keeps the logits and a few numbers per row, or in place of the logits their gradient for an upstream
//! gradient of 1 ([`one_pass`]). A gradient is written over the logits if nobody else holds that buffer, else into a new
//! tensor in the same order of memory. Neither forward nor backward waits for the device.

use std::borrow::Cow;
use std::cmp::Reverse;

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use super::CrossEntropyOperation;
use crate::kernel::cube::{
    Buffer, Call, FromForwardBuffers, Full, GradientBuffer, Layout, Reduction, RowResults,
    Targets as TargetBuffers, Weighed,
};
use crate::operation::{
    Forward, Geometry, Gradients, InputValues, Inputs, Logits, MaybeFloat, Options, Outputs,
    RowOutputs, RowReduction, RowValue, Saved, TargetValues, Targets, Wanted, WantedGradients,
    accumulation_dtype, row_shape,
};
use crate::portable::pair_sigmoid::Pairs;
use crate::portable::{self, chunks};

mod entries;
mod one_pass;

use entries::OfEntries;

impl CrossEntropyOperation for CubeBackend {
    fn cross_entropy(
        logits: Logits<Self>,
        inputs: Inputs<Self>,
        options: Options,
        wanted: Wanted,
    ) -> Forward<Self> {
        match logits {
            Logits::Tensor(logits) if is_empty(&logits) => {
                without_rows(logits, inputs, &options, wanted)
            }
            Logits::Tensor(logits) if options.value == RowValue::PairSigmoid => {
                portable::pair_sigmoid::forward::<Self>(logits, inputs, &options, wanted, pairs)
            }
            Logits::Tensor(logits) => Operands::new(logits, inputs, &options, wanted).forward(),
            Logits::Projected(projection) => {
                chunks::forward::<Self, Fused>(projection, inputs, &options, wanted)
            }
        }
    }

    fn cross_entropy_backward(
        saved: Saved<Self>,
        inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: Options,
        wanted: WantedGradients,
    ) -> Gradients<Self> {
        let (logits, statistics) = match saved {
            Saved::Statistics {
                logits,
                statistics,
                divisors,
            } => (logits, Some((statistics, divisors))),
            Saved::Logits(Logits::Tensor(logits)) => (logits, None),
            Saved::Logits(Logits::Projected(projection)) => {
                return chunks::backward::<Self, Fused>(
                    projection, inputs, upstream, &options, wanted,
                );
            }
            Saved::Gradients { gradients, .. } => {
                return one_pass::multiplied(gradients, &upstream);
            }
            Saved::Nothing => return Gradients::default(),
        };
        if is_empty(&logits) {
            let saved = Saved::Logits(Logits::Tensor(logits));
            return portable::cross_entropy_backward(saved, inputs, upstream, &options, wanted);
        }
        if let Some((statistics, _)) = &statistics
            && one_pass::are_of_gradient(statistics)
        {
            let gradient = Gradients::of_loss(Some(logits), None);
            return one_pass::multiplied(gradient, &upstream);
        }
        let operands = Operands::new(logits, inputs, &options, Wanted::gradients(wanted));
        operands.gradients(statistics, upstream)
    }
}

/// Fused kernels over the logits of a chunk.
struct Fused;

impl chunks::OnLogits<CubeBackend> for Fused {
    fn forward(
        logits: Logits<CubeBackend>,
        inputs: Inputs<CubeBackend>,
        options: &Options,
        wanted: Wanted,
    ) -> Forward<CubeBackend> {
        CubeBackend::cross_entropy(logits, inputs, options.clone(), wanted)
    }

    fn backward(
        saved: Saved<CubeBackend>,
        inputs: Inputs<CubeBackend>,
        upstream: CubeTensor,
        options: &Options,
        wanted: WantedGradients,
    ) -> Gradients<CubeBackend> {
        CubeBackend::cross_entropy_backward(saved, inputs, upstream, options.clone(), wanted)
    }

    fn computed(saved: Saved<CubeBackend>) -> Result<Gradients<CubeBackend>, Saved<CubeBackend>> {
        match saved {
            Saved::Statistics {
                logits, statistics, ..
            } if one_pass::are_of_gradient(&statistics) => {
                Ok(Gradients::of_loss(Some(logits), None))
            }
            saved => Err(saved),
        }
    }

    /// The product of a chunk is not rounded to half precision before it is added to the sum.
    fn product(lhs: CubeTensor, rhs: CubeTensor, float: FloatDType) -> CubeTensor {
        let product = matmul(lhs, rhs, None, MatmulStrategy::default(), float.into());
        product.expect("a product of two matrices has a kernel")
    }

    /// A product with ones reads half precision as it is; a sum would need a copy of the matrix in the other dtype.
    fn column_sums(matrix: CubeTensor, float: FloatDType) -> CubeTensor {
        if matrix.dtype == float.into() {
            return CubeBackend::float_sum_dim(matrix, 0);
        }
        let ones = Shape::new([1, matrix.meta.shape()[0]]);
        let ones = CubeBackend::float_ones(ones, &matrix.device, matrix.dtype.into());
        Self::product(ones, matrix, float)
    }
}

/// Whether the device has exponentials and logarithms of f64. Shader languages have the type but
/// not the functions, and what Burn compiles there returns wrong numbers instead of an error.
pub(crate) fn computes_f64(device: &CubeDevice) -> bool {
    !matches!(device, CubeDevice::Wgpu(_) | CubeDevice::Metal(_))
}

/// Largest number of bytes of a buffer of the device.
pub(crate) fn largest_buffer(device: &CubeDevice) -> usize {
    let client = device.client();
    client.properties().memory.max_page_size as usize
}

/// Tensors of a call, each in an order of memory that the kernels take.
struct Operands<'a> {
    /// Options of the call. Over entries a copy that ignores no index: the index targets that stand for entries are classes.
    options: Cow<'a, Options>,
    wanted: Wanted,
    logits: CubeTensor,
    targets: TargetTensor,
    /// Weights of the classes, then of the rows, then what the rows have of a teacher, then their even shares.
    weights: Option<CubeTensor>,
    weighed: Weighed,
    /// Largest class of each distribution, for the outputs of rows.
    labels: Option<CubeTensor>,
    /// Entries of sparse distributions that index targets stand for.
    entries: Option<OfEntries>,
    reduction: Reduction,
    /// Dtype of the arithmetic.
    arithmetic: FloatDType,
}

enum TargetTensor {
    Indices(CubeTensor),
    Distributions(CubeTensor),
}

impl<'a> Operands<'a> {
    fn new(
        logits: CubeTensor,
        inputs: Inputs<CubeBackend>,
        options: &'a Options,
        wanted: Wanted,
    ) -> Self {
        if let Targets::Sparse { .. } = inputs.targets {
            return Self::over_entries(logits, inputs, options, wanted);
        }
        let operands = Self::without_evens(logits, inputs, Cow::Borrowed(options), wanted);
        let evens = operands.evens();
        operands.with_evens(evens)
    }

    /// Operands without even shares of the rows' own, over index targets or distributions.
    fn without_evens(
        logits: CubeTensor,
        inputs: Inputs<CubeBackend>,
        options: Cow<'a, Options>,
        wanted: Wanted,
    ) -> Self {
        let arithmetic = accumulation_dtype(logits.dtype);
        let class_dim = options.class_dim;
        let has_outputs = wanted.outputs != Outputs::None;
        let mut of_teacher = MaybeFloat::None;
        let mut labels = None;
        let targets = match (inputs.targets, &options.targets) {
            (Targets::Distributions(teacher), TargetValues::Logits { scale }) => {
                // Maximum, sum and exponentials are those of the same numbers.
                let teacher = match accumulation_dtype(teacher.dtype) == arithmetic {
                    true => teacher,
                    false => cast(teacher, arithmetic),
                };
                let teacher = in_strides(teacher, class_dim);
                let numbers;
                (numbers, labels) =
                    numbers_of_teacher(teacher.clone(), class_dim, *scale, has_outputs);
                of_teacher = MaybeFloat::Some(numbers);
                TargetTensor::Distributions(teacher)
            }
            (Targets::Distributions(targets), TargetValues::Shares) => {
                if has_outputs {
                    let largest = portable::largest_class::<CubeBackend>(targets.clone(), &options);
                    labels = Some(into_contiguous(largest));
                }
                TargetTensor::Distributions(in_strides(targets, class_dim))
            }
            (Targets::Indices(indices), _) => TargetTensor::Indices(into_contiguous(indices)),
            (Targets::Sparse { .. }, _) => unreachable!("index targets stand for entries"),
            (Targets::Projected(_), _) => unreachable!("a chunk has the teacher's logits"),
            (Targets::Alike(_), _) => unreachable!("a chunk has distributions"),
        };
        Self {
            options,
            wanted,
            labels,
            entries: None,
            reduction: match inputs.reduction {
                RowReduction::None => Reduction::PerRow,
                RowReduction::Mean => Reduction::Mean,
                RowReduction::Sum { divisor } => Reduction::Over(divisor),
                RowReduction::Normalized { divisors } => {
                    Reduction::OverBuffer(buffer_of(&into_contiguous(cast(divisors, arithmetic))))
                }
            },
            logits: in_strides(logits, class_dim),
            targets,
            weighed: Weighed {
                classes: inputs.weights.as_option().is_some(),
                rows: inputs.row_weights.as_option().is_some(),
                evens: false,
                entries: false,
                tail: false,
                teacher: of_teacher.as_option().is_some(),
            },
            weights: in_one([inputs.weights, inputs.row_weights, of_teacher], arithmetic),
            arithmetic,
        }
    }

    /// Even shares of the rows, where they have some of their own.
    fn evens(&self) -> MaybeFloat<CubeBackend> {
        match self.options.masked() {
            None => MaybeFloat::None,
            Some(_) => {
                let evens = self.call().evens_of_rows();
                let rows = Shape::new([evens.length]);
                MaybeFloat::Some(self.arithmetic_tensor(evens, rows))
            }
        }
    }

    /// Adds the even shares of the rows to the weights.
    fn with_evens(mut self, evens: MaybeFloat<CubeBackend>) -> Self {
        self.weighed.evens = evens.as_option().is_some();
        if self.weighed.evens {
            let weights = self.weights.take();
            let weights = weights.map_or(MaybeFloat::None, MaybeFloat::Some);
            self.weights = in_one([weights, evens], self.arithmetic);
        }
        self
    }

    fn call(&self) -> Call<'_> {
        Call {
            client: self.logits.client.clone(),
            geometry: Geometry::new(self.logits.meta.shape(), self.options.class_dim),
            options: &self.options,
            wanted: self.wanted,
            logits: self.full(&self.logits),
            targets: match &self.targets {
                TargetTensor::Indices(indices) => TargetBuffers::Indices(buffer_of(indices)),
                TargetTensor::Distributions(targets) => {
                    TargetBuffers::Distributions(self.full(targets))
                }
            },
            weights: self.weights.as_ref().map(buffer_of),
            weighed: self.weighed,
            labels: self.labels.as_ref().map(buffer_of),
            reduction: self.reduction.clone(),
        }
    }

    fn forward(self) -> Forward<CubeBackend> {
        match self.call().takes_one_pass() {
            true => self.forward_with_gradient(),
            false => self.forward_with_statistics(),
        }
    }

    fn forward_with_statistics(self) -> Forward<CubeBackend> {
        let call = self.call();
        let mut results = call.rows();
        let (loss, divisors) = self.loss(&call, results.losses.take());
        let rows = call.geometry.rows();
        let statistics = results.statistics.take();
        let statistics =
            statistics.map(|statistics| self.lines(statistics, rows, self.arithmetic.into()));
        let outputs = self.outputs(&call, results, &divisors);
        drop(call);
        let is_kept = self.wanted.gradients.any();
        let saved = match statistics {
            _ if !is_kept => Saved::Nothing,
            None => Saved::Logits(Logits::Tensor(self.logits)),
            Some(statistics) => Saved::Statistics {
                logits: self.logits,
                statistics,
                divisors,
            },
        };
        Forward {
            loss,
            saved,
            outputs,
        }
    }

    fn outputs(
        &self,
        call: &Call<'_>,
        results: RowResults,
        divisors: &CubeTensor,
    ) -> RowOutputs<CubeBackend> {
        let (Some(numbers), Some(classes)) = (results.numbers, results.classes) else {
            return RowOutputs::Nothing;
        };
        let rows = call.geometry.rows();
        RowOutputs::PerRow {
            numbers: self.lines(numbers, rows, self.arithmetic.into()),
            classes: self.lines(classes, rows, DType::I32),
            divisors: match self.reduction {
                Reduction::Mean => divisors.clone(),
                _ => {
                    let mean = Call {
                        reduction: Reduction::Mean,
                        ..self.call()
                    };
                    self.arithmetic_tensor(mean.totals(None).1, Shape::new([2]))
                }
            },
        }
    }

    /// Computes the gradients from the statistics and divisors of the forward; over probabilities from
    /// neither.
    fn gradients(
        self,
        from_forward: Option<(CubeTensor, CubeTensor)>,
        upstream: CubeTensor,
    ) -> Gradients<CubeBackend> {
        let wanted = self.wanted.gradients;
        let logits_gradient = wanted.logits.then(|| Destination::of(&self.logits));
        let targets_gradient = match &self.targets {
            TargetTensor::Distributions(targets) if wanted.targets => {
                Some(Destination::of(targets))
            }
            _ => None,
        };
        let call = self.call();
        let (statistics, divisors) = match from_forward {
            Some((statistics, divisors)) => (Some(statistics), Some(divisors)),
            None => (None, None),
        };
        let divisors = match (&self.reduction, divisors) {
            (Reduction::PerRow, _) => None,
            (_, Some(divisors)) => Some(buffer_of(&into_contiguous(divisors))),
            (_, None) => Some(call.totals(None).1),
        };
        let from_forward = FromForwardBuffers {
            statistics: statistics.map(|statistics| buffer_of(&into_contiguous(statistics))),
            divisors,
            upstream: Some(buffer_of(&into_contiguous(cast(upstream, self.arithmetic)))),
        };
        let buffer = |destination: &Destination| destination.buffer(&self);
        let destinations = [&logits_gradient, &targets_gradient];
        let places = destinations.map(|destination| destination.as_ref().map(buffer));
        let of_logits = places[0].clone();
        if places.iter().any(Option::is_some) {
            call.gradients(&from_forward, places);
        }
        if let (Some(entries), Some(place)) = (&self.entries, of_logits) {
            call.gradient_at_entries(&entries.resolved, &from_forward, &place);
        }
        let of_entries = (self.entries.as_ref())
            .filter(|_| wanted.targets)
            .map(|entries| entries.gradient(&call, &from_forward, &self.logits));
        drop(call);
        let logits = logits_gradient.map(|destination| destination.finish(self.logits));
        let targets = match (targets_gradient, self.targets) {
            (Some(destination), TargetTensor::Distributions(targets)) => {
                Some(destination.finish(targets))
            }
            _ => of_entries,
        };
        Gradients::of_loss(logits, targets)
    }

    fn full(&self, tensor: &CubeTensor) -> Full {
        Full {
            buffer: buffer_of(tensor),
            layout: layout_of(tensor, self.options.class_dim)
                .expect("the tensor was brought into strides"),
        }
    }

    /// Loss in its shape, and the divisors of the losses and of the z-losses.
    fn loss(&self, call: &Call<'_>, losses: Option<Buffer>) -> (CubeTensor, CubeTensor) {
        let losses = losses.expect("the forward has losses");
        let logits = self.logits.meta.shape();
        if matches!(self.reduction, Reduction::PerRow) {
            // Nobody reads these divisors, but fusion expects a tensor of this shape.
            let shape = row_shape(logits, self.options.class_dim);
            let divisors = self.empty(Shape::new([2]));
            return (self.arithmetic_tensor(losses, shape), divisors);
        }
        let (loss, divisors) = call.totals(Some(&losses));
        let loss = loss.expect("the losses were given");
        (
            self.arithmetic_tensor(loss, Shape::new([1])),
            self.arithmetic_tensor(divisors, Shape::new([2])),
        )
    }

    /// Tensor over a buffer of the arithmetic's dtype.
    fn arithmetic_tensor(&self, buffer: Buffer, shape: Shape) -> CubeTensor {
        self.tensor(buffer, shape, self.arithmetic.into())
    }

    /// Tensor over a buffer of several lines, each with one number per row.
    fn lines(&self, buffer: Buffer, rows: usize, dtype: DType) -> CubeTensor {
        let shape = Shape::new([buffer.length / rows, rows]);
        self.tensor(buffer, shape, dtype)
    }

    fn tensor(&self, buffer: Buffer, shape: Shape, dtype: DType) -> CubeTensor {
        CubeTensor::new_contiguous(
            self.logits.client.clone(),
            self.logits.device.clone(),
            shape,
            buffer.handle,
            dtype,
        )
    }

    fn empty(&self, shape: Shape) -> CubeTensor {
        let Self {
            logits, arithmetic, ..
        } = self;
        let dtype = DType::from(*arithmetic);
        empty_device_contiguous_dtype(logits.client.clone(), logits.device.clone(), shape, dtype)
    }
}

/// Place of a gradient.
enum Destination {
    /// The gradient replaces its own tensor.
    InPlace,
    New(Box<CubeTensor>),
}

impl Destination {
    /// Place of the gradient of a tensor. Must run before the kernels hold the tensor's buffer.
    fn of(tensor: &CubeTensor) -> Self {
        if tensor.can_mut() && tensor.is_nonoverlapping() {
            Self::InPlace
        } else {
            Self::New(Box::new(new_like(tensor)))
        }
    }

    fn buffer(&self, operands: &Operands<'_>) -> GradientBuffer {
        match self {
            Self::InPlace => GradientBuffer::InPlace,
            Self::New(tensor) => GradientBuffer::New(operands.full(tensor)),
        }
    }

    fn finish(self, input: CubeTensor) -> CubeTensor {
        match self {
            Self::InPlace => input,
            Self::New(tensor) => *tensor,
        }
    }
}

fn is_empty(logits: &CubeTensor) -> bool {
    logits.meta.num_elements() == 0
}

/// Largest logit of each row of a teacher, and the sum of the exponentials of all others beside it: what its
/// probabilities are computed from, beside its logits. With outputs the class of the largest logit follows, i32.
fn numbers_of_teacher(
    teacher: CubeTensor,
    class_dim: usize,
    scale: f64,
    has_outputs: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let options = Options {
        class_dim,
        ignore_indices: [].into(),
        values: InputValues::Logits {
            scale,
            softcap: None,
        },
        value: RowValue::LogSumExp,
        ..Options::default()
    };
    let rows = row_shape(teacher.meta.shape(), class_dim);
    let first = CubeBackend::int_zeros(rows, &teacher.device, IntDType::I32);
    let inputs = Inputs {
        reduction: RowReduction::None,
        ..Inputs::new(Targets::Indices(first))
    };
    // The statistics of a log-sum-exp are these two numbers.
    let wanted = Wanted {
        outputs: match has_outputs {
            true => Outputs::Rows,
            false => Outputs::None,
        },
        gradients: WantedGradients::LOGITS,
    };
    let forward = Operands::new(teacher, inputs, &options, wanted).forward_with_statistics();
    let Saved::Statistics { statistics, .. } = forward.saved else {
        unreachable!("logits have statistics");
    };
    let predicted = match forward.outputs {
        RowOutputs::PerRow { mut classes, .. } => {
            // The first line are the predicted classes.
            classes.meta.shape = Shape::new([statistics.meta.shape()[1]]);
            classes.meta.strides = [1].into();
            Some(classes)
        }
        RowOutputs::Nothing => None,
    };
    (statistics, predicted)
}

/// Losses of rows of pairs that do not belong together, and the slopes of their logits.
fn pairs(x: CubeTensor) -> Pairs<CubeBackend> {
    if is_empty(&x) {
        return portable::pair_sigmoid::pairs::<CubeBackend>(x);
    }
    // Slopes replace the logits.
    let x = match x.can_mut() {
        true => x,
        false => x.copy(),
    };
    let rows = x.meta.shape()[0];
    let device = x.device.clone();
    let targets = CubeBackend::int_zeros(Shape::new([rows]), &device, IntDType::I32);
    let inputs = Inputs {
        reduction: RowReduction::None,
        ..Inputs::new(Targets::Indices(targets))
    };
    let options = Options::default();
    let operands = Operands::new(x, inputs, &options, Wanted::default());
    let losses = operands.call().pairs_of_rows();
    let losses = operands.arithmetic_tensor(losses, Shape::new([rows]));
    (losses, operands.logits)
}

/// Forward of a call without rows.
fn without_rows(
    logits: CubeTensor,
    inputs: Inputs<CubeBackend>,
    options: &Options,
    wanted: Wanted,
) -> Forward<CubeBackend> {
    let is_distribution = !matches!(inputs.targets, Targets::Indices(_) | Targets::Sparse { .. });
    let numbers = options.statistics_per_row(is_distribution);
    let logits = Logits::Tensor(logits);
    let mut forward = portable::cross_entropy::<CubeBackend>(logits, inputs, options, wanted);
    if let Saved::Statistics { statistics, .. } = &mut forward.saved {
        // The kernels keep more numbers per row than the portable path, and fusion expects that number.
        *statistics = CubeBackend::float_zeros(
            Shape::new([numbers, 0]),
            &statistics.device,
            statistics.dtype.into(),
        );
    }
    forward
}

/// Tensor in an order of memory with one stride before and one behind the class dimension.
fn in_strides(tensor: CubeTensor, class_dim: usize) -> CubeTensor {
    if !tensor.meta.is_tiled() && layout_of(&tensor, class_dim).is_some() {
        tensor
    } else {
        into_contiguous(tensor)
    }
}

fn layout_of(tensor: &CubeTensor, class_dim: usize) -> Option<Layout> {
    let bytes = tensor.handle.offset_start.unwrap_or(0) as usize;
    let offset = bytes / tensor.dtype.size();
    Layout::new(
        tensor.meta.shape(),
        tensor.meta.strides(),
        class_dim,
        offset,
    )
}

fn buffer_of(tensor: &CubeTensor) -> Buffer {
    Buffer {
        handle: tensor.handle.clone(),
        dtype: dtype_to_elem_type(tensor.dtype),
        length: tensor.handle.size_in_used() as usize / tensor.dtype.size(),
    }
}

/// New tensor without values, in the order of memory of `tensor`. Where that is the order of the dimensions, rows lie as the
/// device allocates them, on CUDA with gaps behind rows that are no multiple of a vector; else there are no gaps.
fn new_like(tensor: &CubeTensor) -> CubeTensor {
    let shape = tensor.meta.shape().clone();
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    let strides = tensor.meta.strides().iter().zip(shape.iter());
    let strides = strides.filter_map(|(stride, size)| (*size > 1).then_some(*stride));
    if tensor.is_nonoverlapping() && strides.is_sorted_by(|before, after| before > after) {
        return empty_device_dtype(client, device, shape, tensor.dtype);
    }
    let mut new = empty_device_contiguous_dtype(client, device, shape, tensor.dtype);
    if tensor.is_nonoverlapping() {
        let strides = tensor.meta.strides();
        let mut dims: Vec<usize> = (0..strides.len()).collect();
        dims.sort_by_key(|dim| Reverse(strides[*dim]));
        let mut step = 1;
        for dim in dims.into_iter().rev() {
            new.meta.strides[dim] = step;
            step *= new.meta.shape[dim];
        }
    }
    new
}

/// The numbers of tensors, one after the other, in one tensor without gaps.
fn in_one<const N: usize>(
    tensors: [MaybeFloat<CubeBackend>; N],
    dtype: FloatDType,
) -> Option<CubeTensor> {
    let mut flat: Vec<CubeTensor> = tensors
        .into_iter()
        .filter_map(MaybeFloat::into_option)
        .map(|tensor| {
            let numbers = Shape::new([tensor.meta.shape().num_elements()]);
            CubeBackend::float_reshape(cast(tensor, dtype), numbers)
        })
        .collect();
    match flat.len() {
        0 => None,
        1 => flat.pop().map(into_contiguous),
        _ => Some(into_contiguous(CubeBackend::float_cat(flat, 0))),
    }
}

fn cast(tensor: CubeTensor, dtype: FloatDType) -> CubeTensor {
    if tensor.dtype == DType::from(dtype) {
        tensor
    } else {
        CubeBackend::float_cast(tensor, dtype)
    }
}

#[cfg(all(test, feature = "wgpu"))]
mod tests;
