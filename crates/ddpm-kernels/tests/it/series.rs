//! The kernels of networks for time series against plain operations of Burn in f64, which no kernel takes: outputs and all
//! gradients, for odd sizes, and the same bits for any number of threads.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::activation::{leaky_relu, sigmoid, softmax};
use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use ddpm_kernels::{
    CircleBlock, EncoderLayer, Gate, Slope, circle_block, circle_end, circle_start, dense_rows, dense_sum,
    encoder_layer, gated_recurrence, gated_residual, gelu, kernels_of_basis, long_convolution,
    long_short_term_recurrence, mixed_norm, shifted_state, short_convolution, weight_norm,
};
use support::{Outcome, assert_close, assert_independent_of_threads};

use crate::support;

/// What values and gradients may be off by, relative to the largest.
const TOLERANCE: f32 = 2e-5;

/// Tensors of any rank that gradients are taken for, made of numbers that depend on the seed.
struct Inputs {
    device: Device,
    dtype: DType,
    all: Vec<(Shape, Tensor<1>)>,
}

impl Inputs {
    fn new(dtype: DType) -> Self {
        Self { device: Device::flex().autodiff(), dtype, all: Vec::new() }
    }

    /// The next one, around `mean`.
    fn next<const D: usize>(&mut self, shape: [usize; D], mean: f64) -> Tensor<D> {
        let noise = support::noise(shape, 17 + self.all.len() as u64, &self.device).cast(self.dtype) * 0.7 + mean;
        let flat = noise.reshape([shape.iter().product::<usize>()]).detach().require_grad();
        self.all.push((Shape::from(shape), flat.clone()));
        flat.reshape(shape)
    }
}

/// The output of what `work` computes, weighted differently everywhere, and the gradients of all inputs.
fn outcome<const D: usize>(dtype: DType, work: &dyn Fn(&mut Inputs) -> Tensor<D>) -> Outcome {
    let mut inputs = Inputs::new(dtype);
    let y = work(&mut inputs);
    let weights = support::noise(y.dims(), 5, &inputs.device).cast(dtype);
    let gradients = (y.clone() * weights).sum().backward();
    let values = |data: TensorData| data.iter::<f64>().map(|value| value as f32).collect::<Vec<f32>>();
    let mut outcome = vec![("y", values(y.into_data()))];
    for (_, input) in &inputs.all {
        outcome.push(("gradient", values(input.grad(&gradients).expect("a gradient").into_data())));
    }
    outcome
}

/// The kernel in f32 against the plain operations in f64.
fn compare<const D: usize>(
    what: &str,
    kernel: &(dyn Fn(&mut Inputs) -> Tensor<D> + Sync),
    plain: &dyn Fn(&mut Inputs) -> Tensor<D>,
) {
    assert_close(&outcome(DType::F32, kernel), &outcome(DType::F64, plain), TOLERANCE, what);
    assert_independent_of_threads(what, || outcome(DType::F32, kernel));
}

/// `x W^T + b`
fn rows<const D: usize>(x: Tensor<D>, weight: Tensor<3>, bias: Tensor<1>) -> Tensor<D> {
    let mut shape = x.dims();
    let [outputs, inputs, _] = weight.dims();
    let count = x.shape().num_elements() / inputs;
    let y = x.reshape([count, inputs]).matmul(weight.reshape([outputs, inputs]).transpose()) + bias.unsqueeze_dim(0);
    shape[D - 1] = outputs;
    y.reshape(shape)
}

fn normalized(x: Tensor<3>, scale: Tensor<1>, shift: Tensor<1>) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let all = [1, 1, scale.dims()[0]];
    centred / (variance + 1e-5).sqrt() * scale.reshape(all) + shift.reshape(all)
}

fn layer(inputs: &mut Inputs, channels: usize, heads: usize, hidden: usize) -> EncoderLayer {
    EncoderLayer {
        heads,
        projection: (inputs.next([3 * channels, channels], 0.0), inputs.next([3 * channels], 0.0)),
        output: (inputs.next([channels, channels], 0.0), inputs.next([channels], 0.0)),
        norms: [(); 2].map(|()| (inputs.next([channels], 1.0), inputs.next([channels], 0.0))),
        feed_forward: [[channels, hidden], [hidden, channels]]
            .map(|shape| (inputs.next(shape, 0.0), inputs.next([shape[1]], 0.0))),
        epsilon: 1e-5,
    }
}

/// The layer of the sequences `[N, S, C]`.
fn plain_layer(x: Tensor<3>, layer: EncoderLayer) -> Tensor<3> {
    let [batch, places, channels] = x.dims();
    let width = channels / layer.heads;
    let dense = |x: Tensor<3>, (weight, bias): (Tensor<2>, Tensor<1>)| {
        x.matmul(weight.unsqueeze_dim(0)) + bias.unsqueeze::<3>()
    };
    let projected = dense(x.clone(), (layer.projection.0.transpose(), layer.projection.1));
    let part = |part: usize| {
        let part = projected.clone().narrow(2, part * channels, channels);
        part.reshape([batch, places, layer.heads, width]).swap_dims(1, 2)
    };
    let weights = softmax(part(0).matmul(part(1).swap_dims(2, 3)) / (width as f64).sqrt(), 3);
    let attended = weights.matmul(part(2)).swap_dims(1, 2).reshape([batch, places, channels]);
    let [(scale_1, shift_1), (scale_2, shift_2)] = layer.norms;
    let [first, second] = layer.feed_forward;
    let x = normalized(x + dense(attended, layer.output), scale_1, shift_1);
    normalized(x.clone() + dense(gelu(dense(x, first)), second), scale_2, shift_2)
}

#[test]
fn a_layer_of_an_encoder() {
    // Batch, places, items, channels, heads, hidden.
    for sizes in [[1, 1, 1, 5, 1, 3], [2, 5, 3, 6, 2, 4], [3, 2, 11, 16, 2, 8], [1, 9, 17, 20, 2, 24]] {
        let [batch, places, items, channels, heads, hidden] = sizes;
        let kernel = |inputs: &mut Inputs| {
            let x = inputs.next([batch, places, items, channels], 0.0);
            encoder_layer(x, layer(inputs, channels, heads, hidden)).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let x = inputs.next([batch, places, items, channels], 0.0);
            let sequences = x.swap_dims(1, 2).reshape([batch * items, places, channels]);
            let y = plain_layer(sequences, layer(inputs, channels, heads, hidden));
            y.reshape([batch, items, places, channels]).swap_dims(1, 2)
        };
        compare(&format!("{sizes:?}"), &kernel, &plain);
    }
}

#[test]
fn dense_layers_of_rows_and_their_sums() {
    for (rows_of, [first, second, outputs]) in [([1, 1], [1, 1, 1]), ([3, 7], [5, 2, 3]), ([2, 301], [17, 33, 40])] {
        let terms = |inputs: &mut Inputs| {
            let mut term = |width: usize| {
                (inputs.next([rows_of[0], rows_of[1], width], 0.0), inputs.next([outputs, width, 1], 0.0))
            };
            let terms = [term(first), term(second)];
            (terms, inputs.next([outputs], 0.0))
        };
        let kernel = |inputs: &mut Inputs| {
            let ([x, y], bias) = terms(inputs);
            dense_sum(x, y, bias).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let ([(x, v), (y, w)], bias) = terms(inputs);
            rows(x, v, bias.zeros_like()) + rows(y, w, bias)
        };
        compare(&format!("{rows_of:?}"), &kernel, &plain);
        let found = outcome(DType::F32, &|inputs: &mut Inputs| {
            let x = inputs.next([rows_of[0], rows_of[1], first], 0.0);
            dense_rows(x, inputs.next([outputs, first, 1], 0.0), inputs.next([outputs], 0.0)).expect("a kernel")
        });
        let wanted = outcome(DType::F64, &|inputs: &mut Inputs| {
            let x = inputs.next([rows_of[0], rows_of[1], first], 0.0);
            rows(x, inputs.next([outputs, first, 1], 0.0), inputs.next([outputs], 0.0))
        });
        assert_close(&found, &wanted, TOLERANCE, &format!("one term, {rows_of:?}"));
    }
}

#[test]
fn gates_and_residual_connections() {
    for [batch, places, state, sum, width] in [[1, 1, 1, 1, 1], [3, 5, 4, 2, 3], [2, 173, 24, 9, 16]] {
        let kernel = |inputs: &mut Inputs| {
            shifted_state(inputs.next([batch, places, state + sum], 0.0), inputs.next([batch, state], 0.0))
                .expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let carried = inputs.next([batch, places, state + sum], 0.0);
            carried.narrow(2, 0, state) + inputs.next([batch, state], 0.0).unsqueeze_dim(1)
        };
        compare("shifted", &kernel, &plain);
        for gate in [Gate::First, Gate::Second] {
            let all = |inputs: &mut Inputs| {
                let carried = inputs.next([batch, places, state + sum], 0.0);
                let before = inputs.next([batch, places, 2 * width], 0.0);
                (carried, before, (inputs.next([state + sum, width, 1], 0.0), inputs.next([state + sum], 0.0)))
            };
            let kernel = |inputs: &mut Inputs| {
                let (carried, before, output) = all(inputs);
                gated_residual(carried, before, gate, output, state).expect("a kernel")
            };
            let plain = |inputs: &mut Inputs| {
                let (carried, before, (weight, bias)) = all(inputs);
                let half = |i: usize| before.clone().narrow(2, i * width, width);
                let (gate, value) = if gate == Gate::First { (half(0), half(1)) } else { (half(1), half(0)) };
                let y = carried + rows(sigmoid(gate) * value.tanh(), weight, bias);
                let next = y.clone().narrow(2, 0, state) * 0.5_f64.sqrt();
                Tensor::cat(vec![next, y.narrow(2, state, sum)], 2)
            };
            compare(&format!("{gate:?}, {places} places"), &kernel, &plain);
        }
    }
}

#[test]
fn short_convolutions_and_weight_norms() {
    for [batch, places, inputs_of, outputs, taps] in [[1, 1, 1, 1, 1], [2, 4, 3, 5, 3], [3, 150, 8, 7, 5]] {
        let weights = |inputs: &mut Inputs| {
            (
                inputs.next([outputs, inputs_of, taps], 0.0),
                inputs.next([outputs, 1, 1], 1.0),
                inputs.next([outputs], 0.0),
            )
        };
        let kernel = |inputs: &mut Inputs| {
            let x = inputs.next([batch, places, inputs_of], 0.0);
            let (v, g, bias) = weights(inputs);
            short_convolution(x, weight_norm(v, g).expect("a kernel"), bias).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let x = inputs.next([batch, places, inputs_of], 0.0);
            let (v, g, bias) = weights(inputs);
            let norm = v.clone().square().sum_dim(2).sum_dim(1).sqrt();
            let options = ConvOptions::new([1], [taps / 2], [1], 1);
            conv1d(x.swap_dims(1, 2), v * (g / norm), Some(bias), options).swap_dims(1, 2)
        };
        // The direction of a single number is its sign: there is no gradient of it.
        if inputs_of * taps > 1 {
            compare(&format!("{taps} taps"), &kernel, &plain);
        }
    }
}

/// The convolution place by place.
fn plain_long(x: Tensor<3>, kernels: Tensor<3>, skip: Tensor<2>) -> Tensor<3> {
    let [_, places, features] = x.dims();
    let directions = kernels.dims()[1];
    let tap = |direction: usize, place: usize| {
        kernels.clone().narrow(1, direction, 1).narrow(2, place, 1).reshape([1, 1, features])
    };
    let at = |t: usize| {
        let mut sum = x.clone().narrow(1, t, 1) * skip.clone().reshape([1, 1, features]);
        for s in 0..places {
            let x = x.clone().narrow(1, s, 1);
            match s <= t {
                true => sum = sum + x * tap(0, t - s),
                false if directions == 2 => sum = sum + x * tap(1, s - t - 1),
                false => {}
            }
        }
        sum
    };
    Tensor::cat((0..places).map(at).collect(), 1)
}

#[test]
fn long_convolutions() {
    for [batch, places, features, directions] in [[1, 2, 1, 1], [3, 3, 5, 2], [2, 13, 17, 2], [5, 33, 3, 2]] {
        let all = |inputs: &mut Inputs| {
            let x = inputs.next([batch, places, features], 0.0);
            (x, inputs.next([features, directions, places], 0.0), inputs.next([1, features], 0.0))
        };
        let kernel = |inputs: &mut Inputs| {
            let (x, kernels, skip) = all(inputs);
            long_convolution(x, kernels, skip).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let (x, kernels, skip) = all(inputs);
            plain_long(x, kernels, skip)
        };
        compare(&format!("{places} places"), &kernel, &plain);
    }
    // One place.
    let device = Device::flex();
    let one = |value: f32| Tensor::<3>::from_data([[[value]]], &device);
    let y = long_convolution(one(3.0), one(2.0), Tensor::from_data([[0.5]], &device)).expect("a kernel");
    assert_eq!(y.into_scalar::<f32>(), 7.5);
}

#[test]
fn kernels_of_a_basis() {
    let device = Device::flex().autodiff();
    for [directions, features, states, length] in [[1, 1, 1, 1], [2, 3, 5, 7], [2, 9, 4, 65]] {
        let basis = |dtype: DType| support::noise([features, 2 * states, length], 3, &device).cast(dtype);
        let kernel = |inputs: &mut Inputs| {
            kernels_of_basis(inputs.next([directions, features, states, 2], 0.0), basis(DType::F32)).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let c = inputs.next([directions, features, states, 2], 0.0);
            c.reshape([directions, features, 2 * states]).swap_dims(0, 1).matmul(basis(DType::F64))
        };
        compare(&format!("length {length}"), &kernel, &plain);
    }
}

#[test]
fn dense_layers_with_gelu_and_layer_norm() {
    for [batch, places, channels] in [[1, 1, 3], [2, 5, 7], [3, 90, 33]] {
        let all = |inputs: &mut Inputs| {
            let [y, x] = [(); 2].map(|()| inputs.next([batch, places, channels], 0.0));
            let layer = (inputs.next([channels, channels], 0.0), inputs.next([channels, 1], 0.0));
            (y, x, layer, (inputs.next([channels], 1.0), inputs.next([channels], 0.0)))
        };
        let kernel = |inputs: &mut Inputs| {
            let (y, x, layer, norm) = all(inputs);
            mixed_norm(y, x, layer, norm, 1e-5).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let (y, x, (weight, bias), (scale, shift)) = all(inputs);
            let mixed = rows(gelu(y), weight.unsqueeze_dim(2), bias.reshape([channels]));
            normalized(x + mixed, scale, shift)
        };
        compare(&format!("{channels} channels"), &kernel, &plain);
    }
}

#[test]
fn gated_recurrent_units() {
    for [batch, steps, cells] in [[1, 1, 1], [3, 4, 5], [19, 7, 8]] {
        let all = |inputs: &mut Inputs| {
            let from_inputs = inputs.next([batch, steps, 3 * cells], 0.0);
            let (weight, bias) = (inputs.next([3 * cells, cells], 0.0), inputs.next([3 * cells], 0.0));
            (from_inputs, weight, bias, inputs.next([batch, cells], 0.0))
        };
        let kernel = |inputs: &mut Inputs| {
            let (from_inputs, weight, bias, state) = all(inputs);
            gated_recurrence(from_inputs, weight, bias, state).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let (from_inputs, weight, bias, mut state) = all(inputs);
            let mut outputs = Vec::new();
            for step in 0..steps {
                let from_input: Tensor<2> = from_inputs.clone().narrow(1, step, 1).reshape([batch, 3 * cells]);
                let from_state = state.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze_dim(0);
                let gate = |x: &Tensor<2>, i: usize| x.clone().narrow(1, i * cells, cells);
                let [reset, update] = [0, 1].map(|i| sigmoid(gate(&from_input, i) + gate(&from_state, i)));
                let new = (gate(&from_input, 2) + reset * gate(&from_state, 2)).tanh();
                state = new.clone() + update * (state - new);
                outputs.push(state.clone());
            }
            Tensor::stack(outputs, 1)
        };
        compare(&format!("{steps} steps"), &kernel, &plain);
    }
}

#[test]
fn long_short_term_memory() {
    for [batch, steps, cells] in [[1, 1, 3], [3, 4, 5], [37, 6, 40]] {
        let all = |inputs: &mut Inputs| {
            let from_inputs = inputs.next([batch, steps, 4 * cells], 0.1);
            let (weight, bias) = (inputs.next([4 * cells, cells], 0.0), inputs.next([4 * cells], 0.0));
            (from_inputs, weight, bias, [inputs.next([batch, cells], 0.2), inputs.next([batch, cells], -0.1)])
        };
        // The memory as one more step.
        let joined = |outputs: Tensor<3>, memory: Tensor<2>| Tensor::cat(vec![outputs, memory.unsqueeze_dim(1)], 1);
        let kernel = |inputs: &mut Inputs| {
            let (from_inputs, weight, bias, state) = all(inputs);
            let (outputs, memory) = long_short_term_recurrence(from_inputs, weight, bias, state).expect("a kernel");
            joined(outputs, memory)
        };
        let plain = |inputs: &mut Inputs| {
            let (from_inputs, weight, bias, [mut hidden, mut memory]) = all(inputs);
            let mut outputs = Vec::new();
            for step in 0..steps {
                let from_input: Tensor<2> = from_inputs.clone().narrow(1, step, 1).reshape([batch, 4 * cells]);
                let from_state = hidden.matmul(weight.clone().transpose()) + bias.clone().unsqueeze_dim(0);
                let gates = from_input + from_state;
                let gate = |i: usize| gates.clone().narrow(1, i * cells, cells);
                memory = sigmoid(gate(1)) * memory + sigmoid(gate(0)) * gate(2).tanh();
                hidden = sigmoid(gate(3)) * memory.clone().tanh();
                outputs.push(hidden.clone());
            }
            joined(Tensor::stack(outputs, 1), memory)
        };
        compare(&format!("{steps} steps"), &kernel, &plain);
    }
}

const SLOPE: Slope = Slope(0.4);

/// `[groups, channels, places * lanes]` as `[groups * lanes, channels, places]`, and back.
fn out_of_lanes(x: Tensor<3>, lanes: usize) -> Tensor<3> {
    let [groups, channels, columns] = x.dims();
    let places = columns / lanes;
    x.reshape([groups, channels, places, lanes]).permute([0, 3, 1, 2]).reshape([groups * lanes, channels, places])
}

fn into_lanes(x: Tensor<3>, lanes: usize) -> Tensor<3> {
    let [rows, channels, places] = x.dims();
    let x = x.reshape([rows / lanes, lanes, channels, places]).permute([0, 2, 3, 1]);
    x.reshape([rows / lanes, channels, places * lanes])
}

fn convolved(x: Tensor<3>, (weight, bias): (Tensor<3>, Tensor<1>), dilation: usize) -> Tensor<3> {
    conv1d(x, weight, Some(bias), ConvOptions::new([1], [0], [dilation], 1))
}

#[test]
fn blocks_on_a_circle() {
    // Groups, lanes, places, channels, width of the embedding, dilation; whether the embedding is one for all.
    let all_sizes = [[1, 1, 5, 2, 3, 1], [2, 3, 6, 4, 5, 2], [3, 1, 37, 8, 7, 2], [2, 4, 4, 3, 2, 4]];
    for (sizes, shared) in all_sizes.into_iter().zip([false, true, false, true]) {
        let [groups, lanes, places, channels, width, dilation] = sizes;
        let all = |inputs: &mut Inputs| {
            let carried = inputs.next([groups, 2 * channels, places * lanes], 0.0);
            let embedding =
                if shared { inputs.next([1, width, 1], 0.0) } else { inputs.next([groups, width, lanes], 0.0) };
            let condition = inputs.next([groups, 1, places * lanes], 0.0);
            let mut convolution = |shape: [usize; 3]| (inputs.next(shape, 0.0), inputs.next([shape[0]], 0.0));
            let dilated = convolution([2 * channels, channels, 3]);
            let of_condition = convolution([2 * channels, 1, 1]);
            let output = convolution([2 * channels, channels, 1]);
            let projection = (inputs.next([width, channels], 0.0), inputs.next([channels], 0.0));
            let block = CircleBlock { dilated, dilation, embedding: projection, condition: of_condition, output };
            (carried, embedding, condition, block)
        };
        let kernel = |inputs: &mut Inputs| {
            let (carried, embedding, condition, block) = all(inputs);
            circle_block(carried, embedding, condition, block, lanes, SLOPE).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let (carried, embedding, condition, block) = all(inputs);
            let carried = out_of_lanes(carried, lanes);
            let [state, sum] = [0, 1].map(|i| carried.clone().narrow(1, i * channels, channels));
            let rows = embedding.expand([groups, width, lanes]).swap_dims(1, 2).reshape([groups * lanes, width]);
            let shift = rows.matmul(block.embedding.0) + block.embedding.1.unsqueeze_dim(0);
            let h = state.clone() + shift.unsqueeze_dim(2);
            let (start, end) = (h.clone().narrow(2, 0, dilation), h.clone().narrow(2, places - dilation, dilation));
            let h = convolved(Tensor::cat(vec![end, h, start], 2), block.dilated, dilation);
            let h = h + convolved(out_of_lanes(condition, lanes), block.condition, 1);
            let half = |x: &Tensor<3>, i: usize| x.clone().narrow(1, i * channels, channels);
            let y = convolved(sigmoid(half(&h, 0)) * half(&h, 1).tanh(), block.output, 1);
            let y = leaky_relu(y, SLOPE.0);
            let next = (state + half(&y, 0)) * 0.5_f64.sqrt();
            into_lanes(Tensor::cat(vec![next, sum + half(&y, 1)], 1), lanes)
        };
        compare(&format!("{sizes:?}"), &kernel, &plain);
    }
}

#[test]
fn the_start_and_the_end_on_a_circle() {
    for [groups, lanes, places, channels] in [[1, 1, 5, 2], [2, 3, 8, 4], [17, 1, 40, 8]] {
        let kernel = |inputs: &mut Inputs| {
            let x = inputs.next([groups, 1, places * lanes], 0.0);
            let convolution = (inputs.next([channels, 1, 1], 0.0), inputs.next([channels], 0.0));
            circle_start(x, convolution, SLOPE).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let x = inputs.next([groups, 1, places * lanes], 0.0);
            let convolution = (inputs.next([channels, 1, 1], 0.0), inputs.next([channels], 0.0));
            let state = leaky_relu(convolved(x, convolution, 1), SLOPE.0);
            Tensor::cat(vec![state.clone(), state.zeros_like()], 1)
        };
        compare(&format!("start, {places} places"), &kernel, &plain);
        let all = |inputs: &mut Inputs| {
            let carried = inputs.next([groups, 2 * channels, places * lanes], 0.0);
            let shapes = [[channels, channels, 3], [1, channels, 3]];
            (carried, shapes.map(|shape| (inputs.next(shape, 0.0), inputs.next([shape[0]], 0.0))))
        };
        let kernel = |inputs: &mut Inputs| {
            let (carried, convolutions) = all(inputs);
            circle_end(carried, 0.6, convolutions, lanes, SLOPE).expect("a kernel")
        };
        let plain = |inputs: &mut Inputs| {
            let (carried, [first, second]) = all(inputs);
            let sum = out_of_lanes(carried, lanes).narrow(1, channels, channels) * 0.6;
            into_lanes(convolved(leaky_relu(convolved(sum, first, 1), SLOPE.0), second, 1), lanes)
        };
        compare(&format!("end, {places} places"), &kernel, &plain);
    }
}
