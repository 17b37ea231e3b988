//! The call of the crate for a problem of the contrastive losses.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::InfoNceLoss;
use burn_cross_entropy::contrastive::{
    Contrast, Positives, SampleIds, SigLipLoss, SigLipLossConfig,
};

use crate::common::run::{float_tensor, numbers};
use crate::contrastive::{Case, Form, OwnNegatives, Told};

pub enum Loss {
    InfoNce(Box<InfoNceLoss>),
    SigLip(Box<SigLipLoss>),
}

impl Loss {
    /// The gradients of the parameters: the logarithm of the scale, and the bias of the sigmoid loss.
    pub fn gradients(&self, gradients: &Gradients) -> Vec<f64> {
        let mut found = Vec::new();
        match self {
            Self::InfoNce(loss) => loss.visit(&mut Parameters(gradients, &mut found)),
            Self::SigLip(loss) => loss.visit(&mut Parameters(gradients, &mut found)),
        }
        found
    }
}

/// Collects the gradients of parameters.
struct Parameters<'a>(&'a Gradients, &'a mut Vec<f64>);

impl ModuleVisitor for Parameters<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.0) {
            self.1.extend(numbers(gradient));
        }
    }
}

/// The leaves of a problem, and the device of what else it has.
pub struct Leaves {
    pub tensors: Vec<Tensor<2>>,
    device: Device,
}

impl Leaves {
    fn at(&self, at: usize) -> Tensor<2> {
        self.tensors[at].clone()
    }

    fn ints(&self, values: &[i64]) -> Tensor<1, Int> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::from_data(data, &self.device)
    }

    fn mask(&self, values: &[bool], shape: [usize; 2]) -> Tensor<2, Bool> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device)
    }
}

impl Case {
    pub fn leaves(&self, device: &Device) -> Leaves {
        let leaf = |values: &Vec<f64>| {
            let features = self.sizes.features;
            let shape = [values.len() / features, features];
            float_tensor::<2>(values, &shape, (device, self.dtype)).require_grad()
        };
        Leaves {
            tensors: self.tensors.iter().map(leaf).collect(),
            device: device.clone().without_autodiff(),
        }
    }

    pub fn init(&self, device: &Device) -> Loss {
        if !self.form.is_sig_lip() {
            return Loss::InfoNce(Box::new(self.config.init(device)));
        }
        let config = SigLipLossConfig::new()
            .with_scale(1.0 / self.config.temperature)
            .with_bias(self.bias)
            .with_learnable(self.config.learnable)
            .with_normalize(self.config.normalize)
            .with_reduction(self.config.reduction.clone())
            .with_chunk_bytes(self.config.chunk_bytes);
        Loss::SigLip(Box::new(config.init(device)))
    }

    /// The loss. What has no parts goes through the calls that take tensors alone.
    pub fn run(&self, loss: &Loss, leaves: &Leaves) -> Tensor<1> {
        let given = |at: usize| leaves.at(at);
        let loss = match loss {
            Loss::SigLip(loss) => return self.run_pairs_apart(loss, leaves),
            Loss::InfoNce(loss) => loss,
        };
        let has_others = self.own.is_some() || self.log_q.is_some();
        match (self.form, &self.ids) {
            _ if has_others => loss.forward_contrast(self.request(leaves)),
            (Form::Momentum, None) => loss.forward(given(0), given(1), given(2)),
            (Form::Momentum, Some(ids)) => {
                let ids = sample_ids(ids, leaves);
                loss.forward_with_ids(given(0), given(1), given(2), ids)
            }
            (Form::OneSided | Form::Symmetric | Form::NtXent, None) => {
                loss.forward_in_batch(given(0), given(1))
            }
            (Form::Pairs, None) => {
                loss.forward_pairs(given(0), given(1), leaves.ints(&self.positives))
            }
            (Form::Labels, _) if self.sizes.keys == 0 => {
                loss.forward_labels(given(0), leaves.ints(&self.labels[0]))
            }
            _ => loss.forward_contrast(self.request(leaves)),
        }
    }

    fn run_pairs_apart(&self, loss: &SigLipLoss, leaves: &Leaves) -> Tensor<1> {
        let (a, b) = (leaves.at(0), leaves.at(1));
        match self.form {
            Form::SigLip => loss.forward(a, b),
            Form::SigLipPairs => loss.forward_pairs(a, b, leaves.ints(&self.positives)),
            _ => loss.forward_positives(a, b, self.several(leaves)),
        }
    }

    /// The request with all its parts.
    pub fn request(&self, leaves: &Leaves) -> Contrast {
        let given = |at: usize| leaves.at(at);
        let mut contrast = match self.form {
            Form::Momentum => Contrast::moco(given(0), given(1), given(2)),
            Form::Pairs => Contrast::pairs(given(0), given(1), leaves.ints(&self.positives)),
            Form::Labels => {
                let [labels, of_memory] = &self.labels;
                let contrast = Contrast::labels(given(0), leaves.ints(labels));
                match self.sizes.keys {
                    0 => contrast,
                    _ => contrast.with_memory(given(1), leaves.ints(of_memory)),
                }
            }
            Form::Several => Contrast::several(given(0), given(1), self.several(leaves)),
            _ => Contrast::in_batch(given(0), given(1)),
        };
        if let Some(ids) = &self.ids {
            contrast = contrast.with_ids(sample_ids(ids, leaves));
        }
        if let Some(log_q) = &self.log_q {
            let at = (&leaves.device, self.dtype);
            let tensor = |values: &Vec<f64>| float_tensor::<1>(values, &[values.len()], at);
            contrast = contrast.with_log_q(log_q.iter().map(tensor).collect());
        }
        if let Some(OwnNegatives { count, mask }) = &self.own {
            let shape = [self.sizes.rows, *count];
            let negatives = given(self.tensors.len() - 1);
            let of_rows = [shape[0], shape[1], self.sizes.features];
            let negatives = match negatives.dims()[0] {
                // A reshape takes a size of 0 for that of the tensor.
                0 => Tensor::zeros(of_rows, (&negatives.device(), self.dtype)),
                _ => negatives.reshape(of_rows),
            };
            let mask = mask.as_ref().map(|mask| leaves.mask(mask, shape));
            contrast = contrast.with_own_negatives(negatives, mask);
        }
        contrast
    }

    fn several(&self, leaves: &Leaves) -> Positives {
        let rows = self.sizes.rows;
        match self.told {
            Told::Labels => Positives::Labels {
                rows: leaves.ints(&self.labels[0]),
                keys: leaves.ints(&self.labels[1]),
            },
            Told::Indices => {
                let (indices, of_row) = self.indices();
                Positives::Indices(leaves.ints(&indices).reshape([rows, of_row]))
            }
            Told::Mask => Positives::Mask(leaves.mask(&self.mask, [rows, self.sizes.keys])),
        }
    }
}

fn sample_ids([queries, negatives]: &[Vec<i64>; 2], leaves: &Leaves) -> SampleIds {
    SampleIds {
        queries: leaves.ints(queries),
        negatives: leaves.ints(negatives),
    }
}
