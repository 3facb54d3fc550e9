//! Noise to start from, out of a file.

use std::path::Path;

use anyhow::{Context, bail};
use ddpm_files::npy::{self, numbers};
use safetensors::{Dtype, SafeTensors};

/// Reads `[N, ..]` standard normal numbers from a `.npy` file, or a safetensors file that holds one tensor. Gives
/// them row-major, each of shape `item`.
pub fn read(path: &Path, item: &[usize]) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let numpy = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
    let read = if numpy { npy::decode(&bytes).map_err(anyhow::Error::msg) } else { one_tensor(&bytes) };
    let (shape, values) = read.with_context(|| path.display().to_string())?;
    if shape.len() != item.len() + 1 || shape[1..] != *item || shape[0] == 0 {
        let expected = item.iter().map(|size| format!(", {size}")).collect::<String>();
        bail!("{}: holds noise of shape {shape:?}, but samples need [N{expected}]", path.display());
    }
    if values.iter().any(|value| !value.is_finite()) {
        bail!("{}: holds values that are not finite", path.display());
    }
    Ok(values)
}

fn one_tensor(bytes: &[u8]) -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes).context("not a .npy file by its name, and not a safetensors file")?;
    let [name] = file.names()[..] else {
        bail!("holds {} tensors, expected one", file.len());
    };
    let tensor = file.tensor(name)?;
    let values = match tensor.dtype() {
        Dtype::F32 => numbers(tensor.data(), f32::from_le_bytes),
        Dtype::F64 => numbers(tensor.data(), |word| f64::from_le_bytes(word) as f32),
        other => bail!("{name} is {other:?}, expected F32 or F64"),
    };
    Ok((tensor.shape().to_vec(), values))
}
