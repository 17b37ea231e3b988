//! Computes a problem with the crate.

use burn::tensor::kind::Basic;
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLoss, CrossEntropyTarget, LogitsRank, LogitsSource, RowLosses,
    SparseDistribution, TargetTensor,
};

use serde::{Deserialize, Serialize};

use super::problem::{Outcome, Problem, Targets, Terms};
use super::row_value::Asked;
use super::teacher::Teacher;
use super::{oracle, tolerance};

/// The layout of a tensor in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    Contiguous,
    /// A view with the order of the dimensions reversed.
    Permuted,
    /// A view with the last dimension moved to dimension 1, as of a model that puts its classes last.
    Moved,
    /// A window of a larger tensor.
    Sliced,
    /// A window of a tensor whose last dimension is longer, by as much as makes it a multiple of 16.
    Gaps,
    /// A view that runs backwards through every dimension.
    Flipped,
}

impl Layout {
    /// All but the contiguous one.
    pub const VIEWS: [Self; 5] = [
        Self::Permuted,
        Self::Moved,
        Self::Sliced,
        Self::Gaps,
        Self::Flipped,
    ];
}

/// The form in which the tensors of a problem are made.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub float: DType,
    /// The dtype of target distributions; the dtype of the logits where `None`.
    pub shares: Option<DType>,
    /// The dtype of indices; the backend's default where `None`.
    pub int: Option<DType>,
    pub layout: Layout,
    pub target_layout: Layout,
    /// Whether index targets keep the class dimension, with size 1.
    pub unsqueezed: bool,
    /// Whether distributions are given as sparse ones, with all classes in another order for each row.
    pub sparse: bool,
    /// Whether the logits are a result that only the loss holds, instead of a leaf that the test keeps.
    pub owned: bool,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            float: DType::F32,
            shares: None,
            int: None,
            layout: Layout::Contiguous,
            target_layout: Layout::Contiguous,
            unsqueezed: false,
            sparse: false,
            owned: false,
        }
    }
}

/// What is computed of a problem.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub asked: Asked,
    /// The logits whose probabilities are the target, in place of the problem's own targets.
    pub teacher: Option<&'a Teacher>,
}

impl Call<'_> {
    pub const LOSS: Call<'static> = Call {
        asked: Asked::Loss,
        teacher: None,
    };
}

/// Asserts that the crate agrees with the oracle.
#[track_caller]
pub fn assert_agrees(problem: &Problem, form: Form, device: &Device) {
    let found = solve_in(problem, form, device);
    let expected = oracle::solve(problem);
    let name = format!(
        "{:?}, classes in {}, {:?}, {form:?}",
        problem.shape, problem.class_dim, problem.config
    );
    tolerance::assert_close(&name, problem, &found, &expected, form.float);
}

/// Loss and gradients of the problem, from contiguous tensors in f32.
pub fn solve(problem: &Problem, device: &Device) -> Outcome {
    solve_in(problem, Form::default(), device)
}

/// Loss and gradients of the problem.
pub fn solve_in(problem: &Problem, form: Form, device: &Device) -> Outcome {
    try_solve_in(problem, form, device).unwrap_or_else(|error| panic!("{error}"))
}

/// Loss and gradients of the problem, or the crate's error.
pub fn try_solve_in(
    problem: &Problem,
    form: Form,
    device: &Device,
) -> Result<Outcome, CrossEntropyError> {
    try_call(problem, form, Call::LOSS, device)
}

/// What a call computes, and its gradients, or the crate's error. Log-probabilities come with the sign of a loss.
pub fn try_call(
    problem: &Problem,
    form: Form,
    call: Call<'_>,
    device: &Device,
) -> Result<Outcome, CrossEntropyError> {
    let asked = (problem, call.asked);
    macro_rules! weighed {
        ($rank:literal, $rows:literal, $logits:expr, $targets:expr, $tracked:expr) => {{
            match &problem.row_weights {
                None => run::<$rank>(asked, $logits, $targets, $tracked, device),
                Some(weights) => {
                    let dtype = weight_dtype(form.float);
                    let shape = row_shape(problem);
                    let weights = float_tensor::<$rows>(weights, &shape, (device, dtype));
                    let targets = $targets.weighted(weights);
                    run::<$rank>(asked, $logits, targets, $tracked, device)
                }
            }
        }};
    }
    macro_rules! at_rank {
        ($rank:literal, $rows:literal) => {{
            let logits = Logits::<$rank>::new(problem, form, device);
            if let Some(teacher) = call.teacher {
                let target =
                    teacher.target(teacher_tensor::<$rank>(teacher, problem, form, device));
                return weighed!($rank, $rows, logits, target, None);
            }
            match &problem.targets {
                Targets::Distributions(shares) if form.sparse => {
                    let dtype = form.shares.unwrap_or(form.float);
                    let places = turned(problem);
                    let entries: Vec<f64> = places.iter().map(|place| shares[*place]).collect();
                    let entries = float_tensor::<$rank>(&entries, &problem.shape, (device, dtype));
                    let entries = arranged(entries, form.target_layout);
                    let classes: Vec<i64> = places
                        .iter()
                        .map(|place| class_of(problem, *place) as i64)
                        .collect();
                    let ints = Form { int: None, ..form };
                    let classes = int_tensor::<$rank>(&classes, &problem.shape, ints, device);
                    let mut outcome = if problem.tracked_targets {
                        let entries = entries.require_grad();
                        let target = SparseDistribution::new(classes, entries.clone());
                        weighed!($rank, $rows, logits, target, Some(entries))
                    } else {
                        let target = SparseDistribution::new(classes, entries);
                        weighed!($rank, $rows, logits, target, None)
                    }?;
                    if let Some(gradient) = &mut outcome.targets_gradient {
                        let mut dense = vec![0.0; gradient.len()];
                        for (slope, place) in gradient.iter().zip(&places) {
                            dense[*place] = *slope;
                        }
                        *gradient = dense;
                    }
                    Ok(outcome)
                }
                Targets::Distributions(shares) => {
                    let dtype = form.shares.unwrap_or(form.float);
                    let shares = float_tensor::<$rank>(shares, &problem.shape, (device, dtype));
                    let shares = arranged(shares, form.target_layout);
                    if problem.tracked_targets {
                        let shares = shares.require_grad();
                        weighed!($rank, $rows, logits, shares.clone(), Some(shares))
                    } else {
                        weighed!($rank, $rows, logits, shares, None)
                    }
                }
                Targets::Indices(indices) if form.unsqueezed => {
                    let mut shape = problem.shape.clone();
                    shape[problem.class_dim] = 1;
                    let targets = int_tensor::<$rank>(indices, &shape, form, device);
                    weighed!($rank, $rows, logits, targets, None)
                }
                Targets::Indices(indices) => {
                    let targets = int_tensor::<$rows>(indices, &row_shape(problem), form, device);
                    weighed!($rank, $rows, logits, targets, None)
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

/// The logits of a teacher, in the form of distributions.
pub fn teacher_tensor<const D: usize>(
    teacher: &Teacher,
    problem: &Problem,
    form: Form,
    device: &Device,
) -> Tensor<D> {
    let options = (device, form.shares.unwrap_or(form.float));
    let logits = float_tensor::<D>(&teacher.logits, &problem.shape, options);
    arranged(logits, form.target_layout)
}

/// For each element the place of one of the same row: the classes of row `r` begin with class `r`.
pub fn turned(problem: &Problem) -> Vec<usize> {
    let mut places = vec![0; problem.logits.len()];
    let classes = problem.classes();
    for row in 0..problem.rows() {
        for class in 0..classes {
            places[problem.at(row, class)] = problem.at(row, (class + row) % classes);
        }
    }
    places
}

pub fn class_of(problem: &Problem, place: usize) -> usize {
    place / problem.inner() % problem.classes()
}

/// Dtype that holds the weights of rows beside logits of a dtype.
pub fn weight_dtype(logits: DType) -> DType {
    match logits {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// The shape of the losses of the rows.
pub fn row_shape(problem: &Problem) -> Vec<usize> {
    let mut shape = problem.shape.clone();
    shape.remove(problem.class_dim);
    if shape.is_empty() {
        shape.push(1);
    }
    shape
}

/// The logits of a problem: the tensor that the loss gets, and the leaf whose gradient is read.
struct Logits<const D: usize> {
    leaf: Tensor<D>,
    given: Tensor<D>,
}

impl<const D: usize> Logits<D> {
    fn new(problem: &Problem, form: Form, device: &Device) -> Self {
        let straight = float_tensor(&problem.logits, &problem.shape, (device, form.float));
        let leaf = |tensor: Tensor<D>| tensor.detach().require_grad();
        if form.owned {
            let leaf = leaf(straight);
            let given = match form.layout {
                Layout::Contiguous => placed(leaf.clone(), 0, [0; D]),
                view => arranged(leaf.clone(), view),
            };
            Self { leaf, given }
        } else {
            let leaf = leaf(arranged(straight, form.layout));
            let given = leaf.clone();
            Self { leaf, given }
        }
    }
}

fn run<const D: usize>(
    (problem, asked): (&Problem, Asked),
    logits: Logits<D>,
    targets: impl CrossEntropyTarget<D>,
    targets_gradient_of: Option<Tensor<D>>,
    device: &Device,
) -> Result<Outcome, CrossEntropyError>
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
{
    let Logits { leaf, given } = logits;
    let targets_gradient_of = targets_gradient_of.filter(|_| !asked.is_of_logits());
    let inputs =
        || [Some(&leaf), targets_gradient_of.as_ref()].map(|input| input.map(Tensor::to_data));
    let before = inputs();
    let loss = problem.config.init(device);
    let (values, objective) = try_values(problem, asked, &loss, given, targets)?;
    let gradients = objective.backward();
    assert!(before == inputs(), "the loss wrote over its inputs");
    let gradient = |tensor: &Tensor<D>| {
        let gradient = tensor.grad(&gradients).expect("the tensor requires it");
        assert_eq!(gradient.dtype(), tensor.dtype(), "dtype of the gradient");
        assert_eq!(gradient.dims(), tensor.dims(), "shape of the gradient");
        numbers(gradient)
    };
    Ok(Outcome {
        loss: values,
        logits_gradient: gradient(&leaf),
        targets_gradient: targets_gradient_of.as_ref().map(gradient),
        terms: Terms::default(),
    })
}

/// What is asked of a problem, and the objective to differentiate. Log-probabilities come with the sign of a loss.
pub fn try_values<const D: usize>(
    problem: &Problem,
    asked: Asked,
    loss: &CrossEntropyLoss,
    logits: impl LogitsSource<D>,
    targets: impl CrossEntropyTarget<D>,
) -> Result<(Vec<f64>, Tensor<1>), CrossEntropyError>
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
{
    let upstream = &problem.upstream;
    Ok(match asked {
        Asked::Loss if !problem.unreduced => loss.try_forward(logits, targets)?.weighed(upstream),
        Asked::Loss => loss
            .try_forward_no_reduction(logits, targets)?
            .weighed(upstream),
        Asked::LogProb => {
            let (values, objective) = loss.log_prob(logits, targets).weighed(upstream);
            (values.into_iter().map(|value| -value).collect(), objective)
        }
        Asked::Entropy => loss.entropy(logits).weighed(upstream),
        Asked::LogSumExp => loss.lse(logits).weighed(upstream),
    })
}

/// Values of a loss over the problem's logits as a leaf, the gradient of the logits, and all gradients. `values` makes
/// the values and the objective to differentiate.
pub fn over_a_leaf<const D: usize>(
    problem: &Problem,
    options: (&Device, DType),
    values: impl FnOnce(&CrossEntropyLoss, Tensor<D>) -> (Vec<f64>, Tensor<1>),
) -> (Outcome, Gradients) {
    let loss = problem.config.init(options.0);
    let leaf = float_tensor::<D>(&problem.logits, &problem.shape, options).require_grad();
    let (loss, objective) = values(&loss, leaf.clone());
    let gradients = objective.backward();
    let gradient = leaf.grad(&gradients).expect("it is tracked");
    assert_eq!(gradient.dtype(), options.1, "dtype of the gradient");
    let outcome = Outcome {
        loss,
        logits_gradient: numbers(gradient),
        targets_gradient: None,
        terms: Terms::default(),
    };
    (outcome, gradients)
}

/// The problem's loss, reduced or of the rows, and the objective to differentiate.
pub fn weighed_loss<const D: usize>(
    problem: &Problem,
    loss: &CrossEntropyLoss,
    logits: impl LogitsSource<D>,
    target: impl CrossEntropyTarget<D>,
) -> (Vec<f64>, Tensor<1>)
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
{
    match problem.unreduced {
        true => loss
            .forward_no_reduction(logits, target)
            .weighed(&problem.upstream),
        false => loss.forward(logits, target).weighed(&problem.upstream),
    }
}

/// A contiguous tensor of f32.
pub fn f32_tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (device, DType::F32),
    )
}

/// One class index per row.
pub fn labels(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// A contiguous float tensor.
pub fn float_tensor<const D: usize>(
    values: &[f64],
    shape: &[usize],
    options: (&Device, DType),
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape.to_vec()), options)
}

fn int_tensor<const D: usize>(
    values: &[i64],
    shape: &[usize],
    form: Form,
    device: &Device,
) -> Tensor<D, Int> {
    let data = TensorData::new(values.to_vec(), shape.to_vec());
    let straight = match form.int {
        None => Tensor::from_data(data, device),
        Some(dtype) => Tensor::from_data(data, (device, dtype)),
    };
    arranged(straight, form.target_layout)
}

/// Gives the same values another layout. The result is differentiable; unless it is contiguous, nothing else
/// holds its memory.
pub fn arranged<const D: usize, K: Basic>(tensor: Tensor<D, K>, layout: Layout) -> Tensor<D, K> {
    let axes: [isize; D] = core::array::from_fn(|axis| axis as isize);
    let reversed: [isize; D] = core::array::from_fn(|axis| (D - 1 - axis) as isize);
    match layout {
        Layout::Contiguous => tensor,
        Layout::Permuted => placed(tensor.permute(reversed), 0, [0; D]).permute(reversed),
        Layout::Moved if D > 2 => {
            // Dimension 1 goes to the end and comes back.
            let there = core::array::from_fn(|axis| match axis {
                0 => 0,
                _ if axis == D - 1 => 1,
                _ => axis as isize + 1,
            });
            let back = core::array::from_fn(|axis| match axis {
                0 => 0,
                1 => D as isize - 1,
                _ => axis as isize - 1,
            });
            let there: [isize; D] = there;
            let back: [isize; D] = back;
            placed(tensor.permute(there), 0, [0; D]).permute(back)
        }
        Layout::Moved => placed(tensor, 0, [0; D]),
        Layout::Sliced => placed(tensor, 1, [1; D]),
        Layout::Gaps => {
            let mut gaps = [0; D];
            let size = tensor.dims()[D - 1];
            gaps[D - 1] = (size + 1).next_multiple_of(16) - size;
            placed(tensor, 0, gaps)
        }
        Layout::Flipped => placed(tensor.flip(axes), 0, [0; D]).flip(axes),
    }
}

/// Copies a tensor into a new one that is larger in every dimension, before it and behind it.
fn placed<const D: usize, K: Basic>(
    tensor: Tensor<D, K>,
    before: usize,
    behind: [usize; D],
) -> Tensor<D, K> {
    let shape = tensor.dims();
    if tensor.shape().num_elements() == 0 {
        // Burn does not fill an empty window, and so records nothing.
        return tensor;
    }
    let options = (&tensor.device(), tensor.dtype());
    let larger: [usize; D] = core::array::from_fn(|axis| before + shape[axis] + behind[axis]);
    let window: [core::ops::Range<usize>; D] = shape.map(|size| before..before + size);
    let filler = Tensor::<D, K>::full(larger, 99, options);
    let placed = filler.slice_assign(window.clone(), tensor);
    if larger == shape {
        placed
    } else {
        placed.slice(window)
    }
}

/// The values of a tensor in row-major order.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Losses of any rank.
pub trait Losses {
    /// The values of the losses, and the sum of their products with the upstream gradient.
    fn weighed(self, upstream: &[f64]) -> (Vec<f64>, Tensor<1>);
}

impl<const D: usize> Losses for Tensor<D> {
    fn weighed(self, upstream: &[f64]) -> (Vec<f64>, Tensor<1>) {
        let data = TensorData::new(upstream.to_vec(), self.dims());
        let upstream = Tensor::<D>::from_data(data, (&self.device(), self.dtype()));
        (numbers(self.clone()), (self * upstream).sum())
    }
}

/// The text of the panic of a call.
pub fn refusal<T>(call: impl FnOnce() -> T) -> String {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    let Err(payload) = caught else {
        panic!("this cannot be computed");
    };
    let text = payload.downcast_ref::<String>().cloned();
    text.expect("a panic with a formatted message")
}
