//! What every family must hold, over one tiny experiment each; and a family of the tests, which the programs know by one
//! line of the registry.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::StreamItem;
use ddpm_data::random::{Stream, normals, rng};
use ddpm_families::family::erased::Of;
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::{Draw, Forecast, Generate, SeriesDraw, Stretch, Trained, open};
use ddpm_families::family::{
    AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Subject, registry,
};
use ddpm_kernels::Precision;
use ddpm_model::network::MemoryEstimate;
use ddpm_model::pass::Pass;
use ddpm_render::Samples;
use ddpm_train::train::{Finish, Options, run};
use serde::{Deserialize, Serialize};

use crate::support::sample_command;

/// A linear autoencoder of points or images: `x` to a few numbers and back.
#[derive(Clone, Debug)]
struct LinearAutoencoder {
    tables: Tables,
    origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    model: Sizes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sizes {
    latent: usize,
}

#[derive(Module, Debug)]
struct Autoencoder {
    encoder: Linear,
    decoder: Linear,
}

impl Family for LinearAutoencoder {
    const NAME: &'static str = "linear-autoencoder";
    const ABOUT: &'static str = "principal components, by gradient descent";
    const SECTIONS: &'static [(&'static str, &'static str)] = &[("model", "latent = 1")];
    type Tables = Tables;
    type Model = Autoencoder;
    type Batch = Tensor<2>;
    type Memory = ();

    fn problems(tables: &Tables) -> Vec<Problem> {
        let fault = ("model.latent".to_string(), "must be at least 1, not 0".to_string());
        if tables.model.latent == 0 { vec![fault] } else { Vec::new() }
    }

    fn resolve(tables: Tables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        Ok(Self { tables, origin: subject.origin() })
    }

    fn restored(tables: Tables, origin: Origin) -> Result<Self, AnyError> {
        Ok(Self { tables, origin })
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn init(&self, device: &Device) -> Autoencoder {
        let (values, latent) = (self.origin.data.values_per_item(), self.tables.model.latent);
        let encoder = LinearConfig::new(values, latent).init(device);
        Autoencoder { encoder, decoder: LinearConfig::new(latent, values).init(device) }
    }

    fn memory_estimate(&self, parameters: usize, _: usize) -> MemoryEstimate {
        let bytes = 4 * parameters as u64;
        MemoryEstimate { parameters: bytes, gradients: bytes, optimizer: 2 * bytes, ema: bytes, activations: bytes }
    }

    fn batch(&self, items: Vec<StreamItem>, _: u64, device: &Device) -> Tensor<2> {
        let dims = [items.len(), self.origin.data.values_per_item()];
        let values: Vec<f32> = items.into_iter().flat_map(|item| item.example.values).collect();
        Tensor::from_data(TensorData::new(values, dims), device)
    }

    fn to_device(&self, batch: Tensor<2>, device: &Device) -> Tensor<2> {
        batch.to_device(device)
    }

    fn losses(&self, model: &Autoencoder, x: &Tensor<2>, _: &Pass<'_>) -> Losses {
        let error = model.decoder.forward(model.encoder.forward(x.clone())) - x.clone();
        let rows = error.square().mean_dim(1).squeeze::<1>();
        Losses { loss: rows.clone().mean(), rows: rows.detach(), parts: Vec::new() }
    }

    fn first_memory(&self) {}

    fn held_out(&self, _: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<Autoencoder>>, AnyError> {
        Ok(Box::new(Norm))
    }

    fn preview(&self, _: &PreviewSetup<'_>) -> Result<Box<dyn Preview<Autoencoder>>, AnyError> {
        Ok(Box::new(Norm))
    }

    fn trained(self, model: Autoencoder, card: ModelCard) -> Box<dyn Trained> {
        Box::new(Decoder { latent: self.tables.model.latent, model, card })
    }
}

/// Held-out number and preview that say nothing of data: the norm of the decoder.
struct Norm;

impl HeldOut<Autoencoder> for Norm {
    fn names(&self) -> Vec<&'static str> {
        vec!["valid_loss"]
    }

    fn measure(&self, model: &Autoencoder) -> Vec<f64> {
        vec![model.decoder.weight.val().square().sum().into_scalar::<f64>()]
    }
}

impl Preview<Autoencoder> for Norm {
    fn draw(&self, model: &Autoencoder, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let path = folder.join(name).with_extension("txt");
        std::fs::write(&path, format!("{:?}", self.measure(model)))?;
        Ok(path)
    }
}

struct Decoder {
    latent: usize,
    model: Autoencoder,
    card: ModelCard,
}

impl Trained for Decoder {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn generate(&self) -> Option<&dyn Generate> {
        Some(self)
    }
}

impl Generate for Decoder {
    fn generate(&self, draw: &Draw, first: u64, count: usize) -> Result<Samples, AnyError> {
        let places = first..first + count as u64;
        let values: Vec<f32> =
            places.flat_map(|k| normals(&mut rng(draw.seed, Stream::SampleStart, k), self.latent)).collect();
        let device = self.model.decoder.weight.device();
        let latents = Tensor::<2>::from_data(TensorData::new(values, [count, self.latent]), &device);
        let values = self.model.decoder.forward(latents).into_data().iter::<f32>().collect();
        let (shape, labels) = (self.card.data.shape.clone(), vec![None; count]);
        Ok(Samples { values, shape, labels, ..Samples::default() })
    }
}

/// The tiny experiment of each family.
const EXPERIMENTS: [(&str, &str); 10] = [
    ("linear-autoencoder", "family = \"linear-autoencoder\"\n[data]\nkind = \"swiss-roll\"\n[model]\nlatent = 1\n"),
    (
        "diffusion",
        "[data]\nkind = \"swiss-roll\"\n[model]\nkind = \"point-mlp\"\nhidden = [8]\nembedding_width = 8\n[preview]\nsteps = 3\n",
    ),
    ("vae", "family = \"vae\"\n[data]\nkind = \"swiss-roll\"\n[model]\nkind = \"mlp\"\nhidden = [8]\nlatent = 1\n"),
    (
        "vae-conv",
        "family = \"vae\"\n[data]\nkind = \"digits\"\n[model]\nkind = \"conv\"\nchannels = [4, 8]\nnorm_groups = 2\n\
         [vae]\nlikelihood = \"discretized-logistic\"\nlevels = 17\nkl_warmup = 5\n",
    ),
    (
        "vae-kl",
        "family = \"vae\"\n[data]\nkind = \"digits\"\n[model]\nkind = \"kl\"\nblock_out_channels = [4, 8]\n\
         norm_num_groups = 2\n[vae]\nvariance = \"optimal\"\n",
    ),
    (
        "hvae",
        "family = \"hvae\"\n[data]\nkind = \"digits\"\n[model]\nencoder = \"8d8,1x1\"\ndecoder = \"1x1,8m1\"\nwidth = 4\n\
         bottleneck_multiple = 0.5\nlatent_channels = 2\nlikelihood = { kind = \"bernoulli\" }\n[hvae]\nkl_warmup = 4\n",
    ),
    (
        "timegrad",
        "family = \"timegrad\"\n[data]\nkind = \"bimodal-series\"\ncount = 200\n[model]\ncells = 4\n\
         conditioning_length = 4\ndenoiser = \"attention\"\n[timegrad]\nhorizon = 3\nlags = [1, 2]\n[diffusion]\n\
         steps = 4\n",
    ),
    (
        "masked-csdi",
        "family = \"masked\"\n[data]\nkind = \"sines\"\ncount = 12\n[model]\nkind = \"csdi\"\nlayers = 1\nchannels = 8\n\
         heads = 2\nstep_embedding = 8\ntime_embedding = 8\nfeature_embedding = 4\n\
         [masked]\nsteps = 3\nmasks = [{ kind = \"mix\" }, { kind = \"blackout\" }]\nvariables_per_item = 3\n",
    ),
    (
        "masked-sssd",
        "family = \"masked\"\n[data]\nkind = \"sines\"\ncount = 12\n[model]\nkind = \"sssd\"\nresidual_channels = 4\n\
         skip_channels = 4\nlayers = 1\nstep_sinusoids = 8\nstep_hidden = 8\nstep_features = 8\nstates = 4\n[masked]\nsteps = 3\n",
    ),
    (
        "text-encoder",
        "family = \"text-encoder\"\n[data]\nkind = \"shapes\"\ncount = 40\n[model]\nwidth = 8\nlayers = 1\nheads = 2\n\
         max_length = 16\n[contrast]\nchannels = [8, 8]\nwidth = 8\n",
    ),
];

const TRAIN: &str = "[train]\nbatch_size = 4\nlog_every = 2\ncheckpoint_every = 3\nsnapshot_every = 6\n";

/// The families of these tests, known to the programs.
fn with_registry() {
    registry::register(&Of::<LinearAutoencoder>::NEW);
}

fn train(dir: &Path, name: &str, text: &str, resume: Option<&Path>, steps: u64) -> PathBuf {
    with_registry();
    let file = dir.join(format!("{name}.toml"));
    std::fs::write(&file, format!("{text}{TRAIN}")).unwrap();
    let options = Options {
        experiment: file.to_str().unwrap().into(),
        set: vec![format!("train.steps={steps}"), "preview.count=2".into(), "validation.every=2".into()],
        resume: resume.map(|run| run.to_str().unwrap().into()),
        runs: dir.join("runs"),
        ..Options::default()
    };
    let options = Options { set: if resume.is_some() { options.set[..1].to_vec() } else { options.set }, ..options };
    match run(&options).unwrap() {
        Finish::Done(run) => run,
        other => panic!("{other:?}"),
    }
}

fn weights(run: &Path, step: u64) -> Vec<u8> {
    std::fs::read(run.join(format!("checkpoints/step-{step:08}/model.bpk"))).unwrap()
}

#[test]
fn two_times_n_steps_are_n_and_n_bit_for_bit() {
    let _alone = crate::support::alone();
    for (name, text) in EXPERIMENTS {
        let dir = tempfile::tempdir().unwrap();
        let whole = train(dir.path(), name, text, None, 6);
        let half = train(dir.path(), &format!("{name}-half"), text, None, 3);
        let resumed = train(dir.path(), &format!("{name}-half"), text, Some(&half), 6);
        assert_eq!(weights(&whole, 6), weights(&resumed, 6), "{name}");
        let loss = |run: &Path| {
            let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            lines
                .map(|line| (line["step"].clone(), line["loss"].clone(), line["valid_loss"].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(loss(&whole), loss(&resumed), "{name}");
        assert!(loss(&whole).len() == 3 && loss(&whole)[0].2.is_number(), "{name}: {:?}", loss(&whole));
    }
}

#[test]
fn a_snapshot_alone_draws_the_same_samples_at_any_count() {
    let _alone = crate::support::alone();
    for (name, text) in EXPERIMENTS {
        let dir = tempfile::tempdir().unwrap();
        let run = train(dir.path(), name, text, None, 6);
        let alone = tempfile::tempdir().unwrap();
        let snapshot = alone.path().join("snapshot");
        std::fs::rename(run.join("snapshots/step-00000006"), &snapshot).unwrap();
        drop(dir);
        let model = open(&snapshot, &Device::default(), Precision::F32).unwrap();
        let family = &model.card().family;
        assert!(text.contains(&format!("family = \"{family}\"")) || family == "diffusion", "{name}: {family}");
        assert_eq!(model.card().step, 6);
        if let Some(model) = model.forecast() {
            forecasts_are_the_same_for_any_number(model, name);
        }
        let Some(generator) = model.generate() else { continue };
        let draw = |first, count| generator.generate(&Draw::of_seed(5), first, count).unwrap();
        let (all, last) = (draw(0, 5), draw(3, 2));
        assert_eq!((&all.shape, all.count()), (&model.card().data.shape, 5));
        let size = all.values.len() / 5;
        are_close(&all.values[3 * size..], &last.values, name);
        the_other_abilities_give_the_same_for_any_number(&*model, &all.values, name);
    }
}

/// Forecasts of windows do not depend on what else is forecast, nor on how many samples there are and are computed at once.
fn forecasts_are_the_same_for_any_number(model: &dyn Forecast, name: &str) {
    let series = ddpm_data::series::generated::bimodal(3, 60);
    let stretch = |end, number| Stretch { series: &series, start: 0, end, number };
    let of = |pasts: &[Stretch<'_>], samples, at_once| {
        model.forecast(pasts, 3, &SeriesDraw { at_once, ..SeriesDraw::new(5, samples) }).unwrap()
    };
    let all = of(&[stretch(40, 0), stretch(50, 1)], 3, 100);
    are_close(&of(&[stretch(40, 0), stretch(50, 1)], 3, 2), &all, name);
    are_close(&of(&[stretch(50, 1)], 3, 100), &all[3 * 3 * 4..], name);
    are_close(&of(&[stretch(40, 0)], 1, 100), &all[..3 * 4], name);
}

/// What a model can do besides gives an item the same, whatever is computed with it.
fn the_other_abilities_give_the_same_for_any_number(model: &dyn Trained, items: &[f32], name: &str) {
    let size = items.len() / 5;
    let last = &items[3 * size..];
    if let Some(encoder) = model.encode() {
        let (all, of_last) = (encoder.encode(items).unwrap(), encoder.encode(last).unwrap());
        let width = encoder.latent_shape().iter().product::<usize>();
        assert_eq!(all.len(), 5 * width, "{name}");
        are_close(&all[3 * width..], &of_last, name);
        are_close(&encoder.decode(&all).unwrap()[3 * size..], &encoder.decode(&of_last).unwrap(), name);
    }
    if let Some(model) = model.reconstruct() {
        for layers in 0..=model.layers() {
            let of = |items, first| model.reconstruct(items, layers, &Draw::of_seed(1), first).unwrap();
            are_close(&of(items, 0)[3 * size..], &of(last, 3), name);
        }
    }
    if let Some(model) = model.bound() {
        let of = |items, first| model.bound(items, 4, 2, first).unwrap();
        for (all, last) in of(items, 0)[3..].iter().zip(of(last, 3)) {
            assert!((all.elbo() - last.elbo()).abs() <= 1e-4 * last.elbo().abs().max(1.0), "{name}: {all:?} {last:?}");
            let [one, four] = [1, 4].map(|k| (all.importance_weighted(k) - last.importance_weighted(k)).abs());
            assert!(one.max(four) <= 1e-4 * last.elbo().abs().max(1.0), "{name}: {one} {four}");
        }
    }
}

fn are_close(found: &[f32], wanted: &[f32], name: &str) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let far = found.iter().zip(wanted).find(|(a, b)| (**a - **b).abs() > 1e-5 * b.abs().max(1.0));
    assert!(far.is_none(), "{name}: {far:?}");
}

#[test]
fn the_sample_command_draws_from_any_family_and_refuses_what_has_no_meaning() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let (name, text) = EXPERIMENTS[0];
    let run = train(dir.path(), name, text, None, 6);
    let out = dir.path().join("out");
    let sample = |words: &[&str]| {
        let base = ["sample", "--run", run.to_str().unwrap(), "--out", out.to_str().unwrap(), "--count", "7"];
        sample_command([&base[..], words].concat()).map_err(|error| format!("{error:#}"))
    };
    let refused = sample(&["--sampler", "ddim"]).unwrap_err();
    assert!(refused.contains("--sampler") && refused.contains("linear-autoencoder"), "{refused}");
    assert!(!out.exists());
    assert_eq!(sample(&[]).unwrap(), out);
    assert!(out.join("samples.npy").is_file() && out.join("samples.csv").is_file());
}

#[test]
fn what_is_wrong_with_the_tables_of_a_family_is_said_by_key() {
    let _alone = crate::support::alone();
    with_registry();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    let problems = |text: &str| {
        std::fs::write(&file, text).unwrap();
        ddpm_train::config::load::load(&file, &[]).unwrap_err().to_string()
    };
    let data = "[data]\nkind = \"swiss-roll\"\n";
    assert!(
        problems(&format!("family = \"linear-autoencoder\"\n{data}[model]\nlatent = 0\n"))
            .contains("model.latent: must")
    );
    let unknown = problems(&format!(
        "family = \"linear-autoencoder\"\n{data}[model]\nlatnt = 2\n[diffusion]\n[train]\nlabel_drop = 0.5\n"
    ));
    for word in ["model.latnt", "diffusion", "train.label_drop"] {
        assert!(unknown.contains(word), "{word}: {unknown}");
    }
    let family = problems(&format!("family = \"lineer\"\n{data}"));
    assert!(
        family.contains("family") && family.contains("linear-autoencoder") && family.contains("diffusion"),
        "{family}"
    );
}
