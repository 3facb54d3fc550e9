//! A layer of recurrent cells as an operation of Burn.

use std::marker::PhantomData;

use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use super::cells::{Cell, Lstm};
use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};
use crate::output::{Unset, written};
use crate::rows::{add_bias_gradient, add_input_gradient, add_product, add_weight_gradient, fill_rows, total};
use crate::scratch::Scratch;
use crate::simd::vectorised;

/// Rows of the batch that a task takes through all steps.
const TASK_ROWS: usize = 16;

/// The states after every step, `[batch, steps, STATES cells]`.
pub(super) fn recurrence<C: Cell>(
    from_inputs: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    state: Tensor<2>,
) -> Option<Tensor<3>> {
    let ([batch, steps, gates], [_, cells]) = (from_inputs.dims(), weight.dims());
    let all_f32 = is_f32_on_flex(&from_inputs) && is_f32_on_flex(&weight) && is_f32_on_flex(&bias);
    let fit =
        gates == C::GATES * cells && weight.dims() == [gates, cells] && state.dims() == [batch, C::STATES * cells];
    if !all_f32 || !fit || !is_f32_on_flex(&state) || batch * steps * cells == 0 {
        return None;
    }
    let inputs = vec![from_inputs.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), state.into_dispatch()];
    Some(apply(inputs, Recurrence::<C> { batch, steps, cells, cell: PhantomData }))
}

/// The outputs, and the memory after the last step.
pub(super) fn long_short_term_recurrence(
    from_inputs: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    state: [Tensor<2>; 2],
) -> Option<(Tensor<3>, Tensor<2>)> {
    let ([batch, steps, _], [_, cells]) = (from_inputs.dims(), weight.dims());
    // Outputs, and memories beside them.
    let states = recurrence::<Lstm>(from_inputs, weight, bias, Tensor::cat(state.to_vec(), 1))?;
    let memory = states.clone().narrow(2, cells, cells).narrow(1, steps - 1, 1).reshape([batch, cells]);
    Some((states.narrow(2, 0, cells), memory))
}

#[derive(Clone, Copy, Debug)]
struct Recurrence<C> {
    batch: usize,
    steps: usize,
    cells: usize,
    cell: PhantomData<C>,
}

impl<C: Cell> Arithmetic for Recurrence<C> {
    fn names(&self) -> [Operation; 2] {
        [Operation::Recurrence, Operation::RecurrenceBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.batch, self.steps, C::STATES * self.cells])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let size = self.steps * C::STATES * self.cells;
        written(self.batch * size, |y| {
            y.par_chunks(TASK_ROWS * size).enumerate().for_each(|(task, y)| {
                let y = y.cleared();
                self.pass(task, inputs, y, None);
            });
        })
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let Self { batch, steps, cells, .. } = *self;
        let (gates, states) = (C::GATES * cells, C::STATES * cells);
        let mut parts = Vec::new();
        let mut of_states = Vec::new();
        let of_inputs = written(batch * steps * gates, |gradient| {
            of_states = written(batch * states, |of_states| {
                let states = of_states.par_chunks(TASK_ROWS * states);
                let tasks = gradient.par_chunks(TASK_ROWS * steps * gates).zip(states).enumerate();
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

impl<C: Cell> Recurrence<C> {
    fn rows(&self, task: usize) -> usize {
        TASK_ROWS.min(self.batch - task * TASK_ROWS)
    }

    /// Writes the states of a task, `[rows, steps, states]`, and if it is wanted what gradients need of every step,
    /// `[steps, rows, kept]`.
    fn pass(&self, task: usize, inputs: &[&[f32]], y: &mut [f32], mut all_kept: Option<&mut [f32]>) {
        let Self { steps, cells, .. } = *self;
        let [gates, states, kept] = [C::GATES, C::STATES, C::KEPT].map(|count| count * cells);
        let [from_inputs, weight, bias, state] = *inputs else { return };
        let (first, rows) = (task * TASK_ROWS, self.rows(task));
        let mut state = state[first * states..(first + rows) * states].to_vec();
        let (mut hidden, mut recurrent) = (Scratch::new(rows * cells), Scratch::new(rows * gates));
        for step in 0..steps {
            copy_columns(&state, states, &mut hidden, cells);
            fill_rows(&mut recurrent, bias);
            add_product(&mut recurrent, &hidden, weight, [cells, gates]);
            let mut of_step = all_kept.as_mut().map(|all| &mut all[step * rows * kept..][..rows * kept]);
            for row in 0..rows {
                let from_input = &from_inputs[((first + row) * steps + step) * gates..][..gates];
                let from_state = &recurrent[row * gates..][..gates];
                let state = &mut state[row * states..][..states];
                let of_row = of_step.as_mut().map(|of_step| &mut of_step[row * kept..][..kept]);
                vectorised(
                    #[inline(always)]
                    || C::step(from_input, from_state, state, of_row),
                );
                y[(row * steps + step) * states..][..states].copy_from_slice(state);
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
        let [gates, states, kept] = [C::GATES, C::STATES, C::KEPT].map(|count| count * cells);
        let (first, rows) = (task * TASK_ROWS, self.rows(task));
        let (weight, start) = (inputs[1], &inputs[3][first * states..(first + rows) * states]);
        let mut y = Scratch::new(rows * steps * states);
        let mut all_kept = Scratch::new(steps * rows * kept);
        self.pass(task, inputs, &mut y, Some(&mut all_kept));
        let mut sums = vec![vec![0.0; gates * cells], vec![0.0; gates]];
        let [mut hidden, mut d_hidden] = [(); 2].map(|()| Scratch::new(rows * cells));
        let (mut before, mut recurrent) = (Scratch::new(rows * states), Scratch::new(rows * gates));
        for step in (0..steps).rev() {
            for row in 0..rows {
                let at = (row * steps + step) * states;
                let state = if step == 0 { &start[row * states..] } else { &y[at - states..] };
                let before = &mut before[row * states..][..states];
                before.copy_from_slice(&state[..states]);
                let dy = &dy[first * steps * states + at..][..states];
                let kept = &all_kept[(step * rows + row) * kept..][..kept];
                let from_input = &mut gradient[(row * steps + step) * gates..][..gates];
                let from_state = &mut recurrent[row * gates..][..gates];
                let d_state = &mut d_state[row * states..][..states];
                vectorised(
                    #[inline(always)]
                    || {
                        d_state.iter_mut().zip(dy).for_each(|(sum, value)| *sum += value);
                        C::backward(kept, before, d_state, from_input, from_state);
                    },
                );
            }
            copy_columns(&before, states, &mut hidden, cells);
            add_weight_gradient(&mut sums[0], &recurrent, &hidden, [cells, gates]);
            add_bias_gradient(&mut sums[1], &recurrent);
            // What goes through the weight is of the output alone.
            copy_columns(d_state, states, &mut d_hidden, cells);
            add_input_gradient(&mut d_hidden, &recurrent, weight, [cells, gates]);
            for (to, from) in d_state.chunks_exact_mut(states).zip(d_hidden.chunks_exact(cells)) {
                to[..cells].copy_from_slice(from);
            }
        }
        sums
    }
}

/// The first columns of each row.
fn copy_columns(from: &[f32], width: usize, to: &mut [f32], columns: usize) {
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(columns)) {
        to.copy_from_slice(&from[..columns]);
    }
}
