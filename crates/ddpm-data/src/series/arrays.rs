//! Arrays of NumPy (`.npy`, `.npz`) with a stated layout.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{Problem, SeriesError, quoted};
use super::{Index, Series, Table, numbered};
use crate::zip;

const EXPECTED: &str = "an .npy or .npz file of NumPy";
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No header of a real file comes near this.
const LARGEST_HEADER: usize = 1 << 16;
/// A value from which the square is not finite is refused, as in texts.
const TOO_LARGE: f64 = 1e150;

/// What the axes of an array are: T or L are steps, K variables, N series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One series: steps, variables.
    TK,
    /// Series, steps, variables.
    NLK,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::TK => "T, K",
            Self::NLK => "N, L, K",
        }
    }

    /// Series, steps and variables of a shape.
    fn sizes(self, shape: &[usize]) -> Result<[usize; 3], Problem> {
        let expected = match self {
            Self::TK => 2,
            Self::NLK => 3,
        };
        let sizes = match (self, shape) {
            (Self::TK, &[t, k]) => [1, t, k],
            (Self::NLK, &[n, l, k]) => [n, l, k],
            _ => return Err(Problem::WrongRank { layout: self.name(), expected, shape: shape.to_vec() }),
        };
        if sizes.contains(&0) {
            return Err(Problem::EmptyTarget);
        }
        Ok(sizes)
    }
}

/// What a 1 in a mask means. It must be stated: files have it both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskMeaning {
    /// 1 where there is a value, 0 where there is none.
    OneIsObserved,
    /// 1 where there is no value.
    OneIsMissing,
    /// 1 where there is a value that is hidden from a model, which is scored on it.
    OneIsHeldOut,
}

/// A mask of an `.npz`: the name of its array and its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// The name of the array.
    pub name: String,
    /// What a 1 means.
    pub meaning: MaskMeaning,
}

/// An array: its shape, and its values in row-major order.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// Reads the series of an `.npy` file; NaN is a missing value.
pub fn read_npy(path: &Path, layout: Layout) -> Result<Vec<Series>, SeriesError> {
    read_masked(path, None, layout)
}

/// The same with a mask in an `.npy` file of the same shape: 1 where a value was observed.
pub fn read_masked(path: &Path, mask: Option<&Path>, layout: Layout) -> Result<Vec<Series>, SeriesError> {
    let values = read_array(path)?;
    let mask = mask.map(|mask| Ok::<_, SeriesError>((mask, read_array(mask)?))).transpose()?;
    if let Some((path, mask)) = &mask {
        check_mask(&values, mask).map_err(|problem| SeriesError::new(path, None, problem))?;
    }
    let mask = mask.map(|(_, mask)| (mask, MaskMeaning::OneIsObserved));
    series(&values, layout, mask.as_ref()).map_err(|problem| SeriesError::new(path, None, problem))
}

fn read_array(path: &Path) -> Result<Array, SeriesError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| SeriesError::io(path, EXPECTED, error))?;
    decode(&bytes).map_err(|problem| SeriesError::new(path, None, problem))
}

/// Reads the series of the array `values` of an `.npz` file; NaN is a missing value, and a mask may say more.
pub fn read_npz(path: &Path, values: &str, mask: Option<&Mask>, layout: Layout) -> Result<Vec<Series>, SeriesError> {
    let fail = |problem| SeriesError::new(path, None, problem);
    let mut file = File::open(path).map_err(|error| SeriesError::io(path, EXPECTED, error))?;
    let values = member(&mut file, values).map_err(fail)?;
    let mask = match mask {
        Some(Mask { name, meaning }) => Some((member(&mut file, name).map_err(fail)?, *meaning)),
        None => None,
    };
    series(&values, layout, mask.as_ref()).map_err(fail)
}

/// An array of an archive.
fn member(file: &mut File, name: &str) -> Result<Array, Problem> {
    let not = |error: zip::ZipError| match error {
        zip::ZipError::Io(error) => Problem::Unreadable(error),
        zip::ZipError::Broken(reason) => Problem::BadArray { reason: format!("not an NPZ file: {reason}") },
    };
    let (mut found, mut names) = (None, Vec::new());
    zip::for_each(file, |full, member| {
        let short = full.strip_suffix(".npy").unwrap_or(&full);
        if short == name {
            found = Some((full, member));
        } else if names.len() < 10 {
            names.push(quoted(short));
        }
        Ok(())
    })
    .map_err(not)?;
    let missing = || Problem::BadArray {
        reason: format!(
            "no array {}; found {}",
            quoted(name),
            if names.is_empty() { "none".into() } else { names.join(", ") }
        ),
    };
    let (full, member) = found.ok_or_else(missing)?;
    decode(&member.read(file, &full, u64::MAX - 1).map_err(not)?)
}

/// Cells of the values, and of the mask if there is one.
fn series(array: &Array, layout: Layout, mask: Option<&(Array, MaskMeaning)>) -> Result<Vec<Series>, Problem> {
    let [count, steps, variables] = layout.sizes(&array.shape)?;
    if let Some((mask, _)) = mask {
        check_mask(array, mask)?;
    }
    let place = |at: usize| format!("value at {:?}", position(at, &array.shape));
    if let Some(at) = array.values.iter().position(|value| value.abs() >= TOO_LARGE) {
        return Err(Problem::InfiniteValue { place: place(at), text: array.values[at].to_string() });
    }
    let size = steps * variables;
    let value = |at: usize| {
        let one = |meaning| mask.is_some_and(|(mask, own)| *own == meaning && mask.values[at] == 1.0);
        let observed =
            mask.is_none_or(|(_, own)| *own != MaskMeaning::OneIsObserved) || one(MaskMeaning::OneIsObserved);
        let there = observed && !one(MaskMeaning::OneIsMissing);
        Some(array.values[at]).filter(|value| there && !value.is_nan())
    };
    let one = |k: usize| {
        let mut table = Table::from_rows(variables, (k * size..(k + 1) * size).map(value));
        if let Some((mask, MaskMeaning::OneIsHeldOut)) = mask {
            let hidden = (0..size).filter(|at| mask.values[k * size + at] == 1.0);
            hidden.for_each(|at| table.hide(at / variables, at % variables));
        }
        Series::new(None, Index::Counted, numbered(variables), table)
    };
    Ok((0..count).map(one).collect())
}

fn check_mask(array: &Array, mask: &Array) -> Result<(), Problem> {
    if mask.shape != array.shape {
        return Err(Problem::MaskShape { values: array.shape.clone(), mask: mask.shape.clone() });
    }
    match mask.values.iter().position(|value| *value != 0.0 && *value != 1.0) {
        Some(at) => Err(Problem::MaskValues { value: mask.values[at], at: position(at, &mask.shape) }),
        None => Ok(()),
    }
}

/// Where a value lies along each axis.
fn position(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut position: Vec<usize> = shape
        .iter()
        .rev()
        .map(|size| {
            let along = at % size;
            at /= size;
            along
        })
        .collect();
    position.reverse();
    position
}

/// Reads an `.npy`: numbers of either byte order, the axes in either order.
fn decode(bytes: &[u8]) -> Result<Array, Problem> {
    if !bytes.starts_with(MAGIC) {
        return Err(Problem::BadMagic);
    }
    let bad = |reason: &str| Problem::BadArray { reason: reason.into() };
    let cut_off = || bad("the NPY header is cut off; expected a whole one");
    // A header has its length in two bytes in the first version, and in four in later ones.
    let digits = if bytes.get(6) == Some(&1) { 2 } else { 4 };
    let mut length = [0; 4];
    length[..digits].copy_from_slice(bytes.get(8..8 + digits).ok_or_else(cut_off)?);
    let length = u32::from_le_bytes(length) as usize;
    if length > LARGEST_HEADER {
        return Err(bad("the NPY header is larger than any real one; expected 64 KiB at most"));
    }
    let start = 8 + digits;
    let text = String::from_utf8_lossy(bytes.get(start..start + length).ok_or_else(cut_off)?);
    let header = Header::parse(&text)?;
    let data = header.data(&bytes[start + length..])?;
    let values: Vec<f64> = data.chunks_exact(header.number.size()).map(|word| header.value(word)).collect();
    let values = if header.fortran { row_major(&values, &header.shape) } else { values };
    Ok(Array { shape: header.shape, values })
}

/// Values whose first axis is the fastest, in row-major order.
fn row_major(values: &[f64], shape: &[usize]) -> Vec<f64> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for size in shape {
        strides.push(stride);
        stride *= size;
    }
    let source = |at: usize| {
        let (mut rest, mut source) = (at, 0);
        for (size, stride) in shape.iter().zip(&strides).rev() {
            source += rest % size * stride;
            rest /= size;
        }
        source
    };
    (0..values.len()).map(|at| values[source(at)]).collect()
}

/// Types of numbers that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    Bool,
    Unsigned(usize),
    Signed(usize),
    Float(usize),
}

impl Number {
    fn size(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Unsigned(size) | Self::Signed(size) | Self::Float(size) => size,
        }
    }
}

struct Header {
    number: Number,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Of the dictionary that it is in Python.
    fn parse(text: &str) -> Result<Self, Problem> {
        let bad = |reason: String| Problem::BadArray { reason };
        let after = |key: &str| text.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
        let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
        let number = match descr.trim_start_matches(['<', '>', '|', '=']) {
            "O" => return Err(Problem::ObjectDtype),
            "b1" => Number::Bool,
            "u1" => Number::Unsigned(1),
            "u2" => Number::Unsigned(2),
            "u4" => Number::Unsigned(4),
            "i1" => Number::Signed(1),
            "i2" => Number::Signed(2),
            "i4" => Number::Signed(4),
            "i8" => Number::Signed(8),
            "f4" => Number::Float(4),
            "f8" => Number::Float(8),
            _ => {
                let reason = format!("numbers of type {}; expected f4, f8, i1 to i8, u1 to u4 or b1", quoted(descr));
                return Err(bad(reason));
            }
        };
        let fortran = match after("'fortran_order'") {
            Some(rest) if rest.starts_with("True") => true,
            Some(rest) if rest.starts_with("False") => false,
            _ => return Err(bad("the NPY header does not say fortran_order; expected True or False".into())),
        };
        let tuple = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(sizes, _)| sizes);
        let no_shape = || bad("the NPY header has no shape; expected such as (4, 6, 3)".into());
        let sizes = tuple.ok_or_else(no_shape)?.split(',').map(str::trim).filter(|size| !size.is_empty());
        let size = |size: &str| size.parse().map_err(|_| bad(format!("the shape has a size {}", quoted(size))));
        let shape = sizes.map(size).collect::<Result<Vec<usize>, _>>()?;
        Ok(Self { number, big_endian: descr.starts_with('>'), fortran, shape })
    }

    /// The bytes of the values: as many as the shape says, and none behind them.
    fn data<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Problem> {
        let sizes = self.shape.iter().map(|size| *size as u64).chain([self.number.size() as u64]);
        // Without overflow, also where an axis of no length comes behind long ones.
        let expected = sizes.fold(1u64, |product, size| if size == 0 { 0 } else { product.saturating_mul(size) });
        let (shape, got) = (self.shape.clone(), bytes.len() as u64);
        match got {
            got if got < expected => Err(Problem::Truncated { shape, expected, got }),
            got if got > expected => Err(Problem::TrailingBytes { shape, expected, got }),
            _ => Ok(bytes),
        }
    }

    fn value(&self, word: &[u8]) -> f64 {
        let mut bits = 0u64;
        for place in 0..word.len() {
            // The most significant byte first.
            let byte = if self.big_endian { word[place] } else { word[word.len() - 1 - place] };
            bits = bits << 8 | u64::from(byte);
        }
        match self.number {
            Number::Bool | Number::Unsigned(_) => bits as f64,
            Number::Signed(size) => {
                let unused = 64 - 8 * size as u32;
                ((bits << unused) as i64 >> unused) as f64
            }
            Number::Float(4) => f64::from(f32::from_bits(bits as u32)),
            Number::Float(_) => f64::from_bits(bits),
        }
    }
}
