//! Compares random problems, in random forms and under random options, with the oracle: loss, gradients,
//! details of the rows and normalizers, and on the host the portable path in f64 too.
//!
//! `FUZZ_CASES` is the number of problems. They are the same in every run. A failure prints the smallest
//! failing case that was found as a line of JSON; `FUZZ_CASE='<line>'` runs that case alone.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::{EmptyReduction, RowFactor, SmoothingOver};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::backends::{computes_f64, is_host};
use super::expected::{Dtypes, Expected};
use super::problem::{self, Problem};
use super::run::{self, Form, Layout};
use super::values::{Values, probabilities, rounded};
use super::{details, oracle, portably, tolerance};

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
    /// Whether subnormal numbers may be drawn.
    has_subnormals: bool,
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
    Probabilities {
        /// Whether 0, 1, subnormal numbers and NaN are among them.
        are_hard: bool,
    },
    Logits {
        values: Values,
        scale: f64,
        softcap: Option<f64>,
        z_loss: f64,
        #[serde(default = "no_factor")]
        factor: RowFactor,
    },
}

fn all_classes() -> SmoothingOver {
    SmoothingOver::Classes
}

fn no_factor() -> RowFactor {
    RowFactor::None
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Target {
    kind: Kind,
    layout: Layout,
    /// Share of the largest label smoothing that `over` allows.
    smoothing: f64,
    #[serde(default = "all_classes")]
    over: SmoothingOver,
    weights: Weights,
    #[serde(default)]
    rows: RowWeights,
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
        sparse: bool,
        spread: Spread,
    },
}

/// The shares of a target distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Spread {
    /// Most classes have a share.
    Many,
    /// One class has all of it.
    OneHot,
    /// One class has all of it, or no class has a share.
    OneOrNone,
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

/// The weights of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum RowWeights {
    /// The target is not weighted.
    #[default]
    Absent,
    /// 0 or 1.
    Mask,
    /// Numbers from 0 on. With negative ones a divisor could cancel.
    Any,
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
fn inputs(has_subnormals: bool) -> impl Strategy<Value = Input> {
    let values = move || prop::sample::select(Values::all(has_subnormals));
    // The last two scales take ordinary logits, or those at the ends of the range, out of the range of f32 or
    // to its other end.
    let scale = prop_oneof![
        8 => prop::sample::select(vec![1.0, 1.0, 0.5, 0.7, 1.5, 0.1]),
        // A larger factor, times the shares of a row, would be beyond f32 before they cancel.
        1 => prop::sample::select(vec![1e-30, 2f64.powi(100)]),
    ];
    let softcap = prop::sample::select(vec![None, None, Some(4.0), Some(30.0)]);
    let z_loss = prop::sample::select(vec![0.0, 0.02]);
    let factor = prop_oneof![
        5 => Just(RowFactor::None),
        1 => Just(RowFactor::Focal { gamma: 2.0 }),
        1 => Just(RowFactor::Focal { gamma: 0.5 }),
        1 => Just(RowFactor::Poly { epsilon: 1.5 }),
        1 => Just(RowFactor::TargetProbability),
    ];
    let logits = |(values, scale, softcap, z_loss, factor)| Input::Logits {
        values,
        scale,
        softcap,
        z_loss,
        factor,
    };
    prop_oneof![
        2 => any::<bool>().prop_map(|are_hard| Input::Probabilities { are_hard }),
        3 => values().prop_map(move |values| logits((values, 1.0, None, 0.0, RowFactor::None))),
        5 => (values(), scale, softcap, z_loss, factor).prop_map(logits),
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
    let spread = prop::sample::select(vec![Spread::Many, Spread::OneHot, Spread::OneOrNone]);
    let shares = (prop::sample::select(floats), any::<[bool; 2]>(), spread);
    let shares = shares.prop_map(|(dtype, [tracked, sparse], spread)| Kind::Shares {
        dtype,
        tracked,
        sparse,
        spread,
    });
    let weights = prop::sample::select(vec![Weights::Equal, Weights::Positive, Weights::SomeZero]);
    let over = prop::sample::select(vec![
        SmoothingOver::Classes,
        SmoothingOver::OtherClasses,
        SmoothingOver::ValidClasses,
    ]);
    let smoothing = (prop::sample::select(vec![0.0, 0.1, 1.0]), over);
    let nothing = (0.0, SmoothingOver::Classes);
    let kind = prop_oneof![indices, shares];
    let options = prop_oneof![Just((nothing, Weights::Equal)), (smoothing, weights)];
    let rows = prop_oneof![
        4 => Just(RowWeights::Absent),
        1 => Just(RowWeights::Mask),
        2 => Just(RowWeights::Any),
    ];
    (kind, layouts(), options, rows).prop_map(|(kind, layout, (smoothing, weights), rows)| Target {
        kind,
        layout,
        smoothing: smoothing.0,
        over: smoothing.1,
        weights,
        rows,
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

fn cases(
    floats: Vec<DType>,
    ints: Vec<DType>,
    has_subnormals: bool,
) -> impl Strategy<Value = Case> {
    let float = prop::sample::select(floats.clone());
    let inputs = inputs(has_subnormals);
    let sides = (sizes(), inputs, targets(floats, ints), reductions());
    (sides, float, layouts(), any::<bool>(), any::<u64>()).prop_map(
        move |((size, input, target, reduction), float, layout, owned, seed)| Case {
            size,
            input,
            target,
            reduction,
            float,
            layout,
            owned,
            has_subnormals,
            seed,
        },
    )
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
            Kind::Shares { dtype, sparse, .. } => Form {
                shares: Some(dtype),
                sparse,
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
            (Kind::Shares { tracked, .. }, problem::Targets::Distributions(_)) => {
                problem.tracked_targets = *tracked;
                self.spread(&mut problem, rng);
            }
            _ => unreachable!("the kind of the targets is that of the case"),
        }
        let numbers: &[f64] = match self.target.rows {
            RowWeights::Absent => &[],
            RowWeights::Mask => &[0.0, 1.0, 1.0],
            RowWeights::Any => &[0.0, 0.25, 1.0, 3.0, 0.75],
        };
        problem.row_weights = (!numbers.is_empty()).then(|| {
            let weight = |_| numbers[rng.random_range(0..numbers.len())];
            (0..problem.rows()).map(weight).collect()
        });
        let weights = (0..classes).map(|class| match self.target.weights {
            Weights::SomeZero if class % 3 == 1 => 0.0,
            _ => 0.25 + (class % 5) as f32 * 0.5,
        });
        let weights = match self.target.weights {
            Weights::Equal => None,
            Weights::Positive | Weights::SomeZero => Some(weights.collect()),
        };
        let most = match self.target.over {
            SmoothingOver::OtherClasses => 1.0 - 1.0 / classes as f64,
            SmoothingOver::Classes | SmoothingOver::ValidClasses => 1.0,
        };
        problem.with_config(|config| {
            config
                .with_weight(weights)
                .with_label_smoothing(self.target.smoothing * most)
                .with_smoothing_over(self.target.over)
        })
    }

    /// Puts the shares of the target distributions where the case wants them.
    fn spread(&self, problem: &mut Problem, rng: &mut StdRng) {
        let Kind::Shares { dtype, spread, .. } = self.target.kind else {
            return;
        };
        for row in 0..problem.rows() {
            let one = rng.random_range(0..problem.classes());
            let has_one = spread == Spread::OneHot || rng.random_bool(0.7);
            for class in 0..problem.classes() {
                let at = problem.at(row, class);
                if let problem::Targets::Distributions(shares) = &mut problem.targets {
                    shares[at] = match spread {
                        Spread::Many if rng.random_bool(0.2) => 0.0,
                        Spread::Many => rounded(shares[at], dtype),
                        _ => f64::from(u8::from(class == one && has_one)),
                    };
                }
            }
        }
    }

    fn with_input(&self, mut problem: Problem, rng: &mut StdRng) -> Problem {
        let classes = problem.classes();
        for row in 0..problem.rows() {
            let values = match &self.input {
                Input::Probabilities { are_hard } => {
                    probabilities(classes, *are_hard, self.has_subnormals, self.float, rng)
                }
                Input::Logits { values, .. } => {
                    values.row(classes, self.has_subnormals, self.float, rng)
                }
            };
            for (class, value) in values.into_iter().enumerate() {
                let at = problem.at(row, class);
                problem.logits[at] = value;
            }
        }
        problem.with_config(|config| match self.input {
            Input::Probabilities { .. } => config.with_logits(false),
            Input::Logits {
                values,
                scale,
                softcap,
                z_loss,
                factor,
            } => config
                .with_row_factor(match (&self.target.kind, factor) {
                    (Kind::Shares { .. }, _) => RowFactor::None,
                    // A loss that smoothing makes infinite is 0 or infinite by whether a tiny probability is a
                    // number.
                    (_, RowFactor::TargetProbability) if self.target.smoothing != 0.0 => {
                        RowFactor::None
                    }
                    // Of a difference of logits that is beyond the dtype, a share and a power may make a number.
                    (_, RowFactor::Focal { .. })
                        if self.target.smoothing != 0.0
                            && matches!(values, Values::Ends | Values::Mixed) =>
                    {
                        RowFactor::None
                    }
                    (_, factor) => factor,
                })
                .with_logit_scale(scale)
                .with_logit_softcap(softcap)
                .with_z_loss(z_loss),
        })
    }

    /// The differences between the results of the crate and those of the oracle.
    fn differences(&self, device: &Device) -> Vec<String> {
        let (problem, form) = (self.problem(), self.form());
        let exact = oracle::solve(&problem);
        let rows = oracle::details(&problem);
        let expected = Expected {
            problem: &problem,
            outcome: &exact,
            rows: &rows,
            solve: &oracle::solve,
        };
        let mut differences = Vec::new();
        let mut note = |name: &str, result: Result<(), String>| {
            if let Err(difference) = result {
                differences.push(format!("{name}: {difference}"));
            }
        };
        if is_host(device) {
            let (outcome, numbers) = portably::solve(&problem, &device.clone().without_autodiff());
            let result = expected.compare(&outcome, Dtypes::both(DType::F64));
            note("portable path", result);
            let of_f64 = tolerance::of(DType::F64);
            let result = details::compare(&numbers, &rows, of_f64, f64::MAX);
            note("details of the portable path", result);
        }
        let dtypes = Dtypes {
            logits: self.float,
            shares: form.shares.unwrap_or(self.float),
        };
        let found = run::solve_in(&problem, form, device);
        note("loss and gradients", expected.compare(&found, dtypes));
        let found = details::of(&problem, form, device);
        note("details", expected.compare_details(&found, dtypes));
        differences
    }
}

/// The number of problems that `FUZZ_CASES` asks for.
pub fn number_of_problems(default: u32) -> u32 {
    std::env::var("FUZZ_CASES").map_or(default, |number| {
        number.parse().expect("FUZZ_CASES is a number")
    })
}

/// Checks `number` random problems, the same ones in every run, or the one that the environment names.
pub fn random_problems_agree(number: u32, device: &Device) {
    let has = |dtype: &DType| device.supports_dtype(*dtype);
    let floats = [DType::F32, DType::F32, DType::F64, DType::BF16, DType::F16];
    let computes = |dtype: &DType| has(dtype) && (computes_f64(device) || *dtype != DType::F64);
    let floats = floats.into_iter().filter(computes).collect();
    let ints = [DType::I64, DType::I32, DType::U32, DType::I16, DType::U8];
    let ints = ints.into_iter().filter(has).collect();
    let cases = cases(floats, ints, is_host(device));
    check(number, &cases, |case| case.differences(device));
}

/// Looks for differences in `number` random problems that no device computes.
pub fn random_problems(number: u32, differences: impl Fn(&Problem) -> Vec<String>) {
    let floats = vec![DType::F32, DType::F64, DType::BF16, DType::F16];
    let cases = cases(floats, vec![DType::I64], true);
    check(number, &cases, |case| differences(&case.problem()));
}

fn check(number: u32, cases: &impl Strategy<Value = Case>, of: impl Fn(&Case) -> Vec<String>) {
    let fails = |case: &Case| {
        let differences = of(case);
        match differences.is_empty() {
            true => Ok(()),
            false => Err(TestCaseError::fail(differences.join("\n"))),
        }
    };
    if let Ok(case) = std::env::var("FUZZ_CASE") {
        let case: Case = serde_json::from_str(&case).expect("FUZZ_CASE is what a failure printed");
        eprintln!("{:#?}\n{:?}", case.form(), case.problem());
        fails(&case).unwrap_or_else(|difference| panic!("{difference}"));
        return;
    }
    let config = Config {
        cases: number,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    match TestRunner::new_with_rng(config, rng).run(cases, |case| fails(&case)) {
        Ok(()) => {}
        Err(proptest::test_runner::TestError::Fail(reason, case)) => {
            let json = serde_json::to_string(&case).expect("a case is serialisable");
            panic!("{reason}\nFUZZ_CASE='{json}'");
        }
        Err(aborted) => panic!("{aborted}"),
    }
}
