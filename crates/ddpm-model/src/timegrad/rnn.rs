//! Recurrent layers as PyTorch's `nn.GRU` and `nn.LSTM`: their gates and the names of their weights.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::nn::{Dropout, Initializer};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Int, Tensor};
use ddpm_kernels::{dense_rows, gated_recurrence, long_short_term_recurrence};

use super::config::Cell;

/// The container that visitors are given for the weights.
const CONTAINER: &str = "Struct:Rnn";

/// The weights of one layer, the gates below one another: reset, update and new (GRU), or input, forget, cell and output
/// (LSTM).
#[derive(Module, Debug)]
struct Layer {
    /// `[gates * cells, inputs]`
    weight_ih: Param<Tensor<2>>,
    /// `[gates * cells, cells]`
    weight_hh: Param<Tensor<2>>,
    /// `[gates * cells]`
    bias_ih: Param<Tensor<1>>,
    /// `[gates * cells]`
    bias_hh: Param<Tensor<1>>,
}

/// What a layer carries from step to step.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// The output of the last step, `[B, cells]`.
    pub hidden: Tensor<2>,
    /// The memory of an LSTM, `[B, cells]`; all zeros and unused in a GRU.
    pub memory: Tensor<2>,
}

impl LayerState {
    /// Each row `times` times, one after another.
    fn repeated(&self, times: usize) -> Self {
        Self { hidden: repeat_rows(self.hidden.clone(), times), memory: repeat_rows(self.memory.clone(), times) }
    }
}

impl LayerState {
    fn rows(&self, rows: &Tensor<1, Int>) -> Self {
        let select = |x: &Tensor<2>| x.clone().select(0, rows.clone());
        Self { hidden: select(&self.hidden), memory: select(&self.memory) }
    }
}

/// Each row `times` times, one after another.
pub(super) fn repeat_rows<const D: usize>(x: Tensor<D>, times: usize) -> Tensor<D> {
    let mut shape = x.dims();
    let columns = shape[1..].iter().product();
    let rows: Tensor<3> = x.reshape([shape[0], 1, columns]).repeat_dim(1, times);
    shape[0] *= times;
    rows.reshape(shape)
}

/// The state of all layers, the lowest first.
#[derive(Clone, Debug)]
pub struct RnnState(pub Vec<LayerState>);

impl RnnState {
    /// The state with each row `times` times, one after another.
    pub fn repeated(&self, times: usize) -> Self {
        Self(self.0.iter().map(|layer| layer.repeated(times)).collect())
    }

    /// The state of these rows.
    pub fn rows(&self, rows: &Tensor<1, Int>) -> Self {
        Self(self.0.iter().map(|layer| layer.rows(rows)).collect())
    }
}

/// Layers of recurrent cells. Parameters are named as in PyTorch: `weight_ih_l0`, `weight_hh_l0`, ...
#[derive(Clone, Debug)]
pub struct Rnn {
    layers: Vec<Layer>,
    cell: Cell,
}

impl Rnn {
    /// Layers with weights and biases drawn as PyTorch does, uniform up to `1 / sqrt(cells)`.
    pub fn new(cell: Cell, inputs: usize, cells: usize, layers: usize, device: &Device) -> Self {
        let bound = 1.0 / (cells as f64).sqrt();
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        let rows = cell.gates() * cells;
        let layer = |index: usize| Layer {
            weight_ih: uniform.init([rows, if index == 0 { inputs } else { cells }], device),
            weight_hh: uniform.init([rows, cells], device),
            bias_ih: uniform.init([rows], device),
            bias_hh: uniform.init([rows], device),
        };
        Self { layers: (0..layers).map(layer).collect(), cell }
    }

    /// The outputs `[B, S, cells]` of the last layer for inputs `[B, S, inputs]`, and the state after the last step.
    ///
    /// Without a state it starts from zeros. Dropout is applied between layers.
    pub fn forward(&self, inputs: Tensor<3>, state: Option<&RnnState>, dropout: &Dropout) -> (Tensor<3>, RnnState) {
        if let Some(found) = self.fused(&inputs, state, dropout) {
            return found;
        }
        let mut states = Vec::with_capacity(self.layers.len());
        let [batch, steps, width] = inputs.dims();
        let step = |step: usize| inputs.clone().narrow(1, step, 1).reshape([batch, width]);
        let mut values: Vec<Tensor<2>> = (0..steps).map(step).collect();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                values = values.into_iter().map(|values| dropout.forward(values)).collect();
            }
            let before = state.and_then(|state| state.0.get(index)).cloned();
            let (after, last) = layer.forward(self.cell, values, before);
            values = after;
            states.push(last);
        }
        (Tensor::stack(values, 1), RnnState(states))
    }

    /// The same by kernels, where there are some: on the CPU.
    fn fused(&self, inputs: &Tensor<3>, state: Option<&RnnState>, dropout: &Dropout) -> Option<(Tensor<3>, RnnState)> {
        let [batch, steps, _] = inputs.dims();
        if steps == 0 {
            return None;
        }
        let mut values = inputs.clone();
        let mut states = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                values = dropout.forward(values);
            }
            let cells = layer.weight_hh.dims()[1];
            let before = state.and_then(|state| state.0.get(index)).cloned().unwrap_or_else(|| {
                let zeros = Tensor::zeros([batch, cells], (&inputs.device(), inputs.dtype()));
                LayerState { hidden: zeros.clone(), memory: zeros }
            });
            let (outputs, memory) = layer.fused(self.cell, &values, before)?;
            let hidden = outputs.clone().narrow(1, steps - 1, 1).reshape([batch, cells]);
            states.push(LayerState { hidden, memory });
            values = outputs;
        }
        Some((values, RnnState(states)))
    }
}

impl Layer {
    /// The outputs `[B, cells]` for the inputs of each step, `[B, width]`, and the state after the last one.
    ///
    /// Each step is multiplied for itself: a product for all of them, of which each step takes its part, would have a
    /// gradient of the size of all of them for each step.
    fn forward(&self, cell: Cell, inputs: Vec<Tensor<2>>, state: Option<LayerState>) -> (Vec<Tensor<2>>, LayerState) {
        let cells = self.weight_hh.dims()[1];
        let mut state = state.unwrap_or_else(|| {
            let (rows, like) = inputs.first().map_or((0, self.bias_ih.val().unsqueeze()), |x| (x.dims()[0], x.clone()));
            let zeros = Tensor::zeros([rows, cells], (&like.device(), like.dtype()));
            LayerState { hidden: zeros.clone(), memory: zeros }
        });
        let [weight_ih, weight_hh] = [&self.weight_ih, &self.weight_hh].map(|weight| weight.val().transpose());
        let [bias_ih, bias_hh] = [&self.bias_ih, &self.bias_hh].map(|bias| bias.val().unsqueeze_dim::<2>(0));
        let mut outputs = Vec::with_capacity(inputs.len());
        for input in inputs {
            let from_input = input.matmul(weight_ih.clone()) + bias_ih.clone();
            let from_state = state.hidden.clone().matmul(weight_hh.clone()) + bias_hh.clone();
            state = match cell {
                Cell::Gru => gru(from_input, from_state, state),
                Cell::Lstm => lstm(from_input + from_state, state),
            };
            outputs.push(state.hidden.clone());
        }
        (outputs, state)
    }
}

impl Layer {
    /// The outputs and the memory after the last step by kernels, where there are some.
    fn fused(&self, cell: Cell, inputs: &Tensor<3>, state: LayerState) -> Option<(Tensor<3>, Tensor<2>)> {
        let from_inputs = dense_rows(inputs.clone(), self.weight_ih.val().unsqueeze_dim(2), self.bias_ih.val())?;
        let (weight, bias, LayerState { hidden, memory }) = (self.weight_hh.val(), self.bias_hh.val(), state);
        match cell {
            Cell::Gru => Some((gated_recurrence(from_inputs, weight, bias, hidden)?, memory)),
            Cell::Lstm => long_short_term_recurrence(from_inputs, weight, bias, [hidden, memory]),
        }
    }
}

/// `h' = (1 - z) n + z h` with `n = tanh(from_input + r from_state)`.
fn gru(from_input: Tensor<2>, from_state: Tensor<2>, state: LayerState) -> LayerState {
    let cells = state.hidden.dims()[1];
    let part = |x: &Tensor<2>, from: usize, count: usize| x.clone().narrow(1, from * cells, count * cells);
    let gates = sigmoid(part(&from_input, 0, 2) + part(&from_state, 0, 2));
    let (reset, update) = (part(&gates, 0, 1), part(&gates, 1, 1));
    let new = (part(&from_input, 2, 1) + reset * part(&from_state, 2, 1)).tanh();
    LayerState { hidden: new.clone() + update * (state.hidden - new), memory: state.memory }
}

/// `c' = f c + i g` and `h' = o tanh(c')`.
fn lstm(gates: Tensor<2>, state: LayerState) -> LayerState {
    let cells = state.hidden.dims()[1];
    let gate = |index: usize| gates.clone().narrow(1, index * cells, cells);
    let (input, forget, new, output) = (sigmoid(gate(0)), sigmoid(gate(1)), gate(2).tanh(), sigmoid(gate(3)));
    let memory = forget * state.memory + input * new;
    LayerState { hidden: output * memory.clone().tanh(), memory }
}

// By hand, because the index of a layer is at the end of PyTorch's names, where a list in a derived module would have it
// in the path.
impl Module for Rnn {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (index, layer) in self.layers.iter().enumerate() {
            visit_as(&layer.weight_ih, &format!("weight_ih_l{index}"), visitor);
            visit_as(&layer.weight_hh, &format!("weight_hh_l{index}"), visitor);
            visit_as(&layer.bias_ih, &format!("bias_ih_l{index}"), visitor);
            visit_as(&layer.bias_hh, &format!("bias_hh_l{index}"), visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let mapped = |(index, layer): (usize, Layer)| Layer {
            weight_ih: map_as(layer.weight_ih, &format!("weight_ih_l{index}"), mapper),
            weight_hh: map_as(layer.weight_hh, &format!("weight_hh_l{index}"), mapper),
            bias_ih: map_as(layer.bias_ih, &format!("bias_ih_l{index}"), mapper),
            bias_hh: map_as(layer.bias_hh, &format!("bias_hh_l{index}"), mapper),
        };
        Self { layers: self.layers.into_iter().enumerate().map(mapped).collect(), cell: self.cell }
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        self.layers.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self { layers: self.layers.fork(device), cell: self.cell }
    }

    fn to_device(self, device: &Device) -> Self {
        Self { layers: self.layers.to_device(device), cell: self.cell }
    }

    fn train(self) -> Self {
        Self { layers: self.layers.train(), cell: self.cell }
    }

    fn valid(&self) -> Self {
        Self { layers: self.layers.valid(), cell: self.cell }
    }

    fn materialize(self) -> Self {
        Self { layers: self.layers.materialize(), cell: self.cell }
    }
}

fn visit_as<T: Module, V: ModuleVisitor>(param: &T, name: &str, visitor: &mut V) {
    visitor.enter_module(name, CONTAINER);
    param.visit(visitor);
    visitor.exit_module(name, CONTAINER);
}

fn map_as<T: Module, M: ModuleMapper>(param: T, name: &str, mapper: &mut M) -> T {
    mapper.enter_module(name, CONTAINER);
    let mapped = param.map(mapper);
    mapper.exit_module(name, CONTAINER);
    mapped
}

impl ModuleDisplayDefault for Rnn {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("cell", &format!("{:?}", self.cell)).add("layers", &self.layers).optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for Rnn {}

impl std::fmt::Display for Rnn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.format(burn::module::DisplaySettings::default()))
    }
}
