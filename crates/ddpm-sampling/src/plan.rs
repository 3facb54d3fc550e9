//! A scheduler of diffusers as data: levels, times, a sampler of ours, and how x_0 is clipped.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser, time_tensor};
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::schedule::Schedule;

use crate::guidance::Threshold;
use crate::samplers::{Multistep, NoiseSource, PlmsStep, PndmStart, Posterior, Sampler, Step, plms, pndm};

/// All that a trajectory follows from, besides the network and the noise.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The process, in the arithmetic that was asked for.
    pub diffusion: GaussianDiffusion,
    /// The sampler.
    pub sampler: Sampler,
    /// What becomes of a predicted x_0.
    pub clipping: Clipping,
    /// Whether eps stays what the network predicted where x_0 is clipped: the DDIM of diffusers does so, our samplers let eps
    /// follow from x_0.
    pub keeps_eps: bool,
    /// In which coordinates diffusers writes a trajectory down.
    pub coordinates: Coordinates,
    /// Deviation of the first x, in our coordinates.
    pub start: f64,
    /// The levels of each stretch. Mostly there is one; where a step of diffusers does not end where its next one
    /// starts, every step is a stretch of its own, and takes x as it is.
    pub stretches: Vec<Vec<NoiseLevel>>,
    /// The time that diffusers gives the network at a level, where it is not that of the schedule.
    pub times: Vec<(NoiseLevel, f64)>,
    /// The evaluations of PLMS, where they are not those of our own sampler along the one stretch.
    pub plms: Vec<PlmsStep>,
}

/// How a predicted x_0 is kept where data can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clipping {
    /// Not at all.
    None,
    /// Clamped.
    Clip {
        /// The largest value that stays.
        range: f64,
    },
    /// Dynamic thresholding.
    Threshold(Threshold),
}

/// In which coordinates a trajectory is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// x itself.
    Preserving,
    /// x / alpha.
    Exploding,
}

impl Plan {
    /// How many steps it takes.
    pub fn steps(&self) -> usize {
        self.stretches.iter().map(|levels| levels.len() - 1).sum()
    }

    /// The level that it starts at.
    pub fn first_level(&self) -> NoiseLevel {
        self.plms.first().map_or_else(|| self.stretches[0][0], |step| step.at)
    }

    /// Only its last `steps` steps, for an image that is hidden in noise of the first level that is left; nothing where the
    /// sampler has no such part.
    pub fn last(&self, steps: usize) -> Option<Self> {
        let skipped = self.steps().checked_sub(steps).filter(|_| steps > 0)?;
        let of_stretch = |levels: &Vec<NoiseLevel>| levels[skipped..].to_vec();
        let (stretches, plms) = match (self.sampler, self.stretches.as_slice()) {
            (Sampler::Pndm { start: PndmStart::RungeKutta }, _) if skipped > 0 => return None,
            (Sampler::Pndm { start: PndmStart::Multistep }, [levels]) if skipped > 0 => {
                (vec![of_stretch(levels)], PlmsStep::along(levels, skipped))
            }
            (_, [levels]) => (vec![of_stretch(levels)], self.plms.clone()),
            (_, stretches) => (stretches[skipped..].to_vec(), Vec::new()),
        };
        Some(Self { sampler: falling_as_before(self.sampler, self.steps()), stretches, plms, ..self.clone() })
    }

    /// The time that the network is conditioned on.
    pub fn time(&self, level: NoiseLevel) -> f64 {
        let given = self.times.iter().find(|(at, _)| *at == level).map(|(_, time)| *time);
        given.unwrap_or_else(|| self.diffusion.schedule.time_of(level))
    }

    /// A network as this plan evaluates it: `network(x_t, t)` gets the time of every row, shape `[B]`.
    pub fn denoiser<F>(&self, network: F) -> WithTimes<'_, F> {
        WithTimes { network, plan: self }
    }

    /// Goes from pure noise times [`Plan::start`] to the end. Step i takes its noise from `noise.step(i)`.
    ///
    /// The x_0 of `denoiser` is clipped as the plan says.
    pub fn run<const D: usize>(
        &self,
        denoiser: &dyn Denoiser<D>,
        x: Tensor<D>,
        noise: &mut dyn NoiseSource<D>,
        on_step: &mut dyn FnMut(Step<'_, D>),
    ) -> Tensor<D> {
        let clipped = Clipped { inner: denoiser, plan: self };
        self.run_clipped(&clipped, x, noise, on_step)
    }

    /// [`Plan::run`] for a denoiser whose x_0 is clipped already.
    pub fn run_clipped<const D: usize>(
        &self,
        denoiser: &dyn Denoiser<D>,
        mut x: Tensor<D>,
        noise: &mut dyn NoiseSource<D>,
        on_step: &mut dyn FnMut(Step<'_, D>),
    ) -> Tensor<D> {
        if !self.plms.is_empty() {
            return plms(denoiser, &self.plms, x, self.diffusion.prediction, on_step);
        }
        let mut steps_done = 0;
        for levels in &self.stretches {
            let mut noise = |step: usize| noise.step(steps_done + step);
            let mut on_step = |step: Step<'_, D>| on_step(Step { index: steps_done + step.index, ..step });
            x = match self.sampler {
                // Our own half-way level is none of the steps of diffusers.
                Sampler::Pndm { start } => {
                    let middle = |s, t| halved(&self.diffusion.schedule, s, t);
                    pndm(denoiser, levels, x, start, &middle, &mut on_step)
                }
                sampler => sampler.run(denoiser, levels, x, &mut noise, &mut on_step),
            };
            steps_done += levels.len() - 1;
        }
        x
    }

    /// The level that x is at after a step from `level`.
    fn next(&self, level: NoiseLevel) -> Option<NoiseLevel> {
        let mut pairs = self.stretches.iter().flat_map(|levels| levels.windows(2));
        pairs.find(|pair| pair[0] == level).map(|pair| pair[1])
    }

    fn clip<const D: usize>(&self, x_0: Tensor<D>) -> Tensor<D> {
        match self.clipping {
            Clipping::None => x_0,
            Clipping::Clip { range } => x_0.clamp(-range, range),
            Clipping::Threshold(threshold) => threshold.apply(x_0),
        }
    }
}

/// The sampler of a part of `steps` steps, whose order falls at the end where that of all steps does.
fn falling_as_before(sampler: Sampler, steps: usize) -> Sampler {
    let falls = |below: usize| if steps < below { usize::MAX } else { 0 };
    let all = |multistep: Multistep| Multistep { falls_below: falls(multistep.falls_below), ..multistep };
    match sampler {
        Sampler::DpmppMultistep { multistep, expansion } => {
            Sampler::DpmppMultistep { multistep: all(multistep), expansion }
        }
        Sampler::DpmppSde { multistep } => Sampler::DpmppSde { multistep: all(multistep) },
        Sampler::UniPc { multistep, b } => Sampler::UniPc { multistep: all(multistep), b },
        Sampler::Deis { multistep } => Sampler::Deis { multistep: all(multistep) },
        Sampler::Dpmpp2s { falls_below } => Sampler::Dpmpp2s { falls_below: falls(falls_below) },
        other => other,
    }
}

/// Half of the steps between two levels, rounded down: from the first of them down, and from the second up.
pub fn halved(schedule: &Schedule, s: NoiseLevel, t: NoiseLevel) -> [NoiseLevel; 2] {
    let step = |level| schedule.time_of(level).round() as usize;
    let half = step(s).saturating_sub(step(t)) / 2;
    [schedule.level(step(s) - half), schedule.level(step(t) + half)]
}

/// A network that is conditioned on the times of a [`Plan`].
pub struct WithTimes<'a, F> {
    network: F,
    plan: &'a Plan,
}

impl<const D: usize, F> Denoiser<D> for WithTimes<'_, F>
where
    F: Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
{
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let times = time_tensor(&vec![self.plan.time(level); x_t.dims()[0]], x_t);
        let output = (self.network)(x_t.clone(), times);
        self.plan.diffusion.denoised(output, x_t, level)
    }
}

/// A denoiser whose x_0 is clipped as a [`Plan`] says.
struct Clipped<'a, const D: usize> {
    inner: &'a dyn Denoiser<D>,
    plan: &'a Plan,
}

impl<const D: usize> Denoiser<D> for Clipped<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let denoised = self.inner.denoise(x_t, level);
        if self.plan.clipping == Clipping::None {
            return denoised;
        }
        let clipped = self.plan.clip(denoised.x_0.clone());
        let x_0 = match (self.plan.sampler, self.plan.next(level)) {
            (Sampler::Ddim { eta }, Some(next)) if self.plan.keeps_eps => {
                // The x_0 with which DDIM's step, whose eps follows from x_0, ends where diffusers' does.
                let variance = if eta == 0.0 { 0.0 } else { eta.powi(2) * Posterior::between(level, next).variance };
                let direction = (next.sigma.powi(2) - variance).max(0.0).sqrt();
                let k = direction * level.alpha / level.sigma;
                (clipped * next.alpha - denoised.x_0 * k) / (next.alpha - k)
            }
            _ => clipped,
        };
        Denoised { x_0, ..denoised }
    }
}
