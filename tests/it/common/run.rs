//! A problem computed by the crate.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyBackend, CrossEntropyError, CrossEntropyLoss, CrossEntropyTarget, LogitsRank,
    RowLosses,
};

use super::problem::{Outcome, Problem, Targets};

/// How the logits lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Contiguous,
    /// A view with the order of the dimensions reversed.
    Permuted,
    /// A window of a larger tensor.
    Sliced,
}

/// In which form the tensors of a problem are made.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub float: DType,
    /// The backend's default where `None`.
    pub int: Option<DType>,
    pub layout: Layout,
    /// Index targets with the class dimension kept at size 1.
    pub unsqueezed: bool,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            float: DType::F32,
            int: None,
            layout: Layout::Contiguous,
            unsqueezed: false,
        }
    }
}

/// Loss and gradients of the problem in f32, contiguous.
pub fn solve<B: CrossEntropyBackend>(problem: &Problem, device: &Device) -> Outcome {
    solve_in::<B>(problem, Form::default(), device)
}

/// Loss and gradients of the problem.
pub fn solve_in<B: CrossEntropyBackend>(problem: &Problem, form: Form, device: &Device) -> Outcome {
    try_solve_in::<B>(problem, form, device).unwrap_or_else(|error| panic!("{error}"))
}

/// Loss and gradients of the problem, or what the crate says against it.
pub fn try_solve_in<B: CrossEntropyBackend>(
    problem: &Problem,
    form: Form,
    device: &Device,
) -> Result<Outcome, CrossEntropyError> {
    macro_rules! at_rank {
        ($rank:literal, $rows:literal) => {{
            let logits = float_tensor::<$rank>(&problem.logits, &problem.shape, form, device);
            match &problem.targets {
                Targets::Distributions(targets) => {
                    let targets = float_tensor::<$rank>(targets, &problem.shape, form, device);
                    if problem.tracked_targets {
                        let gradient_of = targets.clone();
                        run::<B, $rank>(problem, logits, targets, Some(gradient_of), device)
                    } else {
                        run::<B, $rank>(problem, logits, targets.detach(), None, device)
                    }
                }
                Targets::Indices(indices) if form.unsqueezed => {
                    let mut shape = problem.shape.clone();
                    shape[problem.class_dim] = 1;
                    let targets = int_tensor::<$rank>(indices, &shape, form, device);
                    run::<B, $rank>(problem, logits, targets, None, device)
                }
                Targets::Indices(indices) => {
                    let mut shape = problem.shape.clone();
                    shape.remove(problem.class_dim);
                    if shape.is_empty() {
                        shape.push(1);
                    }
                    let targets = int_tensor::<$rows>(indices, &shape, form, device);
                    run::<B, $rank>(problem, logits, targets, None, device)
                }
            }
        }};
    }
    match problem.shape.len() {
        1 => at_rank!(1, 1),
        2 => at_rank!(2, 1),
        3 => at_rank!(3, 2),
        4 => at_rank!(4, 3),
        5 => at_rank!(5, 4),
        6 => at_rank!(6, 5),
        7 => at_rank!(7, 6),
        8 => at_rank!(8, 7),
        rank => panic!("no logits of rank {rank}"),
    }
}

fn run<B: CrossEntropyBackend, const D: usize>(
    problem: &Problem,
    logits: Tensor<D>,
    targets: impl CrossEntropyTarget<D>,
    targets_gradient_of: Option<Tensor<D>>,
    device: &Device,
) -> Result<Outcome, CrossEntropyError>
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
{
    let loss: CrossEntropyLoss<B> = problem.config.init_for::<B>(device);
    let (values, objective) = if problem.unreduced {
        let losses = loss.try_forward_no_reduction(logits.clone(), targets)?;
        losses.weighed(&problem.upstream)
    } else {
        let loss = loss.try_forward(logits.clone(), targets)?;
        loss.weighed(&problem.upstream)
    };
    let gradients = objective.backward();
    let gradient = |tensor: &Tensor<D>| {
        let gradient = tensor.grad(&gradients).expect("the tensor requires it");
        assert_eq!(gradient.dtype(), tensor.dtype(), "dtype of the gradient");
        assert_eq!(gradient.dims(), tensor.dims(), "shape of the gradient");
        numbers(gradient)
    };
    Ok(Outcome {
        loss: values,
        logits_gradient: gradient(&logits),
        targets_gradient: targets_gradient_of.as_ref().map(gradient),
        terms: Vec::new(),
    })
}

/// A float leaf of the given layout that requires its gradient.
pub fn float_tensor<const D: usize>(
    values: &[f64],
    shape: &[usize],
    form: Form,
    device: &Device,
) -> Tensor<D> {
    let make = |values: Vec<f64>, shape: Vec<usize>| {
        Tensor::<D>::from_data(TensorData::new(values, shape), (device, form.float))
    };
    let tensor = match form.layout {
        Layout::Contiguous => make(values.to_vec(), shape.to_vec()),
        Layout::Permuted => {
            let mut axes: [usize; D] = core::array::from_fn(|axis| axis);
            axes.reverse();
            let straight = make(values.to_vec(), shape.to_vec());
            let reversed = numbers(straight.permute(axes));
            let mut reversed_shape = shape.to_vec();
            reversed_shape.reverse();
            let axes: [isize; D] = axes.map(|axis| axis as isize);
            make(reversed, reversed_shape).permute(axes)
        }
        Layout::Sliced => {
            let straight = make(values.to_vec(), shape.to_vec());
            let wider: Vec<usize> = shape.iter().map(|size| size + 2).collect();
            let window: [core::ops::Range<usize>; D] =
                core::array::from_fn(|dim| 1..shape[dim] + 1);
            let filler = vec![1e4; wider.iter().product()];
            make(filler, wider)
                .slice_assign(window.clone(), straight)
                .slice(window)
        }
    };
    tensor.detach().require_grad()
}

fn int_tensor<const D: usize>(
    values: &[i64],
    shape: &[usize],
    form: Form,
    device: &Device,
) -> Tensor<D, Int> {
    let data = TensorData::new(values.to_vec(), shape.to_vec());
    match form.int {
        None => Tensor::from_data(data, device),
        Some(dtype) => Tensor::from_data(data, (device, dtype)),
    }
}

/// The values of a tensor in row-major order.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Losses of any rank.
trait Losses {
    /// Their values, and the sum of their products with the upstream gradient.
    fn weighed(self, upstream: &[f64]) -> (Vec<f64>, Tensor<1>);
}

impl<const D: usize> Losses for Tensor<D> {
    fn weighed(self, upstream: &[f64]) -> (Vec<f64>, Tensor<1>) {
        let data = TensorData::new(upstream.to_vec(), self.dims());
        let upstream = Tensor::<D>::from_data(data, (&self.device(), self.dtype()));
        (numbers(self.clone()), (self * upstream).sum())
    }
}
