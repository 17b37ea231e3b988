//! A module with tensors of every kind, and its values by path.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::run::numbers;

/// A module with tensors of every kind.
#[derive(Module, Debug)]
pub struct Encoder {
    pub layers: Vec<Linear>,
    pub norm: BatchNorm,
    pub temperature: Param<Tensor<1>>,
    pub steps: Param<Tensor<1, Int>>,
    pub mask: Param<Tensor<2, Bool>>,
}

impl Encoder {
    pub fn new(device: &Device) -> Self {
        Self {
            layers: vec![
                LinearConfig::new(3, 5).init(device),
                LinearConfig::new(5, 2).with_bias(false).init(device),
            ],
            norm: BatchNormConfig::new(2).init(device),
            temperature: Param::from_data([0.07], device),
            steps: Param::initialized(ParamId::new(), Tensor::from_ints([3], device)),
            mask: Param::initialized(ParamId::new(), mask([false, true], device)),
        }
    }

    /// Another module, with other values everywhere.
    pub fn other(device: &Device) -> Self {
        let mut other = Self::new(device).map(&mut Scale(-1.5));
        other.steps = Param::initialized(other.steps.id, Tensor::from_ints([8], device));
        other.mask = Param::initialized(other.mask.id, mask([true, true], device));
        other
    }
}

fn mask(values: [bool; 2], device: &Device) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::from([values]), device)
}

/// Multiplies every float by a factor, and adds one.
pub struct Scale(pub f64);

impl ModuleMapper for Scale {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let factor = self.0;
        param.map(|tensor| {
            let require_grad = tensor.is_require_grad();
            let scaled = tensor * factor + 1.0;
            scaled.detach().set_require_grad(require_grad)
        })
    }
}

/// Fills every float tensor with these numbers, over and over.
pub struct Fill<'a>(pub &'a [f32]);

impl ModuleMapper for Fill<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let require_grad = tensor.is_require_grad();
            let shape = tensor.shape();
            let values: Vec<f32> = self
                .0
                .iter()
                .copied()
                .cycle()
                .take(shape.num_elements())
                .collect();
            let filled = Tensor::from_data(TensorData::new(values, shape), &tensor.device());
            filled.set_require_grad(require_grad)
        })
    }
}

/// The values of every tensor, by its path.
#[derive(Default)]
pub struct Seen {
    path: Vec<String>,
    pub values: Vec<(String, Vec<f64>)>,
    pub ids: Vec<ParamId>,
    pub require_grad: Vec<bool>,
}

impl Seen {
    pub fn of(module: &impl Module) -> Self {
        let mut seen = Self::default();
        module.visit(&mut seen);
        seen
    }

    fn add(&mut self, id: ParamId, require_grad: bool, values: Vec<f64>) {
        self.values.push((self.path.join("."), values));
        self.ids.push(id);
        self.require_grad.push(require_grad);
    }

    /// The values of all paths that contain that name.
    pub fn under(&self, name: &str) -> Vec<f64> {
        let found = self.values.iter().filter(|(path, _)| path.contains(name));
        let values: Vec<f64> = found.flat_map(|(_, values)| values.clone()).collect();
        assert!(!values.is_empty(), "nothing is named {name}");
        values
    }
}

impl ModuleVisitor for Seen {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.id, param.is_require_grad(), numbers(param.val()));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let values = param.val().into_data().iter::<f64>().collect();
        self.add(param.id, false, values);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let data = param.val().into_data();
        let values = data.iter::<bool>().map(u8::from).map(f64::from);
        self.add(param.id, false, values.collect());
    }
}
