//! Whole networks: those of the fixtures against diffusers, and those of the experiments against flex.

use std::path::Path;

use anyhow::{Context, bail};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_families::diffusers::unet_config;
use ddpm_families::parameters::settle;
use ddpm_families::snapshot::load_weights;
use ddpm_model::condition::Condition;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_weights::Weights;
use serde_json::Value;

use super::check::{Group, difference, off_by, tolerance};
use ddpm_train::checkpoint::restore;

/// Seed of weights and inputs.
const SEED: u64 = 6;
/// A gradient that is smaller than this share of the largest is compared as if it were that large: it may be the
/// rounding of a zero.
const SMALL: f64 = 1e-3;

/// The U-Nets in the folder `unet` of the fixtures: their outputs, and gradients where there are some. If it shall be
/// quick, only those with gradients.
pub fn golden(fixtures: &Path, device: &Device, quick: bool) -> anyhow::Result<[Group; 2]> {
    let mut outputs = Group::new("U-Nets of diffusers", tolerance::OUTPUT);
    let mut gradients = Group::new("their gradients", tolerance::GRADIENT);
    let root = fixtures.join("unet");
    let index = read_json(&root.join("index.json"))?;
    let models = index["models"].as_array().context("unet/index.json lists no models")?;
    for model in models.iter().filter_map(|model| Some((model["id"].as_str()?, model["folder"].as_str()?))) {
        let (id, folder) = (model.0, root.join(model.1));
        let golden = Golden::open(&folder).with_context(|| format!("the fixture {}", folder.display()))?;
        let has_gradients = !golden.meta["grad"].is_null();
        if has_gradients || !quick {
            outputs.attempt(id, || golden.outputs(device));
        }
        if has_gradients {
            gradients.attempt(id, || golden.gradients(device));
        }
    }
    Ok([outputs, gradients])
}

/// A folder of the fixtures.
struct Golden<'a> {
    folder: &'a Path,
    meta: Value,
    config: NetworkConfig,
    io: Weights,
}

impl<'a> Golden<'a> {
    fn open(folder: &'a Path) -> anyhow::Result<Self> {
        let meta = read_json(&folder.join("meta.json"))?;
        let config = NetworkConfig::UNet(unet_config::read(&read_json(&folder.join("config.json"))?)?.config);
        let io = Weights::open(&folder.join(text(&meta, "io")?))?;
        Ok(Self { folder, meta, config, io })
    }

    fn load(&self, device: &Device) -> anyhow::Result<Network> {
        let file = self.folder.join(text(&self.meta, "weights")?);
        Ok(load_weights(self.config.init(device), &file)?)
    }

    fn forward(&self, network: &Network, case: &Value, device: &Device) -> anyhow::Result<Tensor<4>> {
        let x = tensor::<4>(&self.io, text(case, "x")?, device)?;
        let t = tensor::<1>(&self.io, text(case, "t")?, device)?;
        let condition = match case["y"].as_str() {
            None => Condition::None,
            Some(name) => {
                let classes: Vec<i64> = values(&self.io, name)?.into_iter().map(|class| class as i64).collect();
                let size = classes.len();
                Condition::Class(Tensor::<1, Int>::from_data(TensorData::new(classes, [size]), device))
            }
        };
        Ok(network.forward(x, t, &condition))
    }

    fn cases(&self) -> anyhow::Result<&Vec<Value>> {
        self.meta["cases"].as_array().filter(|cases| !cases.is_empty()).context("meta.json lists no cases")
    }

    fn outputs(&self, device: &Device) -> anyhow::Result<Vec<(String, f64)>> {
        let network = self.load(device)?;
        let mut found = Vec::new();
        for case in self.cases()? {
            let name = text(case, "out")?;
            let y = self.forward(&network, case, device)?;
            found.push((name.to_string(), off_by(&host(y.into_data()), &values(&self.io, name)?)));
        }
        Ok(found)
    }

    /// Of the mean squared error to a target, on the first case.
    fn gradients(&self, device: &Device) -> anyhow::Result<Vec<(String, f64)>> {
        let device = device.clone().autodiff();
        let network = self.load(&device)?;
        let about = &self.meta["grad"];
        let target = Weights::open(&self.folder.join(text(about, "target_file")?))?;
        let name = target.tensors().keys().next().context("there is no target")?;
        let y = self.forward(&network, &self.cases()?[0], &device)?;
        let loss = (y - tensor::<4>(&target, name, &device)?).square().mean();
        let found = GradientsParams::from_grads(loss.backward(), &network);

        // A network whose weights are the gradients, as diffusers names and lays them out.
        let file = self.folder.join(text(about, "grads_file")?);
        let wanted = load_weights(self.config.init(&device.clone().without_autodiff()), &file)?;
        compare(&Collect::gradients(&network, &found), &Collect::of(&wanted))
    }
}

/// A network with weights that hide nothing, on random inputs: what flex makes of them.
pub struct Reference {
    config: NetworkConfig,
    shape: Vec<usize>,
    weights: Network,
    output: Vec<f64>,
    gradients: Collect,
}

impl Reference {
    /// Runs it on `flex`, on a batch of this size.
    pub fn new(config: &NetworkConfig, data_shape: &[usize], batch: usize, flex: &Device) -> anyhow::Result<Self> {
        flex.seed(SEED);
        let weights = settle(config.init(flex)).map(&mut Shake { drawn: 0 });
        let shape: Vec<usize> = [batch].into_iter().chain(data_shape.iter().copied()).collect();
        let (output, gradients) = run(&weights, config, &shape, flex)?;
        Ok(Self { config: config.clone(), shape, weights, output, gradients })
    }

    /// What another device makes of them: the output, and the gradient of every parameter.
    pub fn compare(&self, device: &Device) -> anyhow::Result<(f64, Vec<(String, f64)>)> {
        let (output, gradients) = run(&self.weights, &self.config, &self.shape, device)?;
        Ok((off_by(&output, &self.output), compare(&gradients, &self.gradients)?))
    }
}

fn run(
    weights: &Network,
    config: &NetworkConfig,
    shape: &[usize],
    device: &Device,
) -> anyhow::Result<(Vec<f64>, Collect)> {
    let device = device.clone().autodiff();
    let network = restore(settle(config.init(&device)), weights.clone().into_record(), Path::new("memory"))?;
    let (batch, size) = (shape[0], shape.iter().product());
    let times: Vec<f32> = (0..batch).map(|row| 7.0 + 130.0 * row as f32).collect();
    let classes: Vec<i64> = (0..batch).map(|row| (row % config.num_classes().max(1)) as i64).collect();
    let condition = match config.num_classes() {
        0 => Condition::None,
        _ => Condition::Class(Tensor::<1, Int>::from_data(TensorData::new(classes, [batch]), &device)),
    };
    let x = normals(&mut rng(SEED, Stream::Noise, 0), size);
    let t = Tensor::<1>::from_data(TensorData::new(times, [batch]), &device);
    let (y, loss) = match *shape {
        [b, n] => {
            let x = Tensor::<2>::from_data(TensorData::new(x, [b, n]), &device);
            let y = network.forward(x, t, &condition);
            (y.clone().into_data(), y.square().mean())
        }
        [b, c, h, w] => {
            let x = Tensor::<4>::from_data(TensorData::new(x, [b, c, h, w]), &device);
            let y = network.forward(x, t, &condition);
            (y.clone().into_data(), y.square().mean())
        }
        _ => bail!("a network on data of shape {shape:?}"),
    };
    let gradients = GradientsParams::from_grads(loss.backward(), &network);
    Ok((host(y), Collect::gradients(&network, &gradients)))
}

/// Weights that are zero at the start of a training hide whatever lies before them: noise on all of them.
struct Shake {
    drawn: u64,
}

impl ModuleMapper for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.drawn += 1;
        let index = self.drawn;
        param.map(|weight| {
            let dims = weight.dims();
            let noise = normals(&mut rng(SEED, Stream::Init, index), dims.iter().product());
            weight.clone() + Tensor::from_data(TensorData::new(noise, dims), &weight.device()) * 0.03
        })
    }
}

/// The values of each parameter, or of its gradient, by the parameter's name.
#[derive(Default)]
struct Collect {
    path: Vec<String>,
    found: Vec<(String, Vec<f64>)>,
}

impl Collect {
    fn of(network: &Network) -> Self {
        let mut collect = Self::default();
        network.visit(&mut collect);
        collect
    }

    fn gradients(network: &Network, gradients: &GradientsParams) -> Self {
        let mut collect = CollectGradients { gradients, collected: Self::default() };
        network.visit(&mut collect);
        collect.collected
    }
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push((self.path.join("."), host(param.val().into_data())));
    }
}

struct CollectGradients<'a> {
    gradients: &'a GradientsParams,
    collected: Collect,
}

impl ModuleVisitor for CollectGradients<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.collected.enter_module(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.collected.exit_module(name, container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id).map(|gradient| host(gradient.into_data()));
        self.collected.found.push((self.collected.path.join("."), gradient.unwrap_or_default()));
    }
}

/// Gradients against gradients, each by its norm.
fn compare(found: &Collect, wanted: &Collect) -> anyhow::Result<Vec<(String, f64)>> {
    if found.found.len() != wanted.found.len() || found.found.is_empty() {
        bail!("{} gradients instead of {}", found.found.len(), wanted.found.len());
    }
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let largest = wanted.found.iter().map(|(_, wanted)| norm(wanted)).fold(0.0, f64::max);
    let pairs = found.found.iter().zip(&wanted.found);
    Ok(pairs
        .map(|((name, found), (_, wanted))| {
            let difference = match difference(found, wanted).is_finite() {
                true => norm(&found.iter().zip(wanted).map(|(f, w)| f - w).collect::<Vec<_>>()),
                false => f64::INFINITY,
            };
            (name.clone(), difference / norm(wanted).max(SMALL * largest))
        })
        .collect())
}

fn tensor<const D: usize>(file: &Weights, name: &str, device: &Device) -> anyhow::Result<Tensor<D>> {
    let stored = file.tensors().get(name).with_context(|| format!("there is no tensor {name}"))?;
    let shape: [usize; D] = stored.shape().try_into().with_context(|| format!("{name} has another rank than {D}"))?;
    Ok(Tensor::from_data(TensorData::new(stored.read()?, shape), device))
}

fn values(file: &Weights, name: &str) -> anyhow::Result<Vec<f64>> {
    let stored = file.tensors().get(name).with_context(|| format!("there is no tensor {name}"))?;
    Ok(stored.read()?.into_iter().map(f64::from).collect())
}

/// A JSON file.
pub fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}", path.display()))
}

fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value[key].as_str().with_context(|| format!("there is no text {key}"))
}

fn host(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}
