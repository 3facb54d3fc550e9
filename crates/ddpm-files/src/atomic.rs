//! Files and folders that appear under their name complete or not at all. All that a program writes for its user goes
//! through here, but for what is appended to.
//!
//! What is new is written next to its target under a temporary name, brought to the disk, and renamed; then the entry
//! in the parent folder is brought to the disk too. So after a kill or a power cut there is the old content or the new
//! one, and never a part. On failure the temporary is removed. [`remove_half_written`] removes those that a killed
//! process left.
//!
//! Files get the mode that the umask gives. A symbolic link stays, and what it points to is replaced. What is no regular
//! file, such as a pipe or `/dev/stdout`, is written directly.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::WriteError;

/// Where the open files of this process have names.
const OPEN_FILES: [&str; 4] = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];

/// Writes a file.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), WriteError> {
    write_with(path, |file| file.write_all(bytes.as_ref()))
}

/// Writes a file piece by piece.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut AtomicFile) -> io::Result<()>) -> Result<(), WriteError> {
    let mut file = AtomicFile::begin(path)?;
    fill(&mut file).map_err(WriteError::at(path))?;
    file.commit()
}

/// As [`write()`], without waiting for the disk: for one of very many files that can be made again from another. A kill
/// leaves no half of it; a power cut can.
pub fn write_derived(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), WriteError> {
    let mut file = AtomicFile::begin(path)?;
    file.write_all(bytes.as_ref()).map_err(WriteError::at(path))?;
    file.commit_derived()
}

/// Gives something complete another name in its folder or elsewhere on its disk.
pub fn rename(from: &Path, to: &Path) -> Result<(), WriteError> {
    fs::rename(from, to).and_then(|()| sync_folder(parent(to))).map_err(WriteError::at(to))
}

/// Removes a folder, under another name: a removal that is cut short leaves nothing that looks complete.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    let going = temporary_name(path, "old")?;
    fs::rename(path, &going)?;
    fs::remove_dir_all(&going)
}

/// A file that is being written.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    /// Where the content is until it is complete; `None` after that, or if it goes to the target directly.
    temporary: Option<PathBuf>,
    file: BufWriter<File>,
}

impl AtomicFile {
    /// Begins a file; it has its name after [`Self::commit`].
    pub fn begin(path: &Path) -> Result<Self, WriteError> {
        Self::open(path).map_err(WriteError::at(path))
    }

    fn open(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            // Said before the content is made, which may take long.
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if is_written_directly(path) {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { target: path.to_path_buf(), temporary: None, file: BufWriter::new(file) });
        }
        let target = if path.is_symlink() { target_of_link(path)? } else { path.to_path_buf() };
        let temporary = temporary_name(&target, "tmp")?;
        let file = BufWriter::new(File::create(&temporary)?);
        Ok(Self { target, temporary: Some(temporary), file })
    }

    /// Where the content is until [`Self::commit`], for writers that want a path. They may replace the file there.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// Brings the content to the disk and gives it its name.
    pub fn commit(mut self) -> Result<(), WriteError> {
        let target = self.target.clone();
        self.file.flush().map_err(WriteError::at(&target))?;
        let Some(temporary) = &self.temporary else { return Ok(()) };
        sync_file(temporary).map_err(WriteError::at(&target))?;
        self.commit_derived()?;
        sync_folder(parent(&target)).map_err(WriteError::at(&target))
    }

    /// Gives the content its name without waiting for the disk; see [`write_derived`].
    pub fn commit_derived(mut self) -> Result<(), WriteError> {
        self.file.flush().map_err(WriteError::at(&self.target))?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.target).map_err(WriteError::at(&self.target))?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct AtomicFolder {
    target: PathBuf,
    /// `None` once it is complete.
    temporary: Option<PathBuf>,
}

impl AtomicFolder {
    /// Begins a folder; it has its name after [`Self::commit`]. Missing parents are made.
    pub fn begin(target: &Path) -> Result<Self, WriteError> {
        let temporary = temporary_name(target, "tmp").map_err(WriteError::at(target))?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(WriteError::at(&temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(WriteError::at(&temporary))?;
        Ok(Self { target: target.to_path_buf(), temporary: Some(temporary) })
    }

    /// Where its files go until [`Self::commit`].
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// Writes one of its files, whose path begins with [`Self::path`], with the folders that are missing on the way. An
    /// empty one is for a writer that would give a new file another mode than that of the umask.
    pub fn write(&self, file: &Path, bytes: impl AsRef<[u8]>) -> Result<(), WriteError> {
        debug_assert!(file.starts_with(self.path()), "{} is elsewhere", file.display());
        fs::create_dir_all(parent(file)).and_then(|()| fs::write(file, bytes)).map_err(WriteError::at(file))
    }

    /// Brings all files in it to the disk and gives it its name, in place of a folder that has it.
    pub fn commit(mut self) -> Result<(), WriteError> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        sync_all(temporary).map_err(WriteError::at(temporary))?;
        put_in_place(temporary, &self.target).map_err(WriteError::at(&self.target))?;
        self.temporary = None;
        sync_folder(parent(&self.target)).map_err(WriteError::at(&self.target))
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_dir_all(temporary);
        }
    }
}

/// Gives a complete folder its name. A folder that had it goes away afterwards; a file that has it stays, with an error.
fn put_in_place(complete: &Path, target: &Path) -> io::Result<()> {
    if !target.exists() {
        return fs::rename(complete, target);
    }
    if !target.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let old = temporary_name(target, "old")?;
    fs::rename(target, &old)?;
    if let Err(error) = fs::rename(complete, target) {
        fs::rename(&old, target)?;
        return Err(error);
    }
    // It costs space only.
    let _ = fs::remove_dir_all(&old);
    Ok(())
}

/// Removes what a killed process left half-written, or half-removed, in a folder that nobody else writes into now. It
/// only costs space, so what cannot be removed stays.
pub fn remove_half_written(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let left = entries.filter(|entry| is_temporary(&entry.file_name().to_string_lossy()));
    for path in left.map(|entry| entry.path()).collect::<Vec<_>>() {
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// Whether a file or folder of this name is one that is not complete: `.NAME.PID.tmp` and `.NAME.PID.old`, and the names
/// that earlier versions gave in run folders and among parts of samples.
fn is_temporary(name: &str) -> bool {
    let is_id = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, last) = name.rsplit_once('.').unwrap_or((name, ""));
    let (before, id) = rest.rsplit_once('.').unwrap_or(("", rest));
    let is_ours = name.starts_with('.') && !before.is_empty() && is_id(id) && ["tmp", "old"].contains(&last);
    let is_part = last == "tmp" && is_id(id) && before.split('-').all(is_id);
    let of_earlier_runs = ["config.toml.tmp", "manifest.json.tmp", "metrics.jsonl.tmp"];
    is_ours || is_part || name.starts_with(".step-") || of_earlier_runs.contains(&name)
}

/// A hidden name next to the target, of this process alone.
fn temporary_name(target: &Path, ending: &str) -> io::Result<PathBuf> {
    let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a name");
    let mut hidden = OsString::from(".");
    hidden.push(target.file_name().ok_or_else(nameless)?);
    hidden.push(format!(".{}.{ending}", std::process::id()));
    Ok(target.with_file_name(hidden))
}

/// The file that a symbolic link points to, which need not be there.
fn target_of_link(link: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(link).or_else(|_| Ok(parent(link).join(fs::read_link(link)?)))
}

/// Whether a rename would replace something that is no file on a disk.
fn is_written_directly(path: &Path) -> bool {
    OPEN_FILES.iter().any(|open| path.starts_with(open))
        || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until all files below a folder, and the folders, are on the disk.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { sync_file(&path)? }
    }
    sync_folder(folder)
}

fn sync_file(path: &Path) -> io::Result<()> {
    // Windows only syncs what is open for writing.
    OpenOptions::new().read(true).write(cfg!(windows)).open(path)?.sync_all()
}

/// Brings the entries of a folder to the disk, where the system and the rights allow it.
fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    if cfg!(windows) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if [InvalidInput, PermissionDenied, Unsupported].contains(&error.kind()) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn names_of<const N: usize>(names: [&str; N]) -> Vec<String> {
        names.map(String::from).into()
    }

    #[test]
    fn a_file_has_its_old_content_until_the_new_one_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, "old").unwrap();
        let mut file = AtomicFile::begin(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()).len(), 2);
        file.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        write_derived(&path, "newest").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "newest");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failure_leaves_what_was_there_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, "old").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), format!("cannot write {}: full", path.display()));
        assert_eq!((fs::read_to_string(&path).unwrap(), names(dir.path())), ("old".into(), vec!["a.json".into()]));
        // A rename that fails, as there is a folder by now.
        let folder = dir.path().join("folder");
        let [file, derived] = [(); 2].map(|()| AtomicFile::begin(&folder).unwrap());
        fs::create_dir(&folder).unwrap();
        assert!(file.commit().is_err() && derived.commit_derived().is_err());
        assert_eq!(names(dir.path()), ["a.json", "folder"]);
    }

    #[test]
    fn errors_name_the_path_and_the_cause() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("file"), "kept").unwrap();
        let folder = |name: &str| AtomicFolder::begin(&at(name)).and_then(AtomicFolder::commit);
        for (refused, name, cause) in [
            (write(&at("folder"), "a file"), "folder", "is a directory"),
            (write_derived(&at("folder"), "a file"), "folder", "is a directory"),
            (write(&at("none/a.json"), ""), "none/a.json", "No such file or directory"),
            (write(&at("file/a.json"), ""), "file/a.json", "Not a directory"),
            (folder("file"), "file", "not a directory"),
            (folder("file/in/it"), "file/in/.it.", "Not a directory"),
            (rename(&at("none"), &at("some")), "some", "No such file or directory"),
            (write(&at(".."), ""), "..", "directory"),
            (write(Path::new(""), ""), "", "does not end in a name"),
        ] {
            let said = refused.unwrap_err().to_string();
            assert!(said.starts_with("cannot write ") && said.contains(name) && said.contains(cause), "{said}");
        }
        assert_eq!(
            (names(dir.path()), fs::read_to_string(at("file")).unwrap()),
            (names_of(["file", "folder"]), "kept".into())
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_named() {
        let said = write(Path::new("/dev/full"), "a file").unwrap_err().to_string();
        assert!(said.contains("/dev/full: No space left on device"), "{said}");
    }

    #[test]
    fn another_writer_may_replace_the_file_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let file = AtomicFile::begin(&path).unwrap();
        let scratch = dir.path().join("scratch");
        fs::write(&scratch, "theirs").unwrap();
        fs::rename(&scratch, file.path()).unwrap();
        file.commit().unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap(), names(dir.path())), ("theirs".into(), vec!["weights".into()]));
    }

    #[test]
    #[cfg(unix)]
    fn files_get_the_mode_of_the_umask_and_links_stay_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode();
        fs::write(at("theirs"), "").unwrap();
        write(&at("ours"), "").unwrap();
        assert_eq!(mode("ours"), mode("theirs"));
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/a"), "old").unwrap();
        symlink(at("elsewhere/a"), at("link")).unwrap();
        write(&at("link"), "new").unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read_to_string(at("elsewhere/a")).unwrap(), "new");
        assert_eq!(names(&at("elsewhere")), ["a"]);
        symlink("not yet there", at("new link")).unwrap();
        write(&at("new link"), "there").unwrap();
        assert!(at("new link").is_symlink());
        assert_eq!(fs::read_to_string(at("not yet there")).unwrap(), "there");
        write(Path::new("/dev/null"), "gone").unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }

    #[test]
    fn a_folder_appears_complete_replaces_another_and_vanishes_on_failure() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/step-00000001");
        for content in ["first", "second"] {
            let folder = AtomicFolder::begin(&target).unwrap();
            folder.write(&folder.path().join("unet/weights"), content).unwrap();
            assert_eq!(target.exists(), content == "second");
            folder.commit().unwrap();
            assert_eq!(fs::read_to_string(target.join("unet/weights")).unwrap(), content);
        }
        fs::write(AtomicFolder::begin(&target).unwrap().path().join("half"), "").unwrap();
        assert_eq!(names(&dir.path().join("new")), ["step-00000001"]);
        rename(&target, &dir.path().join("new/kept")).unwrap();
        assert_eq!(names(&dir.path().join("new")), ["kept"]);
        remove_folder(&dir.path().join("new/kept")).unwrap();
        assert_eq!(names(&dir.path().join("new")), [""; 0]);
    }

    #[test]
    fn what_a_killed_process_left_is_known_by_its_name_today_and_of_old() {
        let dir = tempfile::tempdir().unwrap();
        let own = |name: &str, ending| {
            let path = temporary_name(Path::new(name), ending).unwrap();
            path.into_os_string().into_string().unwrap()
        };
        let left = [
            &own("step-00000001", "tmp"),
            &own("step-00000002", "old"),
            &own("config.toml", "tmp"),
            ".step-00000003.123.tmp",
            ".step-00000004.old",
            "config.toml.tmp",
            "manifest.json.tmp",
            "metrics.jsonl.tmp",
            "00000000-00000002.4711.tmp",
        ];
        let kept = [
            ".hidden.tmp",
            ".lock",
            "config.toml",
            "grid.png.partial",
            "mine.tmp",
            "notes.12.tmp",
            "set-aside-1-step-00000006",
            "step-00000001",
            "thesis.2026.old",
            "tmp",
            "weights.safetensors",
        ];
        for name in left.into_iter().chain(kept) {
            let path = dir.path().join(name);
            if name.contains("step-") {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("model.bpk"), "").unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        }
        remove_half_written(dir.path());
        assert_eq!(names(dir.path()), kept);
        remove_half_written(&dir.path().join("none"));
    }
}
