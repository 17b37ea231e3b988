//! Shape of the logits as rows and classes, and the dtype of the arithmetic.

use burn::tensor::{DType, FloatDType, Shape};

/// Shape of the logits seen as `[outer, classes, inner]`: the dimensions before the class dimension, the
/// classes, and the dimensions behind it. There are `outer * inner` rows.
///
/// ```
/// use burn::tensor::Shape;
/// use burn_cross_entropy::operation::Geometry;
///
/// let geometry = Geometry::new(&Shape::new([2, 3, 4, 5]), 1);
/// assert_eq!((geometry.outer, geometry.classes, geometry.inner), (2, 3, 20));
/// assert_eq!(geometry.rows(), 40);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Product of the sizes before the class dimension.
    pub outer: usize,
    /// Number of classes.
    pub classes: usize,
    /// Product of the sizes behind the class dimension.
    pub inner: usize,
}

impl Geometry {
    /// Geometry of logits of this shape.
    pub fn new(logits: &Shape, class_dim: usize) -> Self {
        Self {
            outer: logits[..class_dim].iter().product(),
            classes: logits[class_dim],
            inner: logits[class_dim + 1..].iter().product(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.outer * self.inner
    }

    /// Shape with one entry per element of the logits.
    pub fn full(&self) -> Shape {
        Shape::new([self.outer, self.classes, self.inner])
    }

    /// Shape with one entry per row, broadcastable against [`Geometry::full`].
    pub fn per_row(&self) -> Shape {
        Shape::new([self.outer, 1, self.inner])
    }

    /// Shape with one entry per class, broadcastable against [`Geometry::full`].
    pub fn per_class(&self) -> Shape {
        Shape::new([1, self.classes, 1])
    }
}

/// Shape of the logits without the class dimension; `[1]` for logits of rank 1.
pub fn row_shape(logits: &Shape, class_dim: usize) -> Shape {
    if logits.num_dims() == 1 {
        return Shape::new([1]);
    }
    let mut shape = logits.clone();
    shape.remove(class_dim);
    shape
}

/// Dtype of the arithmetic and of the loss: f64 for f64, else f32.
pub fn accumulation_dtype(logits: DType) -> FloatDType {
    match logits {
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}
