//! `cargo xtask setup-torch`: LibTorch for the feature `tch`, out of PyTorch's wheel.

use std::path::Path;
use std::process::Command;

use super::run;

/// The version that Burn's `tch` is made for.
const VERSION: &str = "2.9.0";

/// Installs PyTorch into `target/torch` and writes the settings that a build with it needs.
pub fn set_up(root: &Path) -> Result<(), u8> {
    let venv = root.join("target/torch");
    let python = venv.join("bin/python");
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let torch = format!("torch=={VERSION}");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", &torch, "numpy", "setuptools"]))?;

    let question = "import os, torch; print(os.path.join(os.path.dirname(torch.__file__), 'lib'))";
    let answer = Command::new(&python).args(["-c", question]).output();
    let library = answer.ok().filter(|answer| answer.status.success()).ok_or_else(|| {
        eprintln!("error: {} does not import torch", python.display());
        1
    })?;
    let library = String::from_utf8_lossy(&library.stdout).trim().to_string();
    let settings = venv.join("settings.sh");
    let text = format!(
        "# Settings for `--features tch`: source this file.\n\
         export VIRTUAL_ENV=\"{}\"\n\
         export PATH=\"$VIRTUAL_ENV/bin:$PATH\"\n\
         export LIBTORCH_USE_PYTORCH=1\n\
         export LD_LIBRARY_PATH=\"{library}:${{LD_LIBRARY_PATH:-}}\"\n",
        venv.display(),
    );
    std::fs::write(&settings, text).map_err(|error| {
        eprintln!("error: {}: {error}", settings.display());
        1
    })?;
    println!(
        "PyTorch {VERSION} is in {}. To build and run with it:\n\n  source {}\n  cargo xtask train --features tch --device tch",
        venv.display(),
        settings.display()
    );
    Ok(())
}
