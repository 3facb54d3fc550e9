//! Third-party crates are compiled once for all commands: the trainer, the sampler, and the tests of every crate.

use std::process::{Command, Stdio};

/// The crates with Burn below them, whose tests can be run alone. The others compile what little they need in seconds.
const CRATES: [&str; 10] = [
    "ddpm-device",
    "ddpm-eval",
    "ddpm-families",
    "ddpm-infer",
    "ddpm-kernels",
    "ddpm-lab",
    "ddpm-model",
    "ddpm-sampling",
    "ddpm-train",
    "ddpm-weights",
];

/// Builds what `cargo run -p ddpm-train` builds, then what each other command does, and fails if one of those compiled
/// a third-party crate again.
pub fn check(cargo: impl Fn() -> Command) -> Result<(), u8> {
    compiled(cargo().args(["build", "--package", "ddpm-train"]))?;
    let mut again = Vec::new();
    let mut see = |words: &[&str]| {
        let command = format!("cargo {}", words.join(" "));
        again.extend(
            compiled(cargo().args(words))?.into_iter().map(|package| format!("`{command}` compiled {package}")),
        );
        Ok::<(), u8>(())
    };
    see(&["build", "--package", "ddpm-infer"])?;
    for package in CRATES {
        see(&["test", "--no-run", "--package", package])?;
    }
    see(&["test", "--no-run", "--workspace"])?;
    for line in &again {
        eprintln!(
            "{line} again, with other features than `cargo build --package ddpm-train`: crates/ddpm-features names them"
        );
    }
    if again.is_empty() { Ok(()) } else { Err(1) }
}

/// The third-party packages that a command of cargo compiled rather than found fresh.
fn compiled(command: &mut Command) -> Result<Vec<String>, u8> {
    let output = command.args(["--message-format", "json"]).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| {
        eprintln!("error: cargo did not start: {error}");
        1
    })?;
    if !output.status.success() {
        return Err(1);
    }
    let artifacts = String::from_utf8_lossy(&output.stdout).into_owned();
    let stale = artifacts.lines().filter(|line| line.contains("\"fresh\":false"));
    Ok(stale.filter_map(|line| value(line, "package_id")).filter(|id| id.starts_with("registry+")).map(name).collect())
}

/// The string value of a key in a line of JSON without escapes in it.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(&format!("\"{key}\":\""))?.1.split('"').next()
}

/// `registry+https://...#burn-flex@0.22.1` without what stands before the name.
fn name(id: &str) -> String {
    id.rsplit('#').next().unwrap_or(id).to_string()
}
