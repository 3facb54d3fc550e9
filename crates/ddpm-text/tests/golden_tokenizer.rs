//! CLIP's tokenizer against transformers' (`fixtures/sd_parts`), and files that are damaged.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use ddpm_text::ClipTokenizer;
use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The fixtures that `DDPM_FIXTURES` names (relative to the workspace), or the project's own.
fn root() -> PathBuf {
    let named = std::env::var("DDPM_FIXTURES").map(|folder| workspace().join(folder).join("sd_parts"));
    named.ok().filter(|root| root.is_dir()).unwrap_or_else(|| workspace().join("fixtures/sd_parts"))
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The folders of tokenizers that the index lists: with `vocab.json`, and with `tokenizer.json`.
fn folders() -> [PathBuf; 2] {
    let index = read_json(&root().join("index.json"));
    let parts = index["parts"].as_array().unwrap();
    ["CLIPTokenizer", "tokenizer.json of the same vocabulary"].map(|kind| {
        let part = parts.iter().find(|part| part["kind"] == kind).unwrap_or_else(|| panic!("no part is a {kind}"));
        root().join(part["folder"].as_str().unwrap())
    })
}

fn cases() -> Value {
    read_json(&folders()[0].join("cases.json"))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn all_strings_have_the_ids_of_transformers_from_either_form() {
    let cases = cases();
    for folder in folders() {
        let tokenizer = ClipTokenizer::open(&folder).unwrap();
        let number = |key: &str| cases[key].as_u64().unwrap() as u32;
        assert_eq!([tokenizer.start(), tokenizer.end(), tokenizer.pad()], ["bos", "eos", "pad"].map(number));
        assert_eq!(tokenizer.vocab_size() as u32, number("vocab_size"));
        assert_eq!(tokenizer.max_length() as u32, number("model_max_length"));
        let strings = cases["strings"].as_array().unwrap();
        assert!(!strings.is_empty());
        for case in strings {
            let text = case["text"].as_str().unwrap();
            let found = tokenizer.ids(text).unwrap();
            assert_eq!(found, ids(&case["ids"]), "{text:?} by {}", folder.display());
            let tokens: Vec<_> = case["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
            assert_eq!(tokenizer.tokens(&found).unwrap(), tokens, "{text:?}");
            let encoding = tokenizer.encode(text).unwrap();
            assert_eq!(encoding.ids, ids(&case["ids_77"]), "{text:?}");
            assert_eq!(encoding.mask, ids(&case["mask_77"]), "{text:?}");
            assert_eq!(encoding.dropped, found.len().saturating_sub(77), "{text:?}");
        }
    }
}

#[test]
fn long_prompts_are_cut_and_short_ones_padded() {
    let cases = cases();
    for folder in folders() {
        let tokenizer = ClipTokenizer::open(&folder).unwrap();
        for case in cases["truncation"].as_array().unwrap() {
            let repeat = case["repeat"].as_u64().unwrap() as usize;
            let text = vec![case["word"].as_str().unwrap(); repeat].join(" ");
            let encoding = tokenizer.encode(&text).unwrap();
            let kept = ids(&case["truncated_ids"]);
            assert_eq!(encoding.ids[..kept.len()], kept, "{repeat} words");
            assert_eq!(encoding.ids.len() as u64, case["padded_length"].as_u64().unwrap());
            assert_eq!(encoding.ids.last().copied(), case["last_id"].as_u64().map(|id| id as u32));
            assert_eq!(encoding.dropped, (repeat + 2).saturating_sub(77));
        }
        let case = &cases["pad_with_exclamation_mark"];
        let padded = tokenizer.clone().padded_with(case["pad_token"].as_str().unwrap()).unwrap();
        let encoding = padded.encode(case["text"].as_str().unwrap()).unwrap();
        assert_eq!((encoding.ids, encoding.mask), (ids(&case["ids_77"]), ids(&case["mask_77"])));
        assert!(tokenizer.padded_with("no such token").unwrap_err().contains("no such token"));
    }
}

#[test]
fn very_long_prompts_are_encoded_too() {
    for folder in folders() {
        let tokenizer = ClipTokenizer::open(&folder).unwrap();
        for text in ["a".repeat(10_000), "🔴".repeat(10_000), "مرحبا ".repeat(2_000)] {
            let encoding = tokenizer.encode(&text).unwrap();
            assert_eq!(encoding.ids.len(), 77);
            assert!(encoding.ids[1..76].iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

/// A copy of one of the folders, whose files can be changed.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(folder: &Path) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            std::fs::write(copy.path().join(file.file_name()), std::fs::read(file.path()).unwrap()).unwrap();
        }
        Self(copy)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut json = read_json(&self.0.path().join(name));
        edit(&mut json);
        self.write(name, json.to_string());
    }

    /// Panics unless the folder is refused with all of these in one message.
    fn refused(&self, parts: &[&str]) {
        let message = ClipTokenizer::open(self.0.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn malformed_files_are_refused_by_name() {
    let [slow, fast] = folders();
    let of = |change: &dyn Fn(&Copy), parts: &[&str]| {
        let copy = Copy::of(&slow);
        change(&copy);
        copy.refused(parts);
    };
    of(&|copy| copy.write("vocab.json", "{\"a\": 1"), &["vocab.json", "not JSON"]);
    of(&|copy| copy.write("vocab.json", [0xff, 0xfe]), &["vocab.json", "not UTF-8"]);
    of(&|copy| copy.write("vocab.json", "[]"), &["vocab.json", "not a table"]);
    of(&|copy| copy.edit("vocab.json", |json| json["a"] = (-1).into()), &["vocab.json", "\"a\" is -1"]);
    of(&|copy| copy.edit("vocab.json", |json| json["new"] = 5.into()), &["vocab.json", "two tokens have the id 5"]);
    let without_end = |json: &mut Value| drop(json.as_object_mut().unwrap().remove("<|endoftext|>"));
    of(&|copy| copy.edit("vocab.json", without_end), &["vocab.json", "\"<|endoftext|>\" is not in the vocabulary"]);
    of(&|copy| copy.write("merges.txt", "#version: 0.2\nt h e\n"), &["merges.txt", "line 2", "not two symbols"]);
    of(&|copy| copy.write("merges.txt", "t qqq\n"), &["merges.txt", "line 1", "\"qqq\" is not in the vocabulary"]);
    of(
        &|copy| copy.edit("tokenizer_config.json", |json| json["bos_token"] = 3.into()),
        &["tokenizer_config.json", "bos_token is 3"],
    );
    of(&|copy| std::fs::remove_file(copy.0.path().join("merges.txt")).unwrap(), &["merges.txt"]);
    let empty = Copy(tempfile::tempdir().unwrap());
    empty.refused(&["neither tokenizer.json nor vocab.json"]);

    let of = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let copy = Copy::of(&fast);
        copy.edit("tokenizer.json", |json| change(json));
        copy.refused(&[&["tokenizer.json"], parts].concat());
    };
    of(&|json| json["model"]["type"] = "WordPiece".into(), &["WordPiece", "not CLIP's tokenizer"]);
    of(&|json| json["model"]["end_of_word_suffix"] = Value::Null, &["end_of_word_suffix = null"]);
    of(&|json| json["model"]["vocab"] = 3.into(), &["model.vocab"]);
    of(&|json| json["model"]["merges"] = serde_json::json!([["t", "qqq"]]), &["qqq"]);
    of(&|json| json["post_processor"] = Value::Null, &["an empty text has the ids []"]);
    of(&|json| json["pre_tokenizer"] = "none".into(), &["is not a tokenizer"]);
}

/// Files with bytes changed, left out or cut are refused, or give a tokenizer that encodes: nothing panics.
#[test]
fn damaged_files_never_panic() {
    let mut state = 1_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let (mut refused, mut read) = (0, 0);
    for (folder, names) in folders().iter().zip([["vocab.json", "merges.txt"], ["tokenizer.json"; 2]]) {
        for name in names {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            let copy = Copy::of(folder);
            for _ in 0..60 {
                let mut bytes = bytes.clone();
                for _ in 0..=below(3) {
                    let at = below(bytes.len());
                    match below(4) {
                        0 => bytes[at] = below(256) as u8,
                        1 => bytes.truncate(at.max(1)),
                        2 => drop(bytes.drain(at..(at + 9).min(bytes.len()))),
                        _ => bytes[at] ^= 1 << below(7),
                    }
                }
                copy.write(name, bytes);
                match ClipTokenizer::open(copy.0.path()) {
                    Ok(tokenizer) => {
                        read += 1;
                        assert_eq!(tokenizer.encode("A small red circle, 2 ✓").map_or(77, |e| e.ids.len()), 77);
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().contains(".json") || error.to_string().contains(".txt"), "{error}");
                    }
                }
            }
        }
    }
    assert!(refused > 50 && read > 0, "{refused} refused, {read} read");
}
