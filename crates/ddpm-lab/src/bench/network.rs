//! Which network is measured, on which batches: the one of the paper in any size, or that of an experiment.

use anyhow::{Context, bail, ensure};
use burn::tensor::{Device, Int, Tensor};
use ddpm_families::diffusion::DiffusionFamily;
use ddpm_model::condition::Condition;
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::{DownsamplePadding, UNetConfig};

use super::{BenchArgs, Shape};
use ddpm_train::plan::Plan;
use ddpm_train::train::Options;

/// A network and the size of its work.
pub(super) struct Work {
    pub(super) network: UNetConfig,
    pub(super) shape: Shape,
}

/// What is to be measured, a table each.
pub(super) fn all(args: &BenchArgs) -> anyhow::Result<Vec<Work>> {
    if let Some(experiment) = &args.experiment {
        return Ok(vec![of_experiment(experiment).with_context(|| format!("--experiment {experiment}"))?]);
    }
    let of_channels = |&channels: &usize| {
        let work = of_paper(Shape { channels, batch: args.batch, size: args.size });
        NetworkConfig::UNet(work.network.clone())
            .validate(&[work.network.in_channels, args.size, args.size])
            .with_context(|| format!("--channels {channels} --size {}", args.size))?;
        Ok(work)
    };
    args.channels.iter().map(of_channels).collect()
}

/// The network of Ho et al. for CIFAR-10.
fn of_paper(shape: Shape) -> Work {
    let network = UNetConfig { base_channels: shape.channels, sample_size: shape.size, ..UNetConfig::cifar10() };
    Work { network: as_in_pytorch(network), shape }
}

/// The network of an experiment in batches of its own.
fn of_experiment(name: &str) -> anyhow::Result<Work> {
    let plan = Plan::make(&Options { experiment: name.into(), ..Options::default() }, None)?;
    let Some(NetworkConfig::UNet(network)) =
        plan.experiment.family.get::<DiffusionFamily>().map(|tables| &tables.model)
    else {
        bail!("only experiments with a U-Net of the family `diffusion` are compared with PyTorch");
    };
    let &[_, size, width] = &plan.data.info.shape[..] else { bail!("its data are no images") };
    ensure!(size == width, "its images are {size}x{width}; only square ones are compared with PyTorch");
    let shape = Shape { channels: network.base_channels, batch: plan.experiment.train.batch_size, size };
    let work = Work { network: as_in_pytorch(network.clone()), shape };
    work.check_peer()?;
    Ok(work)
}

/// Without dropout, and with convolutions of stride 2 padded as PyTorch pads.
fn as_in_pytorch(network: UNetConfig) -> UNetConfig {
    UNetConfig { dropout: 0.0, downsample_padding: DownsamplePadding::Symmetric, ..network }
}

impl Work {
    /// Whether `peer.py` can build the network.
    fn check_peer(&self) -> anyhow::Result<()> {
        let described = UNetConfig {
            in_channels: self.network.in_channels,
            out_channels: self.network.out_channels,
            sample_size: self.network.sample_size,
            base_channels: self.network.base_channels,
            multipliers: self.network.multipliers.clone(),
            blocks_per_level: self.network.blocks_per_level,
            attention_resolutions: self.network.attention_resolutions.clone(),
            norm_groups: self.network.norm_groups,
            classes: self.network.classes,
            null_class: self.network.null_class,
            ..UNetConfig::default()
        };
        let same = self.network == as_in_pytorch(described);
        ensure!(same, "its U-Net has an option that the one in PyTorch lacks (heads, time_shift, resampling, ..)");
        ensure!(self.network.in_channels == self.network.out_channels, "its U-Net also predicts a variance");
        Ok(())
    }

    /// The arguments that make a process of ours measure the same.
    pub(super) fn arguments(&self, args: &BenchArgs) -> Vec<String> {
        match &args.experiment {
            Some(experiment) => vec!["--experiment".into(), experiment.clone()],
            None => self.of_shape(),
        }
    }

    /// The arguments that describe the network to `peer.py`.
    pub(super) fn of_peer(&self) -> Vec<String> {
        let list = |numbers: &[usize]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let network = &self.network;
        let lists = [
            ("--image-channels", list(&[network.in_channels])),
            ("--level-channels", list(&network.level_channels())),
            ("--blocks", list(&[network.blocks_per_level])),
            ("--attention", list(&network.attention_resolutions)),
            ("--groups", list(&[network.norm_groups])),
            ("--classes", list(&[network.class_rows().unwrap_or(0)])),
        ];
        let lists = lists.into_iter().map(|(name, list)| format!("{name}={list}"));
        self.of_shape().into_iter().chain(lists).collect()
    }

    fn of_shape(&self) -> Vec<String> {
        let Shape { channels, batch, size } = self.shape;
        let numbers = [("--channels", channels), ("--batch", batch), ("--size", size)];
        numbers.into_iter().flat_map(|(name, number)| [name.to_string(), number.to_string()]).collect()
    }

    /// A class for every image, where the network knows classes.
    pub(super) fn condition(&self, device: &Device) -> Condition {
        let Some(rows) = self.network.class_rows() else { return Condition::None };
        let classes: Vec<i64> = (0..self.shape.batch).map(|image| (image % rows) as i64).collect();
        Condition::Class(Tensor::<1, Int>::from_data(&classes[..], device))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_measured_as_they_are_trained() {
        let work = of_experiment("digits").unwrap();
        let Shape { channels, batch, size } = work.shape;
        assert_eq!((channels, batch, size), (32, 64, 8));
        let words = work.of_peer().join(" ");
        for word in ["--level-channels=32,64", "--attention=4", "--groups=8", "--classes=11", "--image-channels=1"] {
            assert!(words.contains(word), "{word} is missing in {words}");
        }
    }

    #[test]
    fn what_the_network_in_pytorch_lacks_is_an_error() {
        let message = format!("{:#}", of_experiment("digits-improved").err().unwrap());
        assert!(message.contains("variance"), "{message}");
        let message = format!("{:#}", of_experiment("points-swiss-roll").err().unwrap());
        assert!(message.contains("U-Net"), "{message}");
    }
}
