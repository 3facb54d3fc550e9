//! NumPy's `.npz`: a zip of the arrays that [`ddpm_files::npy`] reads.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use ddpm_data::zip as archive;
use ddpm_files::atomic::{self, AtomicFile};
use ddpm_files::npy::{self, RowReader};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::EvaluationError;

/// An array of a file, in f64 whatever it was there.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f64>,
}

/// All arrays of an `.npz`, by name.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Array)>, EvaluationError> {
    let read = |(name, bytes): (String, Vec<u8>)| {
        let mut reader = RowReader::new(Cursor::new(bytes), path)?;
        let (shape, values) = (reader.header().shape.clone(), reader.all(path)?);
        Ok((name, Array { shape, values }))
    };
    members(path, |_| true)?.into_iter().map(read).collect()
}

/// The bytes of one array of an `.npz`: an `.npy`.
pub fn npz_member(path: &Path, name: &str) -> Result<Vec<u8>, EvaluationError> {
    let member = members(path, |found| found == name)?.pop();
    member.map(|(_, bytes)| bytes).ok_or_else(|| {
        EvaluationError::format(path, format!("there is no array `{name}` in it, where images are expected"))
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

/// Writes an `.npz` of f64.
pub fn write_npz(path: &Path, arrays: &[(String, Array)]) -> Result<(), EvaluationError> {
    let fill = |file: &mut AtomicFile| {
        let mut archive = ZipWriter::new(file);
        for (name, array) in arrays {
            // As np.savez does: without compression.
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
            archive.start_file(format!("{name}.npy"), options)?;
            npy::write_f64(&mut archive, &array.shape, &array.values)?;
        }
        archive.finish()?;
        Ok(())
    };
    Ok(atomic::write_with(path, fill)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
