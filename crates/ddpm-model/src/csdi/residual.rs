//! One residual layer: attention over the times, then over the variables, and a gate.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv1d;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Gate, dense_sum, gated_residual, shifted_state};

use std::f64::consts::FRAC_1_SQRT_2;

use super::config::CsdiConfig;
use super::layers::{apply, apply_pointwise, linear, pointwise, weights};
use super::transformer::Encoder;
use crate::pass::Pass;

#[derive(Module, Debug)]
pub(super) struct ResidualLayer {
    diffusion_projection: Linear,
    cond_projection: Conv1d,
    mid_projection: Conv1d,
    output_projection: Conv1d,
    time_layer: Encoder,
    feature_layer: Option<Encoder>,
}

impl ResidualLayer {
    pub(super) fn init(config: &CsdiConfig, device: &Device) -> Self {
        let channels = config.channels;
        let encoder = || Encoder::init(channels, config.heads, config.linear_attention, device);
        Self {
            diffusion_projection: linear(config.step_embedding, channels, device),
            cond_projection: pointwise(config.side_channels(), 2 * channels, device),
            mid_projection: pointwise(channels, 2 * channels, device),
            output_projection: pointwise(channels, 2 * channels, device),
            time_layer: encoder(),
            feature_layer: config.feature_layer.then(encoder),
        }
    }

    /// The state `[B, K, L, C]` with the side information `[B, K, L, S]` and the embedding of the step `[B, E]` to the next
    /// state and what goes to the output.
    pub(super) fn forward(
        &self,
        state: Tensor<4>,
        side: Tensor<4>,
        step: Tensor<2>,
        pass: &Pass<'_>,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, _, _, channels] = state.dims();
        let step = apply("diffusion_projection", &self.diffusion_projection, step, pass);
        let y = state.clone() + step.reshape([batch, 1, 1, channels]);
        let y = self.over_features(self.over_time(y, pass), pass);
        let y = apply_pointwise("mid_projection", &self.mid_projection, y, pass)
            + apply_pointwise("cond_projection", &self.cond_projection, side, pass);
        let [gate, filter] = halves(y);
        let gated = pass.joined("gate", sigmoid(gate) * filter.tanh());
        let [residual, skip] = halves(apply_pointwise("output_projection", &self.output_projection, gated, pass));
        ((state + residual) * FRAC_1_SQRT_2, skip)
    }

    /// The same by kernels, where there are some, with what goes to the output added to a sum: `[B, K, L, 2C]` holds the state
    /// and the sum.
    pub(super) fn fused(
        &self,
        carried: Tensor<4>,
        side: Tensor<4>,
        step: Tensor<2>,
        pass: &Pass<'_>,
    ) -> Option<Tensor<4>> {
        let [batch, variables, length, twice] = carried.dims();
        let shape = [batch, variables, length, twice / 2];
        let step = apply("diffusion_projection", &self.diffusion_projection, step, pass);
        let y = shifted_state(carried.clone().reshape([batch, variables * length, twice]), step)?.reshape(shape);
        let y = self.over_features(self.over_time(y, pass), pass);
        let ((mid, mid_bias), (cond, cond_bias)) = (weights(&self.mid_projection)?, weights(&self.cond_projection)?);
        let before = dense_sum((y, mid), (side, cond), mid_bias + cond_bias)?;
        gated_residual(carried, before, Gate::First, weights(&self.output_projection)?, twice / 2)
    }

    /// Every variable's times are one sequence.
    fn over_time(&self, y: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let [batch, variables, length, channels] = y.dims();
        if length == 1 {
            return y;
        }
        let sequences = y.reshape([batch * variables, length, 1, channels]);
        let attended = self.time_layer.forward(sequences, &pass.inside(format_args!("time_layer")));
        attended.reshape([batch, variables, length, channels])
    }

    /// Every time's variables are one sequence.
    fn over_features(&self, y: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        match &self.feature_layer {
            Some(layer) if y.dims()[1] > 1 => layer.forward(y, &pass.inside(format_args!("feature_layer"))),
            _ => y,
        }
    }
}

fn halves(x: Tensor<4>) -> [Tensor<4>; 2] {
    let half = x.dims()[3] / 2;
    [x.clone().narrow(3, 0, half), x.narrow(3, half, half)]
}
