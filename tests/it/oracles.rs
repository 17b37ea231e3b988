//! Compares the two forms of the oracle: loops over f64 that take care of what cancels, and the plain
//! definition in numbers of 106 bits.

use burn_cross_entropy::CrossEntropyLossConfig;

use crate::common::double_double::Dd;
use crate::common::problem::{Outcome, Problem, Targets};
use crate::common::random::{number_of_problems, random_problems};
use crate::common::{exact, hard_rows, oracle};

/// The error of the oracle's sums and elementary functions in f64.
const RELATIVE: f64 = 1e-13;
/// The error of the plain form, whose numbers are of the size of 1 before they cancel.
const ABSOLUTE: f64 = 1e-27;
/// The error in units of the terms: of their exponentials, and of logits that are rounded after scale and
/// softcap.
const OF_TERMS: f64 = 64.0 * f64::EPSILON;

fn agree(found: f64, expected: f64, terms: f64) -> bool {
    if !expected.is_finite() {
        return found == expected || (found.is_nan() && expected.is_nan());
    }
    (found - expected).abs() <= RELATIVE * expected.abs() + OF_TERMS * terms + ABSOLUTE
}

fn first_difference(name: &str, found: &[f64], expected: &[f64], terms: &[f64]) -> Option<String> {
    assert_eq!(found.len(), expected.len());
    let terms = |at: usize| terms.get(at).copied().unwrap_or(0.0);
    let at = (0..found.len()).find(|at| !agree(found[*at], expected[*at], terms(*at)))?;
    let (found, expected, terms) = (found[at], expected[at], terms(at));
    Some(format!(
        "{name} {at} is {found:e}, in 106 bits {expected:e}; terms {terms:e}"
    ))
}

/// The first difference between the two forms.
pub fn difference(problem: &Problem) -> Option<String> {
    let Outcome {
        loss,
        logits_gradient,
        targets_gradient,
        terms,
    } = oracle::solve(problem);
    let exact = exact::solve(problem);
    let of_targets = || {
        let (found, expected) = (targets_gradient.as_ref()?, exact.targets_gradient.as_ref()?);
        first_difference(
            "targets' gradient",
            found,
            expected,
            &terms.targets_gradient,
        )
    };
    let of_logits = || {
        let (found, expected) = (&logits_gradient, &exact.logits_gradient);
        first_difference("gradient", found, expected, &terms.logits_gradient)
    };
    first_difference("loss", &loss, &exact.loss, &terms.loss)
        .or_else(of_logits)
        .or_else(of_targets)
        .or_else(|| difference_of_details(problem))
}

fn difference_of_details(problem: &Problem) -> Option<String> {
    let rows = oracle::details(problem).into_iter();
    rows.zip(exact::details(problem))
        .enumerate()
        .find_map(|(row, (found, expected))| {
            let of_entropy = found.terms * (1.0 + expected.entropy.abs());
            let same = agree(found.lse, expected.lse, found.terms)
                && agree(found.log_prob, expected.log_prob, found.log_prob_terms)
                && agree(
                    found.max_log_prob,
                    expected.max_log_prob,
                    found.max_log_prob_terms,
                )
                && agree(found.entropy, expected.entropy, of_entropy)
                && [found.predicted, found.rank, found.target]
                    == [expected.predicted, expected.rank, expected.target];
            (!same).then(|| format!("row {row} has {found:?}, in 106 bits {expected:?}"))
        })
}

#[track_caller]
fn assert_forms_agree(problem: &Problem) {
    if let Some(difference) = difference(problem) {
        panic!("{difference}\n{:?} {:?}", problem.shape, problem.config);
    }
}

#[test]
fn the_two_oracles_agree_on_random_problems() {
    const PROBLEMS: u32 = 300;
    random_problems(number_of_problems(PROBLEMS), |problem| {
        match difference(problem) {
            None => vec![],
            Some(difference) => vec![difference],
        }
    });
}

#[test]
fn the_two_oracles_agree_on_hard_rows() {
    for problem in hard_rows::problems() {
        assert_forms_agree(&problem);
    }
}

/// What the definition says of the rows in which it is easily broken, by hand.
#[test]
fn both_oracles_have_the_values_on_paper() {
    let (max, inf, ln_2) = (f64::from(f32::MAX), f64::INFINITY, std::f64::consts::LN_2);
    let plain = CrossEntropyLossConfig::new;
    let capped = || plain().with_logit_softcap(Some(1.0));
    let weightless = || plain().with_weight(Some(vec![1.0, 0.0]));
    for (config, logits, target, loss) in [
        (plain(), vec![1e8, 1e8], 0, ln_2),
        (plain(), vec![1e-45, -1e-45], 1, ln_2),
        (
            plain(),
            vec![20.0, 0.0, 0.0],
            0,
            (2.0 * (-20f64).exp()).ln_1p(),
        ),
        (plain(), vec![max, -max], 0, 0.0),
        (plain(), vec![max, -max], 1, 2.0 * max),
        (
            plain().with_logit_scale(0.125),
            vec![3e38, -3e38],
            1,
            7.5e37,
        ),
        (
            plain().with_logit_scale(2f64.powi(126) as _),
            vec![2.0, 4.0, 3.0],
            1,
            0.0,
        ),
        // An infinite logit is a mask, also under a softcap.
        (plain(), vec![0.0, -inf], 0, 0.0),
        (plain(), vec![0.0, -inf], 1, inf),
        (capped(), vec![0.0, -inf], 0, 0.0),
        (capped(), vec![0.0, -inf], 1, inf),
        (capped(), vec![-inf, -inf], 0, f64::NAN),
        (capped(), vec![0.0, inf], 1, f64::NAN),
        (capped(), vec![max, -max], 0, (-2f64).exp().ln_1p()),
        // A row without a distribution shows also without a share.
        (weightless(), vec![f64::NAN, 0.0], 1, f64::NAN),
        (weightless(), vec![0.0, 0.0], 1, 0.0),
    ] {
        let mut problem = Problem::random(&[1, logits.len()], 1, false, 1).unreduced();
        let name = format!("{logits:?} {target} {config:?}");
        (problem.config, problem.logits) = (config, logits);
        problem.targets = Targets::Indices(vec![target]);
        for found in [oracle::solve(&problem), exact::solve(&problem)] {
            assert!(
                agree(found.loss[0], loss, 0.0),
                "{name} {:e}",
                found.loss[0]
            );
            let is_nan = |entry: &f64| entry.is_nan();
            assert_eq!(
                found.logits_gradient.iter().any(is_nan),
                loss.is_nan(),
                "{name}"
            );
        }
    }
}

/// A row without a distribution is never right, wherever its target is; of equal logits the first is first.
#[test]
fn both_oracles_have_the_ranks_on_paper() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for (logits, [predicted, first, last]) in [
        ([1.0, 1.0, 0.0], [0, 0, 2]),
        ([-0.0, 0.0, 0.0], [0, 0, 2]),
        ([0.0, 1.0, -inf], [1, 1, 2]),
        ([nan, nan, nan], [0, 2, 2]),
        ([nan, 2.0, 3.0], [2, 2, 2]),
        ([inf, 1.0, 2.0], [0, 2, 2]),
        ([-inf, -inf, -inf], [0, 2, 2]),
    ] {
        for softcap in [None, Some(1e-3)] {
            let mut problem = Problem::random(&[2, 3], 1, false, 1)
                .with_config(|config| config.with_logit_softcap(softcap));
            problem.logits = [logits, logits].concat();
            problem.targets = Targets::Indices(vec![0, 2]);
            for rows in [oracle::details(&problem), exact::details(&problem)] {
                let found = [rows[0].predicted, rows[0].rank, rows[1].rank];
                assert_eq!(found, [predicted, first, last], "{logits:?}");
                assert_eq!(rows[1].predicted, predicted);
            }
        }
    }
}

/// The constants are those of tables, with digits beyond f64.
#[test]
fn numbers_of_106_bits_have_these_bits() {
    let close = |found: Dd, expected: Dd| {
        let off = (found - expected).abs().to_f64();
        assert!(
            off < 1e-30 * expected.abs().to_f64(),
            "{found:?} {expected:?}"
        );
    };
    let e = Dd::new(std::f64::consts::E, 1.445_646_891_729_250_2e-16);
    close(Dd::ONE.exp(), e);
    close(Dd::of(2.0).ln(), Dd::LN_2);
    let ln_10 = Dd::new(std::f64::consts::LN_10, -2.170_756_223_382_249_4e-16);
    close(Dd::of(10.0).ln(), ln_10);
    let least = Dd::of(f64::from_bits(1)).ln() / (Dd::of(-1074.0) * Dd::LN_2) - Dd::ONE;
    assert!(least.abs().to_f64() < 1e-30, "{least:?}");
    for value in [-600.0, -3.3, 1e-3, 0.1, 2.5, 300.0].map(Dd::of) {
        close(value.exp() * (-value).exp(), Dd::ONE);
        let off = (value.exp().ln() - value).to_f64().abs();
        assert!(
            off < 1e-29 * (1.0 + value.abs().to_f64()),
            "{value:?} {off:e}"
        );
    }
    // tanh(2 v) = 2 tanh(v) / (1 + tanh(v)^2), on both sides of the border of the series.
    for value in [1e-9, 7e-6, 0.3, 4.0].map(Dd::of) {
        let single = value.tanh();
        let twice = single * Dd::of(2.0) / (Dd::ONE + single * single);
        let off = ((value + value).tanh() / twice - Dd::ONE).to_f64();
        assert!(off.abs() < 1e-25, "{value:?} {off:e}");
        let off = (value.tanh_slope() + single * single - Dd::ONE).to_f64();
        assert!(off.abs() < 1e-30, "{value:?} {off:e}");
    }
}
