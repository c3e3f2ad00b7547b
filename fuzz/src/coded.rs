//! Compressed files: a model whose denoiser is a formula, and headers put right.

use codec::Model;
use diffusion::{DenoiseError, Denoiser, DiffusionConfig, GaussianDiffusion};
use engine::ImageShape;
use std::ops::ControlFlow;

const IMAGE: ImageShape = ImageShape { height: 3, width: 2, channels: 1 };
/// Steps of a decoder after which it is stopped.
const PATIENCE: usize = 2000;

/// ε for images whose numbers are normal with variance 1/4.
struct Normal(GaussianDiffusion);

impl Denoiser for Normal {
    fn image_shape(&self) -> ImageShape {
        IMAGE
    }

    fn output_channels(&self) -> usize {
        IMAGE.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], eps: &mut [f32]) -> Result<(), DenoiseError> {
        let len = IMAGE.len();
        for ((x_t, eps), &t) in x_t.chunks(len).zip(eps.chunks_mut(len)).zip(timesteps) {
            let signal = self.0.tables().alphas_cumprod[t as usize];
            let factor = ((1.0 - signal).sqrt() / (0.25 * signal + 1.0 - signal)) as f32;
            eps.iter_mut().zip(x_t).for_each(|(eps, x)| *eps = factor * x);
        }
        Ok(())
    }
}

/// Calls `with` with a model of such images.
pub fn with_model(with: impl FnOnce(&mut Model)) {
    let config = DiffusionConfig { timesteps: 50, beta_end: 0.3, ..DiffusionConfig::default() };
    let process = GaussianDiffusion::new(&config).expect("the process is valid");
    let mut denoiser = Normal(process.clone());
    let mut model = Model::new(&process, &mut denoiser, "normal", 0).expect("the model can be coded with");
    with(&mut model);
}

/// Has a decoder stopped when it has done enough.
pub fn patience() -> impl FnMut(u64, u64) -> ControlFlow<()> {
    let mut left = PATIENCE;
    move |_, _| {
        left = left.saturating_sub(1);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The file with the format's two bytes, version, variant, kind, model and checksum put right.
pub fn repair(bytes: &[u8], identity: u32, lossless: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < 11 {
        return bytes;
    }
    bytes[..2].copy_from_slice(&[0xdd, b'p']);
    bytes[2] = 1 << 5 | bytes[2] & 0b0000_0010 | u8::from(lossless);
    bytes[7..11].copy_from_slice(&identity.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&bytes[..3]);
    checksum.update(&bytes[7..]);
    let checksum = checksum.finalize().to_le_bytes();
    bytes[3..7].copy_from_slice(&checksum);
    bytes
}
