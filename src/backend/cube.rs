//! Every CubeCL runtime: wgpu, Vulkan, Metal, WebGPU, CUDA, ROCm. Which of them runs is a property
//! of the tensor's device. Layout, dtype, allocation; no maths.
//!
//! The forward keeps the logits and a few numbers per row; the backward writes the gradient over the
//! logits if nobody else holds their buffer, else into a new tensor in the same order of memory.
//! Neither waits for the device.

use std::cmp::Reverse;

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use super::CrossEntropyBackend;
use crate::kernel::cube::{
    Buffer, Call, Full, GradientBuffer, Kept, Layout, Targets as TargetBuffers,
};
use crate::operation::{
    ClassWeights, Denominators, Details, DetailsOf, Forward, Geometry, Gradients, GradientsOf,
    Inputs, NOTHING_SAVED, Options, RowReduction, Saved, Targets, accumulation_dtype,
};
use crate::reference;

impl CrossEntropyBackend for CubeBackend {
    fn cross_entropy(
        logits: FloatTensor<Self>,
        inputs: Inputs<Self>,
        options: Options,
    ) -> Forward<Self> {
        if is_empty(&logits) {
            return nothing(logits, inputs, &options);
        }
        let operands = Operands::new(logits, inputs, &options);
        let call = operands.call(&options);
        let mut results = call.rows();
        let (loss, denominators) = operands.loss(&call, results.losses.take());
        let totals = |denominators: &CubeTensor| match options.reduction {
            RowReduction::Mean => denominators.clone(),
            _ => {
                let of_mean = Options {
                    reduction: RowReduction::Mean,
                    ..options.clone()
                };
                let of_rows = Call {
                    normalizer: None,
                    ..operands.call(&of_mean)
                };
                let (_, totals) = of_rows.totals(None);
                operands.arithmetic_tensor(totals, Shape::new([2]))
            }
        };
        let rows = call.geometry.rows();
        let details = match (results.numbers, results.classes) {
            (Some(numbers), Some(classes)) => Details::PerRow {
                numbers: operands.lines(numbers, rows, operands.arithmetic.into()),
                classes: operands.lines(classes, rows, DType::I32),
                totals: totals(&denominators),
            },
            _ => Details::Nothing,
        };
        let statistics = results
            .statistics
            .map(|statistics| operands.lines(statistics, rows, operands.arithmetic.into()));
        drop(call);
        let logits = operands.logits;
        let saved = match statistics {
            _ if !options.keep => Saved::Nothing,
            None => Saved::AsGiven { input: logits },
            Some(statistics) => Saved::Logits {
                logits,
                statistics,
                denominators,
            },
        };
        Forward {
            loss,
            saved,
            details,
        }
    }

    fn cross_entropy_backward(
        saved: Saved<Self>,
        inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: Options,
    ) -> Gradients<Self> {
        let (logits, statistics, denominators) = match saved {
            Saved::Logits {
                logits,
                statistics,
                denominators,
            } => (logits, Some(statistics), Some(denominators)),
            Saved::AsGiven { input } => (input, None, None),
            Saved::Gradients { .. } => {
                return reference::cross_entropy_backward::<Self>(
                    saved, inputs, upstream, &options,
                );
            }
            Saved::Nothing => unreachable!("{NOTHING_SAVED}"),
        };

        if is_empty(&logits) {
            let saved = Saved::AsGiven { input: logits };
            return reference::cross_entropy_backward::<Self>(saved, inputs, upstream, &options);
        }
        let operands = Operands::new(logits, inputs, &options);
        let [of_logits, of_targets] = match options.gradients_of {
            GradientsOf::Logits => [true, false],
            GradientsOf::Targets => [false, true],
            GradientsOf::Both => [true, true],
        };
        let logits_gradient = of_logits.then(|| Destination::of(&operands.logits));
        let targets_gradient = match &operands.targets {
            TargetTensor::Distributions(targets) if of_targets => Some(Destination::of(targets)),
            _ => None,
        };
        let call = operands.call(&options);
        let denominators = match (options.reduction, denominators) {
            (RowReduction::None, _) => None,
            (_, Some(denominators)) => Some(buffer_of(&into_contiguous(denominators))),
            (_, None) => Some(call.totals(None).1),
        };
        let kept = Kept {
            statistics: statistics.map(|statistics| buffer_of(&into_contiguous(statistics))),
            denominators,
            upstream: buffer_of(&into_contiguous(cast(upstream, operands.arithmetic))),
        };
        let buffer = |destination: &Destination| destination.buffer(&operands);
        let destinations = [&logits_gradient, &targets_gradient];
        call.gradients(
            &kept,
            destinations.map(|destination| destination.as_ref().map(buffer)),
        );
        drop(call);
        let logits = logits_gradient.map(|destination| destination.finish(operands.logits));
        let targets = match (targets_gradient, operands.targets) {
            (Some(destination), TargetTensor::Distributions(targets)) => {
                Some(destination.finish(targets))
            }
            _ => None,
        };
        match (logits, targets) {
            (Some(logits), None) => Gradients::Logits { logits },
            (None, Some(targets)) => Gradients::Targets { targets },
            (Some(logits), Some(targets)) => Gradients::Both { logits, targets },
            (None, None) => unreachable!("a gradient of index targets is never asked for"),
        }
    }
}

/// Whether the device has exponentials and logarithms of f64. Shader languages have the type but
/// not the functions, and what Burn compiles there returns wrong numbers instead of an error.
pub(crate) fn computes_f64(device: &CubeDevice) -> bool {
    !matches!(device, CubeDevice::Wgpu(_) | CubeDevice::Metal(_))
}

/// The bytes that a buffer of the device may have.
pub(crate) fn largest_buffer(device: &CubeDevice) -> usize {
    let client = device.client();
    client.properties().memory.max_page_size as usize
}

/// The tensors of a call, each in an order of memory that the kernels take.
struct Operands {
    logits: CubeTensor,
    targets: TargetTensor,
    weights: Option<CubeTensor>,
    /// The largest class of each distribution, for the details.
    labels: Option<CubeTensor>,
    normalizer: Option<CubeTensor>,
    /// The dtype that is computed in.
    arithmetic: FloatDType,
    class_dim: usize,
}

enum TargetTensor {
    Indices(CubeTensor),
    Distributions(CubeTensor),
}

impl Operands {
    fn new(logits: CubeTensor, inputs: Inputs<CubeBackend>, options: &Options) -> Self {
        let arithmetic = accumulation_dtype(logits.dtype);
        let class_dim = options.class_dim;
        let labels = match &inputs.targets {
            Targets::Distributions(targets) if options.details != DetailsOf::Nothing => {
                // One more read of the distributions, by Burn's kernel.
                let labels = CubeBackend::float_argmax(targets.clone(), class_dim, IntDType::I32);
                Some(into_contiguous(labels))
            }
            _ => None,
        };
        Self {
            labels,
            normalizer: match inputs.normalizer {
                Denominators::OfRows => None,
                Denominators::Given(numbers) => Some(into_contiguous(cast(numbers, arithmetic))),
            },
            logits: in_strides(logits, class_dim),
            targets: match inputs.targets {
                Targets::Indices(indices) => TargetTensor::Indices(into_contiguous(indices)),
                Targets::Distributions(targets) => {
                    TargetTensor::Distributions(in_strides(targets, class_dim))
                }
            },
            weights: match inputs.weights {
                ClassWeights::Equal => None,
                ClassWeights::PerClass(weights) => Some(into_contiguous(cast(weights, arithmetic))),
            },
            arithmetic,
            class_dim,
        }
    }

    fn call<'a>(&self, options: &'a Options) -> Call<'a> {
        Call {
            client: self.logits.client.clone(),
            geometry: Geometry::new(self.logits.meta.shape(), self.class_dim),
            options,
            logits: self.full(&self.logits),
            targets: match &self.targets {
                TargetTensor::Indices(indices) => TargetBuffers::Indices(buffer_of(indices)),
                TargetTensor::Distributions(targets) => {
                    TargetBuffers::Distributions(self.full(targets))
                }
            },
            weights: self.weights.as_ref().map(buffer_of),
            labels: self.labels.as_ref().map(buffer_of),
            normalizer: self.normalizer.as_ref().map(buffer_of),
        }
    }

    fn full(&self, tensor: &CubeTensor) -> Full {
        Full {
            buffer: buffer_of(tensor),
            layout: layout_of(tensor, self.class_dim).expect("the tensor was brought into strides"),
        }
    }

    /// The loss in the shape that was asked for, and what the losses were divided by.
    fn loss(&self, call: &Call<'_>, losses: Option<Buffer>) -> (CubeTensor, CubeTensor) {
        let losses = losses.expect("the forward has them");
        let shape = call.options.loss_shape(self.logits.meta.shape());
        let (loss, denominators) = match call.options.reduction {
            // Nobody reads the denominators, but fusion has been told of them.
            RowReduction::None => (losses, self.empty(Shape::new([2]))),
            _ => {
                let (loss, denominators) = call.totals(Some(&losses));
                let denominators = self.arithmetic_tensor(denominators, Shape::new([2]));
                (loss.expect("the losses were given"), denominators)
            }
        };
        (self.arithmetic_tensor(loss, shape), denominators)
    }

    /// A buffer of the arithmetic's dtype as a tensor.
    fn arithmetic_tensor(&self, buffer: Buffer, shape: Shape) -> CubeTensor {
        self.tensor(buffer, shape, self.arithmetic.into())
    }

    /// A buffer of several lines of numbers, one number per row, as a tensor.
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

/// Where a gradient is written.
enum Destination {
    /// Over the tensor that it is the gradient of.
    InPlace,
    New(Box<CubeTensor>),
}

impl Destination {
    /// To be asked before the kernels take hold of the tensor's buffer.
    fn of(tensor: &CubeTensor) -> Self {
        if tensor.can_mut() && tensor.is_nonoverlapping() {
            Self::InPlace
        } else {
            Self::New(Box::new(new_like(tensor)))
        }
    }

    fn buffer(&self, operands: &Operands) -> GradientBuffer {
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

/// The forward over no rows.
fn nothing(
    logits: CubeTensor,
    inputs: Inputs<CubeBackend>,
    options: &Options,
) -> Forward<CubeBackend> {
    let is_distribution = matches!(inputs.targets, Targets::Distributions(_));
    let numbers = options.statistics_per_row(is_distribution);
    let mut forward = reference::cross_entropy::<CubeBackend>(logits, inputs, options);
    if let Saved::Logits { statistics, .. } = &mut forward.saved {
        // As many numbers of no row as of any.
        *statistics = CubeBackend::float_zeros(
            Shape::new([numbers, 0]),
            &statistics.device,
            statistics.dtype.into(),
        );
    }
    forward
}

/// The tensor in an order of memory that has one stride before and one behind the class dimension.
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

/// An empty tensor with its dimensions in the same order of memory, as far as that has no gaps.
fn new_like(tensor: &CubeTensor) -> CubeTensor {
    let shape = tensor.meta.shape().clone();
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
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

fn cast(tensor: CubeTensor, dtype: FloatDType) -> CubeTensor {
    if tensor.dtype == DType::from(dtype) {
        tensor
    } else {
        CubeBackend::float_cast(tensor, dtype)
    }
}

// The alias that users bind a loss to is one of the backends above.
#[cfg(feature = "wgpu")]
const _: () = {
    const fn is_implemented<B: CrossEntropyBackend>() {}
    is_implemented::<burn_wgpu::Wgpu>();
};

#[cfg(all(test, feature = "wgpu"))]
mod tests;
