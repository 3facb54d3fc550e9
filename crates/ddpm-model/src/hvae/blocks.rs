//! The strings in which VDVAE describes its encoder, its decoder and its widths.

use std::collections::BTreeMap;

/// More would be a mistake; it bounds the memory that a string can ask for.
const MOST_BLOCKS: usize = 4096;

/// A block of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderBlock {
    /// Height and width where it works.
    pub resolution: usize,
    /// The factor of the average pooling after it.
    pub pool: Option<usize>,
}

/// A block of the decoder, with a latent of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderBlock {
    /// Height and width where it works.
    pub resolution: usize,
    /// The resolution whose state, upsampled, is added first.
    pub mixin: Option<usize>,
}

/// `"32x11,32d2,16"`: eleven blocks at 32, one at 32 followed by pooling to 16, one at 16.
pub fn parse_encoder(text: &str) -> Result<Vec<EncoderBlock>, String> {
    let mut blocks = Vec::new();
    for part in parts(text)? {
        let plain = |resolution| EncoderBlock { resolution, pool: None };
        match part.split_once('d') {
            Some((resolution, pool)) => {
                let pool = Some(number(pool, part, ENCODER)?);
                blocks.push(EncoderBlock { resolution: number(resolution, part, ENCODER)?, pool });
            }
            None => repeat(&mut blocks, part, ENCODER, plain)?,
        }
    }
    Ok(blocks)
}

/// `"1x1,4m1,4x2"`: one block at 1, one at 4 that first adds the upsampled state of 1, two at 4.
pub fn parse_decoder(text: &str) -> Result<Vec<DecoderBlock>, String> {
    let mut blocks = Vec::new();
    for part in parts(text)? {
        let plain = |resolution| DecoderBlock { resolution, mixin: None };
        match part.split_once('m') {
            Some((resolution, mixin)) => {
                let mixin = Some(number(mixin, part, DECODER)?);
                blocks.push(DecoderBlock { resolution: number(resolution, part, DECODER)?, mixin });
            }
            None => repeat(&mut blocks, part, DECODER, plain)?,
        }
    }
    Ok(blocks)
}

/// `"1:64,4:32"`: 64 channels at resolution 1 and 32 at 4; empty: none.
pub fn parse_widths(text: &str) -> Result<BTreeMap<usize, usize>, String> {
    const EXPECTED: &str = "resolution:width, such as 4:128";
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut widths = BTreeMap::new();
    for part in parts(text)? {
        let (resolution, width) =
            part.split_once(':').ok_or_else(|| format!("{part:?} is not of the form {EXPECTED}"))?;
        let [resolution, width] = [number(resolution, part, EXPECTED)?, number(width, part, EXPECTED)?];
        if widths.insert(resolution, width).is_some() {
            return Err(format!("resolution {resolution} has two widths"));
        }
    }
    Ok(widths)
}

const ENCODER: &str = "32x11 (blocks), 32d2 (a block and pooling) or 32 (one block)";
const DECODER: &str = "4x2 (blocks), 4m1 (a block that adds the state of resolution 1) or 4 (one block)";

fn parts(text: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    match parts.iter().any(|part| part.is_empty()) {
        true => Err(format!("{text:?} has an empty part")),
        false => Ok(parts),
    }
}

fn repeat<T>(blocks: &mut Vec<T>, part: &str, expected: &str, block: impl Fn(usize) -> T) -> Result<(), String> {
    let (resolution, count) = part.split_once('x').unwrap_or((part, "1"));
    let [resolution, count] = [number(resolution, part, expected)?, number(count, part, expected)?];
    if blocks.len() + count > MOST_BLOCKS {
        return Err(format!("{part:?} makes more than {MOST_BLOCKS} blocks"));
    }
    blocks.extend((0..count).map(|_| block(resolution)));
    Ok(())
}

fn number(text: &str, part: &str, expected: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if number > 0 => Ok(number),
        Ok(_) => Err(format!("{part:?} has a 0, expected {expected}")),
        Err(_) => Err(format!("{part:?} is not of the form {expected}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_vdvae_are_read() {
        let encoder = parse_encoder("32x2, 32d2,16").unwrap();
        let block = |resolution, pool| EncoderBlock { resolution, pool };
        assert_eq!(encoder, [block(32, None), block(32, None), block(32, Some(2)), block(16, None)]);
        let decoder = parse_decoder("1x1,4m1,4x2").unwrap();
        let block = |resolution, mixin| DecoderBlock { resolution, mixin };
        assert_eq!(decoder, [block(1, None), block(4, Some(1)), block(4, None), block(4, None)]);
        assert_eq!(parse_widths("1:64,4:32").unwrap(), BTreeMap::from([(1, 64), (4, 32)]));
        assert!(parse_widths("").unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_part_and_what_was_expected() {
        for (found, parts) in [
            (parse_encoder("32x2,,8").unwrap_err(), ["32x2,,8", "empty part"]),
            (parse_encoder("32m2").unwrap_err(), ["32m2", "32d2"]),
            (parse_encoder("32x0").unwrap_err(), ["32x0", "has a 0"]),
            (parse_encoder("8x99999999").unwrap_err(), ["8x99999999", "4096"]),
            (parse_decoder("4d2").unwrap_err(), ["4d2", "4m1"]),
            (parse_widths("4").unwrap_err(), ["\"4\"", "4:128"]),
            (parse_widths("4:1,4:2").unwrap_err(), ["resolution 4", "two widths"]),
        ] {
            assert!(parts.iter().all(|part| found.contains(part)), "{found}");
        }
    }
}
