//! What the documentation names is there: files and headings behind links, and paths of the project.

use std::path::{Path, PathBuf};

/// Where the documentation is.
const PLACES: [&str; 6] = [".", "docs", "experiments", "datasets", "datasets/optdigits", "datasets/seattle-weather"];

/// How a path of the project begins, where one stands in backticks.
const FOLDERS: [&str; 6] = ["crates/", "docs/", "experiments/", "datasets/", "fixtures/", "xtask/"];

/// Every link and path that leads nowhere.
pub fn check(root: &Path) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in PLACES.iter().flat_map(|place| pages(&root.join(place))) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let links = links(&text).filter(|link| !leads_somewhere(&file, &text, link));
        breaches.extend(links.map(|link| format!("{name}: the link {link} leads nowhere")));
        let paths = paths(&text).filter(|path| !root.join(path).exists());
        breaches.extend(paths.map(|path| format!("{name}: there is no {path}")));
    }
    breaches
}

fn pages(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut pages: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages
}

/// The targets of links to other places than the web.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.starts_with("http"))
}

fn leads_somewhere(from: &Path, text: &str, link: &str) -> bool {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = from.parent().unwrap_or(from).join(path);
    let other = if path.is_empty() { Some(text.to_string()) } else { std::fs::read_to_string(&target).ok() };
    match heading {
        "" => target.exists(),
        heading => other.is_some_and(|text| text.lines().filter_map(anchor).any(|anchor| anchor == heading)),
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
}

/// Paths of the project in backticks, but for those with a place for a name.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let is_path = |word: &&str| FOLDERS.iter().any(|folder| word.starts_with(folder));
    let has_place = |word: &str| word.contains("NAME") || word.contains(['*', ' ', '{', '<']);
    quoted.filter(is_path).filter(move |word| !has_place(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_paths_that_lead_nowhere_are_found() {
        let text =
            "# A title: `b`\n[a](b.md#c) [web](https://x.y) `crates/NAME.rs` `crates/x.rs`\n```\n`crates/y.rs`\n```";
        assert_eq!(links(text).collect::<Vec<_>>(), ["b.md#c"]);
        assert_eq!(paths(text).collect::<Vec<_>>(), ["crates/x.rs"]);
        let here = Path::new(file!());
        assert!(leads_somewhere(here, text, "#a-title-b"));
        assert!(!leads_somewhere(here, text, "#another") && !leads_somewhere(here, text, "b.md"));
    }
}
