//! Implementation of the module traits for the queue: visits, maps, moves and records.
//!
//! It is written by hand, because a derived module records only parameters. Position and length are
//! numbers of the host: they become a tensor only where a record is written or read.

use std::fmt;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::NegativeQueue;
use super::ring::Ring;

const CONTAINER: &str = "Struct:NegativeQueue";
const KEYS: &str = "keys";
const IDS: &str = "ids";
const RING: &str = "ring";

/// Numbers of a queue in a record. The first three tell whether the tensors of the record were loaded:
/// Burn skips a tensor of another shape, and reports it only on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    capacity: i32,
    features: i32,
    ids: i32,
    next: i32,
    len: i32,
}

impl Numbers {
    const COUNT: usize = 5;

    fn of(queue: &NegativeQueue) -> Self {
        // The configuration refuses sizes that do not fit.
        let number = |number: usize| number as i32;
        Self {
            capacity: number(queue.capacity()),
            features: number(queue.features()),
            ids: number(queue.ids.is_some().into()),
            next: number(queue.position()),
            len: number(queue.len()),
        }
    }

    /// Converts the numbers to a parameter that makes its tensor only when it is read.
    fn as_param(self, queue: &NegativeQueue) -> Param<Tensor<1, Int>> {
        let Self {
            capacity,
            features,
            ids,
            next,
            len,
        } = self;
        let numbers = [capacity, features, ids, next, len];
        Param::uninitialized(
            queue.param_ids.ring,
            move |device, _| Tensor::from_data(TensorData::from(numbers), (device, DType::I32)),
            queue.keys.device(),
            false,
            [Self::COUNT].into(),
        )
    }

    fn read(tensor: Tensor<1, Int>) -> Option<Self> {
        let numbers: Vec<i64> = tensor.into_data().iter::<i64>().collect();
        let numbers: Vec<i32> = numbers
            .into_iter()
            .map(i32::try_from)
            .collect::<Result<_, _>>()
            .ok()?;
        let [capacity, features, ids, next, len] = numbers.try_into().ok()?;
        Some(Self {
            capacity,
            features,
            ids,
            next,
            len,
        })
    }

    /// Ring of a queue whose numbers were `before`, after `loaded` was loaded.
    fn ring(loaded: Option<Self>, before: Self, ring: Ring) -> Ring {
        let nothing = Ring::new(ring.capacity());
        let Some(loaded) = loaded else {
            return nothing;
        };
        if (loaded.capacity, loaded.features) != (before.capacity, before.features) {
            // The keys of the record did not fit either, so the queue still has its old keys.
            return ring;
        }
        if loaded.ids < before.ids {
            return nothing;
        }
        let [next, len] = [loaded.next, loaded.len].map(usize::try_from);
        let (Ok(next), Ok(len)) = (next, len) else {
            return nothing;
        };
        Ring::restored(ring.capacity(), next, len).unwrap_or(nothing)
    }
}

impl Module for NegativeQueue {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(KEYS, CONTAINER);
        visitor.visit_float(&Param::initialized(self.param_ids.keys, self.keys.clone()));
        visitor.exit_module(KEYS, CONTAINER);
        if let Some(ids) = &self.ids {
            visitor.enter_module(IDS, CONTAINER);
            visitor.visit_int(&Param::initialized(self.param_ids.ids, ids.clone()));
            visitor.exit_module(IDS, CONTAINER);
        }
        visitor.enter_module(RING, CONTAINER);
        visitor.visit_int(&Numbers::of(self).as_param(self));
        visitor.exit_module(RING, CONTAINER);
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        let before = Numbers::of(&self);
        let numbers = before.as_param(&self);

        mapper.enter_module(KEYS, CONTAINER);
        let keys = mapper.map_float(Param::initialized(self.param_ids.keys, self.keys));
        mapper.exit_module(KEYS, CONTAINER);
        self.param_ids.keys = keys.id;
        // Keys stay constants, whatever a mapper does to parameters.
        self.keys = keys.into_value().without_autodiff();

        if let Some(ids) = self.ids {
            mapper.enter_module(IDS, CONTAINER);
            let ids = mapper.map_int(Param::initialized(self.param_ids.ids, ids));
            mapper.exit_module(IDS, CONTAINER);
            self.param_ids.ids = ids.id;
            self.ids = Some(ids.into_value().without_autodiff());
        }

        mapper.enter_module(RING, CONTAINER);
        let numbers = mapper.map_int(numbers);
        mapper.exit_module(RING, CONTAINER);
        self.param_ids.ring = numbers.id;
        // Most mappers do not touch the parameter, and then the host does not wait for the device.
        if numbers.is_initialized() {
            let loaded = Numbers::read(numbers.into_value());
            self.ring = Numbers::ring(loaded, before, self.ring);
        }
        self
    }

    /// Number of parameters: 0, because keys are not trained.
    fn num_params(&self) -> usize {
        0
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.keys = self.keys.to_device(device);
        self.ids = self.ids.map(|ids| ids.to_device(device));
        self
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Devices) -> Devices {
        let device = self.keys.device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn train(self) -> Self {
        self
    }
}

impl ModuleDisplayDefault for NegativeQueue {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .set_top_level_type("NegativeQueue")
            .add("capacity", &self.capacity())
            .add("features", &self.features())
            .add("ids", &self.ids.is_some())
            .add("len", &self.len())
            .optional()
    }
}

impl ModuleDisplay for NegativeQueue {}

impl fmt::Display for NegativeQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.format(Default::default()))
    }
}

impl fmt::Debug for NegativeQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NegativeQueue")
            .field("keys", &self.keys)
            .field("ids", &self.ids)
            .field("ring", &self.ring)
            .finish()
    }
}
