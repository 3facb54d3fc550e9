//! Whole pipelines of latent diffusion, from prompts to images, over the fixtures' `sd_pipelines` folder: what text encoders
//! make of prompts, what the network is called with at every step, the latents in the end, and the images.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use ddpm_families::diffusers::scheduler_config::SchedulerConfig;
use ddpm_families::diffusers::{Coordinates, Plan, json};
use ddpm_families::latent::{FirstStage, GivenImages, ImageSizes, LatentJob, LatentPipeline, Subject};
use ddpm_model::condition::Condition;
use ddpm_model::network::Network;
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::{Predictor, SamplingJob};
use ddpm_sampling::noise::NoiseChoice;
use ddpm_testing::networks::parameters;
use ddpm_testing::support::{
    Safetensors, assert_close, cases, fixture, number, numbers, read_json, text, values, whole, whole_numbers,
};
use serde_json::Value;

#[test]
fn text_to_image_is_that_of_diffusers() {
    compare(|case| case["kind"] == "text2img");
}

#[test]
fn image_to_image_is_that_of_diffusers() {
    compare(|case| case["kind"] == "img2img");
}

#[test]
fn inpainting_is_that_of_diffusers() {
    compare(|case| case["kind"] == "inpaint");
}

#[test]
fn classes_and_codebooks_are_those_of_diffusers() {
    compare(|case| case["kind"].is_null());
}

/// A kind that no test above names would never be compared.
#[test]
fn no_kind_of_cases_is_left_out() {
    for pipeline in Pipeline::all() {
        for case in cases(&pipeline.cases, "cases") {
            let known = [Value::Null, "text2img".into(), "img2img".into(), "inpaint".into()];
            assert!(known.contains(&case["kind"]), "{} {}", pipeline.id, text(case, "id"));
        }
    }
}

#[test]
fn prompts_are_encoded_as_diffusers_encodes_them() {
    let mut compared = 0;
    for pipeline in Pipeline::all() {
        let Some(encoder) = &pipeline.opened.text else { continue };
        let wanted = Safetensors::open(pipeline.folder.join("embeds.safetensors"));
        let prompts = pipeline.prompts(2);
        let negative = text(&pipeline.cases, "default_negative_prompt");
        for (encoder, suffix) in encoder.encoders().iter().zip(["", "_2"]) {
            for (prompts, name) in [(&prompts, "prompt_ids"), (&vec![negative.to_string(); 2], "negative_ids")] {
                let found: Vec<i64> = encoder.ids(prompts).unwrap().into_data().iter::<i64>().collect();
                assert_eq!(found, wanted.i64(&format!("{name}{suffix}")), "{} {name}{suffix}", pipeline.id);
            }
        }
        for (negative, name) in [(Some(negative), "negative"), (None, "no_negative")] {
            let tokens = encoder.tokens(&prompts, negative, 0, ImageSizes::of([16, 16])).unwrap();
            let rows = |first: usize, rows: usize| tokens.states.clone().narrow(0, first, rows);
            pipeline.check_embedding(&wanted, "prompt", &values(rows(0, 2)), 2);
            pipeline.check_embedding(&wanted, name, &values(rows(2, 1)), 1);
            let Some(added) = &tokens.added else { continue };
            let rows = |first: usize, rows: usize| added.pooled.clone().narrow(0, first, rows);
            pipeline.check_embedding(&wanted, "pooled", &values(rows(0, 2)), 2);
            pipeline.check_embedding(&wanted, &format!("{name}_pooled"), &values(rows(2, 1)), 1);
        }
        compared += 1;
    }
    assert!(compared > 0, "no fixture has text");
}

#[test]
fn the_codebook_is_that_of_diffusers() {
    let mut compared = 0;
    for pipeline in Pipeline::all() {
        let FirstStage::Vq(autoencoder) = &pipeline.opened.first_stage else { continue };
        let (data, spread) = (&pipeline.data, &pipeline.cases["first_stage"]);
        let tolerance = |name: &str| 10.0 * number(&spread[name], "max_abs") + 1e-6;
        let x = data.tensor::<4>("x", &Device::default(), DType::F32);
        let z = autoencoder.encode(x);
        assert_close(&values(z.clone()), &data.f64("encoded_f64"), tolerance("encoded"), "encoded");
        let indices: Vec<i64> = autoencoder.nearest(z.clone()).into_data().iter::<i64>().collect();
        assert_eq!(indices, data.i64("indices"));
        let quantized = autoencoder.quantize(z.clone());
        assert_close(&values(quantized), &data.f64("quantized_f64"), tolerance("quantized"), "quantized");
        assert_close(&values(autoencoder.decode(z)), &data.f64("recon_f64"), tolerance("recon"), "recon");
        compared += 1;
    }
    assert!(compared > 0, "no fixture has a codebook");
}

/// The same networks in one file under the names of latent diffusion: the plain weights, their average, and in half precision.
#[test]
fn single_files_hold_the_networks_of_their_pipeline() {
    let (root, mut compared) = (fixture("sd_pipelines"), 0);
    for entry in cases(&read_json(root.join("index.json")), "pipelines") {
        let folder = root.join(text(entry, "folder"));
        let Some(meta) = Some(folder.join("meta.json")).filter(|file| file.is_file()).map(read_json) else { continue };
        let pipeline = root.join(text(&meta, "same_numbers_as"));
        let device = Device::default();
        let wanted = LatentPipeline::open(&pipeline, &device).unwrap();
        let open = |file: &str, averaged| {
            LatentPipeline::open_single_file(&folder.join(file), &pipeline, averaged, &device).unwrap()
        };
        let plain = open("model.ckpt", false);
        assert_eq!(parameters(&plain.network), parameters(&wanted.network));
        let [found, wanted_stage] = [&plain, &wanted].map(|pipeline| match &pipeline.first_stage {
            FirstStage::Kl(network) => parameters(network),
            FirstStage::Vq(network) => parameters(network),
        });
        assert_eq!(found, wanted_stage);
        let [found, wanted_text] =
            [&plain, &wanted].map(|pipeline| parameters(&pipeline.text.as_ref().unwrap().encoders()[0].network));
        assert_eq!(found, wanted_text);
        let average = open("model.ckpt", true);
        for (name, values) in parameters(&wanted.network) {
            let found = &parameters(&average.network)[&name];
            assert!(values.iter().zip(found).all(|(w, f)| (w * 1.001 - f).abs() <= 1e-6 * w.abs()), "{name}");
        }
        let half = open("model_fp16.safetensors", false);
        for (name, values) in parameters(&wanted.network) {
            let found = &parameters(&half.network)[&name];
            assert!(values.iter().zip(found).all(|(w, f)| (w - f).abs() <= 1e-3 * w.abs() + 1e-7), "{name}");
        }
        let refused =
            LatentPipeline::open_single_file(&folder.join("model_fp16.safetensors"), &pipeline, true, &device);
        assert!(refused.unwrap_err().to_string().contains("model_ema"));
        compared += 1;
    }
    assert!(compared > 0, "no fixture is a single file");
}

/// All cases that `is_meant` says are.
fn compare(is_meant: impl Fn(&Value) -> bool) {
    let mut compared = 0;
    for pipeline in Pipeline::all() {
        for case in cases(&pipeline.cases, "cases").iter().filter(|case| is_meant(case)) {
            pipeline.compare(case);
            compared += 1;
        }
    }
    assert!(compared > 0, "no such case");
}

/// A pipeline folder with its cases.
struct Pipeline {
    id: String,
    folder: PathBuf,
    cases: Value,
    data: Safetensors,
    opened: LatentPipeline,
}

impl Pipeline {
    /// All that have cases.
    fn all() -> Vec<Self> {
        let root = fixture("sd_pipelines");
        let index = read_json(root.join("index.json"));
        let entries = cases(&index, "pipelines").iter().filter(|entry| entry["cases"] != Value::Array(vec![]));
        entries.map(|entry| Self::open(text(entry, "id"), &root.join(text(entry, "folder")))).collect()
    }

    fn open(id: &str, folder: &Path) -> Self {
        let opened = LatentPipeline::open(folder, &Device::default()).unwrap_or_else(|error| panic!("{error}"));
        let cases = read_json(folder.join("cases.json"));
        assert_eq!(opened.class, text(&cases, "pipeline"), "{id}");
        let data = Safetensors::open(folder.join("data.safetensors"));
        Self { id: id.into(), folder: folder.into(), cases, data, opened }
    }

    fn prompts(&self, count: usize) -> Vec<String> {
        cases(&self.cases, "prompts")[..count].iter().map(|prompt| prompt.as_str().unwrap().into()).collect()
    }

    /// The first rows of an embedding, which are off by ten times the spread of the peer's own f32.
    fn check_embedding(&self, wanted: &Safetensors, name: &str, found: &[f64], rows: usize) {
        let spread = &self.cases["embeds"][name];
        let tolerance = (10.0 * number(spread, "max_abs")).max(1e-6 * number(spread, "scale"));
        let wanted = wanted.f64(&format!("{name}_f64"));
        let row = wanted.len() / 2;
        assert_close(found, &wanted[..row * rows], tolerance, &format!("{} {name}", self.id));
    }

    /// The first rows of a tensor.
    fn rows(&self, name: &str, rows: usize) -> Vec<f32> {
        let all = self.data.f32(name);
        let per_row = all.len() / self.data.shape(name)[0];
        all[..rows * per_row].to_vec()
    }

    fn compare(&self, case: &Value) {
        let what = format!("{} {}", self.id, text(case, "id"));
        let folder = self.folder.join("cases").join(text(case, "id"));
        let scheduler = std::fs::read_to_string(folder.join("scheduler_config.json")).unwrap();
        let scheduler = SchedulerConfig::read(&json::parse(&scheduler).unwrap()).unwrap();
        assert_eq!(scheduler.class(), text(case, "scheduler"), "{what}");
        let pipeline = self.opened.clone().with_scheduler(scheduler);
        let job = self.job(&pipeline, case);

        let (batch, channels) = (job.sampling.count, pipeline.latent_channels());
        let recorder = Recorder { network: &pipeline.network, batch, channels, seen: RefCell::default() };
        let samples = job.run_part(&pipeline, &recorder, 0..batch, &mut |_| {});
        let samples = samples.unwrap_or_else(|error| panic!("{what}: {error}"));
        let latents: Vec<f64> = samples.latents.values.iter().copied().map(f64::from).collect();
        let (times, mut entries): (Vec<f64>, Vec<_>) = recorder.seen.into_inner().into_iter().unzip();
        let plan = job.sampling.plan.as_ref().unwrap();
        entries.iter_mut().zip(&times).for_each(|(x, time)| in_coordinates(x, plan, *time));
        entries.push(latents.clone());

        let wanted = Safetensors::open(folder.join("trajectory.safetensors"));
        assert_eq!(times.len(), whole(case, "steps_run"), "{what}: calls of the network");
        let slack = 1e-6 + number(case, "timestep_f32_vs_f64");
        assert_close(&times, &wanted.f64("timesteps"), slack, &format!("{what}: times"));
        let trajectory = wanted.f64("trajectory");
        // Half of the rows may be a copy under the null class.
        let (size, ours) = (trajectory.len() / entries.len(), latents.len());
        let share = number(case, "tol_over_scale_f32");
        for (step, found) in entries.iter().enumerate() {
            let wanted = &trajectory[step * size..][..ours];
            assert_close(found, wanted, share * largest(wanted), &format!("{what}: entry {step}"));
        }

        let shape = [[batch].as_slice(), &samples.latents.shape].concat();
        let shape: [usize; 4] = shape.try_into().unwrap();
        let z = Tensor::<1>::from_floats(samples.latents.values.as_slice(), &Device::default()).reshape(shape);
        let (decoded, tolerance) = (wanted.f64("decoded"), number(case, "tol_decoded_abs_f32"));
        assert_close(&values(pipeline.first_stage.decode(z)), &decoded, tolerance, &format!("{what}: decoded"));
        let images: Vec<f64> = samples.images.values.iter().copied().map(f64::from).collect();
        let clamped: Vec<f64> = decoded.iter().map(|value| value.clamp(-1.0, 1.0)).collect();
        assert_close(&images, &clamped, tolerance, &format!("{what}: images"));
    }

    fn job(&self, pipeline: &LatentPipeline, case: &Value) -> LatentJob {
        let batch = whole(case, "batch");
        let subject = match (&case["class_labels"], pipeline.text.is_some()) {
            (Value::Array(_), _) => Subject::Classes(whole_numbers(&case["class_labels"])),
            (_, true) => Subject::Prompts {
                prompts: self.prompts(batch),
                negative: case["negative_prompt"].as_str().map(String::from),
            },
            (_, false) => Subject::Anything,
        };
        let eta = case["eta"].as_f64().unwrap_or(0.0);
        let job = pipeline.job(subject, Some(whole(case, "steps")), eta).unwrap_or_else(|error| panic!("{error}"));
        let size = |key: &str| numbers(&case[key]).into_iter().map(|side| side as f32).collect::<Vec<_>>();
        let pair = |key: &str| <[f32; 2]>::try_from(size(key)).unwrap();
        let sizes = case["original_size"].is_array().then(|| ImageSizes {
            original: pair("original_size"),
            crop: pair("crops_coords_top_left"),
            target: pair("target_size"),
        });
        let guidance = Guidance {
            rescale: case["guidance_rescale"].as_f64().unwrap_or(0.0),
            ..pipeline.guidance(number(case, "guidance_scale"))
        };
        let sampling = SamplingJob { count: batch, noise: self.noise(batch), guidance, ..job.sampling.clone() };
        let clip_skip = case["clip_skip"].as_u64().unwrap_or(0) as usize;
        LatentJob { given: self.given(case), sizes, clip_skip, sampling, ..job }
    }

    /// The noise of the start, and of the steps where there is some.
    fn noise(&self, batch: usize) -> NoiseChoice {
        let mut noise = NoiseChoice { start: Some(self.rows("latents", batch)), ..NoiseChoice::default() };
        if self.data.names().contains(&"step_noise".to_string()) {
            let (steps, all) = (self.data.shape("step_noise")[0], self.data.f32("step_noise"));
            let ours = noise.start.as_ref().map_or(0, Vec::len);
            noise.steps = all.chunks(all.len() / steps).map(|step| step[..ours].to_vec()).collect();
        }
        noise
    }

    fn given(&self, case: &Value) -> Option<GivenImages> {
        let batch = whole(case, "batch");
        let kind = case["kind"].as_str().filter(|kind| *kind != "text2img")?;
        let images = self.rows("image", batch).into_iter().map(|value| 2.0 * value - 1.0).collect();
        let mask = (kind == "inpaint").then(|| self.rows("mask", batch).into_iter().map(|new| new >= 0.5).collect());
        let noise = ["posterior_noise", "posterior_noise2"].map(|name| Some(self.rows(name, batch)));
        Some(GivenImages { images, mask, strength: number(case, "strength"), posterior_noise: noise })
    }
}

/// From our coordinates to those that the peer writes a trajectory down in.
fn in_coordinates(x: &mut [f64], plan: &Plan, time: f64) {
    if plan.coordinates == Coordinates::Exploding {
        let off = |entry: &&(ddpm_model::noise_level::NoiseLevel, f64)| (entry.1 - time).abs();
        let (level, _) = plan.times.iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap();
        x.iter_mut().for_each(|value| *value /= level.alpha);
    }
}

/// A network that writes down what it is called with: the time, and the first rows and channels.
struct Recorder<'a> {
    network: &'a Network,
    batch: usize,
    channels: usize,
    seen: RefCell<Vec<(f64, Vec<f64>)>>,
}

impl Predictor for Recorder<'_> {
    fn predict(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let seen = x_t.clone().narrow(0, 0, self.batch).narrow(1, 0, self.channels);
        self.seen.borrow_mut().push((values(t.clone())[0], values(seen)));
        self.network.predict(x_t, t, condition)
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, value| value.abs().max(max))
}
