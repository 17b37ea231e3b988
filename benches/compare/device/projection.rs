//! The projection and the loss in one on a device, beside its three matrix products alone, which are the floor, and
//! beside the product and `burn::nn`'s loss, which hold all logits.
//!
//! - **Data**: uniform, made by the device; all sides take the same tensors.
//! - **Check**: loss, sums and single entries of both gradients agree between the sizes of chunks and, if it can run,
//!   with `burn::nn`.
//! - **Clock**: it starts and stops when the device is idle.

use std::hint::black_box;
use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Distribution, FloatDType, Int, Tensor};
use burn_cross_entropy::LinearCrossEntropyLossConfig;

use super::hardware::{Hardware, megabytes};
use crate::agreement::{Outcome, Tolerance};
use crate::entries::Precision;
use crate::projections::Projection;
use crate::report::{Figures, Row};
use crate::rounds::{Contender, Plan, Spread};
use crate::table::{line, three_digits, time, titled};

/// Bytes of chunks that are timed beside the default.
const SMALL_CHUNK: usize = 64 << 20;

const COLUMNS: [&str; 10] = [
    "rows x features x classes",
    "kind",
    "here",
    "here, chunks of 64 MiB",
    "here, one chunk",
    "burn::nn",
    "three products",
    "burn::nn / here",
    "three products / here",
    "TFLOP/s of the products",
];

pub fn head() -> String {
    titled("Projection and loss, forward and backward", &COLUMNS)
}

/// The row of a projection that was not timed.
pub fn without_times(projection: &Projection, reason: &str) -> Row {
    let first = reason.lines().next().unwrap_or_default().replace('|', "/");
    let mut cells = names(projection);
    cells.push(format!("not timed: {first}"));
    cells.resize(COLUMNS.len(), String::new());
    Row {
        line: line(cells),
        figures: Figures::without_times(projection, reason),
    }
}

fn names(projection: &Projection) -> Vec<String> {
    vec![projection.size(), projection.precision.to_string()]
}

/// Checks that the device has the dtype, and buffers as large as the logits and the weight.
pub fn possible(
    projection: &Projection,
    device: &Device,
    hardware: &Hardware,
) -> Result<(), String> {
    let Projection {
        rows,
        features,
        classes,
        precision,
    } = *projection;
    if !device.supports_dtype(precision.dtype()) {
        return Err(format!("the device does not compute {precision}"));
    }
    let largest = (rows.max(features) * classes * precision.dtype().size()) as u64;
    if largest > hardware.largest_buffer {
        return Err(format!(
            "a tensor takes {}, a buffer of the device at most {}",
            megabytes(largest),
            megabytes(hardware.largest_buffer)
        ));
    }
    Ok(())
}

pub fn row(
    projection: &Projection,
    device: &Device,
    (plan, quartiles): (Plan, bool),
    notes: &mut Vec<String>,
) -> Result<Row, String> {
    let head = Head::new(projection, &device.clone().autodiff());
    let small = Some(SMALL_CHUNK);
    let here = head.side(head.here(|config| config));
    let in_small_chunks = head.side(head.here(|config| config.with_chunk_bytes(small)));
    let rows = Some(projection.rows);
    let in_one_chunk = head.side(head.here(|config| config.with_chunk_rows(rows)));
    let mut burn_nn = head.side(head.burn_nn());
    let products = head.products();

    let probes = projection.probes();
    let exact = here.outcome(projection, &probes)?;
    let tolerance = tolerance(projection, &exact);
    let others = [
        ("chunks of 64 MiB", &in_small_chunks),
        ("one chunk", &in_one_chunk),
    ];
    for (name, side) in others {
        let outcome = side.outcome(projection, &probes)?;
        tolerance.check((name, &outcome), ("this crate", &exact))?;
    }
    let burn_is_right = burn_nn
        .outcome(projection, &probes)
        .and_then(|outcome| tolerance.check(("burn::nn", &outcome), ("this crate", &exact)));

    let mut sides = [here, in_small_chunks, in_one_chunk];
    let mut products = Side {
        head: &head,
        step: products,
    };
    let mut contenders: Vec<&mut dyn Contender> = Vec::new();
    contenders.extend(sides.iter_mut().map(|side| side as &mut dyn Contender));
    contenders.push(&mut products);
    match burn_is_right {
        Ok(()) => contenders.push(&mut burn_nn),
        Err(reason) => notes.push(format!("{projection} without burn::nn: {reason}")),
    }
    let spreads = plan.measure(&mut contenders)?;
    Ok(row_of(projection, &spreads, quartiles))
}

/// The row of the times of this crate's three ways, of the products, and of `burn::nn` if it was timed.
fn row_of(projection: &Projection, spreads: &[Spread], quartiles: bool) -> Row {
    let (times, burn_nn) = (&spreads[..4], spreads.get(4));
    let median = |at: usize| times[at].median;
    let mut cells = names(projection);
    cells.extend(times[..3].iter().map(|spread| time(spread, quartiles)));
    cells.push(burn_nn.map_or("not timed".to_string(), |spread| time(spread, quartiles)));
    cells.push(time(&times[3], quartiles));
    cells.push(burn_nn.map_or(String::new(), |spread| {
        three_digits(spread.median / median(0))
    }));
    cells.push(format!("{:.0} %", 100.0 * median(3) / median(0)));
    cells.push(three_digits(projection.operations() / median(3) / 1e12));
    // The columns of the times, in the order of the sides.
    let titles = [2, 3, 4, 6, 5].map(|column| COLUMNS[column]);
    let seconds = titles.into_iter().zip(spreads.iter().copied());
    Row {
        line: line(cells),
        figures: Figures::new(projection, seconds),
    }
}

/// The tensors that all sides share.
struct Head {
    device: Device,
    input: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
}

/// Gradients of input and weight, after the loss where there is one.
type Results = (Option<Tensor<1>>, [Tensor<2>; 2]);
type Step = Box<dyn Fn(&Head) -> Results>;

impl Head {
    fn new(projection: &Projection, device: &Device) -> Self {
        let Projection {
            rows,
            features,
            classes,
            precision,
        } = *projection;
        let random = |shape: [usize; 2], size: f32| {
            let between = Distribution::Uniform((-size).into(), size.into());
            let numbers = Tensor::<2>::random(shape, between, device);
            numbers.cast(FloatDType::from(precision.dtype())).detach()
        };
        Self {
            input: random([rows, features], 1.0),
            weight: random([features, classes], projection.weight_size()),
            targets: Tensor::from_data(projection.targets(), device),
            device: device.clone(),
        }
    }

    fn side(&self, step: Step) -> Side<'_> {
        Side { head: self, step }
    }

    fn here(
        &self,
        configured: impl Fn(LinearCrossEntropyLossConfig) -> LinearCrossEntropyLossConfig,
    ) -> Step {
        let loss = configured(LinearCrossEntropyLossConfig::new()).init(&self.device);
        Box::new(move |head| {
            head.differentiated(|input, weight| {
                loss.forward(input, weight, None, head.targets.clone())
            })
        })
    }

    fn burn_nn(&self) -> Step {
        let loss = CrossEntropyLossConfig::new().init(&self.device);
        Box::new(move |head| {
            head.differentiated(|input, weight| {
                loss.forward(input.matmul(weight), head.targets.clone())
            })
        })
    }

    fn differentiated(&self, loss: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<1>) -> Results {
        let input = self.input.clone().require_grad();
        let weight = self.weight.clone().require_grad();
        let loss = loss(input.clone(), weight.clone());
        let gradients = loss.backward();
        let of = |leaf: &Tensor<2>| leaf.grad(&gradients).expect("it requires one");
        let gradients = [of(&input), of(&weight)];
        (Some(loss), gradients)
    }

    /// The products of a step: the logits, which stand for their gradient, and from these the gradients of input and
    /// weight.
    fn products(&self) -> Step {
        Box::new(|head| {
            let input = head.input.clone().inner();
            let weight = head.weight.clone().inner();
            let logits = input.clone().matmul(weight.clone());
            let of_input = logits.clone().matmul(weight.transpose());
            let of_weight = input.transpose().matmul(logits);
            (None, [of_input, of_weight])
        })
    }

    fn sync(&self) -> Result<(), String> {
        let done = self.device.sync();
        done.map_err(|error| format!("the device failed: {error}"))
    }
}

struct Side<'a> {
    head: &'a Head,
    step: Step,
}

impl Side<'_> {
    /// The sums are made on the device: a gradient of the weight may be gigabytes.
    fn outcome(&self, projection: &Projection, probes: &[usize]) -> Result<Outcome, String> {
        let (loss, gradients) = (self.step)(self.head);
        let read = |tensor: Tensor<1>| {
            let number = tensor.cast(FloatDType::F32).try_into_scalar::<f32>();
            number.map_err(|error| format!("a result cannot be read: {error}"))
        };
        let loss = loss.expect("a side that is compared has a loss");
        let mut outcome = Outcome::of_loss(read(loss)?.into());
        for gradient in &gradients {
            let size = gradient.clone().cast(FloatDType::F32).abs().sum();
            outcome.gradient_sum += f64::from(read(size)?);
        }
        let [of_input, _] = projection.sizes();
        for &probe in probes {
            let (gradient, at) = match probe.checked_sub(of_input) {
                None => (&gradients[0], probe),
                Some(at) => (&gradients[1], at),
            };
            let columns = gradient.dims()[1];
            let (row, column) = (at / columns, at % columns);
            let entry = gradient.clone().slice([row..row + 1, column..column + 1]);
            outcome.probes.push(read(entry.reshape([1]))?.into());
        }
        Ok(outcome)
    }

    fn seconds(&self) -> Result<f64, String> {
        self.head.sync()?;
        let start = Instant::now();
        let results = (self.step)(self.head);
        self.head.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        black_box(results);
        Ok(seconds)
    }
}

impl Contender for Side<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.seconds()?;
        (0..repetitions).map(|_| self.seconds()).collect()
    }
}

/// The allowed differences. Products of f32 may round their operands to 11 bits (TF32), those of bf16 have 8, and
/// terms cancel in the sums over thousands of rows or classes.
fn tolerance(projection: &Projection, exact: &Outcome) -> Tolerance {
    let mean = exact.gradient_sum / projection.sizes().iter().sum::<usize>() as f64;
    let (loss, share) = match projection.precision {
        Precision::F32 => (1e-3, 0.02),
        Precision::Bf16 | Precision::F16 => (2e-2, 0.15),
    };
    Tolerance {
        loss,
        gradient_sum: loss,
        probe: share,
        probe_floor: share * mean,
    }
}
