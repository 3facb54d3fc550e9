//! Settings as a person writes them: dotted keys of TOML, `--set`, and what serde complains of in the words of TOML.

use toml::{Table, Value};

/// Keys whose table has a `kind`. Where no other key is needed, the name alone may stand in place of the table.
const KINDS: [&str; 10] = [
    "data",
    "model",
    "model.denoiser",
    "diffusion.schedule",
    "diffusion.weighting",
    "diffusion.continuous.path",
    "diffusion.continuous.times",
    "optimizer",
    "optimizer.decay",
    "ema",
];

/// Those of them whose other keys mean the same for every kind: to set the name alone leaves them as they are.
const SHARED_KEYS: [&str; 2] = ["optimizer", "ema"];

/// The types of serde's messages, and what a person writes for each.
const TYPES: [(&str, &str); 21] = [
    ("internally tagged enum ScheduleConfig", "a name such as \"cosine\", or { kind = \"cosine\" } with its keys"),
    ("internally tagged enum Weighting", "a name such as \"snr\", or { kind = \"min-snr\" } with its keys"),
    ("internally tagged enum RateDecay", "\"constant\", or a table such as { kind = \"cosine\", until = 10000 }"),
    ("internally tagged enum Path", "a name such as \"ve\", or { kind = \"ve\" } with its keys"),
    ("internally tagged enum TimeDensity", "a name such as \"uniform\", or { kind = \"log-normal\" } with its keys"),
    ("internally tagged enum NetworkConfig", "a section with a kind, such as kind = \"unet\""),
    ("internally tagged enum DataConfig", "a section with a kind, such as kind = \"images\""),
    ("struct LoraConfig", "a table such as { rank = 8 }"),
    ("struct ContinuousDiffusion", "a section with a path, such as path = \"ve\""),
    ("variant identifier", "the name of a kind"),
    ("enum ", "one of its names"),
    ("struct ", "a section of its own"),
    ("u64", "a whole number, 0 or more"),
    ("u32", "a whole number, 0 or more"),
    ("usize", "a whole number, 0 or more"),
    ("u8", "a whole number from 0 to 255"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a boolean", "true or false"),
    ("a sequence", "a list, as in [1, 2]"),
];

/// Words of serde in the middle of its messages, and those of TOML.
const WORDS: [(&str, &str); 6] = [
    ("unknown field", "unknown key"),
    ("there are no fields", "there are no keys"),
    ("unknown variant", "unknown name"),
    ("invalid type: map", "invalid type: a table"),
    ("invalid type: unit variant, expected string only", "invalid type: expected a name in quotes"),
    ("floating point `", "number `"),
];

/// `a.b=c`, where `c` is a TOML value, or else a bare string. `example` is such a pair, for the message.
pub fn parse_set(set: &str, example: &str) -> Result<(String, Value), String> {
    let expected = || format!("expected KEY=VALUE with a dotted key, for example {example}");
    let (key, value) = set.split_once('=').ok_or_else(expected)?;
    let (key, value) = (key.trim(), value.trim());
    if key.split('.').any(str::is_empty) {
        return Err(expected());
    }
    let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_string()));
    let is_kind_alone = SHARED_KEYS.contains(&key) && value.is_str();
    Ok((if is_kind_alone { format!("{key}.kind") } else { key.to_string() }, value))
}

/// Gives every bare name of a kind its table.
pub fn expand_kinds(tree: &mut Table) {
    for key in KINDS {
        if let Some(value) = value_mut(tree, key)
            && let Value::String(name) = value
        {
            *value = Value::Table(Table::from_iter([("kind".to_string(), Value::String(name.clone()))]));
        }
    }
}

/// The value at a dotted key.
pub fn value_mut<'a>(tree: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => tree.get_mut(key),
        Some((head, rest)) => value_mut(tree.get_mut(head)?.as_table_mut()?, rest),
    }
}

/// Sets a dotted key. What is no table on the way to it gives way to one.
pub fn insert(tree: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            tree.insert(key.to_string(), value);
        }
        Some((head, rest)) => {
            let entry = tree.entry(head).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            if let Value::Table(inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

/// Takes a dotted key out.
pub fn remove(tree: &mut Table, key: &str) {
    match key.split_once('.') {
        None => {
            tree.remove(key);
        }
        Some((head, rest)) => {
            if let Some(Value::Table(inner)) = tree.get_mut(head) {
                remove(inner, rest);
            }
        }
    }
}

/// A message of serde without Rust's words and names of types.
pub fn in_words(message: &str) -> String {
    if let Some(key) = missing_key(message) {
        return format!("the key `{key}` is missing");
    }
    let typed = message.rsplit_once("expected ").and_then(|(before, kind)| {
        let is_it = |rust: &str| kind == rust || (rust.ends_with(' ') && kind.starts_with(rust));
        TYPES.iter().find(|(rust, _)| is_it(rust)).map(|(_, words)| format!("{before}expected {words}"))
    });
    WORDS.iter().fold(typed.unwrap_or_else(|| message.to_string()), |said, (rust, words)| said.replace(rust, words))
}

/// The key that a message of serde misses.
pub fn missing_key(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// The key that a message of serde does not know.
pub fn unknown_key(message: &str) -> Option<&str> {
    Some(message.strip_prefix("unknown field `")?.split_once('`')?.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_toml_values_or_strings() {
        let parsed = |set: &str| parse_set(set, "a.b=3");
        assert_eq!(parsed("a.b=3").unwrap(), ("a.b".into(), Value::Integer(3)));
        assert_eq!(parsed("a=x y").unwrap(), ("a".into(), Value::String("x y".into())));
        assert_eq!(parsed("a=[1, 2]").unwrap().1.as_array().unwrap().len(), 2);
        for wrong in ["nothing", "a..b=1", "=1", " = 1"] {
            assert!(parsed(wrong).unwrap_err().ends_with("for example a.b=3"), "{wrong}");
        }
        // The learning rate beside it stays.
        assert_eq!(parsed("optimizer=lion").unwrap(), ("optimizer.kind".into(), Value::String("lion".into())));
        assert_eq!(parsed("optimizer={ kind = \"lion\" }").unwrap().0, "optimizer");
    }

    #[test]
    fn a_key_is_put_where_no_table_was() {
        let mut tree: Table = "a = 1".parse().unwrap();
        insert(&mut tree, "a.b.c", Value::Integer(2));
        assert_eq!(tree, "a = { b = { c = 2 } }".parse().unwrap());
        remove(&mut tree, "a.b.c");
        remove(&mut tree, "a.x.y");
        assert_eq!(tree, "a = { b = {} }".parse().unwrap());
    }

    #[test]
    fn messages_are_in_the_words_of_toml() {
        for (rust, words) in [
            ("unknown field `x`, there are no fields", "unknown key `x`, there are no keys"),
            ("unknown variant `x`, expected `a` or `b`", "unknown name `x`, expected `a` or `b`"),
            ("missing field `path`", "the key `path` is missing"),
            ("invalid type: map, expected u64", "invalid type: a table, expected a whole number, 0 or more"),
            (
                "invalid type: string \"x\", expected struct TrainConfig",
                "invalid type: string \"x\", expected a section of its own",
            ),
        ] {
            assert_eq!(in_words(rust), words);
        }
    }
}
