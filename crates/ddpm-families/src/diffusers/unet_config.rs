//! `config.json` of a `UNet2DModel` and [`UNetConfig`], in both directions.
//!
//! A key that is absent means what diffusers' code has as its default, which is not always the paper's choice.

use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::{DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNetConfig};
use serde_json::{Value, json};

use super::json::Keys;
use super::{DiffusersError, VERSION};

/// The class of a U-Net without tokens.
pub const CLASS: &str = "UNet2DModel";
/// No real file comes near these; larger claims are refused before memory is taken.
pub(super) const MOST_LEVELS: usize = 16;
pub(super) const MOST_BLOCKS: usize = 64;
pub(super) const MOST_CHANNELS: usize = 1 << 16;
pub(crate) const MOST_PIXELS: usize = 1 << 16;
const MOST_CLASSES: usize = 1 << 24;

const KNOWN: [&str; 30] = [
    "act_fn",
    "add_attention",
    "attention_head_dim",
    "attn_norm_num_groups",
    "block_out_channels",
    "center_input_sample",
    "class_embed_type",
    "down_block_types",
    "downsample_padding",
    "downsample_type",
    "dropout",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "mid_block_type",
    "norm_eps",
    "norm_num_groups",
    "num_class_embeds",
    "num_train_timesteps",
    "out_channels",
    "resnet_time_scale_shift",
    "sample_size",
    "time_embedding_dim",
    "time_embedding_type",
    "up_block_types",
    "upsample_type",
    // Of diffusers' first releases, without a meaning today.
    "resnet_act_fn",
    "num_head_channels",
];

/// A U-Net and the height and width of what it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetFile {
    /// The network.
    pub config: UNetConfig,
    /// Height and width of the images.
    pub size: [usize; 2],
}

/// A `config.json` in our words.
///
/// All rows of a table of classes are taken for classes: that one of them stands for none, diffusers cannot say.
pub fn read(json: &Value) -> Result<UNetFile, DiffusersError> {
    let keys = Keys::of(json)?;
    keys.word("_class_name", None, &[(CLASS, ())])?;
    keys.only(&KNOWN)?;
    keys.word("act_fn", Some(()), &[("silu", ()), ("swish", ())])?;
    keys.must_be("center_input_sample", false)?;
    keys.must_be("class_embed_type", Value::Null)?;
    keys.must_be("mid_block_scale_factor", 1)?;
    keys.must_be("time_embedding_dim", Value::Null)?;
    keys.must_be("time_embedding_type", "positional")?;
    keys.must_be("num_train_timesteps", Value::Null)?;
    if keys.has("mid_block_type") && keys.get("mid_block_type").is_null() {
        let expected = "UNetMidBlock2D: a U-Net without a middle is not supported".into();
        return Err(DiffusersError::Value { key: "mid_block_type".into(), found: "null".into(), expected });
    }
    keys.must_be("mid_block_type", "UNetMidBlock2D")?;

    let channels = channels(keys)?;
    let way = |way: Way| -> Result<Vec<Block>, DiffusersError> {
        let blocks = way.blocks(keys)?;
        match blocks.len() == channels.len() {
            true => Ok(blocks),
            false => Err(keys.refuse(way.types(), &format!("{} blocks, as block_out_channels has", channels.len()))),
        }
    };
    let (down, up) = (way(Way::Down)?, way(Way::Up)?);
    let attention: Vec<bool> = down.iter().map(|block| block.attention).collect();
    if !up.iter().rev().map(|block| block.attention).eq(attention.iter().copied()) {
        return Err(keys.refuse("up_block_types", "attention on the levels that have it in down_block_types"));
    }
    // The last block of either way does not resample, whatever its name says.
    let resamplers = [&down, &up].into_iter().flat_map(|way| way.iter().take(way.len() - 1));
    let resampling: Vec<Resampling> = resamplers.map(|block| block.resampling).collect();
    if resampling.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(keys.refuse("down_block_types", "one way of resampling on all levels, up and down"));
    }

    let size = sample_size(keys)?;
    let time_shift = keys.word(
        "resnet_time_scale_shift",
        Some(TimeShift::Additive),
        &[("default", TimeShift::Additive), ("scale_shift", TimeShift::ScaleShift)],
    )?;
    let attention_groups = match keys.get("attn_norm_num_groups") {
        Value::Null => None,
        _ => Some(keys.whole("attn_norm_num_groups", None, MOST_CHANNELS)?),
    };
    let flipped = keys.flag("flip_sin_to_cos", true)?;
    let config = UNetConfig {
        in_channels: keys.whole("in_channels", Some(3), MOST_CHANNELS)?,
        out_channels: keys.whole("out_channels", Some(3), MOST_CHANNELS)?,
        sample_size: size[0],
        base_channels: channels[0],
        multipliers: channels.iter().map(|&count| count as f64 / channels[0] as f64).collect(),
        blocks_per_level: keys.whole("layers_per_block", Some(2), MOST_BLOCKS)?,
        attention_resolutions: (0..channels.len()).filter(|&l| attention[l]).map(|l| size[0] >> l).collect(),
        middle_attention: keys.flag("add_attention", true)?,
        middle_attention_norm: match (attention_groups, time_shift) {
            (Some(groups), _) => MiddleNorm::Groups(groups),
            (None, TimeShift::Additive) => MiddleNorm::Same,
            (None, TimeShift::ScaleShift) => MiddleNorm::None,
        },
        heads: match (keys.has("attention_head_dim"), keys.get("attention_head_dim")) {
            // Absent is not null: the code's default is 8, null is one head.
            (true, Value::Null) => Heads::Count(1),
            _ => Heads::Width { width: keys.whole("attention_head_dim", Some(8), MOST_CHANNELS)? },
        },
        heads_up: None,
        dropout: keys.number("dropout", 0.0)?,
        norm_groups: keys.whole("norm_num_groups", Some(32), MOST_CHANNELS)?,
        norm_eps: keys.number("norm_eps", 1e-5)?,
        time_shift,
        resampling: resampling.first().copied().unwrap_or(Resampling::Conv),
        downsample_padding: match keys.whole("downsample_padding", Some(1), 1)? {
            0 => DownsamplePadding::RightBottom,
            _ => DownsamplePadding::Symmetric,
        },
        embedding: SinusoidConfig {
            order: if flipped { SinusoidOrder::CosSin } else { SinusoidOrder::SinCos },
            frequency_shift: keys.whole("freq_shift", Some(0), 1)?,
        },
        classes: keys.whole("num_class_embeds", Some(0), MOST_CLASSES)?,
        null_class: false,
        augment_dim: 0,
        cross_attention: None,
    };
    let shape = [config.in_channels, size[0], size[1]];
    NetworkConfig::UNet(config.clone()).validate(&shape)?;
    Ok(UNetFile { config, size })
}

/// Our words as a `config.json`, or why there is none.
pub fn write(config: &UNetConfig, size: [usize; 2]) -> Result<Value, String> {
    if config.augment_dim > 0 {
        return Err("it was told how its training pictures were changed (augment.probability)".into());
    }
    if config.cross_attention.is_some() {
        return Err("it attends to the tokens of a condition (model.cross_attention)".into());
    }
    let channels = config.level_channels();
    if channels.first() != Some(&config.base_channels) {
        return Err("its first level has other channels than its first convolution (model.multipliers)".into());
    }
    let attention_groups = match (config.middle_attention_norm, config.time_shift) {
        (MiddleNorm::Same, TimeShift::Additive) | (MiddleNorm::None, TimeShift::ScaleShift) => None,
        (MiddleNorm::Same, TimeShift::ScaleShift) => Some(config.norm_groups),
        (MiddleNorm::Groups(groups), _) => Some(groups),
        (MiddleNorm::None, TimeShift::Additive) if !config.middle_attention => None,
        (MiddleNorm::None, TimeShift::Additive) => {
            return Err("its middle attention has no normalisation (model.middle_attention_norm)".into());
        }
    };
    let (kind, residual) = match config.resampling {
        Resampling::Conv => ("conv", false),
        Resampling::Residual => ("resnet", true),
    };
    let name = |way: Way, level: usize| match (config.attends(level), residual) {
        (true, _) => way.attention(),
        (false, true) => way.residual(),
        (false, false) => way.plain(),
    };
    let levels = 0..channels.len();
    Ok(json!({
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "add_attention": config.middle_attention,
        "attention_head_dim": head_width(config, &channels)?,
        "attn_norm_num_groups": attention_groups,
        "block_out_channels": channels,
        "center_input_sample": false,
        "class_embed_type": null,
        "down_block_types": levels.clone().map(|level| name(Way::Down, level)).collect::<Vec<_>>(),
        "downsample_padding": match config.downsample_padding {
            DownsamplePadding::RightBottom => 0,
            DownsamplePadding::Symmetric => 1,
        },
        "downsample_type": kind,
        "dropout": config.dropout,
        "flip_sin_to_cos": config.embedding.order == SinusoidOrder::CosSin,
        "freq_shift": config.embedding.frequency_shift,
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks_per_level,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2D",
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "num_class_embeds": (config.classes > 0).then_some(config.classes + usize::from(config.null_class)),
        "num_train_timesteps": null,
        "out_channels": config.out_channels,
        "resnet_time_scale_shift": match config.time_shift {
            TimeShift::Additive => "default",
            TimeShift::ScaleShift => "scale_shift",
        },
        "sample_size": if size[0] == size[1] { json!(size[0]) } else { json!(size) },
        "time_embedding_dim": null,
        "time_embedding_type": "positional",
        "up_block_types": levels.rev().map(|level| name(Way::Up, level)).collect::<Vec<_>>(),
        "upsample_type": kind,
    }))
}

/// `attention_head_dim`: one width for all levels, or none for one head on each.
fn head_width(config: &UNetConfig, channels: &[usize]) -> Result<Option<usize>, String> {
    let attending = (0..channels.len()).filter(|&level| config.attends(level)).map(|level| channels[level]);
    let [down, up] = [config.heads, config.heads_on_the_way_up()];
    if attending.clone().any(|channels| down.count(channels) != up.count(channels)) {
        return Err(format!("it has {down} on the way down and {up} on the way up (model.heads_up)"));
    }
    let mut wide: Vec<usize> = attending.chain(channels.last().copied().filter(|_| config.middle_attention)).collect();
    wide.sort_unstable();
    wide.dedup();
    match (config.heads, wide.as_slice()) {
        (Heads::Width { width }, _) => Ok(Some(width)),
        (Heads::Count(1), _) | (_, []) => Ok(None),
        (Heads::Count(count), [channels]) => Ok(Some(channels / count)),
        (Heads::Count(count), _) => {
            Err(format!("it has {count} heads on levels of {wide:?} channels, and a width of heads cannot say that"))
        }
    }
}

fn channels(keys: Keys<'_>) -> Result<Vec<usize>, DiffusersError> {
    const DEFAULT: [usize; 4] = [224, 448, 672, 896];
    keys.wholes("block_out_channels", &DEFAULT, MOST_LEVELS, [1, MOST_CHANNELS])
}

/// A number for squares, or height and width.
pub(super) fn sample_size(keys: Keys<'_>) -> Result<[usize; 2], DiffusersError> {
    let expected = format!("height and width of the images, from 1 to {MOST_PIXELS}, as one number or two");
    let pixels = |value: &Value| value.as_u64().map(|p| p as usize).filter(|p| (1..=MOST_PIXELS).contains(p));
    let size = match keys.get("sample_size") {
        Value::Array(both) => match both.as_slice() {
            [height, width] => pixels(height).zip(pixels(width)),
            _ => None,
        },
        one => pixels(one).map(|size| (size, size)),
    };
    size.map(|(height, width)| [height, width]).ok_or_else(|| keys.refuse("sample_size", &expected))
}

/// One of the blocks by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Block {
    attention: bool,
    resampling: Resampling,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Down,
    Up,
}

impl Way {
    fn types(self) -> &'static str {
        if self == Self::Down { "down_block_types" } else { "up_block_types" }
    }

    fn plain(self) -> &'static str {
        if self == Self::Down { "DownBlock2D" } else { "UpBlock2D" }
    }

    fn attention(self) -> &'static str {
        if self == Self::Down { "AttnDownBlock2D" } else { "AttnUpBlock2D" }
    }

    fn residual(self) -> &'static str {
        if self == Self::Down { "ResnetDownsampleBlock2D" } else { "ResnetUpsampleBlock2D" }
    }

    fn blocks(self, keys: Keys<'_>) -> Result<Vec<Block>, DiffusersError> {
        let kind = if self == Self::Down { "downsample_type" } else { "upsample_type" };
        // Only blocks with attention ask for it; the others have it in their name.
        let of_attention =
            keys.word(kind, Some(Resampling::Conv), &[("conv", Resampling::Conv), ("resnet", Resampling::Residual)])?;
        let plain = Block { attention: false, resampling: Resampling::Conv };
        let attention = Block { attention: true, resampling: of_attention };
        if !keys.has(self.types()) {
            let mut blocks = vec![plain, attention, attention, attention];
            if self == Self::Up {
                blocks.reverse();
            }
            return Ok(blocks);
        }
        let named = |value: &Value| match value.as_str() {
            Some(name) if name == self.plain() => Some(plain),
            Some(name) if name == self.attention() => Some(attention),
            Some(name) if name == self.residual() => Some(Block { attention: false, resampling: Resampling::Residual }),
            _ => None,
        };
        let blocks: Option<Vec<Block>> = keys.list(self.types(), MOST_LEVELS)?.iter().map(named).collect();
        let expected = || format!("{}, {}, {}", self.plain(), self.attention(), self.residual());
        blocks.ok_or_else(|| keys.refuse(self.types(), &expected()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cifar10() -> Value {
        write(&UNetConfig::cifar10(), [32, 32]).unwrap()
    }

    /// The file of google/ddpm-cifar10-32, as its page has it.
    #[test]
    fn the_papers_network_is_written_as_its_publishers_did() {
        let json = cifar10();
        assert_eq!(json["block_out_channels"], json!([128, 256, 256, 256]));
        assert_eq!(json["down_block_types"], json!(["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]));
        assert_eq!(json["up_block_types"], json!(["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]));
        for (key, value) in [
            ("attention_head_dim", Value::Null),
            ("downsample_padding", json!(0)),
            ("flip_sin_to_cos", json!(false)),
            ("freq_shift", json!(1)),
            ("norm_eps", json!(1e-6)),
            ("sample_size", json!(32)),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        let back = read(&json).unwrap();
        assert_eq!((back.config, back.size), (UNetConfig { null_class: false, ..UNetConfig::cifar10() }, [32, 32]));
    }

    #[test]
    fn absent_keys_are_the_peers_defaults() {
        let file = read(&json!({"_class_name": "UNet2DModel", "sample_size": [64, 32]})).unwrap();
        let config = file.config;
        assert_eq!(file.size, [64, 32]);
        assert_eq!(config.level_channels(), [224, 448, 672, 896]);
        assert_eq!(config.attention_resolutions, [32, 16, 8]);
        assert_eq!((config.heads, config.norm_eps), (Heads::Width { width: 8 }, 1e-5));
        assert_eq!(config.downsample_padding, DownsamplePadding::Symmetric);
        assert_eq!(config.embedding, SinusoidConfig::improved());
    }

    #[test]
    fn what_has_no_word_here_is_refused_by_name() {
        let refuse = |key: &str, value: Value, parts: &[&str]| {
            let mut json = cifar10();
            json[key] = value;
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains(key) && parts.iter().all(|part| message.contains(part)), "{message}");
        };
        refuse("_class_name", json!("UNet2DConditionModel"), &["UNet2DConditionModel", CLASS]);
        refuse("act_fn", json!("gelu"), &["gelu", "silu"]);
        refuse("time_embedding_type", json!("fourier"), &["fourier", "positional"]);
        refuse("class_embed_type", json!("timestep"), &["timestep"]);
        refuse("mid_block_type", Value::Null, &["null", "UNetMidBlock2D"]);
        refuse("mid_block_scale_factor", json!(1.4), &["1.4"]);
        refuse("down_block_types", json!(vec!["SkipDownBlock2D"; 4]), &["SkipDownBlock2D", "AttnDownBlock2D"]);
        refuse("up_block_types", json!(vec!["UpBlock2D"; 4]), &["attention on the levels"]);
        refuse("up_block_types", json!(vec!["UpBlock2D"; 3]), &["4 blocks"]);
        refuse("down_block_types", json!([]), &["1 to 16"]);
        refuse("block_out_channels", json!([128, 0, 256, 256]), &["from 1"]);
        refuse("block_out_channels", json!([1e15 as u64]), &["65536"]);
        refuse("layers_per_block", json!(1u64 << 40), &["up to 64"]);
        refuse("layers_per_block", json!(-1), &["-1"]);
        refuse("sample_size", Value::Null, &["height and width"]);
        refuse("sample_size", json!("big"), &["big"]);
        refuse("downsample_padding", json!(2), &["2"]);
        refuse("num_class_embeds", json!(1e18), &["num_class_embeds"]);
        refuse("quantum", json!(1), &["not known"]);
        let mut mixed = cifar10();
        mixed["down_block_types"][0] = json!("ResnetDownsampleBlock2D");
        assert!(read(&mixed).unwrap_err().to_string().contains("one way of resampling"));
        let mut odd = cifar10();
        odd["norm_num_groups"] = json!(48);
        assert!(read(&odd).unwrap_err().to_string().contains("norm_groups"));
    }

    #[test]
    fn what_the_peer_has_no_word_for_says_so() {
        let cannot = |config: UNetConfig, part: &str| {
            let reason = write(&config, [32, 32]).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        };
        let base = UNetConfig::cifar10;
        cannot(UNetConfig { multipliers: vec![2.0, 2.0], ..base() }, "multipliers");
        cannot(UNetConfig { middle_attention_norm: MiddleNorm::None, ..base() }, "no normalisation");
        let heads = UNetConfig { heads: Heads::Count(4), attention_resolutions: vec![32, 16], ..base() };
        cannot(heads, "4 heads on levels of [128, 256]");
        let ways = UNetConfig { heads: Heads::Count(2), heads_up: Some(Heads::Count(4)), ..base() };
        cannot(ways, "2 heads on the way down and 4 heads on the way up (model.heads_up)");
        // Said twice, or said where there is no attention, they are the same on both ways.
        let twice = UNetConfig { heads: Heads::Count(4), heads_up: Some(Heads::Width { width: 64 }), ..base() };
        assert_eq!(write(&twice, [32, 32]).unwrap()["attention_head_dim"], 64);
        let nowhere = UNetConfig { heads_up: Some(Heads::Count(4)), attention_resolutions: vec![], ..base() };
        assert_eq!(write(&nowhere, [32, 32]).unwrap()["attention_head_dim"], Value::Null);
        // Four heads on levels of one width are heads of one width.
        let same = UNetConfig { heads: Heads::Count(4), ..base() };
        assert_eq!(write(&same, [32, 32]).unwrap()["attention_head_dim"], 64);
        let classes = UNetConfig { classes: 10, ..base() };
        assert_eq!(write(&classes, [32, 32]).unwrap()["num_class_embeds"], 11);
    }
}
