//! The learning rate as a function of the step: a warm-up, then a decay.
//!
//! Places of the schedule are given in steps or in images. Inside everything is counted in steps, of which some then have
//! a fraction.

use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use crate::config::{OptimizerConfig, RateDecay};

impl OptimizerConfig {
    /// The rate of step `step` (from 0), each of `batch_size` images: a linear warm-up, times what the decay has left.
    pub fn rate_at(&self, step: u64, batch_size: usize) -> f64 {
        let warmup = self.warmup(batch_size);
        let warmed = (step + 1) as f64 / warmup.max(1.0);
        self.learning_rate * warmed.min(1.0) * self.decay.share_at(step, warmup, batch_size)
    }

    /// Steps of the warm-up.
    fn warmup(&self, batch_size: usize) -> f64 {
        in_steps(Some(self.warmup_steps).filter(|_| self.warmup_images.is_none()), self.warmup_images, batch_size)
    }

    /// What is wrong with the places of the schedule, each with its key.
    pub fn rate_problems(&self, batch_size: usize) -> Vec<(&'static str, String)> {
        self.decay.problems(self.warmup(batch_size), batch_size)
    }
}

/// A place given in steps or else in images.
fn in_steps(steps: Option<u64>, images: Option<u64>, batch_size: usize) -> f64 {
    match (steps, images) {
        (_, Some(images)) => images as f64 / batch_size as f64,
        (Some(steps), None) => steps as f64,
        (None, None) => 0.0,
    }
}

impl RateDecay {
    /// What is left of the learning rate at step `step` (from 0), after a warm-up of `warmup` steps.
    fn share_at(self, step: u64, warmup: f64, batch_size: usize) -> f64 {
        let step = step as f64;
        let progress = |until, until_images| {
            let until = in_steps(until, until_images, batch_size);
            ((step - warmup).max(0.0) / (until - warmup)).min(1.0)
        };
        match self {
            Self::Constant => 1.0,
            Self::Cosine { until, until_images, lowest } => {
                let fallen = 0.5 * (1.0 - (std::f64::consts::PI * progress(until, until_images)).cos());
                1.0 - (1.0 - lowest) * fallen
            }
            Self::Linear { until, until_images, lowest } => 1.0 - (1.0 - lowest) * progress(until, until_images),
            Self::InverseSqrt { after, after_images } => {
                (step / in_steps(after, after_images, batch_size)).max(1.0).sqrt().recip()
            }
        }
    }

    fn problems(self, warmup: f64, batch_size: usize) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut one_of = |keys: [&'static str; 2], given: [Option<u64>; 2]| match given {
            [Some(_), None] | [None, Some(_)] => true,
            [Some(_), Some(_)] => {
                problems.push((keys[1], format!("says the same as {}, in images: leave one out", keys[0])));
                false
            }
            [None, None] => {
                problems
                    .push((keys[0], format!("is missing: expected {} in steps, or {} in images", keys[0], keys[1])));
                false
            }
        };
        match self {
            Self::Constant => {}
            Self::Cosine { until, until_images, lowest } | Self::Linear { until, until_images, lowest } => {
                let end = in_steps(until, until_images, batch_size);
                if one_of(["until", "until_images"], [until, until_images]) && end <= warmup {
                    let key = if until.is_some() { "until" } else { "until_images" };
                    let message = format!("step {end} must be after the warm-up of {warmup} steps");
                    problems.push((key, message));
                }
                if !(0.0..=1.0).contains(&lowest) {
                    problems.push(("lowest", format!("must lie between 0 and 1, not {lowest}")));
                }
            }
            Self::InverseSqrt { after, after_images } => {
                let given = one_of(["after", "after_images"], [after, after_images]);
                if given && in_steps(after, after_images, batch_size) == 0.0 {
                    let key = if after.is_some() { "after" } else { "after_images" };
                    problems.push((key, "must be at least 1, not 0".into()));
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
    /// Images behind a step.
    pub batch_size: usize,
    /// The step whose rate comes next.
    pub step: u64,
}

impl LrScheduler for RateSchedule {
    fn step(&mut self) -> f64 {
        let rate = self.config.rate_at(self.step, self.batch_size);
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

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 64;

    fn config(decay: RateDecay) -> OptimizerConfig {
        OptimizerConfig { learning_rate: 0.5, warmup_steps: 10, decay, ..OptimizerConfig::default() }
    }

    fn cosine(until: u64, lowest: f64) -> RateDecay {
        RateDecay::Cosine { until: Some(until), until_images: None, lowest }
    }

    fn linear(until: u64, lowest: f64) -> RateDecay {
        RateDecay::Linear { until: Some(until), until_images: None, lowest }
    }

    fn rates(decay: RateDecay, steps: &[u64]) -> Vec<f64> {
        steps.iter().map(|&step| config(decay).rate_at(step, BATCH)).collect()
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
        let wanted = [0.05, 0.5, 0.5, 0.25 * (1.0 + root), 0.25, 0.25 * (1.0 - root), 0.0, 0.0];
        near(&rates(cosine(90, 0.0), &[0, 9, 10, 30, 50, 70, 90, 1000]), &wanted);
        near(&rates(cosine(90, 0.2), &[9, 10, 50, 90, 91]), &[0.5, 0.5, 0.3, 0.1, 0.1]);
        near(&rates(linear(90, 0.0), &[4, 10, 30, 50, 80, 90, 1000]), &[0.25, 0.5, 0.375, 0.25, 0.0625, 0.0, 0.0]);
        near(&rates(linear(90, 0.5), &[10, 50, 90, 1000]), &[0.5, 0.375, 0.25, 0.25]);
        let inverse = RateDecay::InverseSqrt { after: Some(100), after_images: None };
        near(&rates(inverse, &[0, 9, 99, 100, 200, 400, 10_000]), &[0.05, 0.5, 0.5, 0.5, 0.5 * root, 0.25, 0.05]);
    }

    #[test]
    fn places_in_images_are_the_same_for_every_batch() {
        let images = |decay| OptimizerConfig { warmup_images: Some(1280), warmup_steps: 7, ..config(decay) };
        let decays = [
            (RateDecay::Constant, RateDecay::Constant),
            (RateDecay::Cosine { until: None, until_images: Some(12_800), lowest: 0.1 }, cosine(200, 0.1)),
            (RateDecay::Linear { until: None, until_images: Some(12_800), lowest: 0.1 }, linear(200, 0.1)),
            (
                RateDecay::InverseSqrt { after: None, after_images: Some(3200) },
                RateDecay::InverseSqrt { after: Some(50), after_images: None },
            ),
        ];
        for (by_images, by_steps) in decays {
            assert_eq!(images(by_images).rate_problems(BATCH), []);
            let by_steps = OptimizerConfig { warmup_steps: 20, ..config(by_steps) };
            for step in 0..300 {
                let wanted = by_steps.rate_at(step, BATCH);
                near(&[images(by_images).rate_at(step, BATCH)], &[wanted]);
                // A step of half the batch that ends where this one ends; past the warm-up, one that begins where it begins.
                let half = if step < 20 { 2 * step + 1 } else { 2 * step };
                near(&[images(by_images).rate_at(half, BATCH / 2)], &[wanted]);
            }
        }
    }

    #[test]
    fn places_that_contradict_each_other_are_told() {
        let keys = |decay: RateDecay| -> Vec<&str> {
            config(decay).rate_problems(BATCH).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(cosine(90, 0.5)), [""; 0]);
        assert_eq!(keys(cosine(10, 1.5)), ["until", "lowest"]);
        let cosine = |until, until_images| RateDecay::Cosine { until, until_images, lowest: 0.0 };
        assert_eq!(keys(cosine(None, None)), ["until"]);
        assert_eq!(keys(cosine(Some(90), Some(90))), ["until_images"]);
        // Ten steps of warm-up are 640 images.
        assert_eq!(keys(cosine(None, Some(640))), ["until_images"]);
        assert_eq!(keys(cosine(None, Some(641))), [""; 0]);
        assert_eq!(keys(RateDecay::InverseSqrt { after: Some(0), after_images: None }), ["after"]);
        assert_eq!(keys(RateDecay::InverseSqrt { after: None, after_images: None }), ["after"]);
    }

    #[test]
    fn a_schedule_taken_up_again_goes_on() {
        let config = OptimizerConfig { warmup_steps: 5, ..config(cosine(60, 0.1)) };
        let mut whole = RateSchedule { config: config.clone(), batch_size: BATCH, step: 0 };
        let rates: Vec<f64> = (0..80).map(|_| whole.step()).collect();
        let mut later = RateSchedule { config, batch_size: BATCH, step: 33 };
        assert!((33..80).all(|step| later.step().to_bits() == rates[step].to_bits()));
    }
}
