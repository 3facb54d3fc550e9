//! From gradients to a step: global-norm clipping, and the average of the weights.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use ddpm_kernels::weights::{blend, scale, sum_of_squares};

use crate::train_step::host;

/// Scales all gradients so that their norm together is at most `max`, and gives the norm before.
///
/// Burn's own norm clipping looks at one parameter at a time, which is another rule. `max = 0` only measures.
pub fn clip_global_norm<M: Module>(module: &M, grads: &mut GradientsParams, max: f64) -> f64 {
    let mut squares = Squares { grads, sums: Vec::new() };
    module.visit(&mut squares);
    let Some(sum) = squares.sums.into_iter().reduce(|a, b| a + b) else { return 0.0 };
    let norm = host(sum.sqrt());
    if max > 0.0 && norm > max && norm.is_finite() {
        scale_gradients(module, grads, max / (norm + 1e-6));
    }
    norm
}

/// Multiplies all gradients by `factor`.
pub fn scale_gradients<M: Module>(module: &M, grads: &mut GradientsParams, factor: f64) {
    module.visit(&mut Scale { grads, factor });
}

/// The norm of all weights together.
pub fn weight_norm<M: Module>(module: &M) -> f64 {
    let mut weights = Collect(GradientsParams::new());
    module.visit(&mut weights);
    clip_global_norm(module, &mut weights.0, 0.0)
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.sums.push(sum_of_squares(grad));
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register::<D>(param.id, scale(grad, self.factor));
        }
    }
}

/// `ema <- decay ema + (1 - decay) live`, parameter by parameter.
///
/// `ema` must be a copy of `live` with the same parameter ids.
pub fn ema_update<M: Module>(ema: &mut M, live: &M, decay: f64) {
    let mut weights = Collect(GradientsParams::new());
    live.visit(&mut weights);
    let mut average = Average { live: weights.0, decay, missing: 0 };
    // Out of its place, so that nobody else holds the weights and they can change where they lie.
    let held = std::mem::replace(ema, live.clone());
    *ema = held.map(&mut average);
    // Averages loaded without their ids would stand still, silently.
    assert_eq!(average.missing, 0, "the averaged weights have lost their parameter ids");
}

/// A tensor for each parameter id, of any rank.
struct Collect(GradientsParams);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.register::<D>(param.id, param.val().inner());
    }
}

struct Average {
    live: GradientsParams,
    decay: f64,
    missing: usize,
}

impl ModuleMapper for Average {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, ema, mapper) = param.consume();
        let ema = match self.live.remove::<D>(id) {
            Some(live) => blend(ema, live, self.decay),
            None => {
                self.missing += 1;
                ema
            }
        };
        Param::from_mapped_value(id, ema, mapper)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    use ddpm_families::family::any_module::AnyModule;
    use ddpm_families::parameters::settle;

    use super::*;

    fn linear() -> Linear {
        settle(LinearConfig::new(2, 3).init(&Device::default()))
    }

    #[test]
    fn the_norm_of_the_weights_is_the_root_of_all_squares() {
        let linear = linear();
        let values: Vec<f64> = [linear.weight.val().into_data(), linear.bias.as_ref().unwrap().val().into_data()]
            .iter()
            .flat_map(|data| data.iter::<f64>().collect::<Vec<_>>())
            .collect();
        let wanted = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        assert!((weight_norm(&linear) - wanted).abs() < 1e-6);
    }

    #[test]
    fn an_average_of_erased_modules_is_that_of_the_modules() {
        let bytes = |module: &Linear| module.clone().into_record().into_bytes().unwrap().to_vec();
        let (mut inner, live) = (linear(), linear());
        let mut outer = AnyModule::new(inner.clone());
        ema_update(&mut inner, &live, 0.75);
        ema_update(&mut outer, &AnyModule::new(live), 0.75);
        assert_eq!(bytes(outer.get().unwrap()), bytes(&inner));
    }
}
