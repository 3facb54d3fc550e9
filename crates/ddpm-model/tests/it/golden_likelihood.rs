//! Discretized likelihoods against `fixtures/vae`: a mixture of logistics as VDVAE has it, and exact tables.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_model::likelihood::discretized_logistic::DiscretizedLogistic;
use ddpm_model::likelihood::logistic_mixture::{LogisticMixture, MixtureUniforms, Tails};
use ddpm_testing::support;
use serde_json::Value;
use support::*;

use crate::vae_parts;

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// As one pixel per row of a table.
fn pixels(io: &Safetensors, name: &str, device: &Device, dtype: DType) -> Tensor<4> {
    io.tensor::<4>(name, device, dtype)
}

/// The tolerance relative to the largest value, for each of the two widths.
fn mixture_tolerance(meta: &Value, name: &str, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-9,
        _ => number(&meta["tol_relative_f32"], name),
    }
}

#[test]
fn mixtures_of_logistics_are_those_of_vdvae() {
    for folder in vae_parts("dmol") {
        let meta = read_json(folder.join("meta.json"));
        let io = Safetensors::open(folder.join("io.safetensors"));
        for (k, dtype) in whole_numbers(&meta["mixtures"]).into_iter().flat_map(|k| [(k, DType::F32), (k, DType::F64)])
        {
            let device = Device::default().autodiff();
            let mixture = LogisticMixture::of_bytes(k, 3);
            let target = pixels(&io, &format!("target_k{k}"), &device, dtype);
            let levels = io.i64(&format!("pixels_k{k}")).into_iter().map(|level| level as f64 / 127.5 - 1.0);
            assert_close(&values(target.clone()), &levels.collect::<Vec<_>>(), 1e-7, "target");
            let parameters = pixels(&io, &format!("params_k{k}"), &device, dtype).require_grad();
            assert_eq!(parameters.dims(), [whole(&meta, "rows"), mixture.parameters(), 1, 1]);

            let check = |name: &str, found: Vec<f64>| {
                let wanted = io.f64(&format!("{name}_k{k}_f64"));
                let tolerance = mixture_tolerance(&meta, &format!("{name}_k{k}"), dtype) * largest(&wanted);
                assert_close(&found, &wanted, tolerance, &format!("{name}_k{k} {dtype:?}"));
            };
            let log_prob = mixture.log_prob(parameters.clone(), target);
            check("log_prob", values(log_prob.clone()));
            let gradients = log_prob.sum().backward();
            check("grad_params", values(parameters.grad(&gradients).unwrap()));
            let uniforms = MixtureUniforms {
                mixture: pixels(&io, &format!("uniform_mixture_k{k}"), &device, dtype),
                logistic: pixels(&io, &format!("uniform_logistic_k{k}"), &device, dtype),
            };
            check("sample", values(mixture.sample(parameters.detach(), uniforms)));
        }
    }
}

/// The levels of a row of the table as one pixel.
fn row(values: &[f64], dtype: DType) -> Tensor<4> {
    let data = TensorData::new(values.to_vec(), [1, values.len(), 1, 1]);
    Tensor::from_data(data, (&Device::default(), dtype))
}

#[test]
fn discretized_logistics_are_those_of_the_exact_table() {
    for folder in vae_parts("table") {
        let table = read_json(folder.join("cases.json"));
        for (case, dtype) in cases(&table, "cases").iter().flat_map(|case| [(case, DType::F32), (case, DType::F64)]) {
            let (levels, wanted) = (whole(case, "levels"), number(case, "log_prob"));
            let x = row(&[2.0 * whole(case, "level") as f64 / (levels - 1) as f64 - 1.0], dtype);
            let [logits, means, log_scales] = ["logits", "means", "log_scales"].map(|key| numbers(&case[key]));
            let tolerance = match dtype {
                DType::F64 => number(&table, "tol_abs_f64"),
                _ => number(&table, "tol_relative_f32") * wanted.abs(),
            };
            let mixture = LogisticMixture { mixtures: logits.len(), channels: 1, levels, tails: Tails::Exact };
            let parameters = row(&[logits.as_slice(), &means, &log_scales].concat(), dtype);
            let found = values(mixture.log_prob(parameters, x.clone()));
            assert_close(&found, &[wanted], tolerance, &format!("{case} {dtype:?}"));
            if logits.len() == 1 {
                let likelihood = DiscretizedLogistic { levels };
                let found = values(likelihood.log_prob(x, row(&means, dtype), row(&log_scales, dtype)));
                assert_close(&found, &[wanted], tolerance, &format!("{case} {dtype:?}, alone"));
            }
        }
    }
}
