//! What the program says, on a terminal, in a pipe or in a file that may be closed or full.
//!
//! Nothing here panics as `println!` and `eprintln!` do: a training must outlive whoever looks at it.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;

/// As `eprintln!`; where stderr is closed or full, the line is lost and nothing else.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::output::say(format_args!($($words)*)) };
}

/// A line on stderr, if it takes one.
pub fn say(line: fmt::Arguments<'_>) {
    // In one piece, so that it is not torn where several processes write.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A result on stdout. A reader that has gone away wanted no more of it; a full disk is an error.
pub fn print(result: &str) -> anyhow::Result<()> {
    write(result.as_bytes())
}

/// A path on stdout, byte by byte, as a script needs it.
pub fn print_path(path: &Path) -> anyhow::Result<()> {
    write(&[path.as_os_str().as_encoded_bytes(), b"\n"].concat())
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}
