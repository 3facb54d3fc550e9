//! What serde makes of a table: which keys it knows, which must be given, and what the others are without being given.

use ddpm_console::settings::{insert, missing_key};
use ddpm_families::family::erased::minimal;
use ddpm_families::family::registry;
use toml::{Table, Value};

use super::source::{Body, Content, Field, Item, Sources, Variant};
use crate::config::load::read;

/// The shortest experiment.
pub fn shortest() -> Table {
    "[data]\nkind = 'digits'\n[model]\nkind = 'unet'".parse().unwrap()
}

/// The shortest experiment of a family.
pub fn shortest_of(family: &str) -> Table {
    let mut tree: Table = format!("family = '{family}'\n[data]\nkind = 'digits'\n[model]").parse().unwrap();
    tree.extend(minimal(registry::family(family).unwrap()));
    tree
}

/// The keys of a table in an experiment.
pub struct Keys {
    /// Those that must be given.
    pub required: Vec<String>,
    /// The experiment, with values for these.
    pub tree: Table,
    written: Table,
    path: String,
}

impl Keys {
    /// Reads the experiment with the table at `path`, and adds the keys that are missing there.
    pub fn of(path: &str, mut tree: Table, fields: &[Field], sources: &Sources) -> Self {
        let mut required = Vec::new();
        loop {
            let message = match written(&tree) {
                Ok(written) => return Self { required, tree, written, path: path.into() },
                Err(message) => message,
            };
            let missing = missing_key(&message).unwrap_or_else(|| panic!("[{path}]: {message}")).to_string();
            let field = fields.iter().find(|field| field.name == missing);
            let field = field.unwrap_or_else(|| panic!("[{path}]: `{missing}` is not in the sources"));
            insert(&mut tree, &format!("{path}.{missing}"), placeholder(&field.ty, sources));
            required.push(missing);
        }
    }

    /// What a key is if it is not given, where it then is something.
    pub fn default(&self, field: &Field) -> Option<Value> {
        let at_path = self.path.split('.').try_fold(&self.written, |table, part| table.get(part)?.as_table());
        if let Some(value) = at_path.and_then(|table| table.get(&field.name)) {
            return Some(value.clone());
        }
        // Some defaults are not written. One changes nothing by being given.
        let changes_nothing = |value: &Value| self.with(&field.name, value.clone()).as_ref() == Ok(&self.written);
        let optional = field.ty.starts_with("Option<");
        [Value::Boolean(false), Value::Array(Vec::new())].into_iter().find(|value| !optional && changes_nothing(value))
    }

    /// Panics unless the sources show exactly the keys that serde knows.
    pub fn compare(&self, fields: &[Field]) {
        let message = self.with("no-such-key", Value::Boolean(true)).unwrap_err();
        let shown = fields.iter().flat_map(|field| field.aliases.iter().chain([&field.name]));
        compare(&self.path, shown.map(String::as_str).collect(), &message).unwrap_or_else(|error| panic!("{error}"));
        for field in fields {
            assert!(!field.docs.is_empty(), "{}.{} has no doc comment", self.path, field.name);
        }
    }

    /// Panics unless the sources show exactly the values of an enum that serde knows.
    pub fn compare_values(&self, key: &str, item: &Item) {
        let Body::Enum(variants) = &item.body else { panic!("{key} is no enum") };
        let message = self.with(key, Value::String("no-such-value".into())).unwrap_err();
        let shown = variants.iter().flat_map(|variant| variant.aliases.iter().chain([&variant.name]));
        let place = format!("{}.{key}", self.path);
        compare(&place, shown.map(String::as_str).collect(), &message).unwrap_or_else(|error| panic!("{error}"));
    }

    fn with(&self, key: &str, value: Value) -> Result<Table, String> {
        let mut tree = self.tree.clone();
        insert(&mut tree, &format!("{}.{key}", self.path), value);
        written(&tree)
    }
}

/// The experiment as the program reads and writes it, or serde's complaint.
fn written(tree: &Table) -> Result<Table, String> {
    Ok(Table::try_from(read(tree)?).unwrap())
}

/// Compares names with those that serde lists in its complaint about an unknown one; aliases may be left out there.
pub fn compare(place: &str, shown: Vec<&str>, message: &str) -> Result<(), String> {
    let unknown = ["unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    if !unknown {
        return Err(format!("{place}: an unknown name is not refused as such: {message}"));
    }
    let listed: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    match listed.iter().find(|name| !shown.contains(name)) {
        Some(name) => Err(format!("{place}: `{name}` is not in the sources as they are read here")),
        None if listed.len() > shown.len() => Err(format!("{place}: names are listed twice: {message}")),
        None => Ok(()),
    }
}

/// Any value that serde takes for a type.
fn placeholder(ty: &str, sources: &Sources) -> Value {
    match ty {
        "PathBuf" | "String" => Value::String("FILE".into()),
        "usize" | "u64" => Value::Integer(2),
        "f64" => Value::Float(0.5),
        "Vec<f64>" => Value::Array(vec![Value::Float(0.5)]),
        _ => {
            let item = sources.item(ty).unwrap_or_else(|| panic!("no value is known for {ty}"));
            let Body::Enum(variants) = item.body else { panic!("no value is known for {ty}") };
            let is_bare = |variant: &&Variant| matches!(&variant.content, Content::Fields(f) if f.is_empty());
            match variants.iter().find(is_bare) {
                Some(kind) => Value::Table(Table::from_iter([("kind".into(), Value::String(kind.name.clone()))])),
                None => Value::String(variants[0].name.clone()),
            }
        }
    }
}
