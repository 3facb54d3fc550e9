//! The U-Net against networks of diffusers: outputs, the sinusoids of the time, and all gradients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use ddpm_model::condition::Condition;
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::unet::{DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNet, UNetConfig};
use serde_json::Value;
use support::*;

/// The tolerance of outputs relative to the largest, where the fixture would allow more.
const MAX_TOLERANCE: f64 = 2e-5;

#[test]
fn outputs_are_those_of_diffusers() {
    for model in models() {
        let network = model.load(&Device::default());
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        let (mut worst, mut square) = (0.0_f64, true);
        for case in cases(&model.meta, "cases") {
            let found = values(model.forward(&network, &io, case, &Device::default()));
            let wanted = io.f64(text(case, "out_f64"));
            let scale = wanted.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
            let tolerance = number(case, "tol_abs_f32").min(MAX_TOLERANCE * scale);
            assert_close(&found, &wanted, tolerance, &format!("{} {}", model.id, text(case, "out")));
            let error = found.iter().zip(&wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
            worst = worst.max(error);
            let shape = whole_numbers(&case["shape"]);
            square &= shape[2] == shape[3];
        }
        println!("{}: off by {worst:.1e} at most, {}", model.id, if square { "square" } else { "also not square" });
    }
}

#[test]
fn sinusoids_are_those_of_diffusers() {
    let mut compared = 0;
    for model in models().into_iter().filter(|model| !model.meta["activations"].is_null()) {
        let activations = Safetensors::open(model.folder.join(text(&model.meta["activations"], "file")));
        let wanted = activations.f64("time_proj");
        let case = &cases(&model.meta, "cases")[0];
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        let t = io.tensor::<1>(text(case, "t"), &Device::default(), DType::F32).narrow(0, 0, 1);
        let found = values(model.config.embedding.embed(t, model.config.base_channels));
        // Times are up to a thousand radians, of which f32 keeps four decimals.
        assert_close(&found, &wanted, 1e-4, &model.id);
        compared += 1;
    }
    assert!(compared > 0, "no fixture has activations");
}

#[test]
fn gradients_are_those_of_diffusers() {
    let mut compared = 0;
    for model in models().into_iter().filter(|model| !model.meta["grad"].is_null()) {
        let device = Device::default().autodiff();
        let network = model.load(&device);
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        let target = Safetensors::open(model.folder.join(text(&model.meta["grad"], "target_file")));
        let wanted = Safetensors::open(model.folder.join(text(&model.meta["grad"], "grads_file")));

        let y = model.forward(&network, &io, &cases(&model.meta, "cases")[0], &device);
        let [target_name] = target.names().try_into().expect("one target");
        let loss = (y - target.tensor::<4>(&target_name, &device, DType::F32)).square().mean();
        let loss_value = f64::from(loss.clone().into_scalar::<f32>());
        assert_close(&[loss_value], &[number(&model.meta["grad"], "loss_f64")], 1e-5, &model.id);

        // The gradients, dressed as a network, leave under the names of diffusers.
        let grads = GradientsParams::from_grads(loss.backward(), &network);
        let mut missing = Vec::new();
        network.visit(&mut Ungraded { grads: &grads, missing: &mut missing });
        assert_eq!(missing, Vec::<String>::new(), "{}: parameters without a gradient", model.id);
        let found = exported(network.map(&mut IntoGradients { grads }));
        assert_eq!(found.names(), wanted.names(), "{}", model.id);

        for name in wanted.names() {
            let (found, wanted) = (found.f64(&name), wanted.f64(&name));
            assert_eq!(found.len(), wanted.len(), "{name}");
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let error = norm(&mut found.iter().zip(&wanted).map(|(f, w)| f - w));
            let allowed = 1e-4 * norm(&mut wanted.iter().copied()) + 1e-6 * (wanted.len() as f64).sqrt();
            assert!(error <= allowed, "{} {name}: off by {error:e}, allowed {allowed:e}", model.id);
        }
        compared += 1;
    }
    assert!(compared > 0, "no fixture has gradients");
}

#[test]
fn a_missing_or_foreign_key_is_an_error() {
    let model = models().remove(0);
    let shallow = UNetConfig { blocks_per_level: model.config.blocks_per_level + 1, ..model.config.clone() };
    let mut store = model.store();
    assert!(shallow.init(&Device::default()).load_from(&mut store).is_err(), "parameters are missing");
    let no_middle = UNetConfig { middle_attention: false, ..model.config.clone() };
    let unused = no_middle.init(&Device::default()).load_from(&mut model.store()).unwrap().unused;
    assert!(!unused.is_empty() && unused.iter().all(|key| key.starts_with("mid_block.attentions.0.")));
}

/// One folder of `unet/`.
struct Model {
    id: String,
    folder: std::path::PathBuf,
    weights: std::path::PathBuf,
    meta: Value,
    config: UNetConfig,
}

/// All models whose weights are safetensors.
fn models() -> Vec<Model> {
    let root = fixtures_dir().join("unet");
    let index = read_json(root.join("index.json"));
    let models: Vec<Model> = cases(&index, "models")
        .iter()
        .filter(|entry| text(entry, "weights").ends_with(".safetensors"))
        .map(|entry| Model::open(&root, entry))
        .collect();
    assert!(!models.is_empty(), "no model has safetensors");
    models
}

impl Model {
    fn open(root: &Path, entry: &Value) -> Self {
        let folder = root.join(text(entry, "folder"));
        let config = config_of(&read_json(folder.join("config.json")));
        let meta = read_json(folder.join("meta.json"));
        let model = Self {
            id: text(entry, "id").to_string(),
            weights: folder.join(text(entry, "weights")),
            folder,
            meta,
            config,
        };
        let shape = [model.config.in_channels, model.config.sample_size, model.config.sample_size];
        assert_eq!(model.config.problems(&shape), vec![], "{}", model.id);
        assert_eq!(model.config.init(&Device::default()).num_params(), whole(entry, "params"), "{}", model.id);
        model
    }

    fn store(&self) -> SafetensorsStore {
        SafetensorsStore::from_file(&self.weights)
            .with_from_adapter(PyTorchToBurnAdapter)
            .skip_enum_variants(true)
            .with_key_remapping(r"\.query\.", ".to_q.")
            .with_key_remapping(r"\.key\.", ".to_k.")
            .with_key_remapping(r"\.value\.", ".to_v.")
            .with_key_remapping(r"\.proj_attn\.", ".to_out.0.")
    }

    fn load(&self, device: &Device) -> UNet {
        let mut network = self.config.init(device);
        let result = network.load_from(&mut self.store()).unwrap();
        assert!(result.missing.is_empty() && result.errors.is_empty(), "{}: {result}", self.id);
        assert!(result.unused.is_empty(), "{}: unused {:?}", self.id, result.unused);
        assert_eq!(result.applied.len(), whole(&self.meta, "tensors"), "{}", self.id);
        network
    }

    fn forward(&self, network: &UNet, io: &Safetensors, case: &Value, device: &Device) -> Tensor<4> {
        let x = io.tensor::<4>(text(case, "x"), device, DType::F32);
        let t = io.tensor::<1>(text(case, "t"), device, DType::F32);
        let condition = match case["y"].as_str() {
            None => Condition::None,
            Some(name) => {
                let classes = TensorData::new(io.i64(name), io.shape(name));
                Condition::Class(Tensor::<1, Int>::from_data(classes, device))
            }
        };
        network.forward(x, t, &condition)
    }
}

/// A `config.json` of diffusers in our words. What it cannot say fails loudly.
fn config_of(json: &Value) -> UNetConfig {
    let one_of = |key: &str, allowed: &[Value]| {
        assert!(allowed.contains(&json[key]), "{key} = {} is not supported", json[key]);
    };
    one_of("_class_name", &["UNet2DModel".into()]);
    one_of("act_fn", &["silu".into()]);
    one_of("center_input_sample", &[Value::Null, false.into()]);
    one_of("class_embed_type", &[Value::Null]);
    one_of("mid_block_scale_factor", &[Value::Null, 1.into(), 1.0.into()]);
    one_of("mid_block_type", &[Value::Null, "UNetMidBlock2D".into()]);
    one_of("num_train_timesteps", &[Value::Null]);
    one_of("time_embedding_dim", &[Value::Null]);
    one_of("time_embedding_type", &[Value::Null, "positional".into()]);

    let channels = whole_numbers(&json["block_out_channels"]);
    let down = blocks(json, "down_block_types", "Down");
    let up = blocks(json, "up_block_types", "Up");
    let mirrored: Vec<_> = up.iter().rev().map(|block| block.attention).collect();
    let attention: Vec<_> = down.iter().map(|block| block.attention).collect();
    assert_eq!(attention, mirrored, "attention on the way down and up must be on the same levels");
    // The last block of either way does not resample.
    let resampling: Vec<Resampling> =
        [&down, &up].into_iter().flat_map(|way| way.iter().take(way.len() - 1).map(|block| block.resampling)).collect();
    let resampling = match resampling.first() {
        None => Resampling::Conv,
        Some(&first) => {
            assert!(resampling.iter().all(|&kind| kind == first), "mixed resampling is not supported");
            first
        }
    };

    let sample_size = whole(json, "sample_size");
    let time_shift = match json["resnet_time_scale_shift"].as_str() {
        None | Some("default") => TimeShift::Additive,
        Some("scale_shift") => TimeShift::ScaleShift,
        Some(other) => panic!("resnet_time_scale_shift = {other} is not supported"),
    };
    let flip = json.get("flip_sin_to_cos").is_none_or(|flip| flip.as_bool().unwrap());
    UNetConfig {
        in_channels: whole(json, "in_channels"),
        out_channels: whole(json, "out_channels"),
        sample_size,
        base_channels: channels[0],
        multipliers: channels.iter().map(|&c| c as f64 / channels[0] as f64).collect(),
        blocks_per_level: whole(json, "layers_per_block"),
        attention_resolutions: (0..channels.len())
            .filter(|&level| attention[level])
            .map(|level| sample_size >> level)
            .collect(),
        middle_attention: json["add_attention"].as_bool().unwrap_or(true),
        middle_attention_norm: match (json["attn_norm_num_groups"].as_u64(), time_shift) {
            (Some(groups), _) => MiddleNorm::Groups(groups as usize),
            (None, TimeShift::Additive) => MiddleNorm::Same,
            (None, TimeShift::ScaleShift) => MiddleNorm::None,
        },
        heads: match json.get("attention_head_dim") {
            // Absent is not null: the code's default is 8, null is one head.
            None => Heads::Width { width: 8 },
            Some(Value::Null) => Heads::Count(1),
            Some(width) => Heads::Width { width: width.as_u64().unwrap() as usize },
        },
        dropout: json["dropout"].as_f64().unwrap_or(0.0),
        norm_groups: json["norm_num_groups"].as_u64().unwrap_or(32) as usize,
        norm_eps: json["norm_eps"].as_f64().unwrap_or(1e-5),
        time_shift,
        resampling,
        downsample_padding: match json["downsample_padding"].as_u64().unwrap_or(1) {
            0 => DownsamplePadding::RightBottom,
            1 => DownsamplePadding::Symmetric,
            other => panic!("downsample_padding = {other} is not supported"),
        },
        embedding: SinusoidConfig {
            order: if flip { SinusoidOrder::CosSin } else { SinusoidOrder::SinCos },
            frequency_shift: json["freq_shift"].as_u64().unwrap_or(0) as usize,
        },
        classes: json["num_class_embeds"].as_u64().unwrap_or(0) as usize,
        null_class: false,
    }
}

struct Block {
    attention: bool,
    resampling: Resampling,
}

/// The blocks of one way, `Down` or `Up`.
fn blocks(json: &Value, key: &str, way: &str) -> Vec<Block> {
    let plain = format!("{way}Block2D");
    let attention = format!("Attn{way}Block2D");
    let residual = format!("Resnet{way}sampleBlock2D");
    let of_attention = match json[format!("{}sample_type", way.to_lowercase())].as_str() {
        None | Some("conv") => Resampling::Conv,
        Some("resnet") => Resampling::Residual,
        Some(other) => panic!("{way}: sample_type {other} is not supported"),
    };
    cases(json, key)
        .iter()
        .map(|name| match name.as_str().unwrap() {
            name if name == plain => Block { attention: false, resampling: Resampling::Conv },
            name if name == attention => Block { attention: true, resampling: of_attention },
            name if name == residual => Block { attention: false, resampling: Resampling::Residual },
            name => panic!("{key}: a block {name} is not supported"),
        })
        .collect()
}

/// The network's parameters under the names, and in the layout, of diffusers.
fn exported(network: UNet) -> Safetensors {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ddpm-golden-{}-{count}.safetensors", std::process::id()));
    let mut store = SafetensorsStore::from_file(&path)
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true)
        .overwrite(true);
    network.save_into(&mut store).unwrap();
    let file = Safetensors::open(&path);
    std::fs::remove_file(&path).unwrap();
    file
}

/// Collects the parameters that have no gradient.
struct Ungraded<'a> {
    grads: &'a GradientsParams,
    missing: &'a mut Vec<String>,
}

impl ModuleVisitor for Ungraded<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.grads.get::<D>(param.id).is_none() {
            self.missing.push(format!("{:?}", param.id));
        }
    }
}

/// Puts each parameter's gradient in its place.
struct IntoGradients {
    grads: GradientsParams,
}

impl burn::module::ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let grad = self.grads.remove::<D>(param.id).expect("every parameter has a gradient");
        Param::initialized(param.id, grad)
    }
}
