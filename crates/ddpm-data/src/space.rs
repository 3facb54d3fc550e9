//! What items are, and what may be assumed of their values: all code that treats images, points and series differently asks
//! here.

use crate::example::DataInfo;

/// What items are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Images of 8 bits, `[C, H, W]`.
    Images,
    /// Latents of an autoencoder, `[C, H, W]`.
    Latents,
    /// Points, `[N]`.
    Points,
    /// Windows of series, `[K, L]`.
    Series,
    /// Arrays of any other shape, which only a file can claim.
    Other,
}

/// Between which bounds networks see the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Bytes, of which 0 is -1 and 255 is 1: estimates of them can be clipped, likelihoods are those of 256 levels, and they
    /// are written as PNG files.
    Bytes,
    /// There are none.
    None,
}

impl Space {
    /// That of items of this shape; `latent` are those that an autoencoder made.
    fn of(shape: &[usize], latent: bool) -> Self {
        match shape.len() {
            1 => Self::Points,
            2 => Self::Series,
            3 if latent => Self::Latents,
            3 => Self::Images,
            _ => Self::Other,
        }
    }

    /// The bounds of the values.
    pub fn bounds(self) -> Bounds {
        match self {
            Self::Images => Bounds::Bytes,
            Self::Latents | Self::Points | Self::Series | Self::Other => Bounds::None,
        }
    }
}

impl DataInfo {
    /// What the items are.
    pub fn space(&self) -> Space {
        Space::of(&self.shape, self.latent)
    }

    /// The bounds of the values.
    pub fn bounds(&self) -> Bounds {
        self.space().bounds()
    }

    /// Whether the items are images.
    pub fn is_image(&self) -> bool {
        self.space() == Space::Images
    }

    /// Whether the items are points.
    pub fn is_point(&self) -> bool {
        self.space() == Space::Points
    }
}

/// An item's shape with three axes, as training and sampling have all items: a point `[N]` is `[N, 1, 1]`, a series
/// `[K, L]` is `[K, L, 1]`.
pub fn three_axes(shape: &[usize]) -> [usize; 3] {
    let axis = |number: usize| shape.get(number).copied().unwrap_or(1);
    [axis(0), axis(1), axis(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_have_bounds() {
        let spaces = [&[2][..], &[3, 24], &[1, 8, 8], &[1, 1, 8, 8], &[]].map(|shape| Space::of(shape, false));
        assert_eq!(spaces, [Space::Points, Space::Series, Space::Images, Space::Other, Space::Other]);
        assert_eq!(Space::of(&[4, 8, 8], true), Space::Latents);
        let bounded = [Space::Images, Space::Latents, Space::Points].map(|space| space.bounds() == Bounds::Bytes);
        assert_eq!(bounded, [true, false, false]);
    }

    #[test]
    fn axes_that_are_missing_have_size_one() {
        let found = [&[2][..], &[3, 24], &[1, 8, 8]].map(three_axes);
        assert_eq!(found, [[2, 1, 1], [3, 24, 1], [1, 8, 8]]);
    }
}
