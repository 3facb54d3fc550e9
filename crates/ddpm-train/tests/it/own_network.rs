//! A network that the library does not know is trained, resumed and sampled as its own are, from a program of its own.

#[path = "../../examples/own_network.rs"]
mod example;

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use ddpm_data::{DataConfig, Split};
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig};
use ddpm_infer::Pipeline;
use ddpm_model::custom::CustomConfig;
use ddpm_model::network::NetworkConfig;
use ddpm_train::prelude::*;
use serde_json::json;

use crate::support::{checkpoint_file, metrics};
use example::Convolutions;

const TRAIN: &str = "
train = { batch_size = 8, log_every = 2, checkpoint_every = 3, snapshot_every = 6 }
preview = { count = 2, steps = 2 }
validation.every = 3
";

fn trained(trainer: Trainer, dir: &Path, steps: u64) -> PathBuf {
    let trainer = trainer.network::<Convolutions>().set(format!("train.steps={steps}")).device("flex").runs(dir);
    match trainer.run().unwrap() {
        Finish::Done(run) => run,
        other => panic!("{other:?}"),
    }
}

fn experiment(objective: &str) -> Trainer {
    let model = "data.kind = 'digits'\nmodel = { kind = 'convolutions', width = 8, classes = 'data' }\n";
    Trainer::of_toml("own", format!("{model}{objective}\n{TRAIN}"))
}

#[test]
fn the_example_trains_and_samples_with_two_samplers() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let run = example::run(dir.path(), 3).unwrap();
    let [ddim, unipc] = ["ddim.png", "unipc.png"].map(|name| std::fs::read(dir.path().join(name)).unwrap());
    assert_ne!(ddim, unipc);
    assert!(run.join("report.html").is_file() && std::fs::read_dir(run.join("previews")).unwrap().count() > 0);
    // The network's own names and keys are those of the snapshot.
    let snapshot = Snapshot::load(&ddpm_files::runs::RunFolder(run).newest_snapshot().unwrap(), &Device::default());
    let Snapshot { config, network, .. } = snapshot.unwrap();
    assert_eq!((config.network.kind(), config.network.num_classes()), ("convolutions", 10));
    let names: Vec<String> = ddpm_families::parameters::parameters(&network).into_iter().map(|p| p.name).collect();
    assert!(names.contains(&"first.weight".to_string()), "{names:?}");
}

#[test]
fn two_times_n_steps_are_n_and_n_bit_for_bit() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let whole = trained(experiment(""), dir.path(), 6);
    let half = trained(experiment(""), dir.path(), 3);
    let resumed = trained(Trainer::resume(half), dir.path(), 6);
    for file in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&whole, 6, file) == checkpoint_file(&resumed, 6, file), "{file}");
    }
    assert_eq!(metrics(&whole), metrics(&resumed));
    let draw = |run: &Path| Pipeline::open(run).unwrap().steps(3).sample(2).unwrap().values;
    assert_eq!(draw(&whole), draw(&resumed));
}

#[test]
fn every_objective_trains_and_samples_it() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let objectives = [
        ("diffusion.prediction = 'eps'\ntrain.time_sampling = 'loss-second-moment'", "dpmpp-2m"),
        ("diffusion = { prediction = 'x0', variance = 'learned', loss = 'kl' }", "ddpm"),
        ("diffusion = { prediction = 'v', self_conditioning = true, zero_terminal_snr = true }", "ddim"),
        ("diffusion.continuous = { path = { kind = 'linear' }, prediction = 'flow' }", "flow-heun"),
        ("diffusion.continuous = { path = { kind = 've' }, prediction = 'edm' }", "heun"),
    ];
    for (objective, sampler) in objectives {
        let text = format!("data.kind = 'digits'\nmodel = {{ kind = 'convolutions', width = 8 }}\n{objective}\n");
        let run = trained(
            Trainer::of_toml("own", text).set("train.batch_size=4").set("preview.count=0").set("validation.every=2"),
            dir.path(),
            2,
        );
        let samples = Pipeline::open(&run).unwrap().sampler(sampler).steps(3).sample(2).unwrap();
        assert_eq!((samples.count(), &samples.shape[..]), (2, &[1, 8, 8][..]), "{objective}");
        assert!(samples.values.iter().all(|value| value.is_finite()), "{objective}");
    }
}

#[test]
fn points_are_images_of_one_pixel() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let text = "data.kind = 'swiss-roll'\nmodel = { kind = 'convolutions', width = 8 }\ntrain.batch_size = 4\n";
    let run = trained(Trainer::of_toml("points", text).set("preview.steps=2"), dir.path(), 2);
    assert_eq!(Pipeline::open(&run).unwrap().steps(2).sample(3).unwrap().shape, [2]);
}

/// A network that no test registers.
#[derive(Module, Debug)]
struct Unregistered {}

impl CustomNetwork for Unregistered {
    const KIND: &'static str = "unregistered";
    type Config = NoKeys;

    fn new(_: &NoKeys, _: &Io, _: &Device) -> Self {
        Self {}
    }

    fn forward(&self, x_t: Tensor<4>, _: Tensor<1>, _: Option<Tensor<1, Int>>) -> Tensor<4> {
        x_t
    }
}

#[test]
fn a_kind_that_is_not_in_the_program_is_named_with_those_that_are() {
    let _alone = crate::support::alone();
    let trainer =
        Trainer::of_toml("own", "data.kind = 'digits'\nmodel.kind = 'unregistered'").network::<Convolutions>();
    let message = format!("{:#}", trainer.run().unwrap_err());
    for part in ["own (in the program): 1 problem\n", "model.kind", "unregistered", "unet", "point-mlp", "convolutions"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }

    let dir = tempfile::tempdir().unwrap();
    let source: DataConfig = serde_json::from_value(json!({"kind": "digits"})).unwrap();
    let data = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let config = NetworkConfig::Custom(CustomConfig::new::<Unregistered>(NoKeys {})).with_io(&data.shape, 1);
    let network = config.init(&Device::default());
    let config = SnapshotConfig::new(config, DiffusionConfig::default(), data, source, "own");
    let path = dir.path().join("snapshot");
    Snapshot::save(&network, &config, &path).unwrap();
    let message = Pipeline::open(&path).unwrap_err().to_string();
    assert!(message.contains("there is no network `unregistered` in this program"), "{message}");
    assert!(message.contains("convolutions") && message.contains("unet"), "{message}");
}

#[test]
fn what_is_wrong_with_the_keys_of_a_network_is_said_by_key() {
    let _alone = crate::support::alone();
    let problems = |model: &str| {
        let text = format!("data.kind = 'digits'\nmodel = {{ kind = 'convolutions', {model} }}");
        let trainer = Trainer::of_toml("own", text).network::<Convolutions>();
        format!("{:#}", trainer.run().unwrap_err())
    };
    assert!(problems("wdth = 8, width = 8").contains("model.wdth"), "{}", problems("wdth = 8, width = 8"));
    assert!(problems("classes = 3").contains("width"), "{}", problems("classes = 3"));
    let sizes = problems("width = 8, classes = 3, in_channels = 4, size = [9, 9]");
    for part in ["model.classes", "model.in_channels: is 4", "model.size: is [9, 9]"] {
        assert!(sizes.contains(part), "{part}: {sizes}");
    }
}
