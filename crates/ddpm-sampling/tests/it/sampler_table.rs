//! What the files of samplers declare is true, and all that the program knows of a sampler.

use std::cell::Cell;
use std::collections::BTreeSet;

use burn::tensor::{DType, Device, Tensor};
use ddpm_model::noise_level::NoiseLevel;
use ddpm_sampling::levels::exponential;
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::samplers::{Noise, NoiseSource, Sampler, SamplerOptions};
use ddpm_testing::known::{GAUSSIAN, values};
use ddpm_testing::sources::sources;

/// What samples end at, and how often noise was drawn.
fn run(sampler: Sampler, levels: &[NoiseLevel]) -> (Vec<f64>, usize) {
    let mut source = SampleNoise::<2>::new(5, 0..4, [0, 2], &Device::flex());
    let x = source.start().cast(DType::F64);
    let drawn = Cell::new(0);
    let mut noise = |step: usize| -> Tensor<2> {
        drawn.set(drawn.get() + 1);
        source.step(step).cast(DType::F64)
    };
    let found = values(sampler.run(&GAUSSIAN, levels, x, &mut noise, &mut |_| {}));
    (found, drawn.get())
}

/// From the noisiest ratio to clean data.
fn levels(noisiest: f64) -> Vec<NoiseLevel> {
    exponential(6, noisiest, 0.05).into_iter().chain([0.0]).map(NoiseLevel::from_ratio).collect()
}

#[test]
fn samplers_draw_noise_where_they_declare_it_and_nowhere_else() {
    let levels = levels(20.0);
    let steps = levels.len() - 1;
    for about in Sampler::ABOUTS {
        let drawn = run(about.usual, &levels).1;
        match about.noise {
            Noise::Never => assert_eq!(drawn, 0, "{}", about.name),
            Noise::Always => assert!(drawn >= steps - 1, "{}: {drawn}", about.name),
            Noise::Chain => assert!(drawn > steps, "{}: {drawn}", about.name),
            Noise::If(_) => {
                let made = about.options.specs.iter().map(|spec| {
                    let options = SamplerOptions::default().with(spec.name, 0.9);
                    Sampler::new(about.name, options).expect(spec.name)
                });
                let made: Vec<Sampler> = made.chain([about.usual]).collect();
                for sampler in &made {
                    assert_eq!(sampler.is_stochastic(), run(*sampler, &levels).1 > 0, "{sampler:?}");
                }
                let kinds: BTreeSet<bool> = made.iter().map(Sampler::is_stochastic).collect();
                assert_eq!(kinds.len(), 2, "{}: no option of it decides", about.name);
            }
        }
    }
}

#[test]
fn samplers_that_need_no_signal_start_from_pure_noise() {
    let pure = NoiseLevel { alpha: 0.0, sigma: 1.0 };
    let levels: Vec<NoiseLevel> = [pure].into_iter().chain(levels(20.0)).collect();
    let free = Sampler::ABOUTS.iter().filter(|about| !about.needs_signal);
    let mut count = 0;
    for about in free {
        let found = run(about.usual, &levels).0;
        assert!(found.iter().all(|value| value.is_finite() && value.abs() < 20.0), "{}: {found:?}", about.name);
        count += 1;
    }
    assert!(count > 0);
}

/// The samplers that have a part of their own in the program: ancestral sampling (the variance of a network), DDIM
/// (inversion), and those that are the defaults of a model.
const WITH_A_PART: [&str; 4] = ["Ddpm", "Ddim", "Heun", "FlowHeun"];
/// Where samplers are defined, and where they are matched with the schedulers of diffusers.
const DEFINITIONS: [&str; 3] =
    ["ddpm-sampling/src/samplers/", "ddpm-sampling/src/plan.rs", "ddpm-families/src/diffusers/"];

/// A new sampler is its file and its row in the table, because nothing else names the variants of `Sampler`.
#[test]
fn no_other_source_file_names_a_sampler() {
    let (mut read, mut named) = (0, Vec::new());
    for source in sources() {
        read += usize::from(source.code.contains("Sampler"));
        if !DEFINITIONS.iter().any(|allowed| source.name.starts_with(allowed)) {
            let variants = source.variants("Sampler").filter(|variant| !WITH_A_PART.contains(variant));
            named.extend(variants.map(|variant| format!("{}: {variant}", source.name)));
        }
    }
    assert!(read > 20, "{read} files: the sources are not where they were");
    assert!(named.is_empty(), "these would have to be changed for a new sampler: {named:#?}");
}
