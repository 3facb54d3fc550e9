//! Reads the golden fixtures.

use std::f64::consts::FRAC_2_PI;
use std::path::{Path, PathBuf};

use serde_json::Value;

#[cfg(feature = "tensors")]
pub use crate::tensors::{DummyModel, schedule, values};

/// The fixture set: `DDPM_FIXTURES` (relative to the workspace), or the copy in the project.
pub fn fixtures_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::var("DDPM_FIXTURES").unwrap_or_else(|_| "fixtures".into());
    workspace.join(folder)
}

/// A folder of the fixture set, or the project's own where the set has none of this name.
pub fn fixture(name: &str) -> PathBuf {
    let given = fixtures_dir().join(name);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    if given.is_dir() { given } else { own }
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A JSON file.
pub fn read_json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The list `value[key]`, which must have entries: a test over an empty list would prove nothing.
pub fn cases<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array().unwrap_or_else(|| panic!("no list {key:?}"));
    assert!(!list.is_empty(), "the list {key:?} is empty");
    list
}

/// The number `value[key]`.
pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key:?} in {value}"))
}

/// The whole number `value[key]`.
pub fn whole(value: &Value, key: &str) -> usize {
    value[key].as_u64().unwrap_or_else(|| panic!("no whole number {key:?} in {value}")) as usize
}

/// The text `value[key]`.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key:?} in {value}"))
}

/// The numbers of a JSON list.
pub fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("not a list: {value}"));
    list.iter().map(|entry| entry.as_f64().unwrap()).collect()
}

/// The whole numbers of a JSON list.
pub fn whole_numbers(value: &Value) -> Vec<usize> {
    let list = value.as_array().unwrap_or_else(|| panic!("not a list: {value}"));
    list.iter().map(|entry| entry.as_u64().unwrap() as usize).collect()
}

/// An opened safetensors file.
pub struct Safetensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Safetensors {
    /// Reads the file.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, bytes }
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file().names().into_iter().map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.read(name).1
    }

    /// The values of a floating-point tensor in `f64` (exact for an F32 tensor too).
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let (dtype, _, bytes) = self.read(name);
        match dtype {
            safetensors::Dtype::F32 => words(&bytes).map(|word| f64::from(f32::from_le_bytes(word))).collect(),
            safetensors::Dtype::F64 => words(&bytes).map(f64::from_le_bytes).collect(),
            other => panic!("{}: {name} is {other:?}", self.path.display()),
        }
    }

    /// The values of a floating-point tensor in `f32`.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.f64(name).into_iter().map(|value| value as f32).collect()
    }

    /// The values of an I64 tensor.
    pub fn i64(&self, name: &str) -> Vec<i64> {
        let (dtype, _, bytes) = self.read(name);
        assert_eq!(dtype, safetensors::Dtype::I64, "{name}");
        words(&bytes).map(i64::from_le_bytes).collect()
    }

    /// The values of a U8 tensor.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let (dtype, _, bytes) = self.read(name);
        assert_eq!(dtype, safetensors::Dtype::U8, "{name}");
        bytes
    }

    fn file(&self) -> safetensors::SafeTensors<'_> {
        safetensors::SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    fn read(&self, name: &str) -> (safetensors::Dtype, Vec<usize>, Vec<u8>) {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path.display()));
        (view.dtype(), view.shape().to_vec(), view.data().to_vec())
    }
}

/// A shape at rank `D`: ones are appended, or the last dimensions become one. The same shape where ranks agree.
pub fn fit<const D: usize>(shape: &[usize]) -> [usize; D] {
    let mut fitted = [1; D];
    for (i, &size) in shape.iter().enumerate() {
        fitted[i.min(D - 1)] *= size;
    }
    fitted
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|chunk| chunk.try_into().unwrap())
}

/// Panics unless both lists have the same length and differ by at most `tolerance` everywhere.
pub fn assert_close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    assert!(!wanted.is_empty(), "{what}: nothing to compare");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        // Written so that NaN fails.
        assert!(
            (f - w).abs() <= tolerance,
            "{what}[{i}]: {f:e} instead of {w:e}, off by {:e}, allowed {tolerance:e}",
            (f - w).abs()
        );
    }
}

/// How far rounding can move improved-diffusion's log-probability (nats) of one bin of the decoder.
///
/// It takes the difference of two values `(1 + tanh) / 2`, each of them off by half an epsilon however small it is: by one
/// ulp of the tangent and by half of one of the sum. So the probability is off by an epsilon at most, and by as much far in
/// the tail. Only there it shows in the logarithm, unless the floor hides it.
pub fn decoder_rounding(x: f64, mean: f64, log_scale: f64, epsilon: f64) -> f64 {
    let cdf = |edge: f64| {
        let z = edge / log_scale.exp();
        1.0 / (1.0 + (-2.0 * FRAC_2_PI.sqrt() * (z + 0.044715 * z.powi(3))).exp())
    };
    let (centred, half_bin) = (x - mean, 1.0 / 255.0);
    let probability = match x {
        x if x < -0.999 => cdf(half_bin + centred),
        x if x > 0.999 => cdf(half_bin - centred),
        // In the lower tail, where both are small.
        _ => cdf(half_bin - centred.abs()) - cdf(-half_bin - centred.abs()),
    };
    let log = |probability: f64| probability.max(1e-12).ln();
    let exact = log(probability);
    (log(probability + epsilon) - exact).max(exact - log(probability - epsilon))
}

/// What the output of a network in f32 may be off by: what the fixture allows, but no more than 2e-5 of the largest value
/// or, where that is more, five times the distance of the peer's own f32 from its f64.
pub fn output_tolerance(case: &Value, wanted: &[f64]) -> f64 {
    let scale = wanted.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
    let spread = case["f32_vs_f64"]["max_abs"].as_f64().unwrap_or(0.0);
    case["tol_abs_f32"].as_f64().unwrap_or(f64::INFINITY).min((2e-5 * scale).max(5.0 * spread))
}

/// Panics unless the lists agree entry by entry to `tolerance` times the wanted value.
pub fn assert_close_relative(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    assert!(!wanted.is_empty(), "{what}: nothing to compare");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (f - w).abs() <= tolerance * w.abs(),
            "{what}[{i}]: {f:e} instead of {w:e}, relatively {:e}, allowed {tolerance:e}",
            (f - w).abs() / w.abs()
        );
    }
}
