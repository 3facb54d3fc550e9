//! Sprites with known factors, after dSprites (Matthey et al. 2017): what measures of disentanglement need.
//!
//! The set is the whole grid of the factors, one image for each combination; nothing in it is random.

use crate::example::{DataInfo, Flip, Units};
use crate::hold_out::held_out;
use crate::open::{OpenData, Split};
use crate::pixels::{ByteImage, byte_images};

/// Height and width of a sprite's image.
pub const SIDE: usize = 16;

/// What a sprite is made from, in the order of [`factors`]; the last changes fastest from sprite to sprite.
pub const FACTORS: [Factor; 4] = [
    Factor { name: "shape", values: SHAPES.len() },
    Factor { name: "scale", values: 6 },
    Factor { name: "y", values: 8 },
    Factor { name: "x", values: 8 },
];

/// Number of sprites: all combinations of the factors.
pub const COUNT: usize = FACTORS[0].values * FACTORS[1].values * FACTORS[2].values * FACTORS[3].values;

const SHAPES: [&str; 3] = ["square", "ellipse", "triangle"];

/// Width of the smallest sprites in pixels; every scale is one pixel wider. The largest touch the border of the image at
/// the first and at the last position.
const SMALLEST: usize = 4;
/// Height of the ellipse in relation to its width.
const FLATNESS: f64 = 0.6;
/// A pixel is covered in proportion to those of this many points a side that are inside the shape.
const POINTS: usize = 8;

/// A factor of variation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Its name.
    pub name: &'static str,
    /// How many values it has, counted from 0.
    pub values: usize,
}

/// The value of every factor of a sprite, counted from 0 in the whole grid (below [`COUNT`]).
pub fn factors(sprite: usize) -> [usize; 4] {
    let mut rest = sprite;
    let mut values = [0; 4];
    for (value, factor) in values.iter_mut().zip(FACTORS).rev() {
        *value = rest % factor.values;
        rest /= factor.values;
    }
    values
}

/// The sprites of a split in the order of its items; one in ten is for the test.
pub fn sprites_of(split: Split) -> Vec<usize> {
    let keys: Vec<u64> = (0..COUNT as u64).collect();
    let is_test = held_out(&keys);
    (0..COUNT).filter(|&sprite| is_test[sprite] == (split == Split::Test)).collect()
}

/// The factors of all items of a split, row-major: item by item, each with its four values.
pub fn factors_of(split: Split) -> Vec<usize> {
    sprites_of(split).into_iter().flat_map(factors).collect()
}

/// Opens a split.
pub(crate) fn open(split: Split) -> OpenData {
    OpenData {
        info: DataInfo {
            name: "sprites".into(),
            shape: vec![1, SIDE, SIDE],
            classes: SHAPES.map(String::from).to_vec(),
            units: Units::identity(1),
            series: None,
            latent: false,
            has_captions: false,
        },
        items: byte_images(sprites_of(split).into_iter().map(image).collect()),
        skipped: Vec::new(),
        series: None,
        ignored: Default::default(),
        labels: None,
        flip: Flip::Never,
    }
}

/// A white sprite on black; its class is its shape.
fn image(sprite: usize) -> ByteImage {
    let [shape, scale, y, x] = factors(sprite);
    let half = (SMALLEST + scale) as f64 / 2.0;
    let [center_y, center_x] = [y, x].map(|position| center(position, scale));
    let point = |index: usize| (index as f64 + 0.5) / POINTS as f64;
    let covered = |row: usize, column: usize| {
        let points = (0..POINTS * POINTS).map(|k| (row as f64 + point(k / POINTS), column as f64 + point(k % POINTS)));
        points.filter(|(y, x)| inside(shape, (x - center_x) / half, (y - center_y) / half)).count()
    };
    let byte = |covered: usize| ((covered * 255 + POINTS * POINTS / 2) / (POINTS * POINTS)) as u8;
    let pixels = (0..SIDE * SIDE).map(|pixel| byte(covered(pixel / SIDE, pixel % SIDE))).collect();
    ByteImage { pixels, label: shape }
}

/// The center of a sprite along an axis, in pixels. Every position is one pixel further. Sprites of an even width are half
/// a pixel nearer to the first border than the others, so that the edges of every square are those of pixels.
fn center(position: usize, scale: usize) -> f64 {
    let before = (FACTORS[1].values - 1 - scale) / 2 + position;
    before as f64 + (SMALLEST + scale) as f64 / 2.0
}

/// Whether a point is inside a shape of half width 1 around the origin; y points down.
fn inside(shape: usize, x: f64, y: f64) -> bool {
    match SHAPES[shape] {
        "square" => x.abs() <= 1.0 && y.abs() <= 1.0,
        "ellipse" => x * x + (y / FLATNESS) * (y / FLATNESS) <= 1.0,
        // With its tip at the top.
        _ => y <= 1.0 && x.abs() <= (y + 1.0) / 2.0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The sprite with these values of the factors: the inverse of [`factors`].
    fn sprite(factors: [usize; 4]) -> usize {
        factors.iter().zip(FACTORS).fold(0, |sprite, (value, factor)| sprite * factor.values + value)
    }

    #[test]
    fn factors_and_sprites_lead_to_each_other() {
        assert_eq!(COUNT, 1152);
        assert!((0..COUNT).all(|k| sprite(factors(k)) == k));
        let all: BTreeSet<_> = (0..COUNT).map(factors).collect();
        assert_eq!(all.len(), COUNT);
        assert!(all.iter().all(|values| values.iter().zip(FACTORS).all(|(value, factor)| *value < factor.values)));
        assert_eq!(factors(1), [0, 0, 0, 1]);
    }

    #[test]
    fn no_two_sprites_are_equal_grey_or_binarized() {
        let grey: BTreeSet<Vec<u8>> = (0..COUNT).map(|k| image(k).pixels).collect();
        let binary: BTreeSet<Vec<bool>> = grey.iter().map(|p| p.iter().map(|&byte| byte >= 128).collect()).collect();
        assert_eq!((grey.len(), binary.len()), (COUNT, COUNT));
    }

    #[test]
    fn the_area_is_that_of_the_shape_wherever_it_is() {
        let area = |sprite: usize| image(sprite).pixels.iter().map(|&byte| f64::from(byte)).sum::<f64>() / 255.0;
        for shape in 0..3 {
            for scale in 0..6 {
                let half = (SMALLEST + scale) as f64 / 2.0;
                let formula = [4.0, std::f64::consts::PI * FLATNESS, 2.0][shape] * half * half;
                for (y, x) in [(0, 0), (7, 0), (0, 7), (7, 7), (3, 4)] {
                    let found = area(sprite([shape, scale, y, x]));
                    assert!((found - formula).abs() < 0.03 * formula, "{shape} {scale}: {found} of {formula}");
                }
            }
        }
    }

    #[test]
    fn squares_have_whole_pixels_and_the_largest_fill_the_image() {
        for k in (0..COUNT).filter(|&k| factors(k)[0] == 0) {
            let pixels = image(k).pixels;
            let width = SMALLEST + factors(k)[1];
            assert_eq!(pixels.iter().filter(|&&byte| byte == 255).count(), width * width);
            assert_eq!(pixels.iter().filter(|&&byte| byte == 0).count(), SIDE * SIDE - width * width);
        }
        let largest = FACTORS[1].values - 1;
        for (position, corner) in [(0, 0), (7, SIDE * SIDE - 1)] {
            assert_eq!(image(sprite([0, largest, position, position])).pixels[corner], 255);
        }
    }

    #[test]
    fn a_position_further_is_the_image_one_pixel_on() {
        let [here, right, down] = [[2, 3, 2, 4], [2, 3, 2, 5], [2, 3, 3, 4]].map(|f| image(sprite(f)).pixels);
        for k in 0..SIDE * SIDE - SIDE {
            assert_eq!(here[k], right[k + 1]);
            assert_eq!(here[k], down[k + SIDE]);
        }
    }

    #[test]
    fn items_have_the_factors_and_the_class_of_their_split() {
        let mut seen = BTreeSet::new();
        let grid = byte_images((0..COUNT).map(image).collect());
        for (split, count) in [(Split::Train, 1037), (Split::Test, 115)] {
            let (data, sprites, table) = (open(split), sprites_of(split), factors_of(split));
            assert_eq!((data.items.len(), sprites.len(), table.len()), (count, count, 4 * count));
            for (item, &k) in sprites.iter().enumerate() {
                let example = data.items.get(item).unwrap();
                assert_eq!(example, grid.get(k).unwrap());
                assert_eq!(table[4 * item..4 * item + 4], factors(k));
                assert_eq!(example.label, Some(factors(k)[0]));
                assert!(seen.insert(k));
            }
            assert!(seen.len() >= count);
        }
        assert_eq!(seen.len(), COUNT);
    }
}
