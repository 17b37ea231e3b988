//! The programs. They have the names of the loss from `super::loss`, which is the line that differs.

/// A convolutional classifier that makes its loss in every step, trained by its `TrainStep`.
pub mod images {
    use burn::module::Module;
    use burn::nn::conv::{Conv2d, Conv2dConfig};
    use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
    use burn::nn::{BatchNorm, BatchNormConfig, Gelu, Linear, LinearConfig, PaddingConfig2d, Relu};
    use burn::optim::AdamWConfig;
    use burn::store::ModuleRecord;
    use burn::tensor::{Device, Tensor};
    use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

    use super::super::loss::CrossEntropyLossConfig;
    use crate::data::ImageBatch;

    const CHANNELS: usize = 8;
    const CLASSES: usize = 10;

    #[derive(Module, Debug)]
    pub struct Model {
        conv: Conv2d,
        norm: BatchNorm,
        pool: MaxPool2d,
        hidden: Linear,
        output: Linear,
        relu: Relu,
        gelu: Gelu,
    }

    impl Model {
        pub fn new(device: &Device) -> Self {
            Self {
                conv: Conv2dConfig::new([1, CHANNELS], [3, 3])
                    .with_padding(PaddingConfig2d::Valid)
                    .init(device),
                norm: BatchNormConfig::new(CHANNELS).init(device),
                pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
                hidden: LinearConfig::new(CHANNELS * 3 * 3, 32).init(device),
                output: LinearConfig::new(32, CLASSES).init(device),
                relu: Relu::new(),
                gelu: Gelu::new(),
            }
        }

        pub fn forward(&self, images: Tensor<3>) -> Tensor<2> {
            let [batch_size, height, width] = images.dims();
            let x = images.reshape([batch_size, 1, height, width]).detach();
            let x = self.relu.forward(self.norm.forward(self.conv.forward(x)));
            let x = self.pool.forward(x).flatten::<2>(1, 3);
            let x = self.gelu.forward(self.hidden.forward(x));
            self.output.forward(x)
        }

        pub fn forward_classification(&self, item: ImageBatch) -> ClassificationOutput {
            let targets = item.targets;
            let output = self.forward(item.images);
            let loss = CrossEntropyLossConfig::new()
                .init(&output.device())
                .forward(output.clone(), targets.clone());

            ClassificationOutput {
                loss,
                output,
                targets,
            }
        }
    }

    impl TrainStep for Model {
        type Input = ImageBatch;
        type Output = ClassificationOutput;

        fn step(&self, item: ImageBatch) -> TrainOutput<ClassificationOutput> {
            let item = self.forward_classification(item);

            TrainOutput::new(self, item.loss.backward(), item)
        }
    }

    impl InferenceStep for Model {
        type Input = ImageBatch;
        type Output = ClassificationOutput;

        fn step(&self, item: ImageBatch) -> ClassificationOutput {
            self.forward_classification(item)
        }
    }

    /// The losses of the steps, and at the end that of an inference.
    pub fn train(record: ModuleRecord, batches: &[ImageBatch], device: &Device) -> Vec<f32> {
        let mut model = Model::new(device).load_record(record);
        let mut optimizer = AdamWConfig::new().init();
        let mut losses = Vec::new();
        for batch in batches {
            let output = TrainStep::step(&model, batch.clone());
            losses.push(output.item.loss.into_scalar());
            model = optimizer.step(0.01, model, output.grads);
        }
        let device = device.clone().without_autodiff();
        let last = ImageBatch {
            images: batches[0].images.clone().to_device(&device),
            targets: batches[0].targets.clone().to_device(&device),
        };
        losses.push(InferenceStep::step(&model.valid(), last).loss.into_scalar());
        losses
    }
}

/// A loop of one's own, with the loss made by `CrossEntropyLoss::new`.
pub mod loops {
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{GradientsParams, SgdConfig};
    use burn::store::ModuleRecord;
    use burn::tensor::{Device, Tensor};

    use super::super::loss::CrossEntropyLoss;
    use crate::data::ImageBatch;

    #[derive(Module, Debug)]
    pub struct Model {
        hidden: Linear,
        output: Linear,
    }

    impl Model {
        pub fn new(device: &Device) -> Self {
            Self {
                hidden: LinearConfig::new(64, 32).init(device),
                output: LinearConfig::new(32, 10).init(device),
            }
        }

        fn forward(&self, images: Tensor<3>) -> Tensor<2> {
            let hidden = self.hidden.forward(images.flatten::<2>(1, 2));
            self.output.forward(hidden.tanh())
        }
    }

    pub fn train(record: ModuleRecord, batches: &[ImageBatch], device: &Device) -> Vec<f32> {
        let mut model = Model::new(device).load_record(record);
        let mut optimizer = SgdConfig::new().init();
        let mut losses = Vec::new();
        for batch in batches.iter().cloned() {
            let output = model.forward(batch.images);
            let loss = CrossEntropyLoss::new(None, &output.device())
                .forward(output.clone(), batch.targets.clone());
            losses.push(loss.clone().into_scalar());
            let grads = loss.backward();
            let grads = GradientsParams::from_grads(grads, &model);
            model = optimizer.step(0.3, model, grads);
        }
        losses
    }
}

/// A transformer that tells which part of a text a passage is from.
pub mod classes_of_text {
    use burn::module::Module;
    use burn::nn::transformer::{
        TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
    };
    use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
    use burn::optim::{AdamConfig, GradientsParams};
    use burn::store::ModuleRecord;
    use burn::tensor::{Device, Tensor};
    use burn::train::ClassificationOutput;

    use super::super::loss::CrossEntropyLossConfig;
    use crate::data::{LENGTH, PARTS, TextBatch, VOCABULARY};

    const WIDTH: usize = 16;

    #[derive(Module, Debug)]
    pub struct Model {
        transformer: TransformerEncoder,
        embedding_token: Embedding,
        embedding_pos: Embedding,
        output: Linear,
    }

    impl Model {
        pub fn new(device: &Device) -> Self {
            let transformer = TransformerEncoderConfig::new(WIDTH, 32, 2, 1).with_dropout(0.0);
            Self {
                transformer: transformer.init(device),
                embedding_token: EmbeddingConfig::new(VOCABULARY, WIDTH).init(device),
                embedding_pos: EmbeddingConfig::new(LENGTH, WIDTH).init(device),
                output: LinearConfig::new(WIDTH, PARTS).init(device),
            }
        }

        pub fn forward(&self, item: TextBatch) -> ClassificationOutput {
            let [batch_size, seq_length] = item.tokens.dims();
            let index_positions = Tensor::arange(0..seq_length as i64, &item.tokens.device())
                .reshape([1, seq_length])
                .repeat_dim(0, batch_size);
            let embedding_positions = self.embedding_pos.forward(index_positions);
            let embedding_tokens = self.embedding_token.forward(item.tokens);
            let embedding = (embedding_positions + embedding_tokens) / 2;
            let input = TransformerEncoderInput::new(embedding).mask_pad(item.mask_pad);
            let output = self.output.forward(self.transformer.forward(input));

            let output_classification = output
                .slice([0..batch_size, 0..1])
                .reshape([batch_size, PARTS]);

            let loss = CrossEntropyLossConfig::new()
                .init(&output_classification.device())
                .forward(output_classification.clone(), item.labels.clone());

            ClassificationOutput {
                loss,
                output: output_classification,
                targets: item.labels,
            }
        }
    }

    /// The losses of steps over the same batch.
    pub fn train(record: ModuleRecord, batches: &[TextBatch], device: &Device) -> Vec<f32> {
        let mut model = Model::new(device).load_record(record);
        let mut optimizer = AdamConfig::new().init();
        let mut losses = Vec::new();
        for _ in batches {
            let item = model.forward(batches[0].clone());
            losses.push(item.loss.clone().into_scalar());
            let grads = GradientsParams::from_grads(item.loss.backward(), &model);
            model = optimizer.step(0.01, model, grads);
        }
        losses
    }
}

/// A transformer that predicts the next character, with padding behind the passages.
pub mod text {
    use burn::module::Module;
    use burn::nn::attention::generate_autoregressive_mask;
    use burn::nn::transformer::{
        TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
    };
    use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
    use burn::optim::{AdamConfig, GradientsParams};
    use burn::store::ModuleRecord;
    use burn::tensor::{Device, Tensor};
    use burn::train::ClassificationOutput;

    use super::super::loss::CrossEntropyLossConfig;
    use crate::data::{LENGTH, PAD, TextBatch, VOCABULARY};

    const WIDTH: usize = 16;

    #[derive(Module, Debug)]
    pub struct Model {
        transformer: TransformerEncoder,
        embedding_token: Embedding,
        embedding_pos: Embedding,
        output: Linear,
        pad_token: usize,
    }

    impl Model {
        pub fn new(device: &Device) -> Self {
            let transformer = TransformerEncoderConfig::new(WIDTH, 32, 2, 1)
                .with_dropout(0.0)
                .with_norm_first(true);
            Self {
                transformer: transformer.init(device),
                embedding_token: EmbeddingConfig::new(VOCABULARY, WIDTH).init(device),
                embedding_pos: EmbeddingConfig::new(LENGTH, WIDTH).init(device),
                output: LinearConfig::new(WIDTH, VOCABULARY).init(device),
                pad_token: PAD,
            }
        }

        pub fn forward_training(&self, item: TextBatch) -> ClassificationOutput {
            let [batch_size, seq_length] = item.tokens.dims();
            let device = &item.tokens.device();
            let index_positions = Tensor::arange(0..seq_length as i64, device)
                .reshape([1, seq_length])
                .repeat_dim(0, batch_size);
            let embedding_positions = self.embedding_pos.forward(index_positions);
            let embedding_tokens = self.embedding_token.forward(item.tokens);
            let embedding = (embedding_positions + embedding_tokens) / 2;

            let mask_attn = generate_autoregressive_mask(batch_size, seq_length, device);
            let encoded = self.transformer.forward(
                TransformerEncoderInput::new(embedding)
                    .mask_pad(item.mask_pad)
                    .mask_attn(mask_attn),
            );

            let output = self.output.forward(encoded);
            let output_flatten = output.reshape([batch_size * seq_length, VOCABULARY]);
            let targets_flatten = item.next.reshape([batch_size * seq_length]);

            let loss = CrossEntropyLossConfig::new()
                .with_pad_tokens(Some(vec![self.pad_token]))
                .init(&output_flatten.device());
            let loss = loss.forward(output_flatten.clone(), targets_flatten.clone());

            ClassificationOutput {
                loss,
                output: output_flatten,
                targets: targets_flatten,
            }
        }
    }

    pub fn train(record: ModuleRecord, batches: &[TextBatch], device: &Device) -> Vec<f32> {
        let mut model = Model::new(device).load_record(record);
        let mut optimizer = AdamConfig::new().init();
        let mut losses = Vec::new();
        for batch in batches {
            let item = model.forward_training(batch.clone());
            losses.push(item.loss.clone().into_scalar());
            let grads = GradientsParams::from_grads(item.loss.backward(), &model);
            model = optimizer.step(0.01, model, grads);
        }
        losses
    }
}

/// Losses of fixed logits, with every option.
pub mod options {
    use burn::tensor::{Device, Int, Tensor};

    use super::super::loss::{CrossEntropyLoss, CrossEntropyLossConfig};

    pub fn losses(device: &Device) -> Vec<f32> {
        let logits = || Tensor::<2>::from_floats([[2.0, 0.5, 0.1], [0.1, 1.5, 0.3]], device);
        let targets = || Tensor::<1, Int>::from_ints([0, 2], device);
        let config = CrossEntropyLossConfig::new;
        let weights = || Some(vec![1.0, 2.0, 0.5]);
        let of = |config: CrossEntropyLossConfig| config.init(device);
        let losses: [CrossEntropyLoss; 10] = [
            CrossEntropyLoss::new(None, device),
            CrossEntropyLoss::new(Some(2), device),
            of(config().with_pad_tokens(None).with_weights(None)),
            of(config().with_pad_tokens(Some(vec![0, 1]))),
            of(config().with_weights(weights())),
            of(config().with_smoothing(Some(0.25)).with_weights(weights())),
            of(config().with_smoothing(None).with_pad_tokens(Some(vec![0]))),
            of(config()
                .with_smoothing(Some(0.1))
                .with_pad_tokens(Some(vec![2]))),
            of(config()
                .with_weights(weights())
                .with_pad_tokens(Some(vec![0]))),
            of(config().with_logits(false)),
        ];
        let value = |loss: &CrossEntropyLoss| loss.forward(logits(), targets()).into_scalar();
        losses.iter().map(value).collect()
    }
}
