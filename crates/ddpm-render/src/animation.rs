//! Animated GIFs.

use std::time::Duration;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, DynamicImage, Frame, ImageResult, RgbImage};

const FRAME: Duration = Duration::from_millis(80);
/// The last frame stays longer, so that the result can be seen.
const LAST_FRAME: Duration = Duration::from_millis(2500);

/// Ends a GIF.
const TRAILER: u8 = 0x3b;

/// The bytes of a GIF that repeats the frames.
pub(super) fn gif(frames: Vec<RgbImage>) -> ImageResult<Vec<u8>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    in_parts(frames, threads)
}

/// As [`gif`], in so many parts: a thread each makes a GIF of some of the frames, and what these have between their
/// headers and their trailers follows one another.
fn in_parts(frames: Vec<RgbImage>, parts: usize) -> ImageResult<Vec<u8>> {
    let last = frames.len().saturating_sub(1);
    let mut timed =
        frames.into_iter().enumerate().map(|(i, frame)| (frame, if i == last { LAST_FRAME } else { FRAME }));
    let length = (last + 1).div_ceil(parts);
    let parts: Vec<Vec<_>> = std::iter::from_fn(|| Some(timed.by_ref().take(length).collect()))
        .take_while(|part: &Vec<_>| !part.is_empty())
        .collect();
    let encoded: Vec<ImageResult<Vec<u8>>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            parts.into_iter().enumerate().map(|(i, part)| scope.spawn(move || encoded(part, i == 0))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut bytes = Vec::new();
    for part in encoded {
        let part = part?;
        let first = if bytes.is_empty() { 0 } else { header_length(&part) };
        bytes.pop_if(|end| *end == TRAILER);
        bytes.extend_from_slice(&part[first..]);
    }
    Ok(bytes)
}

/// A GIF of these frames, each with the time that it is shown.
fn encoded(frames: Vec<(RgbImage, Duration)>, repeats: bool) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    // At 10 the palette looks the same as the best one, in a tenth of the time.
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
    if repeats {
        encoder.set_repeat(Repeat::Infinite)?;
    }
    for (frame, shown) in frames {
        let delay = Delay::from_saturating_duration(shown);
        encoder.encode_frame(Frame::from_parts(DynamicImage::from(frame).into_rgba8(), 0, 0, delay))?;
    }
    drop(encoder);
    Ok(bytes)
}

/// Bytes in front of the first frame of a GIF that does not repeat: signature, size of the screen, colors of all frames.
fn header_length(gif: &[u8]) -> usize {
    let flags = gif[10];
    13 + if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use image::codecs::gif::GifDecoder;
    use image::{AnimationDecoder, Rgb};

    #[test]
    fn frames_come_back_in_order_and_the_last_one_stays() {
        let colors = [0, 128, 255].map(|value| RgbImage::from_pixel(5, 4, Rgb([value, 0, 0])));
        let bytes = gif(colors.to_vec()).unwrap();
        let frames = GifDecoder::new(std::io::Cursor::new(bytes)).unwrap().into_frames().collect_frames().unwrap();
        let seen: Vec<(u8, u32)> =
            frames.iter().map(|frame| (frame.buffer()[(2, 2)].0[0], frame.delay().numer_denom_ms().0)).collect();
        assert_eq!(seen, [(0, 80), (128, 80), (255, 2500)]);
    }

    #[test]
    fn parts_make_the_same_file_as_the_whole() {
        let frame = |n: u32| RgbImage::from_fn(9, 7, |x, y| Rgb([(x * 20 + n) as u8, (y * 30) as u8, (n * 7) as u8]));
        let frames: Vec<_> = (0..5).map(frame).collect();
        let whole = in_parts(frames.clone(), 1).unwrap();
        for parts in [2, 3, 5, 8] {
            assert_eq!(in_parts(frames.clone(), parts).unwrap(), whole, "{parts} parts");
        }
        assert!(in_parts(Vec::new(), 2).unwrap().is_empty());
    }
}
