//! A VAE without hidden layers is probabilistic PCA (Lucas et al. 2019), whose largest likelihood is known: a training must
//! come near it, and cannot exceed it.

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_eval::Features;
use ddpm_eval::probabilistic_pca::ProbabilisticPca;
use ddpm_families::family::trained::open;
use ddpm_files::runs::RunFolder;
use ddpm_kernels::Precision;

use crate::support::Bench;

const LATENT: usize = 8;

const LINEAR: &str = "family = 'vae'
[data]
kind = 'digits'
split = 'last-rows'
[model]
kind = 'mlp'
hidden = []
latent = 8
[vae]
likelihood = 'gaussian'
variance = 'learned'
[optimizer]
learning_rate = 0.01
warmup_steps = 100
decay = { kind = 'cosine', until = 3000 }
clip_norm = 0.0
[ema]
kind = 'ratio'
decay = 0.99
[train]
steps = 3000
batch_size = 128
log_every = 1000
checkpoint_every = 3000
snapshot_every = 3000
[preview]
count = 0
";

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[test]
fn a_trained_linear_vae_reaches_the_likelihood_of_probabilistic_pca_and_never_exceeds_it() {
    let bench = Bench::new();
    std::fs::write(bench.path("linear.toml"), LINEAR).unwrap();
    let run = bench.train(&["--experiment", "linear.toml"]);

    let config = serde_json::json!({"kind": "digits", "split": "last-rows"});
    let config: DataConfig = serde_json::from_value(config).unwrap();
    let data = ddpm_data::open(&config, Split::Train, 0).unwrap();
    let items: Vec<f32> = (0..data.items.len()).flat_map(|item| data.items.get(item).unwrap().values).collect();
    // The density is of images from 0 to 1.
    let unit = Features::new(64, items.iter().map(|value| (value + 1.0) / 2.0).collect());
    let closed_form = ProbabilisticPca::fit(&unit, LATENT).unwrap().log_likelihoods(&unit).unwrap();
    let closed_form = mean(closed_form.into_iter());

    let snapshot = RunFolder(run).newest_snapshot().unwrap();
    let _alone = crate::support::alone();
    let model = open(&snapshot, &Device::default(), Precision::F32).unwrap();
    let terms = model.bound().unwrap().bound(&items, 64, 3, 0).unwrap();
    let elbo = mean(terms.iter().map(|terms| terms.elbo()));
    // The error of an estimate by so many draws: that of each draw is about one nat for every two dimensions.
    let error = 4.0 * (LATENT as f64 / 2.0).sqrt() / ((64 * terms.len()) as f64).sqrt();
    assert!(elbo <= closed_form + error, "{elbo} over {closed_form}");
    assert!(elbo >= closed_form - 0.01 * closed_form.abs(), "{elbo} under {closed_form}");
}
