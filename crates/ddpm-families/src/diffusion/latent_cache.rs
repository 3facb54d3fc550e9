//! Encoded images on disk. The name of a file says what it was made of; its CRC-32 says that it is whole.
//!
//! A file is 8 bytes that say what it is, the CRC-32 of what follows, and numbers in f32, all little-endian.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use ddpm_files::atomic;
use ddpm_files::checksums::crc32;

const MAGIC: &[u8; 8] = b"ddpmlat1";
const HEADER: usize = MAGIC.len() + 4;

/// What is found where encoded images may be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cached {
    /// The numbers.
    Found(Vec<f32>),
    /// Nothing.
    Missing,
    /// Something else than was written.
    Damaged(String),
}

/// The numbers of a file, of which there must be so many.
pub(super) fn read(file: &Path, count: usize) -> Cached {
    let Ok(bytes) = std::fs::read(file) else { return Cached::Missing };
    let (header, body) = bytes.split_at(bytes.len().min(HEADER));
    if body.len() != 4 * count {
        return Cached::Damaged(format!("has {} bytes, expected {}", bytes.len(), HEADER + 4 * count));
    }
    let whole = crc32(body).is_ok_and(|sum| header[MAGIC.len()..] == sum.to_le_bytes());
    if &header[..MAGIC.len()] != MAGIC || !whole {
        return Cached::Damaged("has changed since it was written".into());
    }
    Cached::Found(
        body.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect(),
    )
}

/// Writes numbers. Without the file the images are encoded again next time, so that a failure is only said.
pub(super) fn write(file: &Path, values: &[f32]) {
    let body: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let sum = crc32(&body[..]).unwrap_or_default().to_le_bytes();
    let written = file.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| error.to_string());
    let written = written.and_then(|()| {
        let bytes = [&MAGIC[..], &sum, &body].concat();
        atomic::write_derived(file, bytes).map_err(|error| error.to_string())
    });
    if let Err(error) = written {
        note(&format!("encoded images are not kept: {error}"));
    }
}

/// How far the encoding of a dataset is, said every now and then: it may take minutes before the first step.
#[derive(Debug)]
pub(super) struct EncodingProgress {
    images: usize,
    began: Instant,
    said: Duration,
}

impl EncodingProgress {
    /// Work of less time than this is not worth a word, and after each line there is as much quiet again.
    const QUIET: Duration = Duration::from_secs(5);

    /// Of so many images.
    pub(super) fn of(images: usize) -> Self {
        Self { images, began: Instant::now(), said: Duration::ZERO }
    }

    /// Now `done` of them are encoded.
    pub(super) fn at(&mut self, done: usize) {
        if let Some(line) = self.line(done, self.began.elapsed()) {
            note(&line);
        }
    }

    /// What there is to say after this time.
    fn line(&mut self, done: usize, elapsed: Duration) -> Option<String> {
        if done == 0 || elapsed < self.said + Self::QUIET.max(self.said / 2) {
            return None;
        }
        self.said = elapsed;
        let left = elapsed.as_secs_f64() * (self.images - done.min(self.images)) as f64 / done as f64;
        Some(format!("the first stage has encoded {done} of {} images; about {left:.0} s to go", self.images))
    }
}

/// Says something that a person should know. Nobody may be there to read it.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "note: {text}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_heard_of_and_short_work_is_not() {
        let mut progress = EncodingProgress::of(1000);
        let mut line = |done, seconds| progress.line(done, Duration::from_secs(seconds));
        assert_eq!((line(0, 60), line(64, 2)), (None, None));
        let said = line(128, 8).unwrap();
        assert!(said.contains("128 of 1000 images") && said.contains("about 54 s"), "{said}");
        assert_eq!((line(192, 9), line(256, 12).is_none()), (None, true));
        assert!(line(900, 60).is_some());
    }

    #[test]
    fn numbers_lead_there_and_back_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("in/it/a.latents");
        assert_eq!(read(&file, 3), Cached::Missing);
        let values = [1.5, -2.0, 1e-20];
        write(&file, &values);
        assert_eq!(read(&file, 3), Cached::Found(values.to_vec()));
        assert!(matches!(read(&file, 2), Cached::Damaged(_)));
        for place in [0, 9, 13] {
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[place] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            assert!(matches!(read(&file, 3), Cached::Damaged(_)), "{place}");
            write(&file, &values);
        }
        std::fs::write(&file, [1, 2]).unwrap();
        assert!(matches!(read(&file, 3), Cached::Damaged(_)));
    }
}
