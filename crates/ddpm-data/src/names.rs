//! Names of files and folders: as people type them, and as they are printed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

/// A text with its control characters escaped, so that a name with a newline stays in its line and none can steer the
/// terminal.
pub fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') => {
                printed.extend(letter.escape_default());
            }
            _ => printed.push(letter),
        }
    }
    printed
}

/// A path as messages print it.
pub fn shown(path: &Path) -> String {
    match path.to_string_lossy() {
        empty if empty.is_empty() => "\"\"".into(),
        text => printable(&text),
    }
}

/// A path whose leading `~/` is the home folder, as a shell would read it.
pub fn with_home(path: &Path) -> PathBuf {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_path_buf(),
    }
}

/// Reads the `path` of a config.
pub(crate) fn read_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(with_home(&PathBuf::deserialize(deserializer)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(printable("a\nb\r\u{1b}[31m\u{0}\u{2028}"), "a\\nb\\r\\u{1b}[31m\\u{0}\\u{2028}");
        let names = "caf\u{e9} e\u{301} \u{1f600} it's \"so\" \\ ~";
        assert_eq!(printable(names), names);
        assert_eq!(shown(Path::new("a\tb/c")), "a\\tb/c");
        assert_eq!(shown(Path::new("")), "\"\"");
    }

    #[test]
    fn a_leading_tilde_is_the_home_folder() {
        // Set wherever tests run; where it is not, a tilde stays what it is.
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = |rest: &str| home.clone().unwrap_or_else(|| "~".into()).join(rest);
        assert_eq!(with_home(Path::new("~/pics")), home("pics"));
        assert_eq!(with_home(Path::new("~")), home(""));
        for other in ["~me/pics", "a/~/b", "/~", "pics~"] {
            assert_eq!(with_home(Path::new(other)), Path::new(other));
        }
    }
}
