//! How the program was started, for the commands that it tells people to type.

use std::ffi::OsStr;
use std::path::Path;

/// The variable of the environment in which whoever starts the program may say how that is done, for example
/// `cargo xtask train --features wgpu --release`.
const VARIABLE: &str = "DDPM_STARTED_AS";

/// The words that start this program again as it was started, up to its own arguments.
pub fn program() -> String {
    if let Some(words) = std::env::var(VARIABLE).ok().filter(|words| !words.trim().is_empty()) {
        return words;
    }
    // cargo says so to what it runs.
    if std::env::var_os("CARGO").is_some() {
        let executable = std::env::current_exe().unwrap_or_default();
        return cargo_run(executable.parent().and_then(Path::file_name), &features());
    }
    std::env::args_os().next().map_or_else(|| "ddpm-train".into(), |name| quoted(&name))
}

/// The command that starts this program without arguments.
pub fn without_arguments() -> String {
    let words = program();
    words.strip_suffix(" --").unwrap_or(&words).into()
}

/// The features that are compiled in beyond the default, or all of them where one of the default is not.
fn features() -> Vec<&'static str> {
    let all = [
        ("flex", cfg!(feature = "flex")),
        ("tui", cfg!(feature = "tui")),
        ("ndarray", cfg!(feature = "ndarray")),
        ("tch", cfg!(feature = "tch")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("cpu", cfg!(feature = "cpu")),
    ];
    all.into_iter().filter(|(_, compiled)| *compiled).map(|(name, _)| name).collect()
}

/// `cargo run` of a program that was built into `target/FOLDER` with these features.
fn cargo_run(folder: Option<&OsStr>, features: &[&str]) -> String {
    let mut words = vec!["cargo run -p ddpm-train".to_string()];
    match folder.and_then(OsStr::to_str) {
        Some("debug") | None => {}
        Some("release") => words.push("--release".into()),
        Some(profile) => words.push(format!("--profile {}", quoted(profile))),
    }
    let default = ["flex", "tui"];
    let is_default = default.iter().all(|name| features.contains(name));
    let named: Vec<&str> = features.iter().filter(|name| !is_default || !default.contains(name)).copied().collect();
    if !is_default {
        words.push("--no-default-features".into());
    }
    if !named.is_empty() {
        words.push(format!("--features {}", named.join(",")));
    }
    words.push("--".into());
    words.join(" ")
}

/// A word as a shell takes it for one word, whatever is in it.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.into(),
        Some(text) => format!("'{}'", text.replace('\'', "'\\''")),
        // What is no text is written byte by byte, in the form that bash, zsh and ksh read.
        None => {
            let escaped = |byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", word.as_encoded_bytes().iter().map(escaped).collect::<String>())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_told_what_it_was_told_before() {
        let run = |folder: &str, features: &[&str]| cargo_run(Some(OsStr::new(folder)), features);
        assert_eq!(run("debug", &["flex", "tui"]), "cargo run -p ddpm-train --");
        assert_eq!(run("release", &["flex", "tui", "wgpu"]), "cargo run -p ddpm-train --release --features wgpu --");
        assert_eq!(
            run("fast", &["flex", "cuda"]),
            "cargo run -p ddpm-train --profile fast --no-default-features --features flex,cuda --"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        use std::os::unix::ffi::OsStrExt;
        for word in [&b"runs/plain-1"[..], b"", b"my exp (1) \xc3\xa9", b"it's $HOME `x` \\ \"\n*", b"d\xff '\\\x01"] {
            let word = OsStr::from_bytes(word);
            // bash, for words that are no text.
            let said = std::process::Command::new("bash")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(said.stdout, word.as_bytes(), "{}", quoted(word));
        }
        assert_eq!(quoted("runs/plain-1"), "runs/plain-1");
    }
}
