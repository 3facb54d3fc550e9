//! An adaptive solver of the probability-flow ODE (Song et al. 2021, section 4.3; Dormand & Prince 1980).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::dormand_prince::{Effort, Taken, Tolerance, solve};
use super::probability_flow::{derivative, level_of, place};
use super::{About, Grid, Noise, OptionSpec, Options, Range, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "rk45",
    description: "Dormand & Prince's method, which chooses its steps by --rtol and --atol; levels are only where its progress is shown",
    usual: Sampler::Rk45 { tolerance: Tolerance::USUAL },
    default_steps: Some(50),
    grid: Grid::Times,
    order: None,
    noise: Noise::Never,
    needs_signal: true,
    options: Options {
        specs: &[RTOL, ATOL],
        make: Some(|options| {
            let tolerance = Tolerance { absolute: options.value(&ATOL), relative: options.value(&RTOL) };
            Ok(Sampler::Rk45 { tolerance })
        }),
    },
};

const RTOL: OptionSpec = OptionSpec {
    name: "rtol",
    value_name: "R",
    help: "Relative tolerance of rk45; default 1e-5",
    range: Range::FROM_ZERO,
    usual: Tolerance::USUAL.relative,
    refines: None,
};

const ATOL: OptionSpec = OptionSpec {
    name: "atol",
    value_name: "A",
    help: "Absolute tolerance of rk45; default 1e-5",
    range: Range::ABOVE_ZERO,
    usual: Tolerance::USUAL.absolute,
    refines: None,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels in steps of its own; `on_step` sees x interpolated
/// at each of the levels, and the cost is returned with the result.
///
/// The ODE has no meaning at a clean level, which is reached from the level before it by its x_0.
///
/// A sample depends on the others of its batch within the tolerance, because a batch shares its steps.
pub fn rk45<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    x: Tensor<D>,
    tolerance: Tolerance,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> (Tensor<D>, Effort) {
    let noisy = levels.iter().take_while(|level| level.sigma > 0.0).count();
    let (shape, rows) = (x.dims(), [x.dims()[0] as i32, -1]);
    let (first, last) = (levels[0], levels[noisy - 1]);
    let scale = |level: NoiseLevel| level.alpha / level_of(place(level)).alpha;
    let mut index = 0;
    let mut watch = |taken: Taken<'_>| {
        let [start, end] = taken.ends;
        let x_0 = x_0_from_slope(taken.x[1], taken.slope[1], end).reshape(shape);
        while let Some(level) = levels[..noisy].get(index + 1).filter(|level| is_between(place(**level), start, end)) {
            let x = taken.at(place(*level)).reshape(shape) * scale(*level);
            on_step(Step { index, level: *level, x: &x, x_0: &x_0 });
            index += 1;
        }
    };
    let mut slope = |x: &Tensor<2>, l: f64| derivative(denoiser, &x.clone().reshape(shape), l).0.reshape(rows);
    let start = (x / scale(first)).reshape(rows);
    let (x, mut effort) = solve(start, [place(first), place(last)], tolerance, &mut slope, &mut watch);
    let x = x.reshape(shape) * scale(last);
    if noisy == levels.len() {
        return (x, effort);
    }
    let x_0 = denoiser.denoise(&x, last).x_0;
    effort.calls += 1;
    on_step(Step { index, level: levels[noisy], x: &x_0, x_0: &x_0 });
    (x_0, effort)
}

/// [`derivative`] solved for x_0.
fn x_0_from_slope(x: &Tensor<2>, slope: &Tensor<2>, l: f64) -> Tensor<2> {
    let alpha = level_of(l).alpha;
    x.clone() * alpha - slope.clone() / alpha
}

fn is_between(place: f64, start: f64, end: f64) -> bool {
    (start.min(end)..=start.max(end)).contains(&place)
}
