//! The sigmoid loss of pairs beyond what PyTorch's cases show: digits, parts of a batch, ends of the range.

use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_cross_entropy::contrastive::{Positives, SigLipLossConfig};

use super::{ints, mask};
use crate::common::backends::{is_host, tests_on};
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, behind_products};

fn apart(scale: f64, bias: f64) -> SigLipLossConfig {
    SigLipLossConfig::new()
        .with_learnable(false)
        .with_normalize(false)
        .with_scale(scale)
        .with_bias(bias)
}

/// Pairs that are told apart well keep the digits of their loss and of their gradient.
fn confident_pairs_keep_their_digits(device: &Device) {
    let loss = apart(1.0, 0.0).init(device);
    let query = Tensor::<2>::from_floats([[20.0], [-30.0]], device).require_grad();
    let keys = Tensor::<2>::from_floats([[1.0], [-1.0]], device);
    // Similarities 20 and -20 of the first row, -30 and 30 of the second; each belongs to the one above 0.
    let positive = ints(&[0, 1], device);
    let value = loss.forward_pairs(query.clone(), keys.clone(), positive);
    let gradient = numbers(
        query
            .grad(&value.clone().backward())
            .expect("it is tracked"),
    );
    let (small, smaller) = ((-20f64).exp(), (-30f64).exp());
    let expected = small.ln_1p() + smaller.ln_1p();
    assert_numbers("loss", &numbers(value), &[expected], 1e-5);
    let slopes = [-small / (1.0 + small), smaller / (1.0 + smaller)];
    for (found, expected) in gradient.iter().zip(slopes) {
        assert_numbers("gradient", &[*found], &[expected], 1e-5);
    }
}

/// The pairs do not know of each other: the sum over a batch is that of its parts.
fn the_loss_of_a_batch_is_that_of_its_parts(device: &Device) {
    let random =
        |rows: usize| Tensor::<2>::random([rows, 5], Distribution::Normal(0.0, 1.0), device);
    let (query, keys) = (random(7), random(11));
    let loss = apart(2.0, -1.0)
        .with_reduction(burn::nn::loss::Reduction::Sum)
        .with_chunk_bytes(Some(200))
        .init(device);
    let labels = [2, 0, 4, 4, 9, 2, 2, 1, 0, 9, 3];
    let of = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
        let positives = Positives::Labels {
            rows: ints(&[2, 4, 7, 0, 0, 9, 3][rows.clone()], device),
            keys: ints(&labels[columns.clone()], device),
        };
        let (query, keys) = (query.clone().slice([rows]), keys.clone().slice([columns]));
        numbers(loss.forward_positives(query, keys, positives))[0]
    };
    let parts = of(0..3, 0..4) + of(0..3, 4..11) + of(3..7, 0..4) + of(3..7, 4..11);
    assert_numbers(
        "sum",
        &[of(0..7, 0..11)],
        &[parts],
        behind_products(1e-5, device),
    );
}

/// The three ways to tell what belongs together agree.
fn labels_numbers_and_masks_agree(device: &Device) {
    let random =
        |rows: usize| Tensor::<2>::random([rows, 5], Distribution::Normal(0.0, 1.0), device);
    let (query, keys) = (random(3), random(5));
    let loss = apart(2.0, -1.0).init(device);
    let run = |positives| {
        let rows = loss.forward_positives_no_reduction(query.clone(), keys.clone(), positives);
        numbers(rows)
    };
    let by_label = run(Positives::Labels {
        rows: ints(&[1, 2, 3], device),
        keys: ints(&[2, 1, 4, 1, 1], device),
    });
    // A key that stands twice belongs once.
    let of_rows = [4, 1, 3, 4, 0, -100, -100, -100, -100, -100, -100, -100];
    let by_number = run(Positives::Indices(ints(&of_rows, device).reshape([3, 4])));
    let there = [0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let by_mask = run(Positives::Mask(mask(&there, 3, device)));
    let allowed = behind_products(1e-6, device);
    assert_numbers("by number", &by_number, &by_label, allowed);
    assert_numbers("by mask", &by_mask, &by_label, allowed);
}

/// A row may belong to no key and a key to no row; without rows the mean is over nothing, without keys there is nothing
/// to ask.
fn rows_and_keys_may_belong_to_nothing(device: &Device) {
    let loss = apart(1.0, 0.0).init(device);
    let zeros = |rows| Tensor::<2>::zeros([rows, 3], device);
    let value = loss.forward_pairs(zeros(2), zeros(5), ints(&[-100, -100], device));
    let expected = [5.0 * 2f64.ln()];
    assert_numbers("no key", &numbers(value), &expected, 1e-6);
    let nobody = loss.forward_pairs(zeros(0), zeros(5), ints(&[], device));
    assert!(numbers(nobody)[0].is_nan());
    let error = loss
        .try_forward_pairs(zeros(2), zeros(0), ints(&[-100, -100], device))
        .expect_err("there are no keys");
    assert!(error.to_string().contains("no keys"), "{error}");
    if is_host(device) {
        let error = loss
            .try_forward_pairs(zeros(2), zeros(5), ints(&[0, 5], device))
            .expect_err("5 is no key");
        assert!(
            error.to_string().contains("`positive` of row 1 is 5"),
            "{error}"
        );
    }
}

/// Numbers at the ends of the range, and NaN, come out as what they are.
fn the_ends_of_the_range(device: &Device) {
    let loss = apart(1.0, 0.0).init(device);
    let keys = Tensor::<2>::ones([2, 1], device);
    for (number, together, apart) in [
        (1e30, 1e30, 0.0),
        (-1e30, 0.0, 1e30),
        (f64::NAN, f64::NAN, f64::NAN),
    ] {
        let query = Tensor::<2>::full([1, 1], number, (device, DType::F32)).require_grad();
        // One pair belongs together, the other does not.
        let value = loss.forward_pairs(query.clone(), keys.clone(), ints(&[1], device));
        assert_numbers("loss", &numbers(value.clone()), &[together + apart], 1e-6);
        let gradient = numbers(query.grad(&value.backward()).expect("it is tracked"));
        let expected = if number > 0.0 { 1.0 } else { -1.0 };
        match number.is_nan() {
            true => assert!(gradient[0].is_nan()),
            false => assert_numbers("gradient", &gradient, &[expected], 1e-6),
        }
    }
}

tests_on! {
    products: [
        confident_pairs_keep_their_digits,
        the_loss_of_a_batch_is_that_of_its_parts,
        labels_numbers_and_masks_agree,
        rows_and_keys_may_belong_to_nothing,
        the_ends_of_the_range,
    ],
}
