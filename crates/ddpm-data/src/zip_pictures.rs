//! Pictures in a zip archive, which is never unpacked.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use crate::error::DataError;
use crate::file_list::FileList;
use crate::image_folder::EXPECTED;
use crate::zip::{self, Member, ZipError};

/// A file in an archive is read into memory whole.
const LARGEST_FILE: u64 = 512 << 20;

/// The files of an archive, sorted as those of a folder would be.
pub(crate) struct ZipPictures {
    pub(crate) path: PathBuf,
    pub(crate) files: FileList,
    members: Vec<Member>,
    /// What was taken off the front of the names: the folder of the split.
    pub(crate) prefix: &'static str,
}

impl ZipPictures {
    /// Opens an archive: whole, or its train and its test if it has its own split.
    pub(crate) fn open(path: &Path) -> Result<Vec<Self>, DataError> {
        let found = members(path)?;
        let folders = ["train/", "test/"];
        let has_split = folders.iter().all(|folder| found.iter().any(|(name, _)| name.starts_with(folder)));
        let prefixes = if has_split { &folders[..] } else { &[""] };
        prefixes.iter().map(|prefix| Self::below(path, prefix, &found)).collect()
    }

    /// The files whose names begin so.
    fn below(path: &Path, prefix: &'static str, found: &[(String, Member)]) -> Result<Self, DataError> {
        let mut this = Self { path: path.to_path_buf(), files: FileList::default(), members: Vec::new(), prefix };
        let mut folders = HashMap::new();
        for (name, member) in found {
            let Some(name) = name.strip_prefix(prefix) else { continue };
            let (folder, name) = name.rsplit_once('/').unwrap_or(("", name));
            let folder = *folders.entry(folder.to_string()).or_insert_with(|| this.files.add_folder(folder.into()));
            if !this.files.push(folder, OsStr::new(name)) {
                return Err(DataError::format(path, "too many files: their names take more than 4 GiB"));
            }
            this.members.push(*member);
        }
        this.files.shrink();
        this.members.shrink_to_fit();
        Ok(this)
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, file: usize) -> Result<Vec<u8>, String> {
        // Opened anew, so that threads do not share a place in it.
        let mut archive = File::open(&self.path).map_err(|error| error.to_string())?;
        let path = self.files.path(file);
        let parts: Vec<_> = path.iter().map(OsStr::to_string_lossy).collect();
        let name = format!("{}{}", self.prefix, parts.join("/"));
        self.members[file].read(&mut archive, &name, LARGEST_FILE).map_err(|error| error.to_string())
    }
}

/// All files of an archive that are not hidden, sorted by name.
fn members(path: &Path) -> Result<Vec<(String, Member)>, DataError> {
    let wrong = |error| match error {
        ZipError::Io(source) => DataError::io(path, EXPECTED, source),
        ZipError::Broken(reason) => DataError::format(path, format!("{reason}; expected {EXPECTED}")),
    };
    let mut file = File::open(path).map_err(|source| DataError::io(path, EXPECTED, source))?;
    let mut found: Vec<(String, Member)> = Vec::new();
    zip::for_each(&mut file, |name, member| {
        let mut parts = Path::new(&name).components();
        if parts.clone().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(ZipError::Broken(format!("{name} leads out of the archive")));
        }
        // What a Mac packs beside the files, and what is hidden.
        if !parts.any(|part| part.as_os_str().as_encoded_bytes().starts_with(b".")) && !name.starts_with("__MACOSX/") {
            found.push((name, member));
        }
        Ok(())
    })
    .map_err(wrong)?;
    found.sort_by(|(a, _), (b, _)| Path::new(a).cmp(Path::new(b)));
    if let Some([(name, _), _]) = found.array_windows().find(|[(a, _), (b, _)]| a == b) {
        return Err(DataError::format(path, format!("{name} is in the archive twice")));
    }
    if found.is_empty() {
        return Err(DataError::EmptyFolder { path: path.to_path_buf(), expected: EXPECTED.into() });
    }
    Ok(found)
}
