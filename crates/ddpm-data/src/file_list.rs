//! The names of very many files in little memory, sorted as paths are.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::hold_out::key_of_name;

/// Files by their paths below some root. What a file takes is its own name and eight bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileList {
    folders: Vec<PathBuf>,
    /// Of each file, its folder.
    folder_of: Vec<u32>,
    /// All names, one after the other, and where each ends.
    names: String,
    ends: Vec<u32>,
    /// Names that are no text.
    odd: BTreeMap<u32, OsString>,
}

impl FileList {
    /// A folder, which files can be pushed into.
    pub(crate) fn add_folder(&mut self, folder: PathBuf) -> u32 {
        self.folders.push(folder);
        self.folders.len() as u32 - 1
    }

    /// One more file; false if there is no more room.
    #[must_use]
    pub(crate) fn push(&mut self, folder: u32, name: &OsStr) -> bool {
        let file = self.ends.len() as u32;
        match name.to_str() {
            Some(name) => self.names.push_str(name),
            None => _ = self.odd.insert(file, name.to_os_string()),
        }
        self.folder_of.push(folder);
        let end = u32::try_from(self.names.len());
        self.ends.push(end.unwrap_or(u32::MAX));
        end.is_ok() && file < u32::MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The folder of a file, from the root.
    pub(crate) fn folder(&self, file: usize) -> &Path {
        &self.folders[self.folder_of[file] as usize]
    }

    /// The path of a file, from the root.
    pub(crate) fn path(&self, file: usize) -> PathBuf {
        self.folder(file).join(self.name(file))
    }

    fn name(&self, file: usize) -> &OsStr {
        if let Some(name) = self.odd.get(&(file as u32)) {
            return name;
        }
        let start = file.checked_sub(1).map_or(0, |before| self.ends[before]);
        OsStr::new(&self.names[start as usize..self.ends[file] as usize])
    }

    /// The first folder on the way to a file.
    pub(crate) fn top_folder(&self, file: usize) -> Option<&OsStr> {
        self.folder(file).components().next().map(|part| part.as_os_str())
    }

    /// A stable number for the path of a file from the root, wherever that lies.
    pub(crate) fn key(&self, file: usize) -> u64 {
        let parts = self.folder(file).components().map(|part| part.as_os_str()).chain([self.name(file)]);
        key_of_name(parts.map(OsStr::as_encoded_bytes))
    }

    /// Gives back what was taken for growing.
    pub(crate) fn shrink(&mut self) {
        self.folders.shrink_to_fit();
        self.folder_of.shrink_to_fit();
        self.names.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Finds all files below a folder, sorted by path; hidden ones (`.DS_Store`, `.thumbnails`) are not looked at.
    pub(crate) fn find(root: &Path, expected: &str) -> Result<Self, DataError> {
        let metadata = fs::metadata(root).map_err(|source| DataError::io(root, expected, source))?;
        if !metadata.is_dir() {
            return Err(DataError::format(root, format!("not a folder; expected {expected}")));
        }
        let mut files = Self::default();
        // Links to folders are followed, so a folder can be reached twice, or for ever.
        let mut visited = HashSet::new();
        let mut open = Vec::from_iter(files.enter(root, PathBuf::new(), &mut visited, expected)?);
        while let Some((folder, entries)) = open.last_mut() {
            let Some((name, is_folder)) = entries.next() else {
                open.pop();
                continue;
            };
            if is_folder {
                let inside = files.folders[*folder as usize].join(name);
                open.extend(files.enter(root, inside, &mut visited, expected)?);
            } else if !files.push(*folder, &name) {
                return Err(DataError::format(root, "too many files: their names take more than 4 GiB"));
            }
        }
        if files.len() == 0 {
            return Err(DataError::EmptyFolder { path: root.to_path_buf(), expected: expected.into() });
        }
        files.shrink();
        Ok(files)
    }

    /// The number of a folder and what it holds, sorted, if it was not visited before.
    fn enter(
        &mut self,
        root: &Path,
        folder: PathBuf,
        visited: &mut HashSet<PathBuf>,
        expected: &str,
    ) -> Result<Option<Entries>, DataError> {
        let path = root.join(&folder);
        let on_io = |source| DataError::io(&path, expected, source);
        if !visited.insert(fs::canonicalize(&path).map_err(on_io)?) {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path).map_err(on_io)? {
            let entry = entry.map_err(on_io)?;
            let name = entry.file_name();
            if !name.as_encoded_bytes().starts_with(b".") {
                let is_folder = match entry.file_type().map_err(on_io)? {
                    kind if kind.is_file() || kind.is_dir() => kind.is_dir(),
                    // A link that leads nowhere is kept as a file, and found bad when read.
                    _ => fs::metadata(path.join(&name)).is_ok_and(|metadata| metadata.is_dir()),
                };
                entries.push((name, is_folder));
            }
        }
        entries.sort_unstable();
        Ok(Some((self.add_folder(folder), entries.into_iter())))
    }
}

/// The number of a folder, and those of its names that are still to come, each with whether it is a folder.
type Entries = (u32, std::vec::IntoIter<(OsString, bool)>);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_million_names_take_their_letters_and_eight_bytes_each() {
        let mut files = FileList::default();
        let folders: Vec<u32> = (0..1000).map(|k| files.add_folder(format!("class {k:04}").into())).collect();
        for k in 0..1_000_000_u32 {
            assert!(files.push(folders[k as usize / 1000], OsStr::new(&format!("{k:08}.jpg"))));
        }
        files.shrink();
        let bytes = files.names.capacity() + 4 * (files.ends.capacity() + files.folder_of.capacity());
        assert_eq!(bytes, 1_000_000 * (12 + 8));
        assert_eq!(files.path(123_456), Path::new("class 0123/00123456.jpg"));
        assert_eq!(files.top_folder(999_999).unwrap(), "class 0999");
    }

    #[test]
    fn files_are_sorted_as_their_paths_are() {
        let root = tempfile::tempdir().unwrap();
        for path in ["b", "a.png", "a/z", "a/b/c", "a/b.c", "a/bb/0", "a-b/x", "B/1", ".hidden/x", "a/.hidden"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let files = FileList::find(root.path(), "files").unwrap();
        let paths: Vec<PathBuf> = (0..files.len()).map(|file| files.path(file)).collect();
        let mut sorted = paths.clone();
        sorted.sort();
        assert_eq!(paths, sorted);
        assert_eq!(paths.len(), 8);
        assert!(files.top_folder(paths.iter().position(|path| path == Path::new("b")).unwrap()).is_none());
    }
}
