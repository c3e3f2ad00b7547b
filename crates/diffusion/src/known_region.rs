//! A reverse process of which a part is known: at each step, that part is made anew from its image by the
//! forward process.

use crate::noise;
use crate::process::GaussianDiffusion;
use crate::sampler::Chain;

/// Elements of a batch's images that are given; the reverse process makes the others to go with them.
#[derive(Clone, PartialEq, Debug)]
pub struct KnownRegion {
    /// The images, `[n, height, width, channels]` in [-1, 1].
    pub x_start: Vec<f32>,
    /// Whether each of their elements is given.
    pub is_known: Vec<bool>,
    /// For each image, the number of the sample whose forward noise it has.
    pub noise_of: Vec<u64>,
    /// The seed of that noise.
    pub seed: u64,
}

impl KnownRegion {
    /// Replaces the known elements of a chain's x_t by a sample of q(x_t | x_0), or x_0 itself at the end.
    /// The noise depends on seed, number and t alone.
    ///
    /// # Panics
    /// If the region is not of as many images as the chain.
    pub fn impose(&self, chain: &mut Chain) {
        assert_eq!(chain.samples(), self.noise_of.len(), "as many images as chains");
        let known = match chain.steps_left() {
            0 => self.x_start.clone(),
            steps => q_sample_at(chain.process(), &self.x_start, self.seed, &self.noise_of, steps - 1),
        };
        self.replace(chain.x_t_mut(), &known);
    }

    /// Replaces the known elements of `x`.
    pub(crate) fn replace(&self, x: &mut [f32], known: &[f32]) {
        assert_eq!(
            (x.len(), known.len()),
            (self.is_known.len(), self.is_known.len()),
            "batches of one shape"
        );
        for ((x, &known), _) in x.iter_mut().zip(known).zip(&self.is_known).filter(|(_, is_known)| **is_known)
        {
            *x = known;
        }
    }
}

/// Samples of q(x_t | x_0) at the step `t` of `process`, with the forward noise of the samples numbered `noise_of`.
pub(crate) fn q_sample_at(
    process: &GaussianDiffusion,
    x_start: &[f32],
    seed: u64,
    noise_of: &[u64],
    t: usize,
) -> Vec<f32> {
    let len = x_start.len() / noise_of.len().max(1);
    let noise = noise::forward_noise_of(seed, noise_of, process.network_timestep(t), len);
    process.q_sample(x_start, &vec![t; noise_of.len()], &noise)
}
