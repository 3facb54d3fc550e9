//! Gaussian diffusion and its bound against `fixtures/gaussian`, in f32 and in f64.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::f64::consts::LN_2;

use burn::tensor::{DType, Device, Tensor};
use ddpm_model::bound::{Loss, normal_kl};
use ddpm_model::denoiser::time_tensor;
use ddpm_model::gaussian::{Clip, GaussianDiffusion, Moments};
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::Schedule;
use ddpm_model::variance::Variance;
use ddpm_testing::support;
use serde_json::Value;
use support::*;

/// The fixtures in one precision.
struct Golden {
    index: Value,
    inputs: Safetensors,
    expected: Safetensors,
    dtype: DType,
}

impl Golden {
    fn both() -> [Self; 2] {
        [(DType::F32, "expected_f32"), (DType::F64, "expected_f64")].map(|(dtype, name)| {
            let folder = fixtures_dir().join("gaussian");
            Self {
                index: read_json(folder.join("cases.json")),
                inputs: Safetensors::open(folder.join("inputs.safetensors")),
                expected: Safetensors::open(folder.join(format!("{name}.safetensors"))),
                dtype,
            }
        })
    }

    fn config(&self) -> &Value {
        &self.index["config"]
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.inputs.tensor(name, &Device::flex(), self.dtype)
    }

    fn steps(&self) -> Vec<usize> {
        let t = whole_numbers(&self.config()["t"]);
        let stored: Vec<usize> = self.inputs.i64("t").into_iter().map(|t| t as usize).collect();
        assert_eq!(t, stored);
        t
    }

    fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        let exact = vec![0.0; found.shape().num_elements()];
        self.check_rounded(name, found, &exact);
    }

    /// `L_T`, which the reference implementation computes as `(m^2 + v - 1 - ln v) / 2`: the last three cancel, and leave the rounding of
    /// numbers near 1, whatever they add up to.
    fn check_prior(&self, name: &str, found: Tensor<1>, schedule: &Schedule) {
        let variance = 1.0 - schedule.alphas_bar[schedule.len() - 1];
        let cancelling = 0.5 * (variance + 1.0 + variance.ln().abs()) / LN_2;
        let rounding = vec![self.epsilon() * cancelling; found.dims()[0]];
        self.check_rounded(name, found, &rounding);
    }

    /// With the rounding of the reference implementation where it is known; smaller differences do not count.
    fn check_rounded<const D: usize>(&self, name: &str, found: Tensor<D>, rounding: &[f64]) {
        assert_eq!(found.dtype(), self.dtype, "{name}");
        assert_eq!(found.dims(), fit(&self.expected.shape(name)), "{name}");
        let wanted = self.expected.f64(name);
        let entry = &self.index["f32_vs_f64"][name];
        let tolerance = match self.dtype {
            DType::F64 => 1e-10 * wanted.iter().fold(0.0f64, |max, value| max.max(value.abs())),
            _ => number(entry, "tol_abs_f32"),
        };
        let found = values(found);
        assert_eq!((found.len(), found.len()), (wanted.len(), rounding.len()), "{name}: number of values");
        for (i, (found, wanted)) in found.into_iter().zip(wanted).enumerate() {
            let what = format!("{name} {i} ({:?})", self.dtype);
            assert_close(&[found], &[wanted], tolerance.max(rounding[i]), &what);
        }
    }

    fn epsilon(&self) -> f64 {
        if self.dtype == DType::F64 { f64::EPSILON } else { f32::EPSILON.into() }
    }

    /// Of the term of the bound in each row, bits per dimension. Where `t` is 0 the decoder has its own. In all, the tables
    /// lose the digits of `1 - alpha_bar` in f64, and so does the mean, which counts in deviations of `sqrt(beta)`.
    fn rounding_of_terms(&self, p: &Moments<4>, x_0: &Tensor<4>, t: &[usize], schedule: &Schedule) -> Vec<f64> {
        let all = |x: &Tensor<4>| values(x.clone().expand(x_0.dims()));
        let (x, mean, log_variance) = (values(x_0.clone()), all(&p.mean), all(&p.log_variance));
        let of_mean = |t: usize| f64::EPSILON / (1.0 - schedule.alphas_bar[t]) / schedule.betas[t].sqrt();
        let nats = |i: usize| decoder_rounding(x[i], mean[i], 0.5 * log_variance[i], self.epsilon());
        let columns = x.len() / t.len();
        let of_decoder =
            |row: usize| (row * columns..(row + 1) * columns).map(nats).sum::<f64>() / columns as f64 / LN_2;
        let of_row = |(row, &t): (usize, &usize)| of_mean(t).max(if t == 0 { of_decoder(row) } else { 0.0 });
        t.iter().enumerate().map(of_row).collect()
    }

    /// Broadcasts to the shape of the data first.
    fn check_spread<const D: usize>(&self, name: &str, found: Tensor<D>, like: &Tensor<D>) {
        self.check(name, found.expand(like.dims()));
    }

    fn diffusion(&self, schedule_entry: &Value, mean: &str, variance: &str) -> GaussianDiffusion {
        GaussianDiffusion::new(schedule(schedule_entry), prediction(mean), variance_of(variance))
    }

    /// Every pair of mean and variance types, under the schedule of `entry`.
    fn diffusions(&self, entry: &Value) -> Vec<(String, GaussianDiffusion, DummyModel)> {
        let mut all = Vec::new();
        for mean in cases(&self.index, "mean_types") {
            for variance in cases(&self.index, "var_types") {
                let (mean, variance) = (mean.as_str().unwrap(), variance.as_str().unwrap());
                let diffusion = self.diffusion(entry, mean, variance);
                let learned = diffusion.variance == Variance::Learned;
                let steps = diffusion.schedule.len() as f64;
                let model = DummyModel::from_json(&self.config()["model"], mean, learned, steps);
                all.push((format!("{mean}.{variance}"), diffusion, model));
            }
        }
        all
    }

    fn clips(&self) -> Vec<(String, Clip)> {
        let clips = self.index["clip_keys"].as_object().unwrap();
        assert!(!clips.is_empty());
        clips.iter().map(|(key, on)| (key.clone(), clip(on))).collect()
    }
}

fn prediction(name: &str) -> Prediction {
    match name {
        "eps" => Prediction::Eps,
        "x0" => Prediction::X0,
        "prev_x" => Prediction::PosteriorMean,
        other => panic!("unknown mean type {other:?}"),
    }
}

fn variance_of(name: &str) -> Variance {
    match name {
        "fixed_small" => Variance::FixedSmall,
        "fixed_large" => Variance::FixedLarge,
        "learned_range" => Variance::Learned,
        other => panic!("unknown variance type {other:?}"),
    }
}

fn clip(on: &Value) -> Clip {
    match on.as_bool().unwrap() {
        true => Clip::Unit,
        false => Clip::None,
    }
}

fn run<const D: usize>(model: &DummyModel, x_t: Tensor<D>, t: &[usize]) -> Tensor<D> {
    let times: Vec<f64> = t.iter().map(|&t| t as f64).collect();
    let times = time_tensor(&times, &x_t);
    model.forward(x_t, times)
}

#[test]
fn forward_process() {
    for golden in Golden::both() {
        let diffusion = golden.diffusion(&golden.config()["schedule"], "eps", "fixed_small");
        let t = golden.steps();
        let (x_0, noise): (Tensor<4>, Tensor<4>) = (golden.input("x0"), golden.input("noise"));
        // In full precision: the stored x_t is rounded to f32, and the posterior is not made from it.
        let x_t = diffusion.q_sample(x_0.clone(), &t, noise);
        golden.check("q_sample", x_t.clone());

        let q = diffusion.q_mean_variance(x_0.clone(), &t);
        golden.check("q_mean_variance.mean", q.mean);
        golden.check_spread("q_mean_variance.variance", q.variance, &x_0);
        golden.check_spread("q_mean_variance.log_variance", q.log_variance, &x_0);

        let q = diffusion.q_posterior(x_0.clone(), x_t, &t);
        golden.check("q_posterior.mean", q.mean);
        golden.check_spread("q_posterior.variance", q.variance, &x_0);
        golden.check_spread("q_posterior.log_variance_clipped", q.log_variance, &x_0);

        golden.check_prior("prior_bpd", diffusion.prior_bpd(&x_0), &diffusion.schedule);
    }
}

#[test]
fn reverse_process_and_bound_terms() {
    for golden in Golden::both() {
        let t = golden.steps();
        let (x_0, x_t): (Tensor<4>, Tensor<4>) = (golden.input("x0"), golden.input("x_t"));
        for (id, diffusion, model) in golden.diffusions(&golden.config()["schedule"]) {
            let output = run(&model, x_t.clone(), &t);
            golden.check(&format!("{id}.model_output"), output.clone());
            for (key, clip) in golden.clips() {
                let step = diffusion.p_mean_variance(output.clone(), x_t.clone(), &t, clip);
                let bpd = diffusion.vb_term_bpd(&step, &x_0, &x_t, &t);
                let rounding = golden.rounding_of_terms(&step.moments, &x_0, &t, &diffusion.schedule);
                golden.check_rounded(&format!("{id}.vb_terms_bpd.{key}"), bpd, &rounding);
                let p = step.moments;
                let name = |part: &str| format!("{id}.p_mean_variance.{key}.{part}");
                golden.check(&name("mean"), p.mean);
                golden.check_spread(&name("variance"), p.variance, &x_t);
                golden.check_spread(&name("log_variance"), p.log_variance, &x_t);
                golden.check(&name("pred_xstart"), step.x_0);
            }
        }
    }
}

#[test]
fn training_losses() {
    for golden in Golden::both() {
        let t = golden.steps();
        let (x_0, eps): (Tensor<4>, Tensor<4>) = (golden.input("x0"), golden.input("noise"));
        for (id, diffusion, model) in golden.diffusions(&golden.config()["schedule"]) {
            let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
            let output = run(&model, x_t.clone(), &t);
            let step = diffusion.p_mean_variance(output.clone(), x_t.clone(), &t, Clip::None);
            let rounding = golden.rounding_of_terms(&step.moments, &x_0, &t, &diffusion.schedule);
            for name in cases(&golden.index, "loss_types") {
                let name = name.as_str().unwrap();
                let loss = match name {
                    "mse" => Loss::Mse,
                    "rescaled_mse" => Loss::RescaledMse,
                    "kl" => Loss::Kl,
                    "rescaled_kl" => Loss::RescaledKl,
                    other => panic!("unknown loss {other:?}"),
                };
                let terms = diffusion.loss(loss, output.clone(), &x_0, &x_t, &eps, &t);
                let steps = diffusion.schedule.len() as f64;
                let share = match (loss, &terms.vb) {
                    (_, None) => 0.0,
                    (Loss::Mse | Loss::Kl, _) => 1.0,
                    (Loss::RescaledMse, _) => steps / 1000.0,
                    (Loss::RescaledKl, _) => steps,
                };
                let of_vb: Vec<f64> = rounding.iter().map(|rounding| share * rounding).collect();
                let of_mse = vec![0.0; t.len()];
                let prefix = format!("{id}.training_losses.{name}");
                golden.check_rounded(&format!("{prefix}.loss"), terms.loss, &of_vb);
                // The fixtures name the parts only where the loss has more than one.
                for (part, found, rounding) in [("mse", terms.mse, &of_mse), ("vb", terms.vb, &of_vb)] {
                    let part_name = format!("{prefix}.{part}");
                    match golden.expected.names().contains(&part_name) {
                        true => golden.check_rounded(&part_name, found.unwrap(), rounding),
                        false => assert!(found.is_none() || loss_is_bound(loss), "{part_name}"),
                    }
                }
            }
        }
    }
}

fn loss_is_bound(loss: Loss) -> bool {
    matches!(loss, Loss::Kl | Loss::RescaledKl)
}

#[test]
fn whole_bound() {
    for golden in Golden::both() {
        let config = &golden.config()["bpd"];
        let x_0: Tensor<4> = golden.input("bpd.x0");
        let noise: Tensor<5> = golden.input("bpd.noise");
        for (id, diffusion, model) in golden.diffusions(&config["schedule"]) {
            let steps = diffusion.schedule.len();
            let clip = clip(&config["clip_denoised"]);
            let noise_of = |t: usize| noise.clone().narrow(0, steps - 1 - t, 1).squeeze_dim(0);
            let bound = diffusion.bound(&x_0, clip, noise_of, |x_t, t| run(&model, x_t, t));
            let name = |part: &str| format!("bpd.{id}.{part}");

            // The decoder's is the last column.
            let first = vec![0; x_0.dims()[0]];
            let x_1 = diffusion.q_sample(x_0.clone(), &first, noise_of(0));
            let decoder = diffusion.p_mean_variance(run(&model, x_1.clone(), &first), x_1, &first, clip).moments;
            let of_decoder = golden.rounding_of_terms(&decoder, &x_0, &first, &diffusion.schedule);
            let of_terms: Vec<f64> = of_decoder
                .iter()
                .flat_map(|&last| (1..=steps).map(move |j| if j == steps { last } else { 0.0 }))
                .collect();
            golden.check_rounded(&name("total_bpd"), bound.total_bpd, &of_decoder);
            golden.check_prior(&name("prior_bpd"), bound.prior_bpd, &diffusion.schedule);
            // The fixtures' columns start with the noisiest step.
            golden.check_rounded(&name("vb"), bound.terms_bpd.flip([1]), &of_terms);
            golden.check(&name("xstart_mse"), bound.x_0_mse.flip([1]));
            golden.check(&name("mse"), bound.eps_mse.flip([1]));
        }
    }
}

#[test]
fn kl_of_normals() {
    for golden in Golden::both() {
        let input = |name: &str| golden.input::<2>(&format!("normal_kl.{name}"));
        let kl = normal_kl(input("mean1"), input("logvar1"), input("mean2"), input("logvar2"));
        golden.check("normal_kl.nats", kl);
    }
}
