//! To add something is to touch at most three places of code: nothing else in the sources names what there is already.
//! Samplers are counted next to their table, in `ddpm-sampling/tests/it/sampler_table.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use ddpm_families::family::registry::families;
use ddpm_testing::sources::{Source, sources};

/// Code files that are to be touched for one thing, at most.
const MOST_PLACES: usize = 3;

/// An enum of which a new variant is added: where its variants may be named, and what has a part of its own elsewhere.
struct Variants {
    of: &'static str,
    defined_in: &'static [&'static str],
    /// Variants and the files that name them for a reason of theirs.
    with_a_part: &'static [(&'static str, &'static [&'static str])],
}

impl Variants {
    /// Every other place that names one.
    fn elsewhere(&self, sources: &[Source]) -> Vec<String> {
        let others = sources.iter().filter(|source| !self.defined_in.contains(&&*source.name));
        let named = others.flat_map(|source| source.variants(self.of).map(|variant| (&*source.name, variant)));
        let has_part = |name: &str, variant: &str| {
            self.with_a_part
                .iter()
                .any(|(known, files)| *known == variant && files.iter().any(|file| name.ends_with(file)))
        };
        let without = named.filter(|(name, variant)| !has_part(name, variant));
        without.map(|(name, variant)| format!("{name}: {}::{variant}", self.of)).collect()
    }

    /// A new variant has a file of its own besides.
    fn check(&self, sources: &[Source]) {
        let elsewhere = self.elsewhere(sources);
        assert!(elsewhere.is_empty(), "these would have to be changed as well: {elsewhere:#?}");
        assert!(self.defined_in.len() < MOST_PLACES, "{}: {} places and its file", self.of, self.defined_in.len());
        for file in self.defined_in {
            let source = sources.iter().find(|source| source.name == *file).unwrap();
            let in_it =
                source.code.contains(&format!("enum {} {{", self.of)) || source.variants(self.of).next().is_some();
            assert!(in_it, "{file} has nothing of {}", self.of);
        }
        for (variant, files) in self.with_a_part {
            for file in *files {
                let found = sources.iter().filter(|source| source.name.ends_with(file));
                let names = found.flat_map(|source| source.variants(self.of)).any(|named| named == *variant);
                assert!(names, "{file} names no {}::{variant} any more", self.of);
            }
        }
    }
}

#[test]
fn a_dataset_is_its_file_its_keys_and_how_it_is_opened() {
    let datasets = Variants {
        of: "DataConfig",
        defined_in: &["ddpm-data/src/config.rs", "ddpm-data/src/open.rs"],
        with_a_part: &[
            // Folders of images have options that messages name.
            ("Images", &["diffusion/tables.rs", "commands/inspect_data.rs", "conformance/mod.rs"]),
            // Points with modes, which are counted.
            ("Gaussians8", &["evaluate/points.rs"]),
            ("Gaussians25", &["evaluate/points.rs"]),
            // Images with known factors, which latents are compared with.
            ("Sprites", &["evaluate/reconstructions.rs"]),
            // Files of series are described, and read again for forecasts as they were read in training.
            ("Series", &["commands/inspect_series.rs"]),
            ("SeriesArray", &["commands/series_file.rs"]),
            // The shapes of images in recipes, and the data of the benchmark.
            ("Digits", &["conformance/mod.rs", "bench/worker.rs"]),
            ("Mnist", &["conformance/mod.rs"]),
            ("FashionMnist", &["conformance/mod.rs"]),
            ("Cifar10", &["conformance/mod.rs"]),
        ],
    };
    datasets.check(&sources());
}

#[test]
fn a_network_of_diffusion_is_its_file_its_arms_and_its_section() {
    let sources = sources();
    // Everything but the line of its section is in network.rs.
    const IN_NETWORK: &str = "ddpm-model/src/network.rs";
    let parts: &[(&str, &[&str])] = &[
        // What diffusers, the benchmark and the conformance of operations are about.
        ("UNet", &["diffusers/pipeline.rs", "diffusion/start.rs", "bench/worker.rs", "conformance/networks.rs"]),
        ("UNet", &["diffusers/unet_config.rs", "conformance/mod.rs", "conformance/shapes.rs"]),
        ("UNet", &["commands/inspect.rs", "commands/import.rs"]),
        // The networks of latent pipelines of diffusers.
        ("UNet", &["latent/pipeline.rs", "latent/single_file.rs"]),
        ("DiT", &["latent/pipeline.rs"]),
        // Those that are compared with PyTorch.
        ("UNet", &["bench/latent.rs", "bench/network.rs"]),
        ("DiT", &["bench/latent.rs"]),
        ("PointMlp", &["conformance/shapes.rs"]),
        ("Custom", &["diffusion/networks.rs"]),
    ];
    Variants { of: "NetworkConfig", defined_in: &[IN_NETWORK], with_a_part: parts }.check(&sources);
    let parts: &[(&str, &[&str])] = &[
        ("UNet", &["ddpm-weights/src/load.rs", "families/src/snapshot.rs", "latent/pipeline.rs"]),
        ("DiT", &["latent/pipeline.rs"]),
    ];
    Variants { of: "Network", defined_in: &[IN_NETWORK], with_a_part: parts }.check(&sources);
    let named = files_with(&sources, &["\"point-mlp\"", "'point-mlp'"]);
    assert_eq!(named, ["ddpm-families/src/diffusion/tables.rs", IN_NETWORK]);
}

#[test]
fn a_family_is_its_folder_and_its_line_in_the_registry() {
    let sources = sources();
    // Its snapshots may be pipelines of diffusers or of format 1, and the benchmark and the conformance are about it.
    let with_a_part = ["diffusion"];
    // Checkpoints of other projects are of one family each; a file of series alone has the recipe of one.
    let of_series = ["ddpm-infer/src/commands/import_series.rs", "ddpm-train/src/config/series_file.rs"];
    let mut found = BTreeSet::new();
    for source in sources.iter().filter(|source| source.code.contains("\nimpl Family for ")) {
        let folder = source.name.strip_prefix("ddpm-families/src/").and_then(|path| path.split_once('/')).unwrap().0;
        let ty = source.code.split("\nimpl Family for ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        found.insert(folder);
        if with_a_part.contains(&folder) {
            continue;
        }
        let own = format!("ddpm-families/src/{folder}/");
        let others = sources.iter().filter(|source| !source.name.starts_with(&own));
        let others = others.filter(|source| !of_series.contains(&&*source.name));
        let paths = [ty.to_string(), format!("crate::{folder}::"), format!("ddpm_families::{folder}::")];
        let names = |source: &&Source| paths.iter().any(|path| source.names(path));
        let named: Vec<&str> = others.filter(names).map(|source| &*source.name).collect();
        assert_eq!(named, ["ddpm-families/src/family/registry.rs"], "{folder}");
    }
    let has_folder = |name: &str| found.contains(&*name.replace('-', "_"));
    assert_eq!(found.len(), families().iter().filter(|family| has_folder(family.name())).count(), "{found:?}");
    assert!(found.len() > with_a_part.len(), "{found:?}");
}

#[test]
fn a_number_of_a_family_is_drawn_by_the_report_without_being_named_there() {
    let sources = sources();
    let names: BTreeSet<&str> = families().iter().flat_map(|family| family.titles()).map(|(name, _)| name).collect();
    assert!(names.contains("valid_loss"), "{names:?}");
    // The quarters of the noise levels share a chart.
    for name in names.into_iter().filter(|name| !name.starts_with("loss_q")) {
        let named = files_with(&sources, &[&format!("\"{name}\"")]);
        let report: Vec<&String> = named.iter().filter(|file| file.starts_with("ddpm-train/src/report/")).collect();
        assert!(report.is_empty() && !named.is_empty(), "{name}: {report:?} of {named:?}");
    }
}

#[test]
fn a_metric_is_its_file_and_its_line_among_the_metrics() {
    let sources = sources();
    // The table of the terminal has room for some, and plots.
    let table = "ddpm-eval/src/report.rs";
    let metrics = "ddpm-eval/src/metrics.rs";
    for (name, places) in [
        ("KID", &[metrics][..]),
        ("density", &[metrics]),
        // To the end: intervals of forecasts have a coverage, too.
        ("coverage\"", &[metrics]),
        ("inception score", &[metrics]),
        ("recall", &[metrics, table]),
        ("novelty", &[metrics, table]),
    ] {
        assert_eq!(files_with(&sources, &[&format!("\"{name}")]), places, "{name}");
    }
}

/// The table of `docs/extending.md`, for what is counted here: a file of its own, and those that it names.
#[test]
fn the_rows_of_what_is_counted_name_at_most_three_files_of_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/extending.md");
    let text = std::fs::read_to_string(path).unwrap();
    for thing in ["a family", "a dataset or format", "a network", "a sampler", "a metric"] {
        let row = text.lines().find_map(|line| line.strip_prefix(&format!("| {thing} | "))).expect(thing);
        let quoted: BTreeSet<&str> = row.split('`').skip(1).step_by(2).collect();
        // A `mod` line in lib.rs is no place: without it there is no file.
        let is_code = |file: &&str| file.ends_with(".rs") && !file.ends_with("lib.rs");
        let count = 1 + quoted.into_iter().filter(is_code).count();
        assert!(row.starts_with("its f") && count <= MOST_PLACES, "{thing}: {count} places: {row}");
    }
}

/// The files with one of these texts in their code.
fn files_with(sources: &[Source], texts: &[&str]) -> Vec<String> {
    let has = |source: &&Source| texts.iter().any(|text| source.code.contains(text));
    sources.iter().filter(has).map(|source| source.name.clone()).collect()
}
