//! What crosses between host and device: `f32` on the host, there as tensors are stored.

use super::bf16;
use crate::kernel::Storage;
use rayon::prelude::*;
use std::ops::Range;

/// Values that one thread converts at a time: fewer are not worth a second one.
const SHARE: usize = 1 << 16;

/// Bytes that a value takes.
pub(super) const fn size(storage: Storage) -> usize {
    match storage {
        Storage::F32 => size_of::<f32>(),
        Storage::Bf16 => size_of::<u16>(),
    }
}

/// Writes what `values` are stored as to `to`, whose first byte is that of value number `first`.
pub(super) fn store(storage: Storage, values: &[f32], first: usize, to: &mut [u8]) {
    let values = &values[first..first + to.len() / size(storage)];
    let shares = to.par_chunks_mut(SHARE * size(storage)).zip(values.par_chunks(SHARE));
    shares.for_each(|(to, values)| match storage {
        Storage::F32 => put(values, to, f32::to_ne_bytes),
        Storage::Bf16 => put(values, to, |value| bf16::from_f32(value).to_ne_bytes()),
    });
}

/// Reads values from what they are stored as, of which the first byte is that of value number `first`.
pub(super) fn restore(storage: Storage, from: &[u8], first: usize, values: &mut [f32]) {
    let values = &mut values[first..first + from.len() / size(storage)];
    let shares = from.par_chunks(SHARE * size(storage)).zip(values.par_chunks_mut(SHARE));
    shares.for_each(|(from, values)| match storage {
        Storage::F32 => get(from, values, f32::from_ne_bytes),
        Storage::Bf16 => get(from, values, |half| bf16::to_f32(u16::from_ne_bytes(half))),
    });
}

fn put<const N: usize>(values: &[f32], to: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (to, &value) in to.as_chunks_mut().0.iter_mut().zip(values) {
        *to = bytes(value);
    }
}

fn get<const N: usize>(from: &[u8], values: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (&from, to) in from.as_chunks().0.iter().zip(values) {
        *to = value(from);
    }
}

/// The parts of at most `most` bytes that a transfer of `bytes` goes in.
pub(super) fn parts(bytes: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..bytes).step_by(most).map(move |start| start..bytes.min(start + most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cross_in_any_parts() {
        let values: Vec<f32> = (0..3 * SHARE + 7).map(|i| i as f32 / 256.0).collect();
        for storage in [Storage::F32, Storage::Bf16] {
            let mut bytes = vec![0; values.len() * size(storage)];
            let whole = bytes.len();
            for part in parts(whole, 100_000) {
                store(storage, &values, part.start / size(storage), &mut bytes[part]);
            }
            let mut found = vec![f32::NAN; values.len()];
            for part in parts(whole, 4 * SHARE + 4) {
                restore(storage, &bytes[part.clone()], part.start / size(storage), &mut found);
            }
            for (&found, &value) in found.iter().zip(&values) {
                let expected =
                    if storage == Storage::F32 { value } else { bf16::to_f32(bf16::from_f32(value)) };
                assert_eq!(found, expected);
            }
        }
        assert_eq!(parts(0, 4).count(), 0);
        assert!(parts(9, 4).eq([0..4, 4..8, 8..9]));
    }
}
