//! PyTorch's noise and the tables of diffusers in f32, over the fixtures.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ddpm_families::diffusers::scheduler_config::SchedulerConfig;
use ddpm_families::diffusers::tables::rounded;
use ddpm_sampling::torch_noise::TorchGenerator;
use ddpm_testing::support;
use support::*;

#[test]
fn tables_are_those_of_diffusers_to_the_last_bit() {
    let root = fixtures_dir().join("schedules");
    let index = &read_json(root.join("cases.json"))["diffusers_f32"];
    let file = Safetensors::open(root.join(text(index, "file")));
    for case in cases(index, "cases") {
        let mut json = case["config"].clone();
        // A class that knows every key; what is predicted does not matter here.
        json["_class_name"] = "DDPMScheduler".into();
        json["prediction_type"] = "v_prediction".into();
        let (betas, alphas_bar) = rounded(&SchedulerConfig::read(&json).unwrap().diffusion).unwrap();
        for (found, name) in [betas, alphas_bar].iter().zip(cases(case, "tensors")) {
            let wanted = file.f32(name.as_str().unwrap());
            // The last bit of exponentials and roots is another one in every version of torch.
            if json["beta_schedule"] == "sigmoid" || json["rescale_betas_zero_snr"] == true {
                let [found, wanted] =
                    [found, &wanted].map(|table| table.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
                assert_close(&found, &wanted, 1e-6, name.as_str().unwrap());
                continue;
            }
            let off = found.iter().zip(&wanted).position(|(f, w)| f.to_bits() != w.to_bits());
            let off = off.map(|step| (step, found[step], wanted[step]));
            assert_eq!((found.len(), off), (wanted.len(), None), "{name}");
        }
    }
}

#[test]
fn noise_is_that_of_torch() {
    let root = fixtures_dir().join("pipelines");
    for pipeline in cases(&read_json(root.join("index.json")), "pipelines") {
        let folder = root.join(text(pipeline, "folder"));
        let index = read_json(folder.join("cases.json"));
        let file = Safetensors::open(folder.join(text(&index, "noise_file")));
        let draws = [("x_T", "seed_x_T", 1), ("step_noise", "seed_step_noise", file.shape("step_noise")[0])];
        for (name, seed, count) in draws {
            let mut generator = TorchGenerator::new(index[seed].as_u64().unwrap());
            let wanted = file.f64(name);
            // One draw for every entry.
            for (entry, wanted) in wanted.chunks(wanted.len() / count).enumerate() {
                let found: Vec<f64> = generator.randn(wanted.len()).into_iter().map(f64::from).collect();
                assert_close(&found, wanted, 2e-6, &format!("{name} {entry}"));
            }
        }
    }
}
