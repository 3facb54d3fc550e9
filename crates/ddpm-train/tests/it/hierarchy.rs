//! A hierarchical VAE through the programs: trained, then every command that has to do with its latents.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::{Args, Parser};
use ddpm_files::npy;
use ddpm_infer::commands::{encode, measure_likelihood, reconstruct, sample};

use crate::support::{Bench, metrics};

const EXPERIMENT: &str = "
family = 'hvae'
[data]
kind = 'digits'
[model]
encoder = '8d2,4d4,1x1'
decoder = '1x1,4m1,8m4'
width = 4
bottleneck_multiple = 0.5
latent_channels = 2
likelihood = { kind = 'discretized-logistic', levels = 17 }
[train]
steps = 4
batch_size = 8
log_every = 2
[preview]
count = 6
[validation]
every = 2
count = 20
";

/// Values of the latents: 2 at 1x1, 2 at 4x4, 2 at 8x8.
const LATENT: usize = 2 * (1 + 16 + 64);

fn arguments<A: Args>(words: &[&str]) -> A {
    #[derive(Parser)]
    struct Words<A: Args> {
        #[command(flatten)]
        args: A,
    }
    Words::<A>::parse_from([&["ddpm-infer"], words].concat()).args
}

fn shape(file: &Path) -> Vec<usize> {
    npy::decode(&std::fs::read(file).unwrap()).unwrap().0
}

fn values(file: &Path) -> Vec<f32> {
    npy::decode(&std::fs::read(file).unwrap()).unwrap().1
}

#[test]
fn the_commands_of_latents_know_a_hierarchy() {
    let bench = Bench::new();
    std::fs::write(bench.path("small.toml"), EXPERIMENT).unwrap();
    let run = bench.train(&["--experiment", "small.toml"]);
    let last: serde_json::Value = serde_json::from_str(&format!("{}}}", metrics(&run).last().unwrap())).unwrap();
    for name in ["reconstruction", "kl", "valid_loss", "valid_kl", "valid_active_layers", "valid_bpd"] {
        assert!(last[name].is_number(), "{name}: {last}");
    }
    assert!(run.join("previews/step-00000004.png").is_file());

    let name = run.to_str().unwrap();
    let out = |folder: &str| bench.path(folder).to_str().unwrap().to_string();
    let reconstruct = |folder: &str, more: &[&str]| {
        let folder = out(folder);
        let words = [&["--run", name, "--count", "3", "--out", &folder], more].concat();
        reconstruct::run(&arguments(&words)).map(|out| values(&out.join("reconstructions.npy")))
    };
    let all = reconstruct("all", &[]).unwrap();
    assert_eq!(all, reconstruct("three", &["--layers", "3", "--seed", "9"]).unwrap());
    let one = reconstruct("one", &["--layers", "1"]).unwrap();
    assert!(one != all && one != reconstruct("other", &["--layers", "1", "--seed", "9"]).unwrap());
    let refused = reconstruct("none", &["--layers", "4"]).unwrap_err().to_string();
    assert!(refused.contains("--layers 4: the model has 3"), "{refused}");

    let latents = encode::run(&arguments(&["--run", name, "--count", "3", "--out", &out("latents")])).unwrap();
    assert_eq!(shape(&latents.join("latents.npy")), [3, LATENT]);

    let json = out("bound.json");
    let words = ["--run", name, "--count", "3", "--iwae", "1,4", "--json", &json];
    measure_likelihood::run(&arguments(&words)).unwrap();
    let bound: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((bound["part"].as_str(), bound["kl_nats_by_part"].as_array().unwrap().len()), (Some("layer"), 3));
    assert!(bound["bits_per_dim"].as_f64().unwrap() > 0.0 && bound["iwae_nats"]["4"].is_number(), "{bound}");

    let sample = |folder: &str, more: &[&str]| {
        let folder = out(folder);
        let words = [&["--run", name, "--out", &folder], more].concat();
        let _alone = crate::support::alone();
        shape(&sample::run(&arguments(&words)).unwrap().join("samples.npy"))[0]
    };
    assert_eq!(sample("cold", &["--count", "5", "--temperature", "0"]), 5);
    assert_eq!(sample("path", &["--count", "8", "--interpolate", "4"]), 8);
    assert_eq!(sample("traversal", &["--traverse", "2"]), 2 * LATENT);
}
