//! The convolutions with weight normalization and the residual block.
//!
//! Field names spell the keys of SSSD's checkpoints.
#![allow(non_snake_case)]

use std::f64::consts::FRAC_1_SQRT_2;

use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, activation};
use ddpm_kernels::{Gate, add, dense, dense_rows, gated_residual, shifted_state, short_convolution, weight_norm};

use super::config::{SequenceLayer, SssdConfig};
use super::s4::{KernelBasis, S4Layer};
use crate::pass::Pass;

/// A convolution that keeps the length, with the weight `g v / |v|` (Salimans & Kingma 2016).
#[derive(Module, Debug)]
pub(super) struct WeightNormConv {
    bias: Param<Tensor<1>>,
    weight_g: Param<Tensor<3>>,
    weight_v: Param<Tensor<3>>,
}

impl WeightNormConv {
    pub(super) fn init([inputs, outputs]: [usize; 2], kernel: usize, device: &Device) -> Self {
        let bound = 1.0 / ((inputs * kernel) as f64).sqrt();
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        Self {
            bias: uniform.init([outputs], device),
            // The root of the expected |v|^2: the weight starts as PyTorch's.
            weight_g: Initializer::Constant { value: (1.0_f64 / 3.0).sqrt() }.init([outputs, 1, 1], device),
            weight_v: uniform.init([outputs, inputs, kernel], device),
        }
    }

    fn weight(&self) -> Tensor<3> {
        let (v, g) = (self.weight_v.val(), self.weight_g.val());
        weight_norm(v.clone(), g.clone()).unwrap_or_else(|| {
            let norm = v.clone().square().sum_dim(2).sum_dim(1).sqrt();
            v * (g / norm)
        })
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.dilated(x, 1)
    }

    fn dilated(&self, x: Tensor<3>, dilation: usize) -> Tensor<3> {
        convolution(x, self.weight(), self.bias.val(), dilation)
    }
}

/// A convolution of odd width that keeps the length.
pub(super) fn convolution(x: Tensor<3>, weight: Tensor<3>, bias: Tensor<1>, dilation: usize) -> Tensor<3> {
    let [outputs, inputs, width] = weight.dims();
    match width {
        1 => weight.reshape([1, outputs, inputs]).matmul(x) + bias.reshape([1, outputs, 1]),
        _ => conv1d(x, weight, Some(bias), ConvOptions::new([1], [dilation * (width / 2)], [dilation], 1)),
    }
}

/// A module of its own for keys such as `cond_conv.conv.bias`.
#[derive(Module, Debug)]
pub(super) struct Conv {
    conv: WeightNormConv,
}

impl Conv {
    pub(super) fn init(channels: [usize; 2], kernel: usize, device: &Device) -> Self {
        Self { conv: WeightNormConv::init(channels, kernel, device) }
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.conv.forward(x)
    }

    fn dilated(&self, x: Tensor<3>, dilation: usize) -> Tensor<3> {
        self.conv.dilated(x, dilation)
    }

    /// Of `[B, L, inputs]`, by a kernel if there is one.
    pub(super) fn of_rows(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        let (weight, bias) = (self.conv.weight(), self.conv.bias.val());
        if weight.dims()[2] == 1 { dense_rows(x, weight, bias) } else { short_convolution(x, weight, bias) }
    }
}

/// A residual block: a convolution and two S4 layers, the condition between them, and a gate; or a dilated convolution without
/// the S4 layers.
#[derive(Module, Debug)]
pub(super) struct ResidualBlock {
    fc_t: Linear,
    S41: Option<S4Layer>,
    conv_layer: Conv,
    S42: Option<S4Layer>,
    cond_conv: Conv,
    res_conv: WeightNormConv,
    skip_conv: WeightNormConv,
    dilation: usize,
}

impl ResidualBlock {
    /// The block of this number.
    pub(super) fn init(config: &SssdConfig, number: usize, device: &Device) -> Self {
        let s4 = || (config.layer != SequenceLayer::Dilated).then(|| S4Layer::init(config.s4(), device));
        let (residual, features) = (config.residual_channels, config.features());
        Self {
            fc_t: LinearConfig::new(config.step_features, residual).init(device),
            S41: s4(),
            conv_layer: Conv::init([residual, features], 3, device),
            S42: s4(),
            cond_conv: Conv::init([2 * config.in_channels, features], 1, device),
            res_conv: WeightNormConv::init([residual, residual], 1, device),
            skip_conv: WeightNormConv::init([residual, config.skip_channels], 1, device),
            dilation: config.dilation(number),
        }
    }

    /// The logarithms of the step sizes of its S4 layers.
    pub(super) fn step_sizes(&self) -> impl Iterator<Item = Tensor<1>> {
        [&self.S41, &self.S42].into_iter().flatten().map(S4Layer::step_sizes)
    }

    pub(super) fn bases(&self, config: &SssdConfig, length: usize) -> [KernelBasis; 2] {
        let basis = |layer: &Option<S4Layer>| match layer {
            Some(layer) => layer.basis(config.kernel_sum, length),
            None => KernelBasis::none(length),
        };
        [&self.S41, &self.S42].map(basis)
    }

    /// What goes on to the next block, and what is added to the sum over the blocks.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        condition: Tensor<3>,
        step: Tensor<2>,
        bases: &[KernelBasis; 2],
        pass: &Pass<'_>,
    ) -> [Tensor<3>; 2] {
        let s4 = |name: &str, layer: &Option<S4Layer>, h: Tensor<3>, basis: &KernelBasis| {
            let Some(layer) = layer else { return h };
            let inside = pass.inside(format_args!("{name}"));
            pass.layer(name, h, |h| layer.forward(h, basis, &inside))
        };
        let step = pass.layer("fc_t", step, |step| dense(&self.fc_t, step, pass.precision));
        let h = x.clone() + step.unsqueeze_dim(2);
        let h = pass.layer("conv_layer", h, |h| self.conv_layer.dilated(h, self.dilation));
        let h = s4("S41", &self.S41, h, &bases[0]);
        let h = h + pass.layer("cond_conv", condition, |condition| self.cond_conv.forward(condition));
        let h = s4("S42", &self.S42, h, &bases[1]);
        let residual = x.dims()[1];
        let half = |i: usize| h.clone().narrow(1, i * residual, residual);
        let gated = activation::tanh(half(0)) * activation::sigmoid(half(1));
        let out = pass.layer("res_conv", gated.clone(), |gated| self.res_conv.forward(gated));
        let skip = pass.layer("skip_conv", gated, |gated| self.skip_conv.forward(gated));
        [(x + out) * FRAC_1_SQRT_2, skip]
    }

    /// The same by kernels, where there are some, with places before channels and with what is added to the sum added:
    /// `carried` `[B, L, residual + skip]` holds what goes on and the sum.
    pub(super) fn fused(
        &self,
        carried: Tensor<3>,
        condition: Tensor<3>,
        step: Tensor<2>,
        bases: &[KernelBasis; 2],
        last: bool,
        pass: &Pass<'_>,
    ) -> Option<Tensor<3>> {
        let (first, second) = (self.S41.as_ref()?, self.S42.as_ref()?);
        let h = shifted_state(carried.clone(), dense(&self.fc_t, step, pass.precision))?;
        let h = first.fused(self.conv_layer.of_rows(h)?, &bases[0])?;
        let h = second.fused(add(h, self.cond_conv.of_rows(condition)?), &bases[1])?;
        let (skip, skip_bias) = (self.skip_conv.weight(), self.skip_conv.bias.val());
        let [residual, inputs, _] = self.res_conv.weight_v.dims();
        let (on, on_bias) = match last {
            false => (self.res_conv.weight(), self.res_conv.bias.val()),
            // Nothing goes on from here: these weights have no gradient.
            true => {
                let options = (&skip.device(), skip.dtype());
                (Tensor::zeros([residual, inputs, 1], options), Tensor::zeros([residual], options))
            }
        };
        let weight = Tensor::cat(vec![on, skip], 0);
        let bias = Tensor::cat(vec![on_bias, skip_bias], 0);
        gated_residual(carried, h, Gate::Second, (weight, bias), residual)
    }
}
