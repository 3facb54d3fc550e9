//! Held-out data while training: what the averaged weights make of them, always at the same noise levels with the same
//! noise, so that figures of two steps can be compared, and those of two runs.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor};
use ddpm_data::random::{RngExt, Stream, mix, rng};
use ddpm_data::{Bounds, StreamItem};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::{Clip, GaussianDiffusion};
use ddpm_model::network::Network;
use ddpm_sampling::job::clip_for;

use super::DiffusionFamily;
use super::captions::Captions;
use super::noising::{Labels, NoisedBatch, Noising};
use crate::family::{AnyError, HeldOut, HeldOutSetup};
use crate::items::{HELD_OUT_SEED, held_out_batches, total};

/// What was measured of held-out data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The loss that is trained, as a mean over data and times.
    pub loss: f64,
    /// The variational bound, where there is one: of 8-bit images under a chain of steps.
    pub bits_per_dim: Option<f64>,
}

/// Held-out data and the noise levels at which they are evaluated.
pub struct Validation {
    family: DiffusionFamily,
    batches: Vec<Vec<StreamItem>>,
    device: Device,
    /// The bound is defined for plain noise; no label is dropped.
    noising: Noising,
    levels: usize,
    clip: Clip,
}

impl Validation {
    /// Reads the items that are looked at, spread over all of the data.
    pub fn read(family: &DiffusionFamily, setup: &HeldOutSetup<'_>) -> Result<Self, AnyError> {
        let batches = held_out_batches(setup)?;
        let labels = match family.noising.labels {
            Labels::Unused => Labels::Unused,
            Labels::Kept | Labels::Dropped { .. } => Labels::Kept,
        };
        let captions = family.noising.captions.clone().map(Captions::all_kept);
        let noising = Noising { labels, captions, offset_noise: 0.0, ..family.noising.clone() };
        let steps = match &*noising.diffusion {
            Diffusion::Discrete(diffusion) => diffusion.schedule.len(),
            Diffusion::Continuous(_) => usize::MAX,
        };
        let levels = family.tables.validation.levels.min(steps);
        let (family, device) = (family.clone(), setup.device.clone());
        Ok(Self { batches, device, noising, levels, clip: clip_for(&family.denoised), family })
    }

    /// The chain whose variational bound is measured: its last term is about 8-bit values.
    fn chain(&self) -> Option<&GaussianDiffusion> {
        match &*self.noising.diffusion {
            Diffusion::Discrete(diffusion) if self.family.denoised.bounds() == Bounds::Bytes => Some(diffusion),
            _ => None,
        }
    }

    /// Whether there is a bound to measure.
    pub fn has_bound(&self) -> bool {
        self.chain().is_some()
    }

    /// Looks at every item once in each of the stretches that the times are cut into.
    pub fn measured(&self, network: &Network) -> Measured {
        let count = self.batches.iter().map(Vec::len).sum::<usize>() as f64;
        let (mut loss, mut bits) = (0.0, 0.0);
        for items in &self.batches {
            let mut prior = 0.0;
            for stretch in 0..self.levels {
                let (batch, share) = self.batch(items, stretch);
                let [loss_here, bits_here] = self.of_batch(network, &batch);
                loss += share * loss_here / count;
                if let Some(chain) = self.chain() {
                    bits += chain.schedule.len() as f64 * share * bits_here / count;
                    // The data are the same in every stretch.
                    if stretch == 0 {
                        prior = total(chain.prior_bpd(&batch.x_0)) / count;
                    }
                }
            }
            bits += prior;
        }
        Measured { loss, bits_per_dim: self.chain().map(|_| bits) }
    }

    /// The losses of the rows of a batch together, and their terms of the bound.
    fn of_batch(&self, network: &Network, batch: &NoisedBatch) -> [f64; 2] {
        let output = RefCell::new(None);
        let losses = self.family.objective().row_losses(batch, |x, t| {
            let y = network.forward(x, t, &batch.condition);
            output.replace(Some(y.clone()));
            y
        });
        let bits = match (self.chain(), output.into_inner()) {
            (Some(chain), Some(output)) => total(terms(chain, batch, output, self.clip)),
            _ => 0.0,
        };
        [total(losses), bits]
    }

    /// The items with noise and times of one stretch, and the share of all times that these stand for.
    ///
    /// So the mean over all steps of a chain is met on average, and exactly by as many stretches as steps. The times of a
    /// path are drawn as in training.
    fn batch(&self, items: &[StreamItem], stretch: usize) -> (NoisedBatch, f64) {
        let seed = mix(HELD_OUT_SEED, Stream::Bound, stretch as u64);
        let mut batch = self.noising.apply(items.to_vec(), seed, &self.device);
        let Diffusion::Discrete(diffusion) = &*self.noising.diffusion else {
            return (batch, 1.0 / self.levels as f64);
        };
        let steps = diffusion.schedule.len();
        let (start, end) = stretch_of(stretch, self.levels, steps);
        for (row, time) in batch.times.iter_mut().enumerate() {
            let place: f64 = rng(seed, Stream::Time, batch.first_item + row as u64).random();
            *time = (start + place * (end - start)).floor().min((steps - 1) as f64);
        }
        (batch, (end - start) / steps as f64)
    }
}

impl HeldOut<Network> for Validation {
    fn names(&self) -> Vec<&'static str> {
        let bound = self.has_bound().then_some("valid_bpd");
        std::iter::once("valid_loss").chain(bound).collect()
    }

    fn measure(&self, network: &Network) -> Vec<f64> {
        let Measured { loss, bits_per_dim } = self.measured(network);
        std::iter::once(loss).chain(bits_per_dim).collect()
    }
}

/// Where one of so many stretches of a chain begins and ends. The first is the first step alone, whose term of the bound is
/// like no other; from there on each is longer than the one before by the same factor, as the terms fall about as fast.
fn stretch_of(stretch: usize, stretches: usize, steps: usize) -> (f64, f64) {
    let start_of = |stretch: usize| match stretch {
        0 => 0.0,
        _ if stretches >= steps => stretch as f64,
        _ => (steps as f64).powf((stretch - 1) as f64 / (stretches - 1) as f64),
    };
    (start_of(stretch), start_of(stretch + 1))
}

/// The terms of the variational bound at the times of a batch, in bits per dimension.
fn terms(diffusion: &GaussianDiffusion, batch: &NoisedBatch, output: Tensor<4>, clip: Clip) -> Tensor<1> {
    let t: Vec<usize> = batch.times.iter().map(|time| *time as usize).collect();
    let x_t = diffusion.q_sample(batch.x_0.clone(), &t, batch.eps.clone());
    let step = diffusion.p_mean_variance(output, x_t.clone(), &t, clip);
    diffusion.vb_term_bpd(&step, &batch.x_0, &x_t, &t)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::snapshot::DiffusionConfig;
    use ddpm_data::{DataConfig, OpenData, Split};
    use ddpm_model::denoiser::time_tensor;
    use ddpm_model::network::NetworkConfig;
    use ddpm_model::unet::UNetConfig;
    use serde_json::{Value, json};

    use super::*;
    use crate::diffusion::tables::{DiffusionTables, TrainKeys, ValidationKeys};
    use crate::family::Origin;
    use crate::parameters::settle;
    use ddpm_testing::drawn::drawn;

    fn data() -> (DataConfig, OpenData) {
        let config: DataConfig = serde_json::from_value(json!({"kind": "digits"})).unwrap();
        let data = ddpm_data::open(&config, Split::Test, 0).unwrap();
        (config, data)
    }

    fn diffusion(config: Value) -> DiffusionConfig {
        serde_json::from_value(config).unwrap()
    }

    fn tables(channels: [usize; 2], levels: usize, diffusion: &DiffusionConfig) -> DiffusionTables {
        // What training adds to the noise, and the labels that it drops, are not there in validation.
        let diffusion = DiffusionConfig { offset_noise: 0.3, ..diffusion.clone() };
        DiffusionTables {
            train: TrainKeys { label_drop: 1.0, ..TrainKeys::default() },
            validation: ValidationKeys { levels },
            ..DiffusionTables::of(network_config(channels), diffusion)
        }
    }

    /// A small network of digits with other weights than those it starts with, most of which are zero.
    fn network(channels: [usize; 2]) -> Network {
        drawn(settle(network_config(channels).init(&Device::default())), 0.2)
    }

    fn network_config(channels: [usize; 2]) -> NetworkConfig {
        let config = UNetConfig {
            base_channels: 8,
            multipliers: vec![1.0],
            attention_resolutions: vec![],
            blocks_per_level: 1,
            norm_groups: 4,
            dropout: 0.0,
            classes: 10,
            ..UNetConfig::default()
        };
        NetworkConfig::UNet(config).with_io(&[channels[0], 8, 8], channels[1])
    }

    const COUNT: usize = 6;

    fn validation(levels: usize, batch_size: usize, diffusion: &DiffusionConfig) -> Validation {
        let (config, data) = data();
        let channels = [if diffusion.self_conditioning { 2 } else { 1 }, 1];
        let origin = Origin { experiment: "test".into(), data: data.info.clone(), source: Some(config) };
        let family = DiffusionFamily::new(tables(channels, levels, diffusion), origin).unwrap();
        let setup = HeldOutSetup { data: &data, count: COUNT, batch_size, device: &Device::default() };
        Validation::read(&family, &setup).unwrap()
    }

    #[test]
    fn as_many_levels_as_steps_give_the_whole_bound_and_the_mean_loss() {
        let steps = 7;
        for variance in ["learned", "fixed-large"] {
            let config = diffusion(json!({"schedule": {"kind": "linear", "steps": steps, "beta_start": 0.02,
                "beta_end": 0.5}, "variance": variance}));
            let net = network([1, if variance == "learned" { 2 } else { 1 }]);
            // More levels than there are steps, and batches of uneven sizes.
            let validation = validation(100, 4, &config);
            assert_eq!((validation.levels, validation.batches.len()), (steps, 2));
            let found = validation.measured(&net);
            let Diffusion::Discrete(chain) = config.init().unwrap() else { unreachable!("a chain") };
            let (mut bits, mut loss) = (0.0, 0.0);
            for items in &validation.batches {
                let rows = items.len();
                let at = |t: usize| validation.batch(items, t).0;
                let condition = at(0).condition;
                let ask = |x_t: Tensor<4>, t: &[usize]| {
                    let times: Vec<f64> = t.iter().map(|t| *t as f64).collect();
                    net.forward(x_t.clone(), time_tensor(&chain.network_times(&times), &x_t), &condition)
                };
                bits += total(chain.bound(&at(0).x_0, Clip::Unit, |t| at(t).eps, ask).total_bpd);
                for t in 0..steps {
                    assert!(at(t).times.iter().all(|&time| time == t as f64));
                    let x_t = chain.q_sample(at(0).x_0, &vec![t; rows], at(t).eps);
                    let error = (ask(x_t, &vec![t; rows]).narrow(1, 0, 1) - at(t).eps).square().mean();
                    loss += error.into_scalar::<f64>() * rows as f64 / steps as f64;
                }
            }
            let (bits, loss) = (bits / COUNT as f64, loss / COUNT as f64);
            assert!((found.bits_per_dim.unwrap() - bits).abs() < 1e-5 * bits, "{found:?} {bits}");
            // A learned variance adds its own part to the loss.
            assert!(variance == "learned" || (found.loss - loss).abs() < 1e-5 * loss, "{found:?} {loss}");
        }
    }

    #[test]
    fn stretches_cover_the_chain_without_a_gap() {
        for (stretches, steps) in [(2, 2), (2, 1000), (16, 1000), (7, 7), (1, 1), (5, 6)] {
            let found: Vec<(f64, f64)> = (0..stretches).map(|k| stretch_of(k, stretches, steps)).collect();
            assert_eq!(found[0], (0.0, 1.0));
            assert!(found.windows(2).all(|pair| pair[0].1 == pair[1].0 && pair[0].1 < pair[1].1), "{found:?}");
            assert!((found[stretches - 1].1 - steps as f64).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn few_levels_estimate_what_all_give() {
        let config = diffusion(json!({"schedule": {"kind": "cosine", "steps": 120}}));
        let network = network([1, 1]);
        let [few, all] = [9, 120].map(|levels| validation(levels, 6, &config).measured(&network));
        let apart = |few: f64, all: f64| (few - all).abs() / all;
        assert!(apart(few.loss, all.loss) < 0.1, "{few:?} {all:?}");
        assert!(apart(few.bits_per_dim.unwrap(), all.bits_per_dim.unwrap()) < 0.05, "{few:?} {all:?}");
    }

    #[test]
    fn the_same_weights_give_the_same_figure_in_any_batches() {
        let config = diffusion(json!({}));
        let network = network([1, 1]);
        let [one, two, three] = [6, 6, 4].map(|batch| validation(5, batch, &config).measured(&network));
        assert_eq!(one, two);
        assert!((one.loss - three.loss).abs() < 1e-6 * one.loss, "{one:?} {three:?}");
    }

    #[test]
    fn a_path_has_a_loss_and_no_bound() {
        let config = diffusion(json!({"continuous": {"path": {"kind": "linear"}, "prediction": "flow"},
            "self_conditioning": true}));
        let found = validation(3, 6, &config).measured(&network([2, 1]));
        assert!(found.loss > 0.0 && found.loss.is_finite() && found.bits_per_dim.is_none(), "{found:?}");
    }
}
