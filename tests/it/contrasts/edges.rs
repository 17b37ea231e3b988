//! Batches that are not ordinary: no positive at all, one class only, one row, no rows, equal ids, own negatives in half
//! precision; what was given and does not fit. `directions.rs` has features without a direction, `precision.rs` the other
//! forms in half precision.

use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use burn_cross_entropy::contrastive::{Contrast, InBatch, Positives, SampleIds, SupCon};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig, NegativeQueueConfig};

use super::{ints, mask};
use crate::common::backends::{is_host, tests_on};
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, behind_products};

fn plain(temperature: f64, device: &Device) -> InfoNceLoss {
    InfoNceLossConfig::new()
        .with_temperature(temperature)
        .init(device)
}

fn of<const R: usize>(rows: [[f32; 2]; R], device: &Device) -> Tensor<2> {
    Tensor::from_floats(rows, device)
}

/// Public-case values: several positives, own negatives, ids in the batch, a correction for sampling.
fn reported_numbers_come_out(device: &Device) {
    let loss = plain(1.0, device);
    let allowed = behind_products(1e-6, device);
    let own = Tensor::<3>::from_floats([[[0.0, 1.0], [-1.0, 0.0]]], device);
    let row = || of([[1.0, 0.0]], device);
    let none = || Tensor::<2>::zeros([0, 2], device);
    let contrast = Contrast::moco(row(), row(), none()).with_own_negatives(own, None);
    let value = numbers(loss.forward_contrast(contrast));
    assert_numbers("own negatives", &value, &[0.407_606_0], allowed);

    let both = || of([[1.0, 0.0], [1.0, 0.0]], device);
    for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
        let loss = InfoNceLossConfig::new()
            .with_in_batch(in_batch)
            .init(device);
        let ids = SampleIds::same(ints(&[4, 4], device));
        let contrast = Contrast::in_batch(both(), both()).with_ids(ids);
        let rows = numbers(loss.forward_contrast_no_reduction(contrast));
        assert!(rows.iter().all(|row| *row == 0.0), "{in_batch:?}: {rows:?}");
    }
}

/// A row without a positive is ignored: no part of the mean, no gradient. Where no row has one, the mean is over nothing.
fn rows_without_a_positive_are_ignored(device: &Device) {
    for sup_con in [SupCon::Out, SupCon::In] {
        let loss = InfoNceLossConfig::new().with_sup_con(sup_con).init(device);
        let features = of([[1.0, 0.2], [0.3, 1.0], [-1.0, 0.5]], device).require_grad();
        let labels = |labels: &[i64]| Contrast::labels(features.clone(), ints(labels, device));
        let rows = numbers(loss.forward_contrast_no_reduction(labels(&[1, 2, 1])));
        assert_eq!(rows[1], 0.0);
        let mean = numbers(loss.forward_contrast(labels(&[1, 2, 1])));
        assert_numbers("mean", &mean, &[(rows[0] + rows[2]) / 2.0], 1e-6);

        let nobody = loss.forward_contrast(labels(&[1, 2, 3]));
        assert!(numbers(nobody.clone())[0].is_nan());
        let rows = loss.forward_contrast_no_reduction(labels(&[1, 2, 3]));
        assert_eq!(numbers(rows.clone()), [0.0; 3]);
        let gradient = features
            .grad(&rows.sum().backward())
            .expect("it is tracked");
        assert_eq!(numbers(gradient), [0.0; 6]);
    }
}

/// With all rows of one class every other row is a positive; the loss is least where they are all alike, ln(N - 1).
fn one_class_and_one_row(device: &Device) {
    let allowed = behind_products(1e-6, device);
    for sup_con in [SupCon::Out, SupCon::In] {
        let loss = InfoNceLossConfig::new().with_sup_con(sup_con).init(device);
        let same = Tensor::<2>::ones([5, 3], device);
        let value = loss.forward_labels(same, ints(&[7; 5], device));
        assert_numbers("one class", &numbers(value), &[4f64.ln()], allowed);
        let alone = Contrast::labels(Tensor::ones([1, 3], device), ints(&[7], device));
        assert_eq!(numbers(loss.forward_contrast_no_reduction(alone)), [0.0]);
        let nothing = Contrast::labels(Tensor::ones([0, 3], device), ints(&[], device));
        let error = loss
            .try_forward_contrast(nothing)
            .expect_err("there are no keys");
        assert!(
            error.to_string().contains("no keys"),
            "{sup_con:?}: {error}"
        );
    }
}

/// The three ways to tell positives are the same positives.
fn labels_numbers_and_masks_agree(device: &Device) {
    let random =
        |rows: usize| Tensor::<2>::random([rows, 4], Distribution::Normal(0.0, 1.0), device);
    let (query, keys) = (random(3), random(5));
    let loss = plain(0.3, device);
    let run = |positives| {
        let contrast = Contrast::several(query.clone(), keys.clone(), positives);
        numbers(loss.forward_contrast_no_reduction(contrast))
    };
    let by_label = run(Positives::Labels {
        rows: ints(&[1, 2, 3], device),
        keys: ints(&[2, 1, 4, 1, 1], device),
    });
    let numbers_of = [4, 1, 3, 0, -100, -100, -100, -100, -100];
    let by_number = run(Positives::Indices(
        ints(&numbers_of, device).reshape([3, 3]),
    ));
    let there = [0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let by_mask = run(Positives::Mask(mask(&there, 3, device)));
    let allowed = behind_products(1e-6, device);
    assert_numbers("by number", &by_number, &by_label, allowed);
    assert_numbers("by mask", &by_mask, &by_label, allowed);
    assert!(by_label[0] > 0.0 && by_label[1] > 0.0 && by_label[2] == 0.0);
}

/// Without themselves, several positives of the rows of one batch are those of its labels, whether the positives name a
/// row itself or not.
fn rows_of_a_batch_are_not_their_own_keys(device: &Device) {
    let features = of([[1.0, 0.5], [0.5, 1.0], [-1.0, 1.0], [1.0, 0.0]], device);
    let labels = || ints(&[7, 7, 3, 7], device);
    let by_hand = [
        Positives::Labels {
            rows: labels(),
            keys: labels(),
        },
        Positives::Indices(
            ints(&[1, 3, 0, 0, 1, 3, 2, -100, -100, 0, 1, -100], device).reshape([4, 3]),
        ),
        Positives::Mask(mask(
            &[1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0],
            4,
            device,
        )),
    ];
    let solve = |loss: &InfoNceLoss, contrast: fn(Tensor<2>, Positives) -> Contrast, positives| {
        let leaf = features.clone().require_grad();
        let losses = loss.forward_contrast_no_reduction(contrast(leaf.clone(), positives));
        let weighed = losses.clone() * Tensor::from_floats([0.5, 2.0, 1.0, -1.0], device);
        let gradient = leaf.grad(&weighed.sum().backward()).expect("tracked");
        [numbers(losses), numbers(gradient)].concat()
    };
    let of_labels = |sup_con| {
        let config = InfoNceLossConfig::new().with_temperature(0.3);
        let loss = config.with_sup_con(sup_con).init(device);
        let leaf = |features, positives| match positives {
            Positives::Labels { rows, .. } => Contrast::labels(features, rows),
            _ => unreachable!("they are labels"),
        };
        let labels = Positives::Labels {
            rows: labels(),
            keys: labels(),
        };
        (solve(&loss, leaf, labels), loss)
    };
    let among = |features: Tensor<2>, positives| {
        Contrast::several(features.clone(), features, positives).without_themselves()
    };
    let allowed = behind_products(4e-6, device);
    let (expected, loss) = of_labels(SupCon::Out);
    for positives in by_hand.clone() {
        let name = format!("{positives:?}");
        assert_numbers(&name, &solve(&loss, among, positives), &expected, allowed);
    }
    let (expected, loss) = of_labels(SupCon::In);
    let [by_label, ..] = by_hand;
    assert_numbers("in", &solve(&loss, among, by_label), &expected, allowed);
    assert_eq!(expected[2], 0.0);
}

/// Features in half precision are taken as they are, also those of own negatives, and what fills these up may be
/// anything.
fn half_precision_and_filled_rows(device: &Device) {
    // Shaders have no bf16.
    let dtype = match is_host(device) {
        true => DType::BF16,
        false => DType::F16,
    };
    let half = |x: Tensor<2>| x.cast(dtype);
    let random = |rows: usize| {
        half(Tensor::random(
            [rows, 4],
            Distribution::Normal(0.0, 1.0),
            device,
        ))
    };
    let (query, positive, negatives) = (random(3).require_grad(), random(3), random(5));
    let own = half(Tensor::<2>::random(
        [6, 4],
        Distribution::Normal(0.0, 1.0),
        device,
    ));
    let there = mask(&[1, 0, 1, 1, 0, 1], 3, device);
    let loss = plain(0.1, device);
    let run = |own: Tensor<2>| {
        let own = own.reshape([3, 2, 4]);
        let contrast = Contrast::moco(query.clone(), positive.clone(), negatives.clone())
            .with_own_negatives(own, Some(there.clone()));
        let rows = loss.forward_contrast_no_reduction(contrast);
        assert_eq!(rows.dtype(), DType::F32);
        let gradients = rows.clone().sum().backward();
        let gradient = query.grad(&gradients).expect("it is tracked");
        (numbers(rows), numbers(gradient))
    };
    let filled = own.clone().mask_fill(
        there.clone().bool_not().reshape([6, 1]).expand([6, 4]),
        f32::NAN,
    );
    let expected = run(own);
    assert!(expected.0.iter().chain(&expected.1).all(|x| x.is_finite()));
    assert_eq!(run(filled), expected);
}

/// Own negatives of which every row has none change nothing, with a mask or without.
fn own_negatives_may_be_none(device: &Device) {
    let loss = plain(0.5, device);
    let contrast = || {
        Contrast::moco(
            of([[1.0, 0.2], [0.3, 1.0]], device),
            of([[0.9, 0.1], [0.2, 1.0]], device),
            of([[-1.0, 0.5], [0.5, 0.5], [0.0, -1.0]], device),
        )
    };
    let expected = numbers(loss.forward_contrast(contrast()));
    let nothing = Tensor::<2, Int>::zeros([2, 0], device).bool();
    for none in [None, Some(nothing)] {
        let own = Tensor::<3>::zeros([2, 0, 2], device);
        let value = loss.forward_contrast(contrast().with_own_negatives(own, none));
        let allowed = behind_products(1e-6, device);
        assert_numbers("no own negatives", &numbers(value), &expected, allowed);
    }
}

/// A queue that keeps labels as ids is a memory across batches.
fn a_queue_is_a_memory_with_labels(device: &Device) {
    let plain_device = device.clone().without_autodiff();
    let mut queue = NegativeQueueConfig::new(4, 2)
        .with_ids(true)
        .init(&plain_device);
    let loss = plain(1.0, device);
    let features = || of([[1.0, 0.0], [0.0, 1.0]], device);
    let contrast = |queue: &burn_cross_entropy::NegativeQueue| {
        let ids = queue.ids().expect("it keeps them");
        Contrast::labels(features(), ints(&[5, 6], device)).with_memory(queue.keys(), ids)
    };
    // An empty memory changes nothing: here no row has a positive.
    let rows = numbers(loss.forward_contrast_no_reduction(contrast(&queue)));
    assert_eq!(rows, [0.0, 0.0]);
    let earlier = Tensor::<2>::from_floats([[1.0, 0.0], [-1.0, 0.0]], &plain_device);
    queue.push_with_ids(earlier, ints(&[5, 9], device));
    // The first row has the memory's first key as its positive, and two negatives: ln(1 + 1/e + 1/e^2).
    let rows = numbers(loss.forward_contrast_no_reduction(contrast(&queue)));
    let expected = ((-1f64).exp() + (-2f64).exp()).ln_1p();
    assert_numbers(
        "rows",
        &rows,
        &[expected, 0.0],
        behind_products(1e-6, device),
    );
}

/// A learnable scale stays between its bounds, also at the lower one, and keeps a gradient there.
fn a_learnt_temperature_has_two_bounds(device: &Device) {
    let config = InfoNceLossConfig::new()
        .with_learnable(true)
        .with_temperature(1.0)
        .with_min_scale(1.0)
        .with_max_scale(1.0);
    let loss = config.init(device);
    assert!((loss.temperature() - 1.0).abs() < 1e-6);
    let features = of([[1.0, 0.0], [0.6, 0.8]], device);
    let gradients = loss.forward_in_batch(features.clone(), features).backward();
    let mut found = Vec::new();
    use burn::module::Module;
    loss.visit(&mut super::OfParameters(&gradients, &mut found));
    assert!(found[0] != 0.0 && found[0].is_finite());
    let below = InfoNceLossConfig::new()
        .with_learnable(true)
        .with_temperature(2.0)
        .with_min_scale(1.0);
    let error = below
        .try_init_for::<burn::backend::Dispatch>(device)
        .expect_err("it is below");
    assert!(error.to_string().contains("`min_scale`"), "{error}");
}

/// What does not fit, or does not go together, is an error that says what to do.
fn errors_say_what_to_do(device: &Device) {
    let loss = plain(1.0, device);
    let ones = |rows| Tensor::<2>::ones([rows, 2], device);
    let text = |contrast: Contrast| match loss.try_forward_contrast(contrast) {
        Ok(_) => panic!("it must be an error"),
        Err(error) => error.to_string(),
    };
    let own = || Tensor::<3>::ones([3, 4, 2], device);
    let moco = || Contrast::moco(ones(3), ones(3), ones(5));
    let wrong = Tensor::<3>::ones([2, 4, 2], device);
    let error = text(moco().with_own_negatives(wrong, None));
    assert!(error.contains("[2, 4, 2], expected [3, 4, 2]"), "{error}");
    let error = text(moco().with_own_negatives(own(), Some(mask(&[1; 6], 3, device))));
    assert!(error.contains("[3, 2], expected [3, 4]"), "{error}");
    let error = text(Contrast::in_batch(ones(3), ones(3)).with_own_negatives(own(), None));
    assert!(error.contains("`InBatch::OneSided`"), "{error}");
    let labels = ints(&[1, 2, 3], device);
    let error = text(Contrast::labels(ones(3), labels.clone()).with_own_negatives(own(), None));
    assert!(
        error.contains("own negatives cannot go with several positives"),
        "{error}"
    );
    let ids = SampleIds::same(labels.clone());
    let error = text(Contrast::labels(ones(3), labels.clone()).with_ids(ids));
    assert!(
        error.contains("ids cannot go with several positives"),
        "{error}"
    );
    let with_margin = InfoNceLossConfig::new().with_margin(0.1).init(device);
    let error = with_margin
        .try_forward_labels(ones(3), labels.clone())
        .expect_err("a margin is of one positive");
    assert!(
        error.to_string().contains("`margin` cannot go with"),
        "{error}"
    );
    let error = text(moco().with_memory(ones(3), labels.clone()));
    assert!(
        error.contains("a memory with labels cannot go with"),
        "{error}"
    );
    let error = text(Contrast::labels(ones(4), labels.clone()));
    assert!(error.contains("there are 3 ids for 4 rows"), "{error}");
    let error = text(moco().with_log_q(vec![Tensor::ones([5], device)]));
    assert!(error.contains("lengths [5], expected [3, 5]"), "{error}");
    let positives = Positives::Mask(mask(&[1; 6], 3, device));
    let error = text(Contrast::several(ones(3), ones(5), positives));
    assert!(error.contains("[3, 2], expected [3, 5]"), "{error}");
    let ids = SampleIds {
        queries: labels.clone(),
        negatives: labels,
    };
    let indices = || Positives::Indices(ints(&[0, 1, 0], device).reshape([3, 1]));
    let error = text(Contrast::several(ones(3), ones(2), indices()).without_themselves());
    assert!(error.contains("fewer keys than rows"), "{error}");
    let error = text(moco().without_themselves());
    assert!(
        error.contains("it belongs to `Contrast::several`"),
        "{error}"
    );
    let pairs = Contrast::pairs(ones(3), ones(5), ints(&[0, 1, 2], device));
    let error = text(pairs.clone().with_ids(ids));
    assert!(error.contains("there are 3 ids for 5 keys"), "{error}");
    let margin = InfoNceLossConfig::new().with_margin(-1.0);
    let error = margin
        .try_init_for::<burn::backend::Dispatch>(device)
        .expect_err("it is below 0");
    assert!(error.to_string().contains("`margin` is -1"), "{error}");
}

/// On CPU backends a number that is no key is an error that names it, in every form.
fn a_number_that_is_no_key_is_an_error(device: &Device) {
    let with_margin = InfoNceLossConfig::new().with_margin(0.1).init(device);
    let ones = |rows| Tensor::<2>::ones([rows, 2], device);
    let pairs = Contrast::pairs(ones(3), ones(5), ints(&[0, 5, 2], device));
    for loss in [&plain(1.0, device), &with_margin] {
        let error = loss
            .try_forward_contrast(pairs.clone())
            .expect_err("5 is no key");
        assert!(
            error.to_string().contains("`positive` of row 1 is 5"),
            "{error}"
        );
    }
    let several: Tensor<2, Int> = ints(&[0, -100, 1, 2, 7, 4], device).reshape([3, 2]);
    let contrast = Contrast::several(ones(3), ones(5), Positives::Indices(several));
    let error = plain(1.0, device)
        .try_forward_contrast(contrast)
        .expect_err("7 is no key");
    assert!(
        error.to_string().contains("`positive` of row 2 is 7"),
        "{error}"
    );
}

tests_on! {
    products: [
        reported_numbers_come_out,
        rows_without_a_positive_are_ignored,
        one_class_and_one_row,
        labels_numbers_and_masks_agree,
        rows_of_a_batch_are_not_their_own_keys,
        own_negatives_may_be_none,
        a_queue_is_a_memory_with_labels,
        a_learnt_temperature_has_two_bounds,
        errors_say_what_to_do,
    ],
    half: [
        half_precision_and_filled_rows,
    ],
    host: [
        a_number_that_is_no_key_is_an_error,
    ],
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn masks_of_another_device_are_named() {
    // Burn deprecates NdArray, which has its tests as long as Burn has it.
    #[allow(deprecated)]
    let (device, other) = (Device::flex(), Device::ndarray());
    let ones = |rows| Tensor::<2>::ones([rows, 2], &device);
    let text = |contrast| {
        let error = plain(1.0, &device).try_forward_contrast(contrast);
        error.expect_err("the devices differ").to_string()
    };
    let positives = Positives::Mask(mask(&[1; 15], 3, &other));
    let error = text(Contrast::several(ones(3), ones(5), positives));
    assert!(
        error.contains("Flex") && error.contains("NdArray"),
        "{error}"
    );
    let own = Tensor::<3>::ones([3, 2, 2], &device);
    let contrast = Contrast::moco(ones(3), ones(3), ones(5));
    let error = text(contrast.with_own_negatives(own, Some(mask(&[1; 6], 3, &other))));
    assert!(error.contains("the mask of own negatives"), "{error}");
}
