//! Pictures changed at random while they are learnt from: the pipeline of Karras et al. (2022), appendix F.2, whose
//! network is conditioned on augmentation labels so that the changes do not leak into samples, and random crops.
//!
//! What becomes of an item is a function of (seed, place in the endless stream) alone.

use std::f64::consts::PI;

use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::example::DataInfo;
use crate::random::{ChaCha8Rng, Stream, rng};

/// Number of augmentation labels of an image, which say what was done to it; all 0: nothing.
pub const AUGMENT_LABELS: usize = 9;

/// Standard deviations: of the base-2 logarithms of scale and stretch, and of the shift as a share of the size.
const SCALE_STD: f64 = 0.2;
const STRETCH_STD: f64 = 0.2;
const SHIFT_STD: f64 = 0.125;

/// The low-pass filter of the symlet of six vanishing moments (Daubechies 1992), with which a picture of twice the
/// size is made and unmade without loss.
const SYM6: [f32; 12] = [
    0.015_404_11,
    0.003_490_712_2,
    -0.117_990_11,
    -0.048_311_744,
    0.491_055_94,
    0.787_641_14,
    0.337_929_43,
    -0.072_637_52,
    -0.021_060_292,
    0.044_724_9,
    0.001_767_712,
    -0.007_800_708,
];
/// Pixels around a picture that the filter looks at, on each side.
const RIM: usize = SYM6.len() / 4;

/// With a `probability` the network is conditioned on what was done to each image (nine numbers, `model.augment_dim`),
/// and on nothing when it samples: so what was done does not leak into samples, and `horizontal_flip` is not needed.
/// Such a snapshot is no pipeline of diffusers, which has no such input. The network is not conditioned on `crop` and
/// `horizontal_flip`: samples will look like that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Probability of each transformation of the pipeline of Karras et al. (2022), appendix F.2: mirrored top to
    /// bottom, scaled, turned, stretched, moved. Mirroring left to right then happens to half of the images. The paper
    /// uses 0.12 for CIFAR-10 and 0.15 for faces.
    pub probability: f64,
    /// An image is moved by up to this many pixels in each direction, mirrored at its border.
    pub crop: usize,
}

impl AugmentConfig {
    /// Whether the network is conditioned on augmentation labels.
    pub fn has_labels(&self) -> bool {
        self.probability > 0.0
    }

    /// What is wrong with the values.
    pub fn problems(&self) -> Vec<Problem> {
        let reason = format!("must lie between 0 and 1, not {}", self.probability);
        let problem = Problem { key: "probability", reason };
        if (0.0..=1.0).contains(&self.probability) { Vec::new() } else { vec![problem] }
    }

    /// What about these data cannot be changed so.
    pub fn problems_with(&self, info: &DataInfo) -> Vec<Problem> {
        let mut problems = Vec::new();
        let key = if self.has_labels() { "probability" } else { "crop" };
        match *info.shape {
            _ if !self.has_labels() && self.crop == 0 => {}
            [_, height, width] => {
                let most = height.min(width) - 1;
                if self.crop > most {
                    let reason = format!("{} pixels; images of {height}x{width} can be moved by {most}", self.crop);
                    problems.push(Problem { key: "crop", reason });
                }
            }
            _ => problems
                .push(Problem { key, reason: format!("only images can be augmented, and {} are none", info.name) }),
        }
        problems
    }

    /// Changes a picture `[channels, height, width]` by its place in the stream, and returns its augmentation labels.
    pub(crate) fn apply(
        &self,
        picture: &mut Vec<f32>,
        shape: [usize; 3],
        seed: u64,
        place: u64,
    ) -> Option<AugmentLabels> {
        if self.crop > 0 {
            let mut rng = rng(seed, Stream::Crop, place);
            let most = self.crop as i64;
            let [x, y] = [0; 2].map(|_: i64| rng.random_range(-most..=most));
            *picture = moved(picture, shape, x, y);
        }
        self.has_labels().then(|| {
            let changes = Changes::draw(self.probability, &mut rng(seed, Stream::Augment, place));
            changes.apply(picture, shape);
            changes.labels()
        })
    }
}

/// The augmentation labels of one image, which the network is conditioned on.
pub type AugmentLabels = [f32; AUGMENT_LABELS];

/// What is done to one picture, one after the other. [`Changes::default`] is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changes {
    /// Mirrored left to right.
    pub flip_x: bool,
    /// Mirrored top to bottom.
    pub flip_y: bool,
    /// Scaled by 2 to the power of 0.2 times this.
    pub scale: f64,
    /// Turned by this angle.
    pub turn: f64,
    /// Stretched by 2 to the power of 0.2 times this, and squeezed by as much across.
    pub stretch: f64,
    /// The direction of that.
    pub stretch_axis: f64,
    /// Moved by an eighth of width and height times these.
    pub shift: [f64; 2],
}

impl Changes {
    /// Draws each change with this probability; how many numbers are drawn depends on nothing.
    pub fn draw(probability: f64, rng: &mut ChaCha8Rng) -> Self {
        let happens = |probability: f64, rng: &mut ChaCha8Rng| rng.random::<f64>() < probability;
        let angle = |rng: &mut ChaCha8Rng| (rng.random::<f64>() * 2.0 - 1.0) * PI;
        let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
        let if_it = |probability: f64, value: f64, rng: &mut ChaCha8Rng| match happens(probability, rng) {
            true => value,
            false => 0.0,
        };
        let (flip_x, flip_y) = (rng.random::<bool>(), rng.random::<bool>());
        let flip_y = if_it(probability, f64::from(u8::from(flip_y)), rng) == 1.0;
        let (scale, turn, stretch, axis) = (normal(rng), angle(rng), normal(rng), angle(rng));
        let shift = [normal(rng), normal(rng)];
        let (scale, turn) = (if_it(probability, scale, rng), if_it(probability, turn, rng));
        let (stretch, stretch_axis) = (if_it(probability, stretch, rng), if_it(0.5, axis, rng));
        let share = if_it(probability, 1.0, rng);
        // Mirroring is not rarer for a small probability, only off without one.
        let flip_x = flip_x && probability > 0.0;
        Self { flip_x, flip_y, scale, turn, stretch, stretch_axis, shift: shift.map(|shift| shift * share) }
    }

    /// The augmentation labels: nine numbers that are 0 where nothing was done.
    pub fn labels(&self) -> AugmentLabels {
        let bit = |flip: bool| f64::from(u8::from(flip));
        let (sin, cos) = self.stretch_axis.sin_cos();
        [
            bit(self.flip_x),
            bit(self.flip_y),
            self.scale,
            self.turn.cos() - 1.0,
            self.turn.sin(),
            self.stretch * cos,
            self.stretch * sin,
            self.shift[0],
            self.shift[1],
        ]
        .map(|number| number as f32)
    }

    /// Does it to a picture `[channels, height, width]`.
    pub fn apply(&self, picture: &mut Vec<f32>, shape: [usize; 3]) {
        let [_, height, width] = shape;
        if self.flip_x {
            picture.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
        if self.flip_y {
            for channel in picture.chunks_exact_mut(height * width) {
                for y in 0..height / 2 {
                    let (above, below) = channel.split_at_mut((height - 1 - y) * width);
                    above[y * width..][..width].swap_with_slice(&mut below[..width]);
                }
            }
        }
        // Not the axis: without a stretch it means nothing.
        let is_still = [self.scale, self.turn, self.stretch, self.shift[0], self.shift[1]].iter().all(|&by| by == 0.0);
        if !is_still {
            *picture = warp(picture, shape, self.source_of([width, height]));
        }
    }

    /// The map from where a pixel ends up to where it came from, both counted from the centre of the picture.
    fn source_of(&self, [width, height]: [usize; 2]) -> Affine {
        let (scale, stretch) = ((SCALE_STD * self.scale).exp2(), (STRETCH_STD * self.stretch).exp2());
        Affine::scale(1.0 / scale, 1.0 / scale)
            .then(Affine::turn(self.turn))
            .then(Affine::turn(-self.stretch_axis))
            .then(Affine::scale(1.0 / stretch, stretch))
            .then(Affine::turn(self.stretch_axis))
            .then(Affine::shift(-self.shift[0] * SHIFT_STD * width as f64, -self.shift[1] * SHIFT_STD * height as f64))
    }
}

/// (x, y) to (a x + b y + c, d x + e y + f).
#[derive(Clone, Copy, Debug)]
struct Affine([[f64; 3]; 2]);

impl Affine {
    fn scale(x: f64, y: f64) -> Self {
        Self([[x, 0.0, 0.0], [0.0, y, 0.0]])
    }

    fn turn(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self([[cos, -sin, 0.0], [sin, cos, 0.0]])
    }

    fn shift(x: f64, y: f64) -> Self {
        Self([[1.0, 0.0, x], [0.0, 1.0, y]])
    }

    /// The product with `right`, which is done first.
    fn then(self, Self(right): Self) -> Self {
        Self(self.0.map(|[a, b, c]| {
            let column = |k: usize| a * right[0][k] + b * right[1][k];
            [column(0), column(1), column(2) + c]
        }))
    }

    fn of(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.0.map(|[a, b, c]| a * x + b * y + c)
    }
}

/// Moves a picture by whole pixels and mirrors it at its border.
fn moved(picture: &[f32], [channels, height, width]: [usize; 3], x: i64, y: i64) -> Vec<f32> {
    let mut moved = Vec::with_capacity(picture.len());
    for channel in 0..channels {
        for row in 0..height {
            let from = (channel * height + mirrored(row as i64 - y, height)) * width;
            moved.extend((0..width).map(|column| picture[from + mirrored(column as i64 - x, width)]));
        }
    }
    moved
}

/// The pixel behind an index that may lie outside: the border is a mirror.
fn mirrored(at: i64, size: usize) -> usize {
    let last = size as i64 - 1;
    if last == 0 {
        return 0;
    }
    (last - (last - at.rem_euclid(2 * last)).abs()) as usize
}

/// Fills each pixel from where `source` says, on a picture of twice the size.
fn warp(picture: &[f32], [channels, height, width]: [usize; 3], source: Affine) -> Vec<f32> {
    let centre = [(width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0];
    // How far beyond the picture its corners come from, and the filter looks; mirrored pixels lie there.
    let corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]];
    let corners = corners.map(|[x, y]| source.of([x * centre[0], y * centre[1]]));
    let margin = |axis: usize, sign: f64| {
        let farthest = corners.iter().map(|corner| sign * corner[axis]).fold(f64::MIN, f64::max);
        let most = [width, height][axis] as f64 - 1.0;
        (farthest + 2.0 * RIM as f64 - centre[axis]).clamp(0.0, most).ceil() as usize
    };
    let [left, right, above, below] = [margin(0, -1.0), margin(0, 1.0), margin(1, -1.0), margin(1, 1.0)];
    let source = Affine::shift((left as f64 - right as f64) / 2.0, (above as f64 - below as f64) / 2.0).then(source);
    // Both pictures twice as large; their pixels lie half a pixel to the left and above.
    let half = Affine::shift(0.5, 0.5);
    let source =
        Affine::shift(-0.5, -0.5).then(Affine::scale(2.0, 2.0)).then(source).then(Affine::scale(0.5, 0.5)).then(half);

    let (wide, high) = (left + width + right, above + height + below);
    let (out_wide, out_high) = (2 * (width + 2 * RIM), 2 * (height + 2 * RIM));
    let mut warped = Vec::with_capacity(picture.len());
    for channel in picture.chunks_exact(height * width) {
        let mut padded = Vec::with_capacity(wide * high);
        for y in 0..high {
            let row = mirrored(y as i64 - above as i64, height) * width;
            padded.extend((0..wide).map(|x| channel[row + mirrored(x as i64 - left as i64, width)]));
        }
        let double = transposed(&doubled(&transposed(&doubled(&padded, wide), 2 * wide), high), 2 * high);
        let mut drawn = Vec::with_capacity(out_wide * out_high);
        for y in 0..out_high {
            for x in 0..out_wide {
                let at = [x as f64 - (out_wide as f64 - 1.0) / 2.0, y as f64 - (out_high as f64 - 1.0) / 2.0];
                let [x, y] = source.of(at);
                drawn.push(between(&double, [2 * wide, 2 * high], [x + wide as f64 - 0.5, y + high as f64 - 0.5]));
            }
        }
        let narrow = transposed(&halved(&drawn, out_wide), width);
        warped.extend(transposed(&halved(&narrow, out_high), height));
    }
    debug_assert_eq!(warped.len(), channels * height * width);
    warped
}

/// Rows of twice the width: zeros in between, and the filter over them.
fn doubled(rows: &[f32], width: usize) -> Vec<f32> {
    let mut doubled = Vec::with_capacity(2 * rows.len());
    for row in rows.chunks_exact(width) {
        for x in 0..2 * width {
            // Of the places x - 6 to x + 5 the even ones have a value.
            let taps = (0..SYM6.len()).filter_map(|k| {
                let place = (x + k).checked_sub(SYM6.len() / 2)?;
                let value = place.is_multiple_of(2).then(|| row.get(place / 2))??;
                Some(SYM6[SYM6.len() - 1 - k] * value)
            });
            doubled.push(taps.sum());
        }
    }
    doubled
}

/// Rows of half the width without their rims: the filter, at every other place.
fn halved(rows: &[f32], width: usize) -> Vec<f32> {
    let mut halved = Vec::with_capacity(rows.len() / 2);
    for row in rows.chunks_exact(width) {
        for x in RIM..width / 2 - RIM {
            let taps = SYM6
                .iter()
                .enumerate()
                .filter_map(|(k, weight)| Some(weight * row.get((2 * x + k).checked_sub(SYM6.len() / 2 - 1)?)?));
            halved.push(taps.sum());
        }
    }
    halved
}

fn transposed(rows: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|x| rows.iter().skip(x).step_by(width).copied()).collect()
}

/// A value between pixels, weighted by how near they are; beyond the picture it is 0.
fn between(picture: &[f32], [width, height]: [usize; 2], [x, y]: [f64; 2]) -> f32 {
    let (left, above) = (x.floor(), y.floor());
    let (right_share, below_share) = (x - left, y - above);
    let pixel = |dx: f64, dy: f64| {
        let (x, y) = (left + dx, above + dy);
        let inside = (0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y);
        if inside { f64::from(picture[y as usize * width + x as usize]) } else { 0.0 }
    };
    let row = |dy: f64| pixel(0.0, dy) * (1.0 - right_share) + pixel(1.0, dy) * right_share;
    (row(0.0) * (1.0 - below_share) + row(1.0) * below_share) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture([channels, height, width]: [usize; 3]) -> Vec<f32> {
        (0..channels * height * width).map(|k| ((k * k * 7 + 3 * k) % 31) as f32 / 15.5 - 1.0).collect()
    }

    fn changed(changes: Changes, shape: [usize; 3]) -> Vec<f32> {
        let mut picture = picture(shape);
        changes.apply(&mut picture, shape);
        picture
    }

    fn assert_close(found: &[f32], wanted: &[f32], tolerance: f32) {
        assert_eq!(found.len(), wanted.len());
        for (k, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            assert!((found - wanted).abs() < tolerance, "value {k}: {found}, expected {wanted}");
        }
    }

    #[test]
    fn without_probability_nothing_happens() {
        let shape = [3, 8, 8];
        let off = AugmentConfig::default();
        let mut same = picture(shape);
        assert_eq!(off.apply(&mut same, shape, 1, 2), None);
        assert_eq!(same, picture(shape));
        for place in 0..100 {
            let changes = Changes::draw(0.0, &mut rng(3, Stream::Augment, place));
            assert_eq!(changes.labels(), [0.0; AUGMENT_LABELS]);
            assert_eq!(changed(changes, shape), picture(shape));
        }
    }

    /// Fills each pixel of two channels of 16x16 from another one, beyond the border from its mirror.
    fn taken(before: &[f32], from: impl Fn(i64, i64) -> [i64; 2]) -> Vec<f32> {
        (0..512_usize)
            .map(|k| {
                let (channel, y, x) = (k / 256, k / 16 % 16, k % 16);
                let [y, x] = from(y as i64, x as i64);
                before[(channel * 16 + mirrored(y, 16)) * 16 + mirrored(x, 16)]
            })
            .collect()
    }

    #[test]
    fn flips_and_whole_shifts_move_pixels_as_they_are() {
        let shape = [2, 16, 16];
        let (before, still) = (picture(shape), Changes::default());
        assert_eq!(changed(Changes { flip_x: true, ..still }, shape), taken(&before, |y, x| [y, 15 - x]));
        assert_eq!(changed(Changes { flip_y: true, ..still }, shape), taken(&before, |y, x| [15 - y, x]));
        // An eighth of sixteen pixels is two.
        let moved = changed(Changes { shift: [1.0, -0.5], ..still }, shape);
        assert_close(&moved, &taken(&before, |y, x| [y + 1, x - 2]), 3e-5);
    }

    /// The filter is not quite symmetric, so that turned pixels are not quite those that they were.
    #[test]
    fn quarter_turns_and_stretches_go_the_right_way() {
        let shape = [2, 16, 16];
        let smooth =
            |k: usize| (0.4 * (k % 16) as f32).sin() + 0.5 * (0.3 * (k / 16 % 16) as f32 + (k / 256) as f32).cos();
        let before: Vec<f32> = (0..512).map(smooth).collect();
        let turned = |turn: f64| {
            let mut picture = before.clone();
            Changes { turn, ..Changes::default() }.apply(&mut picture, shape);
            picture
        };
        assert_close(&turned(PI / 2.0), &taken(&before, |y, x| [x, 15 - y]), 0.06);
        assert_close(&turned(PI), &taken(&before, |y, x| [15 - y, 15 - x]), 0.06);
        // A stretch along one axis and back along the other.
        let stretch = Changes { stretch: 1.0, scale: -1.0, ..Changes::default() }.source_of([8, 8]);
        let [x, y] = stretch.of([1.0, 1.0]);
        assert!((x - 1.0).abs() < 1e-12 && (y - 2f64.powf(0.4)).abs() < 1e-12, "{x} {y}");
    }

    #[test]
    fn a_constant_picture_stays_constant_however_it_is_warped() {
        let shape = [1, 12, 10];
        for place in 0..50 {
            let changes = Changes { scale: 0.3, ..Changes::draw(1.0, &mut rng(9, Stream::Augment, place)) };
            let mut picture = vec![0.625; 120];
            changes.apply(&mut picture, shape);
            // Corners that come from beyond the mirrored picture are 0 there too.
            let inside = picture[5 * 10 + 4..][..2].iter().all(|value| (value - 0.625).abs() < 2e-3);
            assert!(inside, "{changes:?}: {picture:?}");
        }
    }

    #[test]
    fn crops_are_shifts_by_whole_pixels_and_all_come() {
        let shape = [1, 4, 4];
        let before = picture(shape);
        let config = AugmentConfig { crop: 2, ..AugmentConfig::default() };
        let mut seen = std::collections::BTreeSet::new();
        for place in 0..500 {
            let mut after = before.clone();
            assert_eq!(config.apply(&mut after, shape, 5, place), None);
            let by = (-2..=2).flat_map(|y| (-2..=2).map(move |x| (x, y)));
            let found: Vec<_> = by.filter(|&(x, y)| moved(&before, shape, x, y) == after).collect();
            assert_eq!(found.len(), 1);
            seen.extend(found);
        }
        assert_eq!(seen.len(), 25);
        assert_eq!(moved(&[1.0, 2.0, 3.0, 4.0], [1, 1, 4], 2, 0), [3.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn each_change_happens_as_often_as_asked() {
        let drawn: Vec<AugmentLabels> =
            (0..4000).map(|place| Changes::draw(0.2, &mut rng(1, Stream::Augment, place)).labels()).collect();
        let share = |label: usize| drawn.iter().filter(|labels| labels[label] != 0.0).count() as f64 / 4000.0;
        for (label, wanted) in [(0, 0.5), (1, 0.1), (2, 0.2), (4, 0.2), (5, 0.2), (6, 0.1), (7, 0.2), (8, 0.2)] {
            assert!((share(label) - wanted).abs() < 0.03, "label {label}: {}", share(label));
        }
    }
}
