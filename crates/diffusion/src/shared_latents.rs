//! Samples that have x_t in common (§4.3, Fig. 7): what x_t has decided, they share.

use crate::error::DiffusionError;
use crate::sampler::{Chain, Sampler};
use crate::sampling::SamplerKind;

/// `copies` samples that go on from where sample `index` of a chain's batch is, each with reverse noise of
/// its own, that of the samples `first_sample`, … of the chain's seed.
///
/// # Errors
/// If the process does not allow this sampler, or the chain has no step left.
///
/// # Panics
/// If there is no such sample.
pub fn branches(
    kind: SamplerKind,
    chain: &Chain,
    index: usize,
    first_sample: u64,
    copies: usize,
) -> Result<Box<dyn Sampler>, DiffusionError> {
    let len = chain.image_shape().len();
    let x_t = &chain.x_t()[index * len..(index + 1) * len];
    let process = chain.process().until(chain.steps_left())?;
    let mut sampler = kind.sampler(process, chain.image_shape(), chain.seed(), first_sample, copies)?;
    sampler.chain_mut().set_latents(x_t.repeat(copies));
    Ok(sampler)
}
