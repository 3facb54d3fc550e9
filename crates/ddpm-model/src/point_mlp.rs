//! A network for points: dense layers whose outputs are scaled by a function of the time.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation::relu};
use ddpm_kernels::{Precision, dense, silu};
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::embedding::{SinusoidConfig, class_features};
use crate::network::Problem;
use crate::pass::Pass;

/// A time-conditioned multi-layer perceptron for points `[B, dims]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PointMlpConfig {
    /// Coordinates of the input; 0: as the data have.
    pub in_dims: usize,
    /// Coordinates of the output, twice those of the data where the variance is learned; 0: as needed.
    pub out_dims: usize,
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Width of the time embedding.
    pub embedding_width: usize,
    /// Sinusoidal embedding of the time. Write both keys or none: one left out is that of the U-Net.
    pub embedding: SinusoidConfig,
    /// Number of classes; 0: unconditional. `"data"`: as many as the data have.
    pub classes: usize,
    /// One more class that stands for none; needed for `train.label_drop` and classifier-free guidance.
    pub null_class: bool,
}

impl PointMlpConfig {
    /// The index of the null class, if there is one.
    pub fn null_class(&self) -> Option<usize> {
        (self.classes > 0 && self.null_class).then_some(self.classes)
    }

    /// All reasons why this network cannot be built for data of this shape.
    pub fn problems(&self, data_shape: &[usize]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));
        if self.hidden.contains(&0) {
            report("hidden", "a layer needs at least one value".into());
        }
        if let Some(message) = self.embedding.problem(self.embedding_width) {
            report("embedding_width", message);
        }
        let &[dims] = data_shape else {
            let message = format!("a point network takes points [coordinates], the data are {data_shape:?}");
            report("kind", message);
            return problems;
        };
        if ![dims, 2 * dims].contains(&self.in_dims) {
            let message = format!(
                "is {}; expected {dims} as the data have, or {} with self-conditioning",
                self.in_dims,
                2 * dims
            );
            report("in_dims", message);
        }
        if ![dims, 2 * dims].contains(&self.out_dims) {
            let message = format!(
                "is {}; expected {dims} as the data have, or {} where the variance is learned",
                self.out_dims,
                2 * dims
            );
            report("out_dims", message);
        }
        problems
    }

    /// Builds the network. The config must have no [`problems`](Self::problems).
    pub fn init(&self, device: &Device) -> PointMlp {
        let widths: Vec<usize> =
            std::iter::once(self.in_dims).chain(self.hidden.iter().copied()).chain([self.out_dims]).collect();
        let rows = self.classes + usize::from(self.null_class);
        PointMlp {
            layers: widths
                .windows(2)
                .map(|pair| TimeLinear::init(pair[0], pair[1], self.embedding_width, device))
                .collect(),
            class_embedding: (self.classes > 0).then(|| EmbeddingConfig::new(rows, self.embedding_width).init(device)),
            config: self.clone(),
            precision: Precision::F32,
        }
    }

    /// Values that a training step keeps for one point.
    pub(crate) fn kept_values(&self) -> usize {
        // Per layer: the product, its two factors, the activation, and the time's own hidden layer twice.
        2 * self.embedding_width + 6 * (self.hidden.iter().sum::<usize>() + self.out_dims)
    }
}

impl Default for PointMlpConfig {
    fn default() -> Self {
        Self {
            in_dims: 0,
            out_dims: 0,
            hidden: vec![128, 128, 128],
            embedding_width: 256,
            embedding: SinusoidConfig::improved(),
            classes: 0,
            null_class: true,
        }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct PointMlp {
    layers: Vec<TimeLinear>,
    class_embedding: Option<Embedding>,
    #[module(skip)]
    config: PointMlpConfig,
    #[module(skip)]
    pub(crate) precision: Precision,
}

impl PointMlp {
    /// The config that this network was built from.
    pub fn config(&self) -> &PointMlpConfig {
        &self.config
    }

    /// `x_t` `[B, dims]` at the times `[B]` to the prediction `[B, out]`.
    pub fn forward(&self, x_t: Tensor<2>, t: Tensor<1>, condition: &Condition) -> Tensor<2> {
        self.forward_in(x_t, t, condition, &Pass::default())
    }

    pub(crate) fn forward_in(&self, x_t: Tensor<2>, t: Tensor<1>, condition: &Condition, pass: &Pass<'_>) -> Tensor<2> {
        let (pass, dtype) = (&pass.of(self.precision), x_t.dtype());
        let ([batch], device) = (t.dims(), t.device());
        let mut time = self.config.embedding.embed(t, self.config.embedding_width);
        if let Some(table) = &self.class_embedding {
            if let Some(class) = class_features(table, self.config.null_class(), condition, batch, &device) {
                time = pass.joined("class_embedding", time + class);
            }
        } else {
            debug_assert!(matches!(condition, Condition::None), "this network is not class-conditional");
        }

        let time = pass.precision.carried(time);
        let mut h = pass.precision.carried(x_t);
        for (i, layer) in self.layers.iter().enumerate() {
            let input = if i == 0 { h } else { relu(h) };
            h = layer.forward(input, time.clone(), &pass.inside(format_args!("layers.{i}")));
        }
        h.cast(dtype)
    }
}

/// A dense layer whose output is multiplied by a small network of the time.
#[derive(Module, Debug)]
struct TimeLinear {
    fc: Linear,
    time_1: Linear,
    time_2: Linear,
}

impl TimeLinear {
    fn init(inputs: usize, outputs: usize, time_width: usize, device: &Device) -> Self {
        // PyTorch's initial values, which Burn shares: the recipe was tuned with them.
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        Self { fc: linear(inputs, outputs), time_1: linear(time_width, outputs), time_2: linear(outputs, outputs) }
    }

    fn forward(&self, x: Tensor<2>, time: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let time = pass.layer("time_1", time, |time| dense(&self.time_1, time, pass.precision));
        let scale = pass.layer("time_2", silu(time), |time| dense(&self.time_2, time, pass.precision));
        let h = pass.layer("fc", x, |x| dense(&self.fc, x, pass.precision));
        pass.joined("product", h * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Int};

    fn config() -> PointMlpConfig {
        PointMlpConfig { in_dims: 2, out_dims: 2, classes: 3, ..PointMlpConfig::default() }
    }

    fn points(device: &Device) -> (Tensor<2>, Tensor<1>) {
        (
            Tensor::random([4, 2], Distribution::Normal(0.0, 1.0), device),
            Tensor::from_floats([0.0, 1.0, 500.5, 999.0], device),
        )
    }

    #[test]
    fn the_default_is_the_recipe() {
        let config = PointMlpConfig { classes: 0, ..config() };
        assert_eq!(config.problems(&[2]), vec![]);
        let network = config.init(&Device::default());
        let layer = |inputs: usize, outputs: usize| (inputs + 1 + 257 + outputs + 1) * outputs;
        assert_eq!(network.num_params(), layer(2, 128) + 2 * layer(128, 128) + layer(128, 2));
        let (x, t) = points(&Device::default());
        assert_eq!(network.forward(x, t, &Condition::None).dims(), [4, 2]);
    }

    #[test]
    fn times_and_classes_matter_and_no_condition_is_the_null_class() {
        let device = Device::default();
        let network = config().init(&device);
        let (x, t) = points(&device);
        let of = |class: i64| Condition::Class(Tensor::<1, Int>::from_ints([class; 4], &device));
        let run = |t: Tensor<1>, condition: &Condition| network.forward(x.clone(), t, condition).into_data();
        assert_eq!(run(t.clone(), &Condition::None), run(t.clone(), &of(3)));
        assert_ne!(run(t.clone(), &of(0)), run(t.clone(), &of(1)));
        assert_ne!(run(t.clone(), &of(0)), run(t + 1.0, &of(0)));
    }

    #[test]
    fn every_layer_gets_a_gradient() {
        let device = Device::default().autodiff();
        let network = config().init(&device);
        let (x, t) = points(&device);
        let y = network.forward(x, t, &Condition::None);
        let grads = y.square().mean().backward();
        for layer in &network.layers {
            for linear in [&layer.fc, &layer.time_1, &layer.time_2] {
                let grad = linear.weight.val().grad(&grads);
                assert!(grad.is_some_and(|grad| grad.abs().max().into_scalar::<f32>() > 0.0));
            }
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = PointMlpConfig { hidden: vec![0], embedding_width: 3, out_dims: 5, ..config() };
        let keys: Vec<String> = config.problems(&[3]).into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["hidden", "embedding_width", "in_dims", "out_dims"]);
        assert_eq!(config.problems(&[3, 8, 8]).last().map(|problem| problem.key.as_str()), Some("kind"));
    }
}
