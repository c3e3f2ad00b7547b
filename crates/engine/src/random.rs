//! Counter-based randomness: Philox4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! Every random number is a function of (seed, purpose, step, sample, element) and of nothing else,
//! so it does not depend on batch size, thread count or what was drawn before.

mod box_muller;

use crate::Level;

/// What random numbers are used for. Each purpose has its own numbers, so that none shifts another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// Initial weights; `step` is the parameter's number.
    Init = 1,
    /// Dropout masks; `step` is the layer, the sample is numbered over the whole training.
    Dropout = 2,
    /// The order of a data set in an epoch; `step` is the epoch.
    Shuffle = 3,
    /// Whether an image is mirrored.
    Flip = 4,
    /// The time step drawn for a training sample.
    Timestep = 5,
    /// The noise ε of the forward process.
    ForwardNoise = 6,
    /// The latent x_T that sampling starts from.
    Latent = 7,
    /// The noise z of a reverse step; `step` is the time step.
    ReverseNoise = 8,
    /// Procedural images.
    Synthetic = 9,
    /// Anything else that a test or a tool draws.
    Test = 10,
    /// The signs of the rotation that a codec spreads an image with; `step` is the coded step.
    Rotation = 11,
    /// The Gaussian vectors of a codec's candidates; `step` is the coded step and chunk.
    CandidateNormals = 12,
    /// The signs of a codec's candidates; `step` is the coded step and chunk.
    CandidateSigns = 13,
}

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
/// The low half of 64 bits.
const LOW: u64 = 0xFFFF_FFFF;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;

/// One block of Philox4×32-10: four uniform 32-bit words from a 128-bit counter and a 64-bit key.
#[inline]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIER_0) * u64::from(c0);
        let p1 = u64::from(MULTIPLIER_1) * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(WEYL_0);
        k1 = k1.wrapping_add(WEYL_1);
    }
    [c0, c1, c2, c3]
}

/// The random numbers of one (seed, purpose, step, sample): an endless array indexed by element.
///
/// ```
/// use engine::random::{Purpose, Stream};
/// let stream = Stream::new(7, Purpose::Test, 0, 3);
/// let mut four = [0.0; 4];
/// stream.normals(0, &mut four);
/// let mut two = [0.0; 2];
/// stream.normals(2, &mut two);
/// assert_eq!(two, four[2..]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// Counter words 1..=3; word 0 counts blocks of four elements.
    fixed: [u32; 3],
}

impl Stream {
    /// The stream of `sample` (its low 56 bits count) at `step` for `purpose`.
    pub fn new(seed: u64, purpose: Purpose, step: u32, sample: u64) -> Self {
        let sample_high = (sample >> 32) as u32 & 0x00FF_FFFF;
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            fixed: [step, sample as u32, sample_high << 8 | purpose as u32],
        }
    }

    /// The four words of block `index`: elements `4·index .. 4·index + 4`.
    #[inline]
    pub fn block(&self, index: u32) -> [u32; 4] {
        let [a, b, c] = self.fixed;
        philox4x32([index, a, b, c], self.key)
    }

    /// The blocks `first .. first + N`, in a form in which the compiler computes them side by side.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "four arrays in step")]
    pub fn blocks<const N: usize>(&self, first: u32) -> [[u32; 4]; N] {
        // A word takes the low half of 64 bits, of which alone the multiplications read; what is above is anything.
        let mut c = [[0u64; N], [0; N], [0; N], [0; N]];
        for i in 0..N {
            c[0][i] = u64::from(first.wrapping_add(i as u32));
            (c[1][i], c[2][i], c[3][i]) = (self.fixed[0].into(), self.fixed[1].into(), self.fixed[2].into());
        }
        let [mut k0, mut k1] = self.key;
        for _ in 0..10 {
            for i in 0..N {
                let p0 = u64::from(MULTIPLIER_0) * (c[0][i] & LOW);
                let p1 = u64::from(MULTIPLIER_1) * (c[2][i] & LOW);
                c[0][i] = (p1 >> 32) ^ c[1][i] ^ u64::from(k0);
                c[2][i] = (p0 >> 32) ^ c[3][i] ^ u64::from(k1);
                c[1][i] = p1;
                c[3][i] = p0;
            }
            k0 = k0.wrapping_add(WEYL_0);
            k1 = k1.wrapping_add(WEYL_1);
        }
        std::array::from_fn(|i| [c[0][i] as u32, c[1][i] as u32, c[2][i] as u32, c[3][i] as u32])
    }

    /// The uniform 32-bit word of `element`.
    pub fn word(&self, element: u32) -> u32 {
        self.block(element / 4)[(element % 4) as usize]
    }

    /// A uniform integer in `0..bound` from the 64 bits of `element` (elements `2·element`, `2·element + 1`
    /// of the words). Its bias is below `bound / 2⁶⁴`. `bound` must not be 0.
    pub fn below(&self, element: u32, bound: u64) -> u64 {
        let words = self.block(element / 2);
        let first = (element % 2) as usize * 2;
        let bits = u64::from(words[first]) << 32 | u64::from(words[first + 1]);
        ((u128::from(bits) * u128::from(bound)) >> 64) as u64
    }

    /// A uniform number in the open interval (0, 1) for `element`.
    pub fn uniform(&self, element: u32) -> f32 {
        unit_open(self.word(element))
    }

    /// Standard normal numbers for elements `first .. first + out.len()`, by the Box–Muller transform
    /// of element pairs (2k, 2k + 1), the same on every machine. There are 2³² elements.
    pub fn normals(&self, first: u32, out: &mut [f32]) {
        /// Blocks computed side by side.
        const BLOCKS: usize = 8;
        let head = (first.wrapping_neg() % 4) as usize;
        let (head, rest) = out.split_at_mut(head.min(out.len()));
        self.normals_of_block(first, head);
        let mut block = first.div_ceil(4);
        let mut groups = rest.chunks_exact_mut(4 * BLOCKS);
        Level::detect().vectorize(
            #[inline(always)]
            || {
                for group in &mut groups {
                    let words = self.blocks::<BLOCKS>(block);
                    let pairs: [[u32; 2]; 2 * BLOCKS] =
                        std::array::from_fn(|i| [words[i / 2][i % 2 * 2], words[i / 2][i % 2 * 2 + 1]]);
                    group.copy_from_slice(box_muller::pairs(&pairs).as_flattened());
                    block = block.wrapping_add(BLOCKS as u32);
                }
            },
        );
        for four in groups.into_remainder().chunks_mut(4) {
            self.normals_of_block(block.wrapping_mul(4), four);
            block = block.wrapping_add(1);
        }
    }

    /// Standard normal numbers of elements that lie in one block.
    fn normals_of_block(&self, first: u32, out: &mut [f32]) {
        let [a, b, c, d] = self.block(first / 4);
        let four = [box_muller::pair([a, b]), box_muller::pair([c, d])];
        let start = (first % 4) as usize;
        out.copy_from_slice(&four.as_flattened()[start..start + out.len()]);
    }
}

/// Maps a word to (0, 1): the midpoint of one of 2²³ cells, exact in `f32`.
#[inline]
pub fn unit_open(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// Numbers in [-1, 1) for tests, others for each `number`.
#[cfg(test)]
pub(crate) fn noise(number: u32, len: usize) -> Vec<f32> {
    let stream = Stream::new(3, Purpose::Test, number, 0);
    (0..len as u32).map(|i| stream.below(i, 1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        // Random123's kat_vectors for philox4x32-10.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn blocks_side_by_side_are_the_blocks() {
        let stream = Stream::new(0x0123_4567_89ab_cdef, Purpose::Test, 3, 1 << 40 | 5);
        for first in [0, 7, u32::MAX - 4] {
            let blocks = stream.blocks::<8>(first);
            for offset in 0..8u32 {
                assert_eq!(blocks[offset as usize], stream.block(first.wrapping_add(offset)));
            }
        }
    }

    #[test]
    fn normals_are_the_same_from_wherever_they_are_asked_for() {
        let stream = Stream::new(3, Purpose::Test, 1, 2);
        let mut all = vec![0.0; 500];
        stream.normals(0, &mut all);
        for first in [0, 1, 2, 3, 4, 31, 97] {
            for len in [0, 1, 2, 3, 5, 31, 32, 33, 64, 131, 400] {
                let mut part = vec![0.0; len];
                stream.normals(first as u32, &mut part);
                assert!(part == all[first..first + len], "{len} from {first}");
            }
        }
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal() {
        let mut values = vec![0.0; 200_000];
        Stream::new(1, Purpose::Test, 0, 0).normals(0, &mut values);
        let n = values.len() as f64;
        let moment = |p: i32| values.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        assert!(moment(3).abs() < 0.04, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
    }

    #[test]
    fn streams_differ_in_every_coordinate() {
        let base = Stream::new(1, Purpose::Test, 2, 3).block(0);
        for other in [
            Stream::new(2, Purpose::Test, 2, 3),
            Stream::new(1 << 32 | 1, Purpose::Test, 2, 3),
            Stream::new(1, Purpose::Flip, 2, 3),
            Stream::new(1, Purpose::Test, 3, 3),
            Stream::new(1, Purpose::Test, 2, 4),
            Stream::new(1, Purpose::Test, 2, 1 << 32 | 3),
        ] {
            assert_ne!(other.block(0), base);
        }
    }

    #[test]
    fn below_stays_in_range_and_reaches_every_value() {
        let stream = Stream::new(5, Purpose::Test, 0, 0);
        let mut seen = [0u32; 7];
        for element in 0..7000 {
            seen[stream.below(element, 7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }
}
