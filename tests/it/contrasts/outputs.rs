//! Outputs of the rows of every form: the numbers of keys, and ties that the positive loses.

use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::{Contrast, InBatch, SampleIds, SupCon};

use super::{ints, mask};
use crate::common::backends::tests_on;
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, behind_products};

fn keys(device: &Device) -> Tensor<2> {
    let rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]];
    Tensor::from_floats(rows, device)
}

fn integers(tensor: Tensor<1, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

/// Whether or not the positive is a class of its own within, `predicted` and `target_class` are numbers of keys.
fn numbers_are_those_of_the_keys(device: &Device) {
    let query = Tensor::<2>::from_floats([[1.0, 0.1], [0.1, 1.0], [0.7, 0.7]], device);
    let positive = [0, 3, -100];
    let config = || InfoNceLossConfig::new().with_temperature(0.5);
    let all_apart = SampleIds {
        queries: ints(&[50, 51, 52], device),
        negatives: ints(&[0, 1, 2, 3], device),
    };
    let contrast = || Contrast::pairs(query.clone(), keys(device), ints(&positive, device));
    let plain = config().init(device);
    let expected = plain.forward_contrast_with_output(contrast());
    let same = plain.forward_contrast_with_output(contrast().with_ids(all_apart));
    for output in [&expected, &same] {
        assert_eq!(integers(output.predicted.clone()), [0, 2, 1]);
        assert_eq!(integers(output.target_class.clone()), [0, 3, -1]);
        assert_eq!(integers(output.target_rank.clone()), [0, 3, -1]);
    }
    let allowed = behind_products(1e-6, device);
    let loss = numbers(plain.forward_contrast(contrast()));
    assert_numbers("loss", &numbers(expected.loss), &loss, allowed);
    assert_numbers("with ids", &numbers(same.loss), &loss, allowed);

    // Own negatives are behind all keys: the second of the first row is the query itself.
    let own = Tensor::<3>::from_floats(
        [
            [[-1.0, 0.0], [1.0, 0.1]],
            [[-1.0, 0.0], [0.0, -1.0]],
            [[0.7, 0.7], [0.0, -1.0]],
        ],
        device,
    );
    let output = plain.forward_contrast_with_output(contrast().with_own_negatives(own, None));
    assert_eq!(integers(output.predicted), [5, 2, 4]);
    assert_eq!(integers(output.target_class), [0, 3, -1]);
}

/// Of momentum contrast 0 is the positive, behind it are the row's own negatives, then the common ones.
fn own_negatives_stand_before_common_ones(device: &Device) {
    let query = Tensor::<2>::from_floats([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]], device);
    let positive = Tensor::<2>::from_floats([[0.96, 0.28], [0.6, 0.8], [0.6, 0.8]], device);
    let own = Tensor::<3>::from_floats(
        [
            [[0.6, 0.8], [0.0, 1.0]],
            [[0.0, 1.0], [0.96, 0.28]],
            [[0.0, 1.0], [-1.0, 0.0]],
        ],
        device,
    );
    let negatives = Tensor::<2>::from_floats([[0.28, 0.96], [-1.0, 0.0], [0.8, 0.6]], device);
    // Similarities to the positive; own; common:
    //     0.96;  0.6,  0   ;  0.28, -1  , 0.8
    //     0.6 ;  0  ,  0.96;  0.28, -1  , 0.8
    //     0.96;  0.6, -0.8 ;  0.8 , -0.8, 1
    let loss = InfoNceLossConfig::new().with_temperature(0.5).init(device);
    let run = |there: [i64; 6]| {
        let there = mask(&there, 3, device);
        let contrast = Contrast::moco(query.clone(), positive.clone(), negatives.clone())
            .with_own_negatives(own.clone(), Some(there));
        loss.forward_contrast_with_output(contrast)
    };
    let output = run([1; 6]);
    assert_eq!(integers(output.predicted.clone()), [0, 2, 5]);
    assert_eq!(integers(output.target_class.clone()), [0, 0, 0]);
    assert_eq!(integers(output.target_rank.clone()), [0, 2, 1]);
    // Without the own negative that is the nearest of the second row, a common one is.
    let output = run([1, 1, 1, 0, 1, 1]);
    assert_eq!(integers(output.predicted.clone()), [0, 5, 5]);
    assert_eq!(integers(output.target_class.clone()), [0, 0, 0]);
    assert_eq!(integers(output.target_rank.clone()), [0, 1, 1]);
}

/// Of NT-Xent the numbers are those of both views, one after the other; keys that ids leave out are not predicted.
fn rows_of_both_views_are_numbered_one_after_the_other(device: &Device) {
    let a = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [0.96, 0.28]], device);
    let b = Tensor::<2>::from_floats([[0.8, 0.6], [-0.936, 0.352], [0.0, -1.0]], device);
    // Similarities, of rows 0 to 5 to keys 0 to 5:
    //      1     ,  0    ,  0.96 ,  0.8   , -0.936 ,  0
    //      0     ,  1    ,  0.28 ,  0.6   ,  0.352 , -1
    //      0.96  ,  0.28 ,  1    ,  0.936 , -0.8   , -0.28
    //      0.8   ,  0.6  ,  0.936,  1     , -0.5376, -0.6
    //     -0.936 ,  0.352, -0.8  , -0.5376,  1     , -0.352
    //      0     , -1    , -0.28 , -0.6   , -0.352 ,  1
    let config = InfoNceLossConfig::new().with_temperature(0.5);
    let loss = config.with_in_batch(InBatch::NtXent).init(device);
    let contrast = || Contrast::in_batch(a.clone(), b.clone());
    let output = loss.forward_contrast_with_output(contrast());
    assert_eq!(integers(output.predicted), [2, 3, 0, 2, 1, 0]);
    assert_eq!(integers(output.target_class), [3, 4, 5, 0, 1, 2]);
    assert_eq!(integers(output.target_rank), [1, 1, 3, 1, 0, 1]);

    // The first and the last rows are of one sample: of its keys each has its positive alone.
    let ids = SampleIds::same(ints(&[7, 8, 7], device));
    let output = loss.forward_contrast_with_output(contrast().with_ids(ids));
    assert_eq!(integers(output.predicted), [3, 3, 1, 0, 1, 2]);
    assert_eq!(integers(output.target_class), [3, 4, 5, 0, 1, 2]);
    assert_eq!(integers(output.target_rank), [0, 1, 1, 0, 0, 0]);
}

/// An encoder that cannot tell keys apart is never right, in every form.
fn a_tie_is_no_win(device: &Device) {
    let same = || Tensor::<2>::ones([4, 3], device);
    for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
        let loss = InfoNceLossConfig::new()
            .with_in_batch(in_batch)
            .init(device);
        let output = loss.forward_contrast_with_output(Contrast::in_batch(same(), same()));
        let correct = output.correct().int().sum().into_scalar::<i64>();
        assert_eq!(correct, 0, "{in_batch:?}");
        let value = loss.forward_in_batch(same(), same());
        assert_numbers("loss", &numbers(output.loss), &numbers(value), 1e-6);
    }
    let labels = Contrast::labels(same(), ints(&[1, 1, 2, 2], device));
    let loss = InfoNceLossConfig::new().init(device);
    let output = loss.forward_contrast_with_output(labels);
    assert_eq!(output.correct().int().sum().into_scalar::<i64>(), 0);
}

/// With the positives inside of the logarithm a row looks at the keys as with them outside; its log-probability is minus its
/// own loss. The last row has no positive.
fn positives_inside_have_outputs(device: &Device) {
    let features = Tensor::<2>::from_floats(
        [[1.0, 0.1], [0.9, 0.3], [0.1, 1.0], [0.3, 0.8], [-1.0, 0.2]],
        device,
    );
    let contrast = || Contrast::labels(features.clone(), ints(&[7, 7, 2, 2, 4], device));
    let of = |sup_con| InfoNceLossConfig::new().with_sup_con(sup_con).init(device);
    let outside = of(SupCon::Out).forward_contrast_with_output(contrast());
    let inside = of(SupCon::In);
    let output = inside.forward_contrast_with_output(contrast());
    assert_eq!(integers(output.predicted), integers(outside.predicted));
    assert_eq!(
        integers(output.target_rank.clone()),
        integers(outside.target_rank)
    );
    assert_eq!(integers(output.target_rank), [0, 0, 0, 0, -1]);
    let allowed = behind_products(1e-6, device);
    let loss = numbers(inside.forward_contrast(contrast()));
    assert_numbers("loss", &numbers(output.loss), &loss, allowed);
    let rows = numbers(inside.forward_contrast_no_reduction(contrast()));
    let log_prob = numbers(output.log_prob.neg());
    assert_numbers("log_prob", &log_prob, &rows, allowed);
}

tests_on! {
    products: [
        positives_inside_have_outputs,
        numbers_are_those_of_the_keys,
        own_negatives_stand_before_common_ones,
        rows_of_both_views_are_numbered_one_after_the_other,
        a_tie_is_no_win,
    ],
}
