//! Sharded sampling: parts of a job's samples on disk, and joining them.
//!
//! Sample k is the same whoever draws it, so a part is a range of samples and nothing else. Parts of another job are
//! refused, and what no part holds can be drawn when all are put together.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ddpm_files::{WriteError, atomic, npy};

/// The folder of the parts, beside what is made of them.
const PARTS: &str = "parts";
/// The job that the parts are of.
const ABOUT: &str = "job.txt";

/// Why parts cannot be kept or put together.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A part cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A part that cannot be read.
    #[error("{path} is not a part of these samples: {reason}; remove it and run its shard again")]
    Part {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Parts of something else.
    #[error("{path} holds parts of another job ({found}; this one is {wanted}): choose another --out, or remove it")]
    OtherJob {
        /// The folder of the parts.
        path: PathBuf,
        /// What they are parts of.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

/// One of several processes that share a job (`--shard I/N`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `of`.
    pub number: usize,
    /// How many processes there are.
    pub of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if 1 <= number && number <= of => Ok(Self { number, of }),
            _ => Err("expected I/N, from 1/N to N/N".into()),
        }
    }
}

impl Shard {
    /// The only process.
    pub const ALL: Self = Self { number: 1, of: 1 };

    /// Whether it makes this block; blocks take turns.
    pub fn has_block(self, block: usize) -> bool {
        block % self.of == self.number - 1
    }

    /// Which of `count` samples it makes: as many in a row as the other shards, or one more or less.
    pub fn range(self, count: usize) -> Range<usize> {
        // Wide enough for any two numbers; what comes out is at most `count`.
        let at = |shard: usize| (count as u128 * shard as u128 / self.of as u128) as usize;
        at(self.number - 1)..at(self.number)
    }
}

/// The parts of one job.
#[derive(Debug)]
pub struct Parts {
    folder: PathBuf,
    shape: Vec<usize>,
}

impl Parts {
    /// Whether there are parts in the folder of samples `out`.
    pub fn are_in(out: &Path) -> bool {
        out.join(PARTS).is_dir()
    }

    /// The parts in the folder of samples `out`, of samples of this shape; `job` says what has to be the same in all.
    pub fn open(out: &Path, shape: &[usize], job: &str) -> Result<Self, ShardError> {
        let folder = out.join(PARTS);
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let about = folder.join(ABOUT);
        match std::fs::read_to_string(&about) {
            Ok(found) if found == job => {}
            Ok(found) => return Err(ShardError::OtherJob { path: folder, found, wanted: job.into() }),
            Err(_) => atomic::write(&about, job)?,
        }
        Ok(Self { folder, shape: shape.to_vec() })
    }

    /// Removes the parts in the folder of samples `out`, whatever job they are of.
    pub fn remove(out: &Path) -> Result<(), ShardError> {
        if !Self::are_in(out) {
            return Ok(());
        }
        let parts = Self { folder: out.join(PARTS), shape: Vec::new() };
        atomic::remove_half_written(&parts.folder);
        let files = parts.ranges()?.into_iter().map(|(_, path)| path);
        for path in files.chain(Some(parts.folder.join(ABOUT)).filter(|about| about.exists())) {
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
        std::fs::remove_dir(&parts.folder).map_err(failed(&parts.folder))
    }

    /// Keeps the values of the samples in a range; gives the file.
    pub fn write(&self, range: &Range<usize>, values: &[f32]) -> Result<PathBuf, ShardError> {
        let path = self.folder.join(format!("{:08}-{:08}.npy", range.start, range.end));
        let shape: Vec<usize> = [range.len()].into_iter().chain(self.shape.iter().copied()).collect();
        atomic::write(&path, npy::encode(&shape, values))?;
        Ok(path)
    }

    /// The values of all `count` samples; `draw` makes those in ranges that no part holds.
    pub fn join<E: From<ShardError>>(
        &self,
        count: usize,
        mut draw: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let mut ranges = self.ranges()?;
        ranges.sort_by_key(|(range, _)| range.start);
        let per_sample: usize = self.shape.iter().product();
        let mut values = Vec::with_capacity(count * per_sample);
        for (range, path) in ranges {
            let done = values.len() / per_sample;
            if range.end.min(count) <= done {
                continue;
            }
            if done < range.start.min(count) {
                values.extend(draw(done..range.start.min(count))?);
            }
            let from = values.len() / per_sample;
            let read = self.read(&range, &path)?;
            if from < count {
                let until = range.end.min(count) - range.start;
                values.extend(&read[(from - range.start) * per_sample..until * per_sample]);
            }
        }
        let done = values.len() / per_sample;
        if done < count {
            values.extend(draw(done..count)?);
        }
        Ok(values)
    }

    /// The ranges that there are parts of, by the names of the files.
    fn ranges(&self) -> Result<Vec<(Range<usize>, PathBuf)>, ShardError> {
        let entries = std::fs::read_dir(&self.folder).map_err(failed(&self.folder))?;
        let range = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.strip_suffix(".npy")?;
            let (start, end) = name.split_once('-')?;
            Some((start.parse().ok()?..end.parse().ok()?, path))
        };
        Ok(entries.flatten().filter_map(|entry| range(entry.path())).collect())
    }

    fn read(&self, range: &Range<usize>, path: &Path) -> Result<Vec<f32>, ShardError> {
        let part = |reason: String| ShardError::Part { path: path.to_path_buf(), reason };
        let bytes = std::fs::read(path).map_err(failed(path))?;
        let (shape, values) = npy::decode(&bytes).map_err(part)?;
        let wanted: Vec<usize> = [range.len()].into_iter().chain(self.shape.iter().copied()).collect();
        if shape == wanted { Ok(values) } else { Err(part(format!("its shape is {shape:?}, not {wanted:?}"))) }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ShardError {
    let path = path.to_path_buf();
    move |error| ShardError::Io { path, error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shard(text: &str) -> Shard {
        text.parse().unwrap()
    }

    #[test]
    fn shards_share_all_samples_out() {
        for (count, of) in [(10, 3), (7, 7), (2, 5), (1000, 8), (usize::MAX, 3)] {
            let mut next = 0;
            for number in 1..=of {
                let range = shard(&format!("{number}/{of}")).range(count);
                assert_eq!(range.start, next);
                assert!(range.len().abs_diff(count / of) <= 1);
                next = range.end;
            }
            assert_eq!(next, count);
        }
    }

    #[test]
    fn shards_are_counted_from_one() {
        for wrong in ["0/2", "3/2", "2", "a/b", ""] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains("I/N"));
        }
    }

    #[test]
    fn every_block_belongs_to_one_shard() {
        for of in [1, 2, 5] {
            for block in 0..12 {
                let owners = (1..=of).filter(|number| Shard { number: *number, of }.has_block(block));
                assert_eq!(owners.count(), 1);
            }
        }
        assert!((0..4).all(|block| Shard::ALL.has_block(block)));
    }

    #[test]
    fn parts_of_any_division_are_put_together_and_gaps_are_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::open(dir.path(), &[2], "a job").unwrap();
        let values = |range: Range<usize>| range.flat_map(|k| [k as f32, -(k as f32)]).collect::<Vec<_>>();
        for range in [2..5, 4..6, 8..9] {
            parts.write(&range, &values(range.clone())).unwrap();
        }
        let mut drawn = Vec::new();
        let mut join = |count| {
            parts.join(count, |range| {
                drawn.push(range.clone());
                Ok::<_, ShardError>(values(range))
            })
        };
        assert_eq!(join(10).unwrap(), values(0..10));
        assert_eq!(join(3).unwrap(), values(0..3));
        assert_eq!(drawn, [0..2, 6..8, 9..10, 0..2]);
    }

    #[test]
    fn parts_of_other_jobs_and_broken_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::open(dir.path(), &[2], "a job").unwrap();
        let message = Parts::open(dir.path(), &[2], "another").unwrap_err().to_string();
        assert!(message.contains("a job") && message.contains("another"), "{message}");
        let file = parts.write(&(0..2), &[0.0; 4]).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 4]).unwrap();
        let message = parts.join(2, |_| Err(ShardError::from_test())).unwrap_err().to_string();
        assert!(message.contains("00000000-00000002.npy"), "{message}");
    }

    impl ShardError {
        fn from_test() -> Self {
            Self::Part { path: PathBuf::new(), reason: "nothing had to be drawn".into() }
        }
    }
}
