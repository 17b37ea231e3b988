//! Queue of the keys of earlier steps, which are the negatives of a step.

mod module;
mod ring;

use burn::config::Config;
use burn::module::ParamId;
use burn::tensor::kind::{Basic, Numeric};
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use self::ring::{Ring, Span};
use super::error::{ContrastiveError, unwrap};

/// Configuration of a [`NegativeQueue`].
///
/// | Option | Meaning | Default |
/// |---|---|---|
/// | [`capacity`](Self::capacity) | how many keys it holds at most | |
/// | [`features`](Self::features) | features of each key | |
/// | [`ids`](Self::ids) | whether each key has an id | `false` |
/// | [`finite_only`](Self::finite_only) | whether keys that are not finite stay out | `false` |
///
/// ```
/// use burn::tensor::Device;
/// use burn_cross_entropy::NegativeQueueConfig;
///
/// let queue = NegativeQueueConfig::new(65_536, 128).init(&Device::flex());
/// assert!(queue.is_empty());
/// ```
#[derive(Config, Debug)]
pub struct NegativeQueueConfig {
    /// Largest number of keys in the queue: at least 1.
    pub capacity: usize,
    /// Number of features of each key: at least 1.
    pub features: usize,
    /// Whether the queue keeps an id for each key, such as the number of the sample: the old key of a sample
    /// is not a negative of the sample itself. Default: `false`.
    #[config(default = false)]
    pub ids: bool,
    /// Whether keys that hold NaN or an infinity stay out, without a wait for the device. Such a key would make
    /// every loss NaN until it is replaced. Its row keeps what it held: the old key (and id), or in a row that had
    /// none a key of zeros, which counts as one. Default: `false`.
    #[config(default = false)]
    pub finite_only: bool,
}

impl NegativeQueueConfig {
    /// Makes an empty queue on the device.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> NegativeQueue {
        unwrap(self.try_init(device))
    }

    /// [`init`](Self::init) that returns an error for a bad configuration.
    ///
    /// # Errors
    ///
    /// [`ContrastiveError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init(&self, device: &Device) -> Result<NegativeQueue, ContrastiveError> {
        check_size("capacity", self.capacity)?;
        check_size("features", self.features)?;
        let device = device.clone().without_autodiff();
        Ok(NegativeQueue {
            keys: Tensor::zeros([self.capacity, self.features], &device),
            ids: self.ids.then(|| Tensor::zeros([self.capacity], &device)),
            ring: Ring::new(self.capacity),
            finite_only: self.finite_only,
            param_ids: ParamIds::new(),
        })
    }
}

/// Checks a size. Records hold sizes in 32 bits, which every backend has.
fn check_size(field: &'static str, size: usize) -> Result<(), ContrastiveError> {
    if (1..=i32::MAX as usize).contains(&size) {
        return Ok(());
    }
    Err(ContrastiveError::InvalidConfig {
        part: "negative queue",
        field,
        value: size.to_string(),
        expected: "a number in 1..=2147483647",
    })
}

/// Queue of the newest keys: the negatives of momentum contrast.
///
/// A ring of `capacity` rows. The `k`-th key since the queue was made or cleared takes row
/// `k mod capacity`, the place of the oldest one once the queue is full. What lies where does not
/// depend on the sizes of the batches.
///
/// # Shapes
///
/// [`push`](Self::push) takes keys `[n, features]` of any number `n`: a batch may wrap, be empty, or be
/// larger than the queue, which keeps its last `capacity` keys. [`keys`](Self::keys) gives
/// `[len, features]`: rows that no key was put in are no negatives.
///
/// # Dtypes and devices
///
/// An empty queue takes on the dtype of the keys (and of the ids) that are pushed first; later ones must
/// have the same. Keys are on the device of the queue. They are constants: what is pushed is detached
/// from its graph, and [`keys`](Self::keys) are outside autodiff, to be combined with tensors that have it.
///
/// # In a module
///
/// The queue is a [`Module`](burn::module::Module), alone or as a field of a user's module. It follows the
/// module to other devices, and records save and load its keys, its position and its length. It has no
/// parameters, an optimizer does not change it, and no setting makes it require gradients. A clone is an
/// independent queue.
///
/// A record fits a queue of the same capacity and features. Where it is loaded in part, the queue
/// takes the position and the length with the keys they belong to or not at all, and is empty where ids
/// that it keeps are not in the record.
///
/// # Speed and memory
///
/// A push writes the new rows into the ring in place, unless something else holds the keys of the queue,
/// such as a graph before its backward: then the ring is copied once. Push after the backward.
/// [`len`](Self::len) and the other sizes are numbers of the host and do not wait for a device.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_cross_entropy::NegativeQueueConfig;
///
/// let device = Device::flex().autodiff();
/// let mut queue = NegativeQueueConfig::new(3, 2).init(&device);
/// queue.push(Tensor::from_floats([[1.0, 1.0], [2.0, 2.0]], &device));
/// assert_eq!(queue.keys().dims(), [2, 2]);
///
/// queue.push(Tensor::from_floats([[3.0, 3.0], [4.0, 4.0]], &device));
/// let keys = queue.keys().into_data();
/// keys.assert_eq(&[[4.0f32, 4.0], [2.0, 2.0], [3.0, 3.0]].into(), true);
/// assert_eq!(queue.position(), 1); // of the oldest
///
/// // The similarities of queries to all negatives.
/// let queries = Tensor::<2>::ones([5, 2], &device).require_grad();
/// let logits = queries.matmul(queue.keys().transpose());
/// assert_eq!(logits.dims(), [5, 3]);
/// ```
///
/// Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
/// <https://arxiv.org/abs/1911.05722>.
#[derive(Clone)]
pub struct NegativeQueue {
    /// Keys `[capacity, features]`, without autodiff.
    keys: Tensor<2>,
    /// Ids `[capacity]`, without autodiff.
    ids: Option<Tensor<1, Int>>,
    ring: Ring,
    /// Whether keys that are not finite stay out.
    finite_only: bool,
    param_ids: ParamIds,
}

/// Ids of the queue's tensors in records and groups.
#[derive(Clone, Copy)]
struct ParamIds {
    keys: ParamId,
    ids: ParamId,
    ring: ParamId,
}

impl ParamIds {
    fn new() -> Self {
        Self {
            keys: ParamId::new(),
            ids: ParamId::new(),
            ring: ParamId::new(),
        }
    }
}

impl NegativeQueue {
    /// Adds keys `[n, features]`, which replace the oldest keys of a full queue.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the keys do not fit the queue.
    pub fn push(&mut self, keys: Tensor<2>) {
        unwrap(self.try_push(keys));
    }

    /// Adds keys `[n, features]` with ids `[n]`, which replace the oldest keys of a full queue.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::NegativeQueueConfig;
    ///
    /// let device = Device::flex();
    /// let mut queue = NegativeQueueConfig::new(4, 2).with_ids(true).init(&device);
    /// let samples = Tensor::<1, Int>::from_ints([17, 5], &device);
    /// queue.push_with_ids(Tensor::ones([2, 2], &device), samples);
    /// let ids = queue.ids().expect("this queue keeps ids");
    /// assert_eq!(ids.dims(), [2]);
    /// ```
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the keys or the ids do not fit the queue.
    pub fn push_with_ids(&mut self, keys: Tensor<2>, ids: Tensor<1, Int>) {
        unwrap(self.try_push_with_ids(keys, ids));
    }

    /// [`push`](Self::push) that returns an error, and then leaves the queue as it was.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`]: keys of other features, on another device or of another dtype than the
    /// queue's, or a queue that keeps ids.
    pub fn try_push(&mut self, keys: Tensor<2>) -> Result<(), ContrastiveError> {
        self.check_keys(&keys)?;
        if self.ids.is_some() {
            return Err(ContrastiveError::IdsMissing {
                keys: keys.dims()[0],
            });
        }
        self.put(keys, None);
        Ok(())
    }

    /// [`push_with_ids`](Self::push_with_ids) that returns an error, and then leaves the queue as it
    /// was.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`]: as [`try_push`](Self::try_push), or ids of another number than the keys, on
    /// another device or of another dtype than the queue's, or a queue that keeps none.
    pub fn try_push_with_ids(
        &mut self,
        keys: Tensor<2>,
        ids: Tensor<1, Int>,
    ) -> Result<(), ContrastiveError> {
        self.check_keys(&keys)?;
        let Some(held) = &self.ids else {
            return Err(ContrastiveError::IdsUnexpected);
        };
        if ids.dims()[0] != keys.dims()[0] {
            return Err(ContrastiveError::IdsLength {
                ids: ids.dims()[0],
                keys: keys.dims()[0],
            });
        }
        self.check_device("ids", &ids.device())?;
        self.check_dtype("ids", ids.dtype(), held.dtype())?;
        self.put(keys, Some(ids));
        Ok(())
    }

    /// The keys `[len, features]`, of which row `k mod capacity` is the `k`-th since the queue was made or
    /// cleared. They have no gradient.
    ///
    /// Until the queue is full the oldest is first; then the oldest is at [`position`](Self::position),
    /// and they grow newer from there, past the end and on from the start.
    pub fn keys(&self) -> Tensor<2> {
        self.filled(&self.keys)
    }

    /// The ids `[len]` of [`keys`](Self::keys), in the same order; `None` if the queue keeps none.
    pub fn ids(&self) -> Option<Tensor<1, Int>> {
        self.ids.as_ref().map(|ids| self.filled(ids))
    }

    /// Number of keys in the queue.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether the queue has no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Largest number of keys in the queue.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Number of features of each key.
    pub fn features(&self) -> usize {
        self.keys.dims()[1]
    }

    /// Row that the next key takes: in a full queue the row of the oldest key.
    pub fn position(&self) -> usize {
        self.ring.next()
    }

    /// Forgets all keys.
    pub fn clear(&mut self) {
        self.ring = Ring::new(self.capacity());
    }

    fn check_keys(&self, keys: &Tensor<2>) -> Result<(), ContrastiveError> {
        let features = self.features();
        if keys.dims()[1] != features {
            return Err(ContrastiveError::Features {
                keys: keys.dims(),
                expected: features,
            });
        }
        self.check_device("keys", &keys.device())?;
        if let dtype @ DType::QFloat(_) = keys.dtype() {
            return Err(ContrastiveError::Quantized {
                tensor: "keys",
                dtype,
            });
        }
        self.check_dtype("keys", keys.dtype(), self.keys.dtype())
    }

    fn check_device(&self, tensor: &'static str, given: &Device) -> Result<(), ContrastiveError> {
        let queue = self.keys.device();
        let given = given.clone().without_autodiff();
        if given == queue {
            return Ok(());
        }
        Err(ContrastiveError::Device {
            tensor,
            given: given.into(),
            queue: queue.into(),
        })
    }

    fn check_dtype(
        &self,
        tensor: &'static str,
        given: DType,
        held: DType,
    ) -> Result<(), ContrastiveError> {
        if given == held || self.is_empty() {
            return Ok(());
        }
        Err(ContrastiveError::Dtype {
            tensor,
            given,
            queue: held,
        })
    }

    /// Adds keys and ids that are already checked.
    fn put(&mut self, keys: Tensor<2>, ids: Option<Tensor<1, Int>>) {
        if self.finite_only && self.is_empty() {
            // A refused key would leave what the rows held before the queue was cleared.
            self.keys = self.keys.zeros_like();
            self.ids = self.ids.as_ref().map(Tensor::zeros_like);
        }
        let spans = self.ring.push(keys.dims()[0]);
        if spans.is_empty() {
            return;
        }
        let keys = keys.without_autodiff();
        let refused = self.finite_only.then(|| {
            let not_finite = keys.clone().is_finite().bool_not();
            not_finite.any_dim(1)
        });
        write(&mut self.keys, keys, &spans, refused.as_ref());
        if let (Some(held), Some(ids)) = (&mut self.ids, ids) {
            let refused = refused.map(|refused| refused.squeeze_dim(1));
            write(held, ids.without_autodiff(), &spans, refused.as_ref());
        }
    }

    /// Rows of a tensor that hold keys or ids.
    fn filled<const D: usize, K: Basic>(&self, held: &Tensor<D, K>) -> Tensor<D, K> {
        if self.len() == self.capacity() {
            held.clone()
        } else {
            held.clone().slice(0..self.len())
        }
    }
}

/// Writes a batch into its rows, but for the refused ones. The dtype differs only if the queue was empty.
fn write<const D: usize, K: Numeric>(
    held: &mut Tensor<D, K>,
    batch: Tensor<D, K>,
    spans: &[Span],
    refused: Option<&Tensor<D, Bool>>,
) {
    if held.dtype() != batch.dtype() && !spans.is_empty() {
        *held = Tensor::zeros(held.shape(), (&held.device(), batch.dtype()));
    }
    for span in spans {
        let mut rows = batch.clone().slice(span.batch.clone());
        if let Some(refused) = refused {
            let refused = refused.clone().slice(span.batch.clone());
            let old = held.clone().slice(span.ring.clone());
            rows = rows.mask_where(refused.expand(old.shape()), old);
        }
        held.inplace(|held| held.slice_assign(span.ring.clone(), rows));
    }
}
