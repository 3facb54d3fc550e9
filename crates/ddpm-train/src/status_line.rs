//! The line of progress at the foot of a terminal: as long as the terminal is wide, drawn anew in place.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use console::Term;

/// Between two drawings: more often nobody sees.
const DRAW_EVERY: Duration = Duration::from_millis(50);

/// The bar's length where there is room for it, and the least that it is shortened to.
const BAR: usize = 28;
const SHORTEST_BAR: usize = 8;

/// What the line says where there is room for all of it.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Steps that are done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// The loss.
    pub loss: String,
    /// The loss of held-out data, in full and in short.
    pub held_out: Option<[String; 2]>,
    /// The speed.
    pub rate: String,
    /// How long steps wait for data, in full and in short.
    pub waits: Option<[String; 2]>,
    /// Steps with clipped gradients and steps that were skipped, in full and in short.
    pub skips: Option<[String; 2]>,
    /// The memory.
    pub memory: Option<String>,
    /// The time that has passed and that is left.
    pub clock: String,
}

impl Parts {
    /// All of it but the bar and the clock, for a line in a pipe.
    pub fn message(&self) -> String {
        let full = |words: &Option<[String; 2]>| words.as_ref().map(|[full, _]| full.clone());
        let words = [
            Some(self.loss.clone()),
            full(&self.held_out),
            Some(self.rate.clone()),
            full(&self.waits),
            full(&self.skips),
            self.memory.clone(),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }

    /// What stands behind the bar: first all, then without the memory, then without the rate, then in short, and then
    /// without what can be read elsewhere.
    fn versions(&self) -> [String; 6] {
        let steps = format!("{}/{}", self.done, self.total);
        let pick = |words: &Option<[String; 2]>, k: usize| words.as_ref().map(|words| words[k].clone());
        let joined = |held_out, rate, waits, skips, memory| {
            let words = [Some(steps.clone()), Some(self.loss.clone()), held_out, rate, waits, skips, memory];
            let words = words.into_iter().flatten().chain([self.clock.clone()]);
            words.filter(|words| !words.is_empty()).collect::<Vec<_>>().join("  ")
        };
        let (held_out, waits, skips, rate) = (&self.held_out, &self.waits, &self.skips, Some(self.rate.clone()));
        [
            joined(pick(held_out, 0), rate.clone(), pick(waits, 0), pick(skips, 0), self.memory.clone()),
            joined(pick(held_out, 0), rate, pick(waits, 0), pick(skips, 0), None),
            joined(pick(held_out, 0), None, pick(waits, 0), pick(skips, 1), None),
            joined(pick(held_out, 1), None, pick(waits, 1), pick(skips, 1), None),
            joined(pick(held_out, 1), None, None, None, None),
            joined(None, None, None, None, None),
        ]
    }
}

/// The line that says as much as `width` columns hold; it never has more.
pub fn fit(parts: &Parts, width: usize) -> String {
    let versions = parts.versions();
    let room = |text: &String| width.saturating_sub(text.chars().count() + 2);
    // In short comes before a shorter bar, a shorter bar before less than that.
    let whole = versions[..4].iter().map(|text| (text, BAR));
    let shortened = versions[3..].iter().map(|text| (text, SHORTEST_BAR));
    match whole.chain(shortened).find(|(text, least)| room(text) >= *least) {
        Some((text, _)) => format!("{}  {text}", bar(parts.done, parts.total, room(text).min(BAR))),
        None => versions[5].chars().take(width).collect(),
    }
}

fn bar(done: u64, total: u64, length: usize) -> String {
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let halves = (share * (2 * length) as f64) as usize;
    let (full, half) = (halves / 2, halves % 2);
    format!("{}{}{}", "━".repeat(full), "╸".repeat(half), "─".repeat(length - full - half))
}

/// The line on stderr, and what is printed above it.
pub struct StatusLine {
    shown: Option<Parts>,
    drawn: Option<Instant>,
}

/// To the beginning of the line, and nothing behind.
const ERASE: &str = "\r\x1b[J";

impl StatusLine {
    /// A line on stderr, if that is a terminal that can erase.
    pub fn on_terminal() -> Option<Self> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
        (std::io::stderr().is_terminal() && !is_dumb).then_some(Self { shown: None, drawn: None })
    }

    /// Shows these parts, unless it has just been drawn.
    pub fn show(&mut self, parts: Parts) {
        let is_last = parts.done == parts.total;
        self.shown = Some(parts);
        if is_last || self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_EVERY) {
            self.drawn = Some(Instant::now());
            write(&self.drawing());
        }
    }

    /// Prints a line above.
    pub fn say(&mut self, line: &str) {
        write(&format!("{ERASE}{line}\n{}", self.drawing()));
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            write(ERASE);
        }
    }

    /// The cursor is left at the beginning: a terminal that becomes narrower breaks the line behind it, so that all of it
    /// is erased next time.
    fn drawing(&self) -> String {
        let Some(parts) = &self.shown else { return String::new() };
        let width = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        // A line that fills its last column is broken by some terminals.
        format!("{ERASE}{}\r", fit(parts, width.saturating_sub(1)))
    }
}

fn write(text: &str) {
    // Nobody may be looking any more.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let words = |full: &str, short: &str| Some([full.to_string(), short.to_string()]);
        Parts {
            done: 102,
            total: 200,
            loss: "loss 0.2461".into(),
            held_out: words("held out 3.214 bits/dim", "held out 3.214"),
            rate: "171.2 images/s".into(),
            waits: None,
            skips: None,
            memory: Some("117 MiB".into()),
            clock: "14s < 10s".into(),
        }
    }

    #[test]
    fn the_line_says_what_there_is_room_for() {
        let bar = |full: usize, rest: usize| format!("{}{}", "━".repeat(full), "─".repeat(rest));
        let (long, steps) = (bar(14, 14), "102/200  loss 0.2461");
        for (width, expected) in [
            (120, format!("{long}  {steps}  held out 3.214 bits/dim  171.2 images/s  117 MiB  14s < 10s")),
            (107, format!("{long}  {steps}  held out 3.214 bits/dim  171.2 images/s  14s < 10s")),
            (90, format!("{long}  {steps}  held out 3.214 bits/dim  14s < 10s")),
            (79, format!("{long}  {steps}  held out 3.214  14s < 10s")),
            (59, format!("{}  {steps}  held out 3.214  14s < 10s", bar(5, 5))),
            (47, format!("{}  {steps}  14s < 10s", bar(7, 7))),
            (35, format!("{steps}  14s < 10s")),
            (12, "102/200  los".into()),
            (0, String::new()),
        ] {
            assert_eq!(fit(&parts(), width), expected, "in {width} columns");
        }
        let skips = Some(["clipped 20, skipped 1".to_string(), "skipped 1".to_string()]);
        let skipping = Parts { skips, memory: None, ..parts() };
        assert!(skipping.message().ends_with("171.2 images/s  clipped 20, skipped 1"));
        assert!(
            fit(&skipping, 100).ends_with("held out 3.214 bits/dim  skipped 1  14s < 10s"),
            "{}",
            fit(&skipping, 100)
        );
        let unheld = Parts { held_out: None, memory: None, ..parts() };
        assert_eq!(fit(&unheld, 79), format!("{long}  {steps}  171.2 images/s  14s < 10s"));
    }

    #[test]
    fn the_line_is_never_longer_than_the_terminal_is_wide() {
        let waits = Some(["waits 12 % for data (340/s)".to_string(), "waits 12 %".to_string()]);
        for done in [0, 1, 57, 199, 200, 300] {
            for parts in [Parts { done, ..parts() }, Parts { done, waits: waits.clone(), ..parts() }] {
                for width in 0..200 {
                    let line = fit(&parts, width);
                    assert!(line.chars().count() <= width, "{width}: {line}");
                    assert!(
                        width < 40 || line.contains("loss 0.2461") && line.contains("14s < 10s"),
                        "{width}: {line}"
                    );
                }
            }
        }
    }
}
