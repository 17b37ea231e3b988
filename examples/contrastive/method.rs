//! The methods: the loss of two views of a batch by momentum contrast (MoCo), in the batch (SimCLR), with labels
//! (SupCon), or pair by pair (SigLIP). The library has the losses, the queue and the momentum update.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{InBatch, SampleIds, SigLipLoss, SigLipLossConfig};
use burn_cross_entropy::{
    InfoNceLoss, InfoNceLossConfig, NegativeQueue, NegativeQueueConfig, momentum_update,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::encoder::{EMBEDDING, Encoder};
use crate::settings::Settings;

/// The way to contrast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Method {
    /// Negatives are the keys of earlier steps, in a queue; a second encoder, which follows slowly, makes the
    /// keys.
    Moco,
    /// Negatives are all other views of the batch.
    Simclr,
    /// As simclr, but supervised: all views of the batch with the image's label are its positives.
    Supcon,
    /// Each pair of a first and a second view apart: are they of the same image? The temperature and a bias
    /// are learnt.
    Siglip,
}

impl Method {
    /// Whether the training sees the labels of its images.
    pub fn sees_labels(self) -> bool {
        self == Self::Supcon
    }

    /// The temperature without `--temperature`. That of supcon is its paper's; siglip's paper has 0.1, from which
    /// the digits end slightly worse.
    pub fn temperature(self) -> f64 {
        match self {
            Self::Moco | Self::Simclr | Self::Siglip => 0.2,
            Self::Supcon => 0.1,
        }
    }
}

/// Whether the momentum stays or grows over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Schedule {
    /// The momentum is the same in every step.
    Constant,
    /// The momentum grows from --momentum along half a cosine to 1, where the momentum encoder stands still.
    Cosine,
}

/// A batch of images, of which the encoder sees two views.
pub struct Batch<'a> {
    /// The two views of each image, [images, 1, height, width].
    pub views: [Tensor<4>; 2],
    /// The numbers of the images.
    pub images: &'a [usize],
    /// The labels of the images, which supcon alone looks at.
    pub labels: &'a [usize],
}

/// What a method has besides the encoder: its loss, and what belongs to it.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // A run has one.
pub enum Objective {
    Moco(MomentumSide),
    Simclr(InfoNceLoss),
    Supcon(InfoNceLoss),
    /// The only loss with parameters, scale and bias, which are trained with the encoder.
    Siglip(SigLipLoss),
}

impl Objective {
    pub fn new(settings: &Settings, online: &Encoder, device: &Device) -> Result<Self, String> {
        let temperature = settings.temperature();
        Ok(match settings.method {
            Method::Moco => {
                let loss = info_nce(temperature, device)?;
                Self::Moco(MomentumSide::new(loss, online, settings.queue, device)?)
            }
            Method::Simclr => Self::Simclr(info_nce(temperature, device)?),
            Method::Supcon => Self::Supcon(info_nce(temperature, device)?),
            Method::Siglip => Self::Siglip(
                SigLipLossConfig::new()
                    .with_scale(1.0 / temperature)
                    .with_normalize(false)
                    .try_init_for(&device.clone().autodiff())
                    .map_err(|error| format!("--temperature: {error}"))?,
            ),
        })
    }

    /// The loss of a batch, and the keys that `follow` takes after the optimizer's step.
    pub fn loss(&self, encoder: &Encoder, batch: Batch) -> (Tensor<1>, Option<Keys>) {
        let [a, b] = batch.views;
        match self {
            Self::Moco(side) => {
                let keys = side.keys(b, batch.images);
                (side.loss(encoder.forward(a), &keys), Some(keys))
            }
            Self::Simclr(loss) => {
                let (a, b) = (encoder.forward(a), encoder.forward(b));
                (loss.forward_in_batch(a, b), None)
            }
            Self::Supcon(loss) => {
                let labels = numbers(batch.labels);
                let labels = Tensor::<1, Int>::from_data(labels, &a.device()).repeat_dim(0, 2);
                let rows = encoder.forward(Tensor::cat(vec![a, b], 0));
                (loss.forward_labels(rows, labels), None)
            }
            Self::Siglip(loss) => (loss.forward(encoder.forward(a), encoder.forward(b)), None),
        }
    }

    /// Follows the optimizer's step. Momentum contrast updates its encoder and its queue.
    pub fn follow(self, online: &Encoder, momentum: f64, keys: Option<Keys>) -> Self {
        match (self, keys) {
            (Self::Moco(side), Some(keys)) => Self::Moco(side.follow(online, momentum, keys)),
            (objective, _) => objective,
        }
    }

    /// What was learnt besides the encoder, in words.
    pub fn learnt(&self) -> Option<String> {
        match self {
            Self::Siglip(loss) => Some(format!(
                "temperature {:.3}, bias {:.2}",
                1.0 / loss.scale(),
                loss.bias()
            )),
            _ => None,
        }
    }
}

/// The loss of every method but siglip; the choice of negatives in the batch is SimCLR's.
fn info_nce(temperature: f64, device: &Device) -> Result<InfoNceLoss, String> {
    InfoNceLossConfig::new()
        .with_temperature(temperature)
        // The encoder itself gives unit vectors, because the evaluation compares them.
        .with_normalize(false)
        .with_in_batch(InBatch::NtXent)
        .try_init_for(device)
        .map_err(|error| format!("--temperature: {error}"))
}

fn numbers(of: &[usize]) -> TensorData {
    let numbers: Vec<i64> = of.iter().map(|number| *number as i64).collect();
    TensorData::new(numbers, [of.len()])
}

/// The parts of momentum contrast besides the trained encoder. No gradient reaches them.
#[derive(Module, Debug)]
pub struct MomentumSide {
    /// The encoder of the keys.
    pub encoder: Encoder,
    pub queue: NegativeQueue,
    loss: InfoNceLoss,
}

impl MomentumSide {
    fn new(
        loss: InfoNceLoss,
        online: &Encoder,
        negatives: usize,
        device: &Device,
    ) -> Result<Self, String> {
        let queue = NegativeQueueConfig::new(negatives, EMBEDDING)
            .with_ids(true)
            .try_init(device)
            .map_err(|error| format!("--queue: {error}"))?;
        Ok(Self {
            encoder: online.valid(),
            queue,
            loss,
        })
    }

    /// The numbers of the images whose keys are in the queue.
    fn negatives(&self) -> Tensor<1, Int> {
        self.queue.ids().expect("the queue is made with ids")
    }

    /// The keys of a batch, by the momentum encoder. Their numbers have the dtype of those in the queue: the
    /// queue of a checkpoint keeps the dtype of the backend that made it.
    fn keys(&self, views: Tensor<4>, images: &[usize]) -> Keys {
        let negatives = self.negatives();
        let options = (&negatives.device(), negatives.dtype());
        Keys {
            rows: self.encoder.forward(views),
            images: Tensor::from_data(numbers(images), options),
        }
    }

    /// The mean cross-entropy of the logits [queries, 1 + negatives], in which the positive stands at
    /// index 0, so that the label of every row is 0:
    ///
    /// ```text
    /// logits = [ query . its own key | query . every key of the queue ] / temperature
    /// loss   = cross_entropy(logits, [0, 0, .., 0])
    /// ```
    ///
    /// `moco_logits` makes these logits as a tensor; the loss makes them some rows at a time. The queue may
    /// still hold the key of the same image from an earlier epoch, which does not count as a negative.
    fn loss(&self, query: Tensor<2>, keys: &Keys) -> Tensor<1> {
        let ids = SampleIds {
            queries: keys.images.clone(),
            negatives: self.negatives(),
        };
        self.loss
            .forward_with_ids(query, keys.rows.clone(), self.queue.keys(), ids)
    }

    /// Follows the optimizer's step: updates the momentum encoder, and adds the keys to the queue as
    /// negatives of later steps.
    fn follow(mut self, online: &Encoder, momentum: f64, keys: Keys) -> Self {
        self.encoder = momentum_update(online, self.encoder, momentum);
        self.queue.push_with_ids(keys.rows, keys.images);
        self
    }
}

/// The keys of a batch.
pub struct Keys {
    /// The keys, of shape [images, embedding].
    pub rows: Tensor<2>,
    /// The number of the image of each key.
    pub images: Tensor<1, Int>,
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Distribution;
    use burn_cross_entropy::{cross_entropy, moco_logits};

    use super::*;
    use crate::data::Size;

    const SIZE: Size = Size {
        height: 8,
        width: 8,
    };

    #[test]
    fn the_loss_is_the_cross_entropy_of_logits_whose_positive_is_at_index_0() {
        let device = Device::flex();
        let random = |rows| Tensor::<2>::random([rows, EMBEDDING], Distribution::Default, &device);
        let ids = |ids: std::ops::Range<i64>| Tensor::<1, Int>::arange(ids, &device);
        let online = Encoder::new(SIZE, 1, &device.clone().autodiff());
        let loss = info_nce(0.5, &device).unwrap();
        let mut side = MomentumSide::new(loss, &online, 7, &device).unwrap();
        side.queue.push_with_ids(random(7), ids(10..17));

        let (query, rows) = (random(3), random(3));
        let logits = moco_logits(query.clone(), rows.clone(), side.queue.keys(), 0.5);
        assert_eq!(logits.dims(), [3, 1 + 7]);
        let labels = Tensor::<1, Int>::zeros([3], &device);
        let expected: f32 = cross_entropy(logits, labels).into_scalar();

        let images = ids(0..3);
        let loss = side.loss(query, &Keys { rows, images });
        assert!((loss.into_scalar::<f32>() - expected).abs() < 1e-5 * expected);
    }

    /// Two random images with two views each, and the embeddings of the views.
    fn views(online: &Encoder, device: &Device) -> ([Tensor<4>; 2], [Tensor<2>; 2]) {
        let view = || Tensor::<4>::random([2, 1, 8, 8], Distribution::Default, device);
        let views = [view(), view()];
        let rows = views.clone().map(|view| online.forward(view));
        (views, rows)
    }

    #[test]
    fn supcon_pulls_all_views_of_a_label_together() {
        let device = Device::flex();
        let online = Encoder::new(SIZE, 1, &device.clone().autodiff());
        let (views, [a, b]) = views(&online, &device);
        let loss = |method, labels: [usize; 2]| -> f32 {
            let settings = Settings::of(method);
            let objective = Objective::new(&settings, &online, &device).unwrap();
            let (views, images) = (views.clone(), &[0, 1][..]);
            let batch = Batch {
                views,
                images,
                labels: &labels,
            };
            objective.loss(&online, batch).0.into_scalar()
        };
        // Each image of a label of its own: SimCLR, at the same temperature.
        let temperature = Method::Supcon.temperature();
        let simclr = info_nce(temperature, &device).unwrap();
        let expected: f32 = simclr.forward_in_batch(a, b).into_scalar();
        assert!((loss(Method::Supcon, [4, 7]) - expected).abs() < 1e-5);
        assert!((loss(Method::Supcon, [4, 4]) - expected).abs() > 1e-3);
        // No other method looks at labels.
        for method in [Method::Moco, Method::Simclr, Method::Siglip] {
            assert_eq!(loss(method, [4, 7]), loss(method, [4, 4]), "{method:?}");
        }
    }

    #[test]
    fn siglip_asks_of_each_pair_whether_it_is_of_one_image() {
        let device = Device::flex();
        let online = Encoder::new(SIZE, 1, &device.clone().autodiff());
        let (views, [a, b]) = views(&online, &device);
        let objective = Objective::new(&Settings::of(Method::Siglip), &online, &device).unwrap();
        let batch = Batch {
            views,
            images: &[0, 1],
            labels: &[0, 0],
        };
        let loss: f32 = objective.loss(&online, batch).0.into_scalar();
        let similarities: Vec<f32> = a.matmul(b.transpose()).into_data().iter().collect();
        let scale = 1.0 / Method::Siglip.temperature() as f32;
        let pairs = similarities.iter().zip([1.0, -1.0, -1.0, 1.0]);
        let losses = pairs.map(|(s, z)| (-z * (scale * s - 10.0)).exp().ln_1p());
        let expected = losses.sum::<f32>() / 2.0;
        assert!(
            (loss - expected).abs() < 1e-4 * expected,
            "{loss} {expected}"
        );
    }

    #[test]
    fn what_the_library_refuses_is_said_of_the_option() {
        let device = Device::flex();
        let online = Encoder::new(SIZE, 1, &device.clone().autodiff());
        let refused = |settings| Objective::new(&settings, &online, &device).unwrap_err();
        for method in [Method::Moco, Method::Simclr, Method::Supcon, Method::Siglip] {
            for temperature in [0.0, 1e-40, f64::INFINITY, f64::NAN] {
                let mut settings = Settings::of(method);
                settings.temperature = Some(temperature);
                let error = refused(settings);
                assert!(error.contains("--temperature"), "{method:?}: {error}");
            }
        }
        let mut settings = Settings::of(Method::Moco);
        settings.queue = 3_000_000_000;
        let error = refused(settings);
        assert!(
            error.contains("--queue") && error.contains("3000000000"),
            "{error}"
        );
    }
}
