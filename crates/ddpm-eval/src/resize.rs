//! Resizing images to the 299x299 pixels of Inception, by the three recipes of published results.
//!
//! They differ by several units of FID, so the recipe is part of the name of a metric.

use std::str::FromStr;

use super::image::Image;

/// Height and width of the network's input.
pub const SIDE: usize = 299;

/// A recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// Bilinear without anti-aliasing, corners not aligned; 2x - 1 of x in [0, 1].
    #[default]
    PytorchFid,
    /// The bilinear resize of TensorFlow 1, whose pixels begin at their corners; (byte - 128) / 128. Also that of
    /// torch-fidelity.
    LegacyTf,
    /// Pillow's bicubic with anti-aliasing, in f32, clipped; (byte - 128) / 128.
    CleanFid,
}

impl Resize {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PytorchFid, Self::LegacyTf, Self::CleanFid];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PytorchFid => "pytorch-fid",
            Self::LegacyTf => "legacy-tf",
            Self::CleanFid => "clean-fid",
        }
    }

    /// The three colors of the image at 299x299, on the scale of bytes.
    pub fn resized(self, image: &Image) -> Vec<f32> {
        let (rows, columns) = (self.taps(image.height), self.taps(image.width));
        (0..3)
            .flat_map(|color| {
                let plane: Vec<f32> = image.plane(color).iter().map(|byte| f32::from(*byte)).collect();
                let wide = along_rows(&plane, image.width, &columns);
                let mut all = along_columns(&wide, &rows);
                if self == Self::CleanFid {
                    all.iter_mut().for_each(|value| *value = value.clamp(0.0, 255.0));
                }
                all
            })
            .collect()
    }

    /// The input of the network, [3, 299, 299].
    pub fn input(self, image: &Image) -> Vec<f32> {
        let scaled = |value: f32| match self {
            Self::PytorchFid => 2.0 * (value / 255.0) - 1.0,
            Self::LegacyTf | Self::CleanFid => (value - 128.0) / 128.0,
        };
        self.resized(image).into_iter().map(scaled).collect()
    }

    /// The pixels and weights of each of the 299 outputs.
    fn taps(self, size: usize) -> Vec<Tap> {
        let scale = size as f64 / SIDE as f64;
        (0..SIDE)
            .map(|place| match self {
                Self::PytorchFid => linear(((place as f64 + 0.5) * scale - 0.5).max(0.0), size),
                Self::LegacyTf => linear(place as f64 * scale, size),
                Self::CleanFid => cubic((place as f64 + 0.5) * scale, scale.max(1.0), size),
            })
            .collect()
    }
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or(format!("expected one of: {names}"))
    }
}

/// Neighbouring pixels from the first on, and their weights.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

fn linear(source: f64, size: usize) -> Tap {
    let first = (source.floor() as usize).min(size - 1);
    let share = (source - first as f64) as f32;
    match first + 1 < size {
        true => Tap { first, weights: vec![1.0 - share, share] },
        false => Tap { first, weights: vec![1.0] },
    }
}

/// Pillow's: the kernel stretched by the factor of a reduction, cut at the border and normalized.
fn cubic(center: f64, stretch: f64, size: usize) -> Tap {
    let support = 2.0 * stretch;
    let first = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(size);
    let weights: Vec<f64> = (first..end).map(|pixel| keys((pixel as f64 + 0.5 - center) / stretch)).collect();
    let sum: f64 = weights.iter().sum();
    Tap { first, weights: weights.into_iter().map(|weight| (weight / sum) as f32).collect() }
}

/// The cubic convolution kernel with a = -1/2 (Keys 1981).
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// Every row of a plane at the new width.
fn along_rows(plane: &[f32], width: usize, taps: &[Tap]) -> Vec<f32> {
    let at = |row: &[f32], tap: &Tap| row[tap.first..].iter().zip(&tap.weights).map(|(x, weight)| x * weight).sum();
    plane.chunks_exact(width).flat_map(|row| taps.iter().map(move |tap| at(row, tap))).collect()
}

/// Every column of a plane of width 299 at the new height.
fn along_columns(plane: &[f32], taps: &[Tap]) -> Vec<f32> {
    let mut all = vec![0.0; taps.len() * SIDE];
    for (row, tap) in all.chunks_exact_mut(SIDE).zip(taps) {
        for (source, weight) in plane[tap.first * SIDE..].chunks_exact(SIDE).zip(&tap.weights) {
            row.iter_mut().zip(source).for_each(|(sum, value)| *sum += value * weight);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image from a formula, its values at some places (row, column) after a resize, and their mean.
    type Known = (usize, usize, Resize, [f64; 8], f64);

    // From torch 2.15 (interpolate), torch-fidelity 0.4 (its TensorFlow-like one) and Pillow 13 (mode F, bicubic).
    const KNOWN: [Known; 6] = [
        (5, 7, Resize::CleanFid, [0.0, 98.3955, 20.3506, 3.463, 141.0, 180.8923, 15.6642, 0.0], 87.03321),
        (5, 7, Resize::LegacyTf, [0.0, 108.0, 38.8445, 15.3009, 138.5042, 125.0167, 24.0, 28.0], 101.9703),
        (5, 7, Resize::PytorchFid, [0.0, 108.0, 27.4916, 4.7759, 141.0, 160.107, 24.0, 28.0], 87.17207),
        (
            310,
            420,
            Resize::CleanFid,
            [0.6398, 101.3871, 196.6441, 38.7096, 243.3523, 81.4819, 107.818, 125.2299],
            127.78802,
        ),
        (310, 420, Resize::LegacyTf, [0.0, 110.83, 196.1449, 60.105, 217.8148, 124.4164, 61.7792, 139.4829], 127.78875),
        (
            310,
            420,
            Resize::PytorchFid,
            [0.7807, 100.1336, 196.4072, 54.0332, 226.25, 89.6365, 89.3447, 106.6288],
            127.88827,
        ),
    ];

    #[test]
    fn all_recipes_are_those_of_their_reference_implementations() {
        let places = [(0, 0), (0, 298), (1, 150), (77, 13), (149, 149), (200, 290), (298, 0), (298, 298)];
        for (height, width, mode, wanted, mean) in KNOWN {
            let byte = |i: usize| {
                let (y, x) = (i / width, i % width);
                ((3 * x * x + 6 * y + 17 * x * y) % 256) as u8
            };
            let image = Image { channels: 1, height, width, bytes: (0..height * width).map(byte).collect() };
            let resized = mode.resized(&image);
            assert_eq!(resized[..SIDE * SIDE], resized[2 * SIDE * SIDE..]);
            for ((row, column), wanted) in places.into_iter().zip(wanted) {
                let found = f64::from(resized[row * SIDE + column]);
                // The references compute coordinates in f32, we in f64.
                assert!((found - wanted).abs() < 5e-3, "{mode:?} of {height}x{width} at {row}, {column}: {found}");
            }
            let found = resized.iter().map(|value| f64::from(*value)).sum::<f64>() / resized.len() as f64;
            assert!((found - mean).abs() < 1e-3, "{mode:?} of {height}x{width}: {found} instead of {mean}");
        }
    }
}
