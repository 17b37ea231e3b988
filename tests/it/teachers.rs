//! Targets that are the logits of a teacher, against the oracle over the teacher's probabilities.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, CrossEntropyTarget, LogitsRank, ProjectedLogits,
    RowLosses, TargetTensor, TeacherLogits,
};

use crate::common::backends::{computes_f64, is_host, tests_on};
use crate::common::details;
use crate::common::expected::{Dtypes, Expected};
use crate::common::problem::{Outcome, Problem};
use crate::common::row_value::Asked;
use crate::common::run::{self, Call, Form, Losses, f32_tensor, float_tensor, numbers, row_shape};
use crate::common::teacher::Teacher;
use crate::common::tolerance::{self, assert_numbers, behind_products};
use crate::common::values::rounded;
use crate::linear::projected::{Projected, chunks};

const PLAIN: Teacher = Teacher::SMALLEST;
const WARM: Teacher = Teacher {
    logits: Vec::new(),
    temperature: 2.5,
    is_squared: true,
    is_divergence: false,
};
const DIVERGENCE: Teacher = Teacher {
    logits: Vec::new(),
    temperature: 0.7,
    is_squared: true,
    is_divergence: true,
};

/// A problem whose target is a teacher's logits.
struct Taught {
    problem: Problem,
    teacher: Teacher,
}

impl Taught {
    fn random(shape: &[usize], asked: Teacher, seed: u64) -> Self {
        let logits = Problem::random(shape, 1, false, seed + 1000).logits;
        Self {
            problem: Problem::random(shape, 1, false, seed),
            teacher: Teacher { logits, ..asked },
        }
    }

    fn with(mut self, change: impl FnOnce(Problem) -> Problem) -> Self {
        self.problem = change(self.problem);
        self
    }

    /// Loss and gradient by the oracle over the teacher's probabilities.
    fn expected(&self) -> Outcome {
        let Self { problem, teacher } = self;
        let mut outcome = teacher.solve(&teacher.problem(problem));
        let entropies = match teacher.is_divergence {
            true => teacher.entropies(problem),
            false => vec![0.0; outcome.loss.len()],
        };
        let Outcome { loss, terms, .. } = &mut outcome;
        for ((loss, terms), entropy) in loss.iter_mut().zip(&mut terms.loss).zip(entropies) {
            // A divergence is a difference of two numbers, each with as many digits as a loss.
            *terms = teacher.square() * (*terms + 8.0 * (*loss + entropy));
            *loss = teacher.square() * (*loss - entropy);
        }
        outcome
    }

    fn found<const D: usize>(&self, float: DType, device: &Device) -> Outcome
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
        TeacherLogits<Tensor<D>>: CrossEntropyTarget<D>,
    {
        let options = (device, float);
        let logits = float_tensor::<D>(&self.teacher.logits, &self.problem.shape, options);
        self.computed(self.teacher.target(logits), options)
    }

    fn computed<const D: usize>(
        &self,
        target: impl CrossEntropyTarget<D>,
        options: (&Device, DType),
    ) -> Outcome
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
    {
        let problem = &self.problem;
        let (outcome, _) = run::over_a_leaf::<D>(problem, options, |loss, logits| {
            run::weighed_loss::<D>(problem, loss, logits, target)
        });
        outcome
    }

    #[track_caller]
    fn assert_agrees(&self, float: DType, device: &Device) {
        let found = match self.problem.shape.len() {
            2 => self.found::<2>(float, device),
            3 => self.found::<3>(float, device),
            _ => self.found::<4>(float, device),
        };
        let Problem { shape, config, .. } = &self.problem;
        let asked = Teacher {
            logits: Vec::new(),
            ..self.teacher.clone()
        };
        let name = format!("{asked:?}, {shape:?}, {config:?}, {float:?}");
        tolerance::assert_close(&name, &self.problem, &found, &self.expected(), float);
    }
}

/// Options that combine with a divergence.
fn with_options(problem: Problem) -> Problem {
    problem.with_config(|config| {
        config
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0))
            .with_z_loss(0.01)
    })
}

/// Options that change the distribution.
fn with_every_option(problem: Problem) -> Problem {
    with_options(problem)
        .with_weights()
        .with_config(|config| config.with_label_smoothing(0.1))
}

fn teachers_agree_with_their_probabilities(device: &Device) {
    let shapes: &[&[usize]] = match is_host(device) {
        true => &[&[23, 71], &[67, 5], &[2, 7, 70], &[3, 4, 3, 5], &[4, 1]],
        false => &[&[23, 71], &[2, 7, 70]],
    };
    for (at, shape) in shapes.iter().enumerate() {
        for asked in [PLAIN, WARM, DIVERGENCE] {
            let of = || Taught::random(shape, asked.clone(), at as u64);
            of().assert_agrees(DType::F32, device);
            of().with(Problem::unreduced)
                .assert_agrees(DType::F32, device);
            let weighted = of().with(with_options);
            weighted.assert_agrees(DType::F32, device);
            for reduction in [Reduction::Sum, Reduction::BatchMean] {
                let change = |config: CrossEntropyLossConfig| config.with_reduction(reduction);
                let problem = of().with(|problem| problem.with_config(change));
                problem.assert_agrees(DType::F32, device);
            }
            if !asked.is_divergence {
                of().with(with_every_option)
                    .assert_agrees(DType::F32, device);
            }
        }
    }
}

fn every_dtype_agrees(device: &Device) {
    for float in [DType::F64, DType::F16, DType::BF16] {
        if !device.supports_dtype(float) || float == DType::F64 && !computes_f64(device) {
            continue;
        }
        for shape in [&[9, 130][..], &[70, 6]] {
            let mut taught = Taught::random(shape, WARM, 5);
            for logits in [&mut taught.teacher.logits, &mut taught.problem.logits] {
                logits
                    .iter_mut()
                    .for_each(|logit| *logit = rounded(*logit, float));
            }
            taught.assert_agrees(float, device);
        }
    }
}

/// Weights of rows, of which every fourth is 0.
fn row_weights_apply(device: &Device) {
    for asked in [WARM, DIVERGENCE] {
        for unreduced in [false, true] {
            let taught =
                Taught::random(&[11, 70], asked.clone(), 7).with(Problem::with_row_weights);
            let taught = match unreduced {
                true => taught.with(Problem::unreduced),
                false => taught,
            };
            let options = (device, DType::F32);
            let teacher = float_tensor::<2>(&taught.teacher.logits, &[11, 70], options);
            let weights = taught
                .problem
                .row_weights
                .as_ref()
                .expect("they were given");
            let weights = float_tensor::<1>(weights, &row_shape(&taught.problem), options);
            let found = taught.computed::<2>(asked.target(teacher).weighted(weights), options);
            let name = format!("{asked:?}, unreduced: {unreduced}");
            let (problem, expected) = (&taught.problem, taught.expected());
            tolerance::assert_close(&name, problem, &found, &expected, DType::F32);
        }
    }
}

/// Teacher and student behind projections of different widths, in chunks; and each beside a tensor.
fn projections_agree(device: &Device) {
    const ROWS: usize = 22;
    const CLASSES: usize = 37;
    let options = (device, DType::F32);
    for asked in [WARM, DIVERGENCE] {
        for is_weighted in [false, true] {
            let student = Projected::random([ROWS, 11, CLASSES], false, 3);
            let teacher = Projected::random([ROWS, 5, CLASSES], false, 4);
            let change = |problem: Problem| match is_weighted {
                true => problem.with_row_weights(),
                false => problem,
            };
            let taught = Taught {
                problem: change(student.problem.clone()),
                teacher: Teacher {
                    logits: teacher.problem.logits.clone(),
                    ..asked.clone()
                },
            };
            let expected = taught.expected();
            let of_input: Vec<f64> = (0..ROWS * 11)
                .map(|at| {
                    let (row, feature) = (at / 11, at % 11);
                    let of = |class: usize| {
                        expected.logits_gradient[row * CLASSES + class]
                            * student.weight[feature * CLASSES + class]
                    };
                    (0..CLASSES).map(of).sum()
                })
                .collect();
            let of_weight: Vec<f64> = (0..11 * CLASSES)
                .map(|at| {
                    let (feature, class) = (at / CLASSES, at % CLASSES);
                    let of = |row: usize| {
                        expected.logits_gradient[row * CLASSES + class]
                            * student.input[row * 11 + feature]
                    };
                    (0..ROWS).map(of).sum()
                })
                .collect();
            let tensor =
                |values: &[f64], shape: [usize; 2]| float_tensor::<2>(values, &shape, options);
            let bias = |projected: &Projected| {
                let bias = projected.bias.as_ref().expect("it has one");
                Some(float_tensor::<1>(bias, &[CLASSES], options))
            };
            let allowed = behind_products(4e-5, device);
            for chunk in chunks(device) {
                let chunked = |logits: ProjectedLogits<2>| match chunk {
                    Some(rows) => logits.with_chunk_rows(rows),
                    None => logits,
                };
                let input = tensor(&student.input, [ROWS, 11]).require_grad();
                let weight = tensor(&student.weight, [11, CLASSES]).require_grad();
                let logits = || {
                    let logits = ProjectedLogits::new(input.clone(), weight.clone());
                    chunked(logits.with_bias(bias(&student)))
                };
                let of_teacher = || {
                    // A teacher in training has tracked tensors; they are constants here.
                    let hidden = tensor(&teacher.input, [ROWS, 5]).require_grad();
                    let weight = tensor(&teacher.weight, [5, CLASSES]).require_grad();
                    ProjectedLogits::new(hidden, weight).with_bias(bias(&teacher))
                };
                let whole = || tensor(&taught.teacher.logits, [ROWS, CLASSES]);
                let weights = taught.problem.row_weights.as_ref();
                let weights = weights.map(|weights| float_tensor::<1>(weights, &[ROWS], options));
                let loss = taught.problem.config.init(device);
                let value = |beside_projection: bool| match (&weights, beside_projection) {
                    (None, true) => loss.forward(logits(), asked.target(of_teacher())),
                    (None, false) => loss.forward(logits(), asked.target(whole())),
                    (Some(weights), true) => {
                        let target = asked.target(of_teacher()).weighted(weights.clone());
                        loss.forward(logits(), target)
                    }
                    (Some(weights), false) => {
                        let target = asked.target(whole()).weighted(weights.clone());
                        loss.forward(logits(), target)
                    }
                };
                for beside_projection in [true, false] {
                    let (values, objective) =
                        value(beside_projection).weighed(&taught.problem.upstream);
                    let gradients = objective.backward();
                    let found = numbers(input.grad(&gradients).expect("tracked"));
                    assert_numbers("loss", &values, &expected.loss, allowed);
                    assert_numbers("input", &found, &of_input, allowed);
                    let found = numbers(weight.grad(&gradients).expect("tracked"));
                    assert_numbers("weight", &found, &of_weight, allowed);
                }
            }
            // A student's tensor beside the projection of a teacher.
            let hidden = tensor(&teacher.input, [ROWS, 5]);
            let weight = tensor(&teacher.weight, [5, CLASSES]);
            let of_teacher = ProjectedLogits::new(hidden, weight).with_bias(bias(&teacher));
            if !is_weighted {
                let found = taught.computed::<2>(asked.target(of_teacher), options);
                assert_numbers("loss", &found.loss, &expected.loss, allowed);
                let (found, expected) = (&found.logits_gradient, &expected.logits_gradient);
                assert_numbers("logits", found, expected, allowed);
            }
        }
    }
}

/// The divergence of a student that agrees is 0, and so is its gradient; masked classes of both are no difference.
fn a_student_that_agrees_has_nothing_to_learn(device: &Device) {
    let rows = [1.5, -2.0, 0.25, f32::NEG_INFINITY, 30.0, -30.0, 0.0, 1.0];
    let student = f32_tensor(&rows, [2, 4], device).require_grad();
    let teacher = f32_tensor(&rows, [2, 4], device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let target = TeacherLogits::new(teacher).with_kl_divergence();
    let rows = loss.forward_no_reduction(student.clone(), target);
    let gradient = student
        .grad(&rows.clone().sum().backward())
        .expect("tracked");
    for number in numbers(rows).into_iter().chain(numbers(gradient)) {
        assert!(number.abs() < 1e-6, "{number}");
    }
}

/// Outputs, log-probabilities and the divisors of a mean are those of the distribution.
fn outputs_are_those_of_the_distribution(device: &Device) {
    let taught = Taught::random(&[6, 37], WARM, 9);
    let shares = taught.teacher.shares(&taught.problem);
    let options = (device, DType::F32);
    let tensor = |values: &[f64]| float_tensor::<2>(values, &[6, 37], options);
    let loss = CrossEntropyLossConfig::new().init(device);
    let warm = CrossEntropyLossConfig::new()
        .with_logit_scale(1.0 / 2.5)
        .init(device);
    let logits = || tensor(&taught.problem.logits);
    let target = || WARM.target(tensor(&taught.teacher.logits));
    let found = loss.forward_with_entropy(logits(), target());
    let expected = warm.forward_with_entropy(logits(), tensor(&shares));
    let near = |found: Tensor<1>, expected: Tensor<1>, allowed| {
        assert_numbers("output", &numbers(found), &numbers(expected), allowed);
    };
    near(found.loss, expected.loss * 6.25, 1e-5);
    near(found.log_prob.clone(), expected.log_prob.clone(), 1e-5);
    near(loss.log_prob(logits(), target()), expected.log_prob, 1e-5);
    near(found.lse, expected.lse, 1e-5);
    near(found.total_weight, expected.total_weight, 0.0);
    near(
        loss.total_weight(target()),
        Tensor::from_floats([6.0], device),
        0.0,
    );
    let integers =
        |tensor: Tensor<1, burn::tensor::Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
    assert_eq!(integers(found.predicted), integers(expected.predicted));
    assert_eq!(integers(found.target_rank), integers(expected.target_rank));
    let normalizer = loss.normalizer(target());
    let normalized = loss.forward_normalized(logits(), target(), normalizer);
    near(normalized, loss.forward(logits(), target()), 1e-6);
}

/// Behind projections the classes are the last dimension of every rank, also for the teacher's entropy and the divisors
/// of a mean.
fn sequences_agree_with_their_rows(device: &Device) {
    let projected = Projected::random([10, 6, 37], false, 3);
    let taught = Taught::random(&[10, 37], DIVERGENCE, 5);
    let options = (device, DType::F32);
    let weight = float_tensor::<2>(&projected.weight, &[6, 37], options);
    let loss = CrossEntropyLossConfig::new().init(device);
    let flat = |values: &[f64], last: usize| float_tensor::<2>(values, &[10, last], options);
    let sequences = |values: &[f64], last: usize| float_tensor::<3>(values, &[2, 5, last], options);
    let rows = loss.forward(
        ProjectedLogits::new(flat(&projected.input, 6), weight.clone()),
        DIVERGENCE.target(flat(&taught.teacher.logits, 37)),
    );
    let logits = || ProjectedLogits::new(sequences(&projected.input, 6), weight.clone());
    let of_tensor = loss.forward(
        logits(),
        DIVERGENCE.target(sequences(&taught.teacher.logits, 37)),
    );
    let allowed = behind_products(1e-5, device);
    assert_numbers("loss", &numbers(of_tensor), &numbers(rows), allowed);
    let unreduced = loss.forward_no_reduction(
        logits(),
        DIVERGENCE.target(sequences(&taught.teacher.logits, 37)),
    );
    assert_eq!(unreduced.dims(), [2, 5]);
    let of_itself = || DIVERGENCE.target(logits());
    assert_eq!(numbers(loss.total_weight(of_itself())), [10.0]);
    let normalized = loss.forward_normalized(logits(), of_itself(), loss.normalizer(of_itself()));
    assert!(numbers(normalized)[0].abs() < 1e-4);
}

/// What comes with a loss, the loss over a normalizer, and log-probabilities, against the oracle.
fn details_and_log_probabilities_agree(device: &Device) {
    let form = Form::default();
    for asked in [WARM, DIVERGENCE] {
        let taught = Taught::random(&[9, 37], asked, 6).with(Problem::with_row_weights);
        let Taught { problem, teacher } = taught;
        let over_shares = teacher.problem(&problem);
        let rows = teacher.details(&over_shares);
        assert!((0..rows.len()).all(|row| !teacher.is_tied(&problem, row)));
        let mut found = details::beside(Some(&teacher), &problem, form, device);
        teacher.undo(&problem, &mut found.loss);
        teacher.undo(&problem, &mut found.normalized.0);
        found.upstream *= teacher.square();
        let expected = Expected {
            problem: &over_shares,
            outcome: &teacher.solve(&over_shares),
            rows: &rows,
            solve: &|problem| teacher.solve(problem),
        };
        let compared = expected.compare_details(&found, Dtypes::both(DType::F32));
        compared.expect("they agree");

        let (problem, asked) = (problem.unreduced(), Asked::LogProb);
        let over_shares = asked.problem(&teacher.plain().problem(&problem));
        let call = Call {
            asked,
            teacher: Some(&teacher),
        };
        let found = run::try_call(&problem, form, call, device).expect("it has a meaning");
        let expected = teacher.solve(&over_shares);
        tolerance::assert_close("log_prob", &over_shares, &found, &expected, DType::F32);
    }
}

/// A teacher of another dtype, f64 included, is brought into that of the arithmetic: a student in f64 has all of its
/// digits.
fn a_teacher_may_have_another_dtype(device: &Device) {
    let taught = Taught::random(&[6, 37], DIVERGENCE, 5);
    if !computes_f64(device) {
        let teacher = float_tensor::<2>(&taught.teacher.logits, &[6, 37], (device, DType::F64));
        let student = Tensor::<2>::zeros([6, 37], device);
        let loss = CrossEntropyLossConfig::new().init(device);
        let refused = loss.try_forward(student, DIVERGENCE.target(teacher));
        let error = refused.expect_err("the device has no exponentials of f64");
        assert!(
            matches!(error, CrossEntropyError::UnsupportedDtype { .. }),
            "{error}"
        );
        return;
    }
    let expected = taught.expected();
    for [student, teacher] in [[DType::F32, DType::F64], [DType::F64, DType::F32]] {
        let teacher = float_tensor::<2>(&taught.teacher.logits, &[6, 37], (device, teacher));
        let found = taught.computed(DIVERGENCE.target(teacher), (device, student));
        let tolerance = tolerance::of(student);
        let compared = tolerance::compare(&taught.problem, &found, &expected, tolerance);
        compared.expect("they agree");
    }
}

fn what_has_no_meaning_is_refused(device: &Device) {
    let logits = || f32_tensor(&[0.0; 6], [2, 3], device);
    let refused = |config: CrossEntropyLossConfig, asked: Teacher| {
        let error = config
            .init(device)
            .try_forward(logits(), asked.target(logits()));
        let error = error.expect_err("it has no meaning");
        assert!(
            matches!(error, CrossEntropyError::InvalidConfig { .. }),
            "{error}"
        );
    };
    let config = CrossEntropyLossConfig::new;
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(
            config(),
            Teacher {
                temperature,
                ..PLAIN
            },
        );
    }
    refused(config().with_logits(false), PLAIN);
    refused(config().with_label_smoothing(0.1), DIVERGENCE);
    refused(config().with_weight(Some(vec![1.0; 3])), DIVERGENCE);
    let loss = config().init(device);
    let other = f32_tensor(&[0.0; 8], [2, 4], device);
    let error = loss.try_forward(logits(), TeacherLogits::new(other));
    let error = error.expect_err("the shapes differ");
    assert!(
        matches!(error, CrossEntropyError::ShapeMismatch { .. }),
        "{error}"
    );
    let other = ProjectedLogits::new(logits(), f32_tensor(&[0.0; 12], [3, 4], device));
    let logits_of = ProjectedLogits::new(logits(), f32_tensor(&[0.0; 9], [3, 3], device));
    let error = loss.try_forward(logits_of, TeacherLogits::new(other));
    assert!(error.is_err());
    loss.check(&logits(), &TeacherLogits::new(logits()))
        .expect("it is fit");
}

tests_on! {
    every_backend: [
        teachers_agree_with_their_probabilities,
        projections_agree,
        sequences_agree_with_their_rows,
        row_weights_apply,
        a_student_that_agrees_has_nothing_to_learn,
    ],
    host: [every_dtype_agrees, a_teacher_may_have_another_dtype],
    cubecl: [every_dtype_agrees, a_teacher_may_have_another_dtype],
    one_of_each_kind: [
        outputs_are_those_of_the_distribution,
        details_and_log_probabilities_agree,
        what_has_no_meaning_is_refused,
    ],
}
