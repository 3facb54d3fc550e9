//! Runs a layer forward and backward, and compares what comes out.

use burn::tensor::{Device, Gradients, Tensor, TensorData};

pub(crate) type Layer<'a> = &'a (dyn Fn(Tensor<4>) -> Tensor<4> + Sync);
/// The gradients of a layer's parameters with their names; `None`: nobody asked for it.
pub(crate) type ParameterGradients<'a> = &'a (dyn Fn(&Gradients) -> Vec<(&'static str, Option<TensorData>)> + Sync);

/// How the input of the layer comes from the leaf that the gradient is taken for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    Contiguous,
    /// Height and width swapped in memory.
    Transposed,
    /// One image for the whole batch, with stride 0.
    Expanded,
    /// No gradient is asked for.
    Constant,
}

/// What gradient the output of the layer receives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Differs everywhere.
    Weighted,
    /// The same, with height and width swapped in memory.
    WeightedTransposed,
    /// The same everywhere, with stride 0.
    Sum,
}

/// Output and gradients by name.
pub(crate) type Outcome = Vec<(&'static str, Vec<f32>)>;

/// Numbers in [-1, 1) that depend on `seed` alone.
pub(crate) fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

pub(crate) fn run(
    shape: [usize; 4],
    input: Input,
    loss: Loss,
    device: &Device,
    layer: Layer,
    parameters: ParameterGradients,
) -> Outcome {
    let [batch, channels, height, width] = shape;
    let leaf = match input {
        Input::Contiguous | Input::Constant => noise(shape, 1, device),
        Input::Transposed => noise([batch, channels, width, height], 1, device),
        Input::Expanded => noise([1, channels, height, width], 1, device),
    };
    let leaf = match input {
        Input::Constant => leaf,
        _ => leaf.require_grad(),
    };
    let x = match input {
        Input::Contiguous | Input::Constant => leaf.clone(),
        Input::Transposed => leaf.clone().swap_dims(2, 3),
        Input::Expanded => leaf.clone().expand(shape),
    };
    let y = layer(x);
    let [_, channels_out, height, width] = y.dims();
    let mut outcome = vec![("y", floats(y.to_data()))];
    let scalar = match loss {
        Loss::Weighted => (y * noise([batch, channels_out, height, width], 2, device)).sum(),
        Loss::WeightedTransposed => (y.swap_dims(2, 3) * noise([batch, channels_out, width, height], 3, device)).sum(),
        Loss::Sum => y.sum(),
    };
    let gradients = scalar.backward();
    match (input, leaf.grad(&gradients)) {
        (Input::Constant, gradient) => assert!(gradient.is_none()),
        (_, gradient) => outcome.push(("dx", floats(gradient.unwrap().to_data()))),
    }
    let parameters = parameters(&gradients).into_iter();
    outcome.extend(parameters.filter_map(|(name, gradient)| Some((name, floats(gradient?)))));
    outcome
}

pub(crate) fn floats(data: TensorData) -> Vec<f32> {
    data.try_to_vec::<f32>().unwrap()
}

/// Every value within `tolerance` of the expected one, relative to the largest expected one.
pub(crate) fn assert_close(actual: &Outcome, expected: &Outcome, tolerance: f32, what: &str) {
    let names = |outcome: &Outcome| outcome.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names(actual), names(expected), "{what}");
    for ((name, actual), (_, expected)) in actual.iter().zip(expected) {
        assert_eq!(actual.len(), expected.len(), "{name} of {what}");
        let largest = expected.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
        assert!(largest > 1e-3, "{name} of {what} is 0: the comparison says nothing");
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            let error = (a - e).abs() / largest;
            assert!(error <= tolerance, "{name}[{i}] of {what}: {a}, not {e}: off by {error:e}");
        }
    }
}

/// The same bits with one, two and three threads.
pub(crate) fn assert_independent_of_threads(what: &str, run: impl Fn() -> Outcome + Sync) {
    let outcomes = [1, 2, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&run)
    });
    for outcome in &outcomes[1..] {
        for ((name, values), (_, expected)) in outcome.iter().zip(&outcomes[0]) {
            let same = values.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{name} of {what} depends on the number of threads");
        }
    }
}
