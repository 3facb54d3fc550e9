//! Structs and enums of configs with their doc comments, read from the sources as text.

use std::path::Path;

/// The sources of all crates.
pub struct Sources(Vec<String>);

/// A struct or an enum.
pub struct Item {
    /// Paragraphs of the doc comment.
    pub docs: Vec<String>,
    /// Its attributes, one after the other.
    pub attributes: String,
    /// What is in its braces.
    pub body: Body,
}

/// What is in the braces of an item.
pub enum Body {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

/// A field that serde reads.
pub struct Field {
    pub name: String,
    /// Its type in Rust.
    pub ty: String,
    pub docs: Vec<String>,
    pub aliases: Vec<String>,
}

/// A variant of an enum.
pub struct Variant {
    /// As it is written in TOML.
    pub name: String,
    pub docs: Vec<String>,
    pub aliases: Vec<String>,
    pub content: Content,
}

/// What a variant has besides its name.
pub enum Content {
    Nothing,
    OfType(String),
    Fields(Vec<Field>),
}

impl Sources {
    /// Every Rust file below a folder that has to do with serde.
    pub fn read(dir: &Path) -> Self {
        let mut sources = Self(Vec::new());
        sources.add(dir);
        sources
    }

    fn add(&mut self, dir: &Path) {
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                self.add(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(path).unwrap();
                self.0.extend(text.contains("Deserialize").then_some(text));
            }
        }
    }

    /// The public item of this name that serde reads; `None` for types that are not ours.
    pub fn item(&self, name: &str) -> Option<Item> {
        let mut found = self.0.iter().filter_map(|text| item(text, name));
        let item = found.next();
        assert!(found.next().is_none(), "two types called {name} are read from TOML: give one another name");
        item
    }

    /// The fields of the struct of this name.
    pub fn fields(&self, name: &str) -> Vec<Field> {
        match self.item(name) {
            Some(Item { body: Body::Struct(fields), .. }) => fields,
            _ => panic!("there is no struct {name} that is read from TOML"),
        }
    }
}

/// Doc comment and attributes that come before something.
#[derive(Default)]
struct Above {
    docs: Vec<String>,
    attributes: String,
}

impl Above {
    /// Takes a line of a comment or attribute; whether it was one.
    fn take(&mut self, line: &str) -> bool {
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///") {
            self.document(doc.trim());
        } else if line.starts_with("#[") {
            assert!(line.ends_with(']'), "an attribute in several lines: {line}");
            self.attributes.push_str(line);
        } else {
            return line.is_empty() || line.starts_with("//");
        }
        true
    }

    fn document(&mut self, line: &str) {
        match self.docs.last_mut() {
            _ if line.is_empty() => self.docs.push(String::new()),
            Some(paragraph) if !paragraph.is_empty() => {
                paragraph.push(' ');
                paragraph.push_str(line);
            }
            Some(paragraph) => paragraph.push_str(line),
            None => self.docs.push(line.into()),
        }
    }

    /// The texts of all attributes `key = "text"`.
    fn texts(&self, key: &str) -> Vec<String> {
        texts(&self.attributes, key)
    }
}

/// The texts of all `key = "text"` in attributes.
pub fn texts(attributes: &str, key: &str) -> Vec<String> {
    let key = format!("{key} = \"");
    let starts = attributes.match_indices(&key);
    let starts = starts.filter(|(at, _)| !attributes[..*at].ends_with(|c: char| c == '_' || c.is_alphanumeric()));
    starts.filter_map(|(at, _)| attributes[at + key.len()..].split('"').next()).map(str::to_string).collect()
}

fn item(text: &str, name: &str) -> Option<Item> {
    let starts = [format!("pub struct {name} {{"), format!("pub enum {name} {{")];
    if !starts.iter().any(|start| text.contains(start.as_str())) {
        return None;
    }
    let mut above = Above::default();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let is_start = |start: &String| line.strip_prefix(start.as_str()).is_some_and(|rest| ["", "}"].contains(&rest));
        if starts.iter().any(is_start) && above.attributes.contains("Deserialize") {
            let Above { docs, attributes } = above;
            let mut body = lines.by_ref().take_while(|inner| *inner != "}");
            let body = match line {
                _ if line.ends_with("{}") => Body::Struct(Vec::new()),
                _ if line.starts_with("pub struct") => Body::Struct(fields(&mut body)),
                _ => Body::Enum(variants(&mut body, texts(&attributes, "rename_all").first().map(String::as_str))),
            };
            return Some(Item { docs, attributes, body });
        }
        if !above.take(line) || line.is_empty() {
            above = Above::default();
        }
    }
    None
}

fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut above = Above::default();
    for line in lines {
        if above.take(line) {
            continue;
        }
        let above = std::mem::take(&mut above);
        let (name, ty) = line.trim().trim_start_matches("pub ").split_once(": ").unwrap();
        let (aliases, ty) = (above.texts("alias"), ty.trim_end_matches(',').into());
        let name = above.texts("rename").pop().unwrap_or_else(|| name.into());
        if !above.attributes.contains("serde(skip)") {
            fields.push(Field { name, ty, docs: above.docs, aliases });
        }
    }
    fields
}

fn variants<'a>(lines: &mut impl Iterator<Item = &'a str>, style: Option<&str>) -> Vec<Variant> {
    let mut variants = Vec::new();
    let mut above = Above::default();
    while let Some(line) = lines.next() {
        if above.take(line) {
            continue;
        }
        let above = std::mem::take(&mut above);
        let line = line.trim().trim_end_matches(',');
        let end = line.find(|c: char| !c.is_alphanumeric()).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let content = match rest.trim() {
            "" => Content::Nothing,
            "{}" => Content::Fields(Vec::new()),
            "{" => Content::Fields(fields(&mut lines.by_ref().take_while(|inner| inner.trim() != "},"))),
            ty => Content::OfType(ty.trim_matches(['(', ')']).into()),
        };
        let name = above.texts("rename").pop().unwrap_or_else(|| styled(name, style));
        if above.attributes.contains("skip_deserializing") {
            continue;
        }
        variants.push(Variant { name, aliases: above.texts("alias"), docs: above.docs, content });
    }
    variants
}

/// A name as serde writes it.
fn styled(name: &str, style: Option<&str>) -> String {
    match style {
        Some("kebab-case") => {
            let dashed = name.chars().enumerate().map(|(i, c)| match c.is_uppercase() && i > 0 {
                true => format!("-{}", c.to_lowercase()),
                false => c.to_lowercase().to_string(),
            });
            dashed.collect()
        }
        Some("lowercase") => name.to_lowercase(),
        None => name.into(),
        Some(other) => panic!("{name}: names in {other} are not known here"),
    }
}
