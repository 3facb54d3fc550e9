//! One tensor in a file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use super::{Dtype, WeightsError};

/// A tensor whose values still lie in the file.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Steps between neighbours along each dimension; none where the values lie row-major.
    strides: Option<Vec<usize>>,
    file: Arc<Path>,
    /// Where the first value lies.
    start: u64,
    /// How many values there are.
    len: usize,
    /// How many values lie from the first to the last.
    span: usize,
}

/// Values of a tensor at most that has some of them several times, as `torch.expand` makes it: SSSD has its state spaces so.
const MOST_REPEATED: usize = 1 << 18;

/// The values in the file among which a tensor must lie.
pub(super) struct Storage {
    pub(super) file: Arc<Path>,
    pub(super) dtype: Dtype,
    /// Where the first value lies.
    pub(super) start: u64,
    /// How many values there are.
    pub(super) len: usize,
}

impl Storage {
    /// The tensor of this shape from value `offset` on, or why there is none.
    pub(super) fn tensor(
        &self,
        shape: &[usize],
        offset: usize,
        strides: Option<&[usize]>,
    ) -> Result<StoredTensor, String> {
        let too_large = || format!("shape {shape:?} does not fit the {} values of its storage", self.len);
        // A zero anywhere makes the product zero, but the others must not overflow before it.
        let len = match shape.contains(&0) {
            true => 0,
            false => shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size)).ok_or_else(too_large)?,
        };
        let row_major = row_major(shape);
        let strides = strides.filter(|&strides| len > 0 && !same_steps(shape, strides, row_major.as_deref()));
        let span = match strides {
            None => len,
            Some(strides) => shape
                .iter()
                .zip(strides)
                .try_fold(1usize, |span, (&size, &stride)| span.checked_add((size - 1).checked_mul(stride)?))
                .ok_or_else(too_large)?,
        };
        // More values than the storage has are repetitions, which a file may claim any number of.
        let end = offset.checked_add(span).ok_or_else(too_large)?;
        if end > self.len || len > self.len.max(MOST_REPEATED) {
            return Err(format!(
                "shape {shape:?} from value {offset} on does not fit the {} values of its storage",
                self.len
            ));
        }
        Ok(StoredTensor {
            dtype: self.dtype,
            shape: shape.to_vec(),
            strides: strides.map(<[usize]>::to_vec),
            file: self.file.clone(),
            start: self.start + (offset * self.dtype.size()) as u64,
            len,
            span,
        })
    }
}

impl StoredTensor {
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of the values in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Some of its rows, if it is row-major and has them.
    #[must_use]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Option<Self> {
        let (&all, rest) = self.shape.split_first()?;
        if self.strides.is_some() || rows.start > rows.end || rows.end > all {
            return None;
        }
        let per_row = self.len.checked_div(all)?;
        let (len, shape) = (rows.len() * per_row, [&[rows.len()], rest].concat());
        let start = self.start + (rows.start * per_row * self.dtype.size()) as u64;
        Some(Self { shape, start, len, span: len, file: self.file.clone(), strides: None, dtype: self.dtype })
    }

    /// Reads the values, row-major.
    pub fn read(&self) -> Result<Vec<f32>, WeightsError> {
        let io = |error| WeightsError::Io { path: self.file.to_path_buf(), error };
        let mut file = File::open(&self.file).map_err(io)?;
        file.seek(SeekFrom::Start(self.start)).map_err(io)?;
        let mut bytes = vec![0; self.span * self.dtype.size()];
        file.read_exact(&mut bytes).map_err(io)?;
        let values = self.dtype.to_f32(&bytes);
        Ok(match &self.strides {
            None => values,
            Some(strides) => gather(&values, &self.shape, strides, self.len),
        })
    }
}

/// The steps of a row-major tensor; none where they overflow.
fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut step = 1usize;
    let mut steps = vec![0; shape.len()];
    for (i, &size) in shape.iter().enumerate().rev() {
        steps[i] = step;
        step = step.checked_mul(size)?;
    }
    Some(steps)
}

/// Whether the strides mean the same; that of a dimension of one value means nothing.
fn same_steps(shape: &[usize], strides: &[usize], row_major: Option<&[usize]>) -> bool {
    row_major.is_some_and(|steps| {
        shape.iter().zip(strides.iter().zip(steps)).all(|(&size, (stride, step))| size == 1 || stride == step)
    })
}

/// Values in row-major order; every index lies within the span that was checked.
fn gather(values: &[f32], shape: &[usize], strides: &[usize], len: usize) -> Vec<f32> {
    let mut index = vec![0; shape.len()];
    let mut place = 0;
    let mut gathered = Vec::with_capacity(len);
    for _ in 0..len {
        gathered.push(values[place]);
        for i in (0..shape.len()).rev() {
            index[i] += 1;
            place += strides[i];
            if index[i] < shape[i] {
                break;
            }
            place -= strides[i] * shape[i];
            index[i] = 0;
        }
    }
    gathered
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn strided_values_come_in_order() {
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        assert_eq!(gather(&values, &[3, 2], &[1, 3], 6), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(gather(&values, &[2, 1, 2], &[6, 0, 2], 4), [0., 2., 6., 8.]);
    }

    #[test]
    fn shapes_beyond_the_storage_are_refused() {
        let storage = Storage { file: Path::new("x").into(), dtype: Dtype::F32, start: 0, len: 12 };
        let fits = |shape: &[usize], offset, strides: Option<&[usize]>| storage.tensor(shape, offset, strides);
        assert_eq!(fits(&[3, 4], 0, Some(&[4, 1])).unwrap().strides, None);
        assert_eq!(fits(&[3, 1, 4], 0, Some(&[4, 99, 1])).unwrap().strides, None);
        assert_eq!(fits(&[4, 3], 0, Some(&[1, 4])).unwrap().span, 12);
        assert_eq!(fits(&[2, 0, usize::MAX, usize::MAX], 12, None).unwrap().len(), 0);
        assert_eq!(fits(&[], 11, Some(&[])).unwrap().len(), 1);
        assert_eq!(fits(&[500, 3, 4], 0, Some(&[0, 4, 1])).unwrap().len(), 6000);
        for (shape, offset, strides) in [
            (&[13][..], 0, None),
            (&[3, 4], 1, None),
            (&[usize::MAX, 2], 0, None),
            (&[2], usize::MAX, None),
            (&[2, 2], 0, Some(&[usize::MAX, 1][..])),
            (&[2, 2], 0, Some(&[11, 1])),
            (&[1_000_000], 0, Some(&[0])),
        ] {
            assert!(fits(shape, offset, strides).is_err(), "{shape:?} {offset} {strides:?}");
        }
    }
}
