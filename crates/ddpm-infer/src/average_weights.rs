//! `ddpm-infer ema`: the average of any width of a run's weights, from the averages that its training stored (Karras
//! et al. 2024, EDM2). The mathematics is in `ddpm_model::posthoc`.

use std::path::PathBuf;

use anyhow::bail;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use ddpm_model::ema::{gamma_of, is_width};
use ddpm_model::network::Network;
use ddpm_model::posthoc::{Profile, coefficients, distance};

use crate::checksums;
use crate::device;
use crate::numbers::at_least;
use crate::runs::{RUNS, RunFolder, steps_in, widths_in};
use crate::snapshot::{Snapshot, SnapshotConfig};

/// A combination whose profile is off by more than this share has little to do with what was asked for.
const FARTHEST: f64 = 0.1;

/// Makes the average of any width of a run's weights.
#[derive(Args, Debug)]
pub struct EmaArgs {
    /// A run that was trained with ema.post_hoc: its folder, or its name in the runs folder; without it, the newest
    /// run that has a snapshot.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,
    /// Width of the average: its standard deviation as a share of the training up to the step, such as 0.07.
    #[arg(long, value_name = "SIGMA_REL")]
    width: f64,
    /// The step at which the average ends, one of those that were stored; without it, the last one.
    #[arg(long, value_name = "N", value_parser = at_least::<0, u64>)]
    step: Option<u64>,
    /// The snapshot folder to write; sample from it with `sample --from`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A stored average.
struct Stored {
    width: f64,
    step: u64,
    path: PathBuf,
}

/// Does what the arguments say, and gives the folder of the snapshot.
pub fn run(args: &EmaArgs) -> anyhow::Result<PathBuf> {
    if !is_width(args.width) {
        bail!("--width {}: expected a share of the training, more than 0 and at most 0.28", args.width);
    }
    if args.out.exists() {
        bail!("--out {}: is there already, and would be replaced", args.out.display());
    }
    let run = match &args.run {
        Some(run) => RunFolder::find(&args.runs, run)?,
        None => RunFolder::newest_with_snapshot(&args.runs)?,
    };
    let (stored, step) = stored_until(&run, args.step)?;
    // Only for the tensors to lie somewhere; the sums are made in f64 on the host.
    let device = device::open(None)?.device;

    let configs = stored
        .iter()
        .map(|average| Ok(Snapshot::load(&average.path, &device)?.config))
        .collect::<anyhow::Result<Vec<_>>>()?;
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
    if off > FARTHEST {
        bail!(
            "too few averages are stored for one of width {} at step {step}: the nearest combination is off by {:.0} % of \
             it, and at most {:.0} % would do; there are: {}",
            args.width,
            100.0 * off,
            100.0 * FARTHEST,
            list(&stored)
        );
    }
    let network = combine(&stored, &weights, &device)?;
    Snapshot::save(&network, last, &args.out)?;
    eprintln!(
        "{}: width {} at step {step}, out of {} stored averages; the profile is off by {:.2} %",
        run.0.display(),
        args.width,
        stored.len(),
        100.0 * off
    );
    Ok(args.out.clone())
}

/// The averages of a run up to a step at which some were stored, and that step.
fn stored_until(run: &RunFolder, asked: Option<u64>) -> anyhow::Result<(Vec<Stored>, u64)> {
    let mut stored: Vec<Stored> = widths_in(&run.averages())
        .into_iter()
        .flat_map(|(width, dir)| steps_in(&dir).into_iter().map(move |(step, path)| Stored { width, step, path }))
        .collect();
    let Some(newest) = stored.iter().map(|average| average.step).max() else {
        bail!(
            "{} has stored no averages to make others of; train with --set 'ema.post_hoc={{ widths = [0.05, 0.1], every = \
             100 }}'",
            run.0.display()
        );
    };
    let step = asked.unwrap_or(newest);
    if !stored.iter().any(|average| average.step == step) {
        bail!("--step {step}: no averages were stored then; there are: {}", list(&stored));
    }
    // What came later is no part of the average.
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
            bail!("{}: is not of the same training as those beside it", average.path.display());
        }
    }
    Ok(())
}

/// The sum of the stored weights, each times its coefficient.
fn combine(stored: &[Stored], coefficients: &[f64], device: &Device) -> anyhow::Result<Network> {
    let mut sums = Sums::default();
    let mut last = None;
    for (average, &coefficient) in stored.iter().zip(coefficients) {
        for changed in checksums::changed(&average.path) {
            eprintln!("warning: {changed}");
        }
        let network = Snapshot::load(&average.path, device)?.network;
        sums.add(&network, coefficient);
        last = Some(network);
    }
    match last {
        Some(network) => Ok(network.map(&mut Replace(sums.0.into_iter()))),
        None => bail!("there is nothing to combine"),
    }
}

/// The sums of all parameters, in the order in which they are visited.
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
