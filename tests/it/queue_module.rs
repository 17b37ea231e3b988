//! The queue of negatives as a part of a model: in records, on other devices, under mappers.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::store::ModuleRecord;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{NegativeQueue, NegativeQueueConfig};

use crate::common::backends::tests_on;
use crate::common::run::numbers;

#[derive(Module, Debug)]
struct Contrast {
    encoder: Linear,
    queue: NegativeQueue,
}

impl Contrast {
    fn new(queue: NegativeQueue, device: &Device) -> Self {
        Self {
            encoder: LinearConfig::new(3, 2).init(device),
            queue,
        }
    }
}

/// Pushes keys and ids that count from `start`.
fn push(queue: &mut NegativeQueue, start: usize, rows: usize) {
    let device = &queue.devices()[0];
    let dtype = queue.keys().dtype();
    let numbers: Vec<f64> = (0..2 * rows).map(|n| (2 * start + n) as f64).collect();
    let keys = Tensor::from_data(TensorData::new(numbers, [rows, 2]), (device, dtype));
    match queue.ids() {
        None => queue.push(keys),
        Some(ids) => {
            let numbers: Vec<i64> = (start..start + rows).map(|n| 100 + n as i64).collect();
            let data = TensorData::new(numbers, [rows]);
            queue.push_with_ids(keys, Tensor::from_data(data, (device, ids.dtype())));
        }
    }
}

fn empty(capacity: usize, ids: bool, device: &Device) -> NegativeQueue {
    NegativeQueueConfig::new(capacity, 2)
        .with_ids(ids)
        .init(device)
}

/// A queue of this capacity, into which six keys were pushed.
fn filled(capacity: usize, ids: bool, device: &Device) -> NegativeQueue {
    let mut queue = empty(capacity, ids, device);
    push(&mut queue, 0, 6);
    queue
}

fn contents(queue: &NegativeQueue) -> (Vec<f64>, Option<Vec<i64>>, usize, usize) {
    let ids = queue
        .ids()
        .map(|ids| ids.into_data().iter::<i64>().collect());
    (numbers(queue.keys()), ids, queue.len(), queue.position())
}

/// Passes a record through the bytes of a file.
fn record(module: impl Module) -> ModuleRecord {
    let bytes = module.into_record().into_bytes().expect("bytes");
    ModuleRecord::from_bytes(bytes).expect("a record")
}

fn a_record_holds_all_of_the_queue(device: &Device) {
    for ids in [false, true] {
        // The queue is filling, just full, or wrapped.
        for capacity in [9, 6, 4] {
            let mut saved = filled(capacity, ids, device);
            let mut loaded = empty(capacity, ids, device).load_record(record(saved.clone()));
            assert_eq!(contents(&loaded), contents(&saved));
            // The loaded queue continues as the saved one does.
            for queue in [&mut saved, &mut loaded] {
                push(queue, 6, 5);
            }
            assert_eq!(contents(&loaded), contents(&saved));
        }
    }
    let loaded = filled(4, true, device).load_record(record(empty(4, true, device)));
    assert!(loaded.is_empty());
}

fn a_record_of_a_model_holds_its_queue(device: &Device) {
    let saved = Contrast::new(filled(4, true, device), device);
    // The record has weight and bias, keys, ids and ring.
    assert_eq!(saved.clone().into_record().len(), 5);
    let expected = contents(&saved.queue);
    let folder = std::env::temp_dir().join(format!(
        "negative-queue-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("model.bpk");
    saved.save_file(&file).expect("a file");
    let loaded = Contrast::new(empty(4, true, device), device).load_file(&file);
    assert_eq!(contents(&loaded.queue), expected);
    // The folder stays until here, because Burn reads the content of a file when it is used.
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}

fn a_record_keeps_the_dtype_or_is_cast(device: &Device) {
    let mut saved = empty(4, false, device);
    saved.push(Tensor::from_data(
        TensorData::from([[1.5, 2.0], [3.0, 4.0]]),
        (device, DType::F64),
    ));
    let record = || record(saved.clone());
    let loaded = empty(4, false, device).load_record(record());
    assert_eq!(loaded.keys().dtype(), DType::F64);
    assert_eq!(contents(&loaded), contents(&saved));
    let loaded = empty(4, false, device).load_record(record().cast_to_module_dtype());
    assert_eq!(loaded.keys().dtype(), DType::F32);
    assert_eq!(contents(&loaded), contents(&saved));
}

fn a_record_of_another_queue_is_refused(device: &Device) {
    let record = || record(filled(5, true, device));
    assert!(empty(4, true, device).try_load_record(record()).is_err());
    assert!(empty(5, false, device).try_load_record(record()).is_err());
    let features = NegativeQueueConfig::new(5, 3).with_ids(true).init(device);
    assert!(features.try_load_record(record()).is_err());
    let without = self::record(filled(5, false, device));
    assert!(empty(5, true, device).try_load_record(without).is_err());
}

/// A slot without a key does not become a negative, and no key gets the id of another.
fn what_is_loaded_in_part_fits_together(device: &Device) {
    let record = || record(filled(5, true, device)).validate(false);

    // Keys of another shape leave the queue as if there were no record.
    for ids in [false, true] {
        let queue = filled(4, ids, device);
        let expected = contents(&queue);
        let loaded = queue.load_record(record().allow_unused(true));
        assert_eq!(contents(&loaded), expected);
    }
    let features = NegativeQueueConfig::new(5, 3).with_ids(true).init(device);
    assert!(features.load_record(record()).is_empty());

    // Ids in the record are dropped where the queue does not have ids.
    let loaded = empty(5, false, device).load_record(record().allow_unused(true));
    assert_eq!(contents(&loaded), contents(&filled(5, false, device)));

    // Keys without ids leave the queue empty.
    let without = self::record(filled(5, false, device)).allow_partial(true);
    let loaded = filled(5, true, device).load_record(without);
    assert!(loaded.is_empty());

    // A record without the queue leaves it unchanged.
    let encoder = self::record(Contrast::new(filled(5, true, device), device).encoder);
    let queue = filled(5, true, device);
    let expected = contents(&queue);
    let loaded = queue.load_record(encoder.allow_partial(true).allow_unused(true));
    assert_eq!(contents(&loaded), expected);
}

/// Adds a number to every integer.
struct Add(i64);

impl ModuleMapper for Add {
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|tensor| tensor + self.0)
    }
}

fn numbers_that_no_queue_has_leave_it_empty(device: &Device) {
    for numbers in [
        [5, 2, 0, 5, 5],
        [5, 2, 0, 3, 4],
        [5, 2, 0, -1, 5],
        [5, 2, 0, 0, 6],
    ] {
        struct Replace([i64; 5]);
        impl ModuleMapper for Replace {
            fn map_int<const D: usize>(
                &mut self,
                param: Param<Tensor<D, Int>>,
            ) -> Param<Tensor<D, Int>> {
                param.map(|tensor| {
                    let data = TensorData::from(self.0);
                    let options = (&tensor.device(), tensor.dtype());
                    Tensor::<1, Int>::from_data(data, options).reshape(tensor.shape())
                })
            }
        }
        let mapped = filled(5, false, device).map(&mut Replace(numbers));
        assert!(mapped.is_empty(), "{numbers:?}");
    }
    // A mapper that changes no number leaves the queue unchanged.
    let queue = filled(5, false, device);
    assert_eq!(contents(&queue.clone().map(&mut Add(0))), contents(&queue));
}

/// Makes every float tensor a leaf.
struct Track;

impl ModuleMapper for Track {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.autodiff().require_grad())
    }
}

fn keys_stay_constants_under_every_mapper(device: &Device) {
    let queue = filled(4, true, device);
    let expected = contents(&queue);
    assert_eq!(queue.num_params(), 0);
    assert_eq!(Contrast::new(queue.clone(), device).num_params(), 3 * 2 + 2);
    let forms = [
        queue.clone().map(&mut Track),
        queue.clone().set_require_grad(true),
        queue.clone().no_grad().unfreeze(),
        queue.valid(),
        queue.clone().train(),
        queue.clone().valid().train().materialize(),
        queue.clone().fork(device),
        queue.clone().to_device(device),
    ];
    for mut form in forms {
        assert!(!form.keys().is_autodiff() && !form.keys().is_require_grad());
        assert_eq!(contents(&form), expected);
        push(&mut form, 6, 1);
        assert_ne!(contents(&form), expected);
    }
    assert_eq!(contents(&queue), expected);
}

fn an_optimizer_leaves_the_queue(device: &Device) {
    use burn::optim::{GradientsParams, SgdConfig};

    let model = Contrast::new(filled(4, true, device), device);
    let expected = contents(&model.queue);
    let weight = numbers(model.encoder.weight.val());
    let queries = model.encoder.forward(Tensor::ones([5, 3], device));
    let loss = queries.matmul(model.queue.keys().transpose()).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let model = SgdConfig::new().init().step(0.5, model, gradients);
    assert_ne!(numbers(model.encoder.weight.val()), weight);
    assert_eq!(contents(&model.queue), expected);
}

fn a_queue_shows_its_options(device: &Device) {
    let shown = format!("{}", filled(9, true, device));
    for said in ["capacity: 9", "features: 2", "ids: true", "len: 6"] {
        assert!(shown.contains(said), "{shown}");
    }
    let model = format!("{}", Contrast::new(filled(9, false, device), device));
    assert!(model.contains("NegativeQueue"), "{model}");
}

tests_on! {
    one_of_each_kind: [
        a_record_holds_all_of_the_queue,
        a_record_of_a_model_holds_its_queue,
        a_record_keeps_the_dtype_or_is_cast,
        a_record_of_another_queue_is_refused,
        what_is_loaded_in_part_fits_together,
        numbers_that_no_queue_has_leave_it_empty,
        keys_stay_constants_under_every_mapper,
        an_optimizer_leaves_the_queue,
        a_queue_shows_its_options,
    ],
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn a_queue_follows_its_model_to_another_device() {
    let (flex, ndarray) = (Device::flex(), Device::ndarray());
    let model = Contrast::new(filled(4, true, &flex), &flex);
    let expected = contents(&model.queue);
    for moved in [
        model.clone().to_device(&ndarray),
        model.clone().fork(&ndarray.clone().autodiff()),
        Contrast::new(empty(4, true, &ndarray), &ndarray).load_record(record(model)),
    ] {
        assert_eq!(moved.queue.devices(), std::slice::from_ref(&ndarray));
        assert_eq!(contents(&moved.queue), expected);
        let mut queue = moved.queue;
        push(&mut queue, 6, 2);
        assert_eq!(queue.position(), 0);
    }
}
