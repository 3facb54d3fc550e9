//! Captioned shapes: one colored shape on a dark background, and a sentence that says so.
//!
//! An image has four attributes: [`SHAPES`], [`COLORS`], [`SIZES`] and [`PLACES`], 96 [`Combination`]s in all. Ten of
//! them ([`Combination::is_held_out`]) are never trained on, though every pair of values is: a model that draws them has
//! learned what the words mean, and not a table. What a combination leaves open ([`Geometry`]) is drawn uniformly.

use std::f64::consts::PI;
use std::sync::Arc;

use burn_dataset::{Dataset, DatasetError};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;

use crate::config::ShapesConfig;
use crate::example::{DataInfo, Example, Flip, Units};
use crate::open::{OpenData, Split};
use crate::pixels::values_of_bytes;
use crate::random::{Stream, rng};

/// Height and width of an image.
pub const SIDE: usize = 32;

/// The shapes, in the order of [`Combination::shape`].
pub const SHAPES: [&str; 3] = ["circle", "square", "triangle"];
/// The colors.
pub const COLORS: [&str; 4] = ["red", "green", "blue", "yellow"];
/// The sizes.
pub const SIZES: [&str; 2] = ["small", "large"];
/// The places.
pub const PLACES: [&str; 4] = ["top left", "top right", "bottom left", "bottom right"];

/// How often the test split shows each combination.
pub const TEST_IMAGES_EACH: usize = 10;

/// Number of combinations.
const COMBINATIONS: usize = SHAPES.len() * COLORS.len() * SIZES.len() * PLACES.len();

/// Words for a size; the first is the one of canonical captions.
pub const SIZE_WORDS: [[&str; 3]; 2] = [["small", "little", "tiny"], ["large", "big", "huge"]];
/// Words for the vertical part of a place.
pub const VERTICAL_WORDS: [[&str; 2]; 2] = [["top", "upper"], ["bottom", "lower"]];

/// Forms of a caption; the first is that of canonical captions.
pub const TEMPLATES: [&str; 5] = [
    "{size} {color} {shape} {place}",
    "a {size} {color} {shape} at the {place}",
    "a {color} {shape}, {size}, in the {place} corner",
    "{place}: {size} {color} {shape}",
    "there is a {size} {color} {shape} in the {place}",
];

/// Canonical captions of the combinations that the train split never shows.
const HELD_OUT: [&str; 10] = [
    "small red circle top left",
    "large blue circle bottom right",
    "small yellow circle bottom left",
    "large green square top left",
    "small red square bottom right",
    "large yellow square top right",
    "small blue triangle top right",
    "large yellow triangle bottom left",
    "small green triangle bottom right",
    "large red triangle top right",
];

/// The value of every attribute, counted from 0 in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Combination {
    /// In [`SHAPES`].
    pub shape: usize,
    /// In [`COLORS`].
    pub color: usize,
    /// In [`SIZES`].
    pub size: usize,
    /// In [`PLACES`].
    pub place: usize,
}

impl Combination {
    /// All 96; the place changes fastest.
    pub fn all() -> Vec<Self> {
        (0..COMBINATIONS).map(Self::of_index).collect()
    }

    /// Those of the train split, in the order of [`all`](Self::all).
    pub fn seen() -> Vec<Self> {
        Self::all().into_iter().filter(|combination| !combination.is_held_out()).collect()
    }

    /// The ten that are never trained on, in the order of [`all`](Self::all).
    pub fn held_out() -> Vec<Self> {
        Self::all().into_iter().filter(Self::is_held_out).collect()
    }

    fn of_index(index: usize) -> Self {
        let (place, rest) = (index % PLACES.len(), index / PLACES.len());
        let (size, rest) = (rest % SIZES.len(), rest / SIZES.len());
        Self { shape: rest / COLORS.len(), color: rest % COLORS.len(), size, place }
    }

    /// Whether the train split never shows it.
    pub fn is_held_out(&self) -> bool {
        HELD_OUT.contains(&self.caption().as_str())
    }

    /// The canonical caption, with which models are evaluated: `large red circle top left`.
    pub fn caption(&self) -> String {
        self.caption_of(0, SIZES[self.size], PLACES[self.place])
    }

    /// A caption of any form with any of the words.
    pub fn draw_caption(&self, rng: &mut ChaCha8Rng) -> String {
        let template = rng.random_range(0..TEMPLATES.len());
        let size = pick(&SIZE_WORDS[self.size], rng);
        let vertical = pick(&VERTICAL_WORDS[self.place / 2], rng);
        let horizontal = ["left", "right"][self.place % 2];
        self.caption_of(template, size, &format!("{vertical} {horizontal}"))
    }

    fn caption_of(&self, template: usize, size: &str, place: &str) -> String {
        TEMPLATES[template]
            .replace("{size}", size)
            .replace("{color}", COLORS[self.color])
            .replace("{shape}", SHAPES[self.shape])
            .replace("{place}", place)
    }
}

fn pick(words: &[&'static str], rng: &mut ChaCha8Rng) -> &'static str {
    words.choose(rng).copied().unwrap_or_default()
}

/// What of an image its combination leaves open. Coordinates are in pixels, x to the right and y down; the pixel in row i
/// and column j covers [j, j + 1] x [i, i + 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// x and y of the center.
    pub center: [f64; 2],
    /// Radius of the circle, and of the circle whose area the square has; corners of the triangle are 1.25 times as far.
    pub radius: f64,
    /// By how much the shape is turned, in radians.
    pub angle: f64,
    /// Red, green and blue, from 0 to 1.
    pub color: [f64; 3],
    /// Gray of the background.
    pub background: f64,
}

impl Geometry {
    /// One of those that fit a combination.
    pub fn draw(combination: &Combination, rng: &mut ChaCha8Rng) -> Self {
        const CENTERS: [[f64; 2]; 4] = [[8.0, 8.0], [24.0, 8.0], [8.0, 24.0], [24.0, 24.0]];
        const MOVED_BY_UP_TO: [f64; 2] = [2.5, 0.75];
        const RADII: [[f64; 2]; 2] = [[3.0, 3.6], [5.2, 5.8]];
        const MEAN_COLORS: [[f64; 3]; 4] =
            [[0.90, 0.15, 0.15], [0.15, 0.75, 0.20], [0.20, 0.30, 0.95], [0.95, 0.85, 0.15]];
        let mut uniform = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        let moved = MOVED_BY_UP_TO[combination.size];
        let [smallest, largest] = RADII[combination.size];
        Self {
            center: CENTERS[combination.place].map(|position| position + uniform(-moved, moved)),
            radius: uniform(smallest, largest),
            angle: uniform(-10.0, 10.0).to_radians(),
            color: MEAN_COLORS[combination.color].map(|mean| (mean + uniform(-0.06, 0.06)).clamp(0.0, 1.0)),
            background: uniform(0.05, 0.20),
        }
    }
}

/// Points a side of a pixel: it is covered in proportion to those of them that are inside the shape.
const POINTS: usize = 4;

/// The image of a shape (an index in [`SHAPES`]): bytes `[3, 32, 32]`, channel by channel.
pub fn render(shape: usize, geometry: &Geometry) -> Vec<u8> {
    let inside = inside(shape, geometry);
    let point = |index: usize| (index as f64 + 0.5) / POINTS as f64;
    let covered = |row: usize, column: usize| {
        let points = (0..POINTS * POINTS).map(|k| (column as f64 + point(k % POINTS), row as f64 + point(k / POINTS)));
        points.filter(|&(x, y)| inside(x, y)).count() as f64 / (POINTS * POINTS) as f64
    };
    let coverage: Vec<f64> = (0..SIDE * SIDE).map(|pixel| covered(pixel / SIDE, pixel % SIDE)).collect();
    let byte = |color: f64, covered: f64| {
        let value = geometry.background * (1.0 - covered) + color * covered;
        (255.0 * value + 0.5).floor() as u8
    };
    geometry.color.iter().flat_map(|&color| coverage.iter().map(move |&covered| byte(color, covered))).collect()
}

/// Whether a point is inside the shape, its edges included.
fn inside(shape: usize, geometry: &Geometry) -> Box<dyn Fn(f64, f64) -> bool> {
    let Geometry { center: [center_x, center_y], radius, angle, .. } = *geometry;
    match SHAPES[shape] {
        "circle" => Box::new(move |x, y| (x - center_x).powi(2) + (y - center_y).powi(2) <= radius * radius),
        "square" => {
            let half = radius * PI.sqrt() / 2.0;
            let (sin, cos) = angle.sin_cos();
            Box::new(move |x, y| {
                let (x, y) = (x - center_x, y - center_y);
                (cos * x + sin * y).abs() <= half && (cos * y - sin * x).abs() <= half
            })
        }
        _ => {
            // One corner points up.
            let corners = [-90.0_f64, 30.0, 150.0].map(|degrees| {
                let (sin, cos) = (angle + degrees.to_radians()).sin_cos();
                [center_x + 1.25 * radius * cos, center_y + 1.25 * radius * sin]
            });
            Box::new(move |x, y| {
                (0..3).all(|k| {
                    let ([ax, ay], [bx, by]) = (corners[k], corners[(k + 1) % 3]);
                    (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0.0
                })
            })
        }
    }
}

/// Opens a split.
pub(crate) fn open(config: &ShapesConfig, split: Split) -> OpenData {
    OpenData {
        info: DataInfo {
            name: "shapes".into(),
            shape: vec![3, SIDE, SIDE],
            classes: Vec::new(),
            units: Units::identity(3),
            series: None,
            latent: false,
            has_captions: true,
        },
        items: Arc::new(Shapes::new(config, split)),
        skipped: Vec::new(),
        series: None,
        ignored: Default::default(),
        labels: None,
        flip: Flip::Never,
    }
}

/// The items of a split, each made when it is read.
struct Shapes {
    count: usize,
    seed: u64,
    split: Split,
    /// Those that the split shows.
    combinations: Vec<Combination>,
}

impl Shapes {
    fn new(config: &ShapesConfig, split: Split) -> Self {
        let (count, combinations) = match split {
            Split::Train => (config.count, Combination::seen()),
            Split::Test => (TEST_IMAGES_EACH * COMBINATIONS, Combination::all()),
        };
        Self { count, seed: config.seed, split, combinations }
    }

    /// An item's combination, and the generator for what it leaves open.
    fn drawn(&self, item: usize) -> (Combination, ChaCha8Rng) {
        let index = 2 * item as u64 + u64::from(self.split == Split::Test);
        let mut rng = rng(self.seed, Stream::Shapes, index);
        let which = match self.split {
            Split::Train => rng.random_range(0..self.combinations.len()),
            Split::Test => item % self.combinations.len(),
        };
        (self.combinations[which], rng)
    }
}

impl Dataset<Example> for Shapes {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        assert!(index < self.count, "shape {index} of {}", self.count);
        let (combination, mut rng) = self.drawn(index);
        let geometry = Geometry::draw(&combination, &mut rng);
        let caption = combination.draw_caption(&mut rng);
        let values = values_of_bytes(&render(combination.shape, &geometry));
        Ok(Example { values, label: None, window: None, caption: Some(caption.into()) })
    }

    fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn items(count: usize, split: Split) -> (ShapesConfig, OpenData) {
        let config = ShapesConfig { count, ..Default::default() };
        let data = open(&config, split);
        (config, data)
    }

    fn combination_of(config: &ShapesConfig, split: Split, item: usize) -> Combination {
        Shapes::new(config, split).drawn(item).0
    }

    #[test]
    fn combinations_are_told_apart_by_their_captions() {
        let all = Combination::all();
        assert_eq!((all.len(), Combination::seen().len(), Combination::held_out().len()), (96, 86, 10));
        let captions: BTreeSet<String> = all.iter().map(Combination::caption).collect();
        assert_eq!(captions.len(), 96);
    }

    #[test]
    fn every_pair_of_attribute_values_is_trained_on() {
        let values = |c: &Combination| [c.shape, 10 + c.color, 20 + c.size, 30 + c.place];
        let pairs = |combinations: Vec<Combination>| -> BTreeSet<(usize, usize)> {
            let of_one = |c: Combination| values(&c).into_iter().flat_map(move |a| values(&c).map(|b| (a, b)));
            combinations.into_iter().flat_map(of_one).collect()
        };
        assert_eq!(pairs(Combination::seen()), pairs(Combination::all()));
    }

    #[test]
    fn items_are_a_function_of_their_index_and_splits_share_none() {
        let ((_, few), (_, many), (_, test)) =
            (items(50, Split::Train), items(500, Split::Train), items(50, Split::Test));
        assert_eq!((few.items.len(), many.items.len(), test.items.len()), (50, 500, 960));
        for item in 0..50 {
            let example = few.items.get(item).unwrap();
            assert_eq!(example, many.items.get(item).unwrap());
            assert!((0..50).all(|other| test.items.get(other).unwrap().values != example.values));
        }
        let other = open(&ShapesConfig { count: 50, seed: 1 }, Split::Train);
        assert_ne!(other.items.get(0).unwrap(), few.items.get(0).unwrap());
    }

    #[test]
    fn the_train_split_shows_what_is_not_held_out_and_the_test_split_everything() {
        let (config, data) = items(4000, Split::Train);
        let mut seen = BTreeSet::new();
        for item in 0..data.items.len() {
            let combination = combination_of(&config, Split::Train, item);
            assert!(!combination.is_held_out());
            seen.insert(combination);
        }
        assert_eq!(seen.len(), 86);
        let (config, data) = items(1, Split::Test);
        let mut times = BTreeMap::new();
        for item in 0..data.items.len() {
            *times.entry(combination_of(&config, Split::Test, item)).or_insert(0) += 1;
        }
        assert!(times.len() == COMBINATIONS && times.values().all(|&count| count == TEST_IMAGES_EACH));
    }

    #[test]
    fn captions_name_the_attributes_of_their_image() {
        let (config, data) = items(400, Split::Train);
        let mut forms = BTreeSet::new();
        for item in 0..data.items.len() {
            let (example, c) = (data.items.get(item).unwrap(), combination_of(&config, Split::Train, item));
            let caption = example.caption.unwrap();
            assert!(caption.contains(SHAPES[c.shape]) && caption.contains(COLORS[c.color]), "{caption}");
            assert!(SIZE_WORDS[c.size].iter().any(|word| caption.contains(word)), "{caption}");
            let place = VERTICAL_WORDS[c.place / 2].map(|word| format!("{word} {}", ["left", "right"][c.place % 2]));
            assert!(place.iter().any(|words| caption.contains(words)), "{caption}");
            // The quarter of the image with the brightest pixel of any channel is the place.
            let brightest = (0..3 * SIDE * SIDE).max_by(|&a, &b| example.values[a].total_cmp(&example.values[b]));
            let (row, column) = (brightest.unwrap() / SIDE % SIDE, brightest.unwrap() % SIDE);
            assert_eq!(c.place, 2 * (row / 16) + column / 16, "{caption}");
            forms.insert(caption);
        }
        assert!(forms.len() > 300, "{}", forms.len());
    }

    // A snapshot's data are these images for ever.
    #[test]
    fn shapes_stay_the_same_for_ever() {
        let (_, data) = items(10, Split::Train);
        let example = data.items.get(7).unwrap();
        assert_eq!(example.caption.as_deref(), Some("there is a small yellow triangle in the lower left"));
        assert_eq!(example.values.iter().map(|&value| f64::from(value)).sum::<f64>().round(), -2482.0);
    }
}
