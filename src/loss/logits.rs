//! Logits that a call takes: a tensor, or a projection that makes logits in chunks of rows.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::nn::Linear;
use burn::tensor::{DType, Int, Shape, Tensor};

use crate::dispatch::device::{self, device_of};
use crate::dispatch::fallback;
use crate::error::{CrossEntropyError, ProjectionError};
use crate::operation::{
    Excluded, Geometry, Ids, Inputs, Logits, MaybeFloat, Projection, Role, Targets,
    accumulation_dtype,
};
use crate::portable::chunks;

/// Logits of rank `D`: a `Tensor<D>`, or [`ProjectedLogits<D>`](ProjectedLogits).
///
/// The methods of [`CrossEntropyLoss`](crate::CrossEntropyLoss) take either, but for those of a
/// [`VocabularyShard`](crate::VocabularyShard), which take a tensor.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of logits of rank {D}",
    note = "expected `Tensor<D>` or `ProjectedLogits<D>`"
)]
pub trait LogitsSource<const D: usize>: sealed::IntoLogits {}

pub(crate) mod sealed {
    pub trait IntoLogits {
        fn into_logits(self) -> super::GivenLogits;
    }
}

impl<const D: usize> sealed::IntoLogits for Tensor<D> {
    fn into_logits(self) -> GivenLogits {
        GivenLogits::Tensor(self.into_dispatch())
    }
}

impl<const D: usize> LogitsSource<D> for Tensor<D> {}

/// Logits of a projection, `hidden weight + bias`, of which only a chunk of rows exists at a time.
///
/// The methods of [`CrossEntropyLoss`](crate::CrossEntropyLoss) take projected logits in place of a
/// tensor, but for those of a [`VocabularyShard`](crate::VocabularyShard). The classes are in the last
/// dimension for every rank: `class_dim` of the configuration must be 1, the default, or -1.
/// [`LinearCrossEntropyLoss`](crate::LinearCrossEntropyLoss) is a shorter form for the loss alone, and
/// documents computation and memory.
///
/// | Tensor | Shape |
/// |---|---|
/// | hidden | `[.., features]`, of rank 1 to 8 |
/// | weight | `[features, classes]`, as in `burn::nn::Linear`, or the transposed view of an embedding |
/// | bias | `[classes]` |
///
/// The call that takes the logits checks that the tensors fit each other ([`ProjectionError`]).
///
/// ```
/// use burn::tensor::{Device, Distribution, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, ProjectedLogits};
///
/// let device = Device::flex();
/// let hidden = Tensor::<3>::random([2, 5, 8], Distribution::Default, &device);
/// let weight = Tensor::<2>::random([8, 100], Distribution::Default, &device);
/// let tokens = Tensor::<2, Int>::zeros([2, 5], &device);
///
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let logits = ProjectedLogits::new(hidden, weight).with_chunk_bytes(16 << 20);
/// let log_prob: Tensor<2> = loss.log_prob(logits, tokens);
/// assert_eq!(log_prob.dims(), [2, 5]);
/// ```
#[derive(Clone, Debug)]
pub struct ProjectedLogits<const D: usize> {
    hidden: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    chunk: Chunk,
}

impl<const D: usize> ProjectedLogits<D> {
    /// Makes the logits `hidden weight`, without a bias.
    pub fn new(hidden: Tensor<D>, weight: Tensor<2>) -> Self {
        Self {
            hidden,
            weight,
            bias: None,
            chunk: Chunk::ByDevice,
        }
    }

    /// Makes the logits of a layer, of its weight and bias.
    pub fn linear(hidden: Tensor<D>, linear: &Linear) -> Self {
        let bias = linear.bias.as_ref().map(|bias| bias.val());
        Self::new(hidden, linear.weight.val()).with_bias(bias)
    }

    /// Sets the bias `[classes]`.
    pub fn with_bias(self, bias: Option<Tensor<1>>) -> Self {
        Self { bias, ..self }
    }

    /// Sets the number of bytes that logits may take at one time, as
    /// [`chunk_bytes`](crate::LinearCrossEntropyLossConfig::chunk_bytes).
    pub fn with_chunk_bytes(self, bytes: usize) -> Self {
        self.with_chunk(Chunk::Bytes(bytes))
    }

    /// Sets the number of rows that have logits at one time; 0 means 1.
    pub fn with_chunk_rows(self, rows: usize) -> Self {
        self.with_chunk(Chunk::Rows(rows.max(1)))
    }

    pub(super) fn with_chunk(self, chunk: Chunk) -> Self {
        Self { chunk, ..self }
    }
}

impl<const D: usize> sealed::IntoLogits for ProjectedLogits<D> {
    fn into_logits(self) -> GivenLogits {
        GivenLogits::projected(ProjectedTensors {
            hidden: self.hidden.into_dispatch(),
            weight: self.weight.into_dispatch(),
            bias: self.bias.map(Tensor::into_dispatch),
            leading: None,
            excluded: Excluded::default(),
            chunk: self.chunk,
        })
    }
}

impl<const D: usize> LogitsSource<D> for ProjectedLogits<D> {}

/// Logits as a caller gave them.
// A box for the tensor, too, would be an allocation in every call.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub enum GivenLogits {
    /// A tensor of logits, or of probabilities.
    Tensor(DispatchTensor),
    /// The tensors of a projection.
    Projected(Box<ProjectedTensors>),
}

/// The tensors of a projection.
#[derive(Clone)]
pub struct ProjectedTensors {
    /// Shape `[.., features]`.
    pub(crate) hidden: DispatchTensor,
    /// Shape `[features, columns]`.
    pub(crate) weight: DispatchTensor,
    /// Shape `[columns]`.
    pub(crate) bias: Option<DispatchTensor>,
    /// Logits of the first classes, in the shape of the rows with their number behind it.
    pub(crate) leading: Option<DispatchTensor>,
    /// Logits that are excluded, of rows in one dimension.
    pub(crate) excluded: Excluded<Dispatch>,
    pub(crate) chunk: Chunk,
}

/// Size of a chunk: the rows that have logits at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// A number of rows.
    Rows(usize),
    /// The rows that fit into a number of bytes; at least one.
    Bytes(usize),
    /// As many rows as the device needs to be busy with the products.
    ByDevice,
}

impl Chunk {
    /// Bytes that suit every device.
    const BYTES: usize = 64 << 20;
    /// Rows per feature, and rows, from which on a device is busy with the products: each chunk goes through the
    /// weight and its gradient six times, and six times through its own logits, which are as much memory for as many
    /// rows as the weight has features.
    const ROWS_PER_FEATURE: usize = 4;
    const BUSY_ROWS: usize = 4096;

    pub(crate) fn of_bytes(bytes: Option<usize>) -> Self {
        bytes.map_or(Self::ByDevice, Self::Bytes)
    }

    /// Rows of a chunk whose rows have so many bytes of logits, made from so many features. A largest buffer is that
    /// of a device other than the host.
    fn rows(self, bytes_of_row: usize, features: usize, largest_buffer: Option<usize>) -> usize {
        let largest = largest_buffer.unwrap_or(usize::MAX);
        let fitting = |bytes: usize| (bytes.min(largest) / bytes_of_row.max(1)).max(1);
        match (self, largest_buffer) {
            (Self::Rows(rows), _) => rows,
            (Self::Bytes(bytes), _) => fitting(bytes),
            (Self::ByDevice, None) => fitting(Self::BYTES),
            (Self::ByDevice, Some(largest)) => {
                let busy = features.saturating_mul(Self::ROWS_PER_FEATURE);
                let busy = busy.min(Self::BUSY_ROWS);
                fitting(Self::BYTES).max(busy.min(fitting(largest)))
            }
        }
    }
}

impl GivenLogits {
    /// In a box, so that a tensor of logits does not pay for moves of its size.
    pub(crate) fn projected(tensors: ProjectedTensors) -> Self {
        Self::Projected(Box::new(tensors))
    }

    /// The same logits as constants of every graph.
    pub(super) fn without_autodiff(self) -> Self {
        let plain = fallback::without_autodiff;
        match self {
            Self::Tensor(logits) => Self::Tensor(plain(logits)),
            Self::Projected(projection) => Self::projected(ProjectedTensors {
                hidden: plain(projection.hidden),
                weight: plain(projection.weight),
                bias: projection.bias.map(plain),
                ..*projection
            }),
        }
    }

    /// The same logits, whose arithmetic is in f64 where that beside this dtype is.
    pub(super) fn in_arithmetic_beside(self, dtype: DType) -> Self {
        let wide = |tensor| Dispatch::float_cast(tensor, DType::F64.into());
        match self {
            logits if dtype != DType::F64 || logits.tensor().dtype() == dtype => logits,
            Self::Tensor(logits) => Self::Tensor(wide(logits)),
            Self::Projected(projection) => Self::projected(ProjectedTensors {
                hidden: wide(projection.hidden),
                weight: wide(projection.weight),
                bias: projection.bias.map(wide),
                ..*projection
            }),
        }
    }

    /// Shape of the logits.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Tensor(logits) => logits.shape(),
            Self::Projected(projection) => projection.logits_shape(),
        }
    }

    /// Tensor with the device and dtype of the logits.
    pub(super) fn tensor(&self) -> &DispatchTensor {
        match self {
            Self::Tensor(logits) => logits,
            Self::Projected(projection) => &projection.hidden,
        }
    }

    /// All tensors, with their names in error messages.
    pub(super) fn tensors(&self) -> Vec<(&'static str, &DispatchTensor)> {
        match self {
            Self::Tensor(logits) => vec![(Role::Logits.name(), logits)],
            Self::Projected(projection) => projection.tensors(),
        }
    }

    /// Checks that the tensors fit each other.
    pub(super) fn check(&self) -> Result<(), CrossEntropyError> {
        match self {
            Self::Tensor(_) => Ok(()),
            Self::Projected(projection) => projection.check(),
        }
    }

    /// Logits and inputs of the operation; a projection has its rows in one dimension.
    pub(super) fn into_operation(
        self,
        inputs: Inputs<Dispatch>,
    ) -> (Logits<Dispatch>, Inputs<Dispatch>) {
        match self {
            Self::Tensor(logits) => (Logits::Tensor(logits), inputs),
            Self::Projected(projection) => projection.into_operation(inputs),
        }
    }
}

impl ProjectedTensors {
    pub(super) fn logits_shape(&self) -> Shape {
        let mut shape = self.hidden.shape();
        let last = shape.num_dims() - 1;
        shape[last] = self.lead() + self.weight.shape()[1];
        shape
    }

    /// Number of leading logits of a row.
    fn lead(&self) -> usize {
        self.leading.as_ref().map_or(0, |leading| {
            let shape = leading.shape();
            shape[shape.num_dims() - 1]
        })
    }

    fn tensors(&self) -> Vec<(&'static str, &DispatchTensor)> {
        let given = [
            (Role::Hidden.name(), Some(&self.hidden)),
            ("weight", Some(&self.weight)),
            (Role::Bias.name(), self.bias.as_ref()),
            (Role::Leading.name(), self.leading.as_ref()),
        ];
        let given = given.into_iter();
        given
            .filter_map(|(name, tensor)| Some((name, tensor?)))
            .collect()
    }

    /// All logits as one tensor.
    pub(super) fn whole(self) -> DispatchTensor {
        let shape = self.logits_shape();
        let projection = self.of_teacher();
        let rows = 0..projection.hidden.shape()[0];
        let hidden = projection.hidden.clone();
        let logits = chunks::logits::<Dispatch>(&projection, hidden, &rows);
        Dispatch::float_reshape(logits, shape)
    }

    /// Number of the columns that are alike to each row and not excluded, of rows in one dimension.
    pub(crate) fn alike_counts(
        &self,
        rows: &Tensor<1, Int>,
        columns: &Tensor<1, Int>,
    ) -> Tensor<1> {
        let plain = GivenLogits::projected(self.clone()).without_autodiff();
        let GivenLogits::Projected(plain) = plain else {
            unreachable!("the logits are projected");
        };
        let [rows, columns] = [rows, columns].map(|ids| ids.clone().into_dispatch());
        let ids = Ids::Given { rows, columns };
        let inputs = Inputs::new(Targets::Alike(ids.clone()));
        match plain.into_operation(inputs) {
            (Logits::Projected(projection), _) => {
                Tensor::from_dispatch(chunks::alike_counts::<Dispatch>(&projection, &ids))
            }
            _ => unreachable!("the logits are projected"),
        }
    }

    /// Checks that the tensors have one dtype; the input may be of half precision beside others of f32.
    fn check_dtypes(&self) -> Result<(), CrossEntropyError> {
        for (tensor, given) in self.tensors() {
            let dtype = given.dtype();
            if matches!(dtype, DType::QFloat(_)) {
                return Err(ProjectionError::Quantized { tensor, dtype }.into());
            }
        }
        let [input, weight] = [self.hidden.dtype(), self.weight.dtype()];
        let is_mixed = weight == DType::F32 && matches!(input, DType::F16 | DType::BF16);
        let (other, expected) = match is_mixed {
            true => ("weight", weight),
            false => (Role::Hidden.name(), input),
        };
        for (tensor, given) in self.tensors().into_iter().skip(1) {
            let dtype = given.dtype();
            if dtype != expected {
                return Err(ProjectionError::Dtype {
                    tensor,
                    dtype,
                    other,
                    expected,
                }
                .into());
            }
        }
        Ok(())
    }

    /// The same tensors with hidden states in the dtype of the weight. Their gradient comes back in their own.
    pub(super) fn in_one_dtype(self) -> Self {
        let (hidden, dtype) = (self.hidden, self.weight.dtype());
        let hidden = match hidden.dtype() == dtype {
            true => hidden,
            false => Dispatch::float_cast(hidden, dtype.into()),
        };
        Self { hidden, ..self }
    }

    /// Projection of a teacher, with its rows in one dimension. The chunks are the student's.
    pub(super) fn of_teacher(self) -> Projection<Dispatch> {
        let this = self.in_one_dtype();
        let shape = this.logits_shape();
        let rows = Geometry::new(&shape, shape.num_dims() - 1).outer;
        let features = this.weight.shape()[0];
        Projection {
            hidden: Dispatch::float_reshape(this.hidden, Shape::new([rows, features])),
            weight: this.weight,
            bias: this.bias.into(),
            leading: MaybeFloat::None,
            excluded: Excluded::default(),
            rows_per_chunk: rows.max(1),
        }
    }

    /// Checks that the tensors fit each other.
    fn check(&self) -> Result<(), CrossEntropyError> {
        let [hidden, weight] = [&self.hidden, &self.weight].map(|tensor| tensor.shape());
        let features = hidden[hidden.num_dims() - 1];
        if features != weight[0] {
            return Err(ProjectionError::Features {
                input: hidden.to_vec(),
                weight: weight.to_vec(),
            }
            .into());
        }
        if let Some(bias) = &self.bias {
            let length = bias.shape()[0];
            if length != weight[1] {
                return Err(ProjectionError::Bias {
                    bias: length,
                    weight: weight.to_vec(),
                }
                .into());
            }
        }
        self.check_dtypes()?;
        let device = device_of(&self.hidden);
        for (name, tensor) in self.tensors().into_iter().skip(1) {
            let other = device_of(tensor);
            if other.clone().without_autodiff() != device.clone().without_autodiff() {
                return Err(ProjectionError::Device {
                    tensor: name,
                    device: other.into(),
                    input: device.into(),
                }
                .into());
            }
        }
        Ok(())
    }

    fn into_operation(self, inputs: Inputs<Dispatch>) -> (Logits<Dispatch>, Inputs<Dispatch>) {
        let this = self.in_one_dtype();
        let shape = this.logits_shape();
        let Geometry { outer, classes, .. } = Geometry::new(&shape, shape.num_dims() - 1);
        // A teacher has logits of its own beside those of a chunk, and distributions may be made for a chunk.
        let tensors = match inputs.targets {
            Targets::Projected(_) | Targets::Alike(_) => 2,
            _ => 1,
        };
        let lead = this.lead();
        let features = this.weight.shape()[0];
        let float: DType = accumulation_dtype(this.hidden.dtype()).into();
        let largest_buffer = device::largest_buffer(&device_of(&this.hidden));
        let rows = Shape::new([outer]);
        let of_rows = |tensor| Dispatch::float_reshape(tensor, rows.clone());
        let ints_of_rows = |tensor| Dispatch::int_reshape(tensor, rows.clone());
        let leading = |tensor| Dispatch::float_reshape(tensor, Shape::new([outer, lead]));
        let inputs = Inputs {
            targets: match inputs.targets {
                Targets::Indices(indices) => Targets::Indices(ints_of_rows(indices)),
                Targets::Distributions(targets) => {
                    let rows = Shape::new([outer, classes]);
                    Targets::Distributions(Dispatch::float_reshape(targets, rows))
                }
                Targets::Sparse { classes, shares } => {
                    let of_rows = |shape: Shape| Shape::new([outer, shape[shape.num_dims() - 1]]);
                    Targets::Sparse {
                        classes: Dispatch::int_reshape(classes.clone(), of_rows(classes.shape())),
                        shares: Dispatch::float_reshape(shares.clone(), of_rows(shares.shape())),
                    }
                }
                made @ (Targets::Projected(_) | Targets::Alike(_)) => made,
            },
            row_weights: inputs.row_weights.into_option().map(of_rows).into(),
            ..inputs
        };
        let projection = Projection {
            rows_per_chunk: (this.chunk).rows(
                tensors * classes * float.size(),
                features,
                largest_buffer,
            ),
            hidden: Dispatch::float_reshape(this.hidden, Shape::new([outer, features])),
            weight: this.weight,
            bias: this.bias.into(),
            leading: this.leading.map(leading).into(),
            excluded: this.excluded,
        };
        (Logits::Projected(projection), inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_fits_its_budget_and_the_largest_buffer() {
        let of_bytes = Chunk::Bytes(1000);
        assert_eq!(of_bytes.rows(100, 8, None), 10);
        assert_eq!(of_bytes.rows(101, 8, Some(4000)), 9);
        assert_eq!(of_bytes.rows(100, 8, Some(250)), 2);
        // A chunk has at least one row.
        assert_eq!(of_bytes.rows(1001, 8, None), 1);
        assert_eq!(of_bytes.rows(100, 8, Some(99)), 1);
        assert_eq!(of_bytes.rows(0, 8, None), 1000);
        assert_eq!(Chunk::Bytes(0).rows(4, 8, None), 1);
        assert_eq!(Chunk::Rows(7).rows(100, 8, Some(250)), 7);
    }

    #[test]
    fn a_chunk_is_as_large_as_the_device_needs() {
        let rows = |classes: usize, features, largest| {
            Chunk::ByDevice.rows(4 * classes, features, largest)
        };
        let gigabytes = Some(8 << 30);
        // On the host, 64 MiB.
        assert_eq!(rows(32000, 4096, None), 524);
        // Four rows per feature, at most 4096, and no fewer than are in 64 MiB.
        assert_eq!(rows(32000, 512, gigabytes), 2048);
        assert_eq!(rows(128256, 8192, gigabytes), 4096);
        assert_eq!(rows(1000, 64, gigabytes), 16777);
        assert_eq!(rows(32000, usize::MAX, gigabytes), 4096);
        // No more than a buffer has room for.
        assert_eq!(rows(32000, 512, Some(128 << 20)), 1048);
        assert_eq!(rows(32000, 512, Some(1 << 20)), 8);
        assert_eq!(rows(32000, 0, gigabytes), 524);
    }

    /// The largest buffer of the device bounds a chunk for which 1 TiB is requested.
    #[cfg(feature = "wgpu")]
    #[test]
    fn the_largest_buffer_is_that_of_the_device() {
        let wgpu = burn::tensor::Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
        let largest = device::largest_buffer(&wgpu).expect("a device has a bound");
        let rows = Chunk::Bytes(1 << 40).rows(1 << 20, 8, Some(largest));
        assert!(rows << 20 <= largest && (rows + 1) << 20 > largest);
    }
}
