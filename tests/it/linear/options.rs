//! Compares every option and reduction, in chunks of every size, with the oracle.

use burn::nn::loss::Reduction;
use burn::tensor::Device;

use super::projected::{Form, Projected, chunks};
use crate::common::backends::tests_on;
use crate::common::problem::{Problem, Targets};

fn plain_losses_agree(device: &Device) {
    for chunk in chunks(device) {
        for soft in [false, true] {
            let projected = Projected::random([23, 13, 71], soft, 1);
            projected.assert_agrees(Form::chunked(chunk), device);
            Projected::random([9, 3, 5], soft, 2)
                .without_bias()
                .assert_agrees(Form::chunked(chunk), device);
        }
    }
}

pub fn every_option(problem: Problem) -> Problem {
    problem
        .with_weights()
        .with_ignored(2)
        .with_config(|config| {
            config
                .with_label_smoothing(0.15)
                .with_logit_scale(0.8)
                .with_logit_softcap(Some(6.0))
                .with_z_loss(0.02)
        })
}

fn every_option_and_reduction_agrees(device: &Device) {
    for chunk in chunks(device) {
        for soft in [false, true] {
            let projected = || Projected::random([22, 11, 37], soft, 3).with(every_option);
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
                projected()
                    .with(|problem| problem.with_config(|config| config.with_reduction(reduction)))
                    .assert_agrees(Form::chunked(chunk), device);
            }
            projected()
                .with(Problem::unreduced)
                .assert_agrees(Form::chunked(chunk), device);
        }
    }
}

/// Rows that are ignored, in chunks of their own and among others, have no part in anything.
fn ignored_rows_have_no_part(device: &Device) {
    for chunk in chunks(device) {
        for unreduced in [false, true] {
            let mut projected = Projected::random([24, 5, 9], false, 4);
            let Targets::Indices(targets) = &mut projected.problem.targets else {
                panic!("indices were asked for");
            };
            targets[3] = -100;
            targets[7..15].fill(-100);
            for input in &mut projected.input[7 * 5..15 * 5] {
                *input = f64::NAN;
            }
            projected.project();
            if unreduced {
                projected = projected.with(Problem::unreduced);
            }
            let form = Form::chunked(chunk);
            let found = projected.found(form, device);
            // The ignored rows become zeros for the oracle, which would turn NaN times 0 into NaN.
            for input in &mut projected.input[7 * 5..15 * 5] {
                *input = 0.0;
            }
            projected.project();
            found.assert_close("ignored rows", &projected.expected(), (device, form.dtype));
            assert!(found.input[7 * 5..15 * 5].iter().all(|slope| *slope == 0.0));
        }
    }
}

tests_on! {
    products: [
        plain_losses_agree,
        ignored_rows_have_no_part,
    ],
    one_of_each_kind: [
        every_option_and_reduction_agrees,
    ],
}
