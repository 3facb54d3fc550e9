//! The arithmetic of one step of a recurrent cell, and its gradients.

use crate::simd::{sigmoid, tanh};

/// A kind of recurrent cell. All slices are of one row; values of a layer's cells lie side by side.
pub(super) trait Cell: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Sums over inputs that a cell makes.
    const GATES: usize;
    /// Values that a cell carries from step to step, of which the first is its output.
    const STATES: usize;
    /// Values that gradients need.
    const KEPT: usize;

    /// From the gates' parts that depend on the input and on the output before to the state after the step.
    fn step(from_input: &[f32], from_state: &[f32], state: &mut [f32], kept: Option<&mut [f32]>);

    /// `d_state` is the gradient of the state after the step, all of it, and becomes that of the state before it, but for
    /// what goes through the weight. The gradients of both parts of the gates are written.
    fn backward(kept: &[f32], before: &[f32], d_state: &mut [f32], from_input: &mut [f32], from_state: &mut [f32]);
}

/// `h' = n + z (h - n)` with `n = tanh(from_input + r from_state)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gru;

impl Cell for Gru {
    const GATES: usize = 3;
    const STATES: usize = 1;
    /// Reset, update, new, and the part of the last that depends on the output before.
    const KEPT: usize = 4;

    #[inline(always)]
    fn step(from_input: &[f32], from_state: &[f32], state: &mut [f32], mut kept: Option<&mut [f32]>) {
        let cells = state.len();
        for i in 0..cells {
            let reset = sigmoid(from_input[i] + from_state[i]);
            let update = sigmoid(from_input[cells + i] + from_state[cells + i]);
            let of_new = from_state[2 * cells + i];
            let new = tanh(from_input[2 * cells + i] + reset * of_new);
            state[i] = new + update * (state[i] - new);
            if let Some(kept) = &mut kept {
                kept[i] = reset;
                kept[cells + i] = update;
                kept[2 * cells + i] = new;
                kept[3 * cells + i] = of_new;
            }
        }
    }

    #[inline(always)]
    fn backward(kept: &[f32], before: &[f32], d_state: &mut [f32], from_input: &mut [f32], from_state: &mut [f32]) {
        let cells = d_state.len();
        for i in 0..cells {
            let (reset, update, new, of_new) = (kept[i], kept[cells + i], kept[2 * cells + i], kept[3 * cells + i]);
            let gradient = d_state[i];
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
}

/// `c' = f c + i g` and `h' = o tanh(c')`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lstm;

impl Cell for Lstm {
    const GATES: usize = 4;
    /// The output and the memory.
    const STATES: usize = 2;
    /// Input, forget, new, output, and the tanh of the memory after the step.
    const KEPT: usize = 5;

    #[inline(always)]
    fn step(from_input: &[f32], from_state: &[f32], state: &mut [f32], mut kept: Option<&mut [f32]>) {
        let cells = state.len() / 2;
        let (hidden, memory) = state.split_at_mut(cells);
        for i in 0..cells {
            let gate = |gate: usize| from_input[gate * cells + i] + from_state[gate * cells + i];
            let (input, forget, new, output) = (sigmoid(gate(0)), sigmoid(gate(1)), tanh(gate(2)), sigmoid(gate(3)));
            memory[i] = forget * memory[i] + input * new;
            let shown = tanh(memory[i]);
            hidden[i] = output * shown;
            if let Some(kept) = &mut kept {
                kept[i] = input;
                kept[cells + i] = forget;
                kept[2 * cells + i] = new;
                kept[3 * cells + i] = output;
                kept[4 * cells + i] = shown;
            }
        }
    }

    #[inline(always)]
    fn backward(kept: &[f32], before: &[f32], d_state: &mut [f32], from_input: &mut [f32], from_state: &mut [f32]) {
        let cells = d_state.len() / 2;
        let (d_hidden, d_memory) = d_state.split_at_mut(cells);
        for i in 0..cells {
            let [input, forget, new, output, shown] = [0, 1, 2, 3, 4].map(|place| kept[place * cells + i]);
            let d_after = d_memory[i] + d_hidden[i] * output * (1.0 - shown * shown);
            from_input[i] = d_after * new * input * (1.0 - input);
            from_input[cells + i] = d_after * before[cells + i] * forget * (1.0 - forget);
            from_input[2 * cells + i] = d_after * input * (1.0 - new * new);
            from_input[3 * cells + i] = d_hidden[i] * shown * output * (1.0 - output);
            d_hidden[i] = 0.0;
            d_memory[i] = d_after * forget;
        }
        from_state.copy_from_slice(from_input);
    }
}
