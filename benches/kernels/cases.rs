//! The cases: shapes that lead to each way in which the kernels share a row, in every dtype, and every option
//! that changes a kernel.
//!
//! A projection launches the kernels of `2048x32000 index` over some rows at a time. Burn's matrix products
//! run between them and try their variants for minutes, so the projection does not have a case. Pairs, which always
//! come with products, have a small one.

use std::any::Any;
use std::fmt::{self, Display};

use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::contrastive::SigLipLossConfig;
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyOutput, CrossEntropyTarget, LogitsRank,
    SmoothingOver, SparseDistribution, TeacherLogits,
};

/// Rows that an H100 or an A100 computes with one unit each, one plane each, one cube each, and several cubes
/// for a row.
const SHAPES: [[usize; 2]; 4] = [[65536, 10], [8192, 1000], [2048, 32000], [4, 128_256]];
const PLANES: [usize; 2] = [8192, 1000];
/// The vocabulary of GPT-2, which no vector width divides.
const ODD: [usize; 2] = [2048, 50257];
/// Rows that fill the shared memory of a multiprocessor in half precision.
const LONG: [usize; 2] = [512, 128_256];
/// Images, whose classes are not adjacent in memory.
const IMAGES: [usize; 4] = [16, 21, 256, 256];
/// Embeddings of a batch whose rows are compared with each other.
const BATCH: [usize; 2] = [64, 16];
/// Entries of sparse distributions.
const ENTRIES: usize = 16;

pub struct Case {
    /// The shape of the logits, with the classes in dimension 1.
    shape: Vec<usize>,
    pub dtype: DType,
    targets: Targets,
    what: What,
}

#[derive(Clone, Copy)]
enum Targets {
    Index,
    /// Distributions that require a gradient.
    Soft,
    /// Sparse distributions that require a gradient, and the same with tails.
    Sparse,
    Tail,
    /// The logits of a teacher.
    Teacher,
    /// The rows of another batch, for the sigmoid loss of pairs.
    Pairs,
}

/// The call of a case: forward and backward, plain, with an output or with an option; or the forward alone.
#[derive(Clone, Copy)]
enum What {
    Step,
    Forward,
    Output,
    Entropy,
    Weights,
    Smoothing,
    OverValid,
    ZLoss,
    Softcap,
    Probabilities,
}

/// A step that owns its tensors. It returns its results, so that they are dropped after the clock stops.
pub type Step = Box<dyn FnOnce() -> Box<dyn Any>>;

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F16, F32, F64};
    use Targets::{Index, Pairs, Soft, Sparse, Tail, Teacher};
    let mut cases = Vec::new();
    let mut add = |shape: &[usize], targets, dtype, what| {
        cases.push(Case {
            shape: shape.to_vec(),
            dtype,
            targets,
            what,
        });
    };
    for shape in &SHAPES {
        for dtype in [F32, BF16, F16, F64] {
            add(shape, Index, dtype, What::Step);
            add(shape, Soft, dtype, What::Step);
        }
        for dtype in [F32, BF16] {
            add(shape, Index, dtype, What::Forward);
        }
        add(shape, Index, F32, What::Output);
        add(shape, Index, F32, What::Entropy);
    }
    for dtype in [F32, BF16] {
        for what in [
            What::Weights,
            What::Smoothing,
            What::OverValid,
            What::ZLoss,
            What::Softcap,
        ] {
            add(&PLANES, Index, dtype, what);
        }
        add(&ODD, Index, dtype, What::Step);
        add(&IMAGES, Index, dtype, What::Step);
        add(&IMAGES, Soft, dtype, What::Step);
        for targets in [Sparse, Tail, Teacher] {
            add(&PLANES, targets, dtype, What::Step);
        }
        add(&PLANES, Sparse, dtype, What::Output);
        for what in [What::Smoothing, What::OverValid, What::Probabilities] {
            add(&PLANES, Sparse, dtype, what);
        }
    }
    add(&LONG, Index, BF16, What::Step);
    add(&BATCH, Pairs, F32, What::Step);
    cases
}

/// Cases for the host's time: problems that take nothing but host time on a GPU too.
pub fn small_cases() -> Vec<Case> {
    let case = |shape: &[usize], targets, what| Case {
        shape: shape.to_vec(),
        dtype: DType::F32,
        targets,
        what,
    };
    vec![
        case(&[64, 10], Targets::Index, What::Step),
        case(&[64, 10], Targets::Index, What::Forward),
        case(&[64, 10], Targets::Soft, What::Step),
        case(&[64, 10], Targets::Index, What::Output),
        case(&[4, 128_256], Targets::Index, What::Step),
    ]
}

impl Case {
    pub fn name(&self) -> String {
        let dims: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let targets = match self.targets {
            Targets::Index => "index",
            Targets::Soft => "soft",
            Targets::Sparse => "sparse",
            Targets::Tail => "tail",
            Targets::Teacher => "teacher",
            Targets::Pairs => "pairs",
        };
        let (dims, dtype) = (dims.join("x"), self.dtype.name());
        format!("{dims} {targets} {dtype} {}", self.what)
    }

    pub fn rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.classes()
    }

    pub fn classes(&self) -> usize {
        self.shape[1]
    }

    /// The same step with `burn::nn`'s loss, which takes index targets; none where it has nothing of the kind.
    pub fn prepared_with_burn(&self, device: &Device) -> Result<Option<Step>, String> {
        let is_forward = match (self.targets, self.what, self.shape.len()) {
            (Targets::Index, What::Step, 2) => false,
            (Targets::Index, What::Forward, 2) => true,
            _ => return Ok(None),
        };
        let on = match is_forward {
            true => device.clone(),
            false => device.clone().autodiff(),
        };
        let loss = burn::nn::loss::CrossEntropyLossConfig::new().init(&on);
        let logits = Tensor::<2>::empty(self.shape.clone(), (&on, self.dtype));
        let targets = Tensor::<1, Int>::empty([self.shape[0]], &on);
        crate::sync(device)?;
        Ok(Some(Box::new(move || match is_forward {
            true => Box::new(loss.forward(logits, targets)),
            false => Box::new(loss.forward(logits.require_grad(), targets).backward()),
        })))
    }

    /// Makes the tensors. They hold what was in memory before, because nothing is computed with them.
    pub fn prepared(&self, device: &Device) -> Result<Step, String> {
        let step = match self.shape.len() {
            2 if matches!(self.targets, Targets::Pairs) => self.of_pairs(device),
            2 if matches!(self.targets, Targets::Teacher) => self.of_teacher(device),
            2 => self.of_rank::<2, 1>(device),
            4 => self.of_rank::<4, 3>(device),
            rank => return Err(format!("no case has rank {rank}, {} has", self.name())),
        };
        crate::sync(device)?;
        Ok(step)
    }

    fn of_rank<const D: usize, const R: usize>(&self, device: &Device) -> Step
    where
        Tensor<D>: LogitsRank<Output = CrossEntropyOutput<R>>,
        Tensor<R, Int>: CrossEntropyTarget<D>,
        SparseDistribution<D>: CrossEntropyTarget<D>,
    {
        let device = match self.what {
            What::Forward => device.clone(),
            _ => device.clone().autodiff(),
        };
        let mut shape = self.shape.clone();
        match self.targets {
            Targets::Index => {
                shape.remove(1);
                self.with_targets::<D, R, _>(&device, Tensor::<R, Int>::empty(shape, &device))
            }
            Targets::Soft => {
                let targets = Tensor::<D>::empty(shape, (&device, self.dtype));
                self.with_targets::<D, R, _>(&device, targets.require_grad())
            }
            Targets::Sparse | Targets::Tail => {
                shape[1] = ENTRIES;
                let classes = Tensor::<D, Int>::empty(shape.clone(), &device);
                let dtype = (&device, self.dtype);
                let shares = Tensor::<D>::empty(shape.clone(), dtype).require_grad();
                let sparse = SparseDistribution::new(classes, shares);
                shape[1] = 1;
                let sparse = match self.targets {
                    Targets::Tail => sparse.with_tail(Tensor::empty(shape, dtype)),
                    _ => sparse,
                };
                self.with_targets::<D, R, _>(&device, sparse)
            }
            Targets::Pairs | Targets::Teacher => unreachable!("they have a function of their own"),
        }
    }

    fn of_teacher(&self, device: &Device) -> Step {
        let device = device.clone().autodiff();
        let teacher = Tensor::<2>::empty(self.shape.clone(), (&device, self.dtype));
        self.with_targets::<2, 1, _>(&device, TeacherLogits::new(teacher).with_temperature(2.0))
    }

    fn of_pairs(&self, device: &Device) -> Step {
        let device = device.clone().autodiff();
        let loss = SigLipLossConfig::new().init(&device);
        let rows = || Tensor::<2>::empty(self.shape.clone(), (&device, self.dtype)).require_grad();
        let (a, b) = (rows(), rows());
        Box::new(move || Box::new(loss.forward(a, b).backward()))
    }

    fn with_targets<const D: usize, const R: usize, T>(&self, device: &Device, targets: T) -> Step
    where
        T: CrossEntropyTarget<D> + 'static,
        Tensor<D>: LogitsRank<Output = CrossEntropyOutput<R>>,
    {
        let what = self.what;
        let loss = self.loss(device);
        let logits = Tensor::<D>::empty(self.shape.clone(), (device, self.dtype));
        if let What::Forward = what {
            return Box::new(move || Box::new(loss.forward(logits, targets)));
        }
        let logits = logits.require_grad();
        Box::new(move || match what {
            What::Output => Box::new(loss.forward_with_output(logits, targets).loss.backward()),
            What::Entropy => Box::new(loss.forward_with_entropy(logits, targets).loss.backward()),
            _ => Box::new(loss.forward(logits, targets).backward()),
        })
    }

    fn loss(&self, device: &Device) -> CrossEntropyLoss {
        let config = CrossEntropyLossConfig::new();
        let config = match self.what {
            What::Weights => config.with_weight(Some(vec![1.0; self.classes()])),
            What::Smoothing => config.with_label_smoothing(0.1),
            What::OverValid => config
                .with_label_smoothing(0.1)
                .with_smoothing_over(SmoothingOver::ValidClasses),
            What::ZLoss => config.with_z_loss(1e-4),
            What::Softcap => config.with_logit_softcap(Some(30.0)),
            What::Probabilities => config.with_logits(false),
            _ => config,
        };
        config.init(device)
    }
}

impl Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            What::Step => "step",
            What::Forward => "forward",
            What::Output => "output",
            What::Entropy => "entropy",
            What::Weights => "weights",
            What::Smoothing => "smoothing",
            What::OverValid => "smoothing over the valid",
            What::ZLoss => "z-loss",
            What::Softcap => "softcap",
            What::Probabilities => "probabilities",
        })
    }
}
