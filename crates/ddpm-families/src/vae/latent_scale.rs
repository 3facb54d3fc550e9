//! The scale of latents: a diffusion model is trained on latents of standard deviation 1 (Rombach et al. 2022, appendix G).

use std::path::PathBuf;

use burn::module::Module;
use ddpm_data::{OrderedLoader, Split};
use ddpm_model::autoencoder::AutoencoderKL;

use super::VaeFamily;
use crate::family::AnyError;
use crate::items::{HELD_OUT_SEED, batch_of, total};
use crate::snapshot::SnapshotError;

/// Training images that the scale is measured on.
const IMAGES: u64 = 512;
/// How many are encoded at once.
const AT_ONCE: usize = 64;

/// One over the standard deviation of the latents, over all channels, of training images.
pub(super) fn measure(family: &VaeFamily, network: &AutoencoderKL) -> Result<f64, SnapshotError> {
    let failed = |error: AnyError| SnapshotError::Io {
        path: PathBuf::from("the scale of the latents"),
        error: std::io::Error::other(error.to_string()),
    };
    let std = standard_deviation(family, network).map_err(failed)?;
    match std.is_finite() && std > 0.0 {
        true => Ok(1.0 / std),
        false => Err(failed(format!("the latents have a standard deviation of {std}").into())),
    }
}

fn standard_deviation(family: &VaeFamily, network: &AutoencoderKL) -> Result<f64, AnyError> {
    let source = family.origin.source.as_ref().ok_or("the data of the model are not known")?;
    let data = ddpm_data::open(source, Split::Train, HELD_OUT_SEED)?;
    let count = IMAGES.min(data.items.len() as u64);
    let loader = OrderedLoader::new(&data, AT_ONCE, HELD_OUT_SEED)?.with_workers(0).between(0, count);
    let device = network.devices().into_iter().next().unwrap_or_default().without_autodiff();
    let network = network.clone().to_device(&device);
    let (mut sum, mut squares, mut values) = (0.0, 0.0, 0.0);
    for items in loader.iter() {
        let images = items?.into_iter().flat_map(|item| item.example.values).collect();
        let posterior = network.encode(batch_of(images, family.shape, &device));
        let mean = posterior.mean();
        values += mean.shape().num_elements() as f64;
        // Of samples of the posterior, in expectation.
        squares += total((mean.clone().square() + posterior.std().square()).sum());
        sum += total(mean.sum());
    }
    Ok((squares / values - (sum / values).powi(2)).max(0.0).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use ddpm_data::DataConfig;

    use super::*;
    use crate::diffusers::autoencoder::load_autoencoder;
    use crate::family::{Family, Progress, Subject};
    use crate::parameters::settle;

    const TABLES: &str = "[model]\nkind = 'kl'\nblock_out_channels = [4, 8]\nnorm_num_groups = 2\n[vae]\n";

    #[test]
    fn scaled_latents_of_a_snapshot_have_standard_deviation_one() {
        let config: DataConfig = toml::from_str("kind = 'shapes'\ncount = 60").unwrap();
        let data = ddpm_data::open(&config, Split::Train, 0).unwrap();
        let subject =
            Subject { experiment: "any", config: &config, data: &data, balanced: false, device: &Device::default() };
        let (device, folder) = (Device::default(), tempfile::tempdir().unwrap());
        let saved = |name: &str, more: &str| {
            let tables = toml::from_str(&format!("{TABLES}{more}")).unwrap();
            let family = VaeFamily::resolve(tables, &subject).unwrap();
            let dir = folder.path().join(name);
            family.save(&settle(family.init(&device)), Progress { step: 1, images_seen: 1 }, &dir).unwrap();
            load_autoencoder(&dir, &device).unwrap()
        };
        let plain = saved("plain", "");
        assert_eq!(plain.config().scaling_factor, 0.18215);
        let measured = saved("measured", "measure_scale = true");
        let mut values = Vec::new();
        for item in 0..60 {
            let x = batch_of(data.items.get(item).unwrap().values, [3, 32, 32], &device);
            let posterior = measured.encode(x);
            // The two points at one standard deviation have the variance of the posterior.
            for sign in [-1.0, 1.0] {
                let z = measured.scale_latents(posterior.mean() + posterior.std() * sign);
                values.extend(z.into_data().iter::<f64>());
            }
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((variance.sqrt() - 1.0).abs() < 1e-3, "{variance}");
    }
}
