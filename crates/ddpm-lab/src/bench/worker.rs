//! Our side of the measurement: the same code that trains and samples, asked line by line.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use burn::data::dataloader::DataLoader;
use burn::data::dataset::InMemDataset;
use burn::module::{Module, Param};
use burn::nn::LinearConfig;
use burn::tensor::{Device, Distribution, Tensor};
use burn_train::Learner;
use ddpm_data::random::{Stream, mix, normals, rng};
use ddpm_data::{DataConfig, DataInfo, Example, Flip, OpenData, OrderedLoader, Units};
use ddpm_families::diffusion::DiffusionFamily;
use ddpm_families::diffusion::noising::NoisedBatch;
use ddpm_families::diffusion::tables::DiffusionTables;
use ddpm_families::family::Origin;
use ddpm_families::family::any_module::AnyModule;
use ddpm_families::family::erased::AnyBatch;
use ddpm_families::parameters::settle;
use ddpm_families::snapshot::trained;
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig};
use ddpm_kernels::{Precision, among_the_kernels, dense, memory};
use ddpm_model::condition::Condition;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_sampling::job::{SamplingJob, TrainedModel};
use ddpm_sampling::samplers::Sampler;
use serde_json::json;

use super::network::Work;
use ddpm_train::batches::Batches;
use ddpm_train::clip_and_average::{clip_global_norm, ema_update};
use ddpm_train::config::OptimizerConfig;
use ddpm_train::memory::peak_mib;
use ddpm_train::rate::RateSchedule;
use ddpm_train::train_step::{TrainBatch, TrainModel};

/// Pictures that are loaded from.
const PICTURES: usize = 1024;
/// Rows of the square matrices whose product measures the machine.
const MATRIX: usize = 1536;

/// What is trained, and on what.
pub(super) struct Plan<'a> {
    pub(super) network: NetworkConfig,
    pub(super) data: DataInfo,
    pub(super) batch: usize,
    /// Of the batch, on a device.
    pub(super) condition: Box<dyn Fn(&Device) -> Condition + 'a>,
}

/// A model and all that is done with it.
pub(super) struct Worker {
    batch_size: usize,
    device: Device,
    /// Of a batch that is not trained on.
    condition: Condition,
    data: DataInfo,
    learner: Learner<TrainModel>,
    average: TrainModel,
    batch: NoisedBatch,
    family: Arc<DiffusionFamily>,
}

/// Answers commands until there are no more.
pub(super) fn run(
    work: &Work,
    device: &Device,
    gradient_checkpointing: bool,
    precision: Precision,
) -> anyhow::Result<()> {
    let plan = Plan {
        network: NetworkConfig::UNet(work.network.clone()),
        data: data_of(work),
        batch: work.shape.batch,
        condition: Box::new(|device| work.condition(device)),
    };
    Worker::new(plan, device, gradient_checkpointing, precision)?.run(precision)
}

/// What ours is called in this precision.
pub(super) fn name_of(precision: Precision) -> String {
    match precision {
        Precision::F32 => "ours".to_string(),
        half => format!("ours {}", half.name()),
    }
}

/// Says who answers, and answers commands until there are no more.
pub(super) fn answer_commands(
    name: &str,
    parameters: usize,
    mut answer: impl FnMut(&str, usize) -> anyhow::Result<serde_json::Value>,
) -> anyhow::Result<()> {
    // 0 where none were said.
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(0_usize);
    say(&json!({ "name": name, "parameters": parameters, "threads": threads }))?;
    for line in stdin().lock().lines() {
        let line = line?;
        let (command, number) = line.split_once(' ').unwrap_or((&line, "1"));
        let number = number.trim().parse().with_context(|| format!("`{line}` has no number"))?;
        say(&answer(command, number)?)?;
    }
    Ok(())
}

/// Opens a snapshot, takes one denoising step of one sample, and says so.
pub(super) fn start(snapshot: &Path, device: &Device) -> anyhow::Result<()> {
    let snapshot = Snapshot::load(snapshot, device)?;
    let diffusion = snapshot.config.diffusion.init()?;
    job(1, 1, &snapshot.config.data, &diffusion).run(&trained(&snapshot, &diffusion), device, &mut |_| {})?;
    say(&json!({ "done": true }))
}

/// Writes the network as a snapshot, for [`start`] to open.
pub(super) fn write_snapshot(work: &Work, device: &Device, folder: &Path) -> anyhow::Result<()> {
    let network = NetworkConfig::UNet(work.network.clone());
    let config = SnapshotConfig::new(
        network.clone(),
        DiffusionConfig::default(),
        data_of(work),
        DataConfig::Digits(Default::default()),
        "bench",
    );
    Snapshot::save(&settle(network.init(device)), &config, folder)?;
    Ok(())
}

impl Worker {
    pub(super) fn new(
        plan: Plan<'_>,
        device: &Device,
        gradient_checkpointing: bool,
        precision: Precision,
    ) -> anyhow::Result<Self> {
        let Plan { network, data, batch: batch_size, condition } = plan;
        let autodiff = match gradient_checkpointing {
            true => device.clone().autodiff().gradient_checkpointing(),
            false => device.clone().autodiff(),
        };
        autodiff.seed(mix(0, Stream::Init, 0));
        let net: Network = settle(network.init(&autodiff)).in_precision(precision.on(device));
        let family = Arc::new(family(network, &data)?);
        let model = TrainModel::new(AnyModule::new(net), family.clone());
        let average = model.clone().valid();
        let optimizer = OptimizerConfig { warmup_steps: 0, ..OptimizerConfig::default() };
        let rate = RateSchedule { config: optimizer.clone(), batch_size, step: 0 };
        let dims = [batch_size, data.shape[0], data.shape[1], data.shape[2]];
        let noise = || Tensor::random(dims, Distribution::Normal(0.0, 1.0), &autodiff);
        let batch = NoisedBatch {
            x_0: noise(),
            eps: noise(),
            times: (0..batch_size).map(|row| (row * 999 / batch_size) as f64).collect(),
            condition: condition(&autodiff),
            augment_labels: None,
            first_item: 0,
            shown: None,
            importance: None,
        };
        let optimizer = optimizer.init(&model);
        let learner = Learner::new(model, optimizer, rate);
        let condition = condition(device);
        Ok(Self { batch_size, device: device.clone(), condition, data, learner, average, batch, family })
    }

    /// Says who it is, and answers commands until there are no more.
    pub(super) fn run(mut self, precision: Precision) -> anyhow::Result<()> {
        let parameters = self.average.num_params();
        answer_commands(&name_of(precision), parameters, |command, number| self.answer(command, number))
    }

    fn answer(&mut self, command: &str, number: usize) -> anyhow::Result<serde_json::Value> {
        Ok(match command {
            "forward" => self.forward(number),
            "train" => {
                memory::for_training(self.average.num_params());
                measure(number, || self.train())
            }
            "sample" => self.sample(number)?,
            "load" => self.load(number)?,
            "multiply" => self.multiply(number),
            "memory" => json!({ "peak_mib": peak_mib().unwrap_or(0.0) }),
            "profile" => self.profile(number),
            other => bail!("no such command: {other}"),
        })
    }

    fn forward(&self, repeats: usize) -> serde_json::Value {
        let network = DiffusionFamily::network(&self.average.net);
        let x = self.batch.x_0.clone().inner();
        let t = Tensor::<1>::full([self.batch_size], 500.0, &self.device);
        let condition = &self.condition;
        measure(repeats, || {
            let y = network.forward(x.clone(), t.clone(), condition);
            y.sum().into_scalar::<f32>();
        })
    }

    /// What `step_loop.rs` does at every step: loss, gradients, global norm, Adam, average of the weights.
    fn train(&mut self) {
        let batch = TrainBatch {
            batch: AnyBatch::of::<DiffusionFamily>(self.batch.clone()),
            device: self.batch.x_0.device(),
            share: 1.0,
            loss_scale: 1.0,
            first_item: 0,
        };
        let output = self.learner.train_step(batch);
        let model = self.learner.model();
        let mut grads = output.grads;
        let Self { learner, average, device, .. } = self;
        among_the_kernels(device, || clip_global_norm(&model, &mut grads, 1.0));
        drop(model);
        learner.lr_step();
        among_the_kernels(device, || learner.optimizer_step(grads));
        let model = learner.model();
        among_the_kernels(device, || ema_update(average, &model, 0.9999));
    }

    fn sample(&self, steps: usize) -> anyhow::Result<serde_json::Value> {
        let network = DiffusionFamily::network(&self.average.net);
        let model = TrainedModel::new(network, &self.family.process, &self.data);
        let job = job(self.batch_size, steps, &self.data, &self.family.process);
        let mut done = Ok(());
        let measured = measure(1, || {
            if let Err(error) = job.run(&model, &self.device, &mut |_| {}) {
                done = Err(error);
            }
        });
        done?;
        Ok(measured)
    }

    /// A batch, with its noise and times.
    fn load(&self, batches: usize) -> anyhow::Result<serde_json::Value> {
        let width = self.data.values_per_item();
        let picture = |n| Example {
            values: normals(&mut rng(0, Stream::Points, n), width),
            label: None,
            window: None,
            caption: None,
        };
        let data = OpenData {
            info: self.data.clone(),
            items: Arc::new(InMemDataset::new((0..PICTURES as u64).map(picture).collect())),
            skipped: Vec::new(),
            series: None,
            ignored: Default::default(),
            labels: None,
            flip: Flip::Never,
        };
        let items = OrderedLoader::new(&data, self.batch_size, 0)?.with_workers(2);
        let (family, device) = (self.family.clone(), self.device.clone());
        let loader = Batches { items, family, seed: 0, parts: 1, device };
        Ok(measure_share(3, 1.0 / batches as f64, || loader.iter().take(batches).for_each(drop)))
    }

    fn multiply(&self, repeats: usize) -> serde_json::Value {
        let matrix = || Tensor::<2>::random([MATRIX; 2], Distribution::Default, &self.device);
        let (a, b) = (matrix(), matrix());
        let precision = DiffusionFamily::network(&self.average.net).precision();
        if precision == Precision::F32 {
            return measure(repeats, || {
                a.clone().matmul(b.clone()).slice([0..1, 0..1]).into_scalar::<f32>();
            });
        }
        let mut layer = LinearConfig::new(MATRIX, MATRIX).with_bias(false).init(&self.device);
        layer.weight = Param::from_tensor(b);
        measure(repeats, || {
            dense(&layer, precision.carried(a.clone()), precision).slice([0..1, 0..1]).into_scalar::<f32>();
        })
    }

    /// Where the time of training steps goes: in the kernels by their own clocks, the rest in Burn.
    fn profile(&mut self, steps: usize) -> serde_json::Value {
        self.train();
        ddpm_kernels::clock::reset();
        let start = Instant::now();
        (0..steps).for_each(|_| self.train());
        operations(start.elapsed().as_secs_f64() * 1e3 / steps as f64, steps)
    }
}

/// The answer of a profile: what the kernels' clocks counted in so many steps.
pub(super) fn operations(step_ms: f64, steps: usize) -> serde_json::Value {
    let operations = ddpm_kernels::clock::read().into_iter().map(|(name, calls, time)| {
        let milliseconds = time.as_secs_f64() * 1e3 / steps as f64;
        json!({ "name": name, "calls": calls as f64 / steps as f64, "milliseconds": milliseconds })
    });
    json!({ "step_ms": step_ms, "operations": operations.collect::<Vec<_>>() })
}

/// The family with the defaults of the paper.
fn family(network: NetworkConfig, data: &DataInfo) -> anyhow::Result<DiffusionFamily> {
    let tables = DiffusionTables::of(network, DiffusionConfig::default());
    DiffusionFamily::new(tables, Origin { experiment: "bench".into(), data: data.clone(), source: None })
        .map_err(|(key, message)| anyhow::anyhow!("{key}: {message}"))
}

fn data_of(work: &Work) -> DataInfo {
    data_info(vec![work.network.in_channels, work.shape.size, work.shape.size])
}

/// What a data set of this shape says about itself.
pub(super) fn data_info(shape: Vec<usize>) -> DataInfo {
    DataInfo {
        name: "bench".into(),
        units: Units::identity(shape[0]),
        shape,
        classes: Vec::new(),
        series: None,
        latent: false,
        has_captions: false,
    }
}

fn job(count: usize, steps: usize, data: &DataInfo, diffusion: &Diffusion) -> SamplingJob {
    let sampler = Sampler::Ddim { eta: 0.0 };
    SamplingJob { count, batch_size: count, steps: Some(steps), ..SamplingJob::of_data(sampler, diffusion, data) }
}

pub(super) fn measure(repeats: usize, work: impl FnMut()) -> serde_json::Value {
    measure_share(repeats, 1.0, work)
}

/// A share of the time of each run, by the clock and of the processor. The first run is for warming up.
fn measure_share(repeats: usize, share: f64, mut work: impl FnMut()) -> serde_json::Value {
    work();
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        work();
        walls.push(wall.elapsed().as_secs_f64() * share);
        cpus.extend(cpu.zip(cpu_seconds()).map(|(before, after)| (after - before) * share));
    }
    json!({ "seconds": walls, "cpu_seconds": cpus })
}

/// What all threads of this process have run so far, where the system tells it in `/proc`.
fn cpu_seconds() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    Some(nanoseconds.flatten().sum::<f64>() * 1e-9)
}

pub(super) fn say(answer: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}
