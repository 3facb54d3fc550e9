//! Images of 8 bits, as in a file.

use std::path::{Path, PathBuf};

use super::EvaluationError;

/// Extensions of image files.
const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];

/// Files of `sample` that are no samples.
const OVERVIEWS: [&str; 4] = ["grid.png", "comparison.png", "denoising.png", "denoising.gif"];
/// The first sample in such a folder.
const FIRST_SAMPLE: &str = "0000.png";

/// One image, channel by channel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// 1 for gray, 3 for color.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Its values.
    pub bytes: Vec<u8>,
}

impl Image {
    /// From values in [-1, 1], rounded as for image files.
    pub fn from_values(shape: [usize; 3], values: &[f32]) -> Self {
        let [channels, height, width] = shape;
        let byte = |value: &f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        Self { channels, height, width, bytes: values.iter().map(byte).collect() }
    }

    /// Reads a file as RGB, without transparency, and ignores the EXIF orientation, like Pillow's `convert("RGB")` in
    /// other evaluation tools.
    pub fn read(path: &Path) -> Result<Self, EvaluationError> {
        let not = |error: image::ImageError| EvaluationError::format(path, format!("not a readable image: {error}"));
        let rgb = image::open(path).map_err(not)?.to_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        let bytes = (0..3).flat_map(|channel| rgb.iter().skip(channel).step_by(3).copied()).collect();
        Ok(Self { channels: 3, height, width, bytes })
    }

    /// Channels, height and width.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Values in [-1, 1].
    pub fn values(&self) -> Vec<f32> {
        self.bytes.iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect()
    }

    /// One of the three color channels, which are equal for grayscale images.
    pub fn plane(&self, color: usize) -> &[u8] {
        let size = self.height * self.width;
        let start = color.min(self.channels - 1) * size;
        &self.bytes[start..start + size]
    }

    /// As grayscale, if the channels of every pixel are equal.
    pub fn gray(&self) -> Option<Self> {
        let same = (1..self.channels).all(|color| self.plane(color) == self.plane(0));
        same.then(|| Self { channels: 1, bytes: self.plane(0).to_vec(), ..*self })
    }
}

/// The images below a folder, sorted by path; in a folder of `sample` only the samples.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, EvaluationError> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let has_samples = folder.join(FIRST_SAMPLE).is_file();
        for entry in std::fs::read_dir(&folder).map_err(EvaluationError::io(&folder))? {
            let path = entry.map_err(EvaluationError::io(&folder))?.path();
            let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if path.is_dir() {
                open.push(path);
            } else if EXTENSIONS.contains(&extension.as_str()) {
                let is_overview = path.file_name().is_some_and(|name| OVERVIEWS.iter().any(|other| name == *other));
                if !(has_samples && is_overview) {
                    found.push(path);
                }
            }
        }
    }
    if found.is_empty() {
        return Err(EvaluationError::format(folder, format!("no images in it; expected {}", EXTENSIONS.join(", "))));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let image = image::RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, 10 * y as u8, 200]));
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["b.png", "sub/a.png"] {
            image.save(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("note.txt"), "").unwrap();
        let files = files(folder.path()).unwrap();
        assert_eq!(files.len(), 2);
        let read = Image::read(&files[0]).unwrap();
        assert_eq!(
            (read.shape(), read.plane(1), read.plane(2)),
            ([3, 2, 3], &[0, 0, 0, 10, 10, 10][..], &[200; 6][..])
        );
        assert!(read.gray().is_none());
        // An image of that name counts until there are samples.
        let names = |expected: usize| assert_eq!(super::files(folder.path()).unwrap().len(), expected);
        image.save(folder.path().join("grid.png")).unwrap();
        names(3);
        image.save(folder.path().join("0000.png")).unwrap();
        names(3);
        let gray = Image { channels: 3, height: 1, width: 2, bytes: vec![7, 9, 7, 9, 7, 9] };
        assert_eq!(gray.gray().unwrap().bytes, [7, 9]);
    }

    #[test]
    fn bytes_and_values_lead_to_each_other() {
        let bytes: Vec<u8> = (0..=255).collect();
        let image = Image { channels: 1, height: 16, width: 16, bytes };
        assert_eq!(Image::from_values(image.shape(), &image.values()), image);
        let message = files(Path::new("no/where")).unwrap_err().to_string();
        assert!(message.contains("no/where"), "{message}");
    }
}
