//! What serde complains of, in the words of TOML files.

use toml::{Table, Value};

/// Keys whose table has a `kind`. Where no other key is needed, the name alone may stand in place of the table.
const KINDS: [&str; 7] = [
    "data",
    "model",
    "diffusion.schedule",
    "diffusion.weighting",
    "diffusion.continuous.path",
    "diffusion.continuous.times",
    "optimizer.decay",
];

/// The types of serde's messages, and what a person writes for each.
const TYPES: [(&str, &str); 18] = [
    ("internally tagged enum ScheduleConfig", "a name such as \"cosine\", or { kind = \"cosine\" } with its keys"),
    ("internally tagged enum Weighting", "a name such as \"snr\", or { kind = \"min-snr\" } with its keys"),
    ("internally tagged enum RateDecay", "\"constant\", or a table such as { kind = \"cosine\", until = 10000 }"),
    ("internally tagged enum Path", "a name such as \"ve\", or { kind = \"ve\" } with its keys"),
    ("internally tagged enum TimeDensity", "a name such as \"uniform\", or { kind = \"log-normal\" } with its keys"),
    ("internally tagged enum NetworkConfig", "a section with a kind, such as kind = \"unet\""),
    ("internally tagged enum DataConfig", "a section with a kind, such as kind = \"images\""),
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

/// Gives every bare name of a kind its table.
pub(super) fn expand_kinds(tree: &mut Table) {
    for key in KINDS {
        if let Some(value) = get_mut(tree, key)
            && let Value::String(name) = value
        {
            *value = Value::Table(Table::from_iter([("kind".to_string(), Value::String(name.clone()))]));
        }
    }
}

/// Makes a number such as 1e3 a whole one, if that is all that is wrong with the value at `key`. Gives whether it was.
pub(super) fn make_whole(tree: &mut Table, key: &str, message: &str) -> bool {
    let wanted = ["u64", "u32", "usize", "u8", "i64"].iter().any(|kind| message.ends_with(&format!("expected {kind}")));
    match get_mut(tree, key) {
        // Up to here every whole number is one of f64.
        Some(value @ Value::Float(_)) if wanted => match value.as_float() {
            Some(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                *value = Value::Integer(number as i64);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// A message of serde without Rust's names of types, and with a hint where the key belongs elsewhere.
pub(super) fn plain(key: &str, message: &str) -> String {
    let said = match message.rsplit_once("expected ") {
        Some((before, kind)) => {
            match TYPES.iter().find(|(rust, _)| kind == *rust || (rust.ends_with(' ') && kind.starts_with(rust))) {
                Some((_, words)) => format!("{before}expected {words}"),
                None => message.to_string(),
            }
        }
        None => message.to_string(),
    };
    // serde's own words for what TOML calls a table and a number.
    let said = said
        .replace("invalid type: map", "invalid type: a table")
        .replace("floating point `", "number `")
        .replace("invalid type: unit variant, expected string only", "invalid type: expected a name in quotes");
    format!("{said}{}", hint(key, message))
}

/// Where the key or the value that was not understood belongs.
fn hint(key: &str, message: &str) -> String {
    if key == "diffusion.prediction"
        && ["`edm`", "`score`", "`flow`"].iter().any(|name| message.starts_with(&format!("unknown variant {name}")))
    {
        return "; it is a prediction of continuous time: set diffusion.continuous.prediction, beside a path".into();
    }
    let Some((unknown, _)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) else {
        return String::new();
    };
    let homes: Vec<&str> = HOMES.iter().filter(|(_, keys)| keys.contains(&unknown)).map(|(home, _)| *home).collect();
    match homes.is_empty() || homes.iter().any(|home| key == format!("{home}.{unknown}")) {
        true => String::new(),
        false => format!(
            "; {} has a key of that name",
            homes.iter().map(|home| format!("[{home}]")).collect::<Vec<_>>().join(" and ")
        ),
    }
}

/// Keys that are often looked for in another section.
pub(super) const HOMES: [(&str, &[&str]); 8] = [
    ("train", &["steps", "batch_size", "seed", "precision", "label_drop", "time_sampling", "accumulate", "workers"]),
    ("optimizer", &["learning_rate", "warmup_steps", "weight_decay", "clip_norm"]),
    ("diffusion", &["schedule", "prediction", "variance", "loss", "weighting", "self_conditioning", "offset_noise"]),
    ("diffusion.continuous", &["path", "times", "sigma_data"]),
    ("model", &["classes", "dropout", "base_channels", "multipliers", "null_class", "heads"]),
    ("ema", &["half_life_images", "post_hoc"]),
    ("data", &["horizontal_flip", "labels", "on_bad_file", "size", "resize"]),
    ("preview", &["sampler", "count"]),
];

fn get_mut<'a>(tree: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => tree.get_mut(key),
        Some((head, rest)) => get_mut(tree.get_mut(head)?.as_table_mut()?, rest),
    }
}
