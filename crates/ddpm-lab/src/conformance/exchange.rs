//! What is written on one device and read on another.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use ddpm_families::snapshot::{Snapshot, SnapshotConfig};
use ddpm_model::network::Network;

use super::check::{Group, difference, tolerance};
use super::training::{Recipe, Training, compare};

/// Steps before the exchange, and after it.
const STEPS: u64 = 5;

/// Snapshots there and back, bit for bit; and trainings that change the device half-way, against one that does not.
pub fn check(recipe: &Recipe, device: &Device, flex: &Device, folder: &Path) -> [Group; 2] {
    let mut stored = Group::new("snapshots of other devices", tolerance::STORED);
    let mut resumed = Group::new("trainings of other devices", tolerance::LOSS);
    let ways = [("to flex", device, flex), ("from flex", flex, device)];
    for (way, from, to) in ways {
        stored.attempt(way, || snapshot(recipe, from, to, &folder.join(way)));
        resumed.attempt(way, || checkpoint(recipe, from, to, flex, &folder.join(way)));
    }
    [stored, resumed]
}

fn snapshot(recipe: &Recipe, from: &Device, to: &Device, folder: &Path) -> anyhow::Result<Vec<(String, f64)>> {
    let mut training = Training::new(recipe, from)?;
    training.steps(1)?;
    let experiment = &recipe.experiment;
    let config = SnapshotConfig::new(
        recipe.tables().model.clone(),
        recipe.tables().diffusion.clone(),
        recipe.data.clone(),
        experiment.data.clone(),
        "conformance",
    );
    let dir = folder.join("snapshot");
    std::fs::create_dir_all(folder)?;
    Snapshot::save(training.averaged(), &config, &dir)?;
    let read = Snapshot::load(&dir, to)?;
    let (wanted, found) = (weights(training.averaged()), weights(&read.network));
    let same_config = read.config == config;
    Ok(vec![
        ("weights".into(), difference(&found, &wanted)),
        ("description".into(), if same_config { 0.0 } else { f64::INFINITY }),
    ])
}

fn checkpoint(
    recipe: &Recipe,
    from: &Device,
    to: &Device,
    flex: &Device,
    folder: &Path,
) -> anyhow::Result<Vec<(String, f64)>> {
    let mut whole = Training::new(recipe, flex)?;
    whole.steps(STEPS)?;
    let wanted = whole.steps(STEPS)?;
    let mut first = Training::new(recipe, from)?;
    first.steps(STEPS)?;
    let mut second = Training::load(recipe, to, &first.save(&folder.join("checkpoints"))?)?;
    Ok(compare(&second.steps(STEPS)?, &wanted, STEPS + 1))
}

fn weights(network: &Network) -> Vec<f64> {
    let mut values = Values(Vec::new());
    network.visit(&mut values);
    values.0
}

struct Values(Vec<f64>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.extend(param.val().into_data().iter::<f64>());
    }
}
