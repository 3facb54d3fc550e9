//! An average of a width that nobody tracked, made after training, is the one that tracking it would have given.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use clap::Parser;
use ddpm_families::snapshot::Snapshot;
use ddpm_infer::commands::average_weights::{self, EmaArgs};
use support::{Bench, TINY_DIGITS};

use crate::support;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    ema: EmaArgs,
}

/// What `ddpm-infer ema` does with these words.
fn ema(words: &[&str]) -> anyhow::Result<std::path::PathBuf> {
    average_weights::run(&Command::parse_from([&["ema"], words].concat()).ema)
}

/// All weights of a snapshot, one after the other.
fn weights(path: &Path) -> Vec<f64> {
    struct Collect(Vec<f64>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f64>());
        }
    }
    let mut all = Collect(Vec::new());
    let _alone = crate::support::alone();
    Snapshot::load(path, &Device::default()).unwrap().network.visit(&mut all);
    all.0
}

/// The distance of two sets of weights.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn a_width_made_afterwards_is_the_one_that_was_tracked() {
    let bench = Bench::new();
    let sets = [
        "--set",
        "train.steps=48",
        "--set",
        "train.snapshot_every=24",
        // The average that samples are drawn from is the one to be found again.
        "--set",
        "ema.kind=power",
        "--set",
        "ema.sigma_rel=0.07",
        "--set",
        "ema.post_hoc={ widths = [0.05, 0.1], every = 3 }",
    ];
    let run = bench.train(&[&sets[..], &TINY_DIGITS].concat());
    let run_word = run.to_str().unwrap();
    let made = |name: &str, words: &[&str]| {
        let out = bench.path(name);
        let words = [&["--run", run_word, "--out", out.to_str().unwrap()], words].concat();
        ema(&words).map(|out| weights(&out))
    };
    for (step, words) in [(48, &["--width", "0.07"][..]), (24, &["--width", "0.07", "--step", "24"])] {
        let of = |folder: &str| weights(&run.join(format!("{folder}/step-{step:08}")));
        let tracked = of("snapshots");
        let nearest = ["averages/width-0.05", "averages/width-0.1"].map(|width| apart(&of(width), &tracked));
        let found = apart(&made(&format!("made-{step}"), words).unwrap(), &tracked);
        // The profile is off by less than a hundredth, the stored ones by more than a tenth.
        assert!(found > 0.0 && found < 0.05 * nearest[0].min(nearest[1]), "step {step}: {found}, stored {nearest:?}");
    }
    // A width that was stored comes back as it is.
    let again = made("again", &["--width", "0.1"]).unwrap();
    let stored = weights(&run.join("averages/width-0.1/step-00000048"));
    assert!(apart(&again, &stored) < 1e-5 * apart(&stored, &vec![0.0; stored.len()]));

    let refuse = |words: &[&str], parts: &[&str]| {
        let message = made("never", words).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(!bench.path("never").exists());
    };
    refuse(&["--width", "0.5"], &["0.5", "0.28"]);
    refuse(&["--width", "0.07", "--step", "7"], &["--step 7", "width 0.05 at the steps 3, 6, ", "width 0.1"]);
    refuse(&["--width", "0.2", "--step", "3"], &["too few", "width 0.2", "width 0.05 at the steps 3; width 0.1"]);
    let out = bench.path("again");
    let said = ema(&["--run", run_word, "--width", "0.1", "--out", out.to_str().unwrap()]).unwrap_err().to_string();
    assert!(said.contains("again") && said.contains("already"), "{said}");

    let bare = bench.train(&[&["--set", "train.steps=1"][..], &TINY_DIGITS].concat());
    let never = bench.path("never");
    let words = ["--run", bare.to_str().unwrap(), "--width", "0.1", "--out", never.to_str().unwrap()];
    let said = ema(&words).unwrap_err().to_string();
    assert!(said.contains("no averages") && said.contains("ema.post_hoc"), "{said}");
}

#[test]
fn widths_that_do_not_exist_are_refused_by_key() {
    let sets = ["--set", "ema.post_hoc={ widths = [0.05, 0.5], every = 0 }"];
    let (code, said) = Bench::new().refusal(&[&sets[..], &TINY_DIGITS].concat());
    assert_eq!(code, 2);
    assert!(said.contains("ema.post_hoc.widths") && said.contains("ema.post_hoc.every"), "{said}");
}
