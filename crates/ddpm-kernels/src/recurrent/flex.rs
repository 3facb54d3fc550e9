//! The layer as an operation of Burn, and its arithmetic.

use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};
use crate::output::{Unset, written};
use crate::rows::{add_bias_gradient, add_input_gradient, add_product, add_weight_gradient, fill_rows, total};
use crate::scratch::Scratch;
use crate::simd::{sigmoid, tanh, vectorised};

/// Rows of the batch that a task takes through all steps.
const TASK_ROWS: usize = 16;

pub(super) fn gated_recurrence(
    from_inputs: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    state: Tensor<2>,
) -> Option<Tensor<3>> {
    let ([batch, steps, gates], [_, cells]) = (from_inputs.dims(), weight.dims());
    let all_f32 = is_f32_on_flex(&from_inputs) && is_f32_on_flex(&weight) && is_f32_on_flex(&bias);
    let fit = gates == 3 * cells && weight.dims() == [gates, cells] && state.dims() == [batch, cells];
    if !all_f32 || !fit || !is_f32_on_flex(&state) || batch * steps * cells == 0 {
        return None;
    }
    let inputs = vec![from_inputs.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), state.into_dispatch()];
    Some(apply(inputs, Recurrence { batch, steps, cells }))
}

#[derive(Clone, Copy, Debug)]
struct Recurrence {
    batch: usize,
    steps: usize,
    cells: usize,
}

impl Arithmetic for Recurrence {
    fn names(&self) -> [Operation; 2] {
        [Operation::Recurrence, Operation::RecurrenceBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.batch, self.steps, self.cells])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let size = self.steps * self.cells;
        written(self.batch * size, |y| {
            y.par_chunks(TASK_ROWS * size).enumerate().for_each(|(task, y)| {
                let y = y.cleared();
                self.pass(task, inputs, y, None);
            });
        })
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let Self { batch, steps, cells } = *self;
        let (size, of_state) = (TASK_ROWS * steps * 3 * cells, TASK_ROWS * cells);
        let mut parts = Vec::new();
        let mut of_states = Vec::new();
        let of_inputs = written(batch * steps * 3 * cells, |gradient| {
            of_states = written(batch * cells, |states| {
                let tasks = gradient.par_chunks(size).zip(states.par_chunks(of_state)).enumerate();
                let part = |(task, (gradient, state)): (usize, (Unset, Unset))| {
                    self.task_backward(task, inputs, dy, gradient.cleared(), state.cleared())
                };
                parts = tasks.map(part).collect();
            });
        });
        let mut sums = total(parts).into_iter();
        vec![Some(of_inputs), sums.next(), sums.next(), Some(of_states)]
    }
}

impl Recurrence {
    fn rows(&self, task: usize) -> usize {
        TASK_ROWS.min(self.batch - task * TASK_ROWS)
    }

    /// Writes the outputs of a task, `[rows, steps, cells]`, and if it is wanted the gates of every step, after their
    /// activations, and the recurrent part of the last one: `[steps, rows, 4 cells]`.
    fn pass(&self, task: usize, inputs: &[&[f32]], y: &mut [f32], mut gates: Option<&mut [f32]>) {
        let Self { steps, cells, .. } = *self;
        let [from_inputs, weight, bias, state] = *inputs else { return };
        let (first, rows) = (task * TASK_ROWS, self.rows(task));
        let mut state = state[first * cells..(first + rows) * cells].to_vec();
        let mut recurrent = Scratch::new(rows * 3 * cells);
        for step in 0..steps {
            fill_rows(&mut recurrent, bias);
            add_product(&mut recurrent, &state, weight, [cells, 3 * cells]);
            let mut of_step = gates.as_mut().map(|gates| &mut gates[step * rows * 4 * cells..][..rows * 4 * cells]);
            for row in 0..rows {
                let from_input = &from_inputs[((first + row) * steps + step) * 3 * cells..][..3 * cells];
                let from_state = &recurrent[row * 3 * cells..][..3 * cells];
                let state = &mut state[row * cells..][..cells];
                let gates = of_step.as_mut().map(|gates| &mut gates[row * 4 * cells..][..4 * cells]);
                vectorised(
                    #[inline(always)]
                    || cell(from_input, from_state, state, gates),
                );
                y[(row * steps + step) * cells..][..cells].copy_from_slice(state);
            }
        }
    }

    /// The gradients of weight and bias; those of the inputs and of the first state are written.
    fn task_backward(
        &self,
        task: usize,
        inputs: &[&[f32]],
        dy: &[f32],
        gradient: &mut [f32],
        d_state: &mut [f32],
    ) -> Vec<Vec<f32>> {
        let Self { steps, cells, .. } = *self;
        let (first, rows) = (task * TASK_ROWS, self.rows(task));
        let (weight, start) = (inputs[1], &inputs[3][first * cells..(first + rows) * cells]);
        let mut y = Scratch::new(rows * steps * cells);
        let mut gates = Scratch::new(steps * rows * 4 * cells);
        self.pass(task, inputs, &mut y, Some(&mut gates));
        let mut sums = vec![vec![0.0; 3 * cells * cells], vec![0.0; 3 * cells]];
        let (mut before, mut recurrent) = (Scratch::new(rows * cells), Scratch::new(rows * 3 * cells));
        for step in (0..steps).rev() {
            for row in 0..rows {
                let at = (row * steps + step) * cells;
                let state = if step == 0 { &start[row * cells..] } else { &y[at - cells..] };
                before[row * cells..][..cells].copy_from_slice(&state[..cells]);
                let dy = &dy[first * steps * cells + at..][..cells];
                let gates = &gates[(step * rows + row) * 4 * cells..][..4 * cells];
                let outputs = [
                    &mut gradient[(row * steps + step) * 3 * cells..][..3 * cells],
                    &mut recurrent[row * 3 * cells..][..3 * cells],
                    &mut d_state[row * cells..][..cells],
                ];
                let before = &before[row * cells..][..cells];
                vectorised(
                    #[inline(always)]
                    || cell_backward(gates, before, dy, outputs),
                );
            }
            add_weight_gradient(&mut sums[0], &recurrent, &before, [cells, 3 * cells]);
            add_bias_gradient(&mut sums[1], &recurrent);
            add_input_gradient(d_state, &recurrent, weight, [cells, 3 * cells]);
        }
        sums
    }
}

/// `h' = n + z (h - n)` with `n = tanh(from_input + r from_state)`.
#[inline(always)]
fn cell(from_input: &[f32], from_state: &[f32], state: &mut [f32], mut gates: Option<&mut [f32]>) {
    let cells = state.len();
    for i in 0..cells {
        let reset = sigmoid(from_input[i] + from_state[i]);
        let update = sigmoid(from_input[cells + i] + from_state[cells + i]);
        let of_new = from_state[2 * cells + i];
        let new = tanh(from_input[2 * cells + i] + reset * of_new);
        state[i] = new + update * (state[i] - new);
        if let Some(gates) = &mut gates {
            gates[i] = reset;
            gates[cells + i] = update;
            gates[2 * cells + i] = new;
            gates[3 * cells + i] = of_new;
        }
    }
}

/// `outputs`: the gradients of what comes from the input and from the state, and that of the state after this step, which
/// becomes that of the state before it, but for what goes through the weight.
#[inline(always)]
fn cell_backward(gates: &[f32], before: &[f32], dy: &[f32], outputs: [&mut [f32]; 3]) {
    let cells = before.len();
    let [from_input, from_state, d_state] = outputs;
    for i in 0..cells {
        let (reset, update, new, of_new) = (gates[i], gates[cells + i], gates[2 * cells + i], gates[3 * cells + i]);
        let gradient = d_state[i] + dy[i];
        let d_new = gradient * (1.0 - update) * (1.0 - new * new);
        let d_update = gradient * (before[i] - new) * update * (1.0 - update);
        let d_reset = d_new * of_new * reset * (1.0 - reset);
        from_input[i] = d_reset;
        from_input[cells + i] = d_update;
        from_input[2 * cells + i] = d_new;
        from_state[i] = d_reset;
        from_state[cells + i] = d_update;
        from_state[2 * cells + i] = d_new * reset;
        d_state[i] = gradient * update;
    }
}
