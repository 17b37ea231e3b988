//! Compares random problems, in random forms and under random options, with the portable path in f64, or with
//! the oracle on a device without f64.
//!
//! `FUZZ_CASES` is the number of problems. They are the same in every run. A failure prints the smallest
//! failing case that was found as a line of JSON; `FUZZ_CASE='<line>'` runs that case alone.

use burn::backend::Dispatch;
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, bf16, f16};
use burn_cross_entropy::operation::{
    InputValues, Inputs, Logits, Options, RowReduction, Targets, Wanted, WantedGradients,
};
use burn_cross_entropy::{EmptyReduction, portable};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::backends::{computes_f64, is_host};
use super::problem::{self, Outcome, Problem, batch_size, is_batch_mean, is_sum};
use super::run::{self, Form, Layout, float_tensor, numbers};
use super::{oracle, tolerance};

/// Most elements of a problem, which a build without optimisation computes in milliseconds.
const MOST_ELEMENTS: usize = 12_000;

/// Everything that determines a problem and the form of its tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Case {
    size: Size,
    input: Input,
    target: Target,
    reduction: Reducing,
    float: DType,
    layout: Layout,
    owned: bool,
    seed: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Size {
    shape: Vec<usize>,
    class_dim: usize,
    from_the_end: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Input {
    Probabilities,
    Logits {
        values: Values,
        scale: f32,
        softcap: Option<f32>,
        z_loss: f32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Values {
    Wide,
    /// Few different numbers, so that the largest occurs more than once.
    Tied,
    /// One class is far above the others.
    Confident,
    /// A quarter of the classes are at minus infinity.
    Masked,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Target {
    kind: Kind,
    layout: Layout,
    smoothing: f32,
    weights: Weights,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Kind {
    Indices {
        dtype: DType,
        ignored: Ignored,
        unsqueezed: bool,
    },
    Shares {
        dtype: DType,
        tracked: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Ignored {
    Nothing,
    /// Class 0, and a number that is not a class.
    AClass,
    /// A number that is not a class.
    NoClass,
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Weights {
    Equal,
    Positive,
    SomeZero,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reducing {
    reduction: RowWise,
    zero_if_empty: bool,
    upstream: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum RowWise {
    None,
    Mean,
    Sum,
    BatchMean,
}

const UPSTREAM: [f64; 5] = [1.0, 2.0, -0.3, 0.0, -1.75];

fn sizes() -> impl Strategy<Value = Size> {
    let classes = prop_oneof![4 => 1usize..=20, 2 => 60usize..=70, 1 => 71usize..=300];
    let other =
        prop_oneof![1 => Just(0usize), 3 => Just(1usize), 12 => 2usize..=7, 4 => 8usize..=140];
    let others = prop::collection::vec(other, 0..=4);
    (classes, others, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(classes, mut shape, position, from_the_end)| {
            let elements = |shape: &[usize]| classes * shape.iter().product::<usize>();
            while elements(&shape) > MOST_ELEMENTS {
                for size in &mut shape {
                    *size = size.div_ceil(2);
                }
            }
            let class_dim = position.index(shape.len() + 1);
            shape.insert(class_dim, classes);
            Size {
                shape,
                class_dim,
                from_the_end,
            }
        },
    )
}

/// Chooses plain logits often, because a kernel may have a special path for them.
fn inputs() -> impl Strategy<Value = Input> {
    let values = || {
        prop::sample::select(vec![
            Values::Wide,
            Values::Tied,
            Values::Confident,
            Values::Masked,
        ])
    };
    let scale = prop::sample::select(vec![1.0f32, 1.0, 0.5, 0.7, 1.5]);
    let softcap = prop::sample::select(vec![None, None, Some(4.0f32), Some(30.0)]);
    let z_loss = prop::sample::select(vec![0.0f32, 0.02]);
    let logits = |(values, scale, softcap, z_loss)| Input::Logits {
        values,
        scale,
        softcap,
        z_loss,
    };
    prop_oneof![
        1 => Just(Input::Probabilities),
        3 => values().prop_map(move |values| logits((values, 1.0, None, 0.0))),
        4 => (values(), scale, softcap, z_loss).prop_map(logits),
    ]
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![3 => Just(Layout::Contiguous), 3 => prop::sample::select(Layout::VIEWS.to_vec())]
}

fn targets(floats: Vec<DType>, ints: Vec<DType>) -> impl Strategy<Value = Target> {
    let int = prop::sample::select(ints);
    let ignored = prop::sample::select(vec![
        Ignored::Nothing,
        Ignored::AClass,
        Ignored::NoClass,
        Ignored::NoClass,
        Ignored::Everything,
    ]);
    let indices =
        (int, ignored, any::<bool>()).prop_map(|(dtype, ignored, unsqueezed)| Kind::Indices {
            dtype,
            ignored,
            unsqueezed,
        });
    let shares = (prop::sample::select(floats), any::<bool>())
        .prop_map(|(dtype, tracked)| Kind::Shares { dtype, tracked });
    let weights = prop::sample::select(vec![Weights::Equal, Weights::Positive, Weights::SomeZero]);
    let smoothing = prop::sample::select(vec![0.0f32, 0.1, 1.0]);
    let kind = prop_oneof![indices, shares];
    let options = prop_oneof![Just((0.0, Weights::Equal)), (smoothing, weights)];
    (kind, layouts(), options).prop_map(|(kind, layout, (smoothing, weights))| Target {
        kind,
        layout,
        smoothing,
        weights,
    })
}

fn reductions() -> impl Strategy<Value = Reducing> {
    let reduction = prop::sample::select(vec![
        RowWise::None,
        RowWise::Mean,
        RowWise::Sum,
        RowWise::BatchMean,
    ]);
    let upstream = prop::sample::select(UPSTREAM.to_vec());
    (reduction, any::<bool>(), upstream).prop_map(|(reduction, zero_if_empty, upstream)| Reducing {
        reduction,
        zero_if_empty,
        upstream,
    })
}

fn cases(floats: Vec<DType>, ints: Vec<DType>) -> impl Strategy<Value = Case> {
    let float = prop::sample::select(floats.clone());
    let sides = (sizes(), inputs(), targets(floats, ints), reductions());
    (sides, float, layouts(), any::<bool>(), any::<u64>()).prop_map(
        |((size, input, target, reduction), float, layout, owned, seed)| Case {
            size,
            input,
            target,
            reduction,
            float,
            layout,
            owned,
            seed,
        },
    )
}

/// Rounds a number to the dtype.
fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => value,
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}

impl Case {
    fn form(&self) -> Form {
        let form = Form {
            float: self.float,
            layout: self.layout,
            target_layout: self.target.layout,
            owned: self.owned,
            ..Form::default()
        };
        match self.target.kind {
            Kind::Indices {
                dtype, unsqueezed, ..
            } => {
                // The largest number is the index that `Ignored::NoClass` ignores.
                let fits = dtype != DType::U8 || self.classes() + 3 <= 255;
                Form {
                    int: Some(if fits { dtype } else { DType::I64 }),
                    unsqueezed,
                    ..form
                }
            }
            Kind::Shares { dtype, .. } => Form {
                shares: Some(dtype),
                ..form
            },
        }
    }

    fn classes(&self) -> usize {
        self.size.shape[self.size.class_dim]
    }

    fn problem(&self) -> Problem {
        let Size {
            shape,
            class_dim,
            from_the_end,
        } = &self.size;
        let soft = matches!(self.target.kind, Kind::Shares { .. });
        let mut problem = Problem::random(shape, *class_dim, soft, self.seed);
        if *from_the_end {
            let class_dim = *class_dim as isize - shape.len() as isize;
            problem = problem.with_config(|config| config.with_class_dim(class_dim));
        }
        let mut rng = StdRng::seed_from_u64(!self.seed);
        let problem = self.with_reduction(problem, &mut rng);
        let problem = self.with_target(problem, &mut rng);
        self.with_input(problem, &mut rng)
    }

    fn with_reduction(&self, mut problem: Problem, rng: &mut StdRng) -> Problem {
        let Reducing {
            reduction,
            zero_if_empty,
            upstream,
        } = self.reduction;
        problem.upstream = vec![upstream];
        if reduction == RowWise::None {
            problem = problem.unreduced();
            for upstream in &mut problem.upstream {
                *upstream = UPSTREAM[rng.random_range(0..UPSTREAM.len())];
            }
        }
        problem.with_config(|config| {
            config
                .with_reduction(match reduction {
                    RowWise::Sum => Reduction::Sum,
                    RowWise::BatchMean => Reduction::BatchMean,
                    RowWise::Mean | RowWise::None => Reduction::Mean,
                })
                .with_empty(if zero_if_empty {
                    EmptyReduction::Zero
                } else {
                    EmptyReduction::Nan
                })
        })
    }

    fn with_target(&self, mut problem: Problem, rng: &mut StdRng) -> Problem {
        let classes = problem.classes();
        let no_class = classes as i64 + 3;
        match (&self.target.kind, &mut problem.targets) {
            (Kind::Indices { ignored, .. }, problem::Targets::Indices(indices)) => {
                for index in indices {
                    *index = match ignored {
                        Ignored::Everything => no_class,
                        Ignored::NoClass if rng.random_bool(0.3) => no_class,
                        _ => *index,
                    };
                }
                let indices = match ignored {
                    Ignored::Nothing => vec![],
                    Ignored::AClass => vec![0, no_class],
                    Ignored::NoClass | Ignored::Everything => vec![no_class],
                };
                problem = problem.with_config(|config| config.with_ignore_indices(indices));
            }
            (Kind::Shares { dtype, tracked }, problem::Targets::Distributions(shares)) => {
                for share in shares {
                    let none = rng.random_bool(0.2);
                    *share = if none { 0.0 } else { rounded(*share, *dtype) };
                }
                problem.tracked_targets = *tracked;
            }
            _ => unreachable!("the kind of the targets is that of the case"),
        }
        let weights = (0..classes).map(|class| match self.target.weights {
            Weights::SomeZero if class % 3 == 1 => 0.0,
            _ => 0.25 + (class % 5) as f32 * 0.5,
        });
        let weights = match self.target.weights {
            Weights::Equal => None,
            Weights::Positive | Weights::SomeZero => Some(weights.collect()),
        };
        problem.with_config(|config| {
            config
                .with_weight(weights)
                .with_label_smoothing(self.target.smoothing)
        })
    }

    fn with_input(&self, mut problem: Problem, rng: &mut StdRng) -> Problem {
        let classes = problem.classes();
        for row in 0..problem.rows() {
            let largest = rng.random_range(0..classes);
            for class in 0..classes {
                let at = problem.at(row, class);
                let value = match &self.input {
                    Input::Probabilities => rng.random_range(0.01..1.0),
                    Input::Logits { values, .. } => random_logit(*values, class == largest, rng),
                };
                problem.logits[at] = rounded(value, self.float);
            }
        }
        match self.input {
            Input::Probabilities => problem.with_config(|config| config.with_logits(false)),
            Input::Logits {
                values,
                scale,
                softcap,
                z_loss,
            } => {
                // The gradient of a share at minus infinity is infinite, and NaN under an upstream gradient
                // of 0, so the problem does not ask for it.
                problem.tracked_targets &= values != Values::Masked;
                problem.with_config(|config| {
                    config
                        .with_logit_scale(scale)
                        .with_logit_softcap(softcap)
                        .with_z_loss(z_loss)
                })
            }
        }
    }

    fn check(&self, device: &Device) {
        let (problem, form) = (self.problem(), self.form());
        let exact = oracle::solve(&problem);
        if !is_host(device) {
            let found = run::solve_in(&problem, form, device);
            let tolerance = self.coarser_tolerance(form);
            tolerance::compare(&problem, &found, &exact, tolerance)
                .unwrap_or_else(|difference| panic!("{difference}"));
            return;
        }
        let portable = Outcome {
            terms: exact.terms.clone(),
            ..solve_portably(&problem, &device.clone().without_autodiff())
        };
        let of_f64 = tolerance::of(DType::F64);
        tolerance::compare(&problem, &portable, &exact, of_f64)
            .unwrap_or_else(|difference| panic!("portable path: {difference}"));

        let found = run::solve_in(&problem, form, device);
        let mut expected = portable;
        let of_targets = expected.targets_gradient.take();
        tolerance::compare(&problem, &found, &expected, tolerance::of(self.float))
            .unwrap_or_else(|difference| panic!("{difference}"));
        expected.targets_gradient = of_targets;
        let coarser = self.coarser_tolerance(form);
        tolerance::compare(&problem, &found, &expected, coarser)
            .unwrap_or_else(|difference| panic!("{difference}"));
    }

    /// The coarser of two tolerances: the targets' gradient is computed in one dtype and rounded to the
    /// other.
    fn coarser_tolerance(&self, form: Form) -> tolerance::Tolerance {
        let [of_logits, of_shares] =
            [self.float, form.shares.unwrap_or(self.float)].map(tolerance::of);
        tolerance::Tolerance {
            gradient: of_logits.gradient.max(of_shares.gradient),
            floor: of_logits.floor.max(of_shares.floor),
            ..of_logits
        }
    }
}

fn random_logit(values: Values, is_largest: bool, rng: &mut StdRng) -> f64 {
    match values {
        Values::Wide => rng.random_range(-10.0..10.0),
        Values::Tied => f64::from(rng.random_range(-2i32..=2)),
        Values::Confident if is_largest => rng.random_range(8.0..20.0),
        Values::Confident => rng.random_range(-1.0..1.0),
        Values::Masked if !is_largest && rng.random_bool(0.25) => f64::NEG_INFINITY,
        Values::Masked => rng.random_range(-10.0..10.0),
    }
}

/// Solves the problem by the portable path in f64, with its logits in three dimensions.
fn solve_portably(problem: &Problem, device: &Device) -> Outcome {
    let (inner, classes) = (problem.inner(), problem.classes());
    let outer: usize = problem.shape[..problem.class_dim].iter().product();
    let full = |values: &[f64]| -> Tensor<3> {
        float_tensor(values, &[outer, classes, inner], (device, DType::F64))
    };
    let options = portable_options(problem);
    let targets = match &problem.targets {
        problem::Targets::Indices(indices) => {
            let data = TensorData::new(indices.clone(), [outer, inner]);
            let indices = Tensor::<2, Int>::from_data(data, (device, DType::I64));
            Targets::Indices(indices.into_dispatch())
        }
        problem::Targets::Distributions(shares) => {
            Targets::Distributions(full(shares).into_dispatch())
        }
    };
    let weights = match &problem.config.weight {
        None => None,
        Some(weights) => {
            let weights = Tensor::<1>::from_data(weights.as_slice(), (device, DType::F32));
            Some(weights.into_dispatch())
        }
    };
    let inputs = Inputs {
        targets,
        weights: weights.into(),
        reduction: portable_reduction(problem),
    };
    let wanted = WantedGradients {
        targets: matches!(problem.targets, problem::Targets::Distributions(_))
            && problem.tracked_targets,
        ..WantedGradients::LOGITS
    };
    let logits = Logits::Tensor(full(&problem.logits).into_dispatch());
    let of_gradients = Wanted::gradients(wanted);
    let tracked =
        portable::cross_entropy::<Dispatch>(logits, inputs.clone(), &options, of_gradients);
    let (loss, upstream) = if problem.unreduced {
        let data = TensorData::new(problem.upstream.clone(), [outer, inner]);
        let upstream = Tensor::<2>::from_data(data, (device, DType::F64)).into_dispatch();
        (numbers(Tensor::<2>::from_dispatch(tracked.loss)), upstream)
    } else {
        let upstream = float_tensor::<1>(&problem.upstream, &[1], (device, DType::F64));
        let loss = numbers(Tensor::<1>::from_dispatch(tracked.loss));
        (loss, upstream.into_dispatch())
    };
    let saved = tracked.saved;
    let gradients =
        portable::cross_entropy_backward::<Dispatch>(saved, inputs, upstream, &options, wanted);
    let entries = |gradient| numbers(Tensor::<3>::from_dispatch(gradient));
    let logits_gradient = gradients.logits.into_option().map(entries);
    let logits_gradient = logits_gradient.expect("the logits' gradient is always asked for");
    let targets_gradient = gradients.targets.into_option().map(entries);
    Outcome {
        loss,
        logits_gradient,
        targets_gradient,
        terms: problem::Terms::default(),
    }
}

fn portable_options(problem: &Problem) -> Options {
    let config = &problem.config;
    Options {
        class_dim: 1,
        ignore_indices: config.ignore_indices.as_slice().into(),
        label_smoothing: config.label_smoothing.into(),
        values: if config.logits {
            InputValues::Logits {
                scale: config.logit_scale.into(),
                softcap: config.logit_softcap.map(f64::from),
            }
        } else {
            InputValues::Probabilities
        },
        z_loss: config.z_loss.into(),
        empty: config.empty,
    }
}

fn portable_reduction(problem: &Problem) -> RowReduction<Dispatch> {
    let config = &problem.config;
    if problem.unreduced {
        RowReduction::None
    } else if is_sum(config) {
        RowReduction::Sum { divisor: 1.0 }
    } else if is_batch_mean(config) {
        RowReduction::Sum {
            divisor: batch_size(problem) as f64,
        }
    } else {
        RowReduction::Mean
    }
}

/// Checks `number` random problems, the same ones in every run, or the one that the environment names.
pub fn random_problems_agree(number: u32, device: &Device) {
    if let Ok(case) = std::env::var("FUZZ_CASE") {
        let case: Case = serde_json::from_str(&case).expect("FUZZ_CASE is what a failure printed");
        eprintln!("{:#?}\n{:?}", case.form(), case.problem());
        case.check(device);
        return;
    }
    let config = Config {
        cases: number,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let has = |dtype: &DType| device.supports_dtype(*dtype);
    let floats = [DType::F32, DType::F32, DType::F64, DType::BF16, DType::F16];
    let computes = |dtype: &DType| has(dtype) && (computes_f64(device) || *dtype != DType::F64);
    let floats = floats.into_iter().filter(computes).collect();
    let ints = [DType::I64, DType::I32, DType::U32, DType::I16, DType::U8];
    let ints = ints.into_iter().filter(has).collect();
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(&cases(floats, ints), |case| {
        case.check(device);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(proptest::test_runner::TestError::Fail(reason, case)) => {
            let json = serde_json::to_string(&case).expect("a case is serialisable");
            panic!("{reason}\nFUZZ_CASE='{json}'");
        }
        Err(aborted) => panic!("{aborted}"),
    }
}
