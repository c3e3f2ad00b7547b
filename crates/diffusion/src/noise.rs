//! The random numbers of the method. Each depends on the seed, what it is for, the time step and the number of the
//! sample, never on the batch: sample k of a seed is the same whatever is computed beside it.
//!
//! Time steps are the network's own, so that a kept step of a respaced process has the noise of the full one.

use engine::random::{Purpose, Stream};
use rayon::prelude::*;

/// Latents x_T ~ N(0, I) of `count` samples from `first_sample` on, `len` elements each.
pub fn latents(seed: u64, first_sample: u64, count: usize, len: usize) -> Vec<f32> {
    normals(seed, Purpose::Latent, numbered(first_sample, count).map(|sample| (sample, 0)), len)
}

/// The forward process's ε for samples from `first_sample` on, one at each of `timesteps`, `len` elements each.
pub fn forward_noise(seed: u64, first_sample: u64, timesteps: &[usize], len: usize) -> Vec<f32> {
    let samples = numbered(first_sample, timesteps.len()).zip(timesteps.iter().copied());
    normals(seed, Purpose::ForwardNoise, samples, len)
}

/// The reverse process's z at step `timestep` for `count` samples from `first_sample` on, `len` elements each.
pub fn reverse_noise(seed: u64, first_sample: u64, timestep: usize, count: usize, len: usize) -> Vec<f32> {
    let samples = numbered(first_sample, count).map(|sample| (sample, timestep));
    normals(seed, Purpose::ReverseNoise, samples, len)
}

/// The reverse process's z at step `timestep` for the samples numbered `samples`, some of which may be the same.
pub fn reverse_noise_of(seed: u64, samples: &[u64], timestep: usize, len: usize) -> Vec<f32> {
    normals(seed, Purpose::ReverseNoise, samples.iter().map(|&sample| (sample, timestep)), len)
}

/// The forward process's ε at step `timestep` for the samples numbered `samples`, some of which may be the same.
pub fn forward_noise_of(seed: u64, samples: &[u64], timestep: usize, len: usize) -> Vec<f32> {
    normals(seed, Purpose::ForwardNoise, samples.iter().map(|&sample| (sample, timestep)), len)
}

/// A step for each of `count` training samples from `first_sample` on, uniform in 0, …, `timesteps`-1.
pub fn uniform_timesteps(seed: u64, first_sample: u64, count: usize, timesteps: usize) -> Vec<usize> {
    (0..count as u64)
        .map(|i| {
            let stream = Stream::new(seed, Purpose::Timestep, 0, first_sample.wrapping_add(i));
            stream.below(0, timesteps as u64) as usize
        })
        .collect()
}

/// The numbers of `count` samples from `first` on.
fn numbered(first: u64, count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(move |i| first.wrapping_add(i))
}

/// Of each sample, by number and step, `len` numbers.
fn normals(seed: u64, purpose: Purpose, samples: impl Iterator<Item = (u64, usize)>, len: usize) -> Vec<f32> {
    let samples: Vec<_> = samples.collect();
    let mut out = vec![0.0; samples.len() * len];
    // A GPU would wait for one thread's numbers longer than it computes.
    out.par_chunks_exact_mut(len.max(1)).zip(&samples).for_each(|(out, &(sample, t))| {
        Stream::new(seed, purpose, t as u32, sample).normals(0, out);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_numbers_in_any_batch() {
        let len = 7;
        let all = latents(3, 10, 5, len);
        assert_eq!(latents(3, 12, 1, len), all[2 * len..3 * len]);
        let all = forward_noise(3, 10, &[4, 9, 9], len);
        assert_eq!(forward_noise(3, 11, &[9], len), all[len..2 * len]);
        assert_ne!(all[len..2 * len], all[2 * len..]);
        assert_ne!(reverse_noise(3, 10, 4, 1, len), all[..len]);
        let [ten, twelve] = [10, 12].map(|sample| reverse_noise(3, sample, 4, 1, len));
        assert_eq!(reverse_noise_of(3, &[12, 10, 10], 4, len), [&twelve[..], &ten, &ten].concat());
        let all = uniform_timesteps(3, u64::MAX, 4, 1000);
        assert_eq!(uniform_timesteps(3, 1, 1, 1000), all[2..3]);
    }

    #[test]
    fn training_steps_are_uniform() {
        let mut counts = [0; 4];
        for t in uniform_timesteps(0, 0, 8000, 4) {
            counts[t] += 1;
        }
        assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
    }
}
