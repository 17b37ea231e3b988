//! Gradients of a batch that is too large for one graph: embeddings without a graph, the loss and the gradients of the
//! embeddings, then each piece once more with its graph.

use burn::tensor::{Device, GradientCheckpointingStrategy, Gradients, Tensor};

use super::autodiff::in_autodiff;

/// Cache for the gradients of a contrastive loss over a batch whose graph does not fit into memory.
///
/// A contrastive loss joins all rows of a batch, so that its gradients are not a sum over smaller batches. But it
/// joins the rows through their embeddings alone:
///
/// 1. the embeddings of each piece are made without keeping a graph,
/// 2. the loss of all embeddings gives the gradient of each embedding,
/// 3. each piece is embedded again, now with its graph, and the gradient of its embeddings goes back through it.
///
/// The parameters get the gradients of the whole batch, with the activations of one piece in memory, for one forward
/// more. It works with any module and optimizer, since the caller embeds the pieces: each into `T` tensors
/// `[rows, features]`, 1 for an encoder, 2 for the towers of CLIP. Pieces may differ in their numbers of rows.
///
/// # Two passes
///
/// - **Random numbers**, such as dropout's, have to be the same in both passes: [`with_seed`](Self::with_seed).
///   Burn draws the parameters of a layer when it is first used; with a seed, use the layers once before the first
///   pass.
/// - **What a pass changes**, such as running statistics, is changed twice.
/// - **A normalisation over the batch** sees a piece where it saw the batch.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::optim::{GradientsAccumulator, GradientsParams};
/// use burn::tensor::{Device, Distribution, Tensor};
/// use burn_cross_entropy::InfoNceLossConfig;
/// use burn_cross_entropy::contrastive::GradientCache;
///
/// let device = Device::flex().autodiff();
/// let model = LinearConfig::new(8, 4).init(&device);
/// let loss = InfoNceLossConfig::new().init(&device);
/// let random = || Tensor::<2>::random([16, 8], Distribution::Normal(0.0, 1.0), &device);
/// let (a, b) = (random(), random());
///
/// // Four pieces of four rows.
/// let embed = |piece: usize| {
///     [&a, &b].map(|view| model.forward(view.clone().slice([4 * piece..4 * piece + 4])))
/// };
/// let mut cached = GradientCache::new().loss(4, embed, |[a, b]| loss.forward_in_batch(a, b));
/// let mut sum = GradientsAccumulator::new();
/// for piece in 0..4 {
///     let gradients = cached.replay(piece, embed).backward();
///     sum.accumulate(&model, GradientsParams::from_grads(gradients, &model));
/// }
/// // The loss's own parameters, such as a learnt temperature, got their gradients before.
/// let of_loss = GradientsParams::from_module(cached.gradients(), &loss);
/// # assert!(of_loss.is_empty());
///
/// let whole = loss.forward_in_batch(model.forward(a.clone()), model.forward(b.clone()));
/// let whole = model.weight.val().grad(&whole.backward()).unwrap();
/// let pieces = sum.grads().get::<2>(model.weight.id).unwrap();
/// let difference = (whole.without_autodiff() - pieces.without_autodiff()).abs().max();
/// assert!(difference.into_scalar::<f32>() < 1e-6);
/// ```
///
/// Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021,
/// <https://arxiv.org/abs/2101.06983>.
#[derive(Clone, Debug, Default)]
pub struct GradientCache {
    seed: Option<(Device, u64)>,
}

/// Loss of a whole batch, and the gradients of its embeddings.
///
/// [`GradientCache::loss`] makes it; [`GradientCache`] has an example.
pub struct CachedLoss<const T: usize> {
    loss: Tensor<1>,
    gradients: Gradients,
    /// Gradients of each piece's embeddings.
    slopes: Vec<[Tensor<2>; T]>,
    seed: Option<(Device, u64)>,
}

impl GradientCache {
    /// Makes a cache for modules without random numbers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Seeds the device's random numbers with `seed + piece` before a piece is embedded, in both passes, so that they are
    /// the same. Give each step a seed of its own. The numbers of a device are common to all threads of the program.
    pub fn with_seed(self, device: &Device, seed: u64) -> Self {
        Self {
            seed: Some((device.clone(), seed)),
        }
    }

    /// Computes the loss of a batch in so many pieces, and the gradients of its embeddings.
    ///
    /// `embed` is called once for each piece, and no graph is kept. `loss` gets the embeddings of all pieces,
    /// concatenated in their order.
    ///
    /// # Panics
    ///
    /// If there is no piece, or if the embeddings do not require gradients: then there is nothing to replay.
    pub fn loss<const T: usize>(
        &self,
        pieces: usize,
        mut embed: impl FnMut(usize) -> [Tensor<2>; T],
        loss: impl FnOnce([Tensor<2>; T]) -> Tensor<1>,
    ) -> CachedLoss<T> {
        assert!(
            pieces > 0,
            "gradient cache: there are no pieces, expected at least one"
        );
        let mut strategy = None;
        let embedded: Vec<[Tensor<2>; T]> = (0..pieces)
            .map(|piece| {
                start(&self.seed, piece);
                embed(piece).map(|embeddings| {
                    strategy = strategy.or(embeddings.gradient_checkpointing_strategy());
                    embeddings.without_autodiff()
                })
            })
            .collect();
        assert!(
            strategy.is_some(),
            "gradient cache: the embeddings are outside autodiff, expected those of a module on an autodiff device \
             (`device.autodiff()`)"
        );
        let leaves: [Tensor<2>; T] = std::array::from_fn(|tower| {
            let all = embedded.iter().map(|piece| piece[tower].clone());
            leaf(Tensor::cat(all.collect(), 0), strategy)
        });
        let value = loss(leaves.clone());
        let gradients = value.backward();
        let of_leaves = leaves.map(|leaf| match leaf.grad(&gradients) {
            Some(gradient) => gradient.without_autodiff(),
            // The loss does not depend on these embeddings.
            None => leaf.without_autodiff().zeros_like(),
        });
        let mut starts = [0; T];
        let slopes = embedded.iter().map(|piece| {
            std::array::from_fn(|tower| {
                let from = starts[tower];
                starts[tower] += piece[tower].dims()[0];
                of_leaves[tower]
                    .clone()
                    .narrow(0, from, starts[tower] - from)
            })
        });
        CachedLoss {
            slopes: slopes.collect(),
            loss: value.without_autodiff(),
            gradients,
            seed: self.seed.clone(),
        }
    }
}

impl<const T: usize> CachedLoss<T> {
    /// Loss of the whole batch, a tensor of one element without gradient.
    pub fn loss(&self) -> Tensor<1> {
        self.loss.clone()
    }

    /// Gradients that the loss gave to its own parameters, to be taken out by
    /// [`GradientsParams::from_module`](https://docs.rs/burn/latest/burn/optim/struct.GradientsParams.html#method.from_module).
    pub fn gradients(&mut self) -> &mut Gradients {
        &mut self.gradients
    }

    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        self.slopes.len()
    }

    /// Embeds a piece again, and returns a number whose backward gives the parameters this piece's part of their
    /// gradients. Its value has no meaning.
    ///
    /// # Panics
    ///
    /// If there is no such piece, or if the embeddings have another shape than before.
    pub fn replay(&self, piece: usize, embed: impl FnOnce(usize) -> [Tensor<2>; T]) -> Tensor<1> {
        let count = self.slopes.len();
        assert!(
            piece < count,
            "gradient cache: there is no piece {piece}, expected one of 0..{count}"
        );
        start(&self.seed, piece);
        let embeddings = embed(piece).into_iter().zip(&self.slopes[piece]);
        let products = embeddings.map(|(embeddings, slopes)| {
            let (given, expected) = (embeddings.dims(), slopes.dims());
            assert!(
                given == expected,
                "gradient cache: the embeddings of piece {piece} have shape {given:?}, expected {expected:?} as \
                 before"
            );
            let strategy = embeddings.gradient_checkpointing_strategy();
            (embeddings * in_autodiff(slopes.clone(), strategy)).sum()
        });
        let sum = products.reduce(|sum, product| sum + product);
        sum.expect("a piece has embeddings")
    }
}

/// Seeds the random numbers of a piece.
fn start(seed: &Option<(Device, u64)>, piece: usize) {
    if let Some((device, seed)) = seed {
        device.seed(seed.wrapping_add(piece as u64));
    }
}

fn leaf(embeddings: Tensor<2>, strategy: Option<GradientCheckpointingStrategy>) -> Tensor<2> {
    in_autodiff(embeddings, strategy).require_grad()
}
