//! Samples as files: arrays, tables, images, animations and plots.

mod animation;
mod canvas;
mod captions;
mod drawing;
mod glyphs;
mod grid;
mod lettering;
mod samples;
mod scatter;
pub mod series;

use std::io;
use std::path::{Path, PathBuf};

use animation::gif;
pub use captions::write_captioned;
use ddpm_files::{WriteError, atomic, npy};
use grid::{grid, square_columns};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
pub use samples::{Frame, Samples};

/// Images in a grid at most: more would be too small to see, and the file too large to open.
const GRID_LIMIT: usize = 1024;
/// Pixels of all images in a grid at most, for the same reason.
const GRID_PIXELS: usize = 1 << 26;
/// Columns of the strip that shows the denoising.
const STRIP_COLUMNS: usize = 12;
/// Rows of that strip.
const STRIP_ROWS: usize = 4;

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The file system refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The encoder refused.
    #[error("cannot make {}: {error}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// The message of the encoder.
        error: image::ImageError,
    },
    /// The table writer refused.
    #[error("cannot make {}: {error}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// The message of the writer.
        error: csv::Error,
    },
    /// Samples of a shape that cannot be drawn.
    #[error(
        "samples of shape {shape:?} cannot be drawn: expected [1, H, W] (grayscale), [3, H, W] (RGB) or [2] \
         (points)"
    )]
    Shape {
        /// The shape of a sample.
        shape: Vec<usize>,
    },
    /// Arrays of a series plot that do not fit each other.
    #[error("{what} of a series plot: expected {expected}, found {found}")]
    Series {
        /// What is of the wrong length.
        what: &'static str,
        /// Its length by the shape.
        expected: usize,
        /// Its length.
        found: usize,
    },
}

/// Writes into `folder`, which is made if need be: `samples.npy` for all; `grid.png`, `0000.png` and so on,
/// `denoising.gif` and `denoising.png` for images; `samples.csv`, `scatter.png` and `denoising.gif` for
/// points. There is no `denoising` without frames.
///
/// `data` are points of the data in their own units, row-major, to draw next to the samples.
pub fn write(folder: &Path, samples: &Samples, data: Option<&[f32]>) -> Result<(), RenderError> {
    std::fs::create_dir_all(folder).map_err(|error| WriteError { path: folder.to_path_buf(), error })?;
    // First of all, because it loses nothing and fits every shape.
    samples.save_npy(folder.join("samples.npy"))?;
    match samples.shape[..] {
        [1 | 3, _, _] => write_images(folder, samples),
        [2] => write_points(folder, samples, data),
        _ => Err(RenderError::Shape { shape: samples.shape.clone() }),
    }
}

/// Writes one overview of the samples, without frames and single files: a grid of images, or a scatter plot of points
/// next to those of the `data`.
pub fn write_overview(path: &Path, samples: &Samples, data: Option<&[f32]>) -> Result<(), RenderError> {
    match samples.shape[..] {
        [2] => {
            let points = pairs(&samples.values);
            let plot = match data {
                Some(data) => scatter::side_by_side(&pairs(data), &points),
                None => scatter::alone(&points),
            };
            write_png(path, &plot, 3)
        }
        _ => {
            let images = tiles(&samples.values, &samples.shape)?;
            let shown = &images[..shown(samples)];
            write_png(path, &grid(shown, columns(samples, shown.len())), samples.shape[0])
        }
    }
}

/// Writes a grid of sets with equally many images: the first images of all sets side by side, then the second ones, and
/// so on.
pub fn write_comparison(path: &Path, sets: &[&[f32]], shape: &[usize]) -> Result<(), RenderError> {
    let sets = sets.iter().map(|set| tiles(set, shape)).collect::<Result<Vec<_>, _>>()?;
    let images = sets.first().map_or(0, Vec::len).min((grid_limit(shape) / sets.len()).max(1));
    let interleaved: Vec<RgbImage> = (0..images).flat_map(|k| sets.iter().map(move |set| set[k].clone())).collect();
    let groups = (square_columns(interleaved.len()) / sets.len()).max(1);
    write_png(path, &grid(&interleaved, groups * sets.len()), shape[0])
}

impl Samples {
    /// The samples as images, where they are images: [1, H, W] in gray or [3, H, W] in color, with values in [-1, 1].
    pub fn images(&self) -> Result<Vec<RgbImage>, RenderError> {
        tiles(&self.values, &self.shape)
    }

    /// The shape of all values together: `[N, ..]`.
    pub fn array_shape(&self) -> Vec<usize> {
        [self.count()].into_iter().chain(self.shape.iter().copied()).collect()
    }

    /// Writes one PNG file of all samples: a grid of images, or a scatter plot of points.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<(), RenderError> {
        write_overview(path.as_ref(), self, None)
    }

    /// Writes all values as a NumPy array of f32, `[N, ..]`.
    pub fn save_npy(&self, path: impl AsRef<Path>) -> Result<(), RenderError> {
        Ok(atomic::write(path.as_ref(), npy::encode(&self.array_shape(), &self.values))?)
    }
}

fn write_images(folder: &Path, samples: &Samples) -> Result<(), RenderError> {
    let channels = samples.shape[0];
    for (k, image) in tiles(&samples.values, &samples.shape)?.iter().enumerate() {
        write_png(&folder.join(format!("{k:04}.png")), image, channels)?;
    }
    write_overview(&folder.join("grid.png"), samples, None)?;

    if samples.frames.is_empty() {
        return Ok(());
    }
    let frames =
        samples.frames.iter().map(|frame| tiles(&frame.values, &samples.shape)).collect::<Result<Vec<_>, _>>()?;
    let animated = frames[0].len();
    let animated_columns = columns(samples, animated);
    let grids = frames.iter().map(|frame| grid(frame, animated_columns)).collect();
    write_gif(&folder.join("denoising.gif"), grids)?;

    let columns = frames.len().min(STRIP_COLUMNS);
    let at = |column: usize| &frames[column * (frames.len() - 1) / (columns - 1).max(1)];
    let strip: Vec<RgbImage> =
        (0..animated.min(STRIP_ROWS)).flat_map(|row| (0..columns).map(move |column| at(column)[row].clone())).collect();
    write_png(&folder.join("denoising.png"), &grid(&strip, columns), channels)
}

fn write_points(folder: &Path, samples: &Samples, data: Option<&[f32]>) -> Result<(), RenderError> {
    let points = pairs(&samples.values);
    write_csv(&folder.join("samples.csv"), &points, &samples.labels)?;
    write_overview(&folder.join("scatter.png"), samples, data)?;

    if samples.frames.is_empty() {
        return Ok(());
    }
    // The same axes in all frames, for the samples and most of the noise: its tails would make everything else small.
    let shadow = data.map(pairs).unwrap_or_default();
    let bulk = scatter::without_tails(&pairs(&samples.frames[0].values));
    let window = scatter::Window::around(&[&shadow[..], &points[..], &bulk[..]].concat());
    let plots = samples.frames.iter().map(|frame| scatter::frame(&pairs(&frame.values), &shadow, window)).collect();
    write_gif(&folder.join("denoising.gif"), plots)
}

/// The classes of the rows or the columns of the grid, if each is of one class; `names` are those of the classes.
pub fn legend(samples: &Samples, names: &[String]) -> Option<String> {
    let labels = samples.labels[..shown(samples)].iter().copied().collect::<Option<Vec<usize>>>()?;
    if samples.shape.len() != 3 || labels.iter().all(|class| *class == labels[0]) {
        return None;
    }
    let columns = columns(samples, labels.len());
    let rows: Vec<&[usize]> = labels.chunks(columns).collect();
    let list = |classes: Vec<usize>| {
        let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
        classes.into_iter().map(name).collect::<Vec<_>>().join(", ")
    };
    if rows.iter().all(|row| row.iter().all(|class| *class == row[0])) {
        return Some(format!("rows: {}", list(rows.iter().map(|row| row[0]).collect())));
    }
    let same = |row: &&[usize]| row.iter().zip(rows[0]).all(|(class, first)| class == first);
    rows.iter().all(same).then(|| format!("columns: {}", list(rows[0].to_vec())))
}

/// Number of images in the grid.
fn shown(samples: &Samples) -> usize {
    samples.labels.len().min(grid_limit(&samples.shape))
}

/// Number of images of a shape in a grid at most.
fn grid_limit(shape: &[usize]) -> usize {
    let pixels: usize = shape.iter().skip(1).product();
    (GRID_PIXELS / pixels.max(1)).clamp(1, GRID_LIMIT)
}

/// Columns of a grid of the first `shown` samples: those of [`Samples::row`], or else a nearly square grid.
fn columns(samples: &Samples, shown: usize) -> usize {
    samples.row.unwrap_or_else(|| columns_of(&samples.labels[..shown]))
}

/// Columns of a nearly square grid. Where the classes take turns, every column is of one class.
fn columns_of(labels: &[Option<usize>]) -> usize {
    let square = square_columns(labels.len());
    let Some(period) = labels.iter().skip(1).position(|label| *label == labels[0]).map(|k| k + 1) else {
        return square;
    };
    let take_turns = period > 1 && labels.iter().zip(&labels[period..]).all(|(a, b)| a == b);
    if take_turns { period * (square / period).max(1) } else { square }
}

/// Values in [-1, 1] as images.
fn tiles(values: &[f32], shape: &[usize]) -> Result<Vec<RgbImage>, RenderError> {
    let [channels @ (1 | 3), height, width] = shape[..] else {
        return Err(RenderError::Shape { shape: shape.to_vec() });
    };
    let plane = height * width;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    let tile = |image: &[f32]| {
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let pixel = y as usize * width + x as usize;
            // A grayscale image has one plane for all three channels.
            Rgb([0, 1, 2].map(|channel| byte(image[channel % channels * plane + pixel])))
        })
    };
    Ok(values.chunks_exact(channels * plane).map(tile).collect())
}

fn pairs(values: &[f32]) -> Vec<[f32; 2]> {
    values.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect()
}

fn write_csv(path: &Path, points: &[[f32; 2]], labels: &[Option<usize>]) -> Result<(), RenderError> {
    let failed = |error| RenderError::Table { path: path.to_path_buf(), error };
    let labelled = labels.iter().any(Option::is_some);
    let mut table = csv::Writer::from_writer(Vec::new());
    let header: &[&str] = if labelled { &["x", "y", "class"] } else { &["x", "y"] };
    table.write_record(header).map_err(failed)?;
    for ([x, y], label) in points.iter().zip(labels) {
        let mut record = vec![x.to_string(), y.to_string()];
        if labelled {
            record.push(label.map(|class| class.to_string()).unwrap_or_default());
        }
        table.write_record(record).map_err(failed)?;
    }
    let bytes = table.into_inner().map_err(|error| failed(error.into_error().into()))?;
    Ok(atomic::write_derived(path, bytes)?)
}

/// Writes an image, in grayscale for samples of one channel.
fn write_png(path: &Path, image: &RgbImage, channels: usize) -> Result<(), RenderError> {
    let image = DynamicImage::from(image.clone());
    let image = if channels == 1 { DynamicImage::from(image.into_luma8()) } else { image };
    let mut bytes = io::Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| RenderError::Encode { path: path.to_path_buf(), error })?;
    Ok(atomic::write_derived(path, bytes.into_inner())?)
}

fn write_gif(path: &Path, frames: Vec<RgbImage>) -> Result<(), RenderError> {
    let bytes = gif(frames).map_err(|error| RenderError::Encode { path: path.to_path_buf(), error })?;
    Ok(atomic::write_derived(path, bytes)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn images(labels: &[Option<usize>], shape: [usize; 3]) -> Samples {
        let per_image: usize = shape.iter().product();
        let values: Vec<f32> = (0..labels.len() * per_image).map(|i| (i as f32 * 0.1).sin()).collect();
        let frames =
            vec![Frame { steps_done: 0, values: values.clone() }, Frame { steps_done: 9, values: values.clone() }];
        Samples { values, shape: shape.to_vec(), labels: labels.to_vec(), frames, ..Samples::default() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn images_become_these_files_and_keep_their_channels() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &images(&[None; 3], [1, 4, 6]), None).unwrap();
        assert_eq!(
            names(folder.path()),
            ["0000.png", "0001.png", "0002.png", "denoising.gif", "denoising.png", "grid.png", "samples.npy"]
        );
        let image = image::open(folder.path().join("0001.png")).unwrap();
        assert_eq!((image.width(), image.height(), image.color()), (6, 4, image::ColorType::L8));
        let value = (24.0_f32 * 0.1).sin();
        assert_eq!(image.into_luma8().get_pixel(0, 0).0, [((value + 1.0) * 127.5).round() as u8]);

        write(folder.path(), &images(&[None; 2], [3, 4, 4]), None).unwrap();
        let image = image::open(folder.path().join("0000.png")).unwrap();
        assert_eq!(image.color(), image::ColorType::Rgb8);
    }

    #[test]
    fn points_become_these_files() {
        let folder = tempfile::tempdir().unwrap();
        let samples = Samples {
            values: vec![0.5, -1.25, 3.0, 4.0],
            shape: vec![2],
            labels: vec![Some(1), Some(0)],
            ..Samples::default()
        };
        write(folder.path(), &samples, Some(&[0.0, 0.0, 1.0, 1.0])).unwrap();
        assert_eq!(names(folder.path()), ["samples.csv", "samples.npy", "scatter.png"]);
        let table = std::fs::read_to_string(folder.path().join("samples.csv")).unwrap();
        assert_eq!(table, "x,y,class\n0.5,-1.25,1\n3,4,0\n");
    }

    #[test]
    fn classes_that_take_turns_are_columns() {
        let turns: Vec<Option<usize>> = (0..40).map(|k| Some(k % 10)).collect();
        assert_eq!(columns_of(&turns), 10);
        assert_eq!(columns_of(&[Some(3); 40]), 7);
        assert_eq!(columns_of(&[None; 40]), 7);
        assert_eq!(columns_of(&turns[..7]), 3);
    }

    #[test]
    fn rows_or_columns_of_one_class_have_its_name() {
        let names = ["cat".to_string(), "dog".into()];
        let legend = |labels: &[Option<usize>], row| {
            legend(&Samples { row, ..images(labels, [1, 2, 2]) }, &names).unwrap_or_default()
        };
        let turns = [Some(0), Some(1), Some(0), Some(1)];
        assert_eq!(legend(&turns, None), "columns: cat, dog");
        assert_eq!(legend(&turns[..3], None), "columns: cat, dog");
        assert_eq!(legend(&[Some(0), Some(0), Some(1), Some(1), Some(2)], Some(2)), "rows: cat, dog, 2");
        assert_eq!(legend(&[Some(0), Some(1), Some(1), Some(0)], Some(2)), "");
        assert_eq!([legend(&[None; 4], None), legend(&[Some(1); 4], None), legend(&[], None)], [""; 3]);
    }

    #[test]
    fn large_images_make_no_larger_grids() {
        assert_eq!(
            [[1, 8, 8], [3, 256, 256], [3, 1024, 1024], [3, 100_000, 100_000]].map(|s| grid_limit(&s)),
            [1024, 1024, 64, 1]
        );
    }

    #[test]
    fn samples_that_cannot_be_drawn_still_have_their_array() {
        let folder = tempfile::tempdir().unwrap();
        let message = write(folder.path(), &images(&[None], [4, 2, 2]), None).unwrap_err().to_string();
        assert!(message.contains("[4, 2, 2]"), "{message}");
        assert_eq!(names(folder.path()), ["samples.npy"]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message = write(&file.join("deep"), &images(&[None], [1, 2, 2]), None).unwrap_err().to_string();
        assert!(message.contains("deep"), "{message}");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_named_and_nothing_half_written_is_left() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("0001.png")).unwrap();
        let message = write(folder.path(), &images(&[None; 2], [1, 2, 2]), None).unwrap_err().to_string();
        assert!(message.contains("0001.png: is a directory"), "{message}");
        assert_eq!(names(folder.path()), ["0000.png", "0001.png", "samples.npy"]);
    }
}
