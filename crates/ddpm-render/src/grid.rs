//! Grids of images.

use image::{Rgb, RgbImage, imageops};

/// Pixels between two images and around all of them.
const SEPARATOR: u32 = 2;
const SEPARATOR_COLOR: Rgb<u8> = Rgb([255, 255, 255]);
/// Small images are enlarged to about this size.
const TILE: u32 = 64;

/// Images of one size, row by row.
pub(super) fn grid(tiles: &[RgbImage], columns: usize) -> RgbImage {
    let Some((width, height)) = tiles.first().map(RgbImage::dimensions) else {
        return RgbImage::new(1, 1);
    };
    let columns = columns.clamp(1, tiles.len());
    let factor = (TILE / width.max(height)).max(1);
    let (width, height) = (width * factor, height * factor);
    let extent = |count: usize, size: u32| count as u32 * (size + SEPARATOR) + SEPARATOR;
    let rows = tiles.len().div_ceil(columns);
    let mut grid = RgbImage::from_pixel(extent(columns, width), extent(rows, height), SEPARATOR_COLOR);
    for (i, tile) in tiles.iter().enumerate() {
        let enlarged = imageops::resize(tile, width, height, imageops::FilterType::Nearest);
        let (x, y) = (extent(i % columns, width), extent(i / columns, height));
        imageops::replace(&mut grid, &enlarged, x.into(), y.into());
    }
    grid
}

/// Columns of a grid that is as square as can be, never higher than wide.
pub(super) fn square_columns(count: usize) -> usize {
    (1..).find(|columns| columns * columns >= count).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_images_are_enlarged_without_blur_and_kept_apart() {
        let tile = |value| RgbImage::from_fn(8, 8, |x, _| Rgb([if x < 4 { value } else { 0 }; 3]));
        let drawn = grid(&[tile(10), tile(20), tile(30)], 2);
        assert_eq!(drawn.dimensions(), (2 * 66 + 2, 2 * 66 + 2));
        assert_eq!(drawn.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(drawn.get_pixel(2, 2).0, [10; 3]);
        assert_eq!(drawn.get_pixel(2 + 31, 2 + 63).0, [10; 3]);
        assert_eq!(drawn.get_pixel(2 + 32, 2).0, [0; 3]);
        assert_eq!(drawn.get_pixel(2 + 64, 2).0, [255; 3]);
        assert_eq!(drawn.get_pixel(68, 2).0, [20; 3]);
        assert_eq!(drawn.get_pixel(2, 68).0, [30; 3]);
    }

    #[test]
    fn large_images_stay_as_they_are() {
        assert_eq!(grid(&[RgbImage::new(100, 70)], 1).dimensions(), (104, 74));
    }

    #[test]
    fn grids_are_nearly_square() {
        assert_eq!([1, 2, 4, 5, 16, 17, 64].map(square_columns), [1, 2, 2, 3, 4, 5, 8]);
    }
}
