//! A network with batch normalization under the training loop: its running statistics are those of the steps that were taken,
//! in checkpoints, in the averaged weights and in snapshots.

use std::path::Path;

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_families::family::trained::{Draw, Trained, open};
use ddpm_kernels::Precision;
use ddpm_testing::support::{Safetensors, assert_close};

use crate::support::{Bench, checkpoint_file, metrics};

/// Digits in parts of four.
const TINY: &str = "family = 'vae'
[data]
kind = 'digits'
[model]
kind = 'vanilla'
hidden_dims = [3, 5]
latent = 4
[optimizer]
learning_rate = 0.01
warmup_steps = 0
[validation]
every = 2
[preview]
count = 3
[train]
batch_size = 8
accumulate = 2
log_every = 2
snapshot_every = 1
";

/// Trains it with these keys changed, and gives the run.
fn train(bench: &Bench, runs: &str, sets: &[&str]) -> std::path::PathBuf {
    std::fs::write(bench.path("tiny.toml"), TINY).unwrap();
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    bench.train(&["--experiment", "tiny.toml", "--runs", runs].into_iter().chain(sets).collect::<Vec<_>>())
}

fn snapshot(run: &Path, step: u64) -> std::path::PathBuf {
    run.join(format!("snapshots/step-{step:08}"))
}

/// The running statistics of a snapshot, by name.
fn running(run: &Path, step: u64) -> Vec<(String, Vec<f64>)> {
    let weights = std::fs::read_dir(snapshot(run, step)).unwrap().map(|entry| entry.unwrap().path());
    let weights = weights.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let weights = Safetensors::open(weights.into_iter().next().unwrap());
    let names = weights.names().into_iter().filter(|name| name.contains("running_"));
    let found: Vec<(String, Vec<f64>)> = names.map(|name| (name.clone(), weights.f64(&name))).collect();
    assert_eq!(found.len(), 2 * 4, "of four normalizations");
    found
}

/// What a running statistic begins with.
fn at_start(name: &str) -> f64 {
    if name.ends_with("var") { 1.0 } else { 0.0 }
}

fn model(run: &Path, step: u64) -> Box<dyn Trained> {
    let _alone = crate::support::alone();
    open(&snapshot(run, step), &Device::default(), Precision::F32).unwrap()
}

/// The first digits, one after the other.
fn digits(count: usize) -> Vec<f32> {
    let config: DataConfig = serde_json::from_value(serde_json::json!({"kind": "digits"})).unwrap();
    let data = ddpm_data::open(&config, Split::Train, 0).unwrap();
    (0..count).flat_map(|item| data.items.get(item).unwrap().values).collect()
}

#[test]
fn twice_three_steps_are_six_bit_for_bit() {
    let bench = Bench::new();
    let whole = train(&bench, "a", &["train.steps=6"]);
    let half = train(&bench, "b", &["train.steps=3"]);
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=6"]);
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&whole, 6, name) == checkpoint_file(&half, 6, name), "{name}");
    }
    assert_eq!(metrics(&whole), metrics(&half));
    assert_eq!(running(&whole, 6), running(&half, 6));
}

#[test]
fn two_devices_see_what_one_sees_in_two_parts() {
    let bench = Bench::new();
    let one = train(&bench, "a", &["train.steps=3"]);
    std::fs::write(bench.path("two.toml"), TINY.replace("accumulate = 2", "accumulate = 1")).unwrap();
    let words = ["--experiment", "two.toml", "--runs", "b", "--set", "train.steps=3", "--devices", "flex,flex"];
    let two = bench.train(&words);
    assert!(checkpoint_file(&one, 3, "model.bpk") == checkpoint_file(&two, 3, "model.bpk"));
}

#[test]
fn a_trained_network_makes_the_same_of_an_item_whatever_is_next_to_it() {
    let bench = Bench::new();
    let run = train(&bench, "a", &["train.steps=4", "ema.kind=none"]);
    let model = model(&run, 4);
    assert_eq!(model.card().tables["model"]["tanh"].as_bool(), Some(true));
    let close = |found: &[f32], wanted: &[f32], what: &str| {
        let [found, wanted] = [found, wanted].map(|values| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
        assert_close(&found, &wanted, 1e-6, what);
    };
    let generate = model.generate().unwrap();
    let draw = |first, count| generate.generate(&Draw::of_seed(5), first, count).unwrap().values;
    let all = draw(0, 6);
    close(&draw(4, 1), &all[4 * 64..5 * 64], "sample");
    assert!(all.iter().all(|value| value.abs() <= 1.0), "the tangent keeps images in their range");
    let (items, encode) = (digits(5), model.encode().unwrap());
    close(&encode.encode(&items[2 * 64..3 * 64]).unwrap(), &encode.encode(&items).unwrap()[8..12], "latent");

    let logits = train(&bench, "b", &["train.steps=1", "vae.likelihood=bernoulli"]);
    assert_eq!(self::model(&logits, 1).card().tables["model"]["tanh"].as_bool(), Some(false));
    let (_, refused) =
        bench.refusal(&["--experiment", "tiny.toml", "--set", "vae.likelihood=bernoulli", "--set", "model.tanh=true"]);
    assert!(refused.contains("model.tanh"), "{refused}");
}

#[test]
fn averaged_weights_have_the_averaged_running_statistics() {
    let bench = Bench::new();
    let live = train(&bench, "a", &["train.steps=3", "ema.kind=none"]);
    let averaged = train(&bench, "b", &["train.steps=3", "ema.kind=constant", "ema.decay=0.75"]);
    let mut average: Vec<(String, Vec<f64>)> = running(&live, 1)
        .into_iter()
        .map(|(name, values)| (name.clone(), vec![at_start(&name); values.len()]))
        .collect();
    for step in 1..=3 {
        for ((name, average), (_, live)) in average.iter_mut().zip(running(&live, step)) {
            assert!(live.iter().all(|value| *value != at_start(name)), "{name} has moved");
            average.iter_mut().zip(live).for_each(|(average, live)| *average = 0.75 * *average + 0.25 * live);
        }
        for ((name, wanted), (_, found)) in average.iter().zip(running(&averaged, step)) {
            assert_close(&found, wanted, 1e-6, name);
        }
    }
}

#[test]
fn a_step_that_is_not_taken_leaves_no_trace_in_them() {
    let bench = Bench::new();
    let sets = ["train.steps=3", "ema.kind=none", "train.on_non_finite=skip", "vae.variance=fixed", "vae.sigma=1e-30"];
    let run = train(&bench, "a", &sets);
    let state = String::from_utf8(checkpoint_file(&run, 3, "state.json")).unwrap();
    assert!(state.contains("\"skipped\": 3"), "{state}");
    for (name, values) in running(&run, 3) {
        assert!(values.iter().all(|value| *value == at_start(&name)), "{name}: {values:?}");
    }
}
