//! From gradients to a step: learning rate, global-norm clipping, Adam, and the average of the weights.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use ddpm_kernels::weights::{blend, scale, sum_of_squares};

use crate::adam::Adam;
use crate::config::{OptimizerConfig, OptimizerKind, RateDecay};
use crate::model::host;

impl OptimizerConfig {
    /// The optimiser with every constant stated: Burn's defaults are not those of the papers.
    pub fn init(&self) -> ModuleOptimizer {
        let [beta_1, beta_2, epsilon] = [self.beta_1, self.beta_2, self.epsilon].map(|value| value as f32);
        match self.kind {
            OptimizerKind::Adam => Adam { beta_1, beta_2, epsilon }.into(),
            OptimizerKind::AdamW => AdamWConfig::new()
                .with_beta_1(beta_1)
                .with_beta_2(beta_2)
                .with_epsilon(epsilon)
                .with_weight_decay(self.weight_decay as f32)
                .init(),
        }
    }

    /// The rate of step `step` (from 0): a linear warm-up, times what the decay has left.
    pub fn rate_at(&self, step: u64) -> f64 {
        let warmed = (step + 1) as f64 / self.warmup_steps.max(1) as f64;
        self.learning_rate * warmed.min(1.0) * self.decay.share_at(step, self.warmup_steps)
    }
}

impl RateDecay {
    /// What is left of the learning rate at step `step` (from 0), after a warm-up of `warmup` steps.
    pub fn share_at(self, step: u64, warmup: u64) -> f64 {
        let progress = |until: u64| (step.saturating_sub(warmup) as f64 / (until - warmup) as f64).min(1.0);
        match self {
            Self::Constant => 1.0,
            Self::Cosine { until, lowest } => {
                let fallen = 0.5 * (1.0 - (std::f64::consts::PI * progress(until)).cos());
                1.0 - (1.0 - lowest) * fallen
            }
            Self::Linear { until, lowest } => 1.0 - (1.0 - lowest) * progress(until),
            Self::InverseSqrt { after } => (step as f64 / after as f64).max(1.0).sqrt().recip(),
        }
    }

    /// What is wrong with the numbers, each with its key.
    pub fn problems(self, warmup: u64) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        match self {
            Self::Constant => {}
            Self::Cosine { until, lowest } | Self::Linear { until, lowest } => {
                if until <= warmup {
                    problems.push(("until", format!("must be after the warm-up of {warmup} steps, not {until}")));
                }
                if !(0.0..=1.0).contains(&lowest) {
                    problems.push(("lowest", format!("must lie between 0 and 1, not {lowest}")));
                }
            }
            Self::InverseSqrt { after } => {
                if after == 0 {
                    problems.push(("after", "must be at least 1, not 0".into()));
                }
            }
        }
        problems
    }
}

/// [`OptimizerConfig::rate_at`] in the form that the `Learner` takes. Its only state is the step.
#[derive(Clone, Debug)]
pub struct RateSchedule {
    /// The rule.
    pub config: OptimizerConfig,
    /// The step whose rate comes next.
    pub step: u64,
}

impl LrScheduler for RateSchedule {
    fn step(&mut self) -> f64 {
        let rate = self.config.rate_at(self.step);
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("step", self.step)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.step = record.scalar("step").unwrap_or(self.step);
    }
}

/// Scales all gradients so that their norm together is at most `max`, and gives the norm before.
///
/// Burn's own norm clipping looks at one parameter at a time, which is another rule. `max = 0` only measures.
pub fn clip_global_norm<M: Module>(module: &M, grads: &mut GradientsParams, max: f64) -> f64 {
    let mut squares = Squares { grads, sums: Vec::new() };
    module.visit(&mut squares);
    let Some(sum) = squares.sums.into_iter().reduce(|a, b| a + b) else { return 0.0 };
    let norm = host(sum.sqrt());
    if max > 0.0 && norm > max {
        module.visit(&mut Scale { grads, factor: max / (norm + 1e-6) });
    }
    norm
}

/// The norm of all weights together.
pub fn weight_norm<M: Module>(module: &M) -> f64 {
    let mut weights = Collect(GradientsParams::new());
    module.visit(&mut weights);
    clip_global_norm(module, &mut weights.0, 0.0)
}

/// The name of the first parameter, in the order of the fields, whose gradient is not finite.
pub fn first_non_finite<M: Module>(module: &M, grads: &GradientsParams) -> Option<String> {
    let mut search = NonFinite { grads, path: Vec::new(), found: None };
    module.visit(&mut search);
    search.found
}

struct NonFinite<'a> {
    grads: &'a GradientsParams,
    path: Vec<String>,
    found: Option<String>,
}

impl ModuleVisitor for NonFinite<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.found.is_none()
            && let Some(grad) = self.grads.get::<D>(param.id)
            && !grad.is_finite().all().into_scalar::<bool>()
        {
            self.found = Some(self.path.join("."));
        }
    }
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

/// Draws the lazy first values of all parameters, in the order of the fields, and numbers the parameters in
/// that order: Burn's own ids are random, and records carry them, so two equal runs would differ in them.
pub fn settle<M: Module>(module: M) -> M {
    struct Number(u64);
    impl ModuleMapper for Number {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, value, mapper) = param.consume();
            self.0 += 1;
            Param::from_mapped_value(ParamId::from(self.0), value, mapper)
        }
    }
    module.map(&mut Number(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    use super::*;

    fn rates(decay: RateDecay, steps: &[u64]) -> Vec<f64> {
        let config = OptimizerConfig { learning_rate: 0.5, warmup_steps: 10, decay, ..OptimizerConfig::default() };
        steps.iter().map(|&step| config.rate_at(step)).collect()
    }

    fn near(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        let close = found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-15);
        assert!(close, "{found:?} instead of {wanted:?}");
    }

    #[test]
    fn rates_follow_their_closed_forms() {
        let root = 0.5_f64.sqrt();
        near(&rates(RateDecay::Constant, &[0, 4, 9, 10, 99_999]), &[0.05, 0.25, 0.5, 0.5, 0.5]);
        // cos(pi/4) and cos(pi/2), of the 80 steps after the warm-up.
        let cosine = |lowest| RateDecay::Cosine { until: 90, lowest };
        let wanted = [0.05, 0.5, 0.5, 0.25 * (1.0 + root), 0.25, 0.25 * (1.0 - root), 0.0, 0.0];
        near(&rates(cosine(0.0), &[0, 9, 10, 30, 50, 70, 90, 1000]), &wanted);
        near(&rates(cosine(0.2), &[9, 10, 50, 90, 91]), &[0.5, 0.5, 0.3, 0.1, 0.1]);
        let linear = |lowest| RateDecay::Linear { until: 90, lowest };
        near(&rates(linear(0.0), &[4, 10, 30, 50, 80, 90, 1000]), &[0.25, 0.5, 0.375, 0.25, 0.0625, 0.0, 0.0]);
        near(&rates(linear(0.5), &[10, 50, 90, 1000]), &[0.5, 0.375, 0.25, 0.25]);
        let inverse = RateDecay::InverseSqrt { after: 100 };
        near(&rates(inverse, &[0, 9, 99, 100, 200, 400, 10_000]), &[0.05, 0.5, 0.5, 0.5, 0.5 * root, 0.25, 0.05]);
    }

    #[test]
    fn a_schedule_taken_up_again_goes_on() {
        let config = OptimizerConfig {
            decay: RateDecay::Cosine { until: 60, lowest: 0.1 },
            warmup_steps: 5,
            ..OptimizerConfig::default()
        };
        let mut whole = RateSchedule { config: config.clone(), step: 0 };
        let rates: Vec<f64> = (0..80).map(|_| whole.step()).collect();
        let mut later = RateSchedule { config, step: 33 };
        assert!((33..80).all(|step| later.step().to_bits() == rates[step].to_bits()));
    }

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
    fn the_first_gradient_that_is_not_finite_is_named() {
        let linear = linear();
        let device = Device::default();
        let grads = |weight: f32, bias: f32| {
            let mut grads = GradientsParams::new();
            grads.register(ParamId::from(1), Tensor::<2>::full([2, 3], weight, &device));
            grads.register(ParamId::from(2), Tensor::<1>::full([3], bias, &device));
            first_non_finite(&linear, &grads)
        };
        assert_eq!(grads(1.0, 2.0), None);
        assert_eq!(grads(f32::NAN, f32::INFINITY).unwrap(), "weight");
        assert_eq!(grads(1.0, f32::INFINITY).unwrap(), "bias");
    }
}
