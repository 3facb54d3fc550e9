//! The positions of patches as sines and cosines.

/// The longest wavelength is this many times `2 pi` patches.
const MAX_PERIOD: f64 = 10_000.0;

/// One row of `width` values for each patch, row by row. The first half of a row is about the column, the second about the row
/// of the patch; a half has sines, then cosines. `base` is the number of patches a side that positions refer to: another grid is
/// stretched to it.
pub fn position_table(width: usize, [rows, columns]: [usize; 2], base: usize) -> Vec<f64> {
    let quarter = width / 4;
    let half = |place: usize, of: usize| {
        let position = place as f64 * base as f64 / of as f64;
        let angle = move |i: usize| position * MAX_PERIOD.powf(-(i as f64) / quarter as f64);
        let sines = (0..quarter).map(move |i| angle(i).sin());
        sines.chain((0..quarter).map(move |i| angle(i).cos()))
    };
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    places.flat_map(|(row, column)| half(column, columns).chain(half(row, rows))).collect()
}
