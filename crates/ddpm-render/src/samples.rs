//! Generated samples, as they are drawn and written.

/// Samples of a model: images in [-1, 1], anything else in the units of its data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// All values, row-major, sample after sample.
    pub values: Vec<f32>,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Class of every sample.
    pub labels: Vec<Option<usize>>,
    /// The first samples while they are generated, from pure noise to the end.
    pub frames: Vec<Frame>,
    /// How many of them belong in one row of a grid, where that matters.
    pub row: Option<usize>,
    /// The noise that an inversion found, as the network sees it, in the layout of `values`.
    pub noise: Vec<f32>,
}

impl Samples {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// x_t of the first samples after some of the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Steps taken so far.
    pub steps_done: usize,
    /// Values in the layout and units of [`Samples::values`].
    pub values: Vec<f32>,
}
