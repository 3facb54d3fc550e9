//! `ddpm-infer likelihood`: how likely a snapshot finds data that it was trained on, or that were held out.

use std::ops::Range;

use anyhow::{Context, bail};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{DataInfo, Example, Split};
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Estimate, NetworkDenoiser, beside_estimate, time_tensor};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::network::Network;
use ddpm_model::noise_level::NoiseRange;

use crate::bar::progress_bar;
use crate::choose::SnapshotArgs;
use crate::job::clip_for;
use crate::job::condition;
use crate::likelihood::{ProbeKind, Trace, bits_per_dimension, dequantise, log_likelihood};
use crate::numbers::{above_zero, at_least, from_zero};
use crate::samplers::Tolerance;

/// Says how likely a snapshot finds its data.
#[derive(Args, Debug)]
pub struct LikelihoodArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// How many items, the first ones of the split.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least::<1, usize>)]
    count: usize,
    /// Which of the data.
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// How; without it, the bound for images and the ODE for everything else.
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Probes of the ODE's divergence, the mean of which is taken; without it, 1 for images, and none for points,
    /// whose divergence is exact.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>)]
    probes: Option<usize>,
    /// Distribution of the probes.
    #[arg(long, value_enum, default_value_t = Kind::Rademacher)]
    probe: Kind,
    /// What a step of the ODE's solver may be off by, relative to the values.
    #[arg(long, value_name = "R", default_value_t = Tolerance::USUAL.relative, value_parser = from_zero)]
    rtol: f64,
    /// What a step of the ODE's solver may be off by beside that.
    #[arg(long, value_name = "A", default_value_t = Tolerance::USUAL.absolute, value_parser = above_zero)]
    atol: f64,
    /// Noise, probes and dequantisation of item k depend on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>)]
    seed: u64,
    /// Items at once.
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = at_least::<1, usize>)]
    batch_size: usize,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// The variational bound over all trained steps, for 8-bit images.
    Bound,
    /// The likelihood of the probability-flow ODE; of images after uniform dequantisation.
    Ode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Train,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Rademacher,
    Gaussian,
}

/// Network, process and data of a measurement.
struct Measured<'a> {
    args: &'a LikelihoodArgs,
    network: &'a Network,
    diffusion: &'a Diffusion,
    self_conditioned: bool,
    data: &'a DataInfo,
    classes: usize,
    items: Vec<Example>,
    device: Device,
}

/// Does what the arguments say, and gives the line with the result; the number is its first word.
pub fn run(args: &LikelihoodArgs) -> anyhow::Result<String> {
    let (path, _) = args.snapshot.choose()?;
    let open = args.snapshot.open()?;
    let is_image = |data: &DataInfo| data.shape.len() == 3;
    let (mut snapshot, diffusion) = args.snapshot.load(&path, &open.device)?;
    let has_bound = is_image(&snapshot.config.data) && matches!(diffusion, Diffusion::Discrete(_));
    let method = args.method.unwrap_or(if has_bound { Method::Bound } else { Method::Ode });
    if method == Method::Bound && !is_image(&snapshot.config.data) {
        bail!(
            "--method bound: its last term is about 8-bit values, which {} has not; use ode",
            snapshot.config.data.name
        );
    }
    let device = match method {
        Method::Bound => open.device,
        Method::Ode => open.device.autodiff(),
    };
    if method == Method::Ode {
        // The gradients wanted are those of x alone.
        snapshot.network = snapshot.network.fork(&device).no_grad();
    }
    let config = &snapshot.config;
    let split = match args.split {
        Part::Train => Split::Train,
        Part::Test => Split::Test,
    };
    let source = config
        .source
        .as_ref()
        .with_context(|| format!("{}: the snapshot does not record its training data", path.display()))?;
    let data = ddpm_data::open(source, split, 0)?;
    let items = (0..data.items.len().min(args.count)).map(|k| data.items.get(k)).collect::<Result<Vec<_>, _>>()?;
    eprintln!(
        "{}: {} after step {}, {} {} items, by {} on {}",
        path.display(),
        config.experiment,
        config.step,
        items.len(),
        split.name(),
        match method {
            Method::Bound => "the variational bound",
            Method::Ode => "the probability-flow ODE",
        },
        open.name
    );
    let classes = config.network.num_classes();
    let data = &config.data;
    let self_conditioned = config.diffusion.self_conditioning;
    let network = &snapshot.network;
    let measured = Measured { args, network, diffusion: &diffusion, self_conditioned, data, classes, items, device };
    match (method, data.shape.len()) {
        (Method::Bound, _) => match &diffusion {
            Diffusion::Discrete(diffusion) => measured.bound(diffusion),
            Diffusion::Continuous(_) => bail!("--method bound: sums over trained steps, which a path has not; use ode"),
        },
        (Method::Ode, 1) => measured.ode::<2>(),
        (Method::Ode, 3) => measured.ode::<4>(),
        _ => bail!("data of shape {:?} are not supported: expected [N] or [C, H, W]", data.shape),
    }
}

impl Measured<'_> {
    /// Means over the items of the bound and its terms.
    fn bound(&self, diffusion: &GaussianDiffusion) -> anyhow::Result<String> {
        let steps = diffusion.schedule.len();
        let batches = self.items.len().div_ceil(self.args.batch_size);
        let bar = progress_bar("{bar:28} {pos}/{len} steps  {elapsed} < {eta}", (steps * batches) as u64);
        let (mut whole, mut prior, mut middle, mut first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for rows in self.batches() {
            let x_0 = self.batch::<4>(rows.clone(), |_, _| {})?;
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
                let x_t = if self.self_conditioned { beside_estimate(x_t, None) } else { x_t };
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
        eprintln!("standard error {error:.4}");
        let (prior, middle, first) = (term(&prior), term(&middle), term(&first));
        Ok(format!("{whole:.4} bits/dim = L_T {prior:.4} + L_1..T-1 {middle:.4} + L_0 {first:.4}"))
    }

    /// Mean over the items of minus the log-likelihood of the ODE.
    fn ode<const D: usize>(&self) -> anyhow::Result<String> {
        let is_image = self.data.shape.len() == 3;
        let args = self.args;
        let levels = [self.diffusion.level_at(0.0), self.diffusion.level_at(1.0)];
        let tolerance = Tolerance { absolute: args.atol, relative: args.rtol };
        let kind = match args.probe {
            Kind::Rademacher => ProbeKind::Rademacher,
            Kind::Gaussian => ProbeKind::Gaussian,
        };
        let bar = progress_bar("{bar:28} {pos}/{len} items  {msg}  {elapsed}", self.items.len() as u64);
        let mut found = Vec::new();
        let mut asked = 0;
        for rows in self.batches() {
            let x_0 = self.batch::<D>(rows.clone(), |item, values| {
                if is_image {
                    dequantise(values, args.seed, item);
                }
            })?;
            let condition = self.condition(&rows);
            let network = |x_t: Tensor<D>, t: Tensor<1>| self.network.forward(x_t, t, &condition);
            // An estimate from before would make the answer depend on more than x.
            let estimate = if self.self_conditioned { Estimate::Blank } else { Estimate::Unused };
            let denoiser = NetworkDenoiser::new(network, self.diffusion, estimate);
            let probe = |probe| {
                self.tensor(rows.clone().flat_map(|item| kind.draw(args.seed, item, probe, self.size())).collect())
            };
            let trace = match (args.probes, is_image) {
                (None, false) => Trace::Exact,
                (probes, _) => Trace::Probes((0..probes.unwrap_or(1)).map(|k| probe(k).inner()).collect()),
            };
            let mut show = |calls: usize| bar.set_message(format!("{calls} evaluations"));
            let (log_p, effort) = log_likelihood(&denoiser, x_0.inner(), &trace, levels, tolerance, &mut show);
            asked += effort.calls;
            bar.inc(rows.len() as u64);
            found.extend(log_p.into_iter().map(|log_p| self.per_dimension(log_p)));
        }
        bar.finish_and_clear();
        let (mean, error) = mean_and_error(&found);
        finite(mean)?;
        eprintln!("standard error {error:.4}; {asked} network evaluations");
        Ok(match is_image {
            true => format!("{mean:.4} bits/dim"),
            false => format!("{mean:.4} nats/dim"),
        })
    }

    /// Minus the log-density, in bits of bytes for images, otherwise in nats in the units of the data.
    fn per_dimension(&self, log_p: f64) -> f64 {
        if self.data.shape.len() == 3 {
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
    fn batch<const D: usize>(
        &self,
        rows: Range<usize>,
        change: impl Fn(usize, &mut [f32]),
    ) -> anyhow::Result<Tensor<D>> {
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

    fn tensor<const D: usize>(&self, values: Vec<f32>) -> Tensor<D> {
        let mut shape = [0; D];
        shape[0] = values.len() / self.size();
        shape[1..].copy_from_slice(&self.data.shape);
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// The classes of the items, for a network that knows classes.
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
