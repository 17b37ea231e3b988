//! Problems of the contrastive losses, as bytes. [`contrastive_queries`](crate::contrastive_queries) has what is compared
//! in them, [`contrastive_call`](crate::contrastive_call) the call of the crate,
//! [`contrastive_bounds`](crate::contrastive_bounds) how far off it may be.

use burn::nn::loss::Reduction;
use burn::tensor::DType;
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::{InBatch, SupCon};

use crate::code::{Code, Reader, Writer, thirty_seconds};
use crate::options::FLOATS;

/// Most similarities, most features of a row, and most negatives of a row's own.
const MOST_SIMILARITIES: usize = 1024;
const MOST_FEATURES: usize = 40;
const MOST_OWN: usize = 8;

/// The target of a query without a positive.
pub const NONE: i64 = -100;

/// A form of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Queries, positives and negatives.
    Momentum,
    /// Two views of a batch.
    OneSided,
    Symmetric,
    NtXent,
    /// Queries, keys, and the indices of positives.
    Pairs,
    /// A batch with labels, and a memory with labels.
    Labels,
    /// Queries and keys, of which several may be positives.
    Several,
    /// Two views, each pair of rows apart.
    SigLip,
    /// Queries, keys, and the index of the key that belongs to a query, each pair apart.
    SigLipPairs,
    /// Queries and keys, of which any number may belong together, each pair apart.
    SigLipSeveral,
}

const FORMS: [Form; 10] = [
    Form::Momentum,
    Form::OneSided,
    Form::Symmetric,
    Form::NtXent,
    Form::Pairs,
    Form::Labels,
    Form::Several,
    Form::SigLip,
    Form::SigLipPairs,
    Form::SigLipSeveral,
];

impl Form {
    /// Whether each pair is asked for apart.
    pub fn is_sig_lip(self) -> bool {
        matches!(self, Self::SigLip | Self::SigLipPairs | Self::SigLipSeveral)
    }

    /// Whether a row of a softmax has one positive.
    pub fn has_one_positive(self) -> bool {
        self.may_have_own_negatives() || matches!(self, Self::Symmetric | Self::NtXent)
    }

    fn may_have_own_negatives(self) -> bool {
        matches!(self, Self::Momentum | Self::OneSided | Self::Pairs)
    }

    fn is_of_views(self) -> bool {
        matches!(
            self,
            Self::OneSided | Self::Symmetric | Self::NtXent | Self::SigLip
        )
    }
}

/// The way that several positives are told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Labels,
    Indices,
    Mask,
}

/// The numbers of rows, of keys, and of features. The keys of two views are as many as the rows; those of a batch with
/// labels are its memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub rows: usize,
    pub keys: usize,
    pub features: usize,
}

/// Negatives of each row alone.
#[derive(Clone, Debug, Default)]
pub struct OwnNegatives {
    /// The number of them in a row.
    pub count: usize,
    /// Whether they are there, for all rows.
    pub mask: Option<Vec<bool>>,
}

/// A problem. What its form does not have is empty.
#[derive(Clone, Debug)]
pub struct Case {
    pub form: Form,
    pub dtype: DType,
    /// The options. The sigmoid loss has one over the temperature as its scale.
    pub config: InfoNceLossConfig,
    pub bias: f64,
    pub upstream: f64,
    pub sizes: Sizes,
    /// The ids of rows and keys.
    pub ids: Option<[Vec<i64>; 2]>,
    pub own: Option<OwnNegatives>,
    /// The logarithms of the probabilities of keys, for each tensor of such.
    pub log_q: Option<Vec<Vec<f64>>>,
    /// The numbers of the keys that belong to rows of one.
    pub positives: Vec<i64>,
    pub told: Told,
    /// The labels of rows and keys.
    pub labels: [Vec<i64>; 2],
    /// Whether a row and a key belong together, where labels do not tell it.
    pub mask: Vec<bool>,
    /// The tensors, in rows of as many numbers as there are features, own negatives last.
    pub tensors: Vec<Vec<f64>>,
}

impl Case {
    /// A problem without features; all but the form is to be filled in.
    pub fn new(form: Form, config: InfoNceLossConfig) -> Self {
        let mut case = Self {
            form,
            dtype: DType::F32,
            config,
            bias: 0.0,
            upstream: 1.0,
            sizes: Sizes::default(),
            ids: None,
            own: None,
            log_q: None,
            positives: vec![],
            told: Told::Labels,
            labels: [vec![], vec![]],
            mask: vec![],
            tensors: vec![],
        };
        case.set_form();
        case
    }

    fn set_form(&mut self) {
        self.config.in_batch = match self.form {
            Form::OneSided => InBatch::OneSided,
            Form::NtXent => InBatch::NtXent,
            _ => InBatch::Symmetric,
        };
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let mut case = Self::new(Form::Momentum, InfoNceLossConfig::new());
        case.code(&mut Reader::new(bytes));
        case
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.clone().code(&mut writer);
        writer.bytes
    }

    fn code(&mut self, code: &mut impl Code) {
        code.one_of(&mut self.form, &FORMS);
        self.set_form();
        code.one_of(&mut self.dtype, &FLOATS);
        self.code_options(code);
        match self.form {
            form if form.is_sig_lip() => self.code_bias(code),
            form if form.has_one_positive() => self.code_options_of_one_positive(code),
            _ => {}
        }
        self.code_sizes(code);
        match self.form {
            Form::Pairs | Form::SigLipPairs => self.code_positives(code),
            Form::Labels | Form::Several | Form::SigLipSeveral => self.code_several(code),
            _ => {}
        }
        if self.form.has_one_positive() {
            self.code_ids(code);
            self.code_own_negatives(code);
        }
        if !self.form.is_sig_lip() {
            self.code_log_q(code);
        }
        self.code_tensors(code);
    }

    fn code_options(&mut self, code: &mut impl Code) {
        let config = &mut self.config;
        code.flag(&mut config.learnable);
        let mut temperature = config.temperature;
        let usual = [0.07, 0.5, 1.0, 0.3, 0.125, 0.02];
        // A learnable temperature has a lower bound, one over the largest scale.
        let least = if config.learnable { 0.02 } else { 1e-4 };
        code.option(&mut temperature, &usual, |value| {
            (least..=1e6).contains(&value)
        });
        config.temperature = temperature;
        code.flag(&mut config.normalize);
        let mut is_sum = matches!(config.reduction, Reduction::Sum);
        code.flag(&mut is_sum);
        config.reduction = match is_sum {
            true => Reduction::Sum,
            false => Reduction::Mean,
        };
        code.one_of(
            &mut config.chunk_bytes,
            &[None, Some(1), Some(150), Some(4096)],
        );
        code.option(
            &mut self.upstream,
            &[1.0, -1.75, 2.5, 0.0, 1024.0],
            |value| (2f64.powi(-20)..2f64.powi(20)).contains(&value.abs()),
        );
        self.upstream = f64::from(self.upstream as f32);
    }

    fn code_bias(&mut self, code: &mut impl Code) {
        let usual = [-10.0, 0.0, -1.25, 3.0, 100.0];
        code.option(&mut self.bias, &usual, |value| {
            (2f64.powi(-20)..=1e4).contains(&value.abs())
        });
    }

    fn code_options_of_one_positive(&mut self, code: &mut impl Code) {
        let mut margin = self.config.margin;
        code.option(&mut margin, &[0.0, 0.25, 0.5, 1.0], |value| {
            (2f64.powi(-20)..=4.0).contains(&value)
        });
        self.config.margin = margin;
        let mut is_bounded = self.config.exclude_above.is_some();
        code.flag(&mut is_bounded);
        self.config.exclude_above = is_bounded.then(|| {
            let mut above = self.config.exclude_above.unwrap_or(0.0);
            code.option(&mut above, &[0.0, 0.125, -0.25, 0.0625, 1.0], |value| {
                (2f64.powi(-20)..=4.0).contains(&value.abs())
            });
            above
        });
    }

    /// The sizes of the tensors. Forms whose keys are the classes refuse to have none.
    fn code_sizes(&mut self, code: &mut impl Code) {
        let Sizes {
            mut rows,
            mut keys,
            mut features,
        } = self.sizes;
        code.size(&mut rows);
        if !self.form.is_of_views() {
            code.size(&mut keys);
        }
        code.size(&mut features);
        features = features.clamp(1, MOST_FEATURES);
        match self.form {
            Form::Momentum => {}
            Form::Labels => rows = rows.clamp(1, 32),
            form if form.is_of_views() => {
                rows = rows.clamp(1, 32);
                keys = rows;
            }
            _ => keys = keys.max(1),
        }
        let is_batch = self.form == Form::Labels;
        let columns = |rows: usize, keys: usize| if is_batch { rows + keys } else { keys };
        while rows * columns(rows, keys) > MOST_SIMILARITIES || rows.max(keys) > MOST_SIMILARITIES {
            let larger = if rows > keys { &mut rows } else { &mut keys };
            *larger = larger.div_ceil(2);
        }
        self.sizes = Sizes {
            rows,
            keys,
            features,
        };
    }

    fn code_positives(&mut self, code: &mut impl Code) {
        let keys = self.sizes.keys as i64;
        self.positives.resize(self.sizes.rows, 0);
        for positive in &mut self.positives {
            code.integer(positive);
            if *positive != NONE {
                *positive = positive.rem_euclid(keys);
            }
        }
    }

    fn code_several(&mut self, code: &mut impl Code) {
        if self.form != Form::Labels {
            code.one_of(&mut self.told, &[Told::Labels, Told::Indices, Told::Mask]);
        }
        let Sizes { rows, keys, .. } = self.sizes;
        let is_labelled = self.told == Told::Labels;
        if is_labelled {
            self.labels[0].resize(rows, 0);
            self.labels[1].resize(keys, 0);
            self.labels
                .iter_mut()
                .flatten()
                .for_each(|label| code_label(code, label));
        } else {
            self.mask.resize(rows * keys, false);
            self.mask
                .iter_mut()
                .for_each(|belongs| code_mask(code, belongs, 4));
        }
        // The loss of the positives' mean needs labels.
        if is_labelled && !self.form.is_sig_lip() {
            code.one_of(&mut self.config.sup_con, &[SupCon::Out, SupCon::In]);
        }
    }

    fn code_ids(&mut self, code: &mut impl Code) {
        let mut has_ids = self.ids.is_some();
        code.flag(&mut has_ids);
        let Sizes { rows, keys, .. } = self.sizes;
        self.ids = has_ids.then(|| {
            let mut ids = self.ids.take().unwrap_or_default();
            ids[0].resize(rows, 0);
            ids[1].resize(keys, 0);
            ids.iter_mut().flatten().for_each(|id| code_label(code, id));
            ids
        });
    }

    fn code_own_negatives(&mut self, code: &mut impl Code) {
        if !self.form.may_have_own_negatives() {
            return;
        }
        let mut has_own = self.own.is_some();
        code.flag(&mut has_own);
        let rows = self.sizes.rows;
        self.own = has_own.then(|| {
            let OwnNegatives { mut count, mask } = self.own.take().unwrap_or_default();
            code.size(&mut count);
            count = count.min(MOST_OWN);
            let mut has_mask = mask.is_some();
            code.flag(&mut has_mask);
            let mask = has_mask.then(|| {
                let mut mask = mask.unwrap_or_default();
                mask.resize(rows * count, false);
                mask.iter_mut()
                    .for_each(|is_there| code_mask(code, is_there, 2));
                mask
            });
            OwnNegatives { count, mask }
        });
    }

    /// The numbers of rows of the tensors whose rows are keys.
    fn sizes_of_keys(&self) -> Vec<usize> {
        let Sizes { rows, keys, .. } = self.sizes;
        match self.form {
            Form::Labels if keys == 0 => vec![rows],
            Form::Momentum | Form::Labels => vec![rows, keys],
            form if form.is_of_views() => vec![rows, rows],
            _ => vec![keys],
        }
    }

    fn code_log_q(&mut self, code: &mut impl Code) {
        let mut has_log_q = self.log_q.is_some();
        code.flag(&mut has_log_q);
        let (sizes, dtype) = (self.sizes_of_keys(), self.dtype);
        self.log_q = has_log_q.then(|| {
            let mut log_q = self.log_q.take().unwrap_or_default();
            log_q.resize(sizes.len(), vec![]);
            for (log_q, size) in log_q.iter_mut().zip(sizes) {
                log_q.resize(size, 0.0);
                for number in log_q {
                    code.number(number, dtype, thirty_seconds);
                    // Others are no logarithms of probabilities, or of such as no key has.
                    let is_kept = number.abs() <= 128.0;
                    if !is_kept {
                        *number = 0.0;
                    }
                }
            }
            log_q
        });
    }

    fn code_tensors(&mut self, code: &mut impl Code) {
        let Sizes { rows, keys, .. } = self.sizes;
        let mut lengths = match self.form {
            Form::Momentum => vec![rows, rows, keys],
            _ => vec![rows, keys],
        };
        lengths.extend(self.own.as_ref().map(|own| rows * own.count));
        self.tensors.resize(lengths.len(), vec![]);
        for (tensor, length) in self.tensors.iter_mut().zip(lengths) {
            tensor.resize(length * self.sizes.features, 0.0);
        }
        let (dtype, normalize) = (self.dtype, self.config.normalize);
        for value in self.tensors.iter_mut().flatten() {
            code.number(value, dtype, thirty_seconds);
            let is_kept = match (normalize, value.is_finite()) {
                // What is below is a length of 0.
                (true, true) => *value == 0.0 || value.abs() >= 2f64.powi(-40),
                (false, true) => value.abs() <= 1024.0,
                (_, false) => true,
            };
            if !is_kept {
                *value = 0.0;
            }
        }
    }
}

/// A label or an id: one of few, so that some are equal, or any number of the default integers.
fn code_label(code: &mut impl Code, label: &mut i64) {
    code.integer(label);
    *label = i64::from(*label as i32);
    if (32..=252).contains(label) {
        *label %= 7;
    }
}

/// An entry of a mask, true for one of `of` bytes.
fn code_mask(code: &mut impl Code, entry: &mut bool, of: u8) {
    let mut byte = u8::from(!*entry);
    code.item(&mut byte);
    *entry = byte % of == 0;
}

#[cfg(test)]
mod tests {
    crate::code::has_bytes!(super::Case, crate::fixtures::contrasts(), 280);
}
