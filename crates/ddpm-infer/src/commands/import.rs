//! `ddpm-infer import`: a checkpoint of improved-diffusion, guided-diffusion or pesser becomes a snapshot; of models of
//! series, one of pytorch-ts, CSDI or SSSD.
//!
//! Most of the network is deduced from the weights. The rest is set by the keys of an experiment; those without a safe
//! default are required.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use burn::module::Module;
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_console::settings::{expand_kinds, in_words, insert, parse_set};
use ddpm_data::{DataInfo, Units};
use ddpm_device::device;
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig};
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::UNetConfig;
use ddpm_model::variance::Variance;
use ddpm_weights::names::{Deduced, deduce};
use ddpm_weights::{QkvOrder, Scheme, Weights, WeightsError, load_into};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::commands::import_series::{Import, SSSD_ENTRY, SeriesImportArgs};

/// Convert a checkpoint to a snapshot: of improved-diffusion, guided-diffusion, pesser's DDPM, TimeGrad of pytorch-ts, CSDI or
/// SSSD.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The checkpoint: a file of torch.save or safetensors.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Snapshot folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Height and width of the images, which the file does not contain.
    #[arg(long, value_name = "PIXELS", value_parser = at_least::<1, usize>)]
    size: Option<usize>,
    /// Other settings that the file does not contain, by the keys of an experiment: model.heads=4, model.heads.width=64,
    /// model.heads_up=8 (num_heads_upsample), diffusion.schedule.kind=cosine, diffusion.schedule.steps=4000, diffusion.rescaled_times=true;
    /// of models of series, timegrad.horizon=24; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// For checkpoints of guided-diffusion with --use_new_attention_order True.
    #[arg(long)]
    new_attention_order: bool,
    /// Name of the weights, in a file with several, such as ema.
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    #[command(flatten)]
    series: SeriesImportArgs,
}

impl ImportArgs {
    /// The weights; where there are several and none is named, those that a checkpoint of SSSD has.
    fn weights(&self) -> Result<Weights, WeightsError> {
        let opened = Weights::open_entry(&self.file, self.entry.as_deref());
        match opened {
            Err(error) if self.entry.is_none() => Weights::open_entry(&self.file, Some(SSSD_ENTRY)).map_err(|_| error),
            opened => opened,
        }
    }
}

/// The settings of an import, in the tables of an experiment.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: UNetConfig,
    diffusion: DiffusionConfig,
}

/// Writes the snapshot, and returns its folder.
pub fn run(args: &ImportArgs) -> anyhow::Result<PathBuf> {
    let weights = args.weights()?;
    if let Some(kind) = args.series.find(&weights) {
        Import { args: &args.series, sets: &args.sets, out: &args.out }.run(kind, weights)?;
        return Ok(args.out.clone());
    }
    let scheme = match (Scheme::detect(&weights)?, args.new_attention_order) {
        (Scheme::OpenAi(_), true) => Scheme::OpenAi(QkvOrder::Parted),
        (scheme, true) => {
            bail!("--new-attention-order applies to guided-diffusion, but the parameter names are those of {scheme}")
        }
        (Scheme::Diffusers | Scheme::DiffusersOfOld, false) => bail!(
            "{}: weights of diffusers need no import: pass their folder, with its config.json, to `ddpm-infer sample --from`",
            args.file.display()
        ),
        (scheme, false) => scheme,
    };
    let Some(size) = args.size else {
        bail!("{}: the file does not contain the size of the images; pass it with --size PIXELS", args.file.display())
    };
    let deduced = deduce(&weights, scheme)?;
    let settings = settings(args, size, &deduced, scheme)?;
    let Settings { model, diffusion } = &settings;
    let shape = vec![model.in_channels, size, size];
    let config = NetworkConfig::UNet(model.clone());
    config.validate(&shape)?;
    let problems: Vec<String> =
        diffusion.problems().into_iter().map(|(key, message)| format!("diffusion.{key}: {message}")).collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    if diffusion.variance.output_channels(model.in_channels) != model.out_channels {
        bail!(
            "diffusion.variance = {:?} does not fit a network with {} input and {} output channels",
            diffusion.variance,
            model.in_channels,
            model.out_channels
        );
    }

    let mut network = config.init(&device::open(None)?.device);
    load_into(&mut network, &weights, scheme)?;
    let data = DataInfo {
        name: "images".into(),
        shape,
        classes: (0..model.classes).map(|class| class.to_string()).collect(),
        units: Units::identity(model.in_channels),
        series: None,
        latent: false,
        has_captions: false,
    };
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    say!("{}: {scheme}, {} parameters", args.file.display(), network.num_params());
    say!("{}", toml::to_string(&settings)?);
    let written =
        Snapshot::save(&network, &SnapshotConfig::foreign(config, diffusion.clone(), data, &name), &args.out)?;
    if let Some(remark) = written.remark() {
        say!("{remark}");
    }
    Ok(args.out.clone())
}

/// What was deduced from the weights, changed and completed by `--set`.
fn settings(args: &ImportArgs, size: usize, deduced: &Deduced, scheme: Scheme) -> anyhow::Result<Settings> {
    let mut tree = Table::new();
    tree.insert("model".into(), Value::try_from(deduced.at(size))?);
    let mut diffusion = Table::new();
    if deduced.config.out_channels == 2 * deduced.config.in_channels {
        diffusion.insert("variance".into(), Value::try_from(Variance::Learned)?);
    }
    tree.insert("diffusion".into(), diffusion.into());
    let mut given = Vec::new();
    for set in &args.sets {
        let (key, value) = parse_set(set, "model.heads=4").map_err(|error| anyhow!("--set {set}: {error}"))?;
        insert(&mut tree, &key, value);
        expand_kinds(&mut tree);
        given.push(key);
    }
    let settings: Settings =
        tree.try_into().map_err(|error: toml::de::Error| anyhow!("--set: {}", in_words(error.message())))?;
    let missing: Vec<String> = required(deduced, scheme, &settings)
        .into_iter()
        .filter(|(key, _)| !given.iter().any(|given| given == key || given.starts_with(&format!("{key}."))))
        .map(|(key, help)| format!("\n  {key}: {help}"))
        .collect();
    if !missing.is_empty() {
        bail!(
            "{}: the file does not contain these settings; pass them with --set{}",
            args.file.display(),
            missing.concat()
        );
    }
    Ok(settings)
}

/// Keys without a safe default.
fn required(deduced: &Deduced, scheme: Scheme, settings: &Settings) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    if !deduced.heads_known {
        let help = "--set model.heads=4 for 4 heads (improved-diffusion's default), --set model.heads.width=64 for \
                    heads of 64 channels; if the up path has others (num_heads_upsample), also --set model.heads_up=N";
        keys.push(("model.heads", help.to_string()));
    }
    if matches!(scheme, Scheme::OpenAi(_)) {
        let help = "--set diffusion.schedule.kind=cosine or linear, with --set diffusion.schedule.steps=N unless \
                    there are 1000";
        keys.push(("diffusion.schedule", help.to_string()));
        let steps = settings.diffusion.schedule.steps();
        if steps != 1000 {
            let help = format!(
                "--set diffusion.rescaled_times=true where a network of {steps} steps was trained with \
                 rescale_timesteps (improved-diffusion's default), else false"
            );
            keys.push(("diffusion.rescaled_times", help));
        }
    }
    keys
}
