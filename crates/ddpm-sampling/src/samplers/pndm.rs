//! Pseudo numerical methods (Liu et al. 2022, arXiv 2202.09778): F-PNDM, which starts with Runge-Kutta steps,
//! and its linear multistep method without them ("PLMS").

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::{Prediction, eps_from_v, eps_from_x_0, v_from_x_0_and_eps};

use super::variance_exploding::euler_step;
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "pndm",
    description: "linear multistep over past eps after three Runge-Kutta steps (Liu et al. 2022); good from 20 steps",
    usual: Sampler::Pndm { start: PndmStart::RungeKutta },
    default_steps: Some(50),
    grid: Grid::Strides,
    order: ORDER,
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

pub(super) const ABOUT_PLMS: About = About {
    name: "plms",
    description: "pndm without the Runge-Kutta steps, one evaluation a step; good from 20 steps",
    usual: Sampler::Pndm { start: PndmStart::Multistep },
    default_steps: Some(50),
    grid: Grid::Strides,
    order: ORDER,
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Over levels that are a smooth function of their number. Not 4, as that of the weights: (11) takes the mean of
/// eps over a step as if sigma / alpha changed evenly in it.
const ORDER: Option<u32> = Some(2);

/// How the first steps are made, which have no past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PndmStart {
    /// Three Runge-Kutta steps of four evaluations each.
    RungeKutta,
    /// One step of two evaluations, then multistep methods of growing order.
    Multistep,
}

/// Runge-Kutta steps before four predictions are known.
const RUNGE_KUTTA_STEPS: usize = 3;

/// Goes from `x`, at `levels[0]`, which must not be pure noise, to the last of the levels.
///
/// `middle` gives the levels half-way between two, where Runge-Kutta evaluates for the second and for the third time.
/// They are the same, unless an odd number of whole steps has to be halved. The paper's are half-way in time;
/// [`half_way`] knows no time.
pub fn pndm<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    start: PndmStart,
    middle: &dyn Fn(NoiseLevel, NoiseLevel) -> [NoiseLevel; 2],
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // Predictions of eps, the latest first.
    let mut past: Vec<Tensor<D>> = Vec::new();
    for (index, pair) in levels.windows(2).enumerate() {
        let (s, t) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, s);
        past.insert(0, denoised.eps(&x, s));
        past.truncate(4);
        let eps = match start {
            // Clean data have no eps.
            _ if t.sigma == 0.0 => linear_multistep(&past),
            PndmStart::RungeKutta if index < RUNGE_KUTTA_STEPS => {
                runge_kutta(denoiser, &x, past[0].clone(), [s, t], middle(s, t))
            }
            PndmStart::Multistep if index == 0 => improved_euler(denoiser, &x, past[0].clone(), [s, t]),
            _ => linear_multistep(&past),
        };
        // (11)
        x = euler_step(x, eps, s, t);
        on_step(Step { index, level: t, x: &x, x_0: &denoised.x_0 });
    }
    x
}

/// One evaluation of [`plms`], and the step that follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlmsStep {
    /// The level that the network is evaluated at.
    pub at: NoiseLevel,
    /// The level that the step starts from; the second step starts from where the first one did.
    pub from: NoiseLevel,
    /// The level that it leads to.
    pub to: NoiseLevel,
}

impl PlmsStep {
    /// The evaluations along these levels but for the first `skipped`, as diffusers counts them: the second level is evaluated
    /// twice. Where evaluations are skipped, the first step is the one that is taken twice, and the level after it is left out.
    pub fn along(levels: &[NoiseLevel], skipped: usize) -> Vec<Self> {
        let steps = levels.len().saturating_sub(1);
        let places = (0..=steps).map(|i| if i < 2 { i } else { i - 1 }).filter(|place| *place < steps);
        let step = |(i, place): (usize, usize)| match i {
            1 => Self { at: levels[place], from: levels[place.saturating_sub(1)], to: levels[place] },
            _ => Self { at: levels[place], from: levels[place], to: levels[place + 1] },
        };
        places.skip(skipped).enumerate().map(step).collect()
    }
}

/// [`pndm`] without Runge-Kutta steps, where the steps are given one by one, and where the past is one of predictions of any
/// kind: diffusers looks back over what the network said, and turns it into noise afterwards.
pub fn plms<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    steps: &[PlmsStep],
    mut x: Tensor<D>,
    prediction: Prediction,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // Predictions, the latest first.
    let mut past: Vec<Tensor<D>> = Vec::new();
    let first = x.clone();
    for (index, &PlmsStep { at, from, to }) in steps.iter().enumerate() {
        let denoised = denoiser.denoise(&x, at);
        let eps = eps_from_x_0(x.clone(), denoised.x_0.clone(), &[at]);
        let output = match prediction {
            Prediction::V => v_from_x_0_and_eps(denoised.x_0.clone(), eps, &[at]),
            _ => eps,
        };
        let (start, mean) = if index == 1 {
            (first.clone(), (output + past[0].clone()) / 2.0)
        } else {
            past.insert(0, output);
            past.truncate(4);
            (x, linear_multistep(&past))
        };
        let eps = match prediction {
            Prediction::V => eps_from_v(start.clone(), mean, &[from]),
            _ => mean,
        };
        x = euler_step(start, eps, from, to);
        // The first two evaluations make one step.
        if index > 0 {
            on_step(Step { index: index - 1, level: to, x: &x, x_0: &denoised.x_0 });
        }
    }
    x
}

/// The level half-way in log(sigma / alpha), twice.
pub fn half_way(s: NoiseLevel, t: NoiseLevel) -> [NoiseLevel; 2] {
    [NoiseLevel::from_ratio((s.ratio() * t.ratio()).sqrt()); 2]
}

/// The weights of Adams and Bashforth, with fewer predictions in the first steps.
fn linear_multistep<const D: usize>(past: &[Tensor<D>]) -> Tensor<D> {
    let weights: &[f64] = match past.len() {
        1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    };
    let mut sum = past[0].clone() * weights[0];
    for (eps, weight) in past.iter().zip(weights).skip(1) {
        sum = sum + eps.clone() * *weight;
    }
    sum
}

/// Runge and Kutta's mean of four predictions, with the first given.
fn runge_kutta<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    x: &Tensor<D>,
    e_1: Tensor<D>,
    [s, t]: [NoiseLevel; 2],
    middle: [NoiseLevel; 2],
) -> Tensor<D> {
    let eps_at = |eps: &Tensor<D>, level: NoiseLevel| {
        let x = euler_step(x.clone(), eps.clone(), s, level);
        denoiser.denoise(&x, level).eps(&x, level)
    };
    let e_2 = eps_at(&e_1, middle[0]);
    let e_3 = eps_at(&e_2, middle[1]);
    let e_4 = eps_at(&e_3, t);
    (e_1 + e_2 * 2.0 + e_3 * 2.0 + e_4) / 6.0
}

/// The mean of the predictions at both ends, with the first given.
fn improved_euler<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    x: &Tensor<D>,
    e_1: Tensor<D>,
    [s, t]: [NoiseLevel; 2],
) -> Tensor<D> {
    let x = euler_step(x.clone(), e_1.clone(), s, t);
    (e_1 + denoiser.denoise(&x, t).eps(&x, t)) / 2.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};
    use ddpm_model::denoiser::Denoised;

    /// A denoiser that is not linear, so that every evaluation matters.
    struct Wave;

    impl Denoiser<2> for Wave {
        fn denoise(&self, x_t: &Tensor<2>, level: NoiseLevel) -> Denoised<2> {
            Denoised { x_0: (x_t.clone() * 0.7 + level.sigma).sin(), variance_logit: None }
        }
    }

    fn levels() -> Vec<NoiseLevel> {
        [0.1, 0.3, 0.5, 0.7, 0.9, 0.99].map(NoiseLevel::from_alpha_bar).to_vec()
    }

    fn start() -> Tensor<2> {
        Tensor::from_data(TensorData::from([[1.3]]), (&Device::flex(), DType::F64))
    }

    #[test]
    fn steps_given_one_by_one_are_those_along_the_levels() {
        let middle = |s, t| half_way(s, t);
        let along = pndm(&Wave, &levels(), start(), PndmStart::Multistep, &middle, &mut |_| {});
        let steps = PlmsStep::along(&levels(), 0);
        let mut seen = Vec::new();
        let given = plms(&Wave, &steps, start(), Prediction::Eps, &mut |step| seen.push(step.index));
        assert_eq!((steps.len(), seen), (6, vec![0, 1, 2, 3, 4]));
        assert!((along - given.clone()).abs().into_scalar::<f64>() < 1e-12);
        let of_v = plms(&Wave, &steps, start(), Prediction::V, &mut |_| {});
        assert!((of_v - given).abs().into_scalar::<f64>() > 1e-6);
    }

    #[test]
    fn the_last_evaluations_leave_a_level_out_as_diffusers_does() {
        let levels = levels();
        let at = |skipped: usize| -> Vec<[usize; 3]> {
            let place = |level: NoiseLevel| levels.iter().position(|found| *found == level).unwrap();
            PlmsStep::along(&levels, skipped).iter().map(|s| [place(s.at), place(s.from), place(s.to)]).collect()
        };
        assert_eq!(at(0), [[0, 0, 1], [1, 0, 1], [1, 1, 2], [2, 2, 3], [3, 3, 4], [4, 4, 5]]);
        assert_eq!(at(1), [[1, 1, 2], [1, 0, 1], [2, 2, 3], [3, 3, 4], [4, 4, 5]]);
        assert_eq!(at(3), [[2, 2, 3], [3, 2, 3], [4, 4, 5]]);
    }
}
