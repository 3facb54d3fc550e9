//! Where a step stopped being finite: the step is computed once more, with a look at every layer.

use std::fmt;

use burn::optim::GradientsParams;
use ddpm_families::family::RowLoss;
use ddpm_families::parameters::{gradients_of, is_inside, weights_of};
use ddpm_model::batch_norm::BatchStatistics;
use ddpm_model::pass::{Trace, TracedLayer, Values};

use crate::train_step::{TrainBatch, TrainModel};

/// Near the root of the largest number of 32 bits, above which a square has no place.
const HUGE: f64 = 1e18;

/// What was the first thing not to be finite.
#[derive(Clone, Debug, PartialEq)]
pub enum Anomaly {
    /// What a layer gave, in the order of the forward pass.
    Layer {
        /// The layer, with what it was given and what it gave.
        layer: TracedLayer,
        /// Its parameters.
        weights: Vec<(String, Values)>,
    },
    /// The loss of a finite prediction.
    Loss {
        /// The time of the first row whose loss it is.
        time: f64,
        /// That loss.
        loss: f64,
        /// The prediction.
        output: Values,
    },
    /// A gradient, though everything on the way to the loss is finite.
    Gradient {
        /// The parameter that the backward pass reaches first, as far as the order of the layers tells.
        parameter: String,
        /// Its gradient.
        gradient: Values,
        /// The layer it belongs to.
        layer: Option<TracedLayer>,
        /// The parameters of that layer.
        weights: Vec<(String, Values)>,
    },
    /// The norm of finite gradients.
    Norm {
        /// The parameter with the largest gradient.
        parameter: String,
        /// That gradient.
        gradient: Values,
    },
}

/// Computes the losses of the parts of a step once more. The device must be seeded as it was for the step.
///
/// Gives nothing where all is finite this time.
pub fn find(model: &TrainModel, parts: &[TrainBatch], gradients: &GradientsParams) -> Option<Anomaly> {
    let weights = |path: &str| weights_of(&model.net, path);
    let mut layers = Vec::new();
    for part in parts {
        let (trace, statistics) = (Trace::default(), BatchStatistics::default());
        let rows = model.rows(part, model.losses(part, &trace.pass().training(&statistics)).rows);
        layers = trace.into_layers();
        if let Some(layer) = layers.iter().find(|layer| !layer.output.are_finite()) {
            return Some(Anomaly::Layer { weights: weights(&layer.path), layer: layer.clone() });
        }
        let at_fault = rows.into_iter().find(|row| !row.loss.is_finite());
        if let (Some(RowLoss { time, loss }), Some(last)) = (at_fault, layers.last()) {
            return Some(Anomaly::Loss { time, loss, output: last.output });
        }
    }
    // Backwards the last layer comes first.
    let layer_of = |parameter: &str| layers.iter().position(|layer| is_inside(&layer.path, parameter));
    let gradients = gradients_of(&model.net, gradients);
    let at_fault = gradients.iter().filter(|(_, gradient)| !gradient.are_finite());
    if let Some((parameter, gradient)) = at_fault.max_by_key(|(parameter, _)| layer_of(parameter)) {
        let layer = layer_of(parameter).map(|place| layers[place].clone());
        let weights = layer.as_ref().map(|layer| weights(&layer.path)).unwrap_or_default();
        return Some(Anomaly::Gradient { parameter: parameter.clone(), gradient: *gradient, layer, weights });
    }
    let largest = gradients.into_iter().max_by(|(_, a), (_, b)| a.rms.total_cmp(&b.rms));
    let is_huge = |gradient: &Values| gradient.rms * (gradient.count as f64).sqrt() > HUGE;
    let largest = largest.filter(|(_, gradient)| is_huge(gradient));
    largest.map(|(parameter, gradient)| Anomaly::Norm { parameter, gradient })
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = |f: &mut fmt::Formatter<'_>, layer: &TracedLayer, weights: &[(String, Values)]| {
            if let Some(input) = layer.input {
                write!(f, "\n  its input: {input}")?;
                if !input.are_finite() {
                    write!(f, " (no layer made it so: the data or the noise did)")?;
                }
            }
            write!(f, "\n  its output: {}", layer.output)?;
            for (name, values) in weights {
                let old = if values.are_finite() { "" } else { " (from the step before, or from the start)" };
                write!(f, "\n  {name}: {values}{old}")?;
            }
            Ok(())
        };
        match self {
            Self::Layer { layer, weights } => {
                write!(f, "the first layer that is not finite is {}", layer.path)?;
                inside(f, layer, weights)
            }
            Self::Loss { time, loss, output } => {
                write!(f, "every layer is finite, and the loss of the row at time {time} is {loss}")?;
                write!(f, "\n  the prediction: {output}")
            }
            Self::Gradient { parameter, gradient, layer, weights } => {
                write!(
                    f,
                    "every layer and the loss are finite; going backwards, the first gradient that is not is that of "
                )?;
                write!(f, "{parameter}\n  the gradient: {gradient}")?;
                layer.iter().try_for_each(|layer| inside(f, layer, weights))
            }
            Self::Norm { parameter, gradient } => {
                write!(
                    f,
                    "every gradient is finite, and the sum of their squares is too large for a number; the largest is "
                )?;
                write!(f, "that of {parameter}\n  the gradient: {gradient}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use burn::module::{Module, ModuleMapper, Param};
    use burn::tensor::{Device, Distribution, Tensor};
    use burn_train::TrainStep;
    use ddpm_data::{DataInfo, Units};
    use ddpm_families::snapshot::DiffusionConfig;
    use ddpm_model::condition::Condition;
    use ddpm_model::network::{Network, NetworkConfig};
    use ddpm_model::point_mlp::PointMlpConfig;
    use ddpm_model::unet::UNetConfig;

    use super::*;
    use crate::clip_and_average::clip_global_norm;
    use ddpm_families::diffusion::DiffusionFamily;
    use ddpm_families::diffusion::noising::NoisedBatch;
    use ddpm_families::diffusion::tables::DiffusionTables;
    use ddpm_families::family::Origin;
    use ddpm_families::family::any_module::AnyModule;
    use ddpm_families::family::erased::AnyBatch;
    use ddpm_families::parameters::settle;

    /// Replaces the values of one parameter by what a function makes of them.
    struct Poison<'a> {
        name: &'a str,
        change: &'a dyn Fn(f64) -> f64,
        path: Vec<String>,
        found: bool,
    }

    impl ModuleMapper for Poison<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            if !container.starts_with("Enum:") {
                self.path.push(name.into());
            }
        }

        fn exit_module(&mut self, _: &str, container: &str) {
            if !container.starts_with("Enum:") {
                self.path.pop();
            }
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.path.join(".") != self.name {
                return param;
            }
            self.found = true;
            param.map(|value| {
                let (shape, device) = (value.dims(), value.device());
                let numbers: Vec<f32> =
                    value.into_data().iter::<f64>().map(|number| (self.change)(number) as f32).collect();
                Tensor::from_data(burn::tensor::TensorData::new(numbers, shape), &device).require_grad()
            })
        }
    }

    fn poisoned(network: Network, name: &str, change: &dyn Fn(f64) -> f64) -> Network {
        let mut poison = Poison { name, change, path: Vec::new(), found: false };
        let network = network.map(&mut poison);
        assert!(poison.found, "{name}");
        network
    }

    /// A model under the objective of the paper. The loss does not ask what the data are.
    fn model(net: Network) -> TrainModel {
        let tables =
            DiffusionTables::of(NetworkConfig::PointMlp(PointMlpConfig::default()), DiffusionConfig::default());
        let data = DataInfo {
            name: "test".into(),
            shape: vec![2],
            classes: Vec::new(),
            units: Units::identity(2),
            series: None,
            latent: false,
            has_captions: false,
        };
        let family = DiffusionFamily::new(tables, Origin { experiment: "test".into(), data, source: None }).unwrap();
        TrainModel::new(AnyModule::new(net), Arc::new(family))
    }

    fn noised(shape: [usize; 4]) -> NoisedBatch {
        let device = Device::default().autodiff();
        device.seed(2);
        let normal = || Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let times = (0..shape[0]).map(|row| (100 * row) as f64).collect();
        let (x_0, eps, condition) = (normal(), normal(), Condition::None);
        NoisedBatch { x_0, eps, times, condition, augment_labels: None, first_item: 0, shown: None, importance: None }
    }

    fn part(noised: NoisedBatch) -> TrainBatch {
        let device = noised.x_0.device();
        TrainBatch {
            batch: AnyBatch::of::<DiffusionFamily>(noised),
            device,
            share: 1.0,
            loss_scale: 1.0,
            first_item: 0,
        }
    }

    fn batch(shape: [usize; 4]) -> TrainBatch {
        part(noised(shape))
    }

    /// What is found after a step of the network that is not finite.
    fn found_in(net: Network, batch: TrainBatch) -> Anomaly {
        let model = model(net);
        let mut output = TrainStep::step(&model, batch.clone());
        let norm = clip_global_norm(&model, &mut output.grads, 1.0);
        assert!(!(output.item.loss.is_finite() && norm.is_finite()), "the step is finite");
        find(&model, &[batch], &output.grads).unwrap()
    }

    fn unet() -> Network {
        let config = UNetConfig {
            base_channels: 8,
            multipliers: vec![1.0, 1.0],
            attention_resolutions: vec![4],
            blocks_per_level: 1,
            norm_groups: 4,
            ..UNetConfig::default()
        };
        let device = Device::default().autodiff();
        device.seed(1);
        settle(NetworkConfig::UNet(config).with_io(&[1, 8, 8], 1).init(&device))
    }

    fn points() -> Network {
        let device = Device::default().autodiff();
        device.seed(1);
        let config = PointMlpConfig { hidden: vec![8, 8, 8], embedding_width: 8, ..PointMlpConfig::default() };
        settle(NetworkConfig::PointMlp(config).with_io(&[2], 2).init(&device))
    }

    #[test]
    fn the_layer_with_the_poisoned_weight_is_named() {
        for (name, layer, number) in [
            ("conv_in.bias", "conv_in", f64::NAN),
            ("down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1", f64::NAN),
            ("down_blocks.0.downsamplers.0.conv.weight", "down_blocks.0.downsamplers.0.conv", f64::INFINITY),
            ("mid_block.attentions.0.to_v.bias", "mid_block.attentions.0.to_v", f64::INFINITY),
            ("up_blocks.0.resnets.1.norm2.gamma", "up_blocks.0.resnets.1.norm2", f64::NAN),
            ("time_embedding.linear_2.weight", "time_embedding.linear_2", f64::NAN),
        ] {
            let found = found_in(poisoned(unet(), name, &|_| number), batch([3, 1, 8, 8]));
            let Anomaly::Layer { layer: seen, weights } = &found else { panic!("{name}: {found}") };
            assert_eq!(seen.path, layer);
            assert!(seen.input.unwrap().are_finite());
            let (_, values) = weights.iter().find(|(found, _)| found == name).unwrap();
            assert_eq!(values.not_a_number + values.infinite, values.count);
            let said = found.to_string();
            assert!(said.contains(&format!("is {layer}\n")) && said.contains(&format!("\n  {name}: ")), "{said}");
        }
        let found = found_in(poisoned(points(), "layers.2.time_1.weight", &|_| f64::NAN), batch([5, 2, 1, 1]));
        assert!(matches!(&found, Anomaly::Layer { layer, .. } if layer.path == "layers.2.time_1"), "{found}");
    }

    #[test]
    fn a_number_that_grows_too_large_in_the_middle_is_found_there() {
        let found = found_in(poisoned(unet(), "mid_block.resnets.1.conv1.weight", &|w| w * 1e38), batch([3, 1, 8, 8]));
        let Anomaly::Layer { layer, weights } = &found else { panic!("{found}") };
        // The convolution gives numbers that 32 bits just hold, and the squares of them they do not.
        assert_eq!(layer.path, "mid_block.resnets.1.norm2");
        assert!(layer.input.unwrap().are_finite(), "{found}");
        assert!(weights.len() == 2 && weights.iter().all(|(_, values)| values.are_finite()), "{found}");
        // Neither factor is too large, and their product is.
        let net = poisoned(points(), "layers.1.fc.bias", &|_| 1e25);
        let found = found_in(poisoned(net, "layers.1.time_2.bias", &|_| 1e25), batch([5, 2, 1, 1]));
        assert!(matches!(&found, Anomaly::Layer { layer, .. } if layer.path == "layers.1.product"), "{found}");
    }

    #[test]
    fn data_that_are_not_finite_are_not_the_networks_fault() {
        let mut noised = noised([5, 2, 1, 1]);
        noised.x_0 = noised.x_0 * f32::NAN;
        let said = found_in(points(), part(noised)).to_string();
        assert!(said.contains("is layers.0.fc\n") && said.contains("the data or the noise"), "{said}");
    }

    #[test]
    fn a_loss_of_finite_layers_is_told_from_them() {
        let found = found_in(poisoned(points(), "layers.3.fc.bias", &|_| 1e25), batch([5, 2, 1, 1]));
        let Anomaly::Loss { time, loss, output } = &found else { panic!("{found}") };
        assert!(*time == 0.0 && loss.is_infinite() && output.are_finite(), "{found}");
    }

    #[test]
    fn a_gradient_that_grows_too_large_on_the_way_back_is_found_where_it_does() {
        // Forwards 1e-38 times 1e38; backwards the second factor alone, times what comes from the layers behind.
        let net = poisoned(points(), "layers.1.fc.weight", &|_| 0.0);
        let net = poisoned(net, "layers.1.fc.bias", &|_| 1e-38);
        let net = poisoned(net, "layers.1.time_2.bias", &|_| 1e38);
        let net = poisoned(net, "layers.2.fc.weight", &|_| 1e3);
        let found = found_in(net, batch([5, 2, 1, 1]));
        let Anomaly::Gradient { parameter, gradient, layer, weights } = &found else { panic!("{found}") };
        assert!(parameter.starts_with("layers.1.fc."), "{found}");
        assert!(!gradient.are_finite() && weights.len() == 2);
        assert!(layer.as_ref().unwrap().output.are_finite());
    }

    #[test]
    fn a_step_that_is_finite_has_no_anomaly() {
        let (model, batch) = (model(points()), batch([5, 2, 1, 1]));
        let output = TrainStep::step(&model, batch.clone());
        assert_eq!(find(&model, &[batch], &output.grads), None);
    }
}
