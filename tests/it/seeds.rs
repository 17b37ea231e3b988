//! The documents from which the project grew: every number that they print, and the loops with which they
//! compare a framework.

use approx::assert_relative_eq;
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyLossConfig;

use crate::common::backends::{computes_f64, tests_on};
use crate::common::problem::{Problem, Targets};
use crate::common::run::numbers;

/// The mean of `-x[y] + ln sum_j exp(x[j])`, as the first document writes it, over `[outer, classes, inner]`.
fn mean_by_loop(logits: &[f64], targets: &[i64], classes: usize, inner: usize) -> f64 {
    let mut losses = Vec::new();
    for (row, target) in targets.iter().enumerate() {
        let (outer, position) = (row / inner, row % inner);
        let at = |class: usize| logits[(outer * classes + class) * inner + position];
        let first = -at(*target as usize);
        let mut second = 0.0;
        for class in 0..classes {
            second += at(class).exp();
        }
        losses.push(first + second.ln());
    }
    losses.iter().sum::<f64>() / losses.len() as f64
}

fn parts(problem: &Problem) -> (&[f64], &[i64]) {
    match &problem.targets {
        Targets::Indices(indices) => (&problem.logits, indices),
        Targets::Distributions(_) => panic!("indices are asked for"),
    }
}

fn three_rows_of_five_classes(device: &Device) {
    let problem = Problem::random(&[3, 5], 1, false, 2158);
    let (logits, targets) = parts(&problem);
    let x = Tensor::<2>::from_data(
        TensorData::new(logits.to_vec(), [3, 5]),
        (device, DType::F32),
    );
    let y = Tensor::<1, Int>::from_data(TensorData::new(targets.to_vec(), [3]), device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let found = numbers(loss.forward(x, y))[0];
    let by_loop = mean_by_loop(logits, targets, 5, 1);
    assert_relative_eq!(found, by_loop, max_relative = 2e-6);
}

/// 6 images of 5 x 5 pixels in 3 classes, with a label map of 6 x 1 x 5 x 5 and with the same map
/// squeezed, as the document does it.
fn six_images_with_a_label_per_pixel(device: &Device) {
    let problem = Problem::random(&[6, 3, 5, 5], 1, false, 1503);
    let (logits, targets) = parts(&problem);
    let x = || {
        let data = TensorData::new(logits.to_vec(), [6, 3, 5, 5]);
        Tensor::<4>::from_data(data, (device, DType::F32))
    };
    let map = Tensor::<4, Int>::from_data(TensorData::new(targets.to_vec(), [6, 1, 5, 5]), device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let by_loop = mean_by_loop(logits, targets, 3, 25);
    let unsqueezed = numbers(loss.forward(x(), map.clone()))[0];
    let squeezed = numbers(loss.forward(x(), map.squeeze_dim::<3>(1)))[0];
    assert_relative_eq!(unsqueezed, by_loop, max_relative = 2e-6);
    assert_eq!(unsqueezed, squeezed);
}

/// The numbers of numpy.random.seed(123), then random([5, 10]) twice.
const PROBABILITIES: [[f64; 10]; 5] = [
    [
        0.6964691855978616,
        0.28613933495037946,
        0.2268514535642031,
        0.5513147690828912,
        0.7194689697855631,
        0.42310646012446096,
        0.9807641983846155,
        0.6848297385848633,
        0.48093190148436094,
        0.3921175181941505,
    ],
    [
        0.3431780161508694,
        0.7290497073840416,
        0.4385722446796244,
        0.05967789660956835,
        0.3980442553304314,
        0.7379954057320357,
        0.18249173045349998,
        0.17545175614749253,
        0.5315513738418384,
        0.5318275870968661,
    ],
    [
        0.6344009585513211,
        0.8494317940777896,
        0.7244553248606352,
        0.6110235106775829,
        0.7224433825702216,
        0.3229589138531782,
        0.3617886556223141,
        0.22826323087895561,
        0.29371404638882936,
        0.6309761238544878,
    ],
    [
        0.09210493994507518,
        0.43370117267952824,
        0.4308627633296438,
        0.4936850976503062,
        0.425830290295828,
        0.3122612229724653,
        0.4263513069628082,
        0.8933891631171348,
        0.9441600182038796,
        0.5018366758843366,
    ],
    [
        0.6239529517921112,
        0.11561839507929572,
        0.3172854818203209,
        0.4148262119536318,
        0.8663091578833659,
        0.2504553653965067,
        0.48303426426270435,
        0.985559785610705,
        0.5194851192598093,
        0.6128945257629677,
    ],
];
const SHARES: [[f64; 10]; 5] = [
    [
        0.12062866599032374,
        0.8263408005068332,
        0.6030601284109274,
        0.5450680064664649,
        0.3427638337743084,
        0.3041207890271841,
        0.4170222110247016,
        0.6813007657927966,
        0.8754568417951749,
        0.5104223374780111,
    ],
    [
        0.6693137829622723,
        0.5859365525622129,
        0.6249035020955999,
        0.6746890509878248,
        0.8423424376202573,
        0.08319498833243877,
        0.7636828414433382,
        0.243666374536874,
        0.19422296057877086,
        0.5724569574914731,
    ],
    [
        0.09571251661238711,
        0.8853268262751396,
        0.6272489720512687,
        0.7234163581899548,
        0.01612920669501683,
        0.5944318794450425,
        0.5567851923942887,
        0.15895964414472274,
        0.1530705151247731,
        0.6955295287709109,
    ],
    [
        0.31876642638187636,
        0.6919702955318197,
        0.5543832497177721,
        0.3889505741231446,
        0.9251324896139861,
        0.8416699969127163,
        0.35739756668317624,
        0.04359146379904055,
        0.30476807341109746,
        0.398185681917981,
    ],
    [
        0.7049588304513622,
        0.9953584820340174,
        0.35591486571745956,
        0.7625478137854338,
        0.5931769165622212,
        0.6917017987001771,
        0.15112745234808023,
        0.39887629272615654,
        0.24085589772362448,
        0.34345601404832493,
    ],
];
const PRINTED_LOSS: f64 = 22.6094161164;
const PRINTED_GRADIENT: [[f64; 10]; 5] = [
    [
        -0.173, -2.888, -2.658, -0.989, -0.476, -0.719, -0.425, -0.995, -1.82, -1.302,
    ],
    [
        -1.95, -0.804, -1.425, -11.306, -2.116, -0.113, -4.185, -1.389, -0.365, -1.076,
    ],
    [
        -0.151, -1.042, -0.866, -1.184, -0.022, -1.841, -1.539, -0.696, -0.521, -1.102,
    ],
    [
        -3.461, -1.596, -1.287, -0.788, -2.173, -2.695, -0.838, -0.049, -0.323, -0.793,
    ],
    [
        -1.13, -8.609, -1.122, -1.838, -0.685, -2.762, -0.313, -0.405, -0.464, -0.56,
    ],
];

fn probabilities_and_their_gradient(device: &Device) {
    // The last digit that the document prints needs f64; f32 has seven.
    let exact = computes_f64(device);
    let (dtype, tolerance) = if exact {
        (DType::F64, 5e-11)
    } else {
        (DType::F32, 5e-6)
    };
    let tensor = |values: [[f64; 10]; 5]| {
        Tensor::<2>::from_data(TensorData::from(values), (device, dtype)).require_grad()
    };
    let loss = CrossEntropyLossConfig::new()
        .with_logits(false)
        .with_reduction(Reduction::Sum)
        .init(device);
    let probabilities = tensor(PROBABILITIES);
    let value = loss.forward(probabilities.clone(), tensor(SHARES));
    assert!((numbers(value.clone())[0] - PRINTED_LOSS).abs() <= tolerance);

    let gradient = numbers(probabilities.grad(&value.backward()).unwrap());
    for (found, printed) in gradient.iter().zip(PRINTED_GRADIENT.as_flattened()) {
        assert!((found - printed).abs() <= 5.1e-4, "{found} {printed}");
    }
}

const EXAMPLE: [[f32; 4]; 3] = [
    [0.1, 0.2, 0.3, 0.4],
    [0.2, 0.3, 0.35, 0.15],
    [0.28, 0.32, 0.2, 0.3],
];

fn one_hot_and_indices_give_the_same_1_2914(device: &Device) {
    let logits = || Tensor::<2>::from_floats(EXAMPLE, device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let one_hot = Tensor::<2>::from_floats(
        [[0., 0., 0., 1.], [0., 0., 1., 0.], [0., 1., 0., 0.]],
        device,
    );
    let by_share = numbers(loss.forward(logits(), one_hot))[0];
    let indices = Tensor::<1, Int>::from_ints([3, 2, 1], device);
    let by_index = numbers(loss.forward(logits(), indices))[0];
    assert!((by_share - 1.2914).abs() < 5e-5, "{by_share}");
    assert_relative_eq!(by_share, by_index, max_relative = 1e-6);
}

/// MoCo's labels are all zero, because `cat([l_pos, l_neg], 1)` puts the positive at index 0. The loss of
/// each row is `-ln(exp(l_pos) / (exp(l_pos) + sum exp(l_neg)))`.
fn labels_of_zero_name_the_positive_at_index_0(device: &Device) {
    let (positives, negatives) = ([0.9f64, -0.2, 0.4], [[0.1, 0.3], [0.5, -0.7], [-0.4, 0.8]]);
    let column = Tensor::<2>::from_floats([[0.9], [-0.2], [0.4]], device);
    let rest = Tensor::<2>::from_floats([[0.1, 0.3], [0.5, -0.7], [-0.4, 0.8]], device);
    let logits = Tensor::cat(vec![column, rest], 1);
    let temperature = 0.07;
    let loss = CrossEntropyLossConfig::new()
        .with_logit_scale(1.0 / temperature)
        .init(device);
    let found = numbers(loss.forward(logits.clone(), Tensor::<1, Int>::zeros([3], device)))[0];
    let info_nce: f64 = positives
        .iter()
        .zip(negatives)
        .map(|(positive, negatives)| {
            let positive = (positive / temperature).exp();
            let negatives: f64 = negatives
                .iter()
                .map(|x: &f64| (x / temperature).exp())
                .sum();
            -(positive / (positive + negatives)).ln()
        })
        .sum::<f64>()
        / 3.0;
    assert_relative_eq!(found, info_nce, max_relative = 5e-6);

    // A one-hot target with its ones in the first place gives the same loss.
    let first = Tensor::<2>::from_floats([[1., 0., 0.], [1., 0., 0.], [1., 0., 0.]], device);
    let by_share = numbers(loss.forward(logits, first))[0];
    assert_relative_eq!(found, by_share, max_relative = 1e-6);
}

tests_on! {
    one_of_each_kind: [
        three_rows_of_five_classes,
        six_images_with_a_label_per_pixel,
        probabilities_and_their_gradient,
        one_hot_and_indices_give_the_same_1_2914,
        labels_of_zero_name_the_positive_at_index_0,
    ],
}
