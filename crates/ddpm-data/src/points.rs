//! Points in the plane drawn from formulas; each is a function of (seed, index), made when asked for.
//!
//! Every set is moved and scaled once, by numbers and not by its sample, to standard deviation 2 over both
//! coordinates together, as the swiss roll's recipe does; the results are the data units.

use std::f64::consts::{FRAC_PI_4, PI};
use std::sync::Arc;

use burn_dataset::{Dataset, DatasetError};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::config::{DataConfig, PointsConfig};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::open::{OpenData, Split};
use crate::random::{Stream, rng};

/// Which formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    SwissRoll,
    Moons,
    Circles,
    SCurve,
    Gaussians8,
    Gaussians25,
    Checkerboard,
}

/// Standard deviation of every set, from the swiss roll's recipe.
const STD: f64 = 2.0;

/// Thickness of the lines of moons and circles and of the Gaussians, before scaling.
const NOISE: f64 = 0.05;

/// Opens a generated set. The test split has as many points, from a stream of its own.
pub(crate) fn open(shape: Shape, config: &PointsConfig, name: &str, split: Split, seed: u64) -> OpenData {
    let stream = match split {
        Split::Train => Stream::Points,
        Split::Test => Stream::TestPoints,
    };
    OpenData {
        info: DataInfo {
            name: name.into(),
            shape: vec![2],
            classes: Vec::new(),
            units: Units::identity(2),
            series: None,
            latent: false,
            has_captions: false,
        },
        items: Arc::new(Points { shape, count: config.count, seed: config.seed.unwrap_or(seed), stream }),
        skipped: Vec::new(),
        series: None,
        ignored: Default::default(),
        labels: None,
        flip: Flip::Never,
    }
}

struct Points {
    shape: Shape,
    count: usize,
    seed: u64,
    stream: Stream,
}

impl Dataset<Example> for Points {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        assert!(index < self.count, "point {index} of {}", self.count);
        let point = self.shape.draw(&mut rng(self.seed, self.stream, index as u64));
        let (centre, std) = self.shape.center_and_std();
        let values = (0..2).map(|k| ((point[k] - centre[k]) / std * STD) as f32).collect();
        Ok(Example { values, label: None, window: None, caption: None })
    }

    fn len(&self) -> usize {
        self.count
    }
}

impl Shape {
    /// A point in the units of the formula.
    fn draw(self, rng: &mut ChaCha8Rng) -> [f64; 2] {
        match self {
            Shape::SwissRoll => swiss_roll(rng),
            Shape::Moons => moons(rng),
            Shape::Circles => circles(rng),
            Shape::SCurve => s_curve(rng),
            Shape::Gaussians8 => gaussians_8(rng),
            Shape::Gaussians25 => gaussians_25(rng),
            Shape::Checkerboard => checkerboard(rng),
        }
    }

    /// Centre, and standard deviation over both coordinates together, in the units of the formula. All are
    /// the closed form but the swiss roll's, which is the recipe's own sample of a million points (the
    /// closed form is 1.659 and 6.766) with one mean for both coordinates: the published chamfer distances
    /// belong to data scaled just so.
    fn center_and_std(self) -> ([f64; 2], f64) {
        let noise = NOISE * NOISE;
        match self {
            Shape::SwissRoll => ([1.667, 1.667], 6.770),
            // Var x = 3/4; var y = 9/16 - 1/pi.
            Shape::Moons => ([0.5, 0.25], (0.5 * (1.3125 - 1.0 / PI) + noise).sqrt()),
            // Half of each radius' square.
            Shape::Circles => ([0.0, 0.0], (0.3125 + noise).sqrt()),
            // Var x = 1/2; var y = 3/2 + 4 / (3 pi).
            Shape::SCurve => ([0.0, 0.0], (1.0 + 2.0 / (3.0 * PI)).sqrt()),
            Shape::Gaussians8 => ([0.0, 0.0], (0.5 + noise).sqrt()),
            Shape::Gaussians25 => ([0.0, 0.0], (2.0 + noise).sqrt()),
            // Uniform in [-2, 2].
            Shape::Checkerboard => ([0.0, 0.0], (4.0_f64 / 3.0).sqrt()),
        }
    }
}

/// A sheet of three half turns (t) and three strips across (not drawn), without its middle field: so the
/// middle half turn is met with probability 2/8, the others with 3/8.
fn swiss_roll(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let half_turn = match rng.random_range(0..8_u32) {
        0..3 => 0.0,
        3..5 => 1.0,
        _ => 2.0,
    };
    let t = PI * (1.5 + half_turn + rng.random::<f64>());
    [t * t.cos(), t * t.sin()]
}

/// The upper half of a circle, and the lower half of one moved by (1, 1/2).
fn moons(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let upper = rng.random::<bool>();
    let (sin, cos) = (PI * rng.random::<f64>()).sin_cos();
    let point = if upper { [cos, sin] } else { [1.0 - cos, 0.5 - sin] };
    blurred(point, rng)
}

/// Circles of radius 1 and 1/2.
fn circles(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let radius = if rng.random::<bool>() { 1.0 } else { 0.5 };
    let (sin, cos) = (2.0 * PI * rng.random::<f64>()).sin_cos();
    blurred([radius * cos, radius * sin], rng)
}

/// Two three-quarter circles, one drawn each way.
fn s_curve(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let t = 3.0 * PI * (rng.random::<f64>() - 0.5);
    [t.sin(), t.signum() * (t.cos() - 1.0)]
}

/// On the unit circle.
fn gaussians_8(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let (sin, cos) = (FRAC_PI_4 * f64::from(rng.random_range(0..8_u32))).sin_cos();
    blurred([cos, sin], rng)
}

/// On the grid of -2..=2 by -2..=2.
fn gaussians_25(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let mut step = || f64::from(rng.random_range(-2..=2_i32));
    let centre = [step(), step()];
    blurred(centre, rng)
}

/// The fields of one colour of a board of 4x4 unit squares.
fn checkerboard(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let column = rng.random_range(0..4_u32);
    let row = 2 * rng.random_range(0..2_u32) + column % 2;
    let mut inside = |field: u32| f64::from(field) + rng.random::<f64>() - 2.0;
    [inside(column), inside(row)]
}

fn blurred(point: [f64; 2], rng: &mut ChaCha8Rng) -> [f64; 2] {
    point.map(|x| {
        let eps: f64 = StandardNormal.sample(rng);
        x + NOISE * eps
    })
}

/// As many points as a plot has use for.
const REFERENCE_POINTS: usize = 2048;

/// Points of the data in their own units, where the data can still be found.
pub fn reference_points(source: &DataConfig) -> Option<Vec<f32>> {
    let data = crate::open(source, Split::Test, 0).ok()?;
    if data.info.shape != [2] {
        return None;
    }
    let items = (0..data.items.len().min(REFERENCE_POINTS)).filter_map(|index| data.items.get(index).ok());
    Some(data.info.in_data_units(items.flat_map(|item| item.values).collect()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: [Shape; 7] = [
        Shape::SwissRoll,
        Shape::Moons,
        Shape::Circles,
        Shape::SCurve,
        Shape::Gaussians8,
        Shape::Gaussians25,
        Shape::Checkerboard,
    ];

    fn sample(shape: Shape, count: usize, split: Split) -> Vec<[f64; 2]> {
        let config = PointsConfig { count, seed: None };
        let data = open(shape, &config, "points", split, 11);
        (0..count)
            .map(|k| data.items.get(k).unwrap().values)
            .map(|values| [values[0].into(), values[1].into()])
            .collect()
    }

    fn in_formula_units(shape: Shape, points: &[[f64; 2]]) -> Vec<[f64; 2]> {
        let (centre, std) = shape.center_and_std();
        points.iter().map(|p| [0, 1].map(|k| p[k] * std / STD + centre[k])).collect()
    }

    #[test]
    fn every_set_has_standard_deviation_two_around_zero() {
        for shape in ALL {
            let points = sample(shape, 100_000, Split::Train);
            let n = points.len() as f64;
            let mean = [0, 1].map(|k| points.iter().map(|p| p[k]).sum::<f64>() / n);
            let square = points.iter().map(|p| p[0] * p[0] + p[1] * p[1]).sum::<f64>() / (2.0 * n);
            let pooled = (mean[0] + mean[1]) / 2.0;
            let std = (square - pooled * pooled).sqrt();
            assert!(pooled.abs() < 0.02, "{shape:?}: mean {mean:?}");
            assert!((std - 2.0).abs() < 0.02, "{shape:?}: std {std}");
            if shape != Shape::SwissRoll {
                assert!(mean[0].abs() < 0.03 && mean[1].abs() < 0.03, "{shape:?}: mean {mean:?}");
            }
        }
    }

    #[test]
    fn points_are_a_function_of_seed_split_and_index() {
        for shape in ALL {
            let train = sample(shape, 50, Split::Train);
            assert_eq!(train, sample(shape, 500, Split::Train)[..50]);
            assert!(train.iter().all(|point| !sample(shape, 50, Split::Test).contains(point)));
        }
        let with_seed = |seed, run_seed| {
            let config = PointsConfig { count: 1, seed };
            let data = open(Shape::Moons, &config, "moons", Split::Train, run_seed);
            data.items.get(0).unwrap()
        };
        assert_eq!(with_seed(Some(5), 1), with_seed(Some(5), 2));
        assert_eq!(with_seed(None, 5), with_seed(Some(5), 2));
        assert_ne!(with_seed(None, 1), with_seed(None, 2));
    }

    // A snapshot's data are these points for ever, whatever happens inside the library of distributions.
    #[test]
    fn points_stay_the_same_for_ever() {
        for (shape, expected) in [
            (Shape::SwissRoll, [3.050_968, 0.952_588]),
            (Shape::Moons, [-2.517_422, 2.133_128]),
            (Shape::Circles, [-2.590_203, -2.214_390]),
            (Shape::SCurve, [-1.389_920, 0.646_958]),
            (Shape::Gaussians8, [0.046_394, -2.855_421]),
            (Shape::Gaussians25, [2.862_583, 0.079_397]),
            (Shape::Checkerboard, [2.865_588, -0.154_573]),
        ] {
            let found = sample(shape, 4, Split::Train)[3];
            // The last digits are the mathematical library's of the platform.
            let near = (0..2).all(|k| (found[k] - expected[k]).abs() < 1e-5);
            assert!(near, "{shape:?}: {found:?}");
        }
    }

    #[test]
    fn swiss_roll_is_the_recipes() {
        let points = in_formula_units(Shape::SwissRoll, &sample(Shape::SwissRoll, 200_000, Split::Train));
        let n = points.len() as f64;
        // The radius is t: it tells the half turn, uniform inside each.
        let mut in_half_turn = [0.0; 3];
        let mut t_inside = 0.0;
        for [x, y] in &points {
            let t = x.hypot(*y);
            let turns = t / PI - 1.5;
            assert!((-1e-5..3.0 + 1e-5).contains(&turns), "t = {t}");
            assert!((t * t.cos() - x).abs() < 1e-4 && (t * t.sin() - y).abs() < 1e-4);
            in_half_turn[(turns as usize).min(2)] += 1.0 / n;
            t_inside += turns.fract() / n;
        }
        for (found, expected) in in_half_turn.into_iter().zip([3.0 / 8.0, 2.0 / 8.0, 3.0 / 8.0]) {
            assert!((found - expected).abs() < 0.005, "{in_half_turn:?}");
        }
        assert!((t_inside - 0.5).abs() < 0.005, "{t_inside}");

        // Closed form: E x = 3, E y = 1/pi, E (x^2 + y^2) = 59/6 pi^2.
        let mean = |k: usize| points.iter().map(|p| p[k]).sum::<f64>() / n;
        assert!((mean(0) - 3.0).abs() < 0.05, "{}", mean(0));
        assert!((mean(1) - 1.0 / PI).abs() < 0.05, "{}", mean(1));
        let square = points.iter().map(|p| p[0] * p[0] + p[1] * p[1]).sum::<f64>() / n;
        assert!((square - 59.0 / 6.0 * PI * PI).abs() < 0.5, "{square}");
        // And the recipe's rounded sample of it.
        let closed_mean = (3.0 + 1.0 / PI) / 2.0;
        let closed_std = (59.0 / 12.0 * PI * PI - closed_mean * closed_mean).sqrt();
        let (centre, std) = Shape::SwissRoll.center_and_std();
        assert!((centre[0] - closed_mean).abs() < 0.01 && (std - closed_std).abs() < 0.01);
    }

    #[test]
    fn checkerboard_fills_every_other_field_alike() {
        let points = sample(Shape::Checkerboard, 80_000, Split::Train);
        let mut fields = [[0; 4]; 4];
        for [x, y] in in_formula_units(Shape::Checkerboard, &points) {
            fields[((y + 2.0) as usize).min(3)][((x + 2.0) as usize).min(3)] += 1;
        }
        for (row, counts) in fields.iter().enumerate() {
            for (column, &count) in counts.iter().enumerate() {
                // f32 may round a point across a border.
                let expected = if (row + column) % 2 == 0 { 9_600..10_400 } else { 0..3 };
                assert!(expected.contains(&count), "{fields:?}");
            }
        }
    }

    #[test]
    fn gaussians_are_met_equally_often() {
        for (shape, modes) in [(Shape::Gaussians8, 8), (Shape::Gaussians25, 25)] {
            let count = 1000 * modes;
            let mut met = std::collections::HashMap::new();
            for [x, y] in in_formula_units(shape, &sample(shape, count, Split::Train)) {
                let (centre, key) = if modes == 8 {
                    let k = (y.atan2(x) / FRAC_PI_4).round();
                    let (sin, cos) = (k * FRAC_PI_4).sin_cos();
                    ([cos, sin], (k.rem_euclid(8.0) as i32, 0))
                } else {
                    ([x.round(), y.round()], (x.round() as i32, y.round() as i32))
                };
                assert!((x - centre[0]).hypot(y - centre[1]) < 6.0 * NOISE);
                *met.entry(key).or_insert(0) += 1;
            }
            assert_eq!(met.len(), modes);
            assert!(met.values().all(|n| (870..1130).contains(n)), "{met:?}");
        }
    }
}
