//! The weights that are evaluated, opened: what is denoised step by step, and models of any other family.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use ddpm_data::{DataConfig, fnv1a};
use ddpm_eval::record::SamplingSettings;
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::Trained;
use ddpm_families::snapshot::Snapshot;
use ddpm_model::diffusion::Diffusion;

use crate::commands::choose::SnapshotArgs;
use crate::commands::sample::in_precision;

/// Weights to evaluate.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// Width of their EMA; `None` for the EMA of the snapshots.
    pub(super) width: Option<f64>,
}

/// Opened weights.
#[derive(Clone)]
pub(super) enum Model {
    /// Denoised step by step, by any sampler.
    Denoiser(Rc<Denoiser>),
    /// Used by what it can do.
    OfFamily(Rc<FamilyModel>),
}

/// A network that is denoised step by step.
pub(super) struct Denoiser {
    pub(super) weights: Candidate,
    pub(super) snapshot: Snapshot,
    /// The process it was trained for.
    pub(super) diffusion: Diffusion,
    /// Of its weights and of the process.
    pub(super) hash: u64,
}

/// A model of a family that has no samplers.
pub(super) struct FamilyModel {
    pub(super) weights: Candidate,
    pub(super) trained: Box<dyn Trained>,
    /// Of the files of the snapshot.
    pub(super) hash: u64,
    /// What its precision adds to its name.
    pub(super) precision: String,
}

impl Model {
    /// Opens weights.
    pub(super) fn open(args: &SnapshotArgs, weights: Candidate, device: &Device) -> anyhow::Result<Self> {
        if ModelCard::find(&weights.path)?.is_none() {
            return Ok(Self::Denoiser(Rc::new(Denoiser::open(args, weights, device)?)));
        }
        let trained = args.open_at(&weights.path, device)?;
        let hash = hash_of_files(&weights.path).with_context(|| format!("cannot read {}", weights.path.display()))?;
        let precision = in_precision(args.precision());
        Ok(Self::OfFamily(Rc::new(FamilyModel { weights, trained, hash, precision })))
    }

    /// The data that it was trained on, where it records them.
    pub(super) fn source(&self) -> Option<&DataConfig> {
        match self {
            Self::Denoiser(model) => model.snapshot.config.source.as_ref(),
            Self::OfFamily(model) => model.trained.card().source.as_ref(),
        }
    }
}

impl Denoiser {
    pub(super) fn open(args: &SnapshotArgs, weights: Candidate, device: &Device) -> anyhow::Result<Self> {
        let (snapshot, diffusion) = args.load(&weights.path, device)?;
        let hash = weights_hash(&snapshot);
        Ok(Self { weights, snapshot, diffusion, hash })
    }
}

impl FamilyModel {
    /// A short name for people.
    pub(super) fn name(&self) -> String {
        let card = self.trained.card();
        let width = self.weights.width.map(|width| format!(" width {width}")).unwrap_or_default();
        format!("{} step {}{width}{}", card.experiment, card.step, self.precision)
    }

    /// How something is made by it in one pass.
    pub(super) fn settings(&self, how: &str, seed: u64) -> SamplingSettings {
        SamplingSettings {
            step: self.trained.card().step,
            width: self.weights.width,
            sampler: how.into(),
            sampler_steps: 1,
            levels: serde_json::Value::Null,
            guidance: 1.0,
            seed,
            options: Default::default(),
        }
    }

    /// What its results depend on.
    pub(super) fn identity(&self, device: &Device) -> String {
        format!("{:016x} on {device:?}{}", self.hash, self.precision)
    }
}

/// A hash of the weights of a snapshot and of the process that they were trained for.
fn weights_hash(snapshot: &Snapshot) -> u64 {
    struct Bytes(Vec<u8>);
    impl ModuleVisitor for Bytes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().as_bytes());
        }
    }
    let mut bytes = Bytes(format!("{:?}", snapshot.config.diffusion).into_bytes());
    snapshot.network.visit(&mut bytes);
    fnv1a(bytes.0)
}

/// A hash of all files of a folder, in the order of their names.
fn hash_of_files(folder: &Path) -> std::io::Result<u64> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    let hashes = paths.iter().map(|path| Ok(fnv1a(std::fs::read(path)?))).collect::<std::io::Result<Vec<u64>>>()?;
    Ok(fnv1a(hashes.into_iter().flat_map(u64::to_le_bytes)))
}
