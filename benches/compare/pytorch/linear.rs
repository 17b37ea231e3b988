//! Compares the projection and the loss, forward and backward, with PyTorch's two ways: `eager` makes all
//! logits, `chunked` is its `linear_cross_entropy` with `LinearCrossEntropyOptions()`.

use std::fmt::{self, Display};
use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{LinearCrossEntropyLoss, LinearCrossEntropyLossConfig};
use serde::{Deserialize, Serialize};

use super::process::{Checked, PyTorch};
use crate::agreement::{Outcome, Tolerance};
use crate::memory::Memory;
use crate::projections::Projection;
use crate::report::{Figures, Row};
use crate::rounds::{Contender, Plan};
use crate::table::{line, mebibytes, three_digits, time, titled};

const COLUMNS: [&str; 12] = [
    "rows x features x classes",
    "PyTorch eager",
    "PyTorch chunked",
    "here",
    "here, tied weight",
    "here / eager",
    "here / chunked",
    "GFLOP/s here",
    "memory eager",
    "memory chunked",
    "memory here",
    "memory here, tied",
];

pub fn head() -> String {
    titled(
        "Projection and loss, forward and backward, memory in MiB beyond inputs and gradients",
        &COLUMNS,
    )
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Eager,
    Chunked,
}

/// A request to PyTorch.
#[derive(Serialize)]
struct Projected<'a> {
    #[serde(flatten)]
    projection: &'a Projection,
    weight_size: f32,
    method: Method,
}

impl Projected<'_> {
    fn new(projection: &Projection, method: Method) -> Projected<'_> {
        Projected {
            projection,
            weight_size: projection.weight_size(),
            method,
        }
    }
}

#[derive(Deserialize)]
struct CheckedWithMemory {
    #[serde(flatten)]
    checked: Checked,
    memory: Option<u64>,
}

/// The layout of the weight in memory.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// The layout of `burn::nn::Linear`: classes side by side.
    Linear,
    /// The transposed view of an embedding, features side by side.
    Tied,
}

impl Display for Layout {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Layout::Linear => "this crate",
            Layout::Tied => "this crate with a tied weight",
        })
    }
}

pub fn row(
    projection: &Projection,
    pytorch: &mut PyTorch,
    plan: Plan,
    quartiles: bool,
) -> Result<Row, String> {
    let here = [Layout::Linear, Layout::Tied].map(|layout| Here::new(projection, layout));
    let eager = Projected::new(projection, Method::Eager);
    let chunked = Projected::new(projection, Method::Chunked);
    let probes = projection.probes();

    let mut memory = Vec::new();
    let theirs: CheckedWithMemory = pytorch.check(&eager, &probes)?;
    memory.push(theirs.memory);
    let theirs = theirs.checked.outcome()?;
    let of_chunked: CheckedWithMemory = pytorch.check(&chunked, &probes)?;
    memory.push(of_chunked.memory);
    let tolerance = tolerance(projection, &theirs);
    let agree = |name: &str, outcome: &Outcome| {
        tolerance.check((name, outcome), ("PyTorch eager", &theirs))
    };
    agree("PyTorch chunked", &of_chunked.checked.outcome()?)?;
    for here in &here {
        let (outcome, peak) = here.outcome(projection, &probes);
        agree(&here.layout.to_string(), &outcome)?;
        memory.push(peak);
    }

    let [mut here, mut tied] = here;
    // One repetition is enough, because it takes seconds.
    let plan = Plan {
        repetitions: 1,
        ..plan
    };
    let spreads = {
        // One process answers for both ways, one after the other.
        let pytorch = std::cell::RefCell::new(pytorch);
        let mut eager = Theirs {
            pytorch: &pytorch,
            projected: &eager,
        };
        let mut chunked = Theirs {
            pytorch: &pytorch,
            projected: &chunked,
        };
        plan.measure(&mut [&mut eager, &mut chunked, &mut here, &mut tied])?
    };
    let median = |at: usize| spreads[at].median;
    let mut cells = vec![projection.size()];
    cells.extend(spreads.iter().map(|spread| time(spread, quartiles)));
    cells.push(three_digits(median(2) / median(0)));
    cells.push(three_digits(median(2) / median(1)));
    cells.push(three_digits(projection.operations() / median(2) / 1e9));
    cells.extend(memory.iter().copied().map(mebibytes));
    let seconds = COLUMNS[1..].iter().copied().zip(spreads);
    let bytes = COLUMNS[COLUMNS.len() - memory.len()..].iter().zip(memory);
    let known = bytes.filter_map(|(&title, bytes)| Some((title, bytes?)));
    Ok(Row {
        line: line(cells),
        figures: Figures::new(projection, seconds).with_memory(known),
    })
}

/// The tolerance for gradients that are sums over thousands of rows or classes. Terms cancel in these sums,
/// and each side adds them in another order.
fn tolerance(projection: &Projection, theirs: &Outcome) -> Tolerance {
    let count = projection.sizes().iter().sum::<usize>();
    Tolerance {
        loss: 1e-5,
        gradient_sum: 1e-5,
        probe: 1e-3,
        probe_floor: 1e-3 * theirs.gradient_sum / count as f64,
    }
}

struct Theirs<'a> {
    pytorch: &'a std::cell::RefCell<&'a mut PyTorch>,
    projected: &'a Projected<'a>,
}

impl Contender for Theirs<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.pytorch.borrow_mut().time(self.projected, repetitions)
    }
}

struct Here {
    layout: Layout,
    loss: LinearCrossEntropyLoss,
    input: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
}

impl Here {
    fn new(projection: &Projection, layout: Layout) -> Self {
        let device = Device::flex().autodiff();
        let weight = Tensor::<2>::from_data(projection.weight(), &device);
        Self {
            layout,
            loss: LinearCrossEntropyLossConfig::new().init(&device),
            input: Tensor::from_data(projection.input(), &device),
            weight: match layout {
                Layout::Linear => weight,
                // The transposed numbers are copied into their new order.
                Layout::Tied => Tensor::from_data(weight.transpose().into_data(), &device),
            },
            targets: Tensor::from_data(projection.targets(), &device),
        }
    }

    /// The seconds of a step, the loss, and the gradients of input and weight.
    fn step(&self) -> (f64, f64, [Tensor<2>; 2]) {
        let input = self.input.clone().require_grad();
        let leaf = self.weight.clone().require_grad();
        let targets = self.targets.clone();
        let start = Instant::now();
        let weight = match self.layout {
            Layout::Linear => leaf.clone(),
            Layout::Tied => leaf.clone().transpose(),
        };
        let loss = self.loss.forward(input.clone(), weight, None, targets);
        let gradients = loss.backward();
        let of = |leaf: &Tensor<2>| leaf.grad(&gradients).expect("it requires one");
        let gradients = [of(&input), of(&leaf)];
        let seconds = start.elapsed().as_secs_f64();
        (seconds, f64::from(loss.into_scalar::<f32>()), gradients)
    }

    fn outcome(&self, projection: &Projection, probes: &[usize]) -> (Outcome, Option<u64>) {
        // A first call leaves threads and the buffers of products behind, which the measurement does not
        // count. The pages that it leaves for the next call count.
        drop(self.step());
        burn_cross_entropy::release_memory();
        let memory = Memory::watch();
        let (_, loss, [input, weight]) = self.step();
        let gradients = projection.sizes().iter().sum::<usize>() as u64 * size_of::<f32>() as u64;
        let peak = memory.and_then(|memory| memory.peak());
        let peak = peak.map(|peak| peak.saturating_sub(gradients));
        let weight = match self.layout {
            Layout::Linear => weight,
            Layout::Tied => weight.transpose(),
        };
        let mut outcome = Outcome::of_loss(loss);
        let mut first = 0;
        for gradient in [input, weight] {
            let gradient = gradient.into_data();
            let entries = gradient.as_slice::<f32>().expect("f32 goes in");
            outcome.add(entries, first, probes);
            first += entries.len();
        }
        (outcome, peak)
    }
}

impl Contender for Here {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        black_box(self.step());
        Ok((0..repetitions).map(|_| black_box(self.step()).0).collect())
    }
}
