//! The reverse process that sender and receiver walk together: how a step's numbers become a sample.

use crate::candidates::Candidates;
use crate::jump::Jump;
use crate::rotation::Rotation;
use crate::schedule::CodedStep;
use diffusion::{GaussianDiffusion, noise};
use engine::random::{Purpose, Stream};
use std::ops::Range;

/// An image on its way from noise to itself.
#[derive(Clone, Debug)]
pub(crate) struct Walker {
    seed: u64,
    pub image: u64,
    /// Steps taken.
    pub step: usize,
    /// Where it is.
    pub t: usize,
    /// x_t.
    pub x: Vec<f32>,
}

impl Walker {
    /// Image number `image` of a file, pure noise at step `t`.
    pub fn new(seed: u64, image: u64, t: usize, len: usize) -> Self {
        Self { seed, image, step: 0, t, x: noise::latents(seed, image, 1, len) }
    }

    /// The rotation of the next step.
    pub fn rotation(&self) -> Rotation {
        Rotation::new(self.x.len(), self.stream(Purpose::Rotation, 0))
    }

    /// The candidates of a chunk of the next step.
    pub fn candidates(&self, chunk: usize, len: usize) -> Candidates {
        let stream = |purpose| self.stream(purpose, chunk);
        Candidates::new(stream(Purpose::CandidateNormals), stream(Purpose::CandidateSigns), len)
    }

    fn stream(&self, purpose: Purpose, chunk: usize) -> Stream {
        Stream::new(self.seed, purpose, (self.step << 20 | chunk) as u32, self.image)
    }

    /// Takes the next step, with the candidate that is named for each chunk.
    pub fn advance(
        &mut self,
        process: &GaussianDiffusion,
        coded: &CodedStep,
        x_start: &[f32],
        indices: &[u32],
    ) {
        debug_assert_eq!((coded.from, coded.chunks), (self.t, indices.len()));
        let rotation = self.rotation();
        let mut rotated = vec![0.0; rotation.padded_len()];
        for ((chunk, range), &index) in chunks(rotated.len(), coded.chunks).enumerate().zip(indices) {
            self.candidates(chunk, range.len()).write(index, &mut rotated[range]);
        }
        let noise = rotation.rotate_back(rotated);
        let jump = Jump::new(process, coded.from, coded.to);
        for ((x, x_start), z) in self.x.iter_mut().zip(x_start).zip(&noise) {
            *x = jump.x_start * x_start + jump.x_t * *x + jump.sigma * z;
        }
        self.t = coded.to;
        self.step += 1;
    }
}

/// The parts of `len` numbers that chunks stand for.
pub(crate) fn chunks(len: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).map(move |chunk| chunk * len / count..(chunk + 1) * len / count)
}
