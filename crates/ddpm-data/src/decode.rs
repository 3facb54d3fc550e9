//! From the bytes of a picture file to pixels, without trust in what its header claims.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::config::ImageChannels;

/// What any picture may take while it is decoded, and what none may.
const ALWAYS_ALLOWED: u64 = 32 << 20;
const NEVER_ALLOWED: u64 = 512 << 20;

/// Pixels that a byte of a file can stand for: as many as deflate can pack into one.
const MOST_PER_BYTE: u64 = 1032;

/// Pixels of a scaled picture before it is cut; only those that are very long and thin come near.
const MOST_SCALED: u64 = 1 << 24;

/// A picture stands near the front.
const MOST_WEBP_CHUNKS: usize = 64;

/// Reads the header of a file of `len` bytes.
pub(crate) fn check_header(file: impl BufRead + Seek + 'static, len: u64) -> Result<(), String> {
    decoder(file, len).map(|_| ())
}

/// Reads the picture in a file of `len` bytes.
pub(crate) fn decode(mut file: impl BufRead + Seek + 'static, len: u64) -> Result<DynamicImage, String> {
    if breaks_off(&mut file).map_err(|error| error.to_string())? {
        return Err("the file ends before the end of its image".into());
    }
    let mut decoder = decoder(file, len)?;
    // Cameras save pictures lying on their side with a note which way is up.
    let orientation = decoder.orientation().map_err(|error| error.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// The format is told by the content; the name of a file promises nothing.
fn decoder<R: BufRead + Seek + 'static>(mut file: R, len: u64) -> Result<impl ImageDecoder + use<R>, String> {
    if len == 0 {
        return Err("the file is empty".into());
    }
    file.rewind().map_err(|error| error.to_string())?;
    check_webp(&mut file)?;
    file.rewind().map_err(|error| error.to_string())?;
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp | ImageFormat::Tiff) => {}
        Some(other) => return Err(format!("a {other:?} file; expected png, jpeg, webp, bmp or tiff")),
        None => return Err("not an image; expected png, jpeg, webp, bmp or tiff".into()),
    }
    let most = len.saturating_mul(MOST_PER_BYTE).clamp(ALWAYS_ALLOWED, NEVER_ALLOWED);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || decoder.total_bytes() > most {
        let most = most >> 20;
        return Err(format!(
            "{width}x{height} pixels; expected some, and at most {most} MiB of them from a file of {len} bytes"
        ));
    }
    Ok(decoder)
}

/// Whether a JPEG ends before its marker of the end: the decoder makes the rest grey without a word. The other formats
/// are refused by theirs.
fn breaks_off(file: &mut impl BufRead) -> io::Result<bool> {
    if !file.fill_buf()?.starts_with(&[0xff, 0xd8, 0xff]) {
        return Ok(false);
    }
    loop {
        // A marker is a byte 0xff, any number of times, and one that says which.
        file.skip_until(0xff)?;
        let mut kind = [0xff];
        while kind == [0xff] {
            if file.read(&mut kind)? == 0 {
                return Ok(true);
            }
        }
        match kind[0] {
            0xd9 => return Ok(false),
            // A byte 0xff of the picture itself, restarts, and the marker of the beginning: nothing follows.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            // The others have a length, which counts itself. What they hold may be a picture with an end of its own.
            _ => {
                let mut len = [0; 2];
                match file.read_exact(&mut len) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
                    read => read?,
                }
                let rest = u64::from(u16::from_be_bytes(len)).saturating_sub(2);
                io::copy(&mut file.by_ref().take(rest), &mut io::sink())?;
            }
        }
    }
}

/// The lossy picture inside a WebP has a size of its own, for which memory is taken before it is compared with that of
/// the whole. So it is compared here; an animation has many of them.
fn check_webp(file: &mut (impl BufRead + Seek)) -> Result<(), String> {
    let mut start = [0; 12];
    if file.read_exact(&mut start).is_err() || &start[..4] != b"RIFF" || &start[8..] != b"WEBP" {
        return Ok(());
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |number, &byte| number << 8 | u32::from(byte));
    let mut whole = None;
    for _ in 0..MOST_WEBP_CHUNKS {
        let (mut head, mut fields) = ([0; 8], [0; 10]);
        // A file that ends here is the decoder's matter.
        if file.read_exact(&mut head).is_err() {
            return Ok(());
        }
        let (kind, len) = (&head[..4], number(&head[4..]));
        let mut next = i64::from(len) + i64::from(len % 2);
        if matches!(kind, b"VP8X" | b"VP8 ") {
            if file.read_exact(&mut fields).is_err() {
                return Ok(());
            }
            next -= 10;
        }
        match (kind, whole) {
            (b"VP8X", _) => whole = Some([number(&fields[4..7]) + 1, number(&fields[7..]) + 1]),
            (b"VP8 ", Some(whole)) => {
                let own = [number(&fields[6..8]) & 0x3fff, number(&fields[8..]) & 0x3fff];
                let [[w, h], [own_w, own_h]] = [whole, own];
                return match own == whole {
                    true => Ok(()),
                    false => Err(format!("an image of {own_w}x{own_h} pixels in a file of {w}x{h}")),
                };
            }
            (b"VP8 " | b"VP8L", _) => return Ok(()),
            (b"ANIM" | b"ANMF", _) => return Err("an animation; expected one image".into()),
            _ => {}
        }
        file.seek(SeekFrom::Current(next)).map_err(|error| error.to_string())?;
    }
    Err(format!("no image in its first {MOST_WEBP_CHUNKS} parts"))
}

/// A picture as bytes, channel by channel, scaled until it covers this width and height and cut to them.
pub(crate) fn pixels(image: &DynamicImage, channels: ImageChannels, [width, height]: [u32; 2]) -> Vec<u8> {
    let image = DynamicImage::from(over_white(image));
    let image = match (image.width(), image.height()) {
        size if size == (width, height) => image,
        _ => without_ends(image, [width, height]).resize_to_fill(width, height, FilterType::Lanczos3),
    };
    match channels {
        ImageChannels::Grayscale => image.to_luma8().into_raw(),
        ImageChannels::Rgb => {
            let rgb = image.to_rgb8();
            (0..3).flat_map(|channel| rgb.iter().skip(channel).step_by(3)).copied().collect()
        }
    }
}

/// Cuts the ends off a picture so long and thin that it would take all memory when it is scaled to cover these sides.
/// They would be cut off afterwards anyway.
fn without_ends(image: DynamicImage, [width, height]: [u32; 2]) -> DynamicImage {
    let [width, height] = [width, height].map(u64::from);
    let times = (MOST_SCALED / (width * height)).max(1);
    let [own_width, own_height] = [image.width(), image.height()].map(u64::from);
    let least = |own: u64, other: u64, side: u64, other_side: u64| own.min((other * side * times).div_ceil(other_side));
    let kept_width = least(own_width, own_height, width, height);
    let kept_height = least(own_height, own_width, height, width);
    if [kept_width, kept_height] == [own_width, own_height] {
        return image;
    }
    let [x, y] = [(own_width - kept_width) / 2, (own_height - kept_height) / 2];
    // None is larger than a side of the picture.
    let [x, y, kept_width, kept_height] = [x, y, kept_width, kept_height].map(|pixels| pixels as u32);
    image.crop_imm(x, y, kept_width, kept_height)
}

/// Transparent parts become white: what lies hidden under them is arbitrary.
pub(crate) fn over_white(image: &DynamicImage) -> image::RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let rgba = image.to_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0;
        let alpha = u32::from(alpha);
        let blend = |byte: u8| ((u32::from(byte) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        image::Rgb([blend(r), blend(g), blend(b)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_thin_pictures_are_cut_before_they_are_scaled() {
        // A grey rise from end to end, a pixel wide: scaled to cover the square it would have a billion pixels.
        let line = image::GrayImage::from_fn(1, 60_000, |_, y| image::Luma([(y / 240) as u8]));
        let across = DynamicImage::from(image::imageops::rotate270(&line));
        for image in [DynamicImage::from(line), across] {
            let pixels = pixels(&image, ImageChannels::Grayscale, [128; 2]);
            assert_eq!(pixels.len(), 128 * 128);
            // Of the middle.
            assert!(pixels.iter().all(|pixel| (124..=126).contains(pixel)), "{:?}", &pixels[..8]);
        }
        let usual = DynamicImage::from(image::GrayImage::new(400, 30));
        assert_eq!(without_ends(usual, [64; 2]).width(), 400);
    }
}
