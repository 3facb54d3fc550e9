//! NumPy's array file: f32 and f64 in version 1.0 out, numbers of [`Number`] in any version in.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use crate::FileError;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No header of a real file comes near this.
const LARGEST_HEADER: usize = 1 << 16;
/// NumPy wants the data to begin at a multiple of this.
const ALIGNMENT: usize = 64;
/// Values that are written at once.
const CHUNK: usize = 4096;

/// Types of numbers that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Bytes.
    U8,
    /// Integers.
    I32,
    /// Long integers.
    I64,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl Number {
    fn from_descr(descr: &str) -> Option<Self> {
        match descr {
            "|u1" | "<u1" => Some(Self::U8),
            "<i4" => Some(Self::I32),
            "<i8" => Some(Self::I64),
            "<f4" => Some(Self::F32),
            "<f8" => Some(Self::F64),
            _ => None,
        }
    }

    fn descr(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::I32 => "<i4",
            Self::I64 => "<i8",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    fn values(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::U8 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Self::I32 => numbers(bytes, |word| f64::from(i32::from_le_bytes(word))),
            Self::I64 => numbers(bytes, |word| i64::from_le_bytes(word) as f64),
            Self::F32 => numbers(bytes, |word| f64::from(f32::from_le_bytes(word))),
            Self::F64 => numbers(bytes, f64::from_le_bytes),
        }
    }
}

/// The numbers of words of N bytes.
pub fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|word| number(*word)).collect()
}

/// The header of an `.npy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of its numbers.
    pub number: Number,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
}

impl Header {
    /// Reads it and leaves `source` where the values begin; or what is wrong with it.
    fn read(source: &mut impl Read) -> Result<Self, String> {
        let mut start = [0; 8];
        source.read_exact(&mut start).map_err(|_| "it is too short for an NPY file")?;
        if !start.starts_with(MAGIC) {
            return Err("it is not an NPY file".into());
        }
        let mut length = [0; 4];
        let digits = if start[6] == 1 { 2 } else { 4 };
        source.read_exact(&mut length[..digits]).map_err(|_| "its NPY header is cut off")?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LARGEST_HEADER {
            return Err("its NPY header is larger than any real one".into());
        }
        let mut text = vec![0; length];
        source.read_exact(&mut text).map_err(|_| "its NPY header is cut off")?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Of the dictionary that it is in Python.
    fn parse(text: &str) -> Result<Self, String> {
        let after = |key: &str| text.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
        let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
        let number = Number::from_descr(descr)
            .ok_or_else(|| format!("it has numbers of type `{descr}`; expected u1, i4, i8, f4 or f8, little-endian"))?;
        if after("'fortran_order'").is_none_or(|rest| !rest.starts_with("False")) {
            return Err("its values are in Fortran order; save np.ascontiguousarray(array)".into());
        }
        let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(sizes, _)| sizes);
        let sizes = shape.ok_or("its NPY header has no shape")?.split(',').map(str::trim);
        let size = |size: &str| size.parse().map_err(|_| format!("its shape has a size {size}"));
        let shape = sizes.filter(|size| !size.is_empty()).map(size).collect::<Result<_, _>>()?;
        Ok(Self { number, shape })
    }

    /// Whether `bytes` bytes of values follow, as its shape needs.
    fn check_length(&self, bytes: u64) -> Result<(), String> {
        // A row of a shape without rows must be countable too.
        let rows = self.shape.iter().map(|size| (*size).max(1));
        let needed = rows.chain([self.number.size()]).try_fold(1usize, usize::checked_mul);
        let needed = needed.map(|needed| if self.shape.contains(&0) { 0 } else { needed as u64 });
        if needed == Some(bytes) {
            return Ok(());
        }
        let needed = needed.map_or("more than there can be".to_string(), |needed| needed.to_string());
        Err(format!("it holds {bytes} bytes of values; shape {:?} needs {needed}", self.shape))
    }

    /// The bytes of it in version 1.0, with what stands before.
    fn encode(&self) -> Vec<u8> {
        let tuple = match &self.shape[..] {
            // A tuple of one needs its comma.
            [size] => format!("({size},)"),
            sizes => format!("({})", sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
        };
        let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {tuple}, }}", self.number.descr());
        // Ten bytes stand before the header, and a line feed ends it.
        let padding = ALIGNMENT - 1 - (10 + text.len()) % ALIGNMENT;
        text.push_str(&" ".repeat(padding));
        text.push('\n');
        [&MAGIC[..], &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
    }
}

/// The bytes of a `.npy` file that holds `values` in row-major order.
pub fn encode(shape: &[usize], values: &[f32]) -> Vec<u8> {
    debug_assert_eq!(shape.iter().product::<usize>(), values.len());
    let mut bytes = Header { number: Number::F32, shape: shape.to_vec() }.encode();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Writes a `.npy` of f64 in row-major order.
pub fn write_f64(out: &mut impl Write, shape: &[usize], values: &[f64]) -> io::Result<()> {
    debug_assert_eq!(shape.iter().product::<usize>(), values.len());
    out.write_all(&Header { number: Number::F64, shape: shape.to_vec() }.encode())?;
    for values in values.chunks(CHUNK) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Shape and values, in row-major order, of a `.npy` file of f32 or f64; or what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), String> {
    let mut data = bytes;
    let header = Header::read(&mut data)?;
    header.check_length(data.len() as u64)?;
    let values = match header.number {
        Number::F32 => numbers(data, f32::from_le_bytes),
        Number::F64 => numbers(data, |word| f64::from_le_bytes(word) as f32),
        other => return Err(format!("it has numbers of type `{}`; expected f4 or f8", other.descr())),
    };
    Ok((header.shape, values))
}

/// A `.npy` whose rows (the first axis) are read when they are asked for.
#[derive(Debug)]
pub struct RowReader<R> {
    source: R,
    header: Header,
    /// Where the values begin.
    start: u64,
}

impl RowReader<BufReader<File>> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::io(path))?;
        Self::new(BufReader::new(file), path)
    }
}

impl<R: Read + Seek> RowReader<R> {
    /// Of anything that holds an `.npy`; the path is for messages.
    pub fn new(mut source: R, path: &Path) -> Result<Self, FileError> {
        let header = Header::read(&mut source).map_err(|reason| FileError::format(path, reason))?;
        let start = source.stream_position().map_err(FileError::io(path))?;
        let end = source.seek(SeekFrom::End(0)).map_err(FileError::io(path))?;
        header.check_length(end - start).map_err(|reason| FileError::format(path, reason))?;
        Ok(Self { source, header, start })
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The values of some rows, in f64 whatever they are in the file.
    pub fn rows(&mut self, rows: Range<usize>, path: &Path) -> Result<Vec<f64>, FileError> {
        let width = self.header.shape.iter().skip(1).product::<usize>() * self.header.number.size();
        self.values(rows.start * width, rows.len() * width, path)
    }

    /// All values.
    pub fn all(&mut self, path: &Path) -> Result<Vec<f64>, FileError> {
        let count: usize = self.header.shape.iter().product();
        self.values(0, count * self.header.number.size(), path)
    }

    fn values(&mut self, from: usize, length: usize, path: &Path) -> Result<Vec<f64>, FileError> {
        let mut bytes = vec![0; length];
        self.source
            .seek(SeekFrom::Start(self.start + from as u64))
            .and_then(|_| self.source.read_exact(&mut bytes))
            .map_err(FileError::io(path))?;
        Ok(self.header.number.values(&bytes))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_header_is_what_numpy_writes() {
        for shape in [vec![2, 3], vec![6], vec![1, 2, 3, 1]] {
            let bytes = encode(&shape, &[0.0, 1.0, 2.0, 3.0, 4.0, -5.5]);
            let data = bytes.len() - 6 * 4;
            assert_eq!(data % 64, 0);
            assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
            assert_eq!(u16::from_le_bytes([bytes[8], bytes[9]]) as usize, data - 10);
            assert_eq!(bytes[data - 1], b'\n');
            assert_eq!(&bytes[bytes.len() - 4..], (-5.5_f32).to_le_bytes());
        }
        for (shape, tuple) in [(vec![6], "(6,)"), (vec![2, 3], "(2, 3)")] {
            let text = String::from_utf8_lossy(&encode(&shape, &[0.0; 6])).into_owned();
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple}, }}");
            assert!(text.contains(&header), "{text}");
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, -5.5];
        for shape in [vec![2, 3], vec![6], vec![1, 2, 3, 1]] {
            assert_eq!(decode(&encode(&shape, &values)).unwrap(), (shape, values.to_vec()));
        }
        // f64 in version 2.0, as NumPy writes long headers.
        let header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n";
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        bytes.extend([0.5f64, -2.0].iter().flat_map(|value| value.to_le_bytes()));
        assert_eq!(decode(&bytes).unwrap(), (vec![2], vec![0.5, -2.0]));
    }

    #[test]
    fn broken_files_are_refused() {
        let whole = encode(&[2, 3], &[0.0; 6]);
        for end in [0, 5, 9, 20, whole.len() - 1] {
            assert!(decode(&whole[..end]).is_err(), "{end}");
        }
        let with = |from: &str, to: &str| {
            let text: Vec<u8> = whole.clone();
            let at = text.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
            let mut changed = text[..at].to_vec();
            changed.extend(to.as_bytes());
            changed.extend(&text[at + from.len()..]);
            decode(&changed).unwrap_err()
        };
        assert!(with("<f4", ">f4").contains(">f4"));
        assert!(with("False", "True ").contains("Fortran order"));
        assert!(with("(2, 3)", "(2, 9)").contains("24 bytes"));
        assert!(with("<f4", "<i4").contains("<i4"));
        assert!(with("(2, 3)", "(2,-3)").contains("-3"));
        let huge = u64::MAX.to_string();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({huge}, {huge}), }}");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        assert!(decode(&bytes).unwrap_err().contains("shape"));
    }

    #[test]
    fn rows_of_our_own_arrays_are_read_back() {
        let bytes = encode(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, -5.5]);
        let path = Path::new("a.npy");
        let mut reader = RowReader::new(Cursor::new(bytes.clone()), path).unwrap();
        assert_eq!(reader.header(), &Header { number: Number::F32, shape: vec![3, 2] });
        assert_eq!(reader.rows(1..3, path).unwrap(), [2.0, 3.0, 4.0, -5.5]);
        assert_eq!(reader.all(path).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, -5.5]);
        for (broken, said) in [
            (bytes[..bytes.len() - 1].to_vec(), "23 bytes"),
            (b"hello world".to_vec(), "not an NPY"),
            (bytes[..4].to_vec(), "too short"),
            (String::from_utf8_lossy(&bytes).replace("<f4", "<c8").into_bytes(), ""),
        ] {
            let error = RowReader::new(Cursor::new(broken), path).unwrap_err().to_string();
            assert!(error.contains("a.npy") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn f64_of_any_rank_is_read_back_by_both_readers() {
        for shape in [vec![], vec![3], vec![2, 0], vec![2, 3, 4]] {
            let values: Vec<f64> = (0..shape.iter().product()).map(|k| k as f64 / 4.0).collect();
            let mut bytes = Vec::new();
            write_f64(&mut bytes, &shape, &values).unwrap();
            let narrow = values.iter().map(|value| *value as f32).collect();
            assert_eq!(decode(&bytes).unwrap(), (shape.clone(), narrow));
            let path = Path::new("a.npy");
            let mut reader = RowReader::new(Cursor::new(bytes), path).unwrap();
            assert_eq!((reader.all(path).unwrap(), &reader.header().shape), (values, &shape));
        }
    }
}
