//! What to do about a key or a value that is not understood where it stands.

use ddpm_console::settings::{insert, unknown_key};
use ddpm_families::family::erased::FamilyKind;
use toml::{Table, Value};

use super::load::{good, read};

/// The sections that every family has, each with what must be in it; more than once where kinds have keys of their own.
const SECTIONS: [(&str, &str); 11] = [
    ("data", "kind = 'images'\npath = ''"),
    ("data", "kind = 'csv'\npath = ''"),
    ("optimizer", ""),
    ("optimizer.decay", "kind = 'cosine'"),
    ("ema", ""),
    ("ema.post_hoc", ""),
    ("fine_tune", ""),
    ("fine_tune.lora", "rank = 8"),
    ("train", ""),
    ("preview", ""),
    ("validation", ""),
];

/// All sections of an experiment of this family, in the order in which hints name them.
fn sections(kind: &dyn FamilyKind) -> impl Iterator<Item = (&'static str, &'static str)> {
    let (data, others) = SECTIONS.split_at(2);
    data.iter().chain(kind.sections()).chain(others).copied()
}

/// Where the key or the value that serde's message is about belongs, if it is not there.
pub(super) fn hint(key: &str, message: &str, kind: &dyn FamilyKind) -> String {
    let of_continuous = ["`edm`", "`score`", "`flow`"];
    if key == "diffusion.prediction"
        && of_continuous.iter().any(|name| message.starts_with(&format!("unknown variant {name}")))
    {
        return "; it is a prediction of continuous time: set diffusion.continuous.prediction, beside a path".into();
    }
    let homes = unknown_key(message).map(|unknown| homes(key, unknown, kind)).unwrap_or_default();
    match homes.len() {
        0 => String::new(),
        1 => format!("; {} has a key of that name", homes[0]),
        _ => format!("; {} have a key of that name", homes.join(" and ")),
    }
}

/// The sections that have a key of this name, other than that in which it stands.
fn homes(key: &str, unknown: &str, kind: &dyn FamilyKind) -> Vec<String> {
    let mut homes = Vec::new();
    if unknown == "kind" {
        return homes;
    }
    for (section, needed) in sections(kind) {
        let Ok(mut table) = needed.parse::<Table>() else { continue };
        let home = match table.get("kind") {
            Some(kind) if key == format!("{section}.{unknown}") => format!("[{section}] with kind = {kind}"),
            _ => format!("[{section}]"),
        };
        // Of the wrong type or not: what has no such key says that first.
        table.insert(unknown.to_string(), Value::Array(Vec::new()));
        let mut tree = good(kind);
        insert(&mut tree, section, Value::Table(table));
        let is_known = read(&tree).err().is_none_or(|message| unknown_key(&message) != Some(unknown));
        if is_known && !homes.contains(&home) {
            homes.push(home);
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddpm_families::family::registry::default_family;

    #[test]
    fn every_section_is_one() {
        for (section, needed) in sections(default_family()) {
            let mut tree = good(default_family());
            if section == "diffusion.continuous.times" {
                insert(&mut tree, "diffusion.continuous.path.kind", Value::String("ve".into()));
            }
            insert(&mut tree, section, Value::Table(needed.parse().unwrap_or_default()));
            assert_eq!(read(&tree).err(), None, "{section}");
        }
    }

    #[test]
    fn a_key_is_looked_for_in_all_sections() {
        for (key, unknown, home) in [
            ("learning_rate", "learning_rate", "; [optimizer] has a key of that name"),
            ("model.gamma", "gamma", "; [diffusion.weighting] has a key of that name"),
            ("train.sigma_data", "sigma_data", "; [diffusion.continuous] has a key of that name"),
            ("model.hidden", "hidden", "; [model] with kind = \"point-mlp\" has a key of that name"),
            ("train.levels", "levels", "; [validation] has a key of that name"),
            ("train.colour", "colour", ""),
            ("train.kind", "kind", ""),
        ] {
            assert_eq!(
                hint(key, &format!("unknown field `{unknown}`, expected one of"), default_family()),
                home,
                "{key}"
            );
        }
        let of_steps = hint("model.steps", "unknown field `steps`, expected one of", default_family());
        assert_eq!(of_steps, "; [diffusion.schedule] and [train] and [preview] have a key of that name");
    }
}
