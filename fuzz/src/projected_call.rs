//! The tensors of a problem behind a projection, and the crate's calls with them.

use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyTarget, LogitsRank, OutputOf, ProjectedLogits, RowLosses, SparseDistribution,
    TargetTensor,
};

use crate::common::details::{RowNumbers, Rows};
use crate::common::problem::Targets;
use crate::common::row_value::Asked;
use crate::common::run::{
    self, Losses, arranged, class_of, float_tensor, numbers, row_shape, turned, weight_dtype,
};
use crate::projected::{Found, Projected};
use crate::projection::Case;

/// What the crate computes.
pub struct Computed {
    pub found: Found,
    /// What comes with a loss for every row.
    pub rows: Option<RowNumbers>,
}

/// The tensors of a projection.
struct Leaves {
    input: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

/// Distributions whose gradient is wanted, and for each of their entries its place in row-major order.
struct Shares {
    leaf: Tensor<2>,
    places: Option<Vec<usize>>,
}

impl Leaves {
    fn new(projected: &Projected, case: &Case, device: &Device) -> Self {
        let options = (device, case.form.dtype);
        let [rows, classes] = [projected.problem.rows(), projected.problem.classes()];
        let leaf = |values: &[f64], shape: &[usize]| {
            let tensor = float_tensor::<2>(values, shape, options);
            arranged(tensor, case.form.layout).detach().require_grad()
        };
        let bias = projected.bias.as_ref();
        Self {
            input: leaf(&projected.input, &[rows, projected.features]),
            weight: leaf(&projected.weight, &[projected.features, classes]),
            bias: bias.map(|bias| float_tensor::<1>(bias, &[classes], options).require_grad()),
        }
    }

    fn logits<const D: usize>(&self, case: &Case) -> ProjectedLogits<D> {
        let mut shape = shape_of::<D>(case);
        shape[D - 1] = self.weight.dims()[0];
        let input = self.input.clone().reshape(shape);
        let logits = ProjectedLogits::new(input, self.weight.clone()).with_bias(self.bias.clone());
        match case.form.chunk {
            Some(rows) => logits.with_chunk_rows(rows),
            None => logits,
        }
    }
}

impl Shares {
    fn gradient(&self, gradients: &Gradients) -> Vec<f64> {
        let found = gradient(&self.leaf, gradients);
        let Some(places) = &self.places else {
            return found;
        };
        let mut dense = vec![0.0; found.len()];
        for (slope, place) in found.iter().zip(places) {
            dense[*place] = *slope;
        }
        dense
    }
}

fn shape_of<const D: usize>(case: &Case) -> [usize; D] {
    let shape = &case.projected.problem.shape[..];
    shape.try_into().expect("D is the rank")
}

fn gradient<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Vec<f64> {
    let gradient = leaf.grad(gradients).expect("it is tracked");
    assert_eq!(gradient.dtype(), leaf.dtype(), "dtype of the gradient");
    assert_eq!(gradient.dims(), leaf.dims(), "shape of the gradient");
    numbers(gradient)
}

/// Computes what is asked for, with gradients.
pub fn computed(case: &Case, device: &Device) -> Computed {
    match case.projected.problem.shape.len() {
        2 => of_two_dimensions(case, device),
        _ => of_three_dimensions(case, device),
    }
}

macro_rules! at_rank {
    ($name:ident, $rank:literal, $rows:literal) => {
        fn $name(case: &Case, device: &Device) -> Computed {
            let problem = &case.projected.problem;
            let options = (device, case.form.dtype);
            let rows = row_shape(problem);
            macro_rules! weighed {
                ($target:expr, $shares:expr) => {
                    match &problem.row_weights {
                        None => call::<$rank>(case, $target, $shares, device),
                        Some(weights) => {
                            let dtype = weight_dtype(case.form.dtype);
                            let weights = float_tensor::<$rows>(weights, &rows, (device, dtype));
                            call::<$rank>(case, $target.weighted(weights), $shares, device)
                        }
                    }
                };
            }
            if let Some(teacher) = &case.teacher {
                return match &case.taught_by {
                    Some(projected) => {
                        let logits = Leaves::new(projected, case, device).logits::<$rank>(case);
                        weighed!(teacher.target(logits), None)
                    }
                    None => {
                        let logits =
                            float_tensor::<$rank>(&teacher.logits, &problem.shape, options);
                        weighed!(teacher.target(logits), None)
                    }
                };
            }
            let shape = shape_of::<$rank>(case);
            match &problem.targets {
                Targets::Indices(indices) => {
                    let data = TensorData::new(indices.clone(), rows.clone());
                    weighed!(Tensor::<$rows, Int>::from_data(data, device), None)
                }
                Targets::Distributions(shares) if case.is_sparse => {
                    let places = turned(problem);
                    let entries: Vec<f64> = places.iter().map(|at| shares[*at]).collect();
                    let classes = places.iter().map(|at| class_of(problem, *at) as i64);
                    let classes = TensorData::new(classes.collect::<Vec<i64>>(), shape);
                    let classes = Tensor::<$rank, Int>::from_data(classes, device);
                    let (leaf, shares) = tracked(case, &entries, Some(places), device);
                    weighed!(
                        SparseDistribution::new(classes, leaf.reshape(shape)),
                        shares
                    )
                }
                Targets::Distributions(shares) => {
                    let (leaf, shares) = tracked(case, shares, None, device);
                    weighed!(leaf.reshape(shape), shares)
                }
            }
        }
    };
}

at_rank!(of_two_dimensions, 2, 1);
at_rank!(of_three_dimensions, 3, 2);

/// Distributions `[rows, classes]`, and where their gradient is wanted the way to it.
fn tracked(
    case: &Case,
    shares: &[f64],
    places: Option<Vec<usize>>,
    device: &Device,
) -> (Tensor<2>, Option<Shares>) {
    let problem = &case.projected.problem;
    let shape = [problem.rows(), problem.classes()];
    let leaf = float_tensor::<2>(shares, &shape, (device, case.form.dtype));
    if !problem.tracked_targets || case.asked.is_of_logits() {
        return (leaf, None);
    }
    let leaf = leaf.require_grad();
    (leaf.clone(), Some(Shares { leaf, places }))
}

fn call<const D: usize>(
    case: &Case,
    target: impl CrossEntropyTarget<D> + Clone,
    shares: Option<Shares>,
    device: &Device,
) -> Computed
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
    OutputOf<D>: Rows,
{
    let problem = &case.projected.problem;
    let leaves = Leaves::new(&case.projected, case, device);
    let logits = leaves.logits::<D>(case);
    let loss = problem.config.init(device);
    let is_finite = problem.upstream.iter().all(|upstream| upstream.is_finite());
    let rows = (case.asked == Asked::Loss && is_finite).then(|| {
        let output = loss.forward_with_entropy(logits.clone(), target.clone());
        output.into_details().rows
    });
    let values = run::try_values(problem, case.asked, &loss, logits, target);
    let (values, objective) = values.unwrap_or_else(|error| panic!("{error}"));
    let gradients = objective.backward();
    Computed {
        found: Found {
            loss: values,
            input: gradient(&leaves.input, &gradients),
            weight: gradient(&leaves.weight, &gradients),
            bias: leaves.bias.map(|bias| gradient(&bias, &gradients)),
            targets: shares.map(|shares| shares.gradient(&gradients)),
        },
        rows,
    }
}
