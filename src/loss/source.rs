//! Where the logits of a call come from: a tensor, or a projection that makes them in chunks.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::checks::device_of;
use crate::backend::{CrossEntropyBackend, routing};
use crate::error::{CrossEntropyError, ProjectionError};
use crate::operation::linear::{Excluded, LinearGradientsOf, LinearOptions, Projection};
use crate::operation::{
    Forward, Geometry, Inputs, Options, RowReduction, Saved, Targets, accumulation_dtype, row_shape,
};

/// Logits, or what they are made of.
pub(crate) trait LogitsSource {
    /// The shape of the logits.
    fn logits_shape(&self) -> Shape;

    /// A tensor whose device and dtype are those of the logits.
    fn tensor(&self) -> &DispatchTensor;

    /// All tensors, with what a caller knows them as.
    fn tensors(&self) -> Vec<(&'static str, &DispatchTensor)>;

    /// Whether the parts fit each other.
    fn check(&self) -> Result<(), CrossEntropyError>;

    /// Runs the operation, on inputs that have been checked.
    fn cross_entropy<B: CrossEntropyBackend>(
        self,
        inputs: Inputs<Dispatch>,
        options: Options,
    ) -> Result<Forward<Dispatch>, CrossEntropyError>;
}

impl LogitsSource for DispatchTensor {
    fn logits_shape(&self) -> Shape {
        self.shape()
    }

    fn tensor(&self) -> &DispatchTensor {
        self
    }

    fn tensors(&self) -> Vec<(&'static str, &DispatchTensor)> {
        vec![("logits", self)]
    }

    fn check(&self) -> Result<(), CrossEntropyError> {
        Ok(())
    }

    fn cross_entropy<B: CrossEntropyBackend>(
        self,
        inputs: Inputs<Dispatch>,
        options: Options,
    ) -> Result<Forward<Dispatch>, CrossEntropyError> {
        routing::cross_entropy::<B>(self, inputs, options)
    }
}

/// `input weight + bias`, whose logits exist for some rows at a time.
pub(crate) struct Projected {
    /// Shape `[.., features]`.
    pub(crate) input: DispatchTensor,
    /// Shape `[features, classes]`.
    pub(crate) weight: DispatchTensor,
    /// Shape `[classes]`.
    pub(crate) bias: Option<DispatchTensor>,
    /// A logit of each row's own, in the shape of the rows.
    pub(crate) own: Option<DispatchTensor>,
    pub(crate) excluded: Option<SameId>,
    pub(crate) chunk: Chunk,
}

/// Columns of the projection that are no class of a row with the same id; one dtype.
pub(crate) struct SameId {
    /// In the shape of the rows.
    pub(crate) rows: DispatchTensor,
    pub(crate) columns: DispatchTensor,
}

/// How many rows have logits at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// A number of rows.
    Rows(usize),
    /// The rows that fit into a number of bytes; one at least.
    Bytes(usize),
}

impl Chunk {
    fn rows(self, bytes_of_row: usize, largest_buffer: Option<usize>) -> usize {
        match self {
            Self::Rows(rows) => rows,
            Self::Bytes(bytes) => {
                let bytes = bytes.min(largest_buffer.unwrap_or(usize::MAX));
                (bytes / bytes_of_row.max(1)).max(1)
            }
        }
    }
}

impl LogitsSource for Projected {
    fn logits_shape(&self) -> Shape {
        let mut shape = self.input.shape();
        let last = shape.num_dims() - 1;
        shape[last] = usize::from(self.own.is_some()) + self.weight.shape()[1];
        shape
    }

    fn tensor(&self) -> &DispatchTensor {
        &self.input
    }

    fn tensors(&self) -> Vec<(&'static str, &DispatchTensor)> {
        let others = [("bias", &self.bias), ("own logit", &self.own)];
        let others = others
            .into_iter()
            .filter_map(|(name, tensor)| Some((name, tensor.as_ref()?)));
        let mut tensors = vec![("input", &self.input), ("weight", &self.weight)];
        tensors.extend(others);
        tensors
    }

    fn check(&self) -> Result<(), CrossEntropyError> {
        let [input, weight] = [&self.input, &self.weight].map(|tensor| tensor.shape());
        let features = input[input.num_dims() - 1];
        if features != weight[0] {
            return Err(ProjectionError::Features {
                input: input.to_vec(),
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
        let device = device_of(&self.input);
        for (name, tensor) in self.tensors().into_iter().skip(1) {
            if tensor.dtype() != self.input.dtype() {
                return Err(ProjectionError::Dtype {
                    tensor: name,
                    dtype: format!("{:?}", tensor.dtype()),
                    input: format!("{:?}", self.input.dtype()),
                }
                .into());
            }
            let other = device_of(tensor);
            if other.clone().without_autodiff() != device.clone().without_autodiff() {
                return Err(ProjectionError::Device {
                    tensor: name,
                    device: format!("{other:?}"),
                    input: format!("{device:?}"),
                }
                .into());
            }
        }
        Ok(())
    }

    fn cross_entropy<B: CrossEntropyBackend>(
        self,
        inputs: Inputs<Dispatch>,
        options: Options,
    ) -> Result<Forward<Dispatch>, CrossEntropyError> {
        let shape = self.logits_shape();
        let Geometry { outer, classes, .. } = Geometry::new(&shape, options.class_dim);
        let features = self.weight.shape()[0];
        let float: DType = accumulation_dtype(self.input.dtype()).into();
        let bytes_of_row = classes * float.size();
        let largest_buffer = routing::largest_buffer(&device_of(&self.input));
        let linear_options = LinearOptions {
            dtype: self.input.dtype(),
            rows_per_chunk: self.chunk.rows(bytes_of_row, largest_buffer),
            gradients_of: LinearGradientsOf::default(),
            loss: Options {
                class_dim: 1,
                ..options.clone()
            },
        };
        let inputs = Inputs {
            targets: match inputs.targets {
                Targets::Indices(indices) => {
                    Targets::Indices(Dispatch::int_reshape(indices, Shape::new([outer])))
                }
                Targets::Distributions(targets) => {
                    let rows = Shape::new([outer, classes]);
                    Targets::Distributions(Dispatch::float_reshape(targets, rows))
                }
            },
            ..inputs
        };
        let projection = Projection {
            input: Dispatch::float_reshape(self.input, Shape::new([outer, features])),
            weight: self.weight,
            bias: self.bias.into(),
            own: self
                .own
                .map(|own| Dispatch::float_reshape(own, Shape::new([outer])))
                .into(),
            excluded: match self.excluded {
                None => Excluded::Nothing,
                Some(SameId { rows, columns }) => Excluded::SameId {
                    rows: Dispatch::int_reshape(rows, Shape::new([outer])),
                    columns,
                },
            },
        };
        let forward = routing::linear_cross_entropy::<B>(projection, inputs, linear_options)?;
        Ok(Forward {
            loss: match options.reduction {
                RowReduction::None => {
                    Dispatch::float_reshape(forward.loss, row_shape(&shape, options.class_dim))
                }
                _ => forward.loss,
            },
            saved: Saved::Nothing,
            details: forward.details,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_fits_its_budget_and_the_largest_buffer() {
        let of_bytes = Chunk::Bytes(1000);
        assert_eq!(of_bytes.rows(100, None), 10);
        assert_eq!(of_bytes.rows(101, Some(4000)), 9);
        assert_eq!(of_bytes.rows(100, Some(250)), 2);
        // Less than one row cannot be made at a time.
        assert_eq!(of_bytes.rows(1001, None), 1);
        assert_eq!(of_bytes.rows(100, Some(99)), 1);
        assert_eq!(of_bytes.rows(0, None), 1000);
        assert_eq!(Chunk::Bytes(0).rows(4, None), 1);
        assert_eq!(Chunk::Rows(7).rows(100, Some(250)), 7);
    }

    /// What a device says of itself bounds a chunk: 1 TiB is asked for, no row has more than a buffer.
    #[cfg(feature = "wgpu")]
    #[test]
    fn the_largest_buffer_is_that_of_the_device() {
        let device = burn::tensor::Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
        let largest = routing::largest_buffer(&device).expect("a device has a bound");
        let rows = Chunk::Bytes(1 << 40).rows(1 << 20, Some(largest));
        assert!(rows << 20 <= largest && (rows + 1) << 20 > largest);
    }
}
