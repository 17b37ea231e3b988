//! A loss whose logits a projection makes: as plain numbers, and computed by the crate.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyTarget, LinearCrossEntropyLoss, LinearCrossEntropyLossConfig, LogitsRank,
    ProjectedLogits, RowLosses, TargetTensor, WeightedTarget,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::backends::is_host;
use crate::common::oracle;
use crate::common::problem::{Problem, Targets};
use crate::common::run::{Layout, Losses, arranged, float_tensor, numbers, weight_dtype};
use crate::common::tolerance::{self, assert_numbers};

/// The tensors of a projection, and the problem of its logits.
#[derive(Clone)]
pub struct Projected {
    /// The input, of shape `[rows, features]`.
    pub input: Vec<f64>,
    /// The weight, of shape `[features, classes]`.
    pub weight: Vec<f64>,
    pub bias: Option<Vec<f64>>,
    pub features: usize,
    /// The problem over the logits, in f64.
    pub problem: Problem,
}

/// The loss and the gradients.
pub struct Found {
    pub loss: Vec<f64>,
    pub input: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Option<Vec<f64>>,
    pub targets: Option<Vec<f64>>,
}

/// The form of the tensors, and the chunks in which the crate works.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub dtype: DType,
    /// Dtype of the input, where it is another.
    pub input: Option<DType>,
    /// The number of rows in a chunk.
    pub chunk: Option<usize>,
    /// The layout of input, weight and bias.
    pub layout: Layout,
}

impl Form {
    pub fn chunked(chunk: Option<usize>) -> Self {
        Self {
            dtype: DType::F32,
            input: None,
            chunk,
            layout: Layout::Contiguous,
        }
    }
}

/// Numbers of rows that have logits at one time. A device tunes every size of matrix product, so it has one
/// chunk that does not divide the rows, and all rows at once.
pub fn chunks(device: &Device) -> Vec<Option<usize>> {
    if is_host(device) {
        vec![Some(1), Some(7), Some(1000), None]
    } else {
        vec![Some(7), None]
    }
}

impl Projected {
    /// Input and weight as leaves in f32, with the logits that they make in chunks.
    pub fn leaves(
        &self,
        chunk: Option<usize>,
        device: &Device,
    ) -> ([Tensor<2>; 2], ProjectedLogits<2>) {
        let options = (device, DType::F32);
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        let leaf = |values: &[f64], shape: [usize; 2]| {
            float_tensor::<2>(values, &shape, options).require_grad()
        };
        let input = leaf(&self.input, [rows, self.features]);
        let weight = leaf(&self.weight, [self.features, classes]);
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| float_tensor::<1>(bias, &[classes], options));
        let logits = ProjectedLogits::new(input.clone(), weight.clone()).with_bias(bias);
        let logits = match chunk {
            Some(rows) => logits.with_chunk_rows(rows),
            None => logits,
        };
        ([input, weight], logits)
    }

    pub fn random([rows, features, classes]: [usize; 3], soft: bool, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut numbers = |count: usize, size: f32| -> Vec<f64> {
            let number = |_| f64::from(rng.random_range(-size..size));
            (0..count).map(number).collect()
        };
        let input = numbers(rows * features, 1.0);
        let weight = numbers(features * classes, 2.0);
        let bias = numbers(classes, 1.0);
        let mut projected = Self {
            input,
            weight,
            bias: Some(bias),
            features,
            problem: Problem::random(&[rows, classes], 1, soft, seed),
        };
        projected.project();
        projected
    }

    /// Computes the logits.
    pub fn project(&mut self) {
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        self.problem.logits.resize(rows * classes, 0.0);
        for row in 0..rows {
            for class in 0..classes {
                let at = |feature: usize| {
                    self.input[row * self.features + feature]
                        * self.weight[feature * classes + class]
                };
                let bias = self.bias.as_ref().map_or(0.0, |bias| bias[class]);
                self.problem.logits[row * classes + class] =
                    (0..self.features).map(at).sum::<f64>() + bias;
            }
        }
    }

    pub fn with(mut self, change: impl FnOnce(Problem) -> Problem) -> Self {
        self.problem = change(self.problem);
        self
    }

    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self.project();
        self
    }

    /// Rounds every number to the dtype.
    pub fn rounded_to(mut self, dtype: DType) -> Self {
        for values in [
            Some(&mut self.input),
            Some(&mut self.weight),
            self.bias.as_mut(),
        ] {
            let Some(values) = values else { continue };
            for value in values.iter_mut() {
                *value = rounded(*value, dtype);
            }
        }
        if let Targets::Distributions(shares) = &mut self.problem.targets {
            for share in shares.iter_mut() {
                *share = rounded(*share, dtype);
            }
        }
        self.project();
        self
    }

    pub fn expected(&self) -> Found {
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        let outcome = oracle::solve(&self.problem);
        let gradient = &outcome.logits_gradient;
        let (mut input, mut weight) = (vec![0.0; self.input.len()], vec![0.0; self.weight.len()]);
        let mut bias = vec![0.0; classes];
        for row in 0..rows {
            for class in 0..classes {
                let slope = gradient[row * classes + class];
                bias[class] += slope;
                for feature in 0..self.features {
                    let x = self.input[row * self.features + feature];
                    let w = self.weight[feature * classes + class];
                    input[row * self.features + feature] += slope * w;
                    weight[feature * classes + class] += slope * x;
                }
            }
        }
        Found {
            loss: outcome.loss,
            input,
            weight,
            bias: self.bias.is_some().then_some(bias),
            targets: outcome.targets_gradient,
        }
    }

    pub fn found(&self, form: Form, device: &Device) -> Found {
        let config = LinearCrossEntropyLossConfig::new()
            .with_loss(self.problem.config.clone())
            .with_chunk_rows(form.chunk);
        let loss = config.init(device);
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        let options = (device, form.dtype);
        let leaf = |values: &[f64], shape: &[usize], dtype: DType| {
            let tensor = float_tensor::<2>(values, shape, (device, dtype));
            arranged(tensor, form.layout).detach().require_grad()
        };
        let of_input = form.input.unwrap_or(form.dtype);
        let input = leaf(&self.input, &[rows, self.features], of_input);
        let weight = leaf(&self.weight, &[self.features, classes], form.dtype);
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| float_tensor::<1>(bias, &[classes], options).require_grad());
        let soft = match &self.problem.targets {
            Targets::Distributions(shares) => {
                let shares = float_tensor::<2>(shares, &[rows, classes], options);
                Some(if self.problem.tracked_targets {
                    shares.require_grad()
                } else {
                    shares
                })
            }
            Targets::Indices(_) => None,
        };
        let given = (input.clone(), weight.clone(), bias.clone());
        let (values, objective) = match self.problem.shape[..] {
            [_, _] => self.run::<2, 1>(&loss, given, soft.clone(), device),
            [_, _, _] => self.run::<3, 2>(&loss, given, soft.clone(), device),
            _ => panic!("no projection of shape {:?}", self.problem.shape),
        };
        let targets = soft;
        let gradients = objective.backward();
        let of = |tensor: &Tensor<2>| {
            let gradient = tensor.grad(&gradients).expect("it is tracked");
            assert_eq!(gradient.dtype(), tensor.dtype(), "dtype of the gradient");
            assert_eq!(gradient.dims(), tensor.dims(), "shape of the gradient");
            numbers(gradient)
        };
        Found {
            loss: values,
            input: of(&input),
            weight: of(&weight),
            bias: bias.map(|bias| numbers(bias.grad(&gradients).expect("it is tracked"))),
            targets: targets
                .filter(|_| self.problem.tracked_targets)
                .map(|targets| of(&targets)),
        }
    }

    /// The losses and the objective to differentiate, with `D` dimensions of input and `R` of rows.
    fn run<const D: usize, const R: usize>(
        &self,
        loss: &LinearCrossEntropyLoss,
        (input, weight, bias): (Tensor<2>, Tensor<2>, Option<Tensor<1>>),
        soft: Option<Tensor<2>>,
        device: &Device,
    ) -> (Vec<f64>, Tensor<1>)
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
        Tensor<R, Int>: CrossEntropyTarget<D>,
        WeightedTarget<Tensor<R, Int>, R>: CrossEntropyTarget<D>,
        WeightedTarget<Tensor<D>, R>: CrossEntropyTarget<D>,
    {
        let shape: [usize; D] = self.problem.shape[..].try_into().expect("D is its rank");
        let dtype = weight.dtype();
        let mut input_shape = shape;
        input_shape[D - 1] = self.features;
        let input = input.reshape(input_shape);
        let given = (input, weight, bias);
        let weights = self.problem.row_weights.as_ref().map(|weights| {
            float_tensor::<R>(weights, &shape[..D - 1], (device, weight_dtype(dtype)))
        });
        match (&self.problem.targets, soft, weights) {
            (Targets::Indices(indices), _, weights) => {
                let data = TensorData::new(indices.clone(), &shape[..D - 1]);
                let targets = Tensor::<R, Int>::from_data(data, device);
                match weights {
                    None => self.losses(loss, given, targets),
                    Some(weights) => self.losses(loss, given, targets.weighted(weights)),
                }
            }
            (Targets::Distributions(_), soft, weights) => {
                let shares = soft.expect("they are distributions").reshape(shape);
                match weights {
                    None => self.losses(loss, given, shares),
                    Some(weights) => self.losses(loss, given, shares.weighted(weights)),
                }
            }
        }
    }

    /// The reduced loss, or the loss of each row, and the objective to differentiate.
    fn losses<const D: usize>(
        &self,
        loss: &LinearCrossEntropyLoss,
        (input, weight, bias): (Tensor<D>, Tensor<2>, Option<Tensor<1>>),
        targets: impl CrossEntropyTarget<D>,
    ) -> (Vec<f64>, Tensor<1>)
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
    {
        if self.problem.unreduced {
            let losses = loss.forward_no_reduction(input, weight, bias, targets);
            losses.weighed(&self.problem.upstream)
        } else {
            let loss = loss.forward(input, weight, bias, targets);
            loss.weighed(&self.problem.upstream)
        }
    }

    /// Asserts that the crate agrees with the oracle.
    #[track_caller]
    pub fn assert_agrees(&self, form: Form, device: &Device) {
        let (found, expected) = (self.found(form, device), self.expected());
        let name = format!(
            "{form:?} {:?} {:?}",
            self.problem.shape, self.problem.config
        );
        found.assert_close(&name, &expected, (device, form.dtype));
    }
}

impl Found {
    #[track_caller]
    pub fn assert_close(&self, name: &str, expected: &Self, (device, dtype): (&Device, DType)) {
        let allowed = tolerance::of_projection(dtype, device);
        let close = |what: &str, found: &[f64], expected: &[f64], allowed: f64| {
            assert_numbers(&format!("{name}: {what}"), found, expected, allowed);
        };
        close("loss", &self.loss, &expected.loss, allowed.loss);
        close("input", &self.input, &expected.input, allowed.gradient);
        close("weight", &self.weight, &expected.weight, allowed.gradient);
        for (what, found, expected) in [
            ("bias", &self.bias, &expected.bias),
            ("targets", &self.targets, &expected.targets),
        ] {
            assert_eq!(found.is_some(), expected.is_some(), "{name}: {what}");
            if let (Some(found), Some(expected)) = (found, expected) {
                close(what, found, expected, allowed.gradient);
            }
        }
    }
}

fn rounded(value: f64, dtype: DType) -> f64 {
    let data = TensorData::new(vec![value], [1]).convert_dtype(dtype);
    data.iter::<f64>().next().expect("there is one")
}
