//! Pictures that a person hands over: one file, or all files of a folder, in the shape of a network.

use std::path::Path;

use image::DynamicImage;

use crate::config::ImageChannels;
use crate::decode::{over_white, pixels};
use crate::error::DataError;
use crate::file_list::FileList;
use crate::image_folder::{EXPECTED, decode_file};
use crate::pixels::values_of_bytes;

/// What becomes of a picture that has another size, or colours where the network has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is refused.
    Refused,
    /// It is scaled and cut, and loses its colours.
    Converted,
}

/// The pictures at `path`, in the order of their names, each as values in [-1, 1] of this `[C, H, W]`.
pub fn read_pictures(path: &Path, shape: &[usize], fit: Fit) -> Result<Vec<Vec<f32>>, DataError> {
    if path.is_dir() {
        let files = FileList::find(path, EXPECTED)?;
        return (0..files.len()).map(|file| read_picture(&path.join(files.path(file)), shape, fit)).collect();
    }
    if !path.exists() {
        let expected = "an image, or a folder of images".into();
        return Err(DataError::NotFound { path: path.to_path_buf(), expected });
    }
    Ok(vec![read_picture(path, shape, fit)?])
}

fn read_picture(path: &Path, shape: &[usize], fit: Fit) -> Result<Vec<f32>, DataError> {
    let refuse = |reason: String| DataError::format(path, reason);
    let (channels, height, width) = match *shape {
        [1, height, width] => (ImageChannels::Grayscale, height, width),
        [3, height, width] => (ImageChannels::Rgb, height, width),
        _ => return Err(refuse(format!("an image cannot have the shape {shape:?}; expected [1, H, W] or [3, H, W]"))),
    };
    let image = decode_file(path).map_err(refuse)?;
    let size = [width as u32, height as u32];
    if fit == Fit::Refused {
        let found = [image.width(), image.height()];
        if found != size {
            return Err(refuse(format!("{}x{} pixels; expected {width}x{height}", found[0], found[1])));
        }
        if channels == ImageChannels::Grayscale && has_colours(&image) {
            return Err(refuse("has colours; expected shades of grey".into()));
        }
    }
    Ok(values_of_bytes(&pixels(&image, channels, size)))
}

/// Whether any pixel is not grey, however the file stores them.
fn has_colours(image: &DynamicImage) -> bool {
    image.color().has_color() && over_white(image).pixels().any(|pixel| pixel.0 != [pixel.0[0]; 3])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgb, RgbImage};

    #[test]
    fn files_and_folders_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (name, byte) in [("b.png", 255), ("a.png", 0)] {
            GrayImage::from_pixel(3, 2, Luma([byte])).save(folder.path().join(name)).unwrap();
        }
        // Grey by its pixels is grey enough.
        RgbImage::from_pixel(3, 2, Rgb([255; 3])).save(folder.path().join("c.png")).unwrap();
        let read = |shape: &[usize]| read_pictures(folder.path(), shape, Fit::Refused).unwrap();
        assert_eq!(read(&[1, 2, 3]), [vec![-1.0; 6], vec![1.0; 6], vec![1.0; 6]]);
        assert_eq!(read(&[3, 2, 3])[0], vec![-1.0; 18]);
        let one = read_pictures(&folder.path().join("b.png"), &[1, 2, 3], Fit::Refused).unwrap();
        assert_eq!(one, [vec![1.0; 6]]);
    }

    #[test]
    fn what_does_not_fit_is_refused_or_converted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("red.png");
        RgbImage::from_pixel(4, 2, Rgb([255, 0, 0])).save(&path).unwrap();
        let refuse = |path: &Path, shape: &[usize], parts: &[&str]| {
            let message = read_pictures(path, shape, Fit::Refused).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        refuse(&path, &[3, 2, 2], &["red.png", "4x2", "2x2"]);
        refuse(&path, &[1, 2, 4], &["red.png", "colours"]);
        refuse(&path, &[4, 2, 4], &["[4, 2, 4]"]);
        refuse(&folder.path().join("none.png"), &[1, 2, 4], &["none.png", "not found", "an image"]);
        std::fs::write(folder.path().join("text.png"), "I am no picture").unwrap();
        refuse(&folder.path().join("text.png"), &[1, 2, 4], &["text.png", "not an image"]);

        let read = |shape: &[usize]| read_pictures(&path, shape, Fit::Converted).unwrap();
        assert_eq!(read(&[3, 2, 2])[0], [[1.0; 4], [-1.0; 4], [-1.0; 4]].concat());
        assert_eq!(read(&[1, 8, 8])[0].len(), 64);
    }
}
