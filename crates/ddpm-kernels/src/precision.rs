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

/// Whether a tensor is narrower than f32.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// A parameter in another dtype, as a part of the graph: its gradient comes back in its own.
pub(crate) fn rounded<const D: usize>(parameter: &Param<Tensor<D>>, dtype: DType) -> Param<Tensor<D>> {
    Param::initialized(ParamId::from(parameter.id.val()), parameter.val().cast(dtype))
}
