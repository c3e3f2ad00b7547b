//! The sender.

use super::ans::{Empty, Stack};
use super::chain::LatentChain;
use super::{draw, push, values};
use crate::error::CodecError;
use crate::header::{self, Header, Kind, push_varint};
use crate::measured_curve::{MEASURED_IMAGES, measure};
use crate::model::Model;
use crate::progress::{Progress, Watch};
use crate::progressive::Sender;
use crate::schedule::Schedule;
use diffusion::pixels::from_bytes;

/// A lossless file, and what it cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Encoded {
    /// The file.
    pub bytes: Vec<u8>,
    /// Steps of the chain.
    pub steps: usize,
    /// The first images, which are sent without bits back.
    pub forerunners: usize,
    /// Bits on the stack when they were on it: what the images after them begin with.
    pub initial_bits: usize,
    /// Bits on the stack at the end.
    pub bits: usize,
    /// The variational bound of the images after the forerunners, summed, in bits, with the same chain.
    pub bound_bits: f64,
}

/// Codes images `pixels`, `[n, height, width, channels]`.
///
/// # Errors
/// [`CodecError::Images`], [`CodecError::Stopped`] when `watch` says so, and the network's.
pub fn encode(model: &mut Model, pixels: &[u8], seed: u64, watch: Watch) -> Result<Encoded, CodecError> {
    let len = model.image_len();
    let images = model.images_in(pixels.len())?;
    let mut progress = Progress::new(watch);
    let x_start = from_bytes(pixels);
    let measured = &x_start[..images.min(MEASURED_IMAGES) * len];
    let curve = measure(model, measured, seed, &mut || progress.proceed())?;
    let schedule = Schedule::new(model.process, &curve, len);
    let chain = LatentChain::new(model, &schedule)?;
    let header = Header { kind: Kind::Lossless, variant: model.variant, seed, model: model.identity, images };

    progress.set_total((images * chain.steps()) as u64);
    let mut forerunners = 1;
    loop {
        progress.set_done(0);
        let sender = Sender::new(model, &x_start[..forerunners * len], header, curve);
        let (sent, ends) = sender.finish(&mut Progress::new(&mut |_, _| progress.tell()))?;
        let words = words(&sent);
        let mut stack = Stack::new(words);
        for (pixels, end) in pixels.chunks_exact(len).zip(ends.chunks_exact(len)) {
            let x_0: Vec<f64> = end.iter().map(|&x| f64::from(x)).collect();
            let cells: Vec<u32> = pixels.iter().map(|&pixel| u32::from(pixel)).collect();
            let p = chain.reverse(model, 0, &x_0)?;
            push(&mut stack, chain.pixels(), &cells, &p);
        }
        let initial_bits = stack.bits();
        let enough = chain.initial_bits() + 0.5 * len as f64;
        if forerunners < images && (initial_bits as f64) < enough {
            let of_one = initial_bits as f64 / forerunners as f64;
            forerunners = ((enough / of_one).ceil() as usize).clamp(forerunners + 1, images);
            continue;
        }
        progress.set_done((forerunners * chain.steps()) as u64);
        let mut bound_bits = 0.0;
        let mut is_short = false;
        for pixels in pixels[forerunners * len..].chunks_exact(len) {
            progress.proceed()?;
            match push_image(&mut stack, model, &chain, pixels)? {
                Ok(bits) => bound_bits += bits,
                Err(Empty) => {
                    is_short = true;
                    break;
                }
            }
            progress.add(chain.steps() as u64);
        }
        if is_short {
            forerunners += 1;
            continue;
        }
        let mut parameters = curve.to_bytes().to_vec();
        push_varint(&mut parameters, forerunners as u64);
        push_varint(&mut parameters, sent.len() as u64);
        let bytes = header::write(&header, &parameters, &stack.to_bytes());
        let (steps, bits) = (chain.steps(), stack.bits());
        return Ok(Encoded { bytes, steps, forerunners, initial_bits, bits, bound_bits });
    }
}

/// Bytes as words of a stack, zeros added at the end.
pub(super) fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(padded)
    };
    bytes.chunks(8).map(word).collect()
}

/// Pushes an image; gives its variational bound in bits, or says that the stack ran empty.
fn push_image(
    stack: &mut Stack,
    model: &mut Model,
    chain: &LatentChain,
    pixels: &[u8],
) -> Result<Result<f64, Empty>, CodecError> {
    let mut cells: Vec<u32> = pixels.iter().map(|&pixel| u32::from(pixel)).collect();
    let x_start = values(chain.pixels(), &cells);
    let mut bound_bits = chain.prior_bits(&x_start);
    let mut grid = chain.pixels();
    for k in 0..chain.steps() {
        let q = chain.forward(k, &values(grid, &cells));
        let drawn = match draw(stack, chain.grid(k), &q) {
            Ok(drawn) => drawn,
            Err(Empty) => return Ok(Err(Empty)),
        };
        let x_k = values(chain.grid(k), &drawn);
        let p = chain.reverse(model, k, &x_k)?;
        push(stack, grid, &cells, &p);
        bound_bits += chain.bound_bits(k, &x_start, &x_k, &p);
        (grid, cells) = (chain.grid(k), drawn);
    }
    push(stack, grid, &cells, &chain.prior());
    Ok(Ok(bound_bits))
}
