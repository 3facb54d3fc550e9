//! The page, table by table.

use std::collections::BTreeSet;
use std::fmt::Write;

use ddpm_console::settings::insert;
use serde::Deserialize;
use toml::{Table, Value};

use super::schema::{Keys, shortest, shortest_of};
use super::source::{Body, Content, Field, Item, Sources, Variant, texts};
use crate::config::OptimizerKind;

const INTRODUCTION: &str = "\
<!-- Made by `cargo xtask docs` from the doc comments and defaults of the config structs. Edit those. -->

# Keys of an experiment

An experiment is one TOML file. Only `[data]` with its `kind` and `[model]` with its `kind` must be there. Every other
key has the default below; an unknown key is an error. All problems of a file are reported at once, with their keys.
A run's `config.toml` has every default filled in. How to start from a recipe and change single keys on the command
line: [experiments/README.md](../experiments/README.md).

`family` names the family of models that is trained; without it, `family = \"diffusion\"`. The tables that a family does
not share with the others are its own.

A `kind` selects the keys that its table may have. Small tables are written inline: `schedule = { kind = \"cosine\" }`.
";

/// The structs whose fields are the tables of an experiment. Where several have a table of one name, its keys are those of
/// all of them.
const ROOTS: [&str; 2] = ["Experiment", "DiffusionTables"];

/// The families whose tables have sections of their own, with the struct of these. A table that is there already, of the
/// same type, is not repeated.
const FAMILIES: [(&str, &str); 5] = [
    ("vae", "VaeTables"),
    ("hvae", "HvaeTables"),
    ("timegrad", "TimeGradTables"),
    ("masked", "MaskedTables"),
    ("text-encoder", "TextEncoderTables"),
];

/// The whole page.
pub fn of(sources: &Sources) -> String {
    let mut page = Page { sources, text: INTRODUCTION.into(), done: BTreeSet::new(), family: None };
    let tables: Vec<Field> = ROOTS.iter().flat_map(|root| sources.fields(root)).collect();
    for table in &tables {
        let more = tables.iter().filter(|other| other.name == table.name).skip(1);
        page.table(&table.name, &table.docs, &table.ty, more.map(|other| &*other.ty).collect(), &shortest());
    }
    for (family, root) in FAMILIES {
        page.family = Some(family);
        let shared = |table: &Field| tables.iter().any(|other| (&other.name, &other.ty) == (&table.name, &table.ty));
        for table in sources.fields(root).iter().filter(|table| !shared(table)) {
            page.table(&table.name, &table.docs, &table.ty, Vec::new(), &shortest_of(family));
        }
    }
    page.text
}

struct Page<'a> {
    sources: &'a Sources,
    text: String,
    /// Tables that have their section, each with its family.
    done: BTreeSet<(Option<&'static str>, String)>,
    /// The family whose tables come next, if they are of one alone.
    family: Option<&'static str>,
}

impl Page<'_> {
    /// The section of a table, of a type and the keys of `more`.
    fn table(&mut self, path: &str, docs: &[String], ty: &str, more: Vec<&str>, tree: &Table) {
        if !self.done.insert((self.family, path.into())) {
            return;
        }
        let level = if path.contains('.') { "###" } else { "##" };
        let of_family = self.family.map(|family| format!(" of `family = \"{family}\"`")).unwrap_or_default();
        self.line(&format!("\n{level} `[{path}]`{of_family}"));
        let is_optional = inner(ty) != ty;
        let mut item = self.sources.item(inner(ty)).unwrap();
        let mut tree = tree.clone();
        match &mut item.body {
            Body::Struct(fields) => {
                fields.extend(more.into_iter().flat_map(|ty| self.sources.fields(ty)));
                self.paragraphs(docs.iter().chain(&item.docs));
                if path.contains('.') || is_optional {
                    insert(&mut tree, path, Value::Table(Table::new()));
                }
                self.keys(path, fields, tree);
            }
            Body::Enum(_) => {
                self.paragraphs(docs.iter().chain(if path.contains('.') { &item.docs } else { &[][..] }));
                Keys::of(path, tree.clone(), &[], self.sources).compare_values("kind", &item);
                let Body::Enum(variants) = &item.body else { return };
                match variants.iter().any(|variant| matches!(variant.content, Content::OfType(_))) {
                    true => self.kinds_of_types(path, variants, &tree),
                    false => self.kinds(path, variants, &tree),
                }
            }
        }
    }

    /// Kinds whose keys are those of a struct, which several may share.
    fn kinds_of_types(&mut self, path: &str, variants: &[Variant], tree: &Table) {
        self.line("\n| `kind` | meaning |\n| --- | --- |");
        for variant in variants {
            self.line(&format!("| `\"{}\"` | {} |", variant.name, cell(&variant.docs)));
        }
        let mut shown: Vec<&str> = Vec::new();
        for variant in variants {
            let Content::OfType(ty) = &variant.content else { panic!("[{path}]: kinds of both sorts") };
            if shown.contains(&ty.as_str()) {
                continue;
            }
            shown.push(ty);
            let same = variants.iter().filter(|other| matches!(&other.content, Content::OfType(other) if other == ty));
            let names: Vec<String> = same.map(|kind| format!("`\"{}\"`", kind.name)).collect();
            let item = self.sources.item(ty).unwrap();
            let Body::Struct(fields) = &item.body else { panic!("{ty} is no struct") };
            self.line(&format!("\n### `[{path}]` with `kind` = {}", names.join(", ")));
            self.paragraphs(&item.docs);
            self.keys(path, fields, with_kind(path, &variant.name, tree));
        }
    }

    /// Kinds with keys of their own, in one table.
    fn kinds(&mut self, path: &str, variants: &[Variant], tree: &Table) {
        self.line("\n| `kind` | key | type | default | meaning |\n| --- | --- | --- | --- | --- |");
        for variant in variants {
            self.line(&format!("| `\"{}\"` | | | | {} |", variant.name, cell(&variant.docs)));
            let Content::Fields(fields) = &variant.content else { continue };
            let keys = Keys::of(path, with_kind(path, &variant.name, tree), fields, self.sources);
            keys.compare(fields);
            for field in fields {
                let row = self.row(field, &keys);
                self.line(&format!("| {row}"));
            }
        }
    }

    /// The keys of a struct, the values of those that are enums, and the tables below it.
    fn keys(&mut self, path: &str, fields: &[Field], tree: Table) {
        let keys = Keys::of(path, tree, fields, self.sources);
        keys.compare(fields);
        if fields.is_empty() {
            return;
        }
        self.line("\n| key | type | default | meaning |\n| --- | --- | --- | --- |");
        for field in fields {
            let row = self.row(field, &keys);
            self.line(&row);
        }
        self.values(fields, &keys);
        for field in fields {
            if self.is_table(inner(&field.ty)) {
                self.table(&format!("{path}.{}", field.name), &[], inner(&field.ty), Vec::new(), &keys.tree);
            }
        }
    }

    fn values(&mut self, fields: &[Field], keys: &Keys) {
        let mut rows = String::new();
        for field in fields {
            let Some(item) = self.sources.item(inner(&field.ty)).filter(is_choice) else { continue };
            keys.compare_values(&field.name, &item);
            let Body::Enum(variants) = &item.body else { continue };
            for variant in variants {
                let constants = constants(&field.ty, &variant.name);
                let value = Self::value(variant);
                let _ = writeln!(rows, "| `{} = {value}` | {}{constants} |", field.name, cell(&variant.docs));
            }
        }
        if !rows.is_empty() {
            let _ = write!(self.text, "\n| value | meaning |\n| --- | --- |\n{rows}");
        }
    }

    fn row(&self, field: &Field, keys: &Keys) -> String {
        let default = match keys.default(field) {
            _ if keys.required.contains(&field.name) => "must be given".into(),
            Some(value) => format!("`{}`", written(&value)),
            None => "not set".into(),
        };
        format!("| `{}` | {} | {default} | {} |", field.name, self.words(inner(&field.ty)), cell(&field.docs))
    }

    /// A type in words.
    fn words(&self, ty: &str) -> String {
        match ty {
            "bool" => "true or false".into(),
            "f64" => "number".into(),
            "usize" | "u64" => "whole number".into(),
            "String" => "text".into(),
            "char" => "one character".into(),
            "PathBuf" => "path".into(),
            _ if ty.starts_with("Vec<") => format!("list of {}s", self.words(between(ty, "Vec<", ">"))),
            _ if ty.starts_with('[') => format!("2 values, each {}", self.words(between(ty, "[", "; 2]"))),
            _ => {
                let item = self.sources.item(ty).unwrap_or_else(|| panic!("no words for the type {ty}"));
                let said = texts(&item.attributes, "expecting").pop();
                match &item.body {
                    _ if self.is_table(ty) => "table, below".into(),
                    _ if item.attributes.contains("try_from = \"usize\"") => "whole number".into(),
                    Body::Enum(variants) if said.is_none() => {
                        variants.iter().map(|v| format!("`{}`", Self::value(v))).collect::<Vec<_>>().join(", ")
                    }
                    _ => said.unwrap().trim_start_matches("expected ").into(),
                }
            }
        }
    }

    /// A value of an enum, in TOML.
    fn value(variant: &Variant) -> String {
        match &variant.content {
            Content::OfType(_) => format!("{{ {} = N }}", variant.name),
            _ => format!("\"{}\"", variant.name),
        }
    }

    fn is_table(&self, ty: &str) -> bool {
        self.sources.item(ty).is_some_and(|item| match item.body {
            Body::Struct(_) => true,
            Body::Enum(_) => item.attributes.contains("tag = \"kind\""),
        })
    }

    fn paragraphs<'b>(&mut self, docs: impl IntoIterator<Item = &'b String>) {
        for paragraph in docs.into_iter().filter(|paragraph| !paragraph.is_empty()) {
            self.line(&format!("\n{}", linked(paragraph)));
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// Whether a type is one of several names.
fn is_choice(item: &Item) -> bool {
    let other = ["tag = ", "untagged", "try_from = "].iter().any(|word| item.attributes.contains(word));
    matches!(item.body, Body::Enum(_)) && !other
}

/// The constants of an optimiser with those defaults that depend on it.
fn constants(ty: &str, name: &str) -> String {
    if ty != "OptimizerKind" {
        return String::new();
    }
    let kind = OptimizerKind::deserialize(Value::String(name.into())).unwrap();
    let constants = kind.constants().iter().map(|&(key, value)| match key {
        "nesterov" => format!("`nesterov` ({})", value != 0.0),
        _ => format!("`{key}` ({})", written(&Value::Float(value))),
    });
    format!(" Constants: {}.", constants.collect::<Vec<_>>().join(", "))
}

fn with_kind(path: &str, kind: &str, tree: &Table) -> Table {
    let mut tree = tree.clone();
    let table = Table::from_iter([("kind".into(), Value::String(kind.into()))]);
    insert(&mut tree, path, Value::Table(table));
    tree
}

/// The type in `Option<..>`.
fn inner(ty: &str) -> &str {
    if ty.starts_with("Option<") { between(ty, "Option<", ">") } else { ty }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).unwrap_or_else(|| panic!("no words for {text}"))
}

/// A value in TOML, small numbers with an exponent.
fn written(value: &Value) -> String {
    match value {
        Value::Float(number) if *number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
        Value::Array(values) => format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            // The kind first.
            let (kind, rest): (Vec<_>, Vec<_>) = table.iter().partition(|(key, _)| *key == "kind");
            let pairs = kind.into_iter().chain(rest).map(|(key, value)| format!("{key} = {}", written(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// Paragraphs in a cell of a table.
fn cell(docs: &[String]) -> String {
    linked(&docs.join(" ")).replace('|', "\\|")
}

/// Links of rustdoc as plain code, files of the docs as links.
fn linked(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    let text = text.replace("`datasets/README.md`", "[datasets/README.md](../datasets/README.md)");
    text.replace("`docs/backends.md`", "[Backends](backends.md)")
}
