//! Counts, byte by byte, what a loss and a queue of negatives allocate on the CPU.
//!
//! A kernel that computes the gradient together with the loss writes it over the logits if nothing else holds
//! them, otherwise into one new tensor; plain tensor operations need several tensors of that size. So these
//! tests also show which path ran.
#![cfg(any(feature = "flex", feature = "ndarray"))]
// Burn deprecates NdArray, on which these tests run too.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, available_parallelism};

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyTarget, NegativeQueueConfig,
};

mod contrast;
#[allow(dead_code)] // These tests do not read `held`.
mod counting;
mod projection;

/// Runs one test at a time, because the counters belong to the process. The test has a thread of its own, whose
/// thread-local buffers are freed before the next test starts to count: to join a thread waits for that.
fn alone(test: impl FnOnce() + Send) {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(test).join() {
            resume_unwind(panic);
        }
    });
}

/// The holder of the logits besides the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nothing: the logits are the result of an operation.
    Nobody,
    /// Nothing: the logits are a leaf that was moved in.
    NobodyAndALeaf,
    /// Nothing: the logits are a view of a result with the classes last.
    NobodyBehindAView,
    /// The test, which fetches the gradient of the logits.
    Test,
    /// The test, which asks for no gradient.
    Untracked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Targets {
    Indices,
    Shares,
    /// Distributions that require a gradient.
    TrackedShares,
}

/// The options of a loss.
struct Case {
    name: &'static str,
    config: CrossEntropyLossConfig,
    targets: Targets,
    /// Whether each row has a loss and an upstream gradient.
    per_row: bool,
}

/// Every option by itself and all together.
fn cases(classes: usize) -> Vec<Case> {
    let plain = CrossEntropyLossConfig::new;
    let weights = || Some((0..classes).map(|class| 0.5 + (class % 3) as f32).collect());
    let soft = |case: Case, targets| Case { targets, ..case };
    let case = |name, config| Case {
        name,
        config,
        targets: Targets::Indices,
        per_row: false,
    };
    let every_option = || {
        plain()
            .with_weight(weights())
            .with_label_smoothing(0.1)
            .with_ignore_indices(vec![OFTEN])
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0))
            .with_z_loss(0.01)
    };
    let smoothed = || plain().with_weight(weights()).with_label_smoothing(0.1);
    let probabilities = || plain().with_logits(false);
    let per_row = |case: Case| Case {
        per_row: true,
        ..case
    };
    vec![
        case("defaults", plain()),
        case("class weights", plain().with_weight(weights())),
        case("label smoothing", plain().with_label_smoothing(0.1)),
        case("ignored rows", plain().with_ignore_indices(vec![OFTEN])),
        case("scale", plain().with_logit_scale(0.7)),
        case("softcap", plain().with_logit_softcap(Some(5.0))),
        case("z-loss", plain().with_z_loss(0.01)),
        case("every option", every_option()),
        case("sum", plain().with_reduction(Reduction::Sum)),
        case("batch mean", plain().with_reduction(Reduction::BatchMean)),
        case("probabilities", probabilities()),
        per_row(case("per row", plain())),
        per_row(case("per row, every option", every_option())),
        soft(case("soft", plain()), Targets::Shares),
        soft(
            case("soft, weights, smoothing", smoothed()),
            Targets::Shares,
        ),
        soft(
            case("soft, probabilities", probabilities()),
            Targets::Shares,
        ),
        per_row(soft(case("soft, per row", plain()), Targets::Shares)),
        soft(case("tracked soft", plain()), Targets::TrackedShares),
        soft(
            case("tracked soft, weights, smoothing", smoothed()),
            Targets::TrackedShares,
        ),
    ]
}

/// The target of two rows out of three.
const OFTEN: i64 = 1;

/// The tensors of one size, dtype and device.
struct Setting {
    device: Device,
    shape: [usize; 3],
    class_dim: usize,
    float: DType,
    /// Allowed allocations besides whole tensors, as a share of the logits.
    rest: f64,
    in_sum: bool,
    logits: Tensor<3>,
    shares: Tensor<3>,
    labels: Tensor<2, Int>,
    upstream: Tensor<2>,
}

impl Setting {
    fn new(size: &Size, float: DType, device: &Device) -> Self {
        let Size {
            shape,
            class_dim,
            rest,
            in_sum,
        } = *size;
        let mut row_shape = shape.to_vec();
        row_shape.remove(class_dim);
        let rows: usize = row_shape.iter().product();
        // The values are valid as probabilities and as logits.
        let full = |step: usize| -> Tensor<3> {
            let values = (0..shape.iter().product()).map(|at: usize| 1 + at * step % 997);
            let values: Vec<f32> = values.map(|value| value as f32 / 997.0).collect();
            Tensor::from_data(TensorData::new(values, shape), (device, float))
        };
        let labels = (0..rows).map(|row| match row % 3 {
            0 => (row % shape[class_dim]) as i64,
            _ => OFTEN,
        });
        let labels = TensorData::new(labels.collect::<Vec<_>>(), row_shape.clone());
        let upstream = (0..rows).map(|row| (row % 5) as f32 - 1.5);
        let upstream = TensorData::new(upstream.collect::<Vec<_>>(), row_shape);
        let accumulation = if float == DType::F64 {
            float
        } else {
            DType::F32
        };
        Self {
            shape,
            class_dim,
            float,
            rest,
            in_sum,
            logits: full(31).require_grad(),
            shares: full(17),
            labels: Tensor::from_data(labels, device),
            upstream: Tensor::from_data(upstream, (device, accumulation)),
            device: device.clone(),
        }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.float.size()
    }

    fn logits(&self, holder: Holder) -> Tensor<3> {
        match holder {
            Holder::Nobody => self.logits.clone().add_scalar(0.0),
            Holder::NobodyAndALeaf => {
                let copy = self.logits.clone().detach().add_scalar(0.0);
                copy.detach().require_grad()
            }
            Holder::NobodyBehindAView => {
                let last = self.shape.len() - 1;
                let classes_last = self.logits.clone().swap_dims(self.class_dim, last);
                classes_last.add_scalar(0.0).swap_dims(self.class_dim, last)
            }
            Holder::Test => self.logits.clone(),
            // A leaf that is merely detached would still ask for its gradient.
            Holder::Untracked => self.logits.clone().detach().set_require_grad(false),
        }
    }

    /// Counts what the loss allocates, and the backward if there is one.
    fn count(&self, case: &Case, holder: Holder) -> counting::Bytes {
        let config = case.config.clone().with_class_dim(self.class_dim as isize);
        let loss = config.init(&self.device);
        let logits = self.logits(holder);
        let shares = match case.targets {
            Targets::TrackedShares if holder != Holder::Untracked => {
                self.shares.clone().require_grad()
            }
            _ => self.shares.clone(),
        };
        let upstream = case.per_row.then(|| self.upstream.clone());
        let labels = self.labels.clone();
        let (gradients, bytes) = counting::count(|| {
            let value = match case.targets {
                Targets::Indices => forward(&loss, logits, labels, upstream),
                _ => forward(&loss, logits, shares.clone(), upstream),
            };
            (holder != Holder::Untracked).then(|| value.backward())
        });
        if let Some(gradients) = &gradients {
            let fetched = self.logits.grad(gradients).is_some();
            assert_eq!(fetched, holder != Holder::NobodyAndALeaf);
            let fetched = shares.grad(gradients).is_some();
            assert_eq!(fetched, case.targets == Targets::TrackedShares);
        }
        bytes
    }

    /// The allowed allocations, as multiples of the logits.
    fn allowed(&self, case: &Case, holder: Holder) -> Range<f64> {
        let of_logits = usize::from(holder == Holder::Test);
        let tracked = case.targets == Targets::TrackedShares && holder != Holder::Untracked;
        let tensors = (of_logits + usize::from(tracked)) as f64;
        tensors..tensors + self.rest
    }

    fn check(&self, case: &Case, holder: Holder) -> Result<(), String> {
        let bytes = self.count(case, holder);
        let share = |part: usize| part as f64 / self.bytes() as f64;
        let allowed = self.allowed(case, holder);
        let counted = if self.in_sum {
            bytes.allocated
        } else {
            bytes.peak
        };
        if allowed.contains(&share(counted)) {
            return Ok(());
        }
        Err(format!(
            "{:?}, classes in {}, {:?}, {}, held by {holder:?}: allocated {:.3} times the logits' {} \
             bytes ({:.3} at one time), allowed {allowed:.3?}",
            self.shape,
            self.class_dim,
            self.float,
            case.name,
            share(bytes.allocated),
            self.bytes(),
            share(bytes.peak),
        ))
    }
}

/// The reduced loss, or the losses of the rows weighed by the upstream gradient.
fn forward(
    loss: &CrossEntropyLoss,
    logits: Tensor<3>,
    target: impl CrossEntropyTarget<3>,
    upstream: Option<Tensor<2>>,
) -> Tensor<1> {
    match upstream {
        None => loss.forward(logits, target),
        Some(upstream) => (loss.forward_no_reduction(logits, target) * upstream).sum(),
    }
}

#[derive(Clone, Copy, Debug)]
struct Size {
    shape: [usize; 3],
    class_dim: usize,
    rest: f64,
    /// Whether freed memory counts too.
    in_sum: bool,
}

/// Logits of 16 MiB in f32 for two threads: numbers per row or per thread are negligible beside them.
fn large() -> Size {
    Size {
        shape: [2, 256 * per_two_threads(), 8192],
        class_dim: 2,
        rest: 0.02,
        in_sum: true,
    }
}

/// Every layout that a kernel may tell apart, in sizes that a build without optimisation gets through.
///
/// The sizes are small, so a thread's scratch memory shows: up to 64 rows of classes or 64 KiB, of the
/// logits, of the distributions and of their gradient. At one time that is less than one tensor of the size
/// of the logits; plain tensor operations need at least three.
fn sizes() -> [Size; 4] {
    let many = 0.1;
    let few = 0.9;
    let threads = per_two_threads();
    [
        ([2, 344 * threads, 771], 2, many),
        ([4, 515, 257 * threads], 1, few),
        ([2, 2150 * threads, 61], 2, few),
        ([4, 61, 1075 * threads], 1, few),
    ]
    .map(|(shape, class_dim, rest)| Size {
        shape,
        class_dim,
        rest,
        in_sum: false,
    })
}

/// A factor of the sizes: the scratch memory of a kernel grows with the threads, so the logits grow too.
fn per_two_threads() -> usize {
    available_parallelism().map_or(1, |threads| threads.get().div_ceil(2))
}

/// Differences to report; the test does not look for more.
const REPORTED: usize = 8;

/// Checks every case under every holder, after a first call that makes the threads and everything else that
/// is made once.
fn differences<'a>(
    setting: &'a Setting,
    cases: &'a [Case],
    holders: &'a [Holder],
) -> impl Iterator<Item = String> + 'a {
    setting.count(&cases[0], Holder::Nobody);
    holders.iter().flat_map(move |holder| {
        cases
            .iter()
            .filter_map(move |case| setting.check(case, *holder).err())
    })
}

#[track_caller]
fn assert_none(differences: impl Iterator<Item = String>) {
    let first: Vec<String> = differences.take(REPORTED).collect();
    assert!(first.is_empty(), "{first:#?}");
}

/// Checks the plain mean over large logits.
fn check_large(holders: &[Holder], device: &Device) {
    alone(|| {
        let device = device.clone().autodiff();
        let size = large();
        let defaults = &cases(size.shape[size.class_dim])[..1];
        for device in [device.clone(), device.gradient_checkpointing()] {
            let setting = Setting::new(&size, DType::F32, &device);
            assert_none(differences(&setting, defaults, holders));
        }
    });
}

fn logits_that_nobody_holds_become_their_gradient(device: &Device) {
    check_large(&[Holder::Nobody, Holder::NobodyAndALeaf], device);
}

/// A model that puts its classes last, as `[N, T, C]`, and a loss that has them in dimension 1.
fn a_view_of_classes_that_are_last_is_not_copied(device: &Device) {
    alone(|| {
        let last = large();
        let size = Size {
            shape: [last.shape[0], last.shape[2], last.shape[1]],
            class_dim: 1,
            // NdArray keeps the order of memory through the operation, and so has strided classes: scratch, no copy.
            rest: 0.3,
            ..last
        };
        let setting = Setting::new(&size, DType::F32, &device.clone().autodiff());
        let defaults = &cases(size.shape[size.class_dim])[..1];
        assert_none(differences(
            &setting,
            defaults,
            &[Holder::NobodyBehindAView],
        ));
    });
}

fn logits_that_are_kept_cost_one_tensor(device: &Device) {
    check_large(&[Holder::Test], device);
}

fn an_untracked_loss_costs_no_tensor(device: &Device) {
    check_large(&[Holder::Untracked], device);
}

fn every_option_takes_the_fused_path(device: &Device) {
    alone(|| {
        let holders = [Holder::Nobody, Holder::Test, Holder::Untracked];
        let settings = sizes().into_iter().flat_map(|size| {
            let floats = [DType::F32, DType::F64, DType::BF16, DType::F16];
            let floats = floats
                .into_iter()
                .filter(|float| device.supports_dtype(*float));
            floats.map(move |float| (size, float))
        });
        assert_none(settings.flat_map(|(size, float)| {
            let setting = Setting::new(&size, float, &device.clone().autodiff());
            let cases = cases(size.shape[size.class_dim]);
            differences(&setting, &cases, &holders)
                .take(REPORTED)
                .collect::<Vec<_>>()
        }));
    });
}

/// Pushes up to 4 KiB of keys into a queue of 1 MiB: in one piece, and wrapped around its end.
fn a_push_writes_into_the_ring(device: &Device) {
    alone(|| {
        let mut queue = NegativeQueueConfig::new(1 << 12, 64).init(device);
        let batch = |rows: usize| Tensor::<2>::ones([rows, 64], device);
        queue.push(batch((1 << 12) - 8));
        for rows in [4, 16] {
            let keys = batch(rows);
            let ((), bytes) = counting::count(|| queue.push(keys));
            assert!(bytes.allocated < 1 << 16, "{rows} rows: {bytes:?}");
        }
        // Another holder of the ring makes the push copy it, once.
        let held = queue.keys();
        let keys = batch(4);
        let ((), bytes) = counting::count(|| queue.push(keys));
        assert!(
            (1 << 20..(1 << 20) + (1 << 16)).contains(&bytes.allocated),
            "{bytes:?}"
        );
        drop(held);
    });
}

macro_rules! on_backend {
    ($device:ident) => {
        mod $device {
            use burn::tensor::Device;

            #[test]
            fn logits_that_nobody_holds_become_their_gradient() {
                super::logits_that_nobody_holds_become_their_gradient(&Device::$device());
            }

            #[test]
            fn logits_that_are_kept_cost_one_tensor() {
                super::logits_that_are_kept_cost_one_tensor(&Device::$device());
            }

            #[test]
            fn a_view_of_classes_that_are_last_is_not_copied() {
                super::a_view_of_classes_that_are_last_is_not_copied(&Device::$device());
            }

            #[test]
            fn an_untracked_loss_costs_no_tensor() {
                super::an_untracked_loss_costs_no_tensor(&Device::$device());
            }

            #[test]
            fn a_push_writes_into_the_ring() {
                super::a_push_writes_into_the_ring(&Device::$device());
            }

            #[test]
            fn every_option_takes_the_fused_path() {
                super::every_option_takes_the_fused_path(&Device::$device());
            }
        }
    };
}

#[cfg(feature = "flex")]
on_backend!(flex);
#[cfg(feature = "ndarray")]
on_backend!(ndarray);

/// The counters see allocations of other threads, and allocations that are freed before the end.
#[test]
fn a_counter_counts() {
    alone(|| {
        let ((), bytes) = counting::count(|| {
            let worker = std::thread::spawn(|| drop(std::hint::black_box(vec![1u8; 1 << 20])));
            worker.join().expect("it does nothing that could fail");
            drop(std::hint::black_box(vec![1u8; 1 << 20]));
        });
        let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        assert!(
            (2.0..2.1).contains(&mebibytes(bytes.allocated)),
            "{bytes:?}"
        );
        assert!((1.0..1.1).contains(&mebibytes(bytes.peak)), "{bytes:?}");
    });
}
