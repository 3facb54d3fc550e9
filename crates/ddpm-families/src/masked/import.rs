//! Checkpoints that CSDI's and SSSD's own code has written, as models of this family.

use burn::tensor::Device;
use ddpm_data::series::SeriesInfo;
use ddpm_data::{DataInfo, Units};
use ddpm_model::csdi::CsdiConfig;
use ddpm_model::sssd::SssdConfig;
use ddpm_weights::{Weights, load_own_names};
use toml::{Table, Value};

use super::network::{MaskedNetwork, MaskedNetworkConfig};
use super::{MaskedFamily, MaskedTables};
use crate::family::{AnyError, Family, Origin};
use crate::parameters::settle;

/// Nodes of a Fourier transform that SSSD's checkpoints hold, and its networks do not need.
const NODES: [&str; 2] = [".omega", ".z"];

/// What a checkpoint does not say.
#[derive(Clone, Debug, Default)]
pub struct ImportSettings {
    /// The sections `[model]`, `[diffusion]` and `[masked]`: keys that are found in the weights can be left out.
    pub sections: Table,
    /// Steps of a window; where SSSD's weights say it, it can be left out.
    pub length: Option<usize>,
    /// The way from the values of the network to those of the data; none: they are the same.
    pub units: Option<Units>,
    /// What the model is called.
    pub name: String,
}

/// Which network's own checkpoint these weights are: `"csdi"` or `"sssd"`.
pub fn kind_of(weights: &Weights) -> Option<&'static str> {
    let has = |name: &str| weights.shape(name).is_some();
    if has("diffmodel.input_projection.weight") {
        Some("csdi")
    } else if has("residual_layer.residual_blocks.0.res_conv.weight_v") {
        Some("sssd")
    } else {
        None
    }
}

/// The model of a checkpoint. [`Family::save`] makes a snapshot of it.
pub fn import(
    weights: Weights,
    settings: ImportSettings,
    device: &Device,
) -> Result<(MaskedFamily, MaskedNetwork), AnyError> {
    let path = weights.path().display().to_string();
    let (found, shape) = match kind_of(&weights) {
        Some("csdi") => {
            let config = csdi_of(&weights).ok_or_else(|| format!("{path}: not all of a network of CSDI"))?;
            let length = settings.length.ok_or("the file does not contain the length of the windows")?;
            let shape = [config.variables, length];
            (MaskedNetworkConfig::Csdi(config), shape)
        }
        Some(_) => {
            let config = sssd_of(&weights).ok_or_else(|| format!("{path}: not all of a network of SSSD"))?;
            let shape = [config.in_channels, settings.length.unwrap_or(config.length)];
            (MaskedNetworkConfig::Sssd(config), shape)
        }
        None => return Err(format!("{path}: neither the names of CSDI nor those of SSSD").into()),
    };
    let tables = tables(&found, settings.sections)?;
    let units = settings.units.unwrap_or_else(|| Units::identity(shape[0]));
    let family = MaskedFamily::restored(tables, origin(shape, units, settings.name))?;
    let mut network = settle(family.init(device));
    let weights = weights.without(|name| NODES.iter().any(|node| name.ends_with(node)));
    match &mut network {
        MaskedNetwork::Csdi(network) => load_own_names(network, &weights)?,
        MaskedNetwork::Sssd(network) => load_own_names(network, &weights)?,
    }
    Ok((family, network))
}

/// The sections that were given, with the network that was found where they do not say otherwise.
fn tables(found: &MaskedNetworkConfig, mut sections: Table) -> Result<MaskedTables, AnyError> {
    let model = sections.entry("model").or_insert(Table::new().into());
    let (Value::Table(model), Value::Table(found)) = (model, Value::try_from(found)?) else {
        return Err("model: expected a table".into());
    };
    for (key, value) in found {
        model.entry(key).or_insert(value);
    }
    let tables = MaskedFamily::read(sections)?;
    match MaskedFamily::problems(&tables).into_iter().next() {
        Some((key, message)) => Err(format!("{key}: {message}").into()),
        None => Ok(tables),
    }
}

fn origin([variables, length]: [usize; 2], units: Units, experiment: String) -> Origin {
    let none = || vec![None; variables];
    let series = SeriesInfo {
        variables: (0..variables).map(|number| number.to_string()).collect(),
        frequency: None,
        covariates: Vec::new(),
        covariate_units: Units::identity(0),
        lowest: none(),
        highest: none(),
    };
    let shape = vec![variables, length];
    let data = DataInfo { name: "series".into(), shape, classes: Vec::new(), units, series: Some(series) };
    Origin { experiment, data, source: None }
}

/// How many layers there are with this part, of names that begin and end like this.
fn count(weights: &Weights, start: &str, end: &str) -> usize {
    (0..).take_while(|number| weights.shape(&format!("{start}.{number}.{end}")).is_some()).count()
}

/// The network of CSDI that the weights are of. The number of heads is not in them.
fn csdi_of(weights: &Weights) -> Option<CsdiConfig> {
    let size = |name: &str, axis: usize| weights.shape(name)?.get(axis).copied();
    let layer = "diffmodel.residual_layers.0";
    let feature_embedding = size("embed_layer.weight", 1)?;
    let unconditional = size("diffmodel.input_projection.weight", 1)? == 1;
    let side = size(&format!("{layer}.cond_projection.weight"), 1)?;
    Some(CsdiConfig {
        variables: size("embed_layer.weight", 0)?,
        layers: count(weights, "diffmodel.residual_layers", "mid_projection.weight"),
        channels: size("diffmodel.input_projection.weight", 0)?,
        step_embedding: size("diffmodel.diffusion_embedding.projection1.weight", 0)?,
        time_embedding: side.checked_sub(feature_embedding + usize::from(!unconditional))?,
        feature_embedding,
        unconditional,
        linear_attention: size(&format!("{layer}.time_layer.layers.layers.0.0.fn.to_q.weight"), 0).is_some(),
        feature_layer: weights.tensors().keys().any(|name| name.starts_with(&format!("{layer}.feature_layer."))),
        ..CsdiConfig::default()
    })
}

/// The network of SSSD that the weights are of. Which states the sums in its kernels go over is not in them.
fn sssd_of(weights: &Weights) -> Option<SssdConfig> {
    let size = |name: &str, axis: usize| weights.shape(name)?.get(axis).copied();
    let block = "residual_layer.residual_blocks.0";
    let kernel = format!("{block}.S41.s4_layer.kernel.kernel");
    Some(SssdConfig {
        in_channels: size("init_conv.0.conv.weight_v", 1)?,
        out_channels: size("final_conv.2.conv.weight", 0)?,
        // The nodes of half a circle, both ends included.
        length: 2 * size(&format!("{kernel}.omega"), 0)?.checked_sub(1)?,
        residual_channels: size("init_conv.0.conv.weight_v", 0)?,
        skip_channels: size("final_conv.0.conv.weight_v", 1)?,
        layers: count(weights, "residual_layer.residual_blocks", "res_conv.weight_v"),
        step_sinusoids: size("residual_layer.fc_t1.weight", 1)?,
        step_hidden: size("residual_layer.fc_t1.weight", 0)?,
        step_features: size("residual_layer.fc_t2.weight", 0)?,
        states: 2 * size(&format!("{kernel}.C"), 2)?,
        bidirectional: size(&format!("{kernel}.C"), 0)? == 2,
        layer_norm: size(&format!("{block}.S41.norm_layer.weight"), 0).is_some(),
        ..SssdConfig::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::{Path, PathBuf};

    use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
    use ddpm_testing::support::{Safetensors, cases, fixture, read_json};

    use super::*;
    use crate::family::Progress;
    use crate::family::trained::open;

    fn models(project: &str) -> Vec<PathBuf> {
        let root = fixture(project);
        let index = read_json(root.join("index.json"));
        cases(&index, "models").iter().map(|name| root.join(name.as_str().unwrap())).collect()
    }

    fn settings(sections: &str) -> ImportSettings {
        ImportSettings { sections: sections.parse().unwrap(), length: Some(9), name: "x".into(), units: None }
    }

    /// The imported network, opened from a snapshot of it, has the weights of the file.
    fn check(path: &Path, settings: ImportSettings) -> MaskedFamily {
        let device = Device::default();
        let (family, network) = import(Weights::open(path).unwrap(), settings, &device).unwrap();
        let file = Safetensors::open(path.with_file_name("weights.safetensors"));
        for tensor in network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true) {
            let values: Vec<f64> = bridge::into_data(tensor.clone()).unwrap().iter::<f64>().collect();
            assert_eq!(values, file.f64(&tensor.name), "{} {}", path.display(), tensor.name);
        }
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("snapshot");
        family.save(&network, Progress { step: 0, images_seen: 0 }, &snapshot).unwrap();
        let model = open(&snapshot, &device, ddpm_kernels::Precision::F32).unwrap();
        assert!(model.impute().is_some() && model.card().family == "masked");
        family
    }

    #[test]
    fn checkpoints_of_csdi_become_snapshots() {
        for folder in models("series_csdi") {
            let peer = read_json(folder.join("config.json"));
            let heads = &peer["diffusion"]["nheads"];
            for path in ["weights.safetensors", "model.pth"].map(|name| folder.join(name)) {
                if path.is_file() {
                    let family = check(&path, settings(&format!("[model]\nheads = {heads}\n")));
                    let MaskedNetworkConfig::Csdi(config) = &family.tables.model else { unreachable!() };
                    assert_eq!(config.linear_attention, peer["diffusion"]["is_linear"].as_bool().unwrap());
                    assert_eq!(family.chain().schedule.len(), 50);
                }
            }
        }
    }

    #[test]
    fn checkpoints_of_sssd_become_snapshots() {
        for folder in models("series_sssd") {
            let peer = &read_json(folder.join("config.json"))["wavenet_config"];
            for path in ["weights.safetensors", "100.pkl"].map(|name| folder.join(name)) {
                if path.is_file() {
                    let family = check(&path, ImportSettings { length: None, ..settings("") });
                    let MaskedNetworkConfig::Sssd(config) = &family.tables.model else { unreachable!() };
                    assert_eq!(config.length as u64, peer["s4_lmax"].as_u64().unwrap());
                    assert_eq!(family.shape[1], config.length);
                }
            }
        }
    }

    #[test]
    fn what_is_missing_or_contradicts_the_weights_is_said() {
        let path = models("series_csdi")[0].join("weights.safetensors");
        let error =
            |settings| import(Weights::open(&path).unwrap(), settings, &Device::default()).unwrap_err().to_string();
        assert!(error(ImportSettings { length: None, ..settings("") }).contains("length of the windows"));
        let deeper = error(settings("[model]\nlayers = 9\nheads = 1\n"));
        assert!(deeper.contains("residual_layers.8.mid_projection.weight is missing"), "{deeper}");
        assert!(error(settings("[model]\nheads = 7\n")).contains("model.heads"));
    }
}
