//! Networks that are defined outside of this crate: what they implement is [`CustomNetwork`].

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Int, Tensor};
use ddpm_kernels::Precision;
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::any_module::AnyModule;
use crate::condition::Condition;
use crate::network::Problem;

/// A network of your own: any Burn module that maps noisy items, times and possibly classes to a prediction.
///
/// It is trained, and sampled, under every objective of this crate. What the prediction is (of the noise, of the data, of
/// a velocity) and how the time is scaled is a matter of the process: the network maps values to values.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::conv::{Conv2d, Conv2dConfig};
/// use burn::tensor::{Device, Int, Tensor};
/// use ddpm_model::custom::{CustomConfig, CustomNetwork, Io, NoKeys};
/// use ddpm_model::network::NetworkConfig;
///
/// #[derive(Module, Debug)]
/// struct OneLayer {
///     layer: Conv2d,
/// }
///
/// impl CustomNetwork for OneLayer {
///     const KIND: &'static str = "one-layer";
///     type Config = NoKeys;
///
///     fn new(_: &NoKeys, io: &Io, device: &Device) -> Self {
///         Self { layer: Conv2dConfig::new([io.in_channels, io.out_channels], [1, 1]).init(device) }
///     }
///
///     fn forward(&self, x_t: Tensor<4>, _: Tensor<1>, _: Option<Tensor<1, Int>>) -> Tensor<4> {
///         self.layer.forward(x_t)
///     }
/// }
///
/// let config = NetworkConfig::Custom(CustomConfig::new::<OneLayer>(NoKeys {})).with_io(&[3, 8, 8], 6);
/// assert_eq!((config.kind(), config.io()), ("one-layer", [3, 6]));
/// ```
pub trait CustomNetwork: Module + ModuleDisplay + Sync + 'static {
    /// What `[model] kind = "..."` calls it; none of [`NetworkConfig::KINDS`](crate::network::NetworkConfig::KINDS).
    const KIND: &'static str;
    /// Whether its forward pass draws from the device's generator in training, as dropout does.
    const HAS_DROPOUT: bool = false;

    /// Its own keys in `[model]`; [`NoKeys`] for none. Those of [`Io`] are there besides.
    type Config: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What is wrong with its keys, or does not go together with the data.
    fn problems(_: &Self::Config, _: &Io) -> Vec<Problem> {
        Vec::new()
    }

    /// The network before training. The device's generator is seeded.
    fn new(config: &Self::Config, io: &Io, device: &Device) -> Self;

    /// The prediction for `x_t`, `[B, in_channels, H, W]` to `[B, out_channels, H, W]`; points are `[B, N, 1, 1]`.
    ///
    /// `t` `[B]` is what networks are conditioned on: the number of the step, from 0; in continuous time what the path makes
    /// of the time. `classes` `[B]` is there where there are [classes](Io::classes).
    fn forward(&self, x_t: Tensor<4>, t: Tensor<1>, classes: Option<Tensor<1, Int>>) -> Tensor<4>;

    /// Has the network compute in this precision, if it can; weights, input and prediction stay in f32.
    fn set_precision(&mut self, _: Precision) {}
}

/// The keys of a network that has none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoKeys {}

/// What goes into a network and comes out of it: its keys in `[model]`, which are filled in from the data and the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Io {
    /// Channels of images, or coordinates of points; twice as many with self-conditioning.
    pub in_channels: usize,
    /// Channels or coordinates of the prediction; twice as many with a learned variance.
    pub out_channels: usize,
    /// Height and width of images; 1 and 1 of points.
    pub size: [usize; 2],
    /// Classes of the condition; 0: unconditional. `"data"`: as many as the data have.
    pub classes: usize,
    /// One more class that stands for none; needed for `train.label_drop` and classifier-free guidance.
    pub null_class: bool,
}

impl Default for Io {
    fn default() -> Self {
        Self { in_channels: 0, out_channels: 0, size: [0, 0], classes: 0, null_class: true }
    }
}

impl Io {
    /// Its keys.
    const KEYS: [&'static str; 5] = ["in_channels", "out_channels", "size", "classes", "null_class"];

    /// The index of the null class, if there is one.
    pub fn null_class(&self) -> Option<usize> {
        (self.classes > 0 && self.null_class).then_some(self.classes)
    }

    /// The rows that an embedding of the classes needs: the null class counts.
    pub fn class_rows(&self) -> usize {
        self.classes + usize::from(self.null_class().is_some())
    }

    /// Fills in what is 0.
    pub(crate) fn fill(&mut self, in_shape: &[usize], out_channels: usize) {
        let (channels, size) = (in_shape.first().copied().unwrap_or(0), size_of(in_shape));
        let wanted = [channels, out_channels, size[0], size[1]];
        let [height, width] = &mut self.size;
        for (value, with) in [&mut self.in_channels, &mut self.out_channels, height, width].into_iter().zip(wanted) {
            if *value == 0 {
                *value = with;
            }
        }
    }

    /// What does not go together with data of this shape.
    fn problems(&self, data_shape: &[usize]) -> Vec<Problem> {
        let (channels, size) = (data_shape.first().copied().unwrap_or(0), size_of(data_shape));
        let mut problems = Vec::new();
        for (key, given, why) in [
            ("in_channels", self.in_channels, "with self-conditioning"),
            ("out_channels", self.out_channels, "where the variance is learned"),
        ] {
            if ![channels, 2 * channels].contains(&given) {
                let message = format!("is {given}; expected {channels} as the data have, or {} {why}", 2 * channels);
                problems.push(Problem::new(key, message));
            }
        }
        if self.size != size {
            problems.push(Problem::new("size", format!("is {:?}; the data have {size:?}", self.size)));
        }
        problems
    }
}

/// Height and width of data of a shape.
fn size_of(data_shape: &[usize]) -> [usize; 2] {
    match data_shape {
        &[_, height, width] => [height, width],
        _ => [1, 1],
    }
}

/// The config of a [`CustomNetwork`], without its type.
#[derive(Clone, Debug)]
pub struct CustomConfig {
    /// What goes in and comes out.
    pub io: Io,
    keys: Arc<dyn AnyKeys>,
}

impl CustomConfig {
    /// That of a network, with everything that follows from the data left open.
    pub fn new<N: CustomNetwork>(config: N::Config) -> Self {
        Self { io: Io::default(), keys: Arc::new(KeysOf::<N>(config, PhantomData)) }
    }

    /// Reads the keys of a table, without its `kind`.
    pub fn read<N: CustomNetwork>(table: Map<String, Value>) -> serde_json::Result<Self> {
        let (io, own): (Map<_, _>, Map<_, _>) =
            table.into_iter().partition(|(key, _)| Io::KEYS.contains(&key.as_str()));
        let io = serde_json::from_value(Value::Object(io))?;
        Ok(Self { io, ..Self::new::<N>(serde_json::from_value(Value::Object(own))?) })
    }

    /// What `[model] kind = "..."` calls the network.
    pub fn kind(&self) -> &'static str {
        self.keys.kind()
    }

    /// Whether its forward pass draws random numbers in training.
    pub fn has_dropout(&self) -> bool {
        self.keys.has_dropout()
    }

    /// Everything that is wrong with it, for data of this shape.
    pub(crate) fn problems(&self, data_shape: &[usize]) -> Vec<Problem> {
        let problems = self.io.problems(data_shape);
        problems.into_iter().chain(self.keys.problems(&self.io)).collect()
    }

    /// Builds the network.
    pub(crate) fn init(&self, device: &Device) -> CustomModule {
        self.keys.init(self, device)
    }

    /// Its kind and all of its keys. TOML has no word for what is not there.
    fn table(&self) -> serde_json::Result<Map<String, Value>> {
        let mut table = Map::from_iter([("kind".to_string(), self.kind().into())]);
        for part in [serde_json::to_value(&self.io)?, self.keys.to_json()?] {
            let Value::Object(keys) = part else {
                return Err(serde_json::Error::custom(format!("the config of {} is no table", self.kind())));
            };
            table.extend(keys.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Ok(table)
    }
}

impl PartialEq for CustomConfig {
    fn eq(&self, other: &Self) -> bool {
        matches!((self.table(), other.table()), (Ok(a), Ok(b)) if a == b)
    }
}

impl Serialize for CustomConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.table().map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// A [`CustomNetwork`] without its type. Its parameters have the names, order and ids that they have in itself.
pub type CustomModule = AnyModule<Computing>;

/// How a network computes.
#[derive(Clone, Debug)]
pub struct Computing {
    /// What it was built from.
    pub config: CustomConfig,
    /// The precision that was set.
    pub precision: Precision,
}

impl CustomModule {
    /// `x_t` `[B, C, H, W]` at the times `[B]` to the prediction. No condition is the null class.
    pub(crate) fn forward(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let Io { classes, out_channels, .. } = self.extra.config.io;
        let ([rows, _, height, width], device) = (x_t.dims(), x_t.device());
        let classes = match condition {
            _ if classes == 0 => None,
            Condition::Class(classes) => Some(classes.clone()),
            Condition::None | Condition::Tokens(_) => {
                self.extra.config.io.null_class().map(|null| Tensor::full([rows], null as i64, &device))
            }
        };
        let y = self.extra.config.keys.forward(self, x_t, t, classes);
        let (kind, expected) = (self.extra.config.kind(), [rows, out_channels, height, width]);
        assert_eq!(y.dims(), expected, "the network {kind} gives a prediction of another shape than it should");
        y
    }

    /// Has the network compute in this precision.
    pub(crate) fn set_precision(&mut self, precision: Precision) {
        self.extra.precision = precision;
        self.extra.config.keys.clone().set_precision(self, precision);
    }

    /// Why the network takes no batch of this shape, if so.
    pub(crate) fn input_problem(&self, shape: &[usize]) -> Option<String> {
        let Io { in_channels, size: [height, width], .. } = self.extra.config.io;
        let expected = [in_channels, height, width];
        let given = shape.get(1..).unwrap_or_default();
        // A point of any rank is one of N coordinates.
        let is_it = (0..given.len().max(3))
            .all(|axis| given.get(axis).copied().unwrap_or(1) == expected.get(axis).copied().unwrap_or(1));
        (!is_it).then(|| format!("it takes items of shape {expected:?}"))
    }
}

/// The keys of a network and what can be done with them.
trait AnyKeys: Debug + Send + Sync {
    fn kind(&self) -> &'static str;
    fn has_dropout(&self) -> bool;
    fn to_json(&self) -> serde_json::Result<Value>;
    fn problems(&self, io: &Io) -> Vec<Problem>;
    fn init(&self, config: &CustomConfig, device: &Device) -> CustomModule;
    fn forward(
        &self,
        module: &CustomModule,
        x_t: Tensor<4>,
        t: Tensor<1>,
        classes: Option<Tensor<1, Int>>,
    ) -> Tensor<4>;
    fn set_precision(&self, module: &mut CustomModule, precision: Precision);
}

/// The keys of a network of this type.
#[derive(Debug)]
struct KeysOf<N: CustomNetwork>(N::Config, PhantomData<fn() -> N>);

impl<N: CustomNetwork> AnyKeys for KeysOf<N> {
    fn kind(&self) -> &'static str {
        N::KIND
    }

    fn has_dropout(&self) -> bool {
        N::HAS_DROPOUT
    }

    fn to_json(&self) -> serde_json::Result<Value> {
        serde_json::to_value(&self.0)
    }

    fn problems(&self, io: &Io) -> Vec<Problem> {
        N::problems(&self.0, io)
    }

    fn init(&self, config: &CustomConfig, device: &Device) -> CustomModule {
        let extra = Computing { config: config.clone(), precision: Precision::F32 };
        AnyModule::with(N::new(&self.0, &config.io, device), extra)
    }

    fn forward(
        &self,
        module: &CustomModule,
        x_t: Tensor<4>,
        t: Tensor<1>,
        classes: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        module.get::<N>().unwrap_or_else(|| another::<N>()).forward(x_t, t, classes)
    }

    fn set_precision(&self, module: &mut CustomModule, precision: Precision) {
        module.get_mut::<N>().unwrap_or_else(|| another::<N>()).set_precision(precision);
    }
}

/// A module has the config that it was built from.
fn another<T: CustomNetwork>() -> ! {
    unreachable!("a module of another type than {}", T::KIND)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
    use serde_json::json;

    use super::*;
    use crate::network::{Network, NetworkConfig};
    use crate::pass::Pass;

    #[derive(Module, Debug)]
    struct Sum {
        channels: Linear,
        classes: Option<Embedding>,
        #[module(skip)]
        precision: Precision,
    }

    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Keys {
        bias: bool,
        #[serde(default)]
        unused: Option<usize>,
    }

    impl CustomNetwork for Sum {
        const KIND: &'static str = "sum";
        type Config = Keys;

        fn problems(config: &Keys, io: &Io) -> Vec<Problem> {
            let refused = !config.bias && io.classes > 0;
            refused.then(|| Problem { key: "bias".into(), message: "classes need it".into() }).into_iter().collect()
        }

        fn new(config: &Keys, io: &Io, device: &Device) -> Self {
            let classes = (io.classes > 0).then(|| EmbeddingConfig::new(io.class_rows(), 1).init(device));
            let channels = LinearConfig::new(io.in_channels, io.out_channels).with_bias(config.bias);
            Self { channels: channels.init(device), classes, precision: Precision::F32 }
        }

        fn set_precision(&mut self, precision: Precision) {
            self.precision = precision;
        }

        fn forward(&self, x_t: Tensor<4>, t: Tensor<1>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
            let y = self.channels.forward(x_t.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]);
            let y = y + t.reshape([-1, 1, 1, 1]);
            match (&self.classes, classes) {
                (Some(table), Some(classes)) => y + table.weight.val().select(0, classes).reshape([-1, 1, 1, 1]),
                (table, classes) => {
                    assert_eq!((table.is_some(), classes.is_some()), (false, false));
                    y
                }
            }
        }
    }

    fn sum(keys: Value) -> NetworkConfig {
        let Value::Object(keys) = keys else { panic!("a table") };
        NetworkConfig::Custom(CustomConfig::read::<Sum>(keys).unwrap())
    }

    #[test]
    fn sizes_follow_from_the_data_and_are_written_with_the_keys() {
        let config = sum(json!({"bias": true, "classes": 3})).with_io(&[2, 4, 5], 4);
        assert_eq!(config.validate(&[2, 4, 5]), Ok(()));
        assert_eq!((config.io(), config.num_classes(), config.null_class()), ([2, 4], 3, Some(3)));
        let written = serde_json::to_value(&config).unwrap();
        let expected = json!({"kind": "sum", "in_channels": 2, "out_channels": 4, "size": [4, 5], "classes": 3,
            "null_class": true, "bias": true});
        assert_eq!(written, expected);
        assert!(config != sum(json!({"bias": false, "classes": 3})).with_io(&[2, 4, 5], 6));
    }

    #[test]
    fn what_is_wrong_is_said_by_key() {
        let config = sum(json!({"bias": false, "classes": 3, "in_channels": 5})).with_io(&[2, 4, 5], 2);
        let error = config.validate(&[2, 4, 4]).unwrap_err().to_string();
        for part in ["in_channels: is 5", "size: is [4, 5]", "bias: classes need it"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let unknown = CustomConfig::read::<Sum>(Map::from_iter([("bais".to_string(), true.into())])).unwrap_err();
        assert!(unknown.to_string().starts_with("unknown field `bais`"), "{unknown}");
    }

    #[test]
    fn images_and_points_keep_their_rank_and_no_condition_is_the_null_class() {
        let device = Device::default();
        let images = sum(json!({"bias": true, "classes": 2})).with_io(&[3, 4, 4], 1).init(&device);
        let x = Tensor::<4>::ones([2, 3, 4, 4], &device);
        let t = || Tensor::<1>::from_floats([1.0, 2.0], &device);
        let classes = |class: i64| Condition::Class(Tensor::full([2], class, &device));
        let y = |condition: &Condition| images.forward(x.clone(), t(), condition);
        assert_eq!(y(&Condition::None).dims(), [2, 1, 4, 4]);
        assert_eq!(y(&Condition::None).into_data(), y(&classes(2)).into_data());
        assert_ne!(y(&Condition::None).into_data(), y(&classes(0)).into_data());

        let points = sum(json!({"bias": true})).with_io(&[3], 3).init(&device);
        assert_eq!(points.forward(Tensor::<2>::ones([2, 3], &device), t(), &Condition::None).dims(), [2, 3]);
        assert_eq!(
            points.forward(Tensor::<4>::ones([2, 3, 1, 1], &device), t(), &Condition::None).dims(),
            [2, 3, 1, 1]
        );
        for (shape, fits) in [(vec![2, 3], true), (vec![2, 3, 1, 1], true), (vec![2, 4], false), (vec![2], false)] {
            assert_eq!(points.check_input(&shape).is_ok(), fits, "{shape:?}");
        }
    }

    #[test]
    fn a_traced_pass_sees_it_as_one_layer() {
        let device = Device::default();
        let network = sum(json!({"bias": true})).with_io(&[1], 1).init(&device);
        let trace = crate::pass::Trace::default();
        let run = |pass: &Pass<'_>| {
            let (x, t) = (Tensor::<2>::ones([1, 1], &device), Tensor::<1>::ones([1], &device));
            network.forward_with(x, t, &Condition::None, None, pass).into_data()
        };
        assert_eq!(run(&trace.pass()), run(&Pass::default()));
        assert_eq!(trace.into_layers().iter().map(|layer| &*layer.path).collect::<Vec<_>>(), ["sum"]);
    }

    #[test]
    fn the_precision_that_is_set_reaches_the_network() {
        let network = sum(json!({"bias": true})).with_io(&[1], 1).init(&Device::default());
        assert_eq!(network.precision(), Precision::F32);
        let network = network.in_precision(Precision::Bf16);
        assert_eq!(network.precision(), Precision::Bf16);
        let Network::Custom(module) = &network else { panic!("a custom network") };
        assert_eq!(module.get::<Sum>().unwrap().precision, Precision::Bf16);
    }
}
