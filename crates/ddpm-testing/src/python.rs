//! Scripts that run in the Python which `DDPM_PYTHON` names: other projects themselves, next to ours.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// That Python; or nothing, with a word that it should have `packages`.
pub fn python_with(packages: &str) -> Option<PathBuf> {
    let python = std::env::var_os("DDPM_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("not run: DDPM_PYTHON names no Python with {packages}");
    }
    python
}

/// What a script says, which must succeed.
pub fn run<W: AsRef<OsStr>>(python: &Path, script: &Path, words: impl IntoIterator<Item = W>) -> String {
    let output = Command::new(python).arg(script).args(words).output().expect("DDPM_PYTHON can be run");
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().into()
}
