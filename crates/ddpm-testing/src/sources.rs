//! The sources of all crates as text, for tests that count the places which name something.

use std::path::{Path, PathBuf};

/// A source file.
pub struct Source {
    /// Its path below `crates`.
    pub name: String,
    /// Its code, without comments and without its unit tests.
    pub code: String,
}

impl Source {
    /// Where a path or a name begins in it that is not the end of a longer name.
    fn places(&self, path: &str) -> Vec<usize> {
        let is_whole = |at: &usize| !self.code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        self.code.match_indices(path).map(|(at, _)| at).filter(is_whole).collect()
    }

    /// Whether it has a path or a name.
    pub fn names(&self, path: &str) -> bool {
        !self.places(path).is_empty()
    }

    /// The variants that it names of an enum.
    pub fn variants(&self, of: &str) -> impl Iterator<Item = &str> {
        let start = format!("{of}::");
        let places = self.places(&start);
        let named = places.into_iter().map(move |at| identifier(&self.code[at + start.len()..]));
        named.filter(|name| is_variant(name))
    }
}

/// The files in `src` of every crate.
pub fn sources() -> Vec<Source> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = Vec::new();
    for package in std::fs::read_dir(&crates).unwrap() {
        collect(&package.unwrap().path().join("src"), &mut paths);
    }
    paths.sort();
    let sources: Vec<Source> = paths.iter().filter_map(|path| source(&crates, path)).collect();
    assert!(sources.len() > 200, "{} files: the sources are not where they were", sources.len());
    sources
}

fn source(crates: &Path, path: &Path) -> Option<Source> {
    let name = path.strip_prefix(crates).unwrap().to_str().unwrap().replace('\\', "/");
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\n").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    (!name.ends_with("/tests.rs") && !name.starts_with("ddpm-testing/")).then_some(Source { name, code })
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => collect(&path, paths),
            Some(extension) if extension == "rs" => paths.push(path),
            _ => {}
        }
    }
}

/// The identifier that a text starts with.
fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

/// Variants are in CamelCase, constants in capitals and functions in lower case.
fn is_variant(name: &str) -> bool {
    name.starts_with(|c: char| c.is_uppercase()) && name.contains(|c: char| c.is_lowercase())
}
