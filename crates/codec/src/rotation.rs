//! A random rotation that spreads any vector evenly over all coordinates: signs drawn at random, then a
//! Walsh–Hadamard transform. White Gaussian noise stays what it is.

use crate::hadamard;
use engine::random::Stream;

/// x → H D x / √n of `len` numbers, followed by zeros up to the next power of two, n.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    len: usize,
    /// D / √n.
    signs: Vec<f32>,
}

impl Rotation {
    /// The rotation whose signs are the bits of `stream`.
    pub fn new(len: usize, stream: Stream) -> Self {
        let padded = len.next_power_of_two();
        let scale = (1.0 / (padded as f64).sqrt()) as f32;
        let words = (0..padded.div_ceil(128) as u32).flat_map(|block| stream.block(block));
        let bits = words.flat_map(|word| (0..32).map(move |bit| word >> bit & 1 == 1));
        let signs = bits.take(padded).map(|negative| if negative { -scale } else { scale }).collect();
        Self { len, signs }
    }

    /// Coordinates after the rotation.
    pub fn padded_len(&self) -> usize {
        self.signs.len()
    }

    /// Rotates `x`.
    pub fn rotate(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.len);
        let mut rotated: Vec<f32> = x.iter().zip(&self.signs).map(|(x, sign)| x * sign).collect();
        rotated.resize(self.padded_len(), 0.0);
        hadamard::transform(&mut rotated);
        rotated
    }

    /// Rotates `rotated` back, and leaves out what stands where zeros were added.
    pub fn rotate_back(&self, mut rotated: Vec<f32>) -> Vec<f32> {
        assert_eq!(rotated.len(), self.padded_len());
        hadamard::transform(&mut rotated);
        rotated.truncate(self.len);
        rotated.iter_mut().zip(&self.signs).for_each(|(x, sign)| *x *= sign);
        rotated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::random::Purpose;

    #[test]
    fn there_and_back_and_spread_evenly() {
        for len in [1, 2, 48, 64, 1000] {
            let rotation = Rotation::new(len, Stream::new(1, Purpose::Test, 0, 0));
            let mut x = vec![0.0; len];
            x[len / 2] = 3.0;
            let rotated = rotation.rotate(&x);
            let even = 3.0 / (rotation.padded_len() as f32).sqrt();
            assert!(rotated.iter().all(|value| (value.abs() - even).abs() < 1e-5));
            let back = rotation.rotate_back(rotated);
            assert!(back.iter().zip(&x).all(|(back, x)| (back - x).abs() < 1e-5), "{len}");
        }
    }
}
