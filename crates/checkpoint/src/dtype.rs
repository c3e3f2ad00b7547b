//! The number formats that weights are stored in.

use half::{bf16, f16};
use serde::Serialize;
use std::fmt;

/// How a weight is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision: exact.
    F32,
    /// IEEE half precision: 11 significant bits, up to 65504.
    F16,
    /// The upper half of single precision: 8 significant bits, its whole range.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name on a command line: `f32`, `f16` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Appends `values` to `bytes`, little-endian, rounded to nearest even.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        bytes.reserve(values.len() * self.bytes());
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
            Self::Bf16 => bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        }
    }

    /// Fills `values` from little-endian `bytes`; the lengths correspond.
    pub(crate) fn decode(self, bytes: &[u8], values: &mut [f32]) {
        debug_assert_eq!(bytes.len(), values.len() * self.bytes());
        match self {
            Self::F32 => {
                let words = bytes.as_chunks::<4>().0;
                values.iter_mut().zip(words).for_each(|(value, &word)| *value = f32::from_le_bytes(word));
            }
            Self::F16 => {
                let words = bytes.as_chunks::<2>().0;
                values.iter_mut().zip(words).for_each(|(value, &word)| {
                    *value = f16::from_le_bytes(word).to_f32();
                });
            }
            Self::Bf16 => {
                let words = bytes.as_chunks::<2>().0;
                values.iter_mut().zip(words).for_each(|(value, &word)| {
                    *value = bf16::from_le_bytes(word).to_f32();
                });
            }
        }
    }

    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(crate) const fn to_safetensors(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::Bf16 => safetensors::Dtype::BF16,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(dtype: Dtype, values: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        dtype.encode(values, &mut bytes);
        assert_eq!(bytes.len(), values.len() * dtype.bytes());
        let mut back = vec![0.0; values.len()];
        dtype.decode(&bytes, &mut back);
        back
    }

    #[test]
    fn single_precision_keeps_every_bit() {
        let values = [0.0, -0.0, 1.0e-45, f32::MAX, f32::MIN_POSITIVE, 1.0 / 3.0];
        assert_eq!(through(Dtype::F32, &values).map_bits(), values.to_vec().map_bits());
    }

    #[test]
    fn half_precisions_round_to_nearest_even() {
        // One unit in the last place is 2^-10 in f16 and 2^-7 in bf16; halves go to the even neighbour.
        let (f16_ulp, bf16_ulp) = (2f32.powi(-10), 2f32.powi(-7));
        for (dtype, ulp) in [(Dtype::F16, f16_ulp), (Dtype::Bf16, bf16_ulp)] {
            let values = [1.0 + 0.5 * ulp, 1.0 + 1.5 * ulp, 1.0 + 0.51 * ulp, -1.0 - 0.49 * ulp];
            assert_eq!(through(dtype, &values), [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, -1.0], "{dtype}");
        }
    }

    trait MapBits {
        fn map_bits(&self) -> Vec<u32>;
    }

    impl MapBits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|value| value.to_bits()).collect()
        }
    }
}
