//! The first steps of a training, from the same weights and with the same batches on every device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn_train::TrainStep;
use ddpm_data::{DataInfo, OrderedLoader, Split};
use ddpm_families::diffusion::DiffusionFamily;
use ddpm_families::diffusion::tables::DiffusionTables;
use ddpm_families::family::any_module::AnyModule;
use ddpm_families::family::{Family, Origin};
use ddpm_families::parameters::settle;
use ddpm_model::network::{Network, NetworkConfig};

use super::check::off_by;
use ddpm_train::batches::Batches;
use ddpm_train::checkpoint::{Checkpoint, TrainState, restore};
use ddpm_train::clip_and_average::{clip_global_norm, ema_update};
use ddpm_train::config::Experiment;
use ddpm_train::config::load::Source;
use ddpm_train::train_step::{TrainBatch, TrainModel};

/// The digits, with what makes the comparison sharp or short.
pub struct Recipe {
    /// The experiment, resolved.
    pub experiment: Experiment,
    /// What its data are.
    pub data: DataInfo,
    family: Arc<DiffusionFamily>,
    weights: Network,
}

impl Recipe {
    /// As shipped, without dropout, whose random numbers each backend draws in its own way, and without a warm-up, in
    /// which nothing would happen. The weights to start from are drawn on `flex`.
    pub fn digits(quick: bool, flex: &Device) -> anyhow::Result<Self> {
        let mut sets = vec!["model.dropout=0.0", "optimizer.warmup_steps=0"];
        if quick {
            sets.extend(["model.base_channels=16", "model.blocks_per_level=1", "train.batch_size=16"]);
        }
        let sets: Vec<String> = sets.into_iter().map(String::from).collect();
        let experiment = Source::find("digits")?.load(&sets, toml::Table::new())?;
        let data = ddpm_data::open(&experiment.data, Split::Train, experiment.train.seed)?.info;
        let tables = experiment.family.get::<DiffusionFamily>().context("the digits are of family diffusion")?;
        let network = tables.model.clone().with_io(&data.shape, data.shape[0]);
        network.validate(&data.shape)?;
        let tables = DiffusionTables { model: network, ..tables.clone() };
        let (name, source) = ("conformance".to_string(), Some(experiment.data.clone()));
        let family = DiffusionFamily::new(tables, Origin { experiment: name, data: data.clone(), source })
            .map_err(|(key, message)| anyhow::anyhow!("{key}: {message}"))?;
        flex.seed(experiment.train.seed);
        let weights = settle(Family::init(&family, flex));
        Ok(Self { experiment, family: Arc::new(family), data, weights })
    }

    /// The network to train.
    pub fn network(&self) -> &NetworkConfig {
        &self.tables().model
    }

    /// What the experiment says of diffusion.
    pub fn tables(&self) -> &DiffusionTables {
        Family::tables(&*self.family)
    }
}

/// A training that is some steps old.
pub struct Training<'a> {
    recipe: &'a Recipe,
    device: Device,
    model: TrainModel,
    average: TrainModel,
    optimizer: ModuleOptimizer,
    state: TrainState,
}

impl<'a> Training<'a> {
    /// From the first weights.
    pub fn new(recipe: &'a Recipe, device: &Device) -> anyhow::Result<Self> {
        let record = recipe.weights.clone().into_record();
        let optimizer = recipe.experiment.optimizer.init(&recipe.weights);
        Self::start(recipe, device, record, optimizer, TrainState::default())
    }

    /// From a checkpoint, wherever it was written.
    pub fn load(recipe: &'a Recipe, device: &Device, dir: &Path) -> anyhow::Result<Self> {
        let Checkpoint { state, model, optimizer, .. } = Checkpoint::load(dir, &[])?;
        let optimizer = recipe.experiment.optimizer.init(&recipe.weights).load_record(optimizer);
        Self::start(recipe, device, model, optimizer, state)
    }

    fn start(
        recipe: &'a Recipe,
        device: &Device,
        weights: ModuleRecord,
        optimizer: ModuleOptimizer,
        state: TrainState,
    ) -> anyhow::Result<Self> {
        let device = device.clone().autodiff();
        let network = restore(settle(recipe.network().init(&device)), weights, Path::new("the weights to start from"))?;
        let model = TrainModel::new(AnyModule::new(network), recipe.family.clone());
        Ok(Self { recipe, device, average: model.clone().valid(), model, optimizer, state })
    }

    /// Takes steps and gives the loss and the norm of the gradient of each.
    pub fn steps(&mut self, count: u64) -> anyhow::Result<Vec<[f64; 2]>> {
        let Experiment { train, optimizer, .. } = &self.recipe.experiment;
        let batches = self.batches()?;
        let end = self.state.images_seen + count * train.batch_size as u64;
        let batches = batches.slice(self.state.images_seen as usize, end as usize);
        let mut curve = Vec::new();
        for batch in batches.iter() {
            let output = TrainStep::step(&self.model, batch?);
            let mut gradients = output.grads;
            let norm = clip_global_norm(&self.model, &mut gradients, optimizer.clip_norm);
            let rate = optimizer.rate_at(self.state.step, train.batch_size);
            self.model = self.optimizer.step(rate, self.model.clone(), gradients);
            ema_update(&mut self.average, &self.model, 0.9);
            self.state.step += 1;
            self.state.images_seen += train.batch_size as u64;
            curve.push([output.item.loss, norm]);
        }
        Ok(curve)
    }

    /// Writes a checkpoint into `folder` and gives its own folder.
    pub fn save(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            model: self.model.net.clone().into_record(),
            ema: self.average.net.clone().into_record(),
            post_hoc: Vec::new(),
            optimizer: self.optimizer.to_record(),
        };
        Ok(checkpoint.save(folder, "conformance")?)
    }

    /// The averaged weights, without autodiff.
    pub fn averaged(&self) -> &Network {
        DiffusionFamily::network(&self.average.net)
    }

    fn batches(&self) -> anyhow::Result<Arc<dyn DataLoader<TrainBatch>>> {
        let Experiment { data, train, .. } = &self.recipe.experiment;
        let data = ddpm_data::open(data, Split::Train, train.seed)?;
        let items = OrderedLoader::new(&data, train.batch_size, train.seed)?.with_workers(1);
        let (family, device) = (self.recipe.family.clone(), self.device.clone());
        Ok(Arc::new(Batches { items, family, seed: train.seed, parts: 1, device }))
    }
}

/// One curve against another, step by step: losses and norms relative to the largest.
pub fn compare(found: &[[f64; 2]], wanted: &[[f64; 2]], first: u64) -> Vec<(String, f64)> {
    let of = |curve: &[[f64; 2]], which: usize| curve.iter().map(|step| step[which]).collect::<Vec<_>>();
    if found.len() != wanted.len() || wanted.is_empty() {
        return vec![("number of steps".into(), f64::INFINITY)];
    }
    let mut errors = Vec::new();
    for (which, what) in ["loss", "norm of the gradient"].into_iter().enumerate() {
        for (k, (found, wanted)) in of(found, which).into_iter().zip(of(wanted, which)).enumerate() {
            errors.push((format!("{what} of step {}", first + k as u64), off_by(&[found], &[wanted])));
        }
    }
    errors
}
