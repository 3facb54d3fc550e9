//! `ddpm-infer likelihood`: the log-likelihood of training or test data under a snapshot.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use ddpm_console::bar::progress_bar;
use ddpm_console::numbers::{above_zero, at_least, from_zero};
use ddpm_console::say;
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{Bounds, DataInfo, Example, Space, Split, three_axes};
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::BoundDraw;
use ddpm_families::snapshot::SnapshotConfig;
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Estimate, NetworkDenoiser, concat_estimate, time_tensor};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::network::Network;
use ddpm_model::noise_level::NoiseRange;
use ddpm_sampling::job::clip_for;
use ddpm_sampling::job::condition;
use ddpm_sampling::likelihood::{ProbeKind, Trace, bits_per_dimension, dequantize, log_likelihood};
use ddpm_sampling::samplers::Tolerance;

use crate::commands::choose::{SnapshotArgs, split_parser};
use crate::commands::given_items::of_split;
use crate::commands::measure_bound;
use crate::commands::measure_series_bound::{self, Windows};

/// Measure the log-likelihood of data under a snapshot: bits per dimension of images, nats of points and of series.
#[derive(Args, Debug)]
pub struct LikelihoodArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Number of items, the first ones of the split (of series: windows, spread evenly over it); default: 128, and all for a
    /// model with a latent.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>)]
    count: Option<usize>,
    /// Split of the data.
    #[arg(long, value_name = "SPLIT", value_parser = split_parser(), default_value = Split::Test.name())]
    split: Split,
    /// What is measured; default: the bound for images of a discrete-time model, otherwise the ODE.
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Random probes that estimate the divergence along the ODE (Hutchinson's estimator); default: 1 for images, and the
    /// exact divergence for points.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>)]
    probes: Option<usize>,
    /// Distribution of the probes.
    #[arg(long, value_enum, default_value_t = Probe::Rademacher)]
    probe: Probe,
    /// Relative tolerance of the ODE solver.
    #[arg(long, value_name = "R", default_value_t = Tolerance::USUAL.relative, value_parser = from_zero)]
    rtol: f64,
    /// Absolute tolerance of the ODE solver.
    #[arg(long, value_name = "A", default_value_t = Tolerance::USUAL.absolute, value_parser = above_zero)]
    atol: f64,
    /// Noise, probes and dequantisation of item k depend on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>)]
    seed: u64,
    /// Items at once; changes the speed, and the result of the ODE within its tolerance.
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = at_least::<1, usize>)]
    batch_size: usize,
    /// Draws of the latent for importance-weighted bounds (IWAE), separated by commas; for a model with a latent, where the
    /// reconstruction is a mean over as many draws as the largest.
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1,10,100", value_parser = at_least::<1, usize>)]
    iwae: Vec<usize>,
    /// Steps at the end of each window that are scored given those before, for a model of series; default: the horizon of a
    /// model that forecasts, and for one that imputes the values that the masks of its training hide.
    #[arg(long, value_name = "H", value_parser = at_least::<1, usize>)]
    horizon: Option<usize>,
    /// Writes the result: elbo_nats, reconstruction_nats, kl_nats, iwae_nats and bits_per_dim of a model with a latent;
    /// nats_per_dim, standard_error and the terms of a model of series; bits_per_dim or nats_per_dim of another; and count.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Items unless --count says otherwise, where each takes many network evaluations.
const USUAL_COUNT: usize = 128;

/// `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// The variational bound over all trained steps, for 8-bit images.
    Bound,
    /// The likelihood of the probability-flow ODE; of images after uniform dequantisation.
    Ode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Probe {
    Rademacher,
    Gaussian,
}

/// Network, process and data of a measurement.
struct Likelihood<'a> {
    args: &'a LikelihoodArgs,
    network: &'a Network,
    diffusion: &'a Diffusion,
    self_conditioned: bool,
    data: &'a DataInfo,
    classes: usize,
    items: Vec<Example>,
    device: Device,
}

/// Measures, and returns the line with the result; the value is its first word.
pub fn run(args: &LikelihoodArgs) -> anyhow::Result<String> {
    let (path, _) = args.snapshot.choose()?;
    if ModelCard::find(&path)?.is_some() {
        return args.bound_of_family();
    }
    let open = args.snapshot.open()?;
    let (mut snapshot, diffusion) = args.snapshot.load(&path, &open.device)?;
    let method = args.method_for(&snapshot.config.data, &diffusion)?;
    let device = match method {
        Method::Bound => open.device,
        Method::Ode => open.device.autodiff(),
    };
    if method == Method::Ode {
        // Only gradients with respect to x are needed.
        snapshot.network = snapshot.network.fork(&device).no_grad();
    }
    let config = &snapshot.config;
    let items = args.items(config, &path)?;
    say!(
        "{}: {} after step {}, {} {} items, by {} on {}",
        path.display(),
        config.experiment,
        config.step,
        items.len(),
        args.split.name(),
        match method {
            Method::Bound => "the variational bound",
            Method::Ode => "the probability-flow ODE",
        },
        open.name
    );
    let likelihood = Likelihood {
        args,
        network: &snapshot.network,
        diffusion: &diffusion,
        self_conditioned: config.diffusion.self_conditioning,
        data: &config.data,
        classes: config.network.num_classes(),
        items,
        device,
    };
    let line = likelihood.measure(method)?;
    args.write(&likelihood.in_json(&line))?;
    Ok(line)
}

impl LikelihoodArgs {
    /// The bound of a model of series, or the bounds of one with a latent.
    fn bound_of_family(&self) -> anyhow::Result<String> {
        let open = self.snapshot.open_model()?;
        let (card, path, device) = (open.model.card(), &open.path, &open.device.name);
        if let Some(bound) = open.model.series_bound() {
            say!("{}: {}, {} split on {device}", path.display(), card.origin(), self.split.name());
            let (split, horizon) = (self.split, self.horizon);
            let windows = Windows { split, horizon, most: self.count.unwrap_or(USUAL_COUNT) };
            let draw = BoundDraw { seed: self.seed, at_once: self.batch_size };
            let report = measure_series_bound::measure(bound, card, path, &windows, &draw)?;
            say!("{}", report.details());
            self.write(&serde_json::to_value(&report)?)?;
            return Ok(report.line());
        }
        let Some(bound) = open.model.bound() else { return Err(open.cannot("measure a likelihood")) };
        let items = of_split(card, path, self.split, self.count.unwrap_or(usize::MAX))?;
        say!("{}: {}, {} {} on {device}", path.display(), card.origin(), items.count, items.from);
        let report = measure_bound::measure(bound, &items, &self.iwae, self.seed)?;
        say!("{}", report.details());
        self.write(&serde_json::to_value(&report)?)?;
        Ok(report.line())
    }

    /// Writes the result as --json says.
    fn write(&self, result: &serde_json::Value) -> anyhow::Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(result)? + "\n";
        Ok(ddpm_files::atomic::write(path, text)?)
    }

    /// The method that was named, or else the one that suits the model.
    fn method_for(&self, data: &DataInfo, diffusion: &Diffusion) -> anyhow::Result<Method> {
        let has_bound = data.bounds() == Bounds::Bytes && matches!(diffusion, Diffusion::Discrete(_));
        let method = self.method.unwrap_or(if has_bound { Method::Bound } else { Method::Ode });
        if method == Method::Bound && data.bounds() != Bounds::Bytes {
            bail!("--method bound: its decoder term is for 8-bit images, and {} has none; use ode", data.name);
        }
        Ok(method)
    }

    /// The first items of the split.
    fn items(&self, config: &SnapshotConfig, path: &Path) -> anyhow::Result<Vec<Example>> {
        let source = config
            .source
            .as_ref()
            .with_context(|| format!("{}: the snapshot does not record its training data", path.display()))?;
        let data = ddpm_data::open(source, self.split, 0)?;
        Ok((0..data.items.len().min(self.count.unwrap_or(USUAL_COUNT)))
            .map(|k| data.items.get(k))
            .collect::<Result<Vec<_>, _>>()?)
    }
}

impl Likelihood<'_> {
    /// The value that a line begins with, under the name of its unit.
    fn in_json(&self, line: &str) -> serde_json::Value {
        let value: Option<f64> = line.split(' ').next().and_then(|word| word.parse().ok());
        let key = if self.data.bounds() == Bounds::Bytes { "bits_per_dim" } else { "nats_per_dim" };
        serde_json::json!({ key: value, "count": self.items.len() })
    }

    fn measure(&self, method: Method) -> anyhow::Result<String> {
        match (method, self.data.space(), self.diffusion) {
            (Method::Bound, _, Diffusion::Discrete(diffusion)) => self.bound(diffusion),
            (Method::Bound, _, Diffusion::Continuous(_)) => {
                bail!("--method bound: it is a sum over discrete steps, and this model has continuous time; use ode")
            }
            (Method::Ode, Space::Points | Space::Images | Space::Latents, _) => self.ode(),
            _ => bail!("data of shape {:?} are not supported: expected [N] or [C, H, W]", self.data.shape),
        }
    }

    /// Means over the items of the bound and its terms.
    fn bound(&self, diffusion: &GaussianDiffusion) -> anyhow::Result<String> {
        let steps = diffusion.schedule.len();
        let batches = self.items.len().div_ceil(self.args.batch_size);
        let bar = progress_bar("{bar:28} {pos}/{len} steps  {elapsed} < {eta}", (steps * batches) as u64);
        let (mut whole, mut prior, mut middle, mut first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for rows in self.batches() {
            let x_0 = self.batch(rows.clone(), |_, _| {})?;
            let condition = self.condition(&rows);
            let address = |item: usize, step: usize| ((item as u64) << 32) | step as u64;
            let noise = |step: usize| {
                let draw = |item| normals(&mut rng(self.args.seed, Stream::Bound, address(item, step)), self.size());
                self.tensor(rows.clone().flat_map(draw).collect())
            };
            let network = |x_t: Tensor<4>, t: &[usize]| {
                bar.inc(1);
                let times: Vec<f64> = t.iter().map(|t| *t as f64).collect();
                let times = time_tensor(&diffusion.network_times(&times), &x_t);
                let x_t = if self.self_conditioned { concat_estimate(x_t, None) } else { x_t };
                self.network.forward(x_t, times, &condition)
            };
            let bound = diffusion.bound(&x_0, clip_for(self.data), noise, network);
            let terms: Vec<f64> = bound.terms_bpd.into_data().iter::<f64>().collect();
            first.extend(terms.chunks_exact(steps).map(|terms| terms[0]));
            middle.extend(terms.chunks_exact(steps).map(|terms| terms[1..].iter().sum::<f64>()));
            prior.extend(bound.prior_bpd.into_data().iter::<f64>());
            whole.extend(bound.total_bpd.into_data().iter::<f64>());
        }
        bar.finish_and_clear();
        let (whole, error) = mean_and_error(&whole);
        let term = |values: &[f64]| mean_and_error(values).0;
        finite(whole)?;
        say!("standard error {error:.4}");
        let (prior, middle, first) = (term(&prior), term(&middle), term(&first));
        Ok(format!("{whole:.4} bits/dim = L_T {prior:.4} + L_1..T-1 {middle:.4} + L_0 {first:.4}"))
    }

    /// Mean over the items of minus the log-likelihood of the ODE.
    fn ode(&self) -> anyhow::Result<String> {
        let of_bytes = self.data.bounds() == Bounds::Bytes;
        let args = self.args;
        let levels = [self.diffusion.level_at(0.0), self.diffusion.level_at(1.0)];
        let tolerance = Tolerance { absolute: args.atol, relative: args.rtol };
        let kind = match args.probe {
            Probe::Rademacher => ProbeKind::Rademacher,
            Probe::Gaussian => ProbeKind::Gaussian,
        };
        let bar = progress_bar("{bar:28} {pos}/{len} items  {msg}  {elapsed}", self.items.len() as u64);
        let mut found = Vec::new();
        let mut evaluations = 0;
        for rows in self.batches() {
            let x_0 = self.batch(rows.clone(), |item, values| {
                if of_bytes {
                    dequantize(values, args.seed, item);
                }
            })?;
            let condition = self.condition(&rows);
            let network = |x_t: Tensor<4>, t: Tensor<1>| self.network.forward(x_t, t, &condition);
            // With an earlier estimate the velocity would depend on more than x.
            let estimate = if self.self_conditioned { Estimate::Blank } else { Estimate::Unused };
            let denoiser = NetworkDenoiser::new(network, self.diffusion, estimate);
            let probe = |probe| {
                self.tensor(rows.clone().flat_map(|item| kind.draw(args.seed, item, probe, self.size())).collect())
            };
            let trace = match (args.probes, of_bytes) {
                (None, false) => Trace::Exact,
                (probes, _) => Trace::Probes((0..probes.unwrap_or(1)).map(|k| probe(k).inner()).collect()),
            };
            let mut show = |calls: usize| bar.set_message(format!("{calls} evaluations"));
            let (log_p, effort) = log_likelihood(&denoiser, x_0.inner(), &trace, levels, tolerance, &mut show);
            evaluations += effort.calls;
            bar.inc(rows.len() as u64);
            found.extend(log_p.into_iter().map(|log_p| self.per_dimension(log_p)));
        }
        bar.finish_and_clear();
        let (mean, error) = mean_and_error(&found);
        finite(mean)?;
        say!("standard error {error:.4}; {evaluations} network evaluations (NFE)");
        Ok(match of_bytes {
            true => format!("{mean:.4} bits/dim"),
            false => format!("{mean:.4} nats/dim"),
        })
    }

    /// Minus the log-density, in bits of bytes for images, otherwise in nats in the units of the data.
    fn per_dimension(&self, log_p: f64) -> f64 {
        if self.data.bounds() == Bounds::Bytes {
            return bits_per_dimension(log_p, self.size());
        }
        let scales = &self.data.units.scale;
        let stretch = scales.iter().map(|scale| scale.ln()).sum::<f64>() / scales.len() as f64;
        stretch - log_p / self.size() as f64
    }

    fn size(&self) -> usize {
        self.data.values_per_item()
    }

    fn batches(&self) -> impl Iterator<Item = Range<usize>> {
        let (count, size) = (self.items.len(), self.args.batch_size);
        (0..count).step_by(size).map(move |start| start..(start + size).min(count))
    }

    /// The items of a batch after `change(item, values)`.
    fn batch(&self, rows: Range<usize>, change: impl Fn(usize, &mut [f32])) -> anyhow::Result<Tensor<4>> {
        let mut all = Vec::with_capacity(rows.len() * self.size());
        for item in rows {
            let mut values = self.items[item].values.clone();
            if values.len() != self.size() {
                bail!("item {item} has {} values; the network was trained on {:?}", values.len(), self.data.shape);
            }
            change(item, &mut values);
            all.extend(values);
        }
        Ok(self.tensor(all))
    }

    fn tensor(&self, values: Vec<f32>) -> Tensor<4> {
        let [channels, height, width] = three_axes(&self.data.shape);
        let shape = [values.len() / self.size(), channels, height, width];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// The classes of the items, for a class-conditional network.
    fn condition(&self, rows: &Range<usize>) -> Condition {
        let label = |item: usize| self.items[item].label.filter(|label| *label < self.classes);
        condition(&rows.clone().map(label).collect::<Vec<_>>(), &self.device)
    }
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

fn finite(value: f64) -> anyhow::Result<()> {
    if !value.is_finite() {
        bail!("the likelihood is not finite: the weights may be broken, or the training has diverged");
    }
    Ok(())
}
