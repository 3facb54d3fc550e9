//! How commands tell of their progress.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr if that is a terminal, otherwise one that nobody sees.
pub(crate) fn progress_bar(template: &str, length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

/// Seconds of silence between two lines about the check of pictures. Most checks are over before the first.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Tells on stderr how far the check of a folder of pictures is, if that takes long.
pub fn checking_pictures() -> impl Fn(usize, usize) + Sync {
    let last = Mutex::new(Instant::now());
    move |done, all| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= BETWEEN_LINES {
            *last = Instant::now();
            // Whoever does not listen is not told.
            let _ = writeln!(std::io::stderr(), "checking new pictures: {done} of {all}");
        }
    }
}
