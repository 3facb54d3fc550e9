//! Models of the original programs of CSDI and SSSD: most sizes of their networks follow from the tensors of their state dicts.

use burn::tensor::Device;
use ddpm_data::DataInfo;
use ddpm_model::csdi::CsdiConfig;
use ddpm_model::sssd::SssdConfig;
use ddpm_weights::{Weights, load_own_names};

use super::MaskedFamily;
use super::network::{MaskedNetwork, MaskedNetworkConfig};
use super::tables::MaskedTables;
use crate::family::{AnyError, Origin};

/// The first residual layer of CSDI, and the S4 kernel of the first residual block of SSSD.
const CSDI_LAYER: &str = "diffmodel.residual_layers.0";
const S4_KERNEL: &str = "residual_layer.residual_blocks.0.S41.s4_layer.kernel.kernel";

/// The network that the names and shapes of a state dict are of, as far as they say it: the heads of CSDI they do not.
pub fn network_of(weights: &Weights) -> Option<MaskedNetworkConfig> {
    csdi(weights).map(MaskedNetworkConfig::Csdi).or_else(|| sssd(weights).map(MaskedNetworkConfig::Sssd))
}

/// The family and the model of a state dict.
pub fn read_foreign(
    weights: Weights,
    tables: MaskedTables,
    data: DataInfo,
    device: &Device,
) -> Result<(MaskedFamily, MaskedNetwork), AnyError> {
    let path = weights.path();
    let experiment = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let family = MaskedFamily::new(tables, Origin { experiment, data, source: None }).map_err(|problems| {
        let all: Vec<String> = problems.into_iter().map(|(key, message)| format!("{key}: {message}")).collect();
        format!("{}: {}", path.display(), all.join("; "))
    })?;
    let mut model = family.tables.model.init(device)?;
    let weights = weights.without(is_computed);
    match &mut model {
        MaskedNetwork::Csdi(network) => load_own_names(network, &weights)?,
        MaskedNetwork::Sssd(network) => load_own_names(network, &weights)?,
    }
    Ok((family, model))
}

/// Whether a tensor of a state dict of SSSD is no parameter: nodes of a Fourier transform.
fn is_computed(name: &str) -> bool {
    name.ends_with(".kernel.omega") || name.ends_with(".kernel.z")
}

/// How many modules are numbered by this name.
fn count(weights: &Weights, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|k| weights.shape(&name(*k)).is_some()).count()
}

fn csdi(weights: &Weights) -> Option<CsdiConfig> {
    let size = |name: &str, axis: usize| weights.shape(name)?.get(axis).copied();
    let of_layer = |name: &str, axis: usize| size(&format!("{CSDI_LAYER}.{name}"), axis);
    let is_softmax = of_layer("time_layer.layers.0.self_attn.in_proj_weight", 0).is_some();
    let feature_layers = ["feature_layer.layers.0.linear1.weight", "feature_layer.layers.layers.0.0.norm.weight"];
    let unconditional = size("diffmodel.input_projection.weight", 1)? == 1;
    let feature_embedding = size("embed_layer.weight", 1)?;
    let side = feature_embedding + usize::from(!unconditional);
    Some(CsdiConfig {
        variables: size("embed_layer.weight", 0)?,
        layers: count(weights, |layer| format!("diffmodel.residual_layers.{layer}.mid_projection.weight")),
        channels: size("diffmodel.input_projection.weight", 0)?,
        step_embedding: size("diffmodel.diffusion_embedding.projection1.weight", 1)?,
        time_embedding: of_layer("cond_projection.weight", 1)?.checked_sub(side)?,
        feature_embedding,
        unconditional,
        feature_layer: feature_layers.iter().any(|name| of_layer(name, 0).is_some()),
        linear_attention: !is_softmax,
        ..CsdiConfig::default()
    })
}

fn sssd(weights: &Weights) -> Option<SssdConfig> {
    let size = |name: &str, axis: usize| weights.shape(name)?.get(axis).copied();
    let kernel = |name: &str, axis: usize| size(&format!("{S4_KERNEL}.{name}"), axis);
    Some(SssdConfig {
        in_channels: size("init_conv.0.conv.weight_v", 1)?,
        out_channels: size("final_conv.2.conv.weight", 0)?,
        // The nodes are those of a real transform.
        length: kernel("omega", 0).map_or(0, |nodes| 2 * nodes.saturating_sub(1)),
        residual_channels: size("init_conv.0.conv.weight_v", 0)?,
        skip_channels: size("final_conv.0.conv.weight_v", 0)?,
        layers: count(weights, |block| format!("residual_layer.residual_blocks.{block}.fc_t.weight")),
        step_sinusoids: size("residual_layer.fc_t1.weight", 1)?,
        step_hidden: size("residual_layer.fc_t1.weight", 0)?,
        step_features: size("residual_layer.fc_t2.weight", 0)?,
        states: 2 * kernel("C", 2)?,
        bidirectional: kernel("C", 0)? == 2,
        layer_norm: size("residual_layer.residual_blocks.0.S41.norm_layer.weight", 0).is_some(),
        ..SssdConfig::default()
    })
}
