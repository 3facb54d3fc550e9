//! The parameters of a network by name. A name is the path of fields to it: `down_blocks.0.resnets.1.conv1.weight`.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use ddpm_model::pass::Values;

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its id in records.
    pub id: ParamId,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters, in the order of the fields.
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    walk(module, Read::Nothing).into_iter().map(|(parameter, _)| parameter).collect()
}

/// The names of the parameters of a layer, and what there is to say of their numbers.
pub fn weights_of<M: Module>(module: &M, layer: &str) -> Vec<(String, Values)> {
    let found = walk(module, Read::Weights { layer });
    found.into_iter().filter_map(|(parameter, values)| Some((parameter.name, values?))).collect()
}

/// The names of the parameters that have a gradient, and what there is to say of its numbers.
pub fn gradients_of<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<(String, Values)> {
    let found = walk(module, Read::Gradients(gradients));
    found.into_iter().filter_map(|(parameter, values)| Some((parameter.name, values?))).collect()
}

fn walk<M: Module>(module: &M, read: Read<'_>) -> Vec<(Parameter, Option<Values>)> {
    let mut walk = Walk { read, path: Vec::new(), found: Vec::new() };
    module.visit(&mut walk);
    walk.found
}

/// Whose numbers are read.
enum Read<'a> {
    Nothing,
    Weights { layer: &'a str },
    Gradients(&'a GradientsParams),
}

struct Walk<'a> {
    read: Read<'a>,
    path: Vec<String>,
    found: Vec<(Parameter, Option<Values>)>,
}

impl ModuleVisitor for Walk<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !is_choice(container) {
            self.path.push(name.into());
        }
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        if !is_choice(container) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        let values = match self.read {
            Read::Nothing => None,
            Read::Weights { layer } => is_inside(layer, &name).then(|| Values::of(&param.val())),
            Read::Gradients(gradients) => gradients.get::<D>(param.id).map(|gradient| Values::of(&gradient)),
        };
        self.found.push((Parameter { name, id: param.id, shape: param.lazy_shape().to_vec() }, values));
    }
}

/// Whether a parameter belongs to a layer.
pub fn is_inside(layer: &str, parameter: &str) -> bool {
    parameter.strip_prefix(layer).is_some_and(|rest| rest.starts_with('.'))
}

/// Which of several modules a field holds is no part of a name, as in the files of snapshots.
pub fn is_choice(container: &str) -> bool {
    container.starts_with("Enum:")
}

/// Draws the lazy first values of all parameters, in the order of the fields, and numbers the parameters in
/// that order: Burn's own ids are random, and records carry them, so two equal runs would differ in them.
pub fn settle<M: Module>(module: M) -> M {
    struct Number(u64);
    impl ModuleMapper for Number {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, value, mapper) = param.consume();
            self.0 += 1;
            Param::from_mapped_value(ParamId::from(self.0), value, mapper)
        }
    }
    module.map(&mut Number(0))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use ddpm_model::network::NetworkConfig;
    use ddpm_model::unet::UNetConfig;

    use super::*;
    use crate::parameters::settle;

    #[test]
    fn names_are_paths_of_fields() {
        let config = UNetConfig {
            base_channels: 4,
            multipliers: vec![1.0, 1.0],
            attention_resolutions: vec![4],
            blocks_per_level: 1,
            norm_groups: 2,
            classes: 3,
            ..UNetConfig::default()
        };
        let config = NetworkConfig::UNet(config).with_io(&[1, 8, 8], 1);
        let network = settle(config.init(&Device::default().autodiff()));
        let all = parameters(&network);
        let total: usize = all.iter().map(Parameter::len).sum();
        assert_eq!(total, network.num_params());
        for name in ["down_blocks.0.downsamplers.0.conv.weight", "class_embedding.weight", "conv_norm_out.gamma"] {
            assert!(all.iter().any(|parameter| parameter.name == name), "{name}: {all:#?}");
        }
        let weights = weights_of(&network, "down_blocks.1.attentions.0.to_q");
        let names: Vec<&str> = weights.iter().map(|(name, _)| &name[name.len() - 8..]).collect();
        assert_eq!(names, ["q.weight", "o_q.bias"]);
        assert_eq!((weights[0].1.count, weights[1].1.highest), (16, 0.0));
    }
}
