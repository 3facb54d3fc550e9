//! Checkpoints of CSDI, whose names its network has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::Device;
use ddpm_model::csdi::CsdiConfig;
use ddpm_testing::support::{Safetensors, cases, fixture, read_json, whole};
use ddpm_weights::{Weights, load_own_names};

fn config(folder: &Path) -> CsdiConfig {
    let [meta, peer] = ["meta.json", "config.json"].map(|name| read_json(folder.join(name)));
    let (diffusion, model) = (&peer["diffusion"], &peer["model"]);
    CsdiConfig {
        variables: whole(&meta, "K"),
        layers: whole(diffusion, "layers"),
        channels: whole(diffusion, "channels"),
        heads: whole(diffusion, "nheads"),
        step_embedding: whole(diffusion, "diffusion_embedding_dim"),
        time_embedding: whole(model, "timeemb"),
        feature_embedding: whole(model, "featureemb"),
        unconditional: whole(model, "is_unconditional") == 1,
        linear_attention: diffusion["is_linear"].as_bool().unwrap(),
        steps: whole(diffusion, "num_steps"),
        ..CsdiConfig::default()
    }
}

fn models() -> Vec<PathBuf> {
    let root = fixture("series_csdi");
    let index = read_json(root.join("index.json"));
    cases(&index, "models").iter().map(|name| root.join(name.as_str().unwrap())).collect()
}

#[test]
fn checkpoints_of_csdi_are_loaded_by_name() {
    for folder in models() {
        let file = Safetensors::open(folder.join("weights.safetensors"));
        // The original saves the second; not every set of fixtures has it.
        let paths = ["weights.safetensors", "model.pth"].map(|name| folder.join(name));
        for path in paths.iter().filter(|path| path.is_file()) {
            let mut network = config(&folder).init(&Device::default()).unwrap();
            load_own_names(&mut network, &Weights::open(path).unwrap()).unwrap();
            let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
            assert_eq!(tensors.len(), file.names().len());
            for tensor in tensors {
                let values: Vec<f64> = bridge::into_data(tensor.clone()).unwrap().iter::<f64>().collect();
                assert_eq!(values, file.f64(&tensor.name), "{} {}", path.display(), tensor.name);
            }
        }
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused_with_its_keys() {
    let folder = models().remove(0);
    let own = config(&folder);
    let weights = Weights::open(&folder.join("weights.safetensors")).unwrap();
    let deeper = CsdiConfig { layers: own.layers + 1, ..own.clone() };
    let error = load_own_names(&mut deeper.init(&Device::default()).unwrap(), &weights).unwrap_err().to_string();
    let key = format!("diffmodel.residual_layers.{}.mid_projection.weight is missing", own.layers);
    assert!(error.contains(&key), "{error}");
}
