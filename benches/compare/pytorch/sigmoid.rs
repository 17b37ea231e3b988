//! Compares the sigmoid loss of all pairs, forward and backward, with PyTorch's plain form over the matrix of
//! similarities, and with its three matrix products alone.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use burn_cross_entropy::contrastive::{SigLipLoss, SigLipLossConfig};

use super::process::{Checked, PyTorch};
use crate::agreement::{Outcome, Tolerance};
use crate::pairs::Pairs;
use crate::report::{Figures, Row};
use crate::rounds::{Contender, Plan};
use crate::table::{line, three_digits, time, titled};

const COLUMNS: [&str; 6] = [
    "rows x features",
    "PyTorch, all pairs in a tensor",
    "three products",
    "here",
    "PyTorch / here",
    "here / products",
];

pub fn head() -> String {
    titled("Sigmoid loss of all pairs, forward and backward", &COLUMNS)
}

pub fn row(
    pairs: &Pairs,
    pytorch: &mut PyTorch,
    plan: Plan,
    quartiles: bool,
) -> Result<Row, String> {
    let mut here = Here::new(pairs);
    let mut products = Products::new(pairs);
    let probes = pairs.probes();
    let theirs: Checked = pytorch.check(pairs, &probes)?;
    let theirs = theirs.outcome()?;
    let tolerance = Tolerance {
        loss: 1e-5,
        gradient_sum: 1e-5,
        probe: 1e-3,
        probe_floor: 1e-3 * theirs.gradient_sum / (2 * pairs.size()) as f64,
    };
    let outcome = here.outcome(&probes);
    tolerance.check(("this crate", &outcome), ("PyTorch", &theirs))?;

    // One repetition is enough, because it takes long.
    let plan = Plan {
        repetitions: 1,
        ..plan
    };
    let pytorch = RefCell::new(pytorch);
    let mut theirs = Theirs {
        pytorch: &pytorch,
        pairs,
    };
    let spreads = plan.measure(&mut [&mut theirs, &mut products, &mut here])?;
    let median = |at: usize| spreads[at].median;
    let mut cells = vec![pairs.to_string().replace(" sigmoid pairs", "")];
    cells.extend(spreads.iter().map(|spread| time(spread, quartiles)));
    cells.push(three_digits(median(0) / median(2)));
    cells.push(three_digits(median(2) / median(1)));
    let seconds = COLUMNS[1..].iter().copied().zip(spreads);
    Ok(Row {
        line: line(cells),
        figures: Figures::new(pairs, seconds),
    })
}

struct Theirs<'a> {
    pytorch: &'a RefCell<&'a mut PyTorch>,
    pairs: &'a Pairs,
}

impl Contender for Theirs<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.pytorch.borrow_mut().time(self.pairs, repetitions)
    }
}

/// The products of a forward and backward: the similarities, and the gradients of both views from a matrix of this size.
struct Products {
    views: [Tensor<2>; 2],
    matrix: Tensor<2>,
}

impl Products {
    fn new(pairs: &Pairs) -> Self {
        let device = Device::flex();
        let views = pairs.views().map(|view| Tensor::from_data(view, &device));
        let matrix = Tensor::ones([pairs.pairs_of, pairs.pairs_of], &device);
        Self { views, matrix }
    }

    fn step(&self) -> f64 {
        let [a, b] = self.views.clone();
        let start = Instant::now();
        black_box(a.clone().matmul(b.clone().transpose()));
        black_box(self.matrix.clone().matmul(b));
        black_box(self.matrix.clone().transpose().matmul(a));
        start.elapsed().as_secs_f64()
    }
}

impl Contender for Products {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        black_box(self.step());
        Ok((0..repetitions).map(|_| self.step()).collect())
    }
}

struct Here {
    loss: SigLipLoss,
    views: [Tensor<2>; 2],
}

impl Here {
    fn new(pairs: &Pairs) -> Self {
        let device = Device::flex().autodiff();
        Self {
            loss: SigLipLossConfig::new().init(&device),
            views: pairs.views().map(|view| Tensor::from_data(view, &device)),
        }
    }

    /// The seconds of a step, the loss, and the gradients of both views.
    fn step(&self) -> (f64, f64, [Tensor<2>; 2]) {
        let [a, b] = self.views.clone().map(Tensor::require_grad);
        let start = Instant::now();
        let loss = self.loss.forward(a.clone(), b.clone());
        let gradients = loss.backward();
        let of = |leaf: &Tensor<2>| leaf.grad(&gradients).expect("it requires one");
        let gradients = [of(&a), of(&b)];
        let seconds = start.elapsed().as_secs_f64();
        (seconds, f64::from(loss.into_scalar::<f32>()), gradients)
    }

    fn outcome(&self, probes: &[usize]) -> Outcome {
        let (_, loss, gradients) = self.step();
        let mut outcome = Outcome::of_loss(loss);
        let mut first = 0;
        for gradient in gradients {
            let gradient = gradient.into_data();
            let entries = gradient.as_slice::<f32>().expect("f32 goes in");
            outcome.add(entries, first, probes);
            first += entries.len();
        }
        outcome
    }
}

impl Contender for Here {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        black_box(self.step());
        Ok((0..repetitions).map(|_| black_box(self.step()).0).collect())
    }
}
