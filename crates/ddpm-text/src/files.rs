//! The files of a tokenizer: `tokenizer.json`, or `vocab.json` and `merges.txt`, and the configs next to either.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The most bytes of a file that are read; CLIP's largest has two million.
const MOST_BYTES: u64 = 64 << 20;

/// The words of a text, and how they are split off.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// The end of a word, as a part of its last symbol.
pub(crate) const END_OF_WORD: &str = "</w>";

/// Why a tokenizer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A folder has none of the files.
    #[error("{}: the folder has neither tokenizer.json nor vocab.json and merges.txt", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
}

impl TokenizerError {
    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// The tokens with a meaning of their own, and the longest sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) start: String,
    pub(crate) end: String,
    pub(crate) pad: String,
    pub(crate) max_length: usize,
}

/// A tokenizer in the form of `tokenizer.json`, the file that is at fault where it is wrong, and its settings.
pub(crate) struct Parts {
    pub(crate) json: Value,
    pub(crate) file: PathBuf,
    pub(crate) settings: Settings,
}

/// Reads the files in a folder.
pub(crate) fn read(folder: &Path) -> Result<Parts, TokenizerError> {
    let settings = settings(folder)?;
    let [whole, vocab, merges] = ["tokenizer.json", "vocab.json", "merges.txt"].map(|name| folder.join(name));
    if whole.is_file() {
        let json = read_json(&whole)?;
        check_whole(&whole, &json)?;
        return Ok(Parts { json, file: whole, settings });
    }
    if !vocab.is_file() && !merges.is_file() {
        return Err(TokenizerError::Missing { path: folder.to_path_buf() });
    }
    let words = vocabulary(&vocab)?;
    let pairs = merge_rules(&merges, &words)?;
    let json = whole_of(&vocab, words, pairs, &settings)?;
    Ok(Parts { json, file: vocab, settings })
}

fn read_text(path: &Path) -> Result<String, TokenizerError> {
    let io = |error| TokenizerError::Io { path: path.to_path_buf(), error };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(TokenizerError::malformed(path, format!("has more than {MOST_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| TokenizerError::malformed(path, format!("is not UTF-8: {error}")))
}

fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|error| TokenizerError::malformed(path, format!("is not JSON: {error}")))
}

/// Of the configs next to the vocabulary, whichever there are; else those of CLIP.
fn settings(folder: &Path) -> Result<Settings, TokenizerError> {
    let mut tables = Vec::new();
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(name);
        if path.is_file() {
            tables.push((read_json(&path)?, path));
        }
    }
    let token = |key: &str, default: &str| -> Result<String, TokenizerError> {
        for (table, path) in &tables {
            match &table[key] {
                Value::Null => {}
                // A text, or a table with it.
                Value::String(text) => return Ok(text.clone()),
                other => match other["content"].as_str() {
                    Some(text) => return Ok(text.into()),
                    None => return Err(TokenizerError::malformed(path, format!("{key} is {other}, not a token"))),
                },
            }
        }
        Ok(default.into())
    };
    // A tokenizer without a limit has a number there that is no length.
    let lengths = tables.iter().filter_map(|(table, _)| table["model_max_length"].as_u64());
    let max_length = lengths.map(|length| length as usize).find(|length| (2..=4096).contains(length)).unwrap_or(77);
    let end = token("eos_token", "<|endoftext|>")?;
    Ok(Settings { start: token("bos_token", "<|startoftext|>")?, pad: token("pad_token", &end)?, end, max_length })
}

fn check_whole(path: &Path, json: &Value) -> Result<(), TokenizerError> {
    let model = &json["model"];
    let kind = model["type"].as_str();
    let (is_bpe, suffix) = (kind == Some("BPE") || kind.is_none(), model["end_of_word_suffix"].as_str());
    if !is_bpe || suffix != Some(END_OF_WORD) {
        let found =
            format!("model.type = {}, model.end_of_word_suffix = {}", model["type"], model["end_of_word_suffix"]);
        let reason = format!("{found}: not CLIP's tokenizer, which is \"BPE\" with \"{END_OF_WORD}\"");
        return Err(TokenizerError::malformed(path, reason));
    }
    let words = model["vocab"].as_object();
    let words = words.ok_or_else(|| TokenizerError::malformed(path, "model.vocab is not a table of tokens and ids"))?;
    check_ids(path, words)
}

fn vocabulary(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    match read_json(path)? {
        Value::Object(words) => check_ids(path, &words).map(|()| words),
        _ => Err(TokenizerError::malformed(path, "is not a table of tokens and ids")),
    }
}

/// Every token has an id of its own, below 2^31.
fn check_ids(path: &Path, words: &Map<String, Value>) -> Result<(), TokenizerError> {
    if words.is_empty() {
        return Err(TokenizerError::malformed(path, "has no tokens"));
    }
    let mut seen = BTreeSet::new();
    for (word, id) in words {
        let Some(id) = id.as_u64().filter(|&id| id < 1 << 31) else {
            return Err(TokenizerError::malformed(path, format!("the id of {word:?} is {id}")));
        };
        if !seen.insert(id) {
            return Err(TokenizerError::malformed(path, format!("two tokens have the id {id}, one of them {word:?}")));
        }
    }
    Ok(())
}

/// The pairs of symbols that are joined, the first ones first.
fn merge_rules(path: &Path, words: &Map<String, Value>) -> Result<Vec<Value>, TokenizerError> {
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(i, line)| !(*i == 0 && line.starts_with("#version")));
    let mut pairs = Vec::new();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |reason: String| TokenizerError::malformed(path, format!("line {}: {reason}", i + 1));
        let symbols: Vec<&str> = line.split_whitespace().collect();
        let &[first, second] = symbols.as_slice() else {
            return Err(wrong(format!("{line:?} is not two symbols")));
        };
        let joined = format!("{first}{second}");
        if let Some(unknown) = [first, second, &joined].into_iter().find(|symbol| !words.contains_key(*symbol)) {
            return Err(wrong(format!("{unknown:?} is not in the vocabulary")));
        }
        pairs.push(json!([first, second]));
    }
    Ok(pairs)
}

/// The same as one `tokenizer.json`, with the rules of CLIP.
pub(crate) fn whole_of(
    path: &Path,
    words: Map<String, Value>,
    pairs: Vec<Value>,
    settings: &Settings,
) -> Result<Value, TokenizerError> {
    let id = |token: &str| {
        let found = words.get(token).cloned();
        found.ok_or_else(|| TokenizerError::malformed(path, format!("the token {token:?} is not in the vocabulary")))
    };
    let (start, end) = (id(&settings.start)?, id(&settings.end)?);
    let special = |content: &str, id: &Value| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": true})
    };
    Ok(json!({
        "version": "1.0",
        "added_tokens": [special(&settings.start, &start), special(&settings.end, &end)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [&settings.end, end], "cls": [&settings.start, start],
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": &settings.end, "continuing_subword_prefix": "",
            "end_of_word_suffix": END_OF_WORD, "fuse_unk": false, "byte_fallback": false,
            "vocab": words, "merges": pairs},
    }))
}
