//! `ddpm-infer ema`: reconstructs a post-hoc EMA of any width, from the averages that the run stored (Karras et al. 2024,
//! EDM2). The mathematics is in `ddpm_model::posthoc`.

use std::path::PathBuf;

use anyhow::bail;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_device::device;
use ddpm_families::checksums;
use ddpm_families::latent::FrozenParts;
use ddpm_families::snapshot::{Snapshot, SnapshotConfig};
use ddpm_files::runs::{RUNS, RunFolder, steps_in, widths_in};
use ddpm_model::ema::{gamma_of, is_width};
use ddpm_model::network::Network;
use ddpm_model::posthoc::{Profile, coefficients, distance};

/// The largest error of the profile, relative to the requested one, at which a reconstruction is of use.
const LARGEST_ERROR: f64 = 0.1;

/// Reconstruct a post-hoc EMA of any width, from the averages that the run stored.
#[derive(Args, Debug)]
pub struct EmaArgs {
    /// A run that was trained with ema.post_hoc: its folder, or its name in the runs folder; default: the newest run that
    /// has a snapshot.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,
    /// Width of the EMA, sigma_rel of EDM2: its standard deviation as a share of the training up to the step, e.g. 0.07.
    #[arg(long, value_name = "SIGMA_REL")]
    width: f64,
    /// Training step at which the EMA ends, one of those that were stored; default: the last one.
    #[arg(long, value_name = "N", value_parser = at_least::<0, u64>)]
    step: Option<u64>,
    /// Snapshot folder to write; sample from it with `sample --from`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A stored average.
struct Stored {
    width: f64,
    step: u64,
    path: PathBuf,
}

/// Reconstructs the EMA, and returns the folder of the snapshot.
pub fn run(args: &EmaArgs) -> anyhow::Result<PathBuf> {
    if !is_width(args.width) {
        bail!("--width {}: expected a share of the training, more than 0 and at most 0.28", args.width);
    }
    if args.out.exists() {
        bail!("--out {}: it already exists; choose another folder, or remove it", args.out.display());
    }
    let run = match &args.run {
        Some(run) => RunFolder::find(&args.runs, run)?,
        None => RunFolder::newest_with_snapshot(&args.runs)?,
    };
    let (stored, step) = stored_until(&run, args.step)?;
    // The default device only stores the tensors: the sums are computed in f64 on the host.
    let device = device::open(None)?.device;

    let configs =
        stored.iter().map(|average| Ok(Snapshot::describe(&average.path)?)).collect::<anyhow::Result<Vec<_>>>()?;
    let Some(last) = configs.iter().find(|config| config.step == step) else {
        bail!("{}: none of its stored averages is of step {step}", run.averages().display());
    };
    check_alike(&stored, &configs, last)?;
    let profile =
        |width: f64, config: &SnapshotConfig| Profile { time: config.images_seen as f64, gamma: gamma_of(width) };
    let profiles: Vec<Profile> =
        stored.iter().zip(&configs).map(|(average, config)| profile(average.width, config)).collect();
    let wanted = profile(args.width, last);
    let weights = coefficients(&profiles, wanted)?;
    let off = distance(&profiles, &weights, wanted);
    if off > LARGEST_ERROR {
        bail!(
            "too few averages are stored for width {} at step {step}: the profile of the best combination has an error \
             of {:.0} %, expected at most {:.0} %; stored are: {}",
            args.width,
            100.0 * off,
            100.0 * LARGEST_ERROR,
            list(&stored)
        );
    }
    let (network, frozen) = combine(&stored, &weights, &device)?;
    Snapshot::save_with(&network, last, &frozen, &args.out)?;
    say!(
        "{}: width {} at step {step}, from {} stored averages; the error of the profile is {:.2} %",
        run.0.display(),
        args.width,
        stored.len(),
        100.0 * off
    );
    Ok(args.out.clone())
}

/// The averages of a run up to a step, which is the newest by default, and that step.
fn stored_until(run: &RunFolder, step: Option<u64>) -> anyhow::Result<(Vec<Stored>, u64)> {
    let mut stored: Vec<Stored> = widths_in(&run.averages())
        .into_iter()
        .flat_map(|(width, dir)| steps_in(&dir).into_iter().map(move |(step, path)| Stored { width, step, path }))
        .collect();
    let Some(newest) = stored.iter().map(|average| average.step).max() else {
        bail!(
            "{} has stored no averages; train with --set 'ema.post_hoc={{ widths = [0.05, 0.1], every = \
             100 }}'",
            run.0.display()
        );
    };
    let step = step.unwrap_or(newest);
    if !stored.iter().any(|average| average.step == step) {
        bail!("--step {step}: no averages are stored at this step; stored are: {}", list(&stored));
    }
    // Later ones are no part of the EMA.
    stored.retain(|average| average.step <= step);
    Ok((stored, step))
}

/// Widths and steps for people.
fn list(stored: &[Stored]) -> String {
    let mut widths: Vec<f64> = stored.iter().map(|average| average.width).collect();
    widths.dedup();
    let line = |width: &f64| {
        let steps = stored.iter().filter(|average| average.width == *width).map(|average| average.step.to_string());
        format!("width {width} at the steps {}", steps.collect::<Vec<_>>().join(", "))
    };
    widths.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// Refuses averages of another network or process.
fn check_alike(stored: &[Stored], configs: &[SnapshotConfig], last: &SnapshotConfig) -> anyhow::Result<()> {
    for (average, config) in stored.iter().zip(configs) {
        let SnapshotConfig { step, images_seen, sampling, .. } = config.clone();
        if *config != (SnapshotConfig { step, images_seen, sampling, ..last.clone() }) || step != average.step {
            bail!("{}: it belongs to another training than the averages next to it", average.path.display());
        }
    }
    Ok(())
}

/// The linear combination of the stored weights, and the frozen parts, which are those of all of them.
fn combine(stored: &[Stored], coefficients: &[f64], device: &Device) -> anyhow::Result<(Network, FrozenParts)> {
    let mut sums = Sums::default();
    let mut last = None;
    for (average, &coefficient) in stored.iter().zip(coefficients) {
        for changed in checksums::changed(&average.path) {
            say!("warning: {changed}");
        }
        let Snapshot { network, frozen, .. } = Snapshot::load(&average.path, device)?;
        sums.add(&network, coefficient);
        last = Some((network, frozen));
    }
    match last {
        Some((network, frozen)) => Ok((network.map(&mut Replace(sums.0.into_iter())), frozen)),
        None => bail!("there are no averages to combine"),
    }
}

/// Sums of all parameters, in the order of visits.
#[derive(Default)]
struct Sums(Vec<Vec<f64>>);

impl Sums {
    fn add(&mut self, network: &Network, coefficient: f64) {
        network.visit(&mut Add { sums: &mut self.0, coefficient, index: 0 });
    }
}

struct Add<'a> {
    sums: &'a mut Vec<Vec<f64>>,
    coefficient: f64,
    index: usize,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data();
        if self.index == self.sums.len() {
            self.sums.push(vec![0.0; values.num_elements()]);
        }
        let sums = &mut self.sums[self.index];
        sums.iter_mut().zip(values.iter::<f64>()).for_each(|(sum, value)| *sum += self.coefficient * value);
        self.index += 1;
    }
}

struct Replace(std::vec::IntoIter<Vec<f64>>);

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let sums = self.0.next().unwrap_or_default();
        param.map(|weight| {
            let values: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
            Tensor::from_data(TensorData::new(values, weight.shape()), &weight.device())
        })
    }
}
