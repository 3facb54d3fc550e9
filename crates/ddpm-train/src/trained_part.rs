//! Which part of a network is trained: parts that are frozen, and LoRA, which trains small factors beside frozen weights.

use burn::module::{LoraAdapter, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, Reparameterizer};
use burn::optim::GradientsParams;
use burn::tensor::{Distribution, Tensor};
use ddpm_families::parameters::{Parameter, is_choice, parameters, settle};
use ddpm_kernels::weights::blend;
use ddpm_weights::lora::{LayerFactors, TrainedFactors};

use crate::config::{FineTuneConfig, LoraConfig};

/// Numbers of a network, some of which are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainedSizes {
    /// Those that are trained.
    pub trained: usize,
    /// Those of weights that factors are trained next to.
    pub adapted: usize,
}

impl FineTuneConfig {
    /// What is wrong with it for this network, each with its key.
    pub fn problems<M: Module>(&self, network: &M) -> Vec<(&'static str, String)> {
        let all = parameters(network);
        let mut problems = Vec::new();
        let lora = self.lora.as_ref();
        let patterns = self.freeze.iter().map(|pattern| ("freeze", pattern));
        let patterns = patterns.chain(lora.iter().flat_map(|lora| &lora.parts).map(|pattern| ("lora.parts", pattern)));
        for (key, pattern) in patterns {
            if all.iter().all(|parameter| !matches(pattern, &parameter.name)) {
                problems.push((key, unknown(pattern, &all)));
            }
        }
        match lora {
            Some(_) if !self.freeze.is_empty() => {
                problems.push(("freeze", "with lora every weight of the network is frozen anyway".into()));
            }
            Some(lora) if lora.rank == 0 => problems.push(("lora.rank", "must be at least 1, not 0".into())),
            Some(lora) if lora.alpha.is_some_and(|alpha| !(alpha > 0.0 && alpha.is_finite())) => {
                problems.push(("lora.alpha", "must be more than 0".into()));
            }
            Some(lora) if problems.is_empty() && !all.iter().any(|parameter| lora.adapts(parameter)) => {
                problems.push(("lora.parts", "none of them holds a matrix or a convolution".into()));
            }
            None if all.iter().all(|parameter| self.freezes(parameter)) => {
                problems.push(("freeze", "nothing would be left to train".into()));
            }
            _ => {}
        }
        problems
    }

    /// The network as it is trained: its weights are what they were, and the ids of its parameters are in order.
    pub fn apply<M: Module>(&self, network: M) -> M {
        if let Some(lora) = &self.lora {
            let factors = Attach::new(lora, &network);
            return settle(network.apply_reparameterization(factors));
        }
        let frozen = parameters(&network).into_iter().filter(|parameter| self.freezes(parameter));
        let group = ParamGroup::from_ids(frozen.map(|parameter| parameter.id).collect());
        network.set_require_grad_group(group, false)
    }

    /// How many numbers are trained, and how many there are in weights that get factors. The network's own stay undrawn.
    pub fn sizes<M: Module>(&self, network: &M) -> TrainedSizes {
        let all = parameters(network);
        let total = |chosen: &dyn Fn(&Parameter) -> bool| -> usize {
            all.iter().filter(|parameter| chosen(parameter)).map(Parameter::len).sum()
        };
        let Some(lora) = &self.lora else {
            return TrainedSizes { trained: total(&|parameter| !self.freezes(parameter)), adapted: 0 };
        };
        let factors = |parameter: &Parameter| {
            let outputs = parameter.shape[0];
            lora.rank.saturating_mul(outputs + parameter.len() / outputs.max(1))
        };
        let trained = all.iter().filter(|parameter| lora.adapts(parameter)).map(factors).fold(0, usize::saturating_add);
        TrainedSizes { trained, adapted: total(&|parameter| lora.adapts(parameter)) }
    }

    fn freezes(&self, parameter: &Parameter) -> bool {
        self.freeze.iter().any(|pattern| matches(pattern, &parameter.name))
    }
}

impl LoraConfig {
    /// Whether a parameter gets factors: one that multiplies, in the parts that are named.
    fn adapts(&self, parameter: &Parameter) -> bool {
        let named = self.parts.is_empty() || self.parts.iter().any(|pattern| matches(pattern, &parameter.name));
        named && parameter.shape.len() >= 2
    }
}

/// How many numbers of a network are trained.
pub fn trained_numbers<M: Module>(network: &M) -> usize {
    struct Count(usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.base().is_require_grad() {
                self.0 += param.lazy_shape().num_elements();
            }
        }
    }
    let mut count = Count(0);
    network.visit(&mut count);
    count.0
}

/// `ema <- decay ema + (1 - decay) live` for what is trained. Frozen weights are those of `live`, and lie where these do: an
/// average of what stands still drifts away from it by rounding, and takes memory.
///
/// `ema` must be a copy of `live` with the same parameter ids.
pub fn ema_update_of_trained<M: Module>(ema: &mut M, live: &M, decay: f64) {
    struct Collect([GradientsParams; 2]);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let weight = param.val();
            let [trained, frozen] = &mut self.0;
            let place = if weight.is_require_grad() { trained } else { frozen };
            place.register::<D>(param.id, weight.inner());
        }
    }
    struct Average([GradientsParams; 2], f64);
    impl ModuleMapper for Average {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, average, mapper) = param.consume();
            let [trained, frozen] = &mut self.0;
            let average = match (trained.remove::<D>(id), frozen.remove::<D>(id)) {
                (Some(live), _) => blend(average, live, self.1),
                (None, Some(frozen)) => frozen,
                (None, None) => unreachable!("the averaged weights have lost their parameter ids"),
            };
            Param::from_mapped_value(id, average, mapper)
        }
    }
    let mut collect = Collect([GradientsParams::new(), GradientsParams::new()]);
    live.visit(&mut collect);
    // Out of its place, so that nobody else has the factors and they can change where they lie.
    let old = std::mem::replace(ema, live.clone());
    *ema = old.map(&mut Average(collect.0, decay));
}

/// The factors of a network that LoRA is trained on, as files of LoRA have them: of a matrix `[in, out]` here, `down` is the
/// first factor and `up` the second, both transposed; of a convolution `[out, in, h, w]` it is the other way round.
pub fn factors_of<M: Module>(network: &M, lora: &LoraConfig) -> TrainedFactors {
    struct Read {
        path: Vec<String>,
        /// The shape of the weight that was seen last, whose factors follow.
        weight: Vec<usize>,
        layers: Vec<LayerFactors>,
    }
    impl ModuleVisitor for Read {
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
            let Some((weight, factor)) = name.rsplit_once(FACTORS) else {
                self.weight = param.lazy_shape().to_vec();
                return;
            };
            let data = param.val().into_data();
            let (shape, values) = (data.shape().to_vec(), data.iter::<f32>().collect::<Vec<f32>>());
            if factor == "a" {
                let layer = weight.strip_suffix(".weight").unwrap_or(weight).to_string();
                self.layers.push(LayerFactors { layer, down: (shape, values), up: Default::default() });
            } else if let Some(layer) = self.layers.last_mut() {
                layer.up = (shape, values);
                in_layout_of_files(layer, &self.weight);
            }
        }
    }
    let mut read = Read { path: Vec::new(), weight: Vec::new(), layers: Vec::new() };
    network.visit(&mut read);
    TrainedFactors { alpha: lora.alpha.unwrap_or(lora.rank as f64), layers: read.layers }
}

/// What stands between the name of a weight and that of its factor.
const FACTORS: &str = ".lora.";

/// From the two factors of a weight, `[R, ..]` and `[.., R]` by its first axis, to those of a file.
fn in_layout_of_files(layer: &mut LayerFactors, weight: &[usize]) {
    match *weight {
        [outputs, inputs, height, width] => {
            std::mem::swap(&mut layer.down, &mut layer.up);
            let rank = layer.down.0[0];
            layer.down.0 = vec![rank, inputs, height, width];
            layer.up.0 = vec![outputs, rank, 1, 1];
        }
        _ => {
            layer.down = transposed(&layer.down);
            layer.up = transposed(&layer.up);
        }
    }
}

/// A matrix with its axes exchanged.
fn transposed((shape, values): &(Vec<usize>, Vec<f32>)) -> (Vec<usize>, Vec<f32>) {
    let columns = shape[1];
    let column = |column: usize| values.iter().skip(column).step_by(columns).copied();
    (vec![columns, shape[0]], (0..columns).flat_map(column).collect())
}

/// Whether a name begins with the parts of the pattern, of which `*` is any one: `down_blocks.*.attentions`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = name.split('.');
    pattern.split('.').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
}

fn unknown(pattern: &str, all: &[Parameter]) -> String {
    // As far as the pattern goes, what there is instead of its first part that is not there.
    let parts: Vec<&str> = pattern.split('.').collect();
    let known = (0..parts.len()).rev().find(|&n| n == 0 || all.iter().any(|p| matches(&parts[..n].join("."), &p.name)));
    let known = known.unwrap_or(0);
    let begun = parts[..known].join(".");
    let inside = |name: &&str| known == 0 || matches(&begun, name);
    let mut there: Vec<&str> =
        all.iter().map(|p| p.name.as_str()).filter(inside).filter_map(|name| name.split('.').nth(known)).collect();
    there.dedup();
    there.sort_unstable();
    there.dedup();
    let place = if known == 0 { String::new() } else { format!(" in {begun}") };
    format!("no parameter begins with `{pattern}`; there are{place}: {}", there.join(", "))
}

/// Attaches the factors. Burn's own `Lora` does the same for matrices alone, and most of a U-Net are convolutions: these
/// are taken as matrices of their first axis by all the others.
struct Attach<'a> {
    lora: &'a LoraConfig,
    adapted: ParamGroup,
}

impl<'a> Attach<'a> {
    fn new<M: Module>(lora: &'a LoraConfig, network: &M) -> Self {
        let adapted = parameters(network).into_iter().filter(|parameter| lora.adapts(parameter));
        Self { lora, adapted: ParamGroup::from_ids(adapted.map(|parameter| parameter.id).collect()) }
    }
}

impl Reparameterizer for Attach<'_> {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        _: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let base = param.set_require_grad(false);
        if !self.adapted.matches(&base.id, None) {
            return (base, None);
        }
        let (shape, device) = (base.lazy_shape(), base.lazy_device());
        let (inputs, outputs) = (shape[0], shape.num_elements() / shape[0]);
        let rank = self.lora.rank;
        // Hu et al. 2022: one factor is drawn and the other zero, so that training starts from the weights as they are.
        let normal = Distribution::Normal(0.0, 1.0 / rank as f64);
        let adapter = LoraAdapter {
            a: Param::from_tensor(Tensor::random([inputs, rank], normal, &device)),
            b: Param::from_tensor(Tensor::zeros([rank, outputs], &device)),
            scale: self.lora.alpha.unwrap_or(rank as f64) / rank as f64,
        };
        (base, Some(adapter))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use ddpm_data::random::{Stream, normals, rng};
    use ddpm_model::condition::Condition;
    use ddpm_model::network::{Network, NetworkConfig};
    use ddpm_model::unet::UNetConfig;

    use super::*;
    use crate::clip_and_average::ema_update;
    use crate::config::OptimizerConfig;

    fn network(device: &Device) -> Network {
        let config = UNetConfig {
            base_channels: 8,
            multipliers: vec![1.0, 1.0],
            attention_resolutions: vec![4],
            blocks_per_level: 1,
            norm_groups: 4,
            dropout: 0.0,
            ..UNetConfig::default()
        };
        device.seed(4);
        settle(NetworkConfig::UNet(config).with_io(&[1, 8, 8], 1).init(device))
    }

    fn freeze(patterns: &[&str]) -> FineTuneConfig {
        FineTuneConfig { freeze: patterns.iter().map(ToString::to_string).collect(), ..FineTuneConfig::default() }
    }

    fn lora(rank: usize, parts: &[&str]) -> FineTuneConfig {
        let parts = parts.iter().map(ToString::to_string).collect();
        FineTuneConfig { lora: Some(LoraConfig { rank, alpha: Some(2.0), parts }), ..FineTuneConfig::default() }
    }

    fn forward(network: &Network) -> Tensor<4> {
        let device = Device::default();
        let x = normals(&mut rng(8, Stream::Noise, 0), 3 * 64);
        let x = Tensor::<4>::from_data(TensorData::new(x, [3, 1, 8, 8]), &device);
        let t = Tensor::<1>::from_floats([1.0, 30.0, 900.0], &device);
        network.forward(x.autodiff(), t.autodiff(), &Condition::None)
    }

    /// Some steps on a fixed loss.
    fn train(mut network: Network) -> Network {
        let config = OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() };
        let mut optimizer = config.init(&network);
        // One step for each of the zeros that a gradient has to get past, and one more.
        for _ in 0..4 {
            let loss = (forward(&network) - 1.0).square().mean();
            let grads = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(config.learning_rate, network, grads);
        }
        network
    }

    /// Name and numbers of every parameter.
    fn weights(network: &Network) -> Vec<(String, Vec<f64>)> {
        struct Read(Vec<Vec<f64>>);
        impl ModuleVisitor for Read {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.push(param.val().into_data().iter::<f64>().collect());
            }
        }
        let mut read = Read(Vec::new());
        network.visit(&mut read);
        parameters(network).into_iter().map(|parameter| parameter.name).zip(read.0).collect()
    }

    #[test]
    fn frozen_parts_stand_still_and_the_others_move() {
        let before = network(&Device::default().autodiff());
        let config = freeze(&["down_blocks.0", "*.*.attentions", "conv_in", "time_embedding.linear_1.bias"]);
        assert_eq!(config.problems(&before), []);
        let frozen = |name: &str| {
            let parts = ["down_blocks.0.", "conv_in.", "time_embedding.linear_1.bias"];
            parts.iter().any(|part| name.starts_with(part)) || (name.contains("attentions") && !name.starts_with("mid"))
        };
        let part = config.apply(before.clone());
        let counted: usize = weights(&before).iter().filter(|(name, _)| !frozen(name)).map(|(_, w)| w.len()).sum();
        assert_eq!(trained_numbers(&part), counted);
        assert_eq!(config.sizes(&before), TrainedSizes { trained: counted, adapted: 0 });
        let after = train(part.clone());
        // The average of what stands still is that, to the last bit, and of the rest it is an average.
        let average = (0..50).fold(part.valid(), |mut average, _| {
            ema_update_of_trained(&mut average, &after, 0.9);
            average
        });
        for ((name, before), (_, average)) in weights(&before).into_iter().zip(weights(&average)) {
            assert!(before == average || !frozen(&name), "{name}");
        }
        assert!(weights(&average) != weights(&after));
        for ((name, before), (_, after)) in weights(&before).into_iter().zip(weights(&after)) {
            // The bias of the keys has no gradient but for rounding: a softmax does not see what all its rows share.
            if !name.ends_with("to_k.bias") || frozen(&name) {
                assert_eq!(before == after, frozen(&name), "{name}");
            }
        }
    }

    #[test]
    fn factors_are_trained_beside_weights_that_stand_still() {
        let before = network(&Device::default().autodiff());
        for (config, count) in [(lora(2, &[]), None), (lora(3, &["mid_block.attentions", "conv_out"]), Some(5))] {
            assert_eq!(config.problems(&before), []);
            let adapted = config.apply(before.clone());
            forward(&adapted).into_data().assert_eq(&forward(&before).into_data(), true);
            let factors = |network: &Network| -> Vec<(String, Vec<f64>)> {
                weights(network).into_iter().filter(|(name, _)| name.contains(".lora.")).collect()
            };
            let expected = count.unwrap_or_else(|| parameters(&before).iter().filter(|p| p.shape.len() >= 2).count());
            assert_eq!(factors(&adapted).len(), 2 * expected);
            assert_eq!(
                trained_numbers(&adapted),
                factors(&adapted).iter().map(|(_, factor)| factor.len()).sum::<usize>()
            );

            let adapted_numbers: usize = parameters(&before)
                .iter()
                .filter(|p| config.lora.as_ref().unwrap().adapts(p))
                .map(Parameter::len)
                .sum();
            let sizes = TrainedSizes { trained: trained_numbers(&adapted), adapted: adapted_numbers };
            assert_eq!(config.sizes(&before), sizes);

            let after = train(adapted.clone());
            let dense = |network: &Network| -> Vec<(String, Vec<f64>)> {
                weights(network).into_iter().filter(|(name, _)| !name.contains(".lora.")).collect()
            };
            assert!(dense(&after) == dense(&before), "the weights stand still");
            assert!(factors(&after) != factors(&adapted));
            // What a snapshot holds is one weight for both; a file of LoRA has the factors.
            let merged = after.clone().materialize();
            let factors = factors_of(&after.valid(), config.lora.as_ref().unwrap());
            assert_eq!((factors.alpha, factors.layers.len()), (2.0, expected));
            for layer in &factors.layers {
                let rank = config.lora.as_ref().unwrap().rank;
                assert_eq!((layer.down.0[0], layer.up.0[1]), (rank, rank), "{}", layer.layer);
                let dimensions = [&layer.up.0[..1], &layer.down.0[1..]].concat();
                assert!(parameters(&before).iter().any(|parameter| {
                    let mut shape = parameter.shape.clone();
                    if shape.len() == 2 {
                        shape.reverse();
                    }
                    parameter.name == format!("{}.weight", layer.layer) && shape == dimensions
                }));
            }
            assert_eq!(merged.num_params(), before.num_params());
            let apart = (forward(&merged) - forward(&after)).abs().max().into_scalar::<f32>();
            let moved = (forward(&after) - forward(&before)).abs().max().into_scalar::<f32>();
            assert!(apart < 1e-5 && moved > 1e-3, "{apart} {moved}");
            // Records and averages carry the factors.
            let again = config.apply(network(&Device::default().autodiff()));
            let again = again.try_load_record(after.clone().into_record()).unwrap();
            assert!(weights(&again) == weights(&after));
            assert_eq!(trained_numbers(&again), trained_numbers(&after));
            let mut average = adapted.valid();
            ema_update(&mut average, &after, 0.0);
            assert!(weights(&average) == weights(&after));
        }
    }

    #[test]
    fn patterns_that_fit_nothing_say_what_there_is() {
        let network = network(&Device::default());
        let said = |config: FineTuneConfig| {
            config.problems(&network).into_iter().map(|(key, message)| format!("{key}: {message}")).collect::<Vec<_>>()
        };
        let unknown = said(freeze(&["down", "mid_block.attentions.0.to_z"]));
        assert!(unknown[0].contains("`down`") && unknown[0].contains("conv_in, ") && unknown[0].contains("mid_block"));
        assert!(unknown[1].contains("in mid_block.attentions.0: group_norm, to_k, to_out, to_q, to_v"), "{unknown:?}");
        assert!(said(freeze(&["*"]))[0].contains("nothing would be left"));
        assert!(said(lora(0, &[]))[0].starts_with("lora.rank"));
        assert!(said(lora(2, &["conv_norm_out"]))[0].contains("none of them holds"));
        let both = FineTuneConfig { freeze: vec!["conv_in".into()], ..lora(2, &[]) };
        assert!(said(both)[0].contains("frozen anyway"));
    }
}
