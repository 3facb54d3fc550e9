//! The types of stored values.

/// The type of a stored tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say all.
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Each with its name in safetensors and the name of its storage in PyTorch.
    const NAMES: [(Self, &str, &str); 10] = [
        (Self::F64, "F64", "DoubleStorage"),
        (Self::F32, "F32", "FloatStorage"),
        (Self::F16, "F16", "HalfStorage"),
        (Self::BF16, "BF16", "BFloat16Storage"),
        (Self::I64, "I64", "LongStorage"),
        (Self::I32, "I32", "IntStorage"),
        (Self::I16, "I16", "ShortStorage"),
        (Self::I8, "I8", "CharStorage"),
        (Self::U8, "U8", "ByteStorage"),
        (Self::Bool, "BOOL", "BoolStorage"),
    ];

    /// By its name in safetensors.
    pub(super) fn of_safetensors(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|entry| entry.1 == name).map(|entry| entry.0)
    }

    /// By the name of its storage class in PyTorch.
    pub(super) fn of_storage(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|entry| entry.2 == name).map(|entry| entry.0)
    }

    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether the values are floating-point numbers, as those of weights are.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Little-endian bytes as `f32`, rounded where the type is wider.
    pub(super) fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => words(bytes).map(|word| f64::from_le_bytes(word) as f32).collect(),
            Self::F32 => words(bytes).map(f32::from_le_bytes).collect(),
            Self::F16 => words(bytes).map(|word| of_half(u16::from_le_bytes(word))).collect(),
            Self::BF16 => words(bytes).map(|word| f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16)).collect(),
            Self::I64 => words(bytes).map(|word| i64::from_le_bytes(word) as f32).collect(),
            Self::I32 => words(bytes).map(|word| i32::from_le_bytes(word) as f32).collect(),
            Self::I16 => words(bytes).map(|word| f32::from(i16::from_le_bytes(word))).collect(),
            Self::I8 => words(bytes).map(|word| f32::from(i8::from_le_bytes(word))).collect(),
            Self::U8 => bytes.iter().map(|&byte| f32::from(byte)).collect(),
            Self::Bool => bytes.iter().map(|&byte| f32::from(u8::from(byte != 0))).collect(),
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::NAMES.iter().find(|entry| entry.0 == *self).map_or("", |entry| entry.1))
    }
}

/// The value of a half, exactly. The function of the `half` crate asks which processor it runs on at every value, which was
/// most of the time that the weights of Stable Diffusion took.
fn of_half(bits: u16) -> f32 {
    /// 2 to the power by which the exponents of the two types differ.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let magnitude = match bits & 0x7c00 {
        // Infinity and NaN.
        0x7c00 => rest | 0x7f80_0000,
        _ => (f32::from_bits(rest) * REBIAS).to_bits(),
    };
    f32::from_bits(sign | magnitude)
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_and_bfloat16_has_its_value() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let same =
                |found: f32, wanted: f32| found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
            assert!(same(Dtype::F16.to_f32(&bytes)[0], burn::tensor::f16::from_bits(bits).to_f32()), "{bits:#x}");
            assert!(same(Dtype::BF16.to_f32(&bytes)[0], burn::tensor::bf16::from_bits(bits).to_f32()), "{bits:#x}");
        }
    }

    /// Patterns of IEEE 754: 1.5, -2 and the smallest subnormal of a half; 1 and -0.5 of a bfloat16.
    #[test]
    fn values_are_read_by_their_type() {
        assert_eq!(Dtype::F16.to_f32(&[0x00, 0x3e, 0x00, 0xc0, 0x01, 0x00]), [1.5, -2.0, 2f32.powi(-24)]);
        assert_eq!(Dtype::BF16.to_f32(&[0x80, 0x3f, 0x00, 0xbf]), [1.0, -0.5]);
        assert_eq!(Dtype::F64.to_f32(&0.1f64.to_le_bytes()), [0.1]);
        assert_eq!(Dtype::I64.to_f32(&(-3i64).to_le_bytes()), [-3.0]);
        assert_eq!(Dtype::I8.to_f32(&[0xff]), [-1.0]);
        assert_eq!(Dtype::Bool.to_f32(&[0, 7]), [0.0, 1.0]);
    }

    #[test]
    fn names_go_both_ways() {
        for (dtype, name, storage) in Dtype::NAMES {
            assert_eq!(Dtype::of_safetensors(name), Some(dtype));
            assert_eq!(Dtype::of_storage(storage), Some(dtype));
            assert_eq!(dtype.to_string(), name);
        }
        assert_eq!(Dtype::of_safetensors("F8_E4M3"), None);
    }
}
