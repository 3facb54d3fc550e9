//! Which pictures were found good before, so that a folder of a million is not looked through at every start.
//!
//! The file in the cache folder is a set of numbers, one for each good picture: a hash of its path below the root,
//! its size and its time of change. A picture that changed has another number.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ddpm_files::atomic;

use crate::hold_out::key_of_name;
use crate::random::{Stream, mix};

/// Fewer files than this are decoded in no time.
pub(crate) const WORTH_KEEPING: usize = 100;

const MAGIC: &[u8; 16] = b"ddpm good files\n";

/// The pictures below one root that were found good.
#[derive(Debug, Default)]
pub(crate) struct KnownGood {
    /// Sorted.
    stamps: Vec<u64>,
}

/// Where such files lie: `$DDPM_CACHE`, or `ddpm` in the user's cache folder; nowhere if there is none.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("DDPM_CACHE").or_else(|| {
        let user = match std::env::consts::OS {
            "windows" => var("LOCALAPPDATA"),
            "macos" => var("HOME").map(|home| home.join("Library/Caches")),
            _ => var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache"))),
        };
        user.map(|user| user.join("ddpm"))
    })
}

/// The number of a file that is as it is now.
pub(crate) fn stamp(key: u64, metadata: &Metadata) -> u64 {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let seed = mix(key, Stream::Split, metadata.len());
    mix(seed, Stream::Split, changed.as_nanos() as u64)
}

impl KnownGood {
    /// What was noted; nothing if that cannot be read, or is not as it was written.
    pub(crate) fn read(note: &Path) -> Self {
        let bytes = fs::read(note).unwrap_or_default();
        let stamps = bytes.strip_prefix(MAGIC).and_then(|rest| {
            let (crc, numbers) = rest.split_first_chunk()?;
            (u32::from_le_bytes(*crc) == crc32fast::hash(numbers))
                .then(|| numbers.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number)).collect())
        });
        Self { stamps: stamps.unwrap_or_default() }
    }

    /// Whether the file of this number was found good.
    pub(crate) fn has(&self, stamp: u64) -> bool {
        self.stamps.binary_search(&stamp).is_ok()
    }

    /// Notes these instead, unless nothing changed. A cache that cannot be written costs time and nothing else.
    pub(crate) fn replace(self, mut stamps: Vec<u64>, note: &Path) {
        stamps.sort_unstable();
        if stamps == self.stamps {
            return;
        }
        let numbers: Vec<u8> = stamps.iter().flat_map(|stamp| stamp.to_le_bytes()).collect();
        let bytes = [&MAGIC[..], &crc32fast::hash(&numbers).to_le_bytes(), &numbers].concat();
        let _ = note.parent().map(fs::create_dir_all);
        let _ = atomic::write_derived(note, bytes);
    }
}

/// The file for what was found below a root.
pub(crate) fn note(cache: &Path, root: &Path) -> PathBuf {
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let key = key_of_name(root.components().map(|part| part.as_os_str().as_encoded_bytes()));
    cache.join(format!("{key:016x}.whole"))
}
