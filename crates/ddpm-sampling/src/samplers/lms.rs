//! A linear multistep method: eps as a polynomial in sigma through the last four steps, integrated exactly. That
//! is the method of Adams and Bashforth for levels at uneven distances.

use std::collections::VecDeque;

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::variance_exploding::euler_step;
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "lms",
    description: "linear multistep over the last four evaluations, one a step; good from 20 steps",
    usual: Sampler::Lms,
    default_steps: Some(25),
    grid: Grid::Sigmas,
    // Not 4: the first step has no past and is Euler's, and what it loses, the square of its length, stays lost.
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Values that the polynomial goes through.
const POINTS: usize = 4;

/// Goes from `x`, at `levels[0]`, to the last of the levels.
pub fn lms<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // The newest first.
    let mut past: VecDeque<(f64, Tensor<D>)> = VecDeque::new();
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        past.truncate(POINTS - 1);
        past.push_front((t.ratio(), denoised.eps(&x, t)));
        let sigmas: Vec<f64> = past.iter().map(|(sigma, _)| *sigma).collect();
        let mean_eps = past
            .iter()
            .zip(lagrange_means(&sigmas, s.ratio()))
            .fold(x.zeros_like(), |mean, ((_, eps), weight)| mean + eps.clone() * weight);
        x = euler_step(x, mean_eps, t, s);
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}

/// The mean, from the first of `nodes` to `end`, of each Lagrange polynomial over the nodes.
///
/// Two points of Gauss and Legendre are enough: exact up to the third degree, that of four nodes.
fn lagrange_means(nodes: &[f64], end: f64) -> Vec<f64> {
    let (middle, half) = ((nodes[0] + end) / 2.0, (end - nodes[0]) / 2.0);
    let at = |j: usize, sigma: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(k, _)| *k != j);
        others.map(|(_, node)| (sigma - node) / (nodes[j] - node)).product()
    };
    let offset = half / 3f64.sqrt();
    (0..nodes.len()).map(|j| (at(j, middle - offset) + at(j, middle + offset)) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_nodes_give_adams_and_bashforth() {
        let tables: [&[f64]; 4] = [
            &[1.0],
            &[1.5, -0.5],
            &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        ];
        for table in tables {
            let nodes: Vec<f64> = (0..table.len()).map(|i| 2.0 + 0.5 * i as f64).collect();
            for (found, wanted) in lagrange_means(&nodes, 1.5).iter().zip(table) {
                assert!((found - wanted).abs() < 1e-13, "{found} {wanted}");
            }
        }
    }

    #[test]
    fn cubic_polynomials_are_integrated_exactly() {
        let (nodes, end) = ([3.0, 4.5, 5.0, 9.0], 0.7);
        let mean: f64 = lagrange_means(&nodes, end).iter().zip(nodes).map(|(weight, node)| weight * node.powi(3)).sum();
        let wanted = (3f64.powi(4) - end.powi(4)) / 4.0 / (3.0 - end);
        assert!((mean - wanted).abs() < 1e-12 * wanted, "{mean} {wanted}");
    }
}
