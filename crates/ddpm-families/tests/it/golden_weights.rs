//! Weights that other projects wrote, read as they are: networks answer as theirs do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, bf16, f16};
use ddpm_families::diffusers::unet_config;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_model::unet::{Heads, UNetConfig};
use ddpm_testing::networks;
use ddpm_testing::support;
use ddpm_weights::names::deduce;
use ddpm_weights::{Dtype, Fault, QkvOrder, Scheme, Weights, WeightsError, load_into};
use networks::{Checkpoint, compare, network, parameters};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::*;

#[test]
fn every_unet_of_diffusers_answers_as_there() {
    let mut kinds = Vec::new();
    for model in models() {
        let scheme = Scheme::detect(&model.weights).unwrap();
        assert_eq!(model.weights.num_values(), whole(&model.meta, "params"), "{}", model.id);
        assert_eq!(model.weights.tensors().len(), whole(&model.meta, "tensors"), "{}", model.id);
        let network = network(&model.config, &model.weights, scheme, &Device::default());
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        for case in cases(&model.meta, "cases") {
            compare(&network, &io, case, &model.id);
        }
        kinds.push(format!("{}: {scheme}", model.id));
    }
    println!("{}", kinds.join("\n"));
}

#[test]
fn files_of_improved_diffusion_answer_as_there() {
    Checkpoint::all().iter().for_each(answers_as_there);
}

fn answers_as_there(checkpoint: &Checkpoint) {
    let Checkpoint { folder, meta, kwargs } = checkpoint;
    let weights = Weights::open(&checkpoint.weights()).unwrap();
    let shapes: HashMap<String, Vec<usize>> = serde_json::from_value(meta["state_dict"].clone()).unwrap();
    let found: HashMap<String, Vec<usize>> =
        weights.tensors().iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
    assert_eq!(found, shapes);

    let scheme = Scheme::detect(&weights).unwrap();
    assert_eq!(scheme, Scheme::OpenAi(QkvOrder::HeadByHead));
    let size = whole_numbers(&cases(meta, "cases")[0]["shape"])[2];
    let deduced = deduce(&weights, scheme).unwrap();
    let config = UNetConfig { heads: checkpoint.heads(), heads_up: checkpoint.heads_up(), ..deduced.at(size) };
    // What was read off the shapes is what the network was made with.
    assert_eq!(config.base_channels, whole(kwargs, "model_channels"));
    assert_eq!(config.multipliers, numbers(&kwargs["channel_mult"]));
    assert_eq!(config.blocks_per_level, whole(kwargs, "num_res_blocks"));
    assert_eq!(config.out_channels, whole(kwargs, "out_channels"));
    assert_eq!(config.classes, kwargs["num_classes"].as_u64().unwrap_or(0) as usize);
    let mut factors: Vec<usize> = deduced.attending.iter().map(|level| 1 << level).collect();
    factors.sort_unstable();
    let mut wanted = whole_numbers(&kwargs["attention_resolutions"]);
    wanted.retain(|&factor| factor < 1 << config.multipliers.len());
    wanted.sort_unstable();
    assert_eq!(factors, wanted);

    let network = network(&config, &weights, scheme, &Device::default());
    assert_eq!(network.num_params(), whole(meta, "params"));
    for case in cases(meta, "cases") {
        compare(&network, &checkpoint.io(), case, &folder.display().to_string());
    }
}

#[test]
fn files_of_pesser_and_guided_diffusion_answer_as_there() {
    let folder = peers();
    for model in cases(&read_json(folder.join("index.json")), "models") {
        let weights = Weights::open(&folder.join(text(model, "weights"))).unwrap();
        let detected = Scheme::detect(&weights).unwrap();
        let settings = &model["settings"];
        let scheme = match settings["new_attention_order"].as_bool() {
            Some(true) => Scheme::OpenAi(QkvOrder::Parted),
            _ => detected,
        };
        let mut config = deduce(&weights, scheme).unwrap().at(whole(model, "size"));
        if let Some(width) = settings["head_width"].as_u64() {
            config.heads = Heads::Width { width: width as usize };
        }
        let network = network(&config, &weights, scheme, &Device::default());
        assert_eq!(network.num_params(), whole(model, "params"));
        let io = Safetensors::open(folder.join(text(model, "io")));
        for case in cases(model, "cases") {
            compare(&network, &io, case, text(model, "id"));
        }
    }
}

#[test]
fn whatever_torch_saves_is_read_in_both_formats() {
    let folder = peers();
    let odd = read_json(folder.join("index.json"))["odd"].clone();
    for file in cases(&odd, "files") {
        let path = folder.join(file.as_str().unwrap());
        let said = Weights::open(&path).unwrap_err().to_string();
        for (entry, wanted) in odd["entries"].as_object().unwrap() {
            assert!(said.contains(entry), "{said}");
            let weights = Weights::open_entry(&path, Some(entry)).unwrap();
            let wanted = wanted.as_object().unwrap();
            assert_eq!(weights.tensors().keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            for (name, tensor) in weights.tensors() {
                let wanted = &wanted[name];
                assert_eq!(tensor.shape(), whole_numbers(&wanted["shape"]), "{name}");
                let values: Vec<f64> = tensor.read().unwrap().into_iter().map(f64::from).collect();
                assert_eq!(values, numbers(&wanted["values"]), "{name}");
                assert_eq!(DTYPES.iter().find(|pair| pair.0 == tensor.dtype()).unwrap().1, text(wanted, "dtype"));
            }
        }
        let averaged = Weights::open_entry(&path, Some("ema")).unwrap();
        assert_eq!(averaged.others(), ["decay"]);
        assert!(Weights::open_entry(&path, Some("no")).unwrap_err().to_string().contains("`state_dict`"));
    }
}

#[test]
fn shards_and_half_precisions_hold_the_same_network() {
    let model = models().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let stem = dir.path().join("diffusion_pytorch_model");
    let file = |ending: &str| PathBuf::from(format!("{}{ending}", stem.display()));
    let scheme = Scheme::detect(&model.weights).unwrap();
    let whole = parameters(&network(&model.config, &model.weights, scheme, &Device::default()));

    // Three shards and their index, each tensor in one of them.
    let mut map = BTreeMap::new();
    for shard in 0..3 {
        let name = format!("-{:05}-of-00003.safetensors", shard + 1);
        let own = model.weights.tensors().keys().enumerate().filter(|(i, _)| i % 3 == shard).map(|(_, key)| key);
        let own: Vec<&String> = own.collect();
        write(&file(&name), &model.weights, &own, Dtype::F32);
        map.extend(own.into_iter().map(|key| (key.clone(), format!("diffusion_pytorch_model{name}"))));
    }
    let index = file(".safetensors.index.json");
    let write_index = |map: &BTreeMap<String, String>| {
        std::fs::write(&index, json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()).unwrap();
    };
    write_index(&map);
    let sharded = Weights::find_in(dir.path(), None).unwrap();
    assert_eq!(sharded.path(), index);
    assert_eq!(parameters(&network(&model.config, &sharded, scheme, &Device::default())), whole);

    // The index and the shards must agree.
    let mut wrong = map.clone();
    let (first, _) = wrong.pop_first().unwrap();
    wrong.insert("invented".into(), "diffusion_pytorch_model-00001-of-00003.safetensors".into());
    write_index(&wrong);
    let said = Weights::open(&index).unwrap_err().to_string();
    assert!(said.contains("invented") && said.contains(&first), "{said}");
    wrong.insert("invented".into(), "../elsewhere.safetensors".into());
    write_index(&wrong);
    assert!(Weights::open(&index).unwrap_err().to_string().contains("not the name of a file beside it"));
    write_index(&map);

    // Halves round, and nothing else.
    let all: Vec<&String> = model.weights.tensors().keys().collect();
    let half: fn(f32) -> f32 = |value| f16::from_f32(value).to_f32();
    let brain: fn(f32) -> f32 = |value| bf16::from_f32(value).to_f32();
    for (variant, dtype, round) in [("fp16", Dtype::F16, half), ("bf16", Dtype::BF16, brain)] {
        write(&file(&format!(".{variant}.safetensors")), &model.weights, &all, dtype);
        let weights = Weights::find_in(dir.path(), Some(variant)).unwrap();
        assert_eq!(weights.dtypes(), BTreeMap::from([(dtype, all.len())]));
        let rounded: BTreeMap<String, Vec<f32>> = whole
            .iter()
            .map(|(key, values)| (key.clone(), values.iter().map(|&value| round(value)).collect()))
            .collect();
        assert_eq!(parameters(&network(&model.config, &weights, scheme, &Device::default())), rounded);
    }
    // The plain ones come first.
    assert_eq!(Weights::find_in(dir.path(), None).unwrap().path(), index);
}

#[test]
fn everything_that_does_not_fit_is_told_at_once_and_nothing_is_loaded() {
    let model = models().remove(0);
    let scheme = Scheme::detect(&model.weights).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut keys: Vec<&String> = model.weights.tensors().keys().collect();
    let missing = keys.remove(keys.iter().position(|key| *key == "conv_out.bias").unwrap());
    write(&path, &model.weights, &keys, Dtype::F32);
    // Another network for the same file: one shape differs and the middle attention has no place.
    let config = UNetConfig { out_channels: model.config.out_channels * 2, middle_attention: false, ..model.config };
    let mut network: Network = NetworkConfig::UNet(config).init(&Device::default());
    let before = parameters(&network);
    let WeightsError::Misfit { faults, .. } =
        load_into(&mut network, &Weights::open(&path).unwrap(), scheme).unwrap_err()
    else {
        panic!("the faults are listed")
    };
    assert!(faults.contains(&Fault::Missing(missing.clone())));
    assert!(faults.iter().any(|fault| matches!(fault, Fault::Misshapen { key, .. } if key == "conv_out.weight")));
    let unexpected =
        |fault: &&Fault| matches!(fault, Fault::Unexpected(key) if key.starts_with("mid_block.attentions.0."));
    let all = model.weights.tensors().keys().filter(|key| key.starts_with("mid_block.attentions.0.")).count();
    assert_eq!((faults.iter().filter(unexpected).count(), faults.len()), (all, all + 2));
    assert_eq!(parameters(&network), before);
}

/// One folder of `unet/`.
struct Model {
    id: String,
    folder: PathBuf,
    meta: Value,
    config: UNetConfig,
    weights: Weights,
}

/// All of them, whatever their files are.
fn models() -> Vec<Model> {
    let root = fixtures_dir().join("unet");
    let open = |entry: &Value| {
        let folder = root.join(text(entry, "folder"));
        let weights = Weights::find_in(&folder, None).unwrap();
        assert_eq!(weights.path(), folder.join(text(entry, "weights")));
        Model {
            id: text(entry, "id").to_string(),
            config: unet_config::read(&read_json(folder.join("config.json"))).unwrap().config,
            meta: read_json(folder.join("meta.json")),
            folder,
            weights,
        }
    };
    cases(&read_json(root.join("index.json")), "models").iter().map(open).collect()
}

/// With their names in PyTorch.
const DTYPES: [(Dtype, &str); 10] = [
    (Dtype::F64, "float64"),
    (Dtype::F32, "float32"),
    (Dtype::F16, "float16"),
    (Dtype::BF16, "bfloat16"),
    (Dtype::I64, "int64"),
    (Dtype::I32, "int32"),
    (Dtype::I16, "int16"),
    (Dtype::I8, "int8"),
    (Dtype::U8, "uint8"),
    (Dtype::Bool, "bool"),
];

/// What PyTorch and other projects saved for this test.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ddpm-weights/tests/peers")
}

/// Writes some of the weights, rounded to a dtype.
fn write(path: &Path, weights: &Weights, keys: &[&String], dtype: Dtype) {
    let bytes = |key: &String| -> Vec<u8> {
        let values = weights.tensors()[key].read().unwrap();
        match dtype {
            Dtype::F16 => values.into_iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::BF16 => values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
            _ => values.into_iter().flat_map(f32::to_le_bytes).collect(),
        }
    };
    let dtype = match dtype {
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::BF16 => safetensors::Dtype::BF16,
        _ => safetensors::Dtype::F32,
    };
    let data: Vec<(&String, Vec<usize>, Vec<u8>)> =
        keys.iter().map(|key| (*key, weights.shape(key).unwrap().to_vec(), bytes(key))).collect();
    let views = data.iter().map(|(key, shape, bytes)| (*key, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}
