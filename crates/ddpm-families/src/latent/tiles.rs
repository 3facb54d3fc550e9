//! Large images in tiles, so that the memory of the first stage is that of one tile. The tiles overlap by a quarter, and are
//! blended there; edges, overlap and blending are those of diffusers' `enable_vae_tiling`.

use burn::tensor::{Tensor, TensorData};

/// Tiles of images, and of their latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The side of a tile of an image.
    pixels: usize,
    /// The side of a tile of latents.
    latents: usize,
}

impl Tiles {
    /// The side of a tile unless it is chosen, in pixels.
    pub const USUAL: usize = 512;

    /// Tiles of so many pixels along each side, for a first stage that makes one latent pixel of `factor` pixels along each
    /// side; nothing where a quarter of a tile is no whole number of latent pixels.
    pub fn new(pixels: usize, factor: usize) -> Option<Self> {
        let fits = pixels > 0 && pixels.is_multiple_of(4 * factor);
        fits.then(|| Self { pixels, latents: pixels / factor })
    }

    /// Latents `[B, L, h, w]` to images by `decode`, which gets one tile at a time.
    pub fn decode(self, latents: Tensor<4>, decode: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        blended(latents, self.latents, self.pixels, decode)
    }

    /// Images `[B, C, H, W]` to latents by `encode`, which gets one tile at a time.
    pub fn encode(self, images: Tensor<4>, encode: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        blended(images, self.pixels, self.latents, encode)
    }
}

/// What `f` makes of the tiles of x, whose side is `side` before and `made` after it.
fn blended(x: Tensor<4>, side: usize, made: usize, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if height <= side && width <= side {
        return f(x);
    }
    let (stride, overlap) = (side - side / 4, made / 4);
    let mut rows = Vec::new();
    let mut above: Vec<Tensor<4>> = Vec::new();
    for top in (0..height).step_by(stride) {
        let mut row: Vec<Tensor<4>> = Vec::new();
        for left in (0..width).step_by(stride) {
            let part = x.clone().narrow(2, top, side.min(height - top)).narrow(3, left, side.min(width - left));
            let mut tile = f(part);
            if let Some(above) = above.get(row.len()) {
                tile = blend(above, tile, 2, overlap);
            }
            if let Some(before) = row.last() {
                tile = blend(before, tile, 3, overlap);
            }
            row.push(tile);
        }
        let shown = row.iter().map(|tile| start_of(start_of(tile.clone(), 2, made - overlap), 3, made - overlap));
        rows.push(Tensor::cat(shown.collect(), 3));
        above = row;
    }
    Tensor::cat(rows, 2)
}

/// The start of a tile along a dimension, at most `length`.
fn start_of(tile: Tensor<4>, dimension: usize, length: usize) -> Tensor<4> {
    let length = length.min(tile.dims()[dimension]);
    tile.narrow(dimension, 0, length)
}

/// A tile whose start goes over from the end of the tile before it, along a dimension.
fn blend(before: &Tensor<4>, tile: Tensor<4>, dimension: usize, overlap: usize) -> Tensor<4> {
    let [length_before, length] = [before.dims()[dimension], tile.dims()[dimension]];
    let overlap = overlap.min(length_before).min(length);
    let mut shape = [1; 4];
    shape[dimension] = overlap;
    let shares: Vec<f32> = (0..overlap).map(|place| place as f32 / overlap as f32).collect();
    let share = Tensor::<4>::from_data(TensorData::new(shares, shape), &tile.device()).cast(tile.dtype());
    let end = before.clone().narrow(dimension, length_before - overlap, overlap);
    let start = tile.clone().narrow(dimension, 0, overlap);
    let start = end * (-share.clone() + 1.0) + start * share;
    if overlap == length {
        return start;
    }
    Tensor::cat(vec![start, tile.narrow(dimension, overlap, length - overlap)], dimension)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::latent::FirstStage;
    use burn::tensor::{Device, Distribution};
    use ddpm_model::autoencoder::AutoencoderKLConfig;

    /// Every value four times, as a decoder without weights.
    fn enlarged(x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let x: Tensor<6> = x.reshape([batch, channels, height, 1, width, 1]);
        x.repeat_dim(3, 2).repeat_dim(5, 2).reshape([batch, channels, 2 * height, 2 * width])
    }

    #[test]
    fn tiles_of_what_knows_no_neighbors_are_the_whole() {
        let tiles = Tiles::new(16, 2).unwrap();
        for shape in [[2, 3, 8, 8], [1, 2, 9, 8], [1, 1, 20, 13], [2, 1, 7, 31]] {
            let z = Tensor::<4>::random(shape, Distribution::Default, &Device::default());
            let whole = enlarged(z.clone());
            let found = tiles.decode(z, |tile| {
                let [_, _, height, width] = tile.dims();
                assert!(height <= 8 && width <= 8, "a tile of {height}x{width}");
                enlarged(tile)
            });
            assert_eq!(found.dims(), whole.dims());
            let apart = (found - whole).abs().max().into_scalar::<f32>();
            assert!(apart < 1e-6, "{shape:?}: {apart}");
        }
    }

    #[test]
    fn a_quarter_of_a_tile_is_a_number_of_latent_pixels() {
        assert_eq!(Tiles::new(512, 8), Some(Tiles { pixels: 512, latents: 64 }));
        assert_eq!([Tiles::new(0, 8), Tiles::new(500, 8), Tiles::new(16, 8)], [None; 3]);
    }

    /// A decoder of random weights, whose normalizations and attention see a tile only.
    #[test]
    fn a_decoder_in_tiles_is_close_to_the_whole_decoder() {
        let device = Device::default();
        device.seed(4);
        let config = AutoencoderKLConfig {
            block_out_channels: vec![8, 16],
            norm_num_groups: 2,
            ..AutoencoderKLConfig::default()
        };
        let stage = FirstStage::Kl(config.init(&device));
        let z = Tensor::<4>::random([1, 4, 40, 28], Distribution::Normal(0.0, 1.0), &device);
        let whole = stage.decode(z.clone());
        let tiled = stage.decode_in(z, Tiles::new(32, 2));
        assert_eq!(tiled.dims(), whole.dims());
        let deviation = |x: Tensor<4>| x.square().mean().sqrt().into_scalar::<f32>();
        let apart = deviation(tiled - whole.clone()) / deviation(whole);
        assert!(apart > 0.0 && apart < 0.3, "{apart}");
        let images = Tensor::<4>::random([1, 3, 64, 40], Distribution::Default, &device);
        let whole = stage.encode(images.clone(), None);
        let tiled = stage.encode_in(images, None, Tiles::new(32, 2));
        assert_eq!(tiled.dims(), whole.dims());
        let apart = deviation(tiled - whole.clone()) / deviation(whole);
        assert!(apart > 0.0 && apart < 0.3, "{apart}");
    }
}
