//! Gradients of a network by the names of its parameters.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::ModuleSnapshot;
use burn::tensor::{Gradients, Tensor};

use crate::networks::parameters;
use crate::support::{Safetensors, values};

/// The gradients of a loss by the names, and in the layout, that the parameters have in PyTorch. Every parameter must have
/// one.
pub fn gradients<M: Module + ModuleSnapshot>(network: M, loss: &Tensor<1>) -> BTreeMap<String, Vec<f32>> {
    let grads = GradientsParams::from_grads(loss.backward(), &network);
    let mut missing = Vec::new();
    network.visit(&mut Ungraded { grads: &grads, missing: &mut missing });
    assert_eq!(missing, Vec::<String>::new(), "parameters without a gradient");
    // The gradients, dressed as a network, have its names.
    parameters(&network.map(&mut IntoGradients { grads }))
}

/// The gradients of all parameters by the paths of their fields, in the order of these. Every parameter must have one.
pub fn gradients_by_path<M: Module>(module: &M, gradients: &Gradients, matrices: Matrices) -> Vec<(String, Vec<f64>)> {
    let mut collect = Collect { gradients, matrices, path: Vec::new(), found: Vec::new() };
    module.visit(&mut collect);
    collect.found
}

/// How the gradients of matrices are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrices {
    /// As in Burn: `[in, out]`.
    InOut,
    /// As in PyTorch: `[out, in]`.
    OutIn,
}

struct Collect<'a> {
    gradients: &'a Gradients,
    matrices: Matrices,
    path: Vec<String>,
    found: Vec<(String, Vec<f64>)>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("{name} has no gradient"));
        let gradient = if D == 2 && self.matrices == Matrices::OutIn { gradient.transpose() } else { gradient };
        self.found.push((name, values(gradient)));
    }
}

/// Panics unless the gradients have the names and, but for rounding, the values of a file: the norm of the difference is at
/// most `relative` times the norm, plus `per_element` times the root of the number of values.
pub fn assert_gradients(
    found: &BTreeMap<String, Vec<f32>>,
    wanted: &Safetensors,
    [relative, per_element]: [f64; 2],
    what: &str,
) {
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), wanted.names(), "{what}");
    for (name, found) in found {
        let wanted = wanted.f64(name);
        assert_eq!(found.len(), wanted.len(), "{what} {name}");
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let error = norm(&mut found.iter().zip(&wanted).map(|(&f, w)| f64::from(f) - w));
        let allowed = relative * norm(&mut wanted.iter().copied()) + per_element * (wanted.len() as f64).sqrt();
        assert!(error <= allowed, "{what} {name}: off by {error:e}, allowed {allowed:e}");
    }
}

/// Collects the parameters that have no gradient.
struct Ungraded<'a> {
    grads: &'a GradientsParams,
    missing: &'a mut Vec<String>,
}

impl ModuleVisitor for Ungraded<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.grads.get::<D>(param.id).is_none() {
            self.missing.push(format!("{:?}", param.id));
        }
    }
}

/// Puts each parameter's gradient in its place.
struct IntoGradients {
    grads: GradientsParams,
}

impl ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let grad = self.grads.remove::<D>(param.id).expect("every parameter has a gradient");
        Param::initialized(param.id, grad)
    }
}
