//! Training steps of one side: made, timed, and compared with those of another side.

use std::iter::Cycle;
use std::time::Instant;
use std::vec;

use burn::module::{ModuleVisitor, Param};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};

use crate::data::SEED;
use crate::models::{Model, Task};
use crate::rounds::Contender;
use crate::side::{Judged, Losses, Side};

/// Low enough that no model learns its one batch by heart while it is timed.
const LEARNING_RATE: f64 = 1e-5;
/// Steps over which the sides are compared.
pub const CHECKED: usize = 3;
/// The largest difference of two losses, as a share.
const TOLERANCE: f64 = 1e-4;

/// The model and its optimizer, step by step.
pub trait Training {
    fn step(&mut self) -> Result<Step, String>;
}

pub struct Step {
    pub seconds: f64,
    pub loss: f64,
    /// Rows whose largest logit is that of the right class.
    pub right: i64,
}

/// Makes a side's training, which begins with the same weights for all of them.
pub type Start = Box<dyn Fn(Side) -> Box<dyn Training>>;

/// `batches` are taken in turn, one in each step.
pub fn start<M: Model>(model: M, batches: Vec<M::Batch>, device: &Device) -> Start {
    model.visit(&mut Drawn);
    let device = device.clone();
    Box::new(move |side| {
        Box::new(Trainer {
            model: model.clone(),
            batches: batches.clone().into_iter().cycle(),
            optimizer: AdamConfig::new().init(),
            losses: Losses::new(&device),
            side,
            device: device.clone(),
        })
    })
}

/// Has every weight drawn. Burn would draw it when it is first used, between two dropouts of the first side.
struct Drawn;

impl ModuleVisitor for Drawn {
    fn visit_float<const D: usize>(&mut self, weights: &Param<Tensor<D>>) {
        weights.val();
    }
}

struct Trainer<M: Model> {
    model: M,
    batches: Cycle<vec::IntoIter<M::Batch>>,
    optimizer: ModuleOptimizer,
    losses: Losses,
    side: Side,
    /// The device, with autodiff.
    device: Device,
}

impl<M: Model> Training for Trainer<M> {
    /// Makes a step in the order of burn-train: the metric comes last, and keeps what it needs until then.
    fn step(&mut self) -> Result<Step, String> {
        let start = Instant::now();
        let batch = self.batches.next().expect("there is a batch");
        let prediction = self.model.predict(&batch);
        let Judged { loss, right } = self.side.judge(&self.losses, prediction);
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        // burn-train's learner steps with a clone of its model too.
        self.model = self
            .optimizer
            .step(LEARNING_RATE, self.model.clone(), gradients);
        let right = right().try_into_scalar::<i64>().map_err(unreadable)?;
        let loss = read(loss)?;
        self.device.sync().map_err(unreadable)?;
        Ok(Step {
            seconds: start.elapsed().as_secs_f64(),
            loss,
            right,
        })
    }
}

fn read(loss: Tensor<1>) -> Result<f64, String> {
    let loss: f32 = loss.try_into_scalar().map_err(unreadable)?;
    Ok(loss.into())
}

fn unreadable(error: impl std::fmt::Display) -> String {
    format!("the results cannot be read from the device: {error}")
}

/// Checks that all sides have the same losses and predictions, step by step.
pub fn check(task: Task, start: &Start, device: &Device) -> Result<(), String> {
    let steps = |side| {
        // Dropout leaves out the same numbers on all sides.
        device.seed(SEED);
        let mut training = start(side);
        let steps = (0..CHECKED).map(|_| training.step());
        steps.collect::<Result<Vec<Step>, String>>()
    };
    let expected = steps(Side::BurnNn)?;
    for side in [Side::Here, Side::HereWithOutput] {
        for (at, (step, expected)) in steps(side)?.iter().zip(&expected).enumerate() {
            let difference = (step.loss - expected.loss).abs();
            // A difference in the last digits may choose another one of two large logits.
            let other = step.right.abs_diff(expected.right);
            let is_near = difference <= TOLERANCE * expected.loss.abs()
                && other <= 1 + task.rows() as u64 / 1000;
            if !is_near {
                return Err(format!(
                    "{side} and {} disagree in step {}: losses {} and {}, rows predicted right {} and {}",
                    Side::BurnNn,
                    at + 1,
                    step.loss,
                    expected.loss,
                    step.right,
                    expected.right,
                ));
            }
        }
    }
    Ok(())
}

/// The steps of a side, as a contender in the rounds.
pub struct Steps(pub Box<dyn Training>);

impl Contender for Steps {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.0.step()?;
        (0..repetitions)
            .map(|_| Ok(self.0.step()?.seconds))
            .collect()
    }
}
