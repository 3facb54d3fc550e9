//! Errors as a person reads them.

/// An error and its causes in one line. Some errors name their cause themselves: it is not said twice.
pub fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = || anyhow::anyhow!("no room left");
        assert_eq!(in_one_line(&cause().context("a.png")), "a.png: no room left");
        assert_eq!(in_one_line(&cause().context("a.png: no room left").context("run")), "run: a.png: no room left");
    }
}
