//! Group normalisation and SiLU as kernels for GPUs.
//!
//! A cube does one group of one sample. It reads the group two or three times, but from memory only once: at the sizes of a
//! U-Net the rest comes from the cache. Everything is computed in `f32`, whatever the tensors are made of.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::Activation;
use crate::cube::{Team, cube_sum, empty, output_like, row_sum, vector_size};

/// Units of the cubes that add up over the samples.
const CHANNELS_PER_CUBE: u32 = 64;

/// What a normalisation is, beside its tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(super) groups: usize,
    pub(super) epsilon: f64,
    pub(super) activation: Activation,
}

/// The tensors of a normalisation, without gaps.
pub(super) struct Inputs {
    x: CubeTensor,
    gamma: CubeTensor,
    beta: CubeTensor,
    /// Scales and then shifts, `[batch, 2 * channels]`.
    modulation: Option<CubeTensor>,
}

impl Inputs {
    /// `x` is `[batch, channels, ..]`.
    pub(super) fn new(x: CubeTensor, gamma: CubeTensor, beta: CubeTensor, modulation: Option<CubeTensor>) -> Self {
        let [x, gamma, beta] = [x, gamma, beta].map(into_contiguous);
        Self { x, gamma, beta, modulation: modulation.map(into_contiguous) }
    }

    fn batch(&self) -> usize {
        self.x.meta.shape()[0]
    }

    fn channels(&self) -> usize {
        self.x.meta.shape()[1]
    }

    fn plane(&self) -> usize {
        self.x.meta.shape()[2..].iter().product()
    }

    /// Without values yet.
    fn gamma_like(&self) -> CubeTensor {
        empty(&self.gamma, [self.channels()], DType::F32)
    }

    /// The argument of a kernel that reads it only where there is one.
    fn modulation_arg(&self) -> BufferArg {
        self.modulation.as_ref().unwrap_or(&self.gamma).clone().into_buffer_arg()
    }
}

/// `activation(norm(x))`, or `activation(norm(x) * (1 + scale) + shift)`; and mean and inverse deviation of each group of
/// each sample, side by side.
pub(super) fn forward(inputs: Inputs, settings: Settings) -> (CubeTensor, CubeTensor) {
    let client = inputs.x.client.clone();
    let (batch, channels, plane) = (inputs.batch(), inputs.channels(), inputs.plane());
    let (cubes, group_channels) = (batch * settings.groups, channels / settings.groups);
    let vector = vector_size(&inputs.x, plane);
    let team = Team::new(&client, group_channels * plane / vector);
    let y = empty(&inputs.x, inputs.x.meta.shape().clone(), inputs.x.dtype);
    let statistics = empty(&inputs.x, [2 * cubes], DType::F32);
    let modulation = inputs.modulation_arg();
    forward_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, cubes, CubeDim::new_single()),
        team.cube_dim(),
        vector,
        inputs.x.into_buffer_arg(),
        inputs.gamma.into_buffer_arg(),
        inputs.beta.into_buffer_arg(),
        modulation,
        y.clone().into_buffer_arg(),
        statistics.clone().into_buffer_arg(),
        plane / vector,
        group_channels,
        settings.groups,
        cubes,
        settings.epsilon as f32,
        settings.activation == Activation::Silu,
        inputs.modulation.is_some(),
        team,
        dtype_to_storage_type(y.dtype),
    );
    (y, statistics)
}

/// The gradients of `x`, `gamma` and `beta` of [`forward`], from that of its output and from its statistics.
pub(super) fn backward(
    dy: CubeTensor,
    inputs: Inputs,
    statistics: CubeTensor,
    settings: Settings,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (batch, channels) = (inputs.batch(), inputs.channels());
    let (dx, sums) = of_input(dy, &inputs, statistics, settings);
    let (dgamma, dbeta) = (inputs.gamma_like(), inputs.gamma_like());
    let cube_dim = CubeDim::new_1d(CHANNELS_PER_CUBE);
    parameters_kernel::launch(
        &dx.client,
        calculate_cube_count_elemwise(&dx.client, channels, cube_dim),
        cube_dim,
        sums.into_buffer_arg(),
        dgamma.clone().into_buffer_arg(),
        dbeta.clone().into_buffer_arg(),
        batch,
        channels,
    );
    (dx, dgamma, dbeta)
}

/// The same, and the gradient of the scales and shifts, which there must be.
pub(super) fn modulated_backward(
    dy: CubeTensor,
    inputs: Inputs,
    statistics: CubeTensor,
    settings: Settings,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let (batch, channels) = (inputs.batch(), inputs.channels());
    let (dx, sums) = of_input(dy, &inputs, statistics, settings);
    let (dgamma, dbeta) = (inputs.gamma_like(), inputs.gamma_like());
    let dmodulation = empty(&dx, [batch, 2 * channels], DType::F32);
    let cube_dim = CubeDim::new_1d(CHANNELS_PER_CUBE);
    modulated_parameters_kernel::launch(
        &dx.client,
        calculate_cube_count_elemwise(&dx.client, channels, cube_dim),
        cube_dim,
        sums.into_buffer_arg(),
        inputs.modulation_arg(),
        inputs.gamma.into_buffer_arg(),
        inputs.beta.into_buffer_arg(),
        dgamma.clone().into_buffer_arg(),
        dbeta.clone().into_buffer_arg(),
        dmodulation.clone().into_buffer_arg(),
        batch,
        channels,
    );
    (dx, dgamma, dbeta, dmodulation)
}

/// The gradient of `x`, and the sums over pixels that [`backward_kernel`] leaves.
fn of_input(dy: CubeTensor, inputs: &Inputs, statistics: CubeTensor, settings: Settings) -> (CubeTensor, CubeTensor) {
    let client = dy.client.clone();
    let (batch, channels, plane) = (inputs.batch(), inputs.channels(), inputs.plane());
    let (cubes, group_channels) = (batch * settings.groups, channels / settings.groups);
    let dy = into_contiguous(dy);
    let vector = vector_size(&inputs.x, plane);
    let team = Team::new(&client, group_channels * plane / vector);
    let sums = empty(&dy, [2 * batch * channels], DType::F32);
    let (dx, dx_arg) = output_like(&dy, 0);
    backward_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, cubes, CubeDim::new_single()),
        team.cube_dim(),
        vector,
        dy.into_buffer_arg(),
        inputs.x.clone().into_buffer_arg(),
        inputs.gamma.clone().into_buffer_arg(),
        inputs.beta.clone().into_buffer_arg(),
        inputs.modulation_arg(),
        statistics.into_buffer_arg(),
        dx_arg,
        sums.clone().into_buffer_arg(),
        plane / vector,
        group_channels,
        settings.groups,
        cubes,
        settings.activation == Activation::Silu,
        inputs.modulation.is_some(),
        team,
        dtype_to_storage_type(dx.dtype),
    );
    (dx, sums)
}

/// What a normalised value of a channel is multiplied by, and what is added then.
#[derive(CubeType)]
struct Affine {
    scale: f32,
    shift: f32,
}

#[cube]
fn affine(
    gamma: &[f32],
    beta: &[f32],
    modulation: &[f32],
    sample: usize,
    channel: usize,
    channels: usize,
    #[comptime] modulated: bool,
) -> Affine {
    if comptime!(modulated) {
        let first = 2 * sample * channels + channel;
        let factor = 1.0 + modulation[first];
        Affine { scale: gamma[channel] * factor, shift: beta[channel] * factor + modulation[first + channels] }
    } else {
        Affine { scale: gamma[channel], shift: beta[channel] }
    }
}

#[cube]
fn sigmoid<N: Size>(z: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::new(1.0f32);
    one / (one + (-z).exp())
}

/// The gradient with respect to `z`, of a value `activation(z)`.
#[cube]
fn through_activation<N: Size>(dy: Vector<f32, N>, z: Vector<f32, N>, #[comptime] activated: bool) -> Vector<f32, N> {
    if comptime!(activated) {
        let one = Vector::new(1.0f32);
        let gate = sigmoid(z);
        dy * gate * (one + z * (one - gate))
    } else {
        dy
    }
}

/// `plane` counts vectors, `group_channels` the channels of a group.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn forward_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    gamma: &[f32],
    beta: &[f32],
    modulation: &[f32],
    y: &mut [Vector<F, N>],
    statistics: &mut [f32],
    plane: usize,
    group_channels: usize,
    groups: usize,
    cubes: usize,
    epsilon: f32,
    #[comptime] activated: bool,
    #[comptime] modulated: bool,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let units = comptime!(team.units());
    let mut shared = Shared::<[f32]>::new_slice(units);
    let vectors = group_channels * plane;
    let start = CUBE_POS * vectors;
    let count = f32::cast_from(vectors * N::value());

    let mut values = Vector::<f32, N>::zeroed();
    let mut i = UNIT_POS as usize;
    while i < vectors {
        values += Vector::cast_from(x[start + i]);
        i += units;
    }
    let mean = cube_sum(Vector::vector_sum(values), &mut shared, team) / count;

    let mut squares = Vector::<f32, N>::zeroed();
    let mut i = UNIT_POS as usize;
    while i < vectors {
        let centred = Vector::<f32, N>::cast_from(x[start + i]) - Vector::new(mean);
        squares += centred * centred;
        i += units;
    }
    let variance = cube_sum(Vector::vector_sum(squares), &mut shared, team) / count;
    let inverse_deviation = 1.0 / (variance + epsilon).sqrt();
    if UNIT_POS == 0 {
        statistics[2 * CUBE_POS] = mean;
        statistics[2 * CUBE_POS + 1] = inverse_deviation;
    }

    let sample = CUBE_POS / groups;
    let first_channel = (CUBE_POS % groups) * group_channels;
    let channels = groups * group_channels;
    let mut i = UNIT_POS as usize;
    while i < vectors {
        let affine = affine(gamma, beta, modulation, sample, first_channel + i / plane, channels, modulated);
        let centred = Vector::<f32, N>::cast_from(x[start + i]) - Vector::new(mean);
        let z = centred * Vector::new(inverse_deviation * affine.scale) + Vector::new(affine.shift);
        if comptime!(activated) {
            y[start + i] = Vector::cast_from(z * sigmoid(z));
        } else {
            y[start + i] = Vector::cast_from(z);
        }
        i += units;
    }
}

/// Per channel and sample, `sums` holds the sum of the gradients with respect to what the affine map gives, and then, for
/// all again, the sum of their products with the normalised values. `dx` may lie in the place of `dy`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float, N: Size>(
    dy: &[Vector<F, N>],
    x: &[Vector<F, N>],
    gamma: &[f32],
    beta: &[f32],
    modulation: &[f32],
    statistics: &[f32],
    dx: &mut [Vector<F, N>],
    sums: &mut [f32],
    plane: usize,
    group_channels: usize,
    groups: usize,
    cubes: usize,
    #[comptime] activated: bool,
    #[comptime] modulated: bool,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let units = comptime!(team.units());
    let mut shared = Shared::<[f32]>::new_slice(units);
    let vectors = group_channels * plane;
    let start = CUBE_POS * vectors;
    let sample = CUBE_POS / groups;
    let first_channel = (CUBE_POS % groups) * group_channels;
    let channels = groups * group_channels;
    let mean = Vector::<f32, N>::new(statistics[2 * CUBE_POS]);
    let inverse_deviation = Vector::<f32, N>::new(statistics[2 * CUBE_POS + 1]);

    // A row does one channel at a time.
    let mut gradient = 0.0f32;
    let mut product = 0.0f32;
    let mut round = 0usize;
    while round < group_channels {
        let channel = round + UNIT_POS_Y as usize;
        let mut of_unit = Vector::<f32, N>::zeroed();
        let mut product_of_unit = Vector::<f32, N>::zeroed();
        let mut scale = 0.0f32;
        if channel < group_channels {
            let affine = affine(gamma, beta, modulation, sample, first_channel + channel, channels, modulated);
            scale = affine.scale;
            let first = start + channel * plane;
            let mut i = UNIT_POS_X as usize;
            while i < plane {
                let x_hat = (Vector::<f32, N>::cast_from(x[first + i]) - mean) * inverse_deviation;
                let z = x_hat * Vector::new(affine.scale) + Vector::new(affine.shift);
                let dz = through_activation(Vector::<f32, N>::cast_from(dy[first + i]), z, activated);
                of_unit += dz;
                product_of_unit += dz * x_hat;
                i += comptime!(team.lanes);
            }
        }
        let of_channel = row_sum(Vector::vector_sum(of_unit), &mut shared, team);
        let product_of_channel = row_sum(Vector::vector_sum(product_of_unit), &mut shared, team);
        if channel < group_channels && UNIT_POS_X == 0 {
            let place = sample * channels + first_channel + channel;
            sums[place] = of_channel;
            sums[cubes * group_channels + place] = product_of_channel;
            gradient += scale * of_channel;
            product += scale * product_of_channel;
        }
        round += comptime!(team.rows);
    }
    let count = f32::cast_from(vectors * N::value());
    let gradient = Vector::<f32, N>::new(cube_sum(gradient, &mut shared, team) / count);
    let product = Vector::<f32, N>::new(cube_sum(product, &mut shared, team) / count);

    let mut i = UNIT_POS as usize;
    while i < vectors {
        let affine = affine(gamma, beta, modulation, sample, first_channel + i / plane, channels, modulated);
        let scale = Vector::<f32, N>::new(affine.scale);
        let x_hat = (Vector::<f32, N>::cast_from(x[start + i]) - mean) * inverse_deviation;
        let z = x_hat * scale + Vector::new(affine.shift);
        let dz = through_activation(Vector::<f32, N>::cast_from(dy[start + i]), z, activated);
        dx[start + i] = Vector::cast_from((dz * scale - gradient - x_hat * product) * inverse_deviation);
        i += units;
    }
}

/// Adds up over the samples, in their order. A unit does a channel.
#[cube(launch)]
fn parameters_kernel(sums: &[f32], dgamma: &mut [f32], dbeta: &mut [f32], batch: usize, channels: usize) {
    let channel = ABSOLUTE_POS;
    if channel >= channels {
        terminate!();
    }
    let mut gradient = 0.0f32;
    let mut product = 0.0f32;
    for sample in 0..batch {
        gradient += sums[sample * channels + channel];
        product += sums[(batch + sample) * channels + channel];
    }
    dgamma[channel] = product;
    dbeta[channel] = gradient;
}

/// The same, where every sample has scales and shifts of its own.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn modulated_parameters_kernel(
    sums: &[f32],
    modulation: &[f32],
    gamma: &[f32],
    beta: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    dmodulation: &mut [f32],
    batch: usize,
    channels: usize,
) {
    let channel = ABSOLUTE_POS;
    if channel >= channels {
        terminate!();
    }
    let mut gradient = 0.0f32;
    let mut product = 0.0f32;
    for sample in 0..batch {
        let of_sample = sums[sample * channels + channel];
        let product_of_sample = sums[(batch + sample) * channels + channel];
        let place = 2 * sample * channels + channel;
        let factor = 1.0 + modulation[place];
        gradient += factor * of_sample;
        product += factor * product_of_sample;
        dmodulation[place] = gamma[channel] * product_of_sample + beta[channel] * of_sample;
        dmodulation[place + channels] = of_sample;
    }
    dgamma[channel] = product;
    dbeta[channel] = gradient;
}
