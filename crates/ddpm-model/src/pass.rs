//! The context of one forward pass: the precision of its products, whether it is one of training, and optionally a trace of
//! every layer. Without a trace it costs nothing.

use std::cell::RefCell;
use std::fmt;

use burn::tensor::Tensor;
use ddpm_kernels::Precision;

use crate::batch_norm::BatchStatistics;

/// Statistics of the values of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values {
    /// How many there are.
    pub count: usize,
    /// How many of them are not a number.
    pub not_a_number: usize,
    /// How many of them are infinite.
    pub infinite: usize,
    /// The lowest of the others; 0 if there are none.
    pub lowest: f64,
    /// The highest of the others.
    pub highest: f64,
    /// The root of the mean square of the others.
    pub rms: f64,
}

impl Values {
    /// The statistics of a tensor.
    pub fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        let mut values = Self::default();
        let (mut lowest, mut highest, mut squares) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
        for value in tensor.clone().into_data().iter::<f64>() {
            values.count += 1;
            if value.is_nan() {
                values.not_a_number += 1;
            } else if value.is_infinite() {
                values.infinite += 1;
            } else {
                lowest = value.min(lowest);
                highest = value.max(highest);
                squares += value * value;
            }
        }
        let finite = values.count - values.not_a_number - values.infinite;
        if finite > 0 {
            (values.lowest, values.highest, values.rms) = (lowest, highest, (squares / finite as f64).sqrt());
        }
        values
    }

    /// Whether all of them are finite.
    pub fn are_finite(&self) -> bool {
        self.not_a_number + self.infinite == 0
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, not_a_number, infinite, lowest, highest, rms } = self;
        write!(f, "{count} values")?;
        if !self.are_finite() {
            write!(f, ", {not_a_number} of them not a number and {infinite} infinite")?;
        }
        match count - not_a_number - infinite {
            0 => Ok(()),
            _ => write!(f, ", from {lowest:.3e} to {highest:.3e}, root mean square {rms:.3e}"),
        }
    }
}

/// A layer, or an operation that joins layers, in one forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedLayer {
    /// The path of its parameters, without their own names.
    pub path: String,
    /// The input, where that is one tensor.
    pub input: Option<Values>,
    /// The output.
    pub output: Values,
}

/// Everything traced, in the order of the layers.
#[derive(Debug, Default)]
pub struct Trace(RefCell<Vec<TracedLayer>>);

impl Trace {
    /// A pass that writes into this trace.
    pub fn pass(&self) -> Pass<'_> {
        Pass { trace: Some(&self.0), ..Pass::default() }
    }

    /// The traced layers.
    pub fn into_layers(self) -> Vec<TracedLayer> {
        self.0.into_inner()
    }
}

/// The context of a forward pass.
#[derive(Clone, Debug, Default)]
pub struct Pass<'a> {
    /// The precision of the layers, set by the network.
    pub(crate) precision: Precision,
    path: String,
    trace: Option<&'a RefCell<Vec<TracedLayer>>>,
    statistics: Option<&'a BatchStatistics>,
}

impl<'a> Pass<'a> {
    /// The same pass in training: batch normalizations use the statistics of their batch, which they record.
    pub fn training(self, statistics: &'a BatchStatistics) -> Self {
        Self { statistics: Some(statistics), ..self }
    }

    /// Where the statistics of the batch are recorded, in training.
    pub(crate) fn statistics(&self) -> Option<&'a BatchStatistics> {
        self.statistics
    }
}

impl Pass<'_> {
    /// The same pass in this precision.
    pub(crate) fn of(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    /// The same pass inside a part of the network: `pass.inside(format_args!("resnets.{i}"))`.
    pub fn inside(&self, name: fmt::Arguments<'_>) -> Self {
        let path = if self.trace.is_some() { self.path_of(name) } else { String::new() };
        Self { path, ..*self }
    }

    /// Whether kernels that do several layers at once may be used: not if every layer is traced, or in half precision.
    pub(crate) fn may_fuse(&self) -> bool {
        self.trace.is_none() && self.precision == Precision::F32
    }

    /// Runs a layer.
    pub(crate) fn layer<const A: usize, const B: usize>(
        &self,
        name: &str,
        x: Tensor<A>,
        forward: impl FnOnce(Tensor<A>) -> Tensor<B>,
    ) -> Tensor<B> {
        let Some(trace) = self.trace else { return forward(x) };
        let input = Some(Values::of(&x));
        let y = forward(x);
        let path = self.path_of(format_args!("{name}"));
        trace.borrow_mut().push(TracedLayer { path, input, output: Values::of(&y) });
        y
    }

    /// Traces the result of an operation on more than one tensor, and returns it.
    pub(crate) fn joined<const D: usize>(&self, name: &str, y: Tensor<D>) -> Tensor<D> {
        if let Some(trace) = self.trace {
            let path = self.path_of(format_args!("{name}"));
            trace.borrow_mut().push(TracedLayer { path, input: None, output: Values::of(&y) });
        }
        y
    }

    fn path_of(&self, name: fmt::Arguments<'_>) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn values_count_what_is_not_finite_and_measure_the_rest() {
        let x = Tensor::<2>::from_floats([[3.0, f32::NAN], [f32::NEG_INFINITY, -4.0]], &Device::default());
        let values = Values::of(&x);
        let expected =
            Values { count: 4, not_a_number: 1, infinite: 1, lowest: -4.0, highest: 3.0, rms: 12.5_f64.sqrt() };
        assert_eq!(values, expected);
        assert!(!values.are_finite());
        let text = values.to_string();
        assert!(text.contains("1 of them not a number and 1 infinite, from -4.000e0 to 3.000e0"), "{text}");
        let nothing = Values::of(&(x * f32::NAN));
        assert_eq!((nothing.not_a_number, nothing.to_string().contains("from")), (4, false));
    }

    #[test]
    fn a_traced_pass_writes_paths_and_another_nothing() {
        let trace = Trace::default();
        let device = Device::default();
        let run = |pass: &Pass<'_>| {
            let inner = pass.inside(format_args!("blocks.{}", 2)).inside(format_args!("a"));
            let y = inner.layer("b", Tensor::<1>::ones([3], &device), |x| x * 2.0);
            pass.joined("sum", y.clone() + y).into_data()
        };
        assert_eq!(run(&Pass::default()), run(&trace.pass()));
        let layers = trace.into_layers();
        let paths: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
        assert_eq!(paths, ["blocks.2.a.b", "sum"]);
        assert_eq!((layers[0].input.map(|input| input.highest), layers[0].output.highest), (Some(1.0), 2.0));
        assert_eq!((layers[1].input, layers[1].output.highest), (None, 4.0));
    }
}
