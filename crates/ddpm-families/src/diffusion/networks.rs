//! The networks of the family: those of [`NetworkConfig`], and those that a program of its own has registered.

use std::sync::{PoisonError, RwLock};

use ddpm_model::custom::{CustomConfig, CustomNetwork};
use ddpm_model::network::NetworkConfig;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// How the config of a registered network is read.
type Read = fn(Map<String, Value>) -> serde_json::Result<CustomConfig>;

/// The networks that a program of its own has registered, by their kinds.
static REGISTERED: RwLock<Vec<(&'static str, Read)>> = RwLock::new(Vec::new());

/// Makes a network known as `[model] kind = "..."`, in experiments and in snapshots. The first network of a kind stays.
pub fn register<N: CustomNetwork>() {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if kinds(&registered).all(|kind| kind != N::KIND) {
        registered.push((N::KIND, CustomConfig::read::<N>));
    }
}

/// All kinds there are.
fn kinds(registered: &[(&'static str, Read)]) -> impl Iterator<Item = &'static str> {
    NetworkConfig::KINDS.into_iter().chain(registered.iter().map(|(kind, _)| *kind))
}

/// The network of an experiment.
pub(crate) fn of_experiment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkConfig, D::Error> {
    let table = toml::Value::deserialize(deserializer)?;
    let kind = table.get("kind").and_then(toml::Value::as_str);
    let network = match registered(kind).map_err(unknown_variant) {
        Ok(None) => NetworkConfig::deserialize(table).map_err(|error| error.message().to_string()),
        Ok(Some(read)) => read_custom(read, &table),
        Err(message) => Err(message),
    };
    network.map_err(D::Error::custom)
}

/// The network that a snapshot describes.
pub(crate) fn of_snapshot<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkConfig, D::Error> {
    let table = Value::deserialize(deserializer)?;
    let kind = table.get("kind").and_then(Value::as_str);
    let network = match registered(kind).map_err(not_in_this_program) {
        Ok(None) => NetworkConfig::deserialize(table).map_err(|error| error.to_string()),
        Ok(Some(read)) => read_custom(read, &table),
        Err(message) => Err(message),
    };
    network.map_err(D::Error::custom)
}

/// How a registered network is read; none for the kinds of [`NetworkConfig`], and for what has no kind, of which serde
/// says what is wrong.
fn registered(kind: Option<&str>) -> Result<Option<Read>, Unknown> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    match kind {
        None => Ok(None),
        Some(kind) if NetworkConfig::KINDS.contains(&kind) => Ok(None),
        Some(kind) => match registered.iter().find(|(known, _)| *known == kind) {
            Some((_, read)) => Ok(Some(*read)),
            None => Err(Unknown { kind: kind.into(), known: kinds(&registered).collect() }),
        },
    }
}

/// Reads the table of a registered network.
fn read_custom(read: Read, table: &impl Serialize) -> Result<NetworkConfig, String> {
    let table = serde_json::to_value(table).map_err(|error| error.to_string())?;
    let keys = table.as_object().cloned().unwrap_or_default().into_iter().filter(|(key, _)| key != "kind");
    read(keys.collect()).map(NetworkConfig::Custom).map_err(|error| error.to_string())
}

/// A kind of network that is none of those there are.
struct Unknown {
    kind: String,
    known: Vec<&'static str>,
}

/// As serde says it of any other variant.
fn unknown_variant(Unknown { kind, known }: Unknown) -> String {
    let expected = match &known[..] {
        [first, second] => format!("`{first}` or `{second}`"),
        _ => format!("one of `{}`", known.join("`, `")),
    };
    format!("unknown variant `{kind}`, expected {expected}")
}

fn not_in_this_program(Unknown { kind, known }: Unknown) -> String {
    format!(
        "there is no network `{kind}` in this program, which has `{}`; a program with a network of its own registers it \
         before it opens a snapshot",
        known.join("`, `")
    )
}
