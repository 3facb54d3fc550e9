//! What the files of a snapshot were when they were written.
//!
//! A snapshot lists the CRC-32 of its files in [`OWN`]; one of format 1 in a single file has its own in its header.
//! CRC-32 guards against accidents (a bad sector, a torn copy, an edit that was forgotten), not against
//! forgery. Snapshots without sums, and folders of others, are not checked.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use ddpm_files::checksums::{self, crc32, hex};

use crate::diffusers::pipeline::read_json;
use crate::snapshot::{OWN, WEIGHTS};

/// The key of the list in [`OWN`].
const KEY: &str = "checksums";
/// The key of the sum in the header of a single file.
const HEADER_KEY: &str = "crc32";
/// What stood there while the sum was made.
const OPEN: &str = "00000000";
/// No header of a real file comes near this.
const LARGEST_HEADER: u64 = 64 << 20;

/// A file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The file.
    pub file: PathBuf,
    /// Its sum; `None` if it is not there.
    pub found: Option<String>,
    /// The sum of what was written.
    pub written: String,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.found {
            Some(found) => {
                write!(f, "{file} has changed since it was written: its CRC-32 is {found}, expected {}", self.written)
            }
            None => write!(f, "{file} is missing"),
        }
    }
}

/// The sums of files of a folder, by their paths within it.
pub fn of_files(dir: &Path, files: &[PathBuf]) -> io::Result<BTreeMap<String, String>> {
    let of = |file: &PathBuf| {
        let within: Vec<_> = file.strip_prefix(dir).unwrap_or(file).iter().map(|part| part.to_string_lossy()).collect();
        Ok((within.join("/"), checksums::of_file(file)?))
    };
    files.iter().map(of).collect()
}

/// Which files of a snapshot have changed since they were written; `path` is its folder, or its one file. What cannot
/// be read is left to whoever opens the snapshot.
pub fn changed(path: &Path) -> Vec<Changed> {
    let own = path.join(OWN);
    let file = if path.is_dir() { path.join(WEIGHTS) } else { path.to_path_buf() };
    match own.is_file() {
        true => changed_files(path, &own),
        false => changed_file(&file).ok().flatten().into_iter().collect(),
    }
}

fn changed_files(dir: &Path, own: &Path) -> Vec<Changed> {
    let json = read_json(own).unwrap_or_default();
    let Some(sums) = json.get(KEY).and_then(|sums| sums.as_object()) else { return Vec::new() };
    let compare = |(name, written): (&String, &serde_json::Value)| {
        // A list from elsewhere must not lead out of the folder.
        let is_within = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let (file, written) = (dir.join(name), written.as_str().filter(|_| is_within)?.to_string());
        let found = match checksums::of_file(&file) {
            Ok(found) if found == written => return None,
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => return None,
        };
        Some(Changed { file, found, written })
    };
    sums.iter().filter_map(compare).collect()
}

fn changed_file(path: &Path) -> io::Result<Option<Changed>> {
    let mut file = File::open(path)?;
    let mut header = read_header(&mut file)?;
    let Some(place) = place(&header) else { return Ok(None) };
    let sealed = &mut header[place..place + OPEN.len()];
    let written = String::from_utf8_lossy(sealed).into_owned();
    sealed.copy_from_slice(OPEN.as_bytes());
    let found = hex(crc32(header.as_slice().chain(file))?);
    Ok((found != written).then(|| Changed { file: path.to_path_buf(), found: Some(found), written }))
}

/// The start of a safetensors file, to the end of its header.
fn read_header(file: &mut File) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = length.to_vec();
    file.take(u64::from_le_bytes(length).min(LARGEST_HEADER)).read_to_end(&mut header)?;
    Ok(header)
}

/// Where the sum stands in a header.
fn place(header: &[u8]) -> Option<usize> {
    // Within the description, quotes have a backslash before them.
    let key = format!("\"{HEADER_KEY}\":\"");
    let place = header.windows(key.len()).position(|bytes| bytes == key.as_bytes())? + key.len();
    (place + OPEN.len() <= header.len()).then_some(place)
}
