//! Reverse channel coding of a Gaussian: sender and receiver know the same list of candidates, each of them
//! N(0, I), and the sender says by its number which one to take.
//!
//! What the sender would like is a sample of N(δ, I). Of all directions only that of δ matters to it: it takes the
//! candidate z whose projection ⟨z, δ⟩ comes closest to the wanted mean |δ|². The best of 2^b candidates reaches
//! |δ| = [`reach`]`(b)`, so `b` bits do the work of [`divergence`]`(b)` bits of relative entropy.
//!
//! Candidates cost little because they come in blocks: one Gaussian vector g with the 2^m sign patterns of the
//! Walsh–Hadamard functions. Each of them is exactly N(0, I), and one fast transform of g∘δ gives all 2^m
//! projections. Sixteen blocks share one g, under random signs of their own.

use crate::hadamard::{self, LANES};
use engine::Level;
use engine::random::Stream;
use rayon::prelude::*;
use std::f64::consts::{LN_2, PI};

/// Largest number of bits of a candidate's number.
pub(crate) const MAX_BITS: u32 = 24;

/// Euler's constant, the mean of a standard Gumbel variable.
const EULER: f64 = 0.577_215_664_901_532_9;

/// Expectation of the largest of 2^`bits` standard normal numbers, from the limit law of extremes (within 1 % from
/// 4 bits on).
pub fn reach(bits: u32) -> f64 {
    if bits == 0 {
        return 0.0;
    }
    let twice_log = 2.0 * LN_2 * f64::from(bits);
    let root = libm::sqrt(twice_log);
    root + (EULER - 0.5 * libm::log(2.0 * PI * twice_log)) / root
}

/// Relative entropy, in bits, of two unit Gaussians whose means are [`reach`]`(bits)` apart.
pub fn divergence(bits: u32) -> f64 {
    let reach = reach(bits);
    reach * reach / (2.0 * LN_2)
}

/// The list of candidates for `len` numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates {
    /// Element `group`·len + k is number k of the group's g.
    normals: Stream,
    /// Word `group`·⌈len/2⌉ + ⌊k/2⌋ has the signs of numbers k (even k in the low half), a bit for each block.
    signs: Stream,
    len: usize,
}

/// The best candidate so far: how far from the wanted projection, and its number.
type Best = (f32, u32);

impl Candidates {
    pub fn new(normals: Stream, signs: Stream, len: usize) -> Self {
        Self { normals, signs, len }
    }

    /// Candidates of a block, 2^m.
    fn block_len(&self) -> usize {
        self.len.next_power_of_two()
    }

    /// Writes candidate number `index`.
    pub fn write(&self, index: u32, out: &mut [f32]) {
        assert_eq!(out.len(), self.len);
        let (block, row) = (index as usize / self.block_len(), index as usize % self.block_len());
        let (group, lane) = (block / LANES, block % LANES);
        self.write_normals(group, out);
        let first = self.first_word(group);
        for (k, value) in out.iter_mut().enumerate() {
            let signs = self.signs.word(first.wrapping_add(k as u32 / 2)) >> (LANES * (k % 2));
            if (signs >> lane & 1 == 1) != hadamard::is_negative(row, k) {
                *value = -*value;
            }
        }
    }

    /// Of the first 2^`bits` candidates the number of that whose projection on `direction` comes closest to
    /// |direction|², the lowest if there are several.
    pub fn closest(&self, level: Level, direction: &[f32], bits: u32) -> u32 {
        assert_eq!(direction.len(), self.len);
        assert!(bits <= MAX_BITS);
        let count = 1usize << bits;
        let wanted = direction.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() as f32;
        let groups = count.div_ceil(self.block_len() * LANES);
        let best = (0..groups)
            .into_par_iter()
            .map_init(
                || Workspace::new(self.len, self.block_len()),
                |workspace, group| self.closest_of_group(level, direction, wanted, count, group, workspace),
            )
            .reduce(|| (f32::INFINITY, u32::MAX), |one, other| if other < one { other } else { one });
        best.1.min(count as u32 - 1)
    }

    fn closest_of_group(
        &self,
        level: Level,
        direction: &[f32],
        wanted: f32,
        count: usize,
        group: usize,
        workspace: &mut Workspace,
    ) -> Best {
        let Workspace { products, rows } = workspace;
        self.write_normals(group, products);
        products.iter_mut().zip(direction).for_each(|(g, direction)| *g *= direction);
        let first = self.first_word(group);
        let words = (0..self.len.div_ceil(2) as u32).map(|pair| self.signs.word(first.wrapping_add(pair)));
        level.vectorize(
            #[inline(always)]
            || {
                let pairs = products.chunks(2).zip(rows.chunks_mut(2)).zip(words);
                for ((products, rows), word) in pairs {
                    for (k, (product, row)) in products.iter().zip(rows).enumerate() {
                        let signs = word >> (LANES * k);
                        for (lane, value) in row.iter_mut().enumerate() {
                            *value = f32::from_bits(product.to_bits() ^ (signs >> lane) << 31);
                        }
                    }
                }
            },
        );
        rows[self.len..].fill([0.0; LANES]);
        hadamard::transform_lanes(level, rows);

        let first_block = group * LANES;
        let whole = count - first_block * self.block_len();
        // The last group may be used in part: so many rows of so many of its blocks.
        let lanes = whole.div_ceil(self.block_len()).min(LANES);
        let used = whole.min(self.block_len());
        let (mut miss, mut row_of) = ([f32::INFINITY; LANES], [0u32; LANES]);
        level.vectorize(
            #[inline(always)]
            || {
                for (number, row) in rows[..used].iter().enumerate() {
                    for lane in 0..LANES {
                        let distance = (row[lane] - wanted).abs();
                        let closer = distance < miss[lane];
                        miss[lane] = if closer { distance } else { miss[lane] };
                        row_of[lane] = if closer { number as u32 } else { row_of[lane] };
                    }
                }
            },
        );
        (0..lanes)
            .map(|lane| (miss[lane], ((first_block + lane) * self.block_len()) as u32 + row_of[lane]))
            .fold((f32::INFINITY, u32::MAX), |one, other| if other < one { other } else { one })
    }

    fn write_normals(&self, group: usize, out: &mut [f32]) {
        self.normals.normals((group * self.len) as u32, out);
    }

    fn first_word(&self, group: usize) -> u32 {
        (group * self.len.div_ceil(2)) as u32
    }
}

struct Workspace {
    /// g∘δ.
    products: Vec<f32>,
    rows: Vec<[f32; LANES]>,
}

impl Workspace {
    fn new(len: usize, block_len: usize) -> Self {
        Self { products: vec![0.0; len], rows: vec![[0.0; LANES]; block_len] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::random::Purpose;

    fn candidates(seed: u64, len: usize) -> Candidates {
        let stream = |step| Stream::new(seed, Purpose::Test, step, 0);
        Candidates::new(stream(0), stream(1), len)
    }

    fn projection(candidates: &Candidates, index: u32, direction: &[f32]) -> f64 {
        let mut z = vec![0.0; direction.len()];
        candidates.write(index, &mut z);
        z.iter().zip(direction).map(|(&z, &d)| f64::from(z) * f64::from(d)).sum()
    }

    #[test]
    fn the_closest_candidate_is_found_at_every_level() {
        for (len, bits, scale) in
            [(5, 3, 0.7), (5, 9, 2.0), (48, 12, 0.5), (64, 7, 0.4), (100, 4, 0.3), (1, 6, 1.0)]
        {
            let list = candidates(7, len);
            let direction: Vec<f32> = (0..len).map(|k| scale * ((k * 7 % 5) as f32 - 1.9)).collect();
            let wanted: f64 = direction.iter().map(|&d| f64::from(d * d)).sum();
            let miss = |index| (projection(&list, index, &direction) - wanted).abs();
            let least = (0..1u32 << bits).map(miss).fold(f64::INFINITY, f64::min);
            for level in Level::available() {
                let found = list.closest(level, &direction, bits);
                assert!(found < 1 << bits);
                assert_eq!(found, list.closest(Level::Scalar, &direction, bits));
                assert!(miss(found) <= least + 1e-4, "{len} {bits}: {} {least}", miss(found));
            }
        }
    }

    #[test]
    fn candidates_are_white_and_as_good_as_independent_ones() {
        // Extremes of 2^16 independent normal numbers have mean 4.31 and standard deviation 0.27.
        let (len, bits, trials) = (256, 16, 200);
        let mut direction = vec![0.0; len];
        Stream::new(0, Purpose::Test, 2, 0).normals(0, &mut direction);
        let norm = direction.iter().map(|&d| f64::from(d * d)).sum::<f64>().sqrt();
        // Farther than any candidate reaches.
        direction.iter_mut().for_each(|d| *d *= (1e3 / norm) as f32);
        let (mut sum, mut squares, mut across) = (0.0, 0.0, 0.0);
        for seed in 0..trials {
            let list = candidates(seed, len);
            let chosen = list.closest(Level::detect(), &direction, bits);
            let reached = projection(&list, chosen, &direction) / 1e3;
            let mut z = vec![0.0; len];
            list.write(chosen, &mut z);
            let energy: f64 = z.iter().map(|&z| f64::from(z) * f64::from(z)).sum();
            sum += reached;
            squares += reached * reached;
            across += (energy - reached * reached) / (len - 1) as f64;
        }
        let mean = sum / trials as f64;
        let deviation = (squares / trials as f64 - mean * mean).sqrt();
        assert!((mean - reach(bits)).abs() < 0.06, "{mean} {}", reach(bits));
        assert!((deviation - 0.27).abs() < 0.05, "{deviation}");
        // Across the direction, noise keeps its variance.
        assert!((across / trials as f64 - 1.0).abs() < 0.03, "{}", across / trials as f64);
    }

    #[test]
    fn bits_do_the_work_of_nearly_as_many() {
        assert!((reach(16) - 4.32).abs() < 0.05, "{}", reach(16));
        for bits in 8..=MAX_BITS {
            let efficiency = f64::from(bits) / divergence(bits);
            assert!((1.1..1.4).contains(&efficiency), "{bits} {efficiency}");
        }
    }
}
