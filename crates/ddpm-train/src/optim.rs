//! From gradients to a step: learning rate, global-norm clipping, Adam, and the average of the weights.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;

use crate::config::{OptimizerConfig, OptimizerKind};
use crate::model::host;

impl OptimizerConfig {
    /// Burn's optimiser with every constant stated: its defaults are not those of the papers.
    pub fn init(&self) -> ModuleOptimizer {
        let [beta_1, beta_2, epsilon] = [self.beta_1, self.beta_2, self.epsilon].map(|value| value as f32);
        match self.kind {
            OptimizerKind::Adam => {
                AdamConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(epsilon).init()
            }
            OptimizerKind::AdamW => AdamWConfig::new()
                .with_beta_1(beta_1)
                .with_beta_2(beta_2)
                .with_epsilon(epsilon)
                .with_weight_decay(self.weight_decay as f32)
                .init(),
        }
    }

    /// The rate of step `step` (from 0): a linear warm-up, then constant.
    pub fn rate_at(&self, step: u64) -> f64 {
        let warmed = (step + 1) as f64 / self.warmup_steps.max(1) as f64;
        self.learning_rate * warmed.min(1.0)
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

struct Squares<'a> {
    grads: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.sums.push(grad.square().sum());
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
            self.grads.register::<D>(param.id, grad * self.factor);
        }
    }
}

/// `ema <- decay ema + (1 - decay) live`, parameter by parameter.
///
/// `ema` must be a copy of `live` with the same parameter ids.
pub fn ema_update<M: Module>(ema: M, live: &M, decay: f64) -> M {
    let mut weights = Collect(GradientsParams::new());
    live.visit(&mut weights);
    let mut average = Average { live: weights.0, decay, missing: 0 };
    let ema = ema.map(&mut average);
    // Averages loaded without their ids would stand still, silently.
    assert_eq!(average.missing, 0, "the averaged weights have lost their parameter ids");
    ema
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
            Some(live) => ema * self.decay + live * (1.0 - self.decay),
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
