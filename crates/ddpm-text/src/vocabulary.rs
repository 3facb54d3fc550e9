//! A vocabulary of one's own in CLIP's form, learned from texts: the symbols of 256 bytes, inside and at the end of a word,
//! and what byte-pair encoding (Sennrich et al. 2016) joins of them. Any text can be encoded with it.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{AddedToken, Tokenizer};

use crate::clip::ClipTokenizer;
use crate::files::{END_OF_WORD, Parts, Settings, TokenizerError, whole_of};

/// The tokens that begin and end every sequence.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Tokens that every vocabulary has: the symbols of the bytes, start and end.
pub const LEAST_TOKENS: usize = 2 * 256 + 2;

/// A pair that occurs less often is not joined.
const LEAST_COUNT: u64 = 2;

/// Pairs of symbols that are joined, the first ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    pairs: Vec<[String; 2]>,
    max_length: usize,
}

impl Vocabulary {
    /// Learns a vocabulary of at most `size` tokens from texts, for sequences of `max_length` tokens. The same texts give the
    /// same vocabulary.
    pub fn learn<S: AsRef<str> + Sync>(texts: &[S], size: usize, max_length: usize) -> Result<Self, TokenizerError> {
        let wrong = |reason: String| TokenizerError::malformed(Path::new("the vocabulary"), reason);
        let empty = Self { pairs: Vec::new(), max_length };
        let json = empty.parts()?.json.to_string();
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| wrong(error.to_string()))?;
        // All symbols are given, in CLIP's order: the order in which the crate finds others is random.
        let symbols = symbols().into_iter().map(|symbol| AddedToken::from(symbol, false)).collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(size.saturating_sub(2))
            .min_frequency(LEAST_COUNT)
            .show_progress(false)
            .special_tokens(symbols)
            .end_of_word_suffix(END_OF_WORD.into());
        let mut trainer = TrainerWrapper::BpeTrainer(trainer.build());
        let texts = texts.iter().map(AsRef::as_ref);
        tokenizer.train(&mut trainer, texts).map_err(|error| wrong(error.to_string()))?;
        let model = serde_json::to_value(tokenizer.get_model()).map_err(|error| wrong(error.to_string()))?;
        let pairs = serde_json::from_value(model["merges"].clone()).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { pairs, max_length })
    }

    /// The vocabulary of these pairs, each as two symbols with a space between them, as in `merges.txt`.
    pub fn of_merges(merges: &[String], max_length: usize) -> Result<Self, TokenizerError> {
        let mut known = symbols();
        let mut pairs = Vec::with_capacity(merges.len());
        for (number, merge) in merges.iter().enumerate() {
            let wrong = |reason: &str| {
                TokenizerError::malformed(Path::new("merges"), format!("pair {number}, {merge:?}: {reason}"))
            };
            let symbols: Vec<&str> = merge.split(' ').collect();
            let &[first, second] = symbols.as_slice() else {
                return Err(wrong("expected two symbols with a space between them"));
            };
            for symbol in [first, second] {
                if !known.iter().any(|known| known == symbol) {
                    return Err(wrong(&format!("{symbol:?} is no byte, and no pair before it gives it")));
                }
            }
            known.push(format!("{first}{second}"));
            pairs.push([first.to_string(), second.to_string()]);
        }
        Ok(Self { pairs, max_length })
    }

    /// The pairs, as [`of_merges`](Self::of_merges) takes them.
    pub fn merges(&self) -> Vec<String> {
        self.pairs.iter().map(|pair| pair.join(" ")).collect()
    }

    /// All tokens; the place of each is its id.
    fn tokens(&self) -> Vec<String> {
        let mut tokens = symbols();
        let mut seen: std::collections::BTreeSet<String> = tokens.iter().cloned().collect();
        let joined = self.pairs.iter().map(|pair| pair.concat());
        tokens.extend(joined.filter(|token| seen.insert(token.clone())));
        tokens.extend([START, END].map(String::from));
        tokens
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.tokens().len()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<ClipTokenizer, TokenizerError> {
        ClipTokenizer::of_parts(self.parts()?)
    }

    fn ids(&self) -> Map<String, Value> {
        self.tokens().into_iter().enumerate().map(|(id, token)| (token, id.into())).collect()
    }

    fn parts(&self) -> Result<Parts, TokenizerError> {
        let file = Path::new("the vocabulary");
        let [start, end] = [START, END].map(String::from);
        let settings = Settings { start, pad: end.clone(), end, max_length: self.max_length };
        let pairs = self.pairs.iter().map(|pair| json!(pair)).collect();
        let json = whole_of(file, self.ids(), pairs, &settings)?;
        Ok(Parts { json, file: file.into(), settings })
    }

    /// The files of a tokenizer as transformers' `CLIPTokenizer` has them, with their names.
    pub fn files(&self) -> [(&'static str, String); 4] {
        let pretty = |value: Value| format!("{value:#}\n");
        let special = |content: &str| json!({"content": content, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false});
        let names = json!({"bos_token": special(START), "eos_token": special(END), "pad_token": END, "unk_token": special(END)});
        let config = json!({
            "add_prefix_space": false, "bos_token": START, "clean_up_tokenization_spaces": true, "do_lower_case": true,
            "eos_token": END, "errors": "replace", "model_max_length": self.max_length, "pad_token": END,
            "tokenizer_class": "CLIPTokenizer", "unk_token": END,
        });
        let merges: String = self.merges().iter().map(|merge| format!("{merge}\n")).collect();
        [
            ("vocab.json", Value::Object(self.ids()).to_string()),
            ("merges.txt", format!("#version: 0.2\n{merges}")),
            ("tokenizer_config.json", pretty(config)),
            ("special_tokens_map.json", pretty(names)),
        ]
    }
}

/// The symbols of the bytes in CLIP's order: first the bytes that are printable characters of Latin-1, then the others, which
/// stand as characters from 256 on; and all of them once more for the end of a word.
fn symbols() -> Vec<String> {
    let is_printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let printable = (0..256).filter(|&byte| is_printable(byte));
    let others = (0..256).filter(|&byte| !is_printable(byte)).enumerate().map(|(number, _)| 256 + number as u32);
    let bytes: Vec<String> = printable.chain(others).filter_map(char::from_u32).map(String::from).collect();
    let ends = bytes.iter().map(|symbol| format!("{symbol}{END_OF_WORD}"));
    bytes.iter().cloned().chain(ends).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = ["a small red circle", "A small  red square", "the red circle, small", "tiny RED circles"];

    #[test]
    fn frequent_words_become_tokens_and_any_text_can_be_encoded() {
        let vocabulary = Vocabulary::learn(&TEXTS, 600, 12).unwrap();
        let tokenizer = vocabulary.tokenizer().unwrap();
        assert_eq!(tokenizer.vocab_size(), vocabulary.size());
        let tokens = |text: &str| tokenizer.tokens(&tokenizer.ids(text).unwrap()).unwrap();
        assert_eq!(tokens("Small red circle"), [START, "small</w>", "red</w>", "circle</w>", END]);
        for text in ["", "xylophone 42", "\u{1f600} na\u{ef}ve", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}"] {
            let ids = tokenizer.ids(text).unwrap();
            assert!(ids[1..ids.len() - 1].iter().all(|&id| id < tokenizer.start()), "{text}: {ids:?}");
            assert!(text.is_empty() || ids.len() > 2, "{text}");
        }
    }

    #[test]
    fn the_same_texts_give_the_same_vocabulary_and_its_size_has_a_limit() {
        let first = Vocabulary::learn(&TEXTS, 520, 12).unwrap();
        for _ in 0..5 {
            assert_eq!(Vocabulary::learn(&TEXTS, 520, 12).unwrap(), first);
        }
        assert_eq!(first.size(), 520);
        assert_eq!(Vocabulary::learn(&TEXTS, 0, 12).unwrap().size(), LEAST_TOKENS);
        assert_eq!(Vocabulary::of_merges(&first.merges(), 12).unwrap(), first);
    }

    #[test]
    fn its_files_are_read_as_the_same_tokenizer() {
        let vocabulary = Vocabulary::learn(&TEXTS, 600, 12).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in vocabulary.files() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (read, own) = (ClipTokenizer::open(folder.path()).unwrap(), vocabulary.tokenizer().unwrap());
        assert_eq!((read.max_length(), read.vocab_size()), (12, vocabulary.size()));
        for text in TEXTS.into_iter().chain(["", "unseen words"]) {
            assert_eq!(read.encode(text).unwrap(), own.encode(text).unwrap());
        }
    }

    #[test]
    fn pairs_that_cannot_be_are_refused_with_their_place() {
        for (merges, expected) in [
            (&["a b", "ab"][..], "pair 1, \"ab\": expected two symbols"),
            (&["a b", "abc d"], "pair 1, \"abc d\": \"abc\" is no byte"),
        ] {
            let merges: Vec<String> = merges.iter().map(|merge| merge.to_string()).collect();
            let error = Vocabulary::of_merges(&merges, 12).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
