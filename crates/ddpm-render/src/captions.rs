//! A grid of images, each with a text below it.

use std::path::Path;

use image::imageops::{FilterType, resize};
use image::{DynamicImage, RgbImage};

use super::canvas::{Canvas, Color};
use super::grid::square_columns;
use super::lettering::{Align, shortened, width, write};
use super::{RenderError, Samples, grid_limit, tiles, write_png};

const BACKGROUND: Color = [255, 255, 255];
const INK: Color = [40, 40, 40];
/// Pixels around every image and its text.
const MARGIN: u32 = 8;
/// Small images are enlarged to about this size.
const TILE: u32 = 128;
/// Height of a digit, and from one line to the next.
const LETTER: f32 = 9.0;
const LINE: u32 = 15;
/// Lines of a text at most.
const LINES: usize = 3;

/// Writes a grid of images with the captions below them, in their order; a caption that has no room is cut short.
pub fn write_captioned(path: &Path, samples: &Samples, captions: &[String]) -> Result<(), RenderError> {
    let images = tiles(&samples.values, &samples.shape)?;
    let shown = images.len().min(grid_limit(&samples.shape));
    let sheet = captioned(&images[..shown], captions, samples.row);
    write_png(path, &sheet, 3)
}

fn captioned(images: &[RgbImage], captions: &[String], row: Option<usize>) -> RgbImage {
    let Some((width, height)) = images.first().map(RgbImage::dimensions) else { return RgbImage::new(1, 1) };
    let factor = (TILE / width.max(height)).max(1);
    let (width, height) = (width * factor, height * factor);
    let cell_width = width.max(TILE) + MARGIN;
    let wrapped: Vec<Vec<String>> = captions.iter().map(|text| lines(text, (cell_width - MARGIN) as f32)).collect();
    let text_lines = wrapped.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let cell_height = height + text_lines * LINE + MARGIN;
    let columns = row.unwrap_or_else(|| square_columns(images.len())).clamp(1, images.len());
    let rows = images.len().div_ceil(columns);
    let mut sheet = Canvas::new(columns as u32 * cell_width + MARGIN, rows as u32 * cell_height + MARGIN, BACKGROUND);
    let corner = |i: usize| [(i % columns) as u32 * cell_width + MARGIN, (i / columns) as u32 * cell_height + MARGIN];
    for (i, text) in wrapped.iter().enumerate().take(images.len()) {
        let [left, top] = corner(i);
        for (line, text) in text.iter().enumerate() {
            let baseline = (top + height + (line as u32 + 1) * LINE) as f32 - 2.0;
            write(&mut sheet, text, [left as f32, baseline], LETTER, Align::Left, INK);
        }
    }
    let mut sheet = sheet.into_image();
    for (i, image) in images.iter().enumerate() {
        let enlarged = resize(image, width, height, FilterType::Nearest);
        let [left, top] = corner(i);
        image::imageops::replace(&mut sheet, &enlarged, left.into(), top.into());
    }
    DynamicImage::from(sheet).into_rgb8()
}

/// The text in lines of so many pixels, the last of which is cut short.
fn lines(text: &str, room: f32) -> Vec<String> {
    let fits = |line: &str| width(line) * LETTER <= room;
    let mut lines: Vec<String> = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let mut line = word.to_string();
        while let Some(next) = words.next_if(|next| fits(&format!("{line} {next}"))) {
            line = format!("{line} {next}");
        }
        if lines.len() + 1 == LINES {
            line = words.by_ref().fold(line, |line, word| format!("{line} {word}"));
        }
        lines.push(shortened(&line, room / LETTER));
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_wrapped_and_cut_short() {
        assert_eq!(lines("", 100.0), Vec::<String>::new());
        assert_eq!(lines("a red circle", 1000.0), ["a red circle"]);
        let long = lines(&"a small red circle at the top left ".repeat(300), 120.0);
        assert_eq!(long.len(), LINES);
        assert!(
            long[LINES - 1].ends_with('\u{2026}') && long.iter().all(|line| width(line) * LETTER <= 120.0),
            "{long:?}"
        );
        assert_eq!(lines("\u{1F600} \u{5E9}\u{5DC}\u{5D5}\u{5DD}", 200.0).len(), 1);
    }

    #[test]
    fn every_image_has_its_caption_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let samples = Samples {
            values: vec![-1.0; 3 * 4 * 4 * 3],
            shape: vec![3, 4, 4],
            labels: vec![None; 3],
            ..Samples::default()
        };
        let path = dir.path().join("captions.png");
        write_captioned(&path, &samples, &["one".into(), String::new(), "three".into()]).unwrap();
        let sheet = image::open(&path).unwrap().into_rgb8();
        assert_eq!(sheet.dimensions(), (2 * 136 + 8, 2 * (128 + 15 + 8) + 8));
        let ink = |i: u32| {
            let (left, top) = (8 + i % 2 * 136, 8 + i / 2 * 151 + 128);
            let pixels = (left..left + 128).flat_map(|x| (top..top + 15).map(move |y| (x, y)));
            pixels.filter(|(x, y)| sheet.get_pixel(*x, *y).0[0] < 128).count()
        };
        assert!(ink(0) > 0 && ink(2) > ink(0));
        assert_eq!((ink(1), sheet.get_pixel(10, 10).0), (0, [0; 3]));
    }
}
