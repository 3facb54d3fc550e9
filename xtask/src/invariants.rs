//! The invariants of ARCHITECTURE.md that a program can check, by reading the sources as text.

use std::path::{Path, PathBuf};

/// Which of our crates each of them may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 19] = [
    ("crates/ddpm-features", &[]),
    ("crates/ddpm-kernels", &[]),
    ("crates/ddpm-model", &["ddpm-kernels"]),
    ("crates/ddpm-random", &[]),
    ("crates/ddpm-data", &["ddpm-files", "ddpm-random"]),
    ("crates/ddpm-files", &[]),
    ("crates/ddpm-console", &[]),
    ("crates/ddpm-device", &["ddpm-features", "ddpm-kernels"]),
    ("crates/ddpm-render", &["ddpm-files"]),
    ("crates/ddpm-text", &[]),
    ("crates/ddpm-weights", &["ddpm-data", "ddpm-model"]),
    ("crates/ddpm-sampling", &["ddpm-data", "ddpm-files", "ddpm-model", "ddpm-render"]),
    ("crates/ddpm-eval", &["ddpm-data", "ddpm-files", "ddpm-kernels"]),
    (
        "crates/ddpm-families",
        &[
            "ddpm-data",
            "ddpm-files",
            "ddpm-kernels",
            "ddpm-model",
            "ddpm-render",
            "ddpm-sampling",
            "ddpm-text",
            "ddpm-weights",
        ],
    ),
    // The programs are next to each other: neither knows the other.
    ("crates/ddpm-infer", BELOW_THE_PROGRAMS),
    ("crates/ddpm-train", BELOW_THE_PROGRAMS),
    // It measures the trainer, which does not know it.
    (
        "crates/ddpm-lab",
        &[
            "ddpm-console",
            "ddpm-data",
            "ddpm-device",
            "ddpm-families",
            "ddpm-files",
            "ddpm-kernels",
            "ddpm-model",
            "ddpm-sampling",
            "ddpm-train",
            "ddpm-weights",
        ],
    ),
    ("crates/ddpm-testing", &["ddpm-data", "ddpm-model", "ddpm-weights"]),
    ("xtask", &[]),
];

/// What both programs stand on.
const BELOW_THE_PROGRAMS: &[&str] = &[
    "ddpm-console",
    "ddpm-data",
    "ddpm-device",
    "ddpm-eval",
    "ddpm-families",
    "ddpm-files",
    "ddpm-kernels",
    "ddpm-model",
    "ddpm-render",
    "ddpm-sampling",
    "ddpm-text",
    "ddpm-weights",
];

/// Crates that are built and tested without Burn.
const WITHOUT_BURN: [&str; 6] = [
    "crates/ddpm-random",
    "crates/ddpm-data",
    "crates/ddpm-files",
    "crates/ddpm-console",
    "crates/ddpm-render",
    "crates/ddpm-text",
];

/// What would give the mathematics a world outside, or a memory.
const OUTSIDE: [&str; 10] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::time",
    "println!",
    "eprintln!",
    "thread_local!",
    "static mut",
];

/// How a backend is named in code.
const BACKENDS: [&str; 9] = [
    "Device::flex",
    "Device::ndarray",
    "Device::libtorch",
    "Device::cpu",
    "Device::cuda",
    "Device::rocm",
    "Device::wgpu",
    "Device::vulkan",
    "Device::metal",
];

/// What makes or replaces a file, and may leave half of it or two of them.
const WRITERS: [&str; 4] = ["File::create", "fs::copy", "fs::rename", "fs::write"];

/// Where which of them may stand, and why.
const MAY_WRITE: [(&str, &[&str], &str); 5] = [
    ("crates/ddpm-files/src/atomic.rs", &WRITERS, "it is the writer"),
    ("crates/ddpm-testing/", &WRITERS, "tests make the files that they need"),
    ("crates/ddpm-train/src/config/reference/mod.rs", &["fs::write"], "a test, which writes docs/config.md"),
    ("crates/ddpm-train/src/run_folder.rs", &["File::create"], "the lock of a run, which stays empty"),
    ("crates/ddpm-train/src/tensorboard.rs", &["File::create"], "a log: it is appended to while others read it"),
];

/// Prints every breach and fails if there is one.
pub fn check(root: &Path) -> Result<(), u8> {
    let mut breaches = Vec::new();
    for (dir, allowed) in MAY_DEPEND_ON {
        breaches.extend(dependencies(root, dir, allowed));
    }
    breaches.extend(crates_without_a_place(root));
    for dir in WITHOUT_BURN {
        let manifest = std::fs::read_to_string(root.join(dir).join("Cargo.toml")).unwrap_or_default();
        // burn-dataset is a small crate with the trait of a dataset: none of those with tensors is below it.
        let mut lines = manifest.lines().filter(|line| !line.starts_with("burn-dataset"));
        if lines.any(|line| line.starts_with("burn")) {
            breaches.push(format!("{dir}/Cargo.toml: must not depend on Burn"));
        }
    }
    for file in sources(&root.join("crates")) {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let in_src = name.contains("/src/");
        // Unit tests stand at the end of a file and may do what its code may not.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut forbid = |words: &[&str], text: &str, why: &str| {
            for word in words.iter().filter(|word| text.contains(**word)) {
                breaches.push(format!("{name}: `{word}`: {why}"));
            }
        };
        if name.starts_with("crates/ddpm-model/src/") {
            forbid(&OUTSIDE, code, "ddpm-model does no IO and has no global state");
        }
        let may_name = ["crates/ddpm-kernels/", "crates/ddpm-testing/"].iter().any(|dir| name.starts_with(dir));
        if in_src && !name.ends_with("/device.rs") && !may_name {
            forbid(&BACKENDS, code, "backends are named in device.rs, Cargo features and kernels only");
        }
        if in_src && !name.ends_with("/tests.rs") {
            let allowed = MAY_WRITE.iter().filter(|(place, ..)| name.starts_with(place));
            let allowed: Vec<&str> = allowed.flat_map(|(_, words, _)| *words).copied().collect();
            let forbidden: Vec<&str> = WRITERS.into_iter().filter(|word| !allowed.contains(word)).collect();
            forbid(&forbidden, code, "files are written by ddpm_files::atomic, complete or not at all");
        }
        if in_src && !name.starts_with("crates/ddpm-testing/") {
            let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            // As part of `eprintln!` too.
            let why = "panics where nobody reads any more; ddpm_console::output does not";
            forbid(&["println!("], &lines.join("\n"), why);
        }
        forbid(&["#[ignore"], &text, "a test runs or is not there");
    }
    breaches.extend(burn_pins(root));
    breaches.extend(crate::links::check(root));
    for breach in &breaches {
        eprintln!("{breach}");
    }
    if breaches.is_empty() { Ok(()) } else { Err(1) }
}

fn dependencies(root: &Path, dir: &str, allowed: &[&str]) -> Vec<String> {
    let manifest = root.join(dir).join("Cargo.toml");
    let Ok(text) = std::fs::read_to_string(&manifest) else {
        return vec![format!("{}: cannot be read", manifest.display())];
    };
    let own = Path::new(dir).file_name().unwrap_or_default().to_string_lossy().into_owned();
    text.split("[dependencies]")
        .nth(1)
        .unwrap_or_default()
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| name.starts_with("ddpm-") && *name != own && !allowed.contains(name))
        .map(|name| format!("{dir}/Cargo.toml: {own} must not depend on {name}"))
        .collect()
}

/// A new crate has to be given its place.
fn crates_without_a_place(root: &Path) -> Vec<String> {
    let crates = std::fs::read_dir(root.join("crates")).into_iter().flatten().flatten();
    let names = crates.map(|entry| format!("crates/{}", entry.file_name().to_string_lossy()));
    let new = names.filter(|name| root.join(name).join("Cargo.toml").is_file());
    let new = new.filter(|name| MAY_DEPEND_ON.iter().all(|(known, _)| known != name));
    new.map(|name| format!("{name}: xtask/src/invariants.rs does not say what it may depend on")).collect()
}

/// Burn's version stands in the workspace's manifest, once.
fn burn_pins(root: &Path) -> Vec<String> {
    let manifests = MAY_DEPEND_ON.iter().map(|(dir, _)| root.join(dir).join("Cargo.toml"));
    let loose = manifests.filter(|path| std::fs::read_to_string(path).unwrap_or_default().contains("0.22.1"));
    let mut breaches: Vec<String> =
        loose.map(|path| format!("{}: Burn is pinned in the workspace's Cargo.toml only", path.display())).collect();
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
    if !workspace.contains("burn = { version = \"=0.22.1\"") {
        breaches.push("Cargo.toml: burn must be pinned to =0.22.1".into());
    }
    // A run's manifest names the version, which Burn itself does not tell.
    let manifest = root.join("crates/ddpm-train/src/manifest.rs");
    if !std::fs::read_to_string(&manifest).unwrap_or_default().contains("burn 0.22.1") {
        breaches.push(format!("{}: must name the version of Burn that is pinned", manifest.display()));
    }
    breaches
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
