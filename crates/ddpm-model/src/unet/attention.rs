//! Self-attention over the pixels of a feature map.

use burn::module::Module;
use burn::nn::{GroupNorm, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, attention, dense_channels, group_norm};

use super::layers::{Norm, Start, linear};
use crate::pass::Pass;

/// Self-attention with a residual connection.
pub(crate) struct SelfAttentionConfig {
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) norm: Option<Norm>,
}

impl SelfAttentionConfig {
    pub(crate) fn init(&self, device: &Device) -> SelfAttention {
        let channels = self.channels;
        let project = |start| linear(channels, channels, start, device);
        SelfAttention {
            group_norm: self.norm.map(|norm| norm.init(channels, device)),
            to_q: project(Start::Random),
            to_k: project(Start::Random),
            to_v: project(Start::Random),
            to_out: vec![project(Start::Zero)],
            heads: self.heads,
        }
    }
}

/// The module; the names of its fields are those of diffusers' files.
#[derive(Module, Debug)]
pub(crate) struct SelfAttention {
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    // diffusers keeps the projection in a list, so its key is `to_out.0`.
    to_out: Vec<Linear>,
    heads: usize,
}

impl SelfAttention {
    /// `[B, C, H, W]` to the same shape.
    pub(crate) fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let by_heads = [batch, self.heads, channels / self.heads, height * width];

        let h = match &self.group_norm {
            Some(norm) => pass.layer("group_norm", x.clone(), |x| group_norm(norm, x)),
            None => x.clone(),
        };
        let q = pass.layer("to_q", h.clone(), |h| dense_channels(&self.to_q, h, pass.precision)).reshape(by_heads);
        let k = pass.layer("to_k", h.clone(), |h| dense_channels(&self.to_k, h, pass.precision)).reshape(by_heads);
        let v = pass.layer("to_v", h, |h| dense_channels(&self.to_v, h, pass.precision)).reshape(by_heads);

        let h = pass.joined("attention", attention(q, k, v, pass.precision)).reshape([batch, channels, height, width]);
        let h = self
            .to_out
            .iter()
            .fold(h, |h, layer| pass.layer("to_out.0", h, |h| dense_channels(layer, h, pass.precision)));
        pass.joined("sum", add(x, h))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance, activation::softmax};

    fn attention_of(heads: usize) -> SelfAttention {
        let norm = Some(Norm { groups: 2, eps: 1e-6 });
        SelfAttentionConfig { channels: 8, heads, norm }.init(&Device::default())
    }

    #[test]
    fn it_starts_as_the_identity() {
        let x = Tensor::<4>::random([2, 8, 3, 5], Distribution::Default, &Device::default());
        attention_of(2).forward(x.clone(), &Pass::default()).into_data().assert_eq(&x.into_data(), true);
    }

    #[test]
    fn one_head_is_softmax_of_scaled_products() {
        let device = Device::default();
        let mut module = attention_of(1);
        module.to_out = vec![linear(8, 8, Start::Random, &device)];
        let x = Tensor::<4>::random([1, 8, 2, 3], Distribution::Default, &device);

        let h = module.group_norm.as_ref().map_or(x.clone(), |norm| norm.forward(x.clone()));
        let h = h.reshape([8, 6]).transpose();
        let (q, k, v) = (module.to_q.forward(h.clone()), module.to_k.forward(h.clone()), module.to_v.forward(h));
        let weights = softmax(q.matmul(k.transpose()) / 8f64.sqrt(), 1);
        let expected = module.to_out[0].forward(weights.matmul(v)).transpose().reshape([1, 8, 2, 3]) + x.clone();

        module
            .forward(x, &Pass::default())
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }
}
