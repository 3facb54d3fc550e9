//! `ddpm-infer eval` of models that draw samples in one pass, or reconstruct: autoencoders of random weights.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_eval::Features;
use ddpm_eval::bernoulli_mixture::BernoulliMixture;
use ddpm_eval::pca::Pca;
use ddpm_eval::probabilistic_pca::ProbabilisticPca;
use ddpm_families::family::trained::{Draw, open};
use ddpm_families::family::{Family, Origin, Progress};
use ddpm_families::vae::VaeFamily;
use ddpm_kernels::Precision;
use serde_json::{Value, json};

fn infer(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap()
}

/// A snapshot of an autoencoder that was never trained, after so many steps.
fn snapshot(folder: &Path, step: u64, data: Value, latent: usize, vae: &str) -> PathBuf {
    let source: DataConfig = serde_json::from_value(data).unwrap();
    let data = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let tables = format!("[model]\nkind = 'mlp'\nhidden = [16]\nlatent = {latent}\n[vae]\n{vae}");
    let tables = VaeFamily::read(toml::from_str(&tables).unwrap()).unwrap();
    let origin = Origin { experiment: "tiny".into(), data, source: Some(source) };
    let family = VaeFamily::restored(tables, origin).unwrap();
    let device = Device::default();
    device.seed(step);
    let model = family.init(&device);
    family.save(&model, Progress { step, images_seen: 0 }, folder).unwrap();
    folder.to_path_buf()
}

fn digits() -> Value {
    json!({"kind": "digits", "split": "last-rows"})
}

fn binary_digits() -> Value {
    json!({"kind": "digits", "split": "last-rows", "binarize": 0.5})
}

/// The JSON of an evaluation by pixels, and what it printed.
fn eval(dir: &Path, words: &[&str]) -> (String, Value) {
    let start = ["eval", "--extractor", "pixels", "--subsets", "2", "--json", "j.json"];
    let output = infer(dir, &[&start[..], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read_to_string(dir.join("j.json")).unwrap();
    (String::from_utf8(output.stdout).unwrap(), serde_json::from_str(&json).unwrap())
}

fn refusal(dir: &Path, words: &[&str]) -> String {
    let output = infer(dir, &[&["eval"], words].concat());
    assert!(!output.status.success(), "{words:?} should have failed");
    String::from_utf8(output.stderr).unwrap()
}

/// Everything that was measured of one row, by the beginning of the metric's name.
fn value(evaluations: &Value, of: &str, metric: &str) -> Option<f64> {
    let row = evaluations.as_array().unwrap().iter().find(|row| row["of"] == of).unwrap_or_else(|| panic!("{of}"));
    let measured = row["measured"].as_array().unwrap();
    let found = measured.iter().find(|one| one["metric"].as_str().unwrap().starts_with(metric))?;
    assert!(found["name"].as_str().unwrap().starts_with(found["metric"].as_str().unwrap()));
    found["value"].as_f64()
}

fn near(found: Option<f64>, wanted: f64) {
    let found = found.unwrap();
    assert!((found - wanted).abs() < 1e-6 * (1.0 + wanted.abs()), "{found}, expected {wanted}");
}

/// The items of a split: images from 0 to 1, points as they are.
fn items(data: Value, split: Split) -> Features {
    first_items(data, split, usize::MAX)
}

fn first_items(data: Value, split: Split, most: usize) -> Features {
    let data = ddpm_data::open(&serde_json::from_value(data).unwrap(), split, 0).unwrap();
    let is_image = data.info.is_image();
    let unit = |value: f32| if is_image { (value + 1.0) / 2.0 } else { value };
    let values = (0..data.items.len().min(most)).flat_map(|k| data.items.get(k).unwrap().values).map(unit).collect();
    Features::new(data.info.shape.iter().product(), values)
}

#[test]
fn samples_of_one_pass_are_evaluated_like_others_with_reconstructions_and_baselines() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("runs/tiny");
    for step in [3, 7] {
        let folder = run.join(format!("snapshots/step-{step:08}"));
        snapshot(&folder, step, binary_digits(), 4, "likelihood = 'bernoulli'");
    }
    std::fs::write(run.join("config.toml"), "").unwrap();
    let (said, json) = eval(dir.path(), &["--run", "tiny", "--every-snapshot", "--seed", "5", "--out", "o"]);
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    let sets = json["verdicts"].as_array().unwrap();
    let names: Vec<&str> = sets.iter().map(|set| set["of"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["tiny step 3", "tiny step 7"]);
    assert_eq!((names.len(), &sets[1]["count"], &sets[1]["against"]), (4, &1000.into(), &"digits test".into()));
    let how = &sets[1]["how"];
    assert_eq!((&how["step"], &how["sampler"], &how["seed"]), (&7.into(), &"one pass".into(), &5.into()));
    for metric in ["FD", "KID", "precision", "recall", "novelty"] {
        assert!(value(&json["verdicts"], "tiny step 7", metric).is_some(), "{metric}: {json}");
    }

    // The reconstructions, and what simpler models make of the same items.
    let found = &json["reconstructions"];
    let [train, test] = [Split::Train, Split::Test].map(|split| items(binary_digits(), split));
    assert_eq!((train.len(), test.len()), (1437, 360));
    let model = open(&run.join("snapshots/step-00000007"), &Device::default(), Precision::F32).unwrap();
    let inputs: Vec<f32> = test.values().iter().map(|value| 2.0 * value - 1.0).collect();
    let outputs = model.reconstruct().unwrap().reconstruct(&inputs, 1, &Draw::of_seed(0), 0).unwrap();
    let squares = inputs.iter().zip(&outputs).map(|(a, b)| f64::from(a - b).powi(2) / 4.0);
    near(value(found, "tiny step 7", "MSE"), squares.sum::<f64>() / inputs.len() as f64);
    let elbo = model.bound().unwrap().bound(&inputs, 1, 5, 0).unwrap();
    let elbo = elbo.iter().map(|terms| terms.elbo()).sum::<f64>() / 360.0;
    near(value(found, "tiny step 7", "-ELBO"), -elbo);
    assert!(value(found, "tiny step 7", "rFD").is_some() && value(found, "tiny step 7", "PSNR").is_some());
    assert_ne!(value(found, "tiny step 3", "MSE"), value(found, "tiny step 7", "MSE"));
    let errors = Pca::fit(&train).unwrap().reconstruction_errors(&test).unwrap();
    for components in [2, 4] {
        near(value(found, &format!("PCA, {components} components"), "MSE"), errors[components]);
    }
    let independent = BernoulliMixture::independent(&train).unwrap().negative_log_likelihood(&test).unwrap();
    near(value(found, "independent pixels", "-ln p(x)"), independent);
    // Those of fixtures/vae_baselines: 19.8 and 18.5.
    for (components, least, most) in [(10, 19.4, 20.1), (50, 18.0, 19.1)] {
        let nats = value(found, &format!("Bernoulli mixture, {components} components"), "-ln p(x)").unwrap();
        assert!((least..most).contains(&nats), "{components}: {nats}");
    }
    assert_eq!(found.as_array().unwrap().len(), 2 + 2 + 3);
    for part in ["\n\nreconstructions of 360 digits test items\nmodel ", "\nBernoulli mixture, 50 components "] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // What is written: the run's own record, tables and a plot over training.
    let lines = std::fs::read_to_string(run.join("evaluations.jsonl")).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let made: Vec<&str> = records.iter().map(|record| record["how"]["sampler"].as_str().unwrap()).collect();
    assert_eq!(made, ["one pass", "one pass", "reconstruction", "reconstruction"]);
    assert_eq!(
        (records[1]["verdict"]["of"].as_str(), records[3]["floors"].as_array().unwrap().len()),
        (Some("tiny step 7"), 5)
    );
    let read = |name: &str| std::fs::read_to_string(dir.path().join("o").join(name)).unwrap();
    assert!(read("table.csv").contains(",7,usual,one pass,1,5,1,\n"), "{}", read("table.csv"));
    assert!(read("reconstructions.csv").contains("\nindependent pixels,digits test items,"));
    assert!(read("plot.svg").contains("training step") && read("plot.svg").contains(">one pass<"));
}

#[test]
fn an_autoencoder_is_measured_without_samples() {
    let dir = tempfile::tempdir().unwrap();
    let from = snapshot(&dir.path().join("ae"), 0, digits(), 4, "objective = 'autoencoder'");
    let from = from.to_str().unwrap();
    let (said, json) = eval(dir.path(), &["--from", from]);
    assert_eq!(json["verdicts"].as_array().unwrap().len(), 0);
    assert!(said.starts_with("reconstructions of 360 digits test items\nmodel "), "{said}");
    assert!(
        said.lines().last().unwrap().starts_with("MSE (images from 0 to 1; 360 of digits test items) 0."),
        "{said}"
    );
    let found = &json["reconstructions"];
    let [train, test] = [Split::Train, Split::Test].map(|split| items(digits(), split));
    let errors = Pca::fit(&train).unwrap().reconstruction_errors(&test).unwrap();
    near(value(found, "PCA, 4 components", "MSE"), errors[4]);
    assert!(value(found, "tiny step 0", "rFD").is_some() && value(found, "tiny step 0", "-ELBO").is_none(), "{json}");
    assert_eq!(found.as_array().unwrap().len(), 1 + 2);

    // Shards extract the same features.
    for shard in ["1/2", "2/2"] {
        let words = ["eval", "--from", from, "--work", "parts", "--extractor", "pixels", "--shard", shard];
        assert_eq!(String::from_utf8(infer(dir.path(), &words).stdout).unwrap().trim(), "parts");
    }
    assert_eq!(eval(dir.path(), &["--from", from, "--work", "parts"]).1, json);

    // Files in place of the split.
    let inputs: Vec<f32> = test.select([3, 8]).values().iter().map(|value| 2.0 * value - 1.0).collect();
    std::fs::write(dir.path().join("two.npy"), ddpm_files::npy::encode(&[2, 1, 8, 8], &inputs)).unwrap();
    let (_, json) = eval(dir.path(), &["--from", from, "--reconstruct", "two.npy"]);
    let errors = Pca::fit(&train).unwrap().reconstruction_errors(&test.select([3, 8])).unwrap();
    near(value(&json["reconstructions"], "PCA, 4 components", "MSE"), errors[4]);
    assert_eq!(
        (&json["reconstructions"][0]["count"], &json["reconstructions"][0]["against"]),
        (&2.into(), &"two.npy".into())
    );

    for (words, parts) in [
        (&["--statistics", "s.npz"] as &[&str], &["--statistics", "it can reconstruct and encode"] as &[&str]),
        (&["--reconstruct", "three.npy"], &["--reconstruct three.npy"]),
    ] {
        let said = refusal(dir.path(), &[&["--from", from, "--extractor", "pixels"], words].concat());
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?}: {said}");
    }
}

#[test]
fn options_of_samplers_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let from = snapshot(&dir.path().join("vae"), 0, digits(), 2, "likelihood = 'gaussian'");
    for words in [
        ["--samplers", "ddim"],
        ["--steps", "5"],
        ["--eta", "0.5"],
        ["--levels", "karras"],
        ["--sigma-min", "0.1"],
        ["--guidance", "2"],
        ["--dynamic-threshold", "0.9"],
        ["--class", "3"],
        ["--bits-per-dim", "4"],
    ] {
        let said = refusal(dir.path(), &[&["--from", from.to_str().unwrap()], &words[..]].concat());
        let about = "about models that are denoised step by step; this snapshot is a vae";
        assert!(said.contains(words[0]) && said.contains(about), "{words:?}: {said}");
    }
}

#[test]
fn points_are_measured_in_their_units_and_gaussian_likelihoods_next_to_probabilistic_pca() {
    let dir = tempfile::tempdir().unwrap();
    let moons = || json!({"kind": "moons"});
    let from = snapshot(&dir.path().join("moons"), 0, moons(), 1, "likelihood = 'gaussian'");
    let (said, json) = eval(dir.path(), &["--from", from.to_str().unwrap(), "--count", "300"]);
    assert_eq!((&json["verdicts"][0]["of"], &json["verdicts"][0]["count"]), (&"tiny step 0".into(), &300.into()));
    // Samples of untrained weights are near the mean, which is not at the origin in the units of the data.
    let model = open(&from, &Device::default(), Precision::F32).unwrap();
    let samples = model.generate().unwrap().generate(&Draw::of_seed(0), 0, 300).unwrap();
    let samples = Features::new(2, samples.values);
    let info = ddpm_data::open(&serde_json::from_value(moons()).unwrap(), Split::Test, 0).unwrap().info;
    let test = first_items(moons(), Split::Test, 300);
    near(
        value(&json["verdicts"], "tiny step 0", "energy distance"),
        ddpm_eval::points::energy_distance(&samples, &in_data_units(&test, &info)).unwrap(),
    );

    let found = &json["reconstructions"];
    let train = first_items(moons(), Split::Train, 100_000);
    let pca = Pca::fit(&train).unwrap();
    near(value(found, "PCA, 1 component", "MSE"), pca.reconstruction_errors(&test).unwrap()[1]);
    assert!(value(found, "tiny step 0", "PSNR").is_none() && value(found, "tiny step 0", "rFD").is_none());
    let likelihoods = ProbabilisticPca::fit(&train, 1).unwrap().log_likelihoods(&test).unwrap();
    let nats = -likelihoods.iter().sum::<f64>() / 300.0;
    near(value(found, "probabilistic PCA, 1 dimension", "-ln p(x)"), nats);
    assert!(value(found, "tiny step 0", "-ELBO").unwrap() > nats, "{said}");
    assert!(said.contains("\n\nreconstructions of 300 moons test items\n"), "{said}");

    // As many dimensions as values: nothing is left to compare with.
    let from = snapshot(&dir.path().join("all"), 0, moons(), 2, "likelihood = 'gaussian'");
    let (_, json) = eval(dir.path(), &["--from", from.to_str().unwrap(), "--count", "2"]);
    assert_eq!(json["reconstructions"].as_array().unwrap().len(), 1);
}

/// Points in the units of their source.
fn in_data_units(points: &Features, info: &ddpm_data::DataInfo) -> Features {
    let unit = |(k, value): (usize, &f32)| info.units.data_unit(k % 2, f64::from(*value)) as f32;
    Features::new(2, points.values().iter().enumerate().map(unit).collect())
}

#[test]
fn known_factors_are_looked_for_in_the_latents() {
    let dir = tempfile::tempdir().unwrap();
    let sprites = json!({"kind": "sprites"});
    let from = snapshot(&dir.path().join("sprites"), 0, sprites.clone(), 3, "likelihood = 'discretized-logistic'");
    let (said, json) = eval(dir.path(), &["--from", from.to_str().unwrap(), "--count", "40"]);
    let model = open(&from, &Device::default(), Precision::F32).unwrap();
    let (mut latents, mut factors) = (Vec::new(), Vec::new());
    for split in [Split::Train, Split::Test] {
        let inputs: Vec<f32> = items(sprites.clone(), split).values().iter().map(|value| 2.0 * value - 1.0).collect();
        latents.extend(model.encode().unwrap().encode(&inputs).unwrap());
        factors.extend(ddpm_data::sprites::factors_of(split));
    }
    let latents = Features::new(3, latents);
    let gap = ddpm_eval::disentanglement::mutual_information_gap(&latents, &factors).unwrap();
    let found = &json["reconstructions"];
    let mig = value(found, "tiny step 0", "MIG").unwrap();
    // Values at the borders of bins can fall on either side.
    assert!((mig - gap.mean).abs() < 0.01, "{mig} {}", gap.mean);
    assert!((0.0..=1.0).contains(&value(found, "tiny step 0", "FactorVAE").unwrap()));
    // The likelihood is of the values of pixels: bits, and no baseline of densities.
    let [nats, bits] = ["-ELBO", "bits/dim"].map(|metric| value(found, "tiny step 0", metric).unwrap());
    near(Some(bits), nats / 256.0 / std::f64::consts::LN_2);
    let others = found.as_array().unwrap().iter().skip(1).map(|row| row["of"].as_str().unwrap());
    assert_eq!(others.collect::<Vec<_>>(), ["PCA, 2 components", "PCA, 3 components"]);
    assert!(said.contains("MIG") && said.contains("FactorVAE"), "{said}");
}

#[test]
fn inspect_says_what_a_snapshot_of_a_family_is_for_and_gives_its_tables_back() {
    let dir = tempfile::tempdir().unwrap();
    snapshot(&dir.path().join("ae"), 7, digits(), 4, "objective = 'autoencoder'");
    let output = infer(dir.path(), &["inspect", "ae"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for words in ["a snapshot of family vae", "after step 7", "it can reconstruct and encode", "family = \"vae\""] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let tables: toml::Table = said[said.find("family = ").unwrap()..].parse().unwrap();
    assert_eq!(tables["vae"]["objective"].as_str(), Some("autoencoder"));

    // What a description says of units is not trusted.
    let card = dir.path().join("ae/ddpm.json");
    let text = std::fs::read_to_string(&card).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["data"]["units"]["scale"] = json!([]);
    std::fs::write(&card, json.to_string()).unwrap();
    for command in ["inspect", "reconstruct --from", "encode --from"] {
        let words: Vec<&str> = command.split(' ').chain(["ae"]).collect();
        let output = infer(dir.path(), &words);
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        assert!(!output.status.success() && said.contains("ddpm.json") && said.contains("0 units"), "{said}");
    }
    std::fs::write(&card, text).unwrap();

    // Its weights are damaged: the sum tells.
    let weights = dir.path().join("ae/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let output = infer(dir.path(), &["inspect", "ae"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stdout).contains("model.safetensors"));
}
