//! The progress bar of a command, or lines of progress if stderr is not a terminal.

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

/// The bar itself, within a template.
const BAR: &str = "{bar:28} ";
/// The first pause between two lines.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause, in units of the first one; also the number of lines until pauses are longer.
const LONGEST: u32 = 12;

/// A bar on stderr if that is a terminal, otherwise a line every few seconds.
pub fn progress_bar(template: &str, length: u64) -> ProgressBar {
    if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new(length);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        return bar;
    }
    in_lines(template, length, Lines::to(std::io::stderr(), FIRST_PAUSE))
}

fn in_lines<W: Write + Send + 'static>(template: &str, length: u64, lines: Lines<W>) -> ProgressBar {
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(lines), 1);
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template(&template.replace(BAR, "")) {
        bar.set_style(style);
    }
    bar
}

/// A terminal that prints a frame only after a pause, and erases none.
struct Lines<W = Stderr>(Mutex<State<W>>);

struct State<W> {
    sink: W,
    frame: String,
    started: Instant,
    shown: Instant,
    pause: Duration,
}

impl<W: Write> Lines<W> {
    fn to(sink: W, pause: Duration) -> Self {
        let now = Instant::now();
        Self(Mutex::new(State { sink, frame: String::new(), started: now, shown: now, pause }))
    }

    fn change(&self, change: impl FnOnce(&mut State<W>)) -> io::Result<()> {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

impl<W> std::fmt::Debug for Lines<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

impl<W: Write + Send> TermLike for Lines<W> {
    fn width(&self) -> u16 {
        100
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.change(|state| state.frame.push_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.change(|state| state.frame.clear())
    }

    fn flush(&self) -> io::Result<()> {
        self.change(|state| {
            let line = std::mem::take(&mut state.frame);
            // The longer the job runs, the longer the pauses.
            let pause = (state.started.elapsed() / LONGEST).clamp(state.pause, state.pause * LONGEST);
            if !line.trim().is_empty() && state.shown.elapsed() >= pause {
                state.shown = Instant::now();
                // A closed pipe is no reason to stop.
                let _ = writeln!(state.sink, "{}", line.trim());
            }
        })
    }
}

/// Pause between two lines of progress while images are checked. Most checks end before the first line.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Reports the progress of checking a folder of images on stderr, if that takes long.
pub fn checking_images() -> impl Fn(usize, usize) + Sync {
    let last = Mutex::new(Instant::now());
    move |done, all| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= BETWEEN_LINES {
            *last = Instant::now();
            // A closed stderr is no reason to stop.
            let _ = writeln!(std::io::stderr(), "checking new images: {done} of {all}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(pause: Duration) -> String {
        let sink = Sink::default();
        let bar = in_lines("{bar:28} {pos}/{len} items  {msg}", 3, Lines::to(sink.clone(), pause));
        for item in 1..=3 {
            bar.set_message(format!("item {item}"));
            bar.inc(1);
        }
        bar.finish_and_clear();
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn without_a_terminal_there_are_plain_lines_now_and_then() {
        let all = written(Duration::ZERO);
        assert!(all.lines().count() >= 3 && all.contains("1/3 items  item 1\n"), "{all}");
        assert!(!all.contains(['\u{1b}', '\r', '━']), "{all}");
        assert_eq!(written(Duration::from_secs(1000)), "");
    }
}
