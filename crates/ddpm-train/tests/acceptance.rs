//! The slow suite: trains the bundled experiments as a user would and judges what comes out.
//!
//! `cargo xtask ci` runs it. Everything is judged against the data, by bars that stand in the issue.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use clap::Parser;
use ddpm_data::shapes::{Combination, SIDE};
use ddpm_data::{Split, permutation, reference_points};
use ddpm_families::snapshot::Snapshot;
use ddpm_files::npy;
use ddpm_files::runs::RunFolder;
use ddpm_infer::commands::measure_likelihood::{self, LikelihoodArgs};
use support::judge::{Digits, Judge};
use support::shapes::ShapesJudge;
use support::{Bench, sample, sample_command};

#[test]
fn digits() {
    let bench = Bench::new();
    let run = bench.train(&["--device", "flex"]);
    // A twentieth of the work of ddpm in all steps.
    let samples = sample(&run, 1000, "ddim", Some(50));

    let judge = Judge::train();
    println!("classifier: {:.1} % of the test split", 100.0 * judge.accuracy);
    assert!(judge.accuracy >= 0.97);
    let gaussian = judge.judge(&judge.pixel_gaussian(1000, 1)).distance;
    let floor = judge.judge(judge.train_split()).distance;
    let verdict = judge.judge(&samples);
    println!("Frechet distance to the test split, relative to the pixel Gaussian's {gaussian:.2}:");
    println!(
        "  samples {:.1} %, training split {:.1} %",
        100.0 * verdict.distance / gaussian,
        100.0 * floor / gaussian
    );
    println!("  novelty {:.2}, shares of the classes {:.3?}", verdict.novelty, verdict.shares);
    assert!(verdict.distance <= 0.4 * gaussian);
    assert!(verdict.shares.iter().all(|share| (0.04..=0.18).contains(share)));
    assert!(verdict.novelty >= 0.8);

    println!("the same network in few steps:");
    for (sampler, steps) in [("dpmpp-2m", 10), ("unipc", 10), ("ddim", 10)] {
        let few = judge.judge(&sample(&run, 1000, sampler, Some(steps))).distance;
        println!("  {sampler} in {steps} steps {:.1} %", 100.0 * few / gaussian);
        // As good as five times the steps of ddim, but for what two draws of a thousand differ by.
        assert!(sampler == "ddim" || few <= verdict.distance + 0.01 * gaussian, "{sampler}");
    }

    println!("the variance fixed, and learned beside the same prediction by the same number of steps:");
    let improved = bench.train(&["--experiment", "digits-improved", "--device", "flex"]);
    let [fixed, learned] = [&run, &improved].map(|run| {
        let bits = bits_per_dim(run);
        let few = judge.judge(&sample(run, 1000, "ddpm", Some(25))).distance;
        println!("  bound {bits:.2} bits/dim, ddpm in 25 steps {:.1} %", 100.0 * few / gaussian);
        (bits, few)
    });
    assert!(learned.0 < fixed.0 && learned.1 < fixed.1);
}

/// The bound on the first items of the test split, as `cargo xtask likelihood` measures it.
fn bits_per_dim(run: &Path) -> f64 {
    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        arguments: LikelihoodArgs,
    }
    let words = ["likelihood", "--run", run.to_str().unwrap(), "--count", "64", "--device", "flex"];
    let found = measure_likelihood::run(&Words::parse_from(words).arguments).unwrap();
    found.split(' ').next().unwrap().parse().unwrap()
}

/// What importance sampling of the steps is for (Nichol & Dhariwal 2021, section 3.3): the bound's gradient is less
/// noisy.
#[test]
fn steps_drawn_by_their_losses_steady_the_gradient() {
    let bench = Bench::new();
    let [uniform, by_loss] = ["uniform", "loss-second-moment"].map(|time_sampling| {
        let sampling = format!("train.time_sampling={time_sampling}");
        let mut words = vec!["--experiment", "digits-improved", "--device", "flex"];
        for set in [
            "diffusion.loss=rescaled-kl",
            "diffusion.schedule={ kind = \"cosine\", steps = 200 }",
            "model.base_channels=16",
            "model.norm_groups=4",
            "train.batch_size=32",
            "train.steps=800",
            "train.log_every=1",
            "preview.every=0",
            "preview.count=4",
            "preview.steps=5",
            &sampling,
        ] {
            words.extend(["--set", set]);
        }
        let run = bench.train(&words);
        let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let norm = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["grad_norm"].as_f64().unwrap();
        // Once the histories are full.
        let norms: Vec<f64> = lines.lines().skip(400).map(norm).collect();
        let mean = norms.iter().sum::<f64>() / norms.len() as f64;
        let variance = norms.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / norms.len() as f64;
        println!("{time_sampling}: gradient norm {mean:.0}, deviation {:.0}", variance.sqrt());
        variance
    });
    assert!(by_loss < uniform / 4.0);
}

/// What the judge must see before its word counts.
#[test]
fn the_judge_tells_good_from_bad() {
    let judge = Judge::train();
    let test = Digits::open(Split::Test);
    let real = judge.judge(&test.pixels);
    // Of a rank-deficient covariance the root has the root of the rounding.
    assert!(real.distance.abs() < 1e-3 && (real.novelty - 1.0).abs() < 1e-9, "{real:?}");
    let copies = judge.judge(judge.train_split());
    assert!(copies.novelty < 1e-6, "copies are found out");
    let noisy = |sigma: f32| {
        let eps = ddpm_data::random::normals(
            &mut ddpm_data::random::rng(0, ddpm_data::random::Stream::Points, 0),
            test.pixels.len(),
        );
        let pixels: Vec<f32> = test.pixels.iter().zip(eps).map(|(pixel, eps)| pixel + sigma * eps).collect();
        judge.judge(&pixels).distance
    };
    let distances = [0.1, 0.3, 0.6].map(noisy);
    assert!(distances.is_sorted() && distances[0] > 0.0, "{distances:?}");
}

#[test]
fn swiss_roll() {
    let bench = Bench::new();
    let run = bench.train(&["--experiment", "points-swiss-roll", "--device", "flex"]);
    let source = serde_json::from_str(r#"{"kind": "swiss-roll"}"#).unwrap();
    let data = reference_points(&source).unwrap();
    for name in ["ddpm", "ddim"] {
        let distance = chamfer(&sample(&run, 2048, name, None), &data);
        println!("chamfer distance by {name}: {distance:.2}");
        assert!(distance < 20.0);
    }
}

/// Text to image from nothing, in three runs: the images agree with their captions, those of combinations that were never
/// trained on as well. To save time the last run has less than half the steps of its recipe, which costs ten percent points,
/// and fewer images are drawn; with `DDPM_WHOLE` in the environment all is as the recipe says.
#[test]
fn captioned_shapes() {
    const SHORTER: [&str; 4] =
        ["--set", "train.steps=1000", "--set", "optimizer.decay={ kind = \"cosine\", until = 1000 }"];
    let whole = std::env::var_os("DDPM_WHOLE").is_some();
    let (each, least) = if whole { (20, 0.9) } else { (10, 0.8) };
    let bench = Bench::new();
    let [.., run] = ["shapes-autoencoder", "shapes-words", "shapes-text"].map(|experiment| {
        let start = Instant::now();
        let mut words = vec!["--experiment", experiment, "--device", "flex"];
        if experiment == "shapes-text" && !whole {
            words.extend(SHORTER);
        }
        let run = bench.train(&words);
        println!("{experiment} trained in {:.0} s", start.elapsed().as_secs_f64());
        run
    });
    let judge = ShapesJudge::train();
    let (renders, shown) = ShapesJudge::test_renders(2000);
    let accuracy = judge.agreement(&renders, &shown, |_| true);
    println!("the classifier, of its own renders: {accuracy:.3?}");
    assert!(accuracy.all >= 0.99);
    let ceiling = judge.agreement(&reconstructed(&run, &renders), &shown, |_| true);
    println!("their reconstructions, the ceiling: {ceiling:.3?}");

    let wanted: Vec<Combination> = Combination::all().repeat(each);
    let [unguided, guided] = ["1", "3"].map(|guidance| {
        let images = drawn(&bench, &run, &wanted, guidance);
        let seen = judge.agreement(&images, &wanted, |combination| !combination.is_held_out());
        let never_seen = judge.agreement(&images, &wanted, Combination::is_held_out);
        println!("guidance {guidance}: seen {seen:.3?}\n  never seen {never_seen:.3?}");
        (images, seen, never_seen)
    });
    assert!(guided.1.all >= least && guided.2.all >= 0.7);
    assert!(guided.1.all > unguided.1.all);

    let others: Vec<Combination> = permutation(0, 0, wanted.len()).into_iter().map(|other| wanted[other]).collect();
    let shuffled = judge.agreement(&guided.0, &others, |_| true);
    println!("by captions of other images: {shuffled:.3?}");
    assert!(shuffled.all < 0.05);
}

/// Images that the autoencoder in a text-to-image run makes of images.
fn reconstructed(run: &Path, images: &[f32]) -> Vec<f32> {
    let device = Device::default();
    let snapshot = Snapshot::load(&RunFolder(run.to_path_buf()).newest_snapshot().unwrap(), &device).unwrap();
    let first_stage = snapshot.frozen.first_stage.unwrap();
    let parts = images.chunks(250 * 3 * SIDE * SIDE).flat_map(|images| {
        let images = TensorData::new(images.to_vec(), [images.len() / (3 * SIDE * SIDE), 3, SIDE, SIDE]);
        let decoded = first_stage.decode(first_stage.encode(Tensor::from_data(images, &device), None));
        decoded.clamp(-1.0, 1.0).into_data().try_to_vec::<f32>().unwrap()
    });
    parts.collect()
}

/// What `ddpm-infer sample` draws by canonical captions.
fn drawn(bench: &Bench, run: &Path, wanted: &[Combination], guidance: &str) -> Vec<f32> {
    let (prompts, out) = (bench.path("prompts.txt"), bench.path(&format!("guidance-{guidance}")));
    let captions: Vec<String> = wanted.iter().map(Combination::caption).collect();
    std::fs::write(&prompts, captions.join("\n")).unwrap();
    let words =
        [Path::new("sample"), Path::new("--run"), run, Path::new("--prompts"), &prompts, Path::new("--out"), &out];
    let words = words.into_iter().chain(["--seed", "1", "--guidance", guidance].map(Path::new));
    let folder = sample_command(words).unwrap();
    let (shape, values) = npy::decode(&std::fs::read(folder.join("samples.npy")).unwrap()).unwrap();
    assert_eq!(shape, [wanted.len(), 3, SIDE, SIDE]);
    values
}

/// The sum of squared distances to the nearest point of the other set, both ways.
fn chamfer(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!((a.len(), b.len()), (4096, 4096));
    let squared = |p: &[f32], q: &[f32]| f64::from((p[0] - q[0]).powi(2) + (p[1] - q[1]).powi(2));
    let one_way = |from: &[f32], to: &[f32]| -> f64 {
        from.chunks(2).map(|p| to.chunks(2).map(|q| squared(p, q)).fold(f64::MAX, f64::min)).sum()
    };
    one_way(a, b) + one_way(b, a)
}
