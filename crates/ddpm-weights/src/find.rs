//! The file of weights in a model folder of diffusers or transformers.

use std::path::{Path, PathBuf};

use super::WeightsError;

/// What diffusers calls its weights, before the variant and the format.
const STEM: &str = "diffusion_pytorch_model";
/// All names of weights: those of diffusers and of transformers.
const STEMS: [&str; 3] = [STEM, "model", "pytorch_model"];

/// One file that holds or lists weights.
struct Candidate {
    name: String,
    variant: Option<String>,
    /// The best first: safetensors before pickles, whole files before sets.
    rank: usize,
}

impl Candidate {
    /// Reads a file name: `STEM[.variant].safetensors`, `.bin`, or `.index.json`, whose variant has stood in several
    /// places over the years. Shards have a number in their name and are found through their index.
    fn of(name: String) -> Option<Self> {
        const FORMATS: [&[&str]; 4] =
            [&["safetensors"], &["index", "json", "safetensors"], &["bin"], &["bin", "index", "json"]];
        let rest = STEMS.iter().find_map(|stem| name.strip_prefix(stem)?.strip_prefix('.'))?;
        let mut words: Vec<&str> = rest.split('.').collect();
        let known = ["safetensors", "bin", "index", "json"];
        let variants: Vec<String> =
            words.iter().filter(|word| !known.contains(word)).map(ToString::to_string).collect();
        words.retain(|word| known.contains(word));
        words.sort_unstable();
        let rank = FORMATS.iter().position(|format| {
            let mut format = format.to_vec();
            format.sort_unstable();
            format == words
        })?;
        let variant = match &variants[..] {
            [] => None,
            [variant] if !variant.contains("-of-") => Some(variant.clone()),
            _ => return None,
        };
        Some(Self { name, variant, rank })
    }
}

/// The file to open. A variant that was not asked for is taken where there is nothing else.
pub(super) fn file_in(dir: &Path, variant: Option<&str>) -> Result<PathBuf, WeightsError> {
    let io = |error| WeightsError::Io { path: dir.to_path_buf(), error };
    let mut candidates = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        candidates.extend(Candidate::of(entry.map_err(io)?.file_name().to_string_lossy().into_owned()));
    }
    candidates.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
    let of = |variant: Option<&str>| candidates.iter().find(|candidate| candidate.variant.as_deref() == variant);
    let found = || candidates.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>().join(", ");
    let choice = |reason: String| Err(WeightsError::Choice { path: dir.to_path_buf(), reason });

    let mut variants: Vec<&str> = candidates.iter().filter_map(|candidate| candidate.variant.as_deref()).collect();
    variants.sort_unstable();
    variants.dedup();
    let chosen = match (variant, &variants[..]) {
        (Some(variant), _) => of(Some(variant)),
        (None, &[only]) => of(None).or_else(|| of(Some(only))),
        (None, _) => of(None),
    };
    match (chosen, variant) {
        (Some(candidate), _) => Ok(dir.join(&candidate.name)),
        (None, _) if candidates.is_empty() => choice(format!(
            "the folder holds no weights: no {STEM}.safetensors, {STEM}.bin, model.safetensors, or index of a sharded set"
        )),
        (None, Some(variant)) => choice(format!("there are no weights of variant {variant}, only {}", found())),
        (None, None) => choice(format!("there are several variants, and one must be chosen: {}", found())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pick(names: &[&str], variant: Option<&str>) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        file_in(dir.path(), variant)
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_right_file_is_picked() {
        let plain = "diffusion_pytorch_model.safetensors";
        let bin = "diffusion_pytorch_model.bin";
        let half = "diffusion_pytorch_model.fp16.safetensors";
        let index = "diffusion_pytorch_model.safetensors.index.json";
        let shards = ["diffusion_pytorch_model-00001-of-00002.safetensors", "config.json"];
        let [text, old_text] = ["model.safetensors", "pytorch_model.bin"];
        assert_eq!(pick(&[old_text, text, "model.fp16.safetensors"], None).unwrap(), text);
        assert_eq!(pick(&[old_text, "config.json", "model_index.json"], None).unwrap(), old_text);
        assert_eq!(pick(&[bin, half, plain], None).unwrap(), plain);
        assert_eq!(pick(&[bin, half, plain], Some("fp16")).unwrap(), half);
        assert_eq!(pick(&[half], None).unwrap(), half);
        assert_eq!(pick(&[half, bin], None).unwrap(), bin);
        assert_eq!(pick(&[index, shards[0], shards[1]], None).unwrap(), index);
        for index in [
            "diffusion_pytorch_model.fp16.safetensors.index.json",
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.safetensors.fp16.index.json",
        ] {
            assert_eq!(pick(&[index], Some("fp16")).unwrap(), index);
        }
    }

    #[test]
    fn what_was_found_is_said() {
        let [half, brain] = ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors"];
        let said = pick(&[half, brain], None).unwrap_err();
        assert!(said.contains(half) && said.contains(brain), "{said}");
        let said = pick(&[half], Some("bf16")).unwrap_err();
        assert!(said.contains("bf16") && said.contains(half), "{said}");
        assert!(pick(&["config.json"], None).unwrap_err().contains("no weights"));
    }
}
