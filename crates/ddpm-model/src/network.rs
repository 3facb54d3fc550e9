//! All networks as one enum, and their configs as one.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, among_the_kernels};
use serde::{Deserialize, Serialize, Serializer};

use crate::condition::Condition;
use crate::custom::{CustomConfig, CustomModule};
use crate::dit::{DiT, DiTConfig};
use crate::pass::Pass;
use crate::point_mlp::{PointMlp, PointMlpConfig};
use crate::unet::{UNet, UNetConfig};

/// The config of a network, tagged by its `kind`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NetworkConfig {
    /// A U-Net, for images.
    #[serde(rename = "unet")]
    UNet(UNetConfig),
    /// A diffusion transformer, for images.
    #[serde(rename = "dit")]
    DiT(DiTConfig),
    /// A multi-layer perceptron, for points.
    PointMlp(PointMlpConfig),
    /// A network that is defined elsewhere, and read by whoever knows its kind.
    #[serde(skip_deserializing)]
    Custom(CustomConfig),
}

impl Serialize for NetworkConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "kind", rename_all = "kebab-case")]
        enum Known<'a> {
            #[serde(rename = "unet")]
            UNet(&'a UNetConfig),
            #[serde(rename = "dit")]
            DiT(&'a DiTConfig),
            PointMlp(&'a PointMlpConfig),
        }
        match self {
            Self::UNet(config) => Known::UNet(config).serialize(serializer),
            Self::DiT(config) => Known::DiT(config).serialize(serializer),
            Self::PointMlp(config) => Known::PointMlp(config).serialize(serializer),
            Self::Custom(config) => config.serialize(serializer),
        }
    }
}

/// One thing that is wrong with a network's config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key at fault, inside the network's table.
    pub key: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Why a network cannot be built or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The config contradicts itself or the data.
    #[error("the network cannot be built: {}", list(.problems))]
    Config {
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
    /// The input has a shape that this network does not take.
    #[error("the network takes no batch of shape {shape:?}: {reason}")]
    Input {
        /// The shape, batch first.
        shape: Vec<usize>,
        /// What was expected.
        reason: String,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl NetworkConfig {
    /// The kinds of the networks that are defined here.
    pub const KINDS: [&'static str; 3] = ["unet", "point-mlp", "dit"];

    /// Its `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UNet(_) => Self::KINDS[0],
            Self::PointMlp(_) => Self::KINDS[1],
            Self::DiT(_) => Self::KINDS[2],
            Self::Custom(config) => config.kind(),
        }
    }

    /// Fills in the sizes that the config leaves open (0) from the shape of the data and `out_channels`. Stated values
    /// stay; [`validate`](Self::validate) checks them.
    pub fn with_io(mut self, data_shape: &[usize], out_channels: usize) -> Self {
        let fill = |value: &mut usize, with: usize| {
            if *value == 0 {
                *value = with;
            }
        };
        match (&mut self, data_shape) {
            (Self::UNet(config), &[channels, height, _width]) => {
                fill(&mut config.in_channels, channels);
                fill(&mut config.out_channels, out_channels);
                fill(&mut config.sample_size, height);
            }
            (Self::DiT(config), &[channels, height, _width]) => {
                fill(&mut config.in_channels, channels);
                fill(&mut config.out_channels, out_channels);
                fill(&mut config.sample_size, height);
            }
            (Self::PointMlp(config), &[dims]) => {
                fill(&mut config.in_dims, dims);
                fill(&mut config.out_dims, out_channels);
            }
            (Self::Custom(config), shape) => config.io.fill(shape, out_channels),
            // A network for another kind of data: `validate` reports it.
            _ => {}
        }
        self
    }

    /// Number of augmentation labels that the network is conditioned on; 0: none.
    pub fn augment_dim(&self) -> usize {
        match self {
            Self::UNet(config) => config.augment_dim,
            Self::DiT(_) | Self::PointMlp(_) | Self::Custom(_) => 0,
        }
    }

    /// With this many augmentation labels, unless the config states how many.
    pub fn with_augment_dim(mut self, labels: usize) -> Self {
        if let Self::UNet(config) = &mut self
            && config.augment_dim == 0
        {
            config.augment_dim = labels;
        }
        self
    }

    /// Whether the network can be built for data of this shape (without the batch), and if not, everything
    /// that is wrong.
    pub fn validate(&self, data_shape: &[usize]) -> Result<(), NetworkError> {
        let problems = match self {
            Self::UNet(config) => config.problems(data_shape),
            Self::DiT(config) => config.problems(data_shape),
            Self::PointMlp(config) => config.problems(data_shape),
            Self::Custom(config) => config.problems(data_shape),
        };
        if problems.is_empty() { Ok(()) } else { Err(NetworkError::Config { problems }) }
    }

    /// Channels or coordinates in and out.
    pub fn io(&self) -> [usize; 2] {
        match self {
            Self::UNet(config) => [config.in_channels, config.out_channels],
            Self::DiT(config) => [config.in_channels, config.out_channels],
            Self::PointMlp(config) => [config.in_dims, config.out_dims],
            Self::Custom(config) => [config.io.in_channels, config.io.out_channels],
        }
    }

    /// Builds the network. The config must be [valid](Self::validate).
    ///
    /// Parameters are drawn when they are first used: seed the device, then touch them all.
    pub fn init(&self, device: &Device) -> Network {
        match self {
            Self::UNet(config) => Network::UNet(config.init(device)),
            Self::DiT(config) => Network::DiT(config.init(device)),
            Self::PointMlp(config) => Network::PointMlp(config.init(device)),
            Self::Custom(config) => Network::Custom(config.init(device)),
        }
    }

    /// Classes of the condition; 0: unconditional.
    pub fn num_classes(&self) -> usize {
        match self {
            Self::UNet(config) => config.classes,
            Self::DiT(config) => config.classes,
            Self::PointMlp(config) => config.classes,
            Self::Custom(config) => config.io.classes,
        }
    }

    /// With this many classes.
    pub fn with_classes(mut self, classes: usize) -> Self {
        match &mut self {
            Self::UNet(config) => config.classes = classes,
            Self::DiT(config) => config.classes = classes,
            Self::PointMlp(config) => config.classes = classes,
            Self::Custom(config) => config.io.classes = classes,
        }
        self
    }

    /// The index of the null class, if there is one.
    pub fn null_class(&self) -> Option<usize> {
        match self {
            Self::UNet(config) => config.null_class(),
            Self::DiT(config) => config.null_class(),
            Self::PointMlp(config) => config.null_class(),
            Self::Custom(config) => config.io.null_class(),
        }
    }

    /// The key of the width of the tokens that the network attends to, and the width; none if it attends to none.
    pub fn token_width(&self) -> Option<(&'static str, usize)> {
        match self {
            Self::UNet(config) => {
                config.cross_attention.as_ref().map(|cross| ("model.cross_attention.token_width", cross.token_width))
            }
            Self::DiT(config) => (config.token_width > 0).then_some(("model.token_width", config.token_width)),
            Self::PointMlp(_) | Self::Custom(_) => None,
        }
    }

    /// Whether a forward pass in training draws from the device's generator.
    pub fn has_dropout(&self) -> bool {
        match self {
            Self::UNet(config) => config.dropout > 0.0,
            Self::DiT(_) | Self::PointMlp(_) => false,
            Self::Custom(config) => config.has_dropout(),
        }
    }

    /// An estimate of the memory of training in f32 with Adam and one EMA. Of a custom network it counts no activations but
    /// input and prediction.
    pub fn memory_estimate(&self, num_params: usize, data_shape: &[usize], batch_size: usize) -> MemoryEstimate {
        let kept = match (self, data_shape) {
            (Self::UNet(config), &[_, height, width]) => config.kept_values(height, width),
            (Self::UNet(config), _) => config.kept_values(config.sample_size, config.sample_size),
            (Self::DiT(config), &[_, height, width]) => config.kept_values(height, width),
            (Self::DiT(config), _) => config.kept_values(config.sample_size, config.sample_size),
            (Self::PointMlp(config), _) => config.kept_values(),
            (Self::Custom(config), _) => {
                let [height, width] = config.io.size;
                let channels = config.io.in_channels.saturating_add(config.io.out_channels);
                channels.saturating_mul(height).saturating_mul(width)
            }
        };
        MemoryEstimate::of(num_params, kept, batch_size)
    }
}

/// Bytes that training takes, estimated without running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The parameters.
    pub parameters: u64,
    /// Their gradients.
    pub gradients: u64,
    /// Adam's two moments.
    pub optimizer: u64,
    /// One averaged copy.
    pub ema: u64,
    /// Activations kept for the backward pass.
    pub activations: u64,
}

impl MemoryEstimate {
    /// For so many parameters, values that a training step keeps for one item, and items in a batch.
    pub fn of(parameters: usize, kept: usize, batch_size: usize) -> Self {
        // Saturated, so that absurd sizes are reported and do not overflow.
        let bytes = |values: usize| (values as u64).saturating_mul(size_of::<f32>() as u64);
        Self {
            parameters: bytes(parameters),
            gradients: bytes(parameters),
            optimizer: bytes(parameters.saturating_mul(2)),
            ema: bytes(parameters),
            activations: bytes(kept.saturating_mul(batch_size)),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        [self.gradients, self.optimizer, self.ema, self.activations]
            .into_iter()
            .fold(self.parameters, u64::saturating_add)
    }
}

/// Keeps the weights of dense layers and convolutions in a precision.
struct Keep {
    precision: Precision,
    /// The modules that are being visited, the innermost last.
    containers: Vec<bool>,
}

impl ModuleMapper for Keep {
    fn enter_module(&mut self, _: &str, container: &str) {
        self.containers.push(["Struct:Linear", "Struct:Conv2d"].contains(&container));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.containers.last() {
            Some(true) => parameter.map(|weight| self.precision.kept(weight)),
            _ => parameter,
        }
    }
}

/// A network: noisy data, times and condition to a prediction.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One network per process: a box would only be in the way of Burn's derive.
pub enum Network {
    /// A U-Net for images.
    UNet(UNet),
    /// A diffusion transformer for images.
    DiT(DiT),
    /// A multi-layer perceptron for points.
    PointMlp(PointMlp),
    /// A network that is defined elsewhere.
    Custom(CustomModule),
}

impl Network {
    /// `x_t` `[B, ..]` at the times `[B]` to the prediction, of the same rank.
    ///
    /// Shapes that [`check_input`](Self::check_input) refuses, and conditions that the config does not have,
    /// are errors of the caller.
    ///
    /// # Shapes
    ///
    /// `x_t` is `[B, C, H, W]` for a U-Net or a DiT and `[B, D]` for a point network, `t` is `[B]`; the output is that of `x_t`, with
    /// the channels that the config has out.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use ddpm_model::condition::Condition;
    /// use ddpm_model::network::NetworkConfig;
    ///
    /// let device = Device::default();
    /// let network = NetworkConfig::PointMlp(Default::default()).with_io(&[2], 2).init(&device);
    /// let (x_t, t) = (Tensor::<2>::zeros([5, 2], &device), Tensor::<1>::full([5], 500.0, &device));
    /// assert_eq!(network.forward(x_t, t, &Condition::None).dims(), [5, 2]);
    /// ```
    pub fn forward<const D: usize>(&self, x_t: Tensor<D>, t: Tensor<1>, condition: &Condition) -> Tensor<D> {
        among_the_kernels(&x_t.device(), || self.forward_with(x_t, t, condition, None, &Pass::default()))
    }

    /// As [`forward`](Self::forward), conditioned on augmentation labels `[B, augment_dim]`, where the network has
    /// [an embedding of them](NetworkConfig::augment_dim), and with a pass that can observe every layer.
    pub fn forward_with<const D: usize>(
        &self,
        x_t: Tensor<D>,
        t: Tensor<1>,
        condition: &Condition,
        augment_labels: Option<Tensor<2>>,
        pass: &Pass<'_>,
    ) -> Tensor<D> {
        let shape = x_t.shape();
        debug_assert_eq!(self.check_input(shape.as_slice()), Ok(()));
        match self {
            Self::UNet(network) => {
                let y = network.forward_with(x_t.reshape::<4, _>(shape), t, condition, augment_labels, pass);
                let shape = y.shape();
                y.reshape::<D, _>(shape)
            }
            Self::DiT(network) => {
                let y = network.forward_in(x_t.reshape::<4, _>(shape), t, condition, pass);
                let shape = y.shape();
                y.reshape::<D, _>(shape)
            }
            Self::PointMlp(network) => {
                // A point of any rank is one of N coordinates.
                let [rows, width] = [shape[0], shape.as_slice()[1..].iter().product()];
                let y = network.forward_in(x_t.reshape([rows, width]), t, condition, pass);
                let mut shape = [1; D];
                shape[..2].copy_from_slice(&y.dims());
                y.reshape(shape)
            }
            Self::Custom(network) => {
                // Four axes, whatever the data have: a point is an image of one pixel.
                let axes: [usize; 4] = std::array::from_fn(|axis| shape.as_slice().get(axis).copied().unwrap_or(1));
                let y = pass.layer(network.extra.config.kind(), x_t.reshape(axes), |x_t: Tensor<4>| {
                    network.forward(x_t, t, condition)
                });
                let axes = y.dims();
                y.reshape(std::array::from_fn::<_, D, _>(|axis| axes.get(axis).copied().unwrap_or(1)))
            }
        }
    }

    /// The same network, computing in this precision. Weights stay as they are, and so do data and predictions.
    pub fn in_precision(mut self, precision: Precision) -> Self {
        self.set_precision(precision);
        self
    }

    /// The same network for sampling, with the weights of dense layers and convolutions kept in half precision if it computes in
    /// it: they take half of the memory.
    pub fn with_kept_weights(self) -> Self {
        let precision = self.precision();
        match self {
            // All their layers are kernels, which take such weights.
            Self::UNet(_) | Self::DiT(_) => self.map(&mut Keep { precision, containers: Vec::new() }),
            Self::PointMlp(_) | Self::Custom(_) => self,
        }
    }

    /// Has the network compute in this precision.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Self::UNet(network) => network.precision = precision,
            Self::DiT(network) => network.precision = precision,
            Self::PointMlp(network) => network.precision = precision,
            Self::Custom(network) => network.set_precision(precision),
        }
    }

    /// The precision it computes in.
    pub fn precision(&self) -> Precision {
        match self {
            Self::UNet(network) => network.precision,
            Self::DiT(network) => network.precision,
            Self::PointMlp(network) => network.precision,
            Self::Custom(network) => network.extra.precision,
        }
    }

    /// Whether the network takes a batch of this shape, batch first.
    pub fn check_input(&self, shape: &[usize]) -> Result<(), NetworkError> {
        let reason = match (self, shape) {
            (Self::UNet(network), &[_, channels, height, width]) => {
                let config = network.config();
                (channels != config.in_channels)
                    .then(|| format!("it has {} channels in", config.in_channels))
                    .or_else(|| config.size_problem(height, width))
            }
            (Self::DiT(network), &[_, channels, height, width]) => {
                let config = network.config();
                (channels != config.in_channels)
                    .then(|| format!("it has {} channels in", config.in_channels))
                    .or_else(|| config.size_problem(height, width))
            }
            (Self::UNet(_) | Self::DiT(_), _) => Some("it takes [batch, channels, height, width]".into()),
            (Self::PointMlp(network), &[_, dims, ref rest @ ..]) if rest.iter().all(|&axis| axis == 1) => {
                let expected = network.config().in_dims;
                (dims != expected).then(|| format!("it takes points of {expected} coordinates"))
            }
            (Self::PointMlp(_), _) => Some("it takes [batch, coordinates]".into()),
            (Self::Custom(network), shape) => network.input_problem(shape),
        };
        match reason {
            Some(reason) => Err(NetworkError::Input { shape: shape.to_vec(), reason }),
            None => Ok(()),
        }
    }

    /// Classes of the condition; 0: unconditional.
    pub fn num_classes(&self) -> usize {
        match self {
            Self::UNet(network) => network.config().classes,
            Self::DiT(network) => network.config().classes,
            Self::PointMlp(network) => network.config().classes,
            Self::Custom(network) => network.extra.config.io.classes,
        }
    }

    /// The index of the null class, if there is one.
    pub fn null_class(&self) -> Option<usize> {
        match self {
            Self::UNet(network) => network.config().null_class(),
            Self::DiT(network) => network.config().null_class(),
            Self::PointMlp(network) => network.config().null_class(),
            Self::Custom(network) => network.extra.config.io.null_class(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn unet() -> NetworkConfig {
        NetworkConfig::UNet(UNetConfig {
            base_channels: 8,
            multipliers: vec![1.0, 2.0],
            attention_resolutions: vec![],
            norm_groups: 4,
            ..UNetConfig::default()
        })
    }

    #[test]
    fn the_data_fill_in_what_was_left_open() {
        let config = unet().with_io(&[1, 8, 12], 2);
        assert_eq!(config.validate(&[1, 8, 12]), Ok(()));
        let NetworkConfig::UNet(inner) = &config else { unreachable!("it was a U-Net") };
        assert_eq!((inner.in_channels, inner.out_channels, inner.sample_size), (1, 2, 8));
        // What is stated stays, and is refused where it does not fit.
        let error = config.with_io(&[3, 8, 8], 3).validate(&[3, 8, 8]).unwrap_err();
        assert!(error.to_string().contains("in_channels: is 1"), "{error}");
    }

    #[test]
    fn a_network_for_other_data_is_refused() {
        let error = unet().with_io(&[2], 2).validate(&[2]).unwrap_err().to_string();
        assert!(error.contains("kind: a U-Net takes images"), "{error}");
    }

    #[test]
    fn inputs_are_checked_by_name() {
        let network = unet().with_io(&[1, 8, 8], 1).init(&Device::default());
        assert_eq!(network.check_input(&[5, 1, 6, 10]), Ok(()));
        for (shape, part) in [(vec![5, 1, 7, 8], "7x8"), (vec![5, 3, 8, 8], "1 channels in"), (vec![5, 2], "height")] {
            let error = network.check_input(&shape).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_diffusion_transformer_is_a_network_like_the_others() {
        let config: NetworkConfig =
            serde_json::from_str(r#"{"kind": "dit", "hidden_size": 8, "heads": 2, "depth": 1}"#).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<NetworkConfig>(&text).unwrap(), config);
        let config = config.with_io(&[1, 8, 8], 2).with_classes(3);
        assert_eq!(config.validate(&[1, 8, 8]), Ok(()));
        assert_eq!((config.kind(), config.io(), config.null_class()), ("dit", [1, 2], Some(3)));
        let network = config.init(&Device::default()).in_precision(Precision::Bf16);
        assert_eq!(network.precision(), Precision::Bf16);
        assert!(network.check_input(&[1, 1, 8, 7]).unwrap_err().to_string().contains("multiples of 2"));
        let device = Device::default();
        let x = Tensor::<4>::random([2, 1, 8, 8], Distribution::Default, &device);
        assert_eq!(network.forward(x, Tensor::zeros([2], &device), &Condition::None).dims(), [2, 2, 8, 8]);
        assert!(config.memory_estimate(1, &[1, 8, 8], 2).activations > 0);
    }

    #[test]
    fn weights_kept_in_half_precision_give_about_the_same() {
        let device = Device::flex();
        let dit: NetworkConfig =
            serde_json::from_str(r#"{"kind": "dit", "hidden_size": 8, "heads": 2, "depth": 1}"#).unwrap();
        for config in [unet(), dit] {
            let network = config.with_io(&[1, 8, 8], 1).init(&device).in_precision(Precision::Bf16);
            let x = Tensor::<4>::random([2, 1, 8, 8], Distribution::Default, &device);
            let run = |network: &Network| network.forward(x.clone(), Tensor::zeros([2], &device), &Condition::None);
            let (plain, kept) = (run(&network), run(&network.clone().with_kept_weights()));
            let error = (plain.clone() - kept).abs().max().into_scalar::<f32>();
            assert!(error <= 0.02 * plain.abs().max().into_scalar::<f32>(), "{error}");
            let mut halves = CountHalves(0);
            network.with_kept_weights().visit(&mut halves);
            assert!(halves.0 > 5, "{} weights are kept in half precision", halves.0);
        }
    }

    struct CountHalves(usize);

    impl burn::module::ModuleVisitor for CountHalves {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            self.0 += usize::from(parameter.val().dtype() == burn::tensor::DType::BF16);
        }
    }

    #[test]
    fn forward_keeps_the_rank() {
        let device = Device::default();
        let t = || Tensor::<1>::from_floats([1.0, 2.0], &device);
        let images = unet().with_io(&[1, 8, 8], 2).init(&device);
        let x = Tensor::<4>::random([2, 1, 8, 8], Distribution::Default, &device);
        assert_eq!(images.forward(x, t(), &Condition::None).dims(), [2, 2, 8, 8]);
        let points = NetworkConfig::PointMlp(PointMlpConfig::default()).with_io(&[3], 3).init(&device);
        let x = Tensor::<2>::random([2, 3], Distribution::Default, &device);
        assert_eq!(points.forward(x, t(), &Condition::None).dims(), [2, 3]);
    }

    #[test]
    fn the_kind_is_a_key_and_others_are_refused() {
        let config: NetworkConfig = serde_json::from_str(r#"{"kind": "unet", "base_channels": 64}"#).unwrap();
        assert!(matches!(&config, NetworkConfig::UNet(inner) if inner.base_channels == 64));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<NetworkConfig>(&text).unwrap(), config);
        let error = serde_json::from_str::<NetworkConfig>(r#"{"kind": "point-mlp", "hiden": []}"#).unwrap_err();
        assert!(error.to_string().contains("hiden"), "{error}");
    }

    #[test]
    fn memory_grows_with_the_batch_in_activations_only() {
        let config = NetworkConfig::UNet(UNetConfig::cifar10());
        let [one, two] = [1, 2].map(|batch| config.memory_estimate(35_746_307, &[3, 32, 32], batch));
        assert_eq!(one.parameters, 4 * 35_746_307);
        assert_eq!(two.activations, 2 * one.activations);
        assert_eq!(two.total() - one.total(), one.activations);
        assert_eq!(config.memory_estimate(35_746_307, &[3, 32, 32], usize::MAX).total(), u64::MAX);
    }
}
