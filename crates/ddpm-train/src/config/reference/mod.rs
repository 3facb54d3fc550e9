//! `docs/config.md` is made of the config structs: their doc comments, as text, and their defaults, as serde reads and
//! writes them. `cargo xtask docs` writes the page, this test compares.
#![allow(clippy::unwrap_used)]

mod page;
mod schema;
mod source;

use std::path::Path;

use source::Sources;

/// Set: the page is written instead of compared.
const WRITE: &str = "DDPM_WRITE_DOCS";

#[test]
fn the_page_is_what_the_config_structs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let expected = page::of(&Sources::read(&root.join("crates")));
    let file = root.join("docs/config.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(file, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(file).unwrap_or_default();
    let differs = expected.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(new, old)| new != old);
    assert!(found == expected, "docs/config.md is stale: run `cargo xtask docs`. First difference: {differs:#?}");
}

#[test]
fn a_key_that_the_sources_do_not_show_is_an_error() {
    let message = "unknown field `no-such-key`, expected one of `steps`, `seed`";
    assert_eq!(schema::compare("train", vec!["seed", "steps"], message), Ok(()));
    let error = schema::compare("train", vec!["steps"], message).unwrap_err();
    assert!(error.contains("train") && error.contains("`seed`"), "{error}");
    assert!(schema::compare("train", vec!["steps"], "invalid type").is_err());
    assert_eq!(schema::compare("data", Vec::new(), "unknown field `no-such-key`, there are no fields"), Ok(()));
}
