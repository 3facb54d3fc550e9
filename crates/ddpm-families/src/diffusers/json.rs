//! JSON as Python writes it, read key by key: what is missing, of another kind or not supported is an error that
//! names the key.

use serde_json::{Map, Value};

use super::DiffusersError;

/// Parses JSON in which Python may have written `Infinity`, `-Infinity` or `NaN`, which JSON does not have. They
/// become `null`.
pub fn parse(text: &str) -> Result<Value, DiffusersError> {
    serde_json::from_str(&without_infinities(text)).map_err(|error| DiffusersError::Json { reason: error.to_string() })
}

fn without_infinities(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(next) = rest.chars().next() {
        let bare = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match (bare, next) {
            (Some(word), _) => {
                found.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, '"') => {
                in_string = !in_string;
                1
            }
            (None, other) => other.len_utf8(),
        };
        found.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    found
}

/// The keys of one JSON object. `null` counts as absent: that is how Python writes `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub(super) fn of(json: &'a Value) -> Result<Self, DiffusersError> {
        json.as_object().map(Self).ok_or_else(|| DiffusersError::Json { reason: "expected an object of keys".into() })
    }

    /// The value, `null` if there is none.
    pub(super) fn get(self, key: &str) -> &'a Value {
        self.0.get(key).unwrap_or(&Value::Null)
    }

    /// Whether the key is there, be it as `null`.
    pub(super) fn has(self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Refuses keys that nobody knows and that say something. Those with an underscore are notes of diffusers.
    pub(super) fn only(self, known: &[&str]) -> Result<(), DiffusersError> {
        let idle = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        let unknown =
            self.0.iter().find(|(key, value)| !key.starts_with('_') && !known.contains(&key.as_str()) && !idle(value));
        match unknown {
            Some((key, value)) => Err(DiffusersError::Unknown { key: key.clone(), found: short(value) }),
            None => Ok(()),
        }
    }

    /// What was found is not what was expected.
    pub(super) fn refuse(self, key: &str, expected: &str) -> DiffusersError {
        match self.get(key) {
            Value::Null => DiffusersError::Missing { key: key.into(), expected: expected.into() },
            found => DiffusersError::Value { key: key.into(), found: short(found), expected: expected.into() },
        }
    }

    /// Refuses all values but the default and `null`, for what only one value of is supported.
    pub(super) fn must_be(self, key: &str, value: impl Into<Value>) -> Result<(), DiffusersError> {
        let (found, value) = (self.get(key), value.into());
        let same = match (found.as_f64(), value.as_f64()) {
            (Some(found), Some(value)) => found == value,
            _ => *found == value,
        };
        if same || found.is_null() { Ok(()) } else { Err(self.refuse(key, &format!("{value}, all that is supported"))) }
    }

    pub(super) fn whole(self, key: &str, default: Option<usize>, most: usize) -> Result<usize, DiffusersError> {
        let expected = || format!("a whole number up to {most}");
        match (self.get(key), default) {
            (Value::Null, Some(default)) => Ok(default),
            (found, _) => match found.as_u64().and_then(|value| usize::try_from(value).ok()) {
                Some(value) if value <= most => Ok(value),
                _ => Err(self.refuse(key, &expected())),
            },
        }
    }

    pub(super) fn number(self, key: &str, default: f64) -> Result<f64, DiffusersError> {
        match self.get(key) {
            Value::Null => Ok(default),
            found => found.as_f64().ok_or_else(|| self.refuse(key, "a number")),
        }
    }

    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, DiffusersError> {
        match self.get(key) {
            Value::Null => Ok(default),
            found => found.as_bool().ok_or_else(|| self.refuse(key, "true or false")),
        }
    }

    /// One of the words that `choices` has a meaning for.
    pub(super) fn word<T: Copy>(
        self,
        key: &str,
        default: Option<T>,
        choices: &[(&str, T)],
    ) -> Result<T, DiffusersError> {
        match (self.get(key), default) {
            (Value::Null, Some(default)) => Ok(default),
            (found, _) => {
                let choice = choices.iter().find(|(word, _)| found.as_str() == Some(word));
                let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                choice.map(|(_, value)| *value).ok_or_else(|| self.refuse(key, &words()))
            }
        }
    }

    /// A list of whole numbers from `least` to `most`; the default where the key is not there at all.
    pub(super) fn wholes(
        self,
        key: &str,
        default: &[usize],
        most_entries: usize,
        [least, most]: [usize; 2],
    ) -> Result<Vec<usize>, DiffusersError> {
        if !self.has(key) {
            return Ok(default.to_vec());
        }
        let whole = |value: &Value| value.as_u64().map(|n| n as usize).filter(|n| (least..=most).contains(n));
        let list: Option<Vec<usize>> = self.list(key, most_entries)?.iter().map(whole).collect();
        list.ok_or_else(|| self.refuse(key, &format!("whole numbers from {least} to {most}")))
    }

    pub(super) fn list(self, key: &str, most: usize) -> Result<&'a [Value], DiffusersError> {
        match self.get(key).as_array() {
            Some(list) if (1..=most).contains(&list.len()) => Ok(list),
            _ => Err(self.refuse(key, &format!("a list of 1 to {most} entries"))),
        }
    }
}

/// A value for a message, cut where it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pythons_infinities_become_null_and_strings_stay() {
        let found = parse(r#"{"a": -Infinity, "b": [NaN, Infinity, 1], "c": "NaN \" -Infinity", "é": "\\"}"#).unwrap();
        let wanted = serde_json::json!({"a": null, "b": [null, null, 1], "c": "NaN \" -Infinity", "é": "\\"});
        assert_eq!(found, wanted);
        for broken in ["", "{", "[1, NaN", r#"{"a": "\"#, "\\"] {
            assert!(matches!(parse(broken), Err(DiffusersError::Json { .. })), "{broken}");
        }
    }

    #[test]
    fn what_is_wrong_names_the_key_what_was_found_and_what_was_expected() {
        let json = serde_json::json!({"n": 5, "s": "x", "long": "y".repeat(200), "_note": "z", "off": false});
        let keys = Keys::of(&json).unwrap();
        let said = |error: DiffusersError| error.to_string();
        assert_eq!(
            said(keys.whole("n", None, 4).unwrap_err()),
            "n = 5 is not supported; expected a whole number up to 4"
        );
        assert_eq!(said(keys.flag("s", true).unwrap_err()), "s = \"x\" is not supported; expected true or false");
        assert!(said(keys.word("m", None, &[("a", 1), ("b", 2)]).unwrap_err()).contains("m is missing; expected a, b"));
        assert!(said(keys.only(&["n", "s"]).unwrap_err()).len() < 150);
        keys.only(&["n", "s", "long"]).unwrap();
        assert!(Keys::of(&serde_json::json!([1])).is_err());
    }
}
