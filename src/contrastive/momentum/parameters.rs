//! Check that two modules have the same parameters, so that they can be paired.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Shape, Tensor};

use crate::contrastive::error::ContrastiveError;

/// Checks that names, kinds and shapes are the same, in the order of visiting.
pub(super) fn check_same_parameters<M: Module>(
    online: &M,
    target: &M,
) -> Result<(), ContrastiveError> {
    let [online, target] = [online, target].map(|module| {
        let mut parameters = Parameters::default();
        module.visit(&mut parameters);
        parameters.found
    });
    let longer = online.len().max(target.len());
    let differs = |at: &usize| online.get(*at) != target.get(*at);
    let Some(parameter) = (0..longer).find(differs) else {
        return Ok(());
    };
    let shown = |found: &[Parameter]| match found.get(parameter) {
        Some(found) => format!(
            "`{}`, a {} tensor of shape {:?}",
            found.path, found.kind, found.shape
        ),
        None => format!("no more than {parameter}"),
    };
    Err(ContrastiveError::DifferentModules {
        parameter,
        online: shown(&online),
        target: shown(&target),
    })
}

/// Parameters of a module in the order of visiting.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: Vec<Parameter>,
}

#[derive(PartialEq, Eq)]
struct Parameter {
    path: String,
    kind: &'static str,
    shape: Vec<usize>,
}

impl Parameters {
    fn add(&mut self, kind: &'static str, shape: Shape) {
        self.found.push(Parameter {
            path: self.path.join("."),
            kind,
            shape: shape.to_vec(),
        });
    }
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add("float", param.lazy_shape());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add("integer", param.lazy_shape());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add("boolean", param.lazy_shape());
    }
}
