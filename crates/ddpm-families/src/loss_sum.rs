//! Losses added up between two lines of metrics, to the last bit over a stop and a resume.

use serde::{Deserialize, Serialize};

/// Losses added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSum {
    /// Their sum.
    #[serde(with = "exact")]
    pub sum: f64,
    /// How many they are.
    pub count: u64,
}

impl LossSum {
    /// Adds one.
    pub fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.count += 1;
    }

    /// Their mean, unless there are none.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Numbers as text: `serde_json` reads a JSON number to the last bit only with a feature that would have all
/// of Burn compiled once more.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a number.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
    }
}
