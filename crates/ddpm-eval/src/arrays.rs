//! NumPy's files as they are met: `.npy` of numbers, and `.npz`, which is a zip of those.

use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ddpm_data::zip as archive;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::EvaluationError;

/// No header of a real file comes near this.
const LARGEST_HEADER: usize = 1 << 16;

/// An array of a file, in f64 whatever it was there.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f64>,
}

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

    fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    fn values(self, bytes: &[u8]) -> Vec<f64> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|word| value(*word)).collect()
        }
        match self {
            Self::U8 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Self::I32 => each(bytes, |word| f64::from(i32::from_le_bytes(word))),
            Self::I64 => each(bytes, |word| i64::from_le_bytes(word) as f64),
            Self::F32 => each(bytes, |word| f64::from(f32::from_le_bytes(word))),
            Self::F64 => each(bytes, f64::from_le_bytes),
        }
    }
}

/// What the header of an `.npy` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of its numbers.
    pub number: Number,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
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
    pub fn open(path: &Path) -> Result<Self, EvaluationError> {
        let file = File::open(path).map_err(EvaluationError::io(path))?;
        Self::new(BufReader::new(file), path)
    }
}

impl<R: Read + Seek> RowReader<R> {
    /// Of anything that holds an `.npy`; the path is for messages.
    pub fn new(mut source: R, path: &Path) -> Result<Self, EvaluationError> {
        let header = read_header(&mut source, path)?;
        let start = source.stream_position().map_err(EvaluationError::io(path))?;
        let end = source.seek(SeekFrom::End(0)).map_err(EvaluationError::io(path))?;
        // A row of a shape without rows must be countable too.
        let rows = header.shape.iter().map(|size| (*size).max(1));
        let bytes = rows.chain([header.number.size()]).try_fold(1usize, usize::checked_mul);
        let wanted = bytes.map(|bytes| if header.shape.contains(&0) { 0 } else { bytes as u64 });
        if wanted != Some(end - start) {
            let wanted = wanted.map_or("more than there can be".to_string(), |bytes| bytes.to_string());
            let reason = format!("it holds {} bytes of values; shape {:?} needs {wanted}", end - start, header.shape);
            return Err(EvaluationError::format(path, reason));
        }
        Ok(Self { source, header, start })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The one value of an array without axes.
    fn scalar(&mut self, path: &Path) -> Result<Vec<f64>, EvaluationError> {
        let mut bytes = vec![0; self.header.number.size()];
        self.source
            .seek(SeekFrom::Start(self.start))
            .and_then(|_| self.source.read_exact(&mut bytes))
            .map_err(EvaluationError::io(path))?;
        Ok(self.header.number.values(&bytes))
    }

    /// The values of some rows.
    pub fn rows(&mut self, rows: std::ops::Range<usize>, path: &Path) -> Result<Vec<f64>, EvaluationError> {
        let width = self.header.shape.iter().skip(1).product::<usize>() * self.header.number.size();
        let mut bytes = vec![0; rows.len() * width];
        self.source
            .seek(SeekFrom::Start(self.start + (rows.start * width) as u64))
            .and_then(|_| self.source.read_exact(&mut bytes))
            .map_err(EvaluationError::io(path))?;
        Ok(self.header.number.values(&bytes))
    }
}

/// Reads the header and leaves `source` where the values begin.
fn read_header(source: &mut impl Read, path: &Path) -> Result<Header, EvaluationError> {
    let not = |reason: &str| EvaluationError::format(path, reason);
    let mut start = [0; 8];
    source.read_exact(&mut start).map_err(|_| not("it is too short for an NPY file"))?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(not("it is not an NPY file"));
    }
    let mut length = [0; 4];
    let words = if start[6] == 1 { 2 } else { 4 };
    source.read_exact(&mut length[..words]).map_err(|_| not("its NPY header is cut off"))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LARGEST_HEADER {
        return Err(not("its NPY header is larger than any real one"));
    }
    let mut text = vec![0; length];
    source.read_exact(&mut text).map_err(|_| not("its NPY header is cut off"))?;
    let text = String::from_utf8_lossy(&text);
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
    let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
    let number = Number::from_descr(descr)
        .ok_or_else(|| not(&format!("numbers of type `{descr}`; expected u1, i4, i8, f4 or f8, little-endian")))?;
    if after("'fortran_order'").is_none_or(|rest| !rest.starts_with("False")) {
        return Err(not("its values are in Fortran order; save np.ascontiguousarray(array)"));
    }
    let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(sizes, _)| sizes);
    let sizes = shape.unwrap_or("?").split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse);
    let shape = sizes.collect::<Result<Vec<usize>, _>>().map_err(|_| not("its NPY header has no shape"))?;
    Ok(Header { number, shape })
}

/// All arrays of an `.npz`, by name.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Array)>, EvaluationError> {
    let read = |(name, bytes): (String, Vec<u8>)| {
        let mut reader = RowReader::new(Cursor::new(bytes), path)?;
        let shape = reader.header().shape.clone();
        let values = match shape.first() {
            Some(&rows) => reader.rows(0..rows, path)?,
            None => reader.scalar(path)?,
        };
        Ok((name, Array { shape, values }))
    };
    members(path, |_| true)?.into_iter().map(read).collect()
}

/// The bytes of one array of an `.npz`: an `.npy`.
pub fn npz_member(path: &Path, name: &str) -> Result<Vec<u8>, EvaluationError> {
    let member = members(path, |found| found == name)?.pop();
    member.map(|(_, bytes)| bytes).ok_or_else(|| {
        EvaluationError::format(path, format!("there is no array `{name}` in it, where pictures are expected"))
    })
}

/// The files of an `.npz` that are wanted, by name without `.npy`.
fn members(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, Vec<u8>)>, EvaluationError> {
    let not = |error| match error {
        archive::ZipError::Io(source) => EvaluationError::io(path)(source),
        archive::ZipError::Broken(reason) => EvaluationError::format(path, format!("not an NPZ file: {reason}")),
    };
    let mut file = File::open(path).map_err(EvaluationError::io(path))?;
    let mut found = Vec::new();
    archive::for_each(&mut file, |name, member| {
        found.push((name, member));
        Ok(())
    })
    .map_err(not)?;
    found.retain(|(name, _)| wanted(name.trim_end_matches(".npy")));
    found
        .into_iter()
        .map(|(name, member)| {
            let bytes = member.read(&mut file, &name, u64::MAX - 1).map_err(not)?;
            Ok((name.trim_end_matches(".npy").to_string(), bytes))
        })
        .collect()
}

/// Writes an `.npz` of f64, under another name first.
pub fn write_npz(path: &Path, arrays: &[(String, Array)]) -> Result<(), EvaluationError> {
    let partial = path.with_extension("npz.partial");
    let write = || -> std::io::Result<()> {
        let mut archive = ZipWriter::new(BufWriter::new(File::create(&partial)?));
        for (name, array) in arrays {
            // As np.savez does: without compression.
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
            archive.start_file(format!("{name}.npy"), options)?;
            let sizes: Vec<String> = array.shape.iter().map(|size| format!("{size},")).collect();
            let header =
                format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({}), }}", sizes.concat().trim_end());
            let padding = 63 - (10 + header.len()) % 64;
            let header = format!("{header}{}\n", " ".repeat(padding));
            archive.write_all(b"\x93NUMPY\x01\x00")?;
            archive.write_all(&(header.len() as u16).to_le_bytes())?;
            archive.write_all(header.as_bytes())?;
            for values in array.values.chunks(4096) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                archive.write_all(&bytes)?;
            }
        }
        archive.finish()?.flush()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(EvaluationError::io(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_our_own_arrays_are_read_back() {
        let bytes = ddpm_files::npy::encode(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, -5.5]);
        let path = Path::new("a.npy");
        let mut reader = RowReader::new(Cursor::new(bytes.clone()), path).unwrap();
        assert_eq!(reader.header(), &Header { number: Number::F32, shape: vec![3, 2] });
        assert_eq!(reader.rows(1..3, path).unwrap(), [2.0, 3.0, 4.0, -5.5]);
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
    fn archives_survive_and_what_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let arrays = vec![
            ("mu".to_string(), Array { shape: vec![2], values: vec![1.0, -2.5] }),
            ("sigma".to_string(), Array { shape: vec![2, 2], values: vec![1.0, 0.25, 0.25, 2.0] }),
        ];
        write_npz(&path, &arrays).unwrap();
        assert_eq!(read_npz(&path).unwrap(), arrays);
        std::fs::write(&path, "no zip").unwrap();
        assert!(read_npz(&path).unwrap_err().to_string().contains("not an NPZ file"));
    }
}
