//! The numbers that a network computes in.

use std::str::FromStr;

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

/// What a network computes in. Its weights, their gradients and averages, the loss, and the statistics of normalisations
/// are f32 in all of them.
///
/// On flex the products take operands that are rounded to bf16 and sum in f32; what passes from layer to layer stays f32.
/// Everywhere else that is in half precision, and weights are rounded where they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits of mantissa.
    #[default]
    F32,
    /// 8 bits, and the range of f32.
    Bf16,
    /// 11 bits, and a range from 6e-8 to 65504: small gradients are lost unless the loss is scaled.
    F16,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// As it is written in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Whether a device can compute in it.
    pub fn is_supported(self, device: &Device) -> bool {
        match self.half() {
            None => true,
            Some(_) if is_flex(device) => self == Self::Bf16,
            Some(dtype) => device.supports_dtype(dtype),
        }
    }

    /// What this device computes in where this is wanted: f32 in place of bf16 on a processor that multiplies bf16 no faster.
    pub fn on(self, device: &Device) -> Self {
        if self == Self::Bf16 && is_flex(device) && !multiplies_bf16_faster() { Self::F32 } else { self }
    }

    /// `x` as it passes from layer to layer.
    pub fn carried<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self.half() {
            Some(dtype) if !is_flex(&x.device()) => x.cast(dtype),
            _ => x,
        }
    }

    /// A weight of a network that is not trained as it is kept in memory: in half precision, if the network computes in it.
    /// Parameters of one dimension, which are few values, stay in f32.
    pub fn kept<const D: usize>(self, weight: Tensor<D>) -> Tensor<D> {
        match self.half() {
            Some(dtype) if D > 1 && is_flex(&weight.device()) && !weight.device().is_autodiff() => weight.cast(dtype),
            _ => weight,
        }
    }

    fn half(self) -> Option<DType> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| format!("expected one of {}", names()))
    }
}

/// Whether the flex backend computes there.
fn is_flex(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return crate::flex::is_flex(device);
    #[cfg(not(feature = "flex"))]
    return false;
}

/// Whether products of bf16 take less time on this processor than those of f32, with the rounding of their operands.
///
/// AMD's processors do twice as many at a time from Zen 4 on; what shows that one is AMD's is SSE4a. Those of Intel do as
/// many as of f32 outside of AMX, which is not used: measured on Sapphire Rapids, 119 GFLOP/s in bf16 and 195 in f32. And
/// without an instruction for them they are made of products of f32.
fn multiplies_bf16_faster() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("sse4a");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether a tensor is narrower than f32.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// A parameter in another dtype, as a part of the graph: its gradient comes back in its own.
pub(crate) fn rounded<const D: usize>(parameter: &Param<Tensor<D>>, dtype: DType) -> Param<Tensor<D>> {
    Param::initialized(ParamId::from(parameter.id.val()), parameter.val().cast(dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bf16_gives_way_and_only_where_it_is_no_faster() {
        let device = Device::default();
        let gives_way = is_flex(&device) && !multiplies_bf16_faster();
        assert_eq!(Precision::Bf16.on(&device), if gives_way { Precision::F32 } else { Precision::Bf16 });
        assert_eq!(Precision::Bf16.on(&device.clone().autodiff()), Precision::Bf16.on(&device));
        assert_eq!([Precision::F32, Precision::F16].map(|one| one.on(&device)), [Precision::F32, Precision::F16]);
    }
}
