//! A trained model, and the images it draws.

use checkpoint::ModelLocation;
use diffusion::pixels::to_bytes;
use diffusion::{Denoiser, DiffusionError, GaussianDiffusion, Sampling};
use engine::{BackendError, Cpu, CpuOptions, ImageShape};
use models::{Unet, UnetDenoiser};
use std::path::{Path, PathBuf};
use train::grid::{EncodeError, grid};

/// Images drawn at once.
const BATCH: usize = 4;

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its files, or a file to write.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Its files do not say what process it was trained for.
    #[error("{}: only a network, without its diffusion process; give the folder of the whole pipeline", path.display())]
    NoProcess {
        /// The model.
        path: PathBuf,
    },
    /// The process, the sampler's settings, or what the network gave.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// Memory is short, or the processor lacks something.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Images that make no PNG.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A network with its weights, and the process it was trained for.
pub struct Model {
    /// The network; it computes 4 images at a time, on all cores.
    pub network: UnetDenoiser,
    /// The process.
    pub process: GaussianDiffusion,
}

impl Model {
    /// Opens a run's directory (its last checkpoint), a checkpoint, or a directory in diffusers' layout, with
    /// the averaged weights where there are two kinds.
    ///
    /// # Errors
    /// If there is no model, it is not whole or not supported, or memory is short.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let mut stored = ModelLocation::resolve(path)?.open(None)?;
        let config = stored.diffusion.clone().ok_or_else(|| Error::NoProcess { path: path.to_owned() })?;
        let layout = Unet::layout(&stored.unet);
        stored.check_parameters(&layout)?;
        let cpu = Box::new(Cpu::with_options(CpuOptions::default())?);
        let mut network = UnetDenoiser::without_weights(&stored.unet, BATCH, cpu)?;
        network.read_weights(|set| stored.for_each_parameter(&layout, set))?;
        Ok(Self { network, process: GaussianDiffusion::new(&config)? })
    }

    /// Draws images number 0, …, `count - 1` of `seed`: the same as `ddpm sample` draws.
    ///
    /// # Errors
    /// If the process does not allow this sampler or this number of steps, or the network's output is not finite.
    pub fn sample(&mut self, count: usize, seed: u64, sampling: Sampling) -> Result<Images, Error> {
        let shape = self.network.image_shape();
        let mut pixels = Vec::with_capacity(count * shape.len());
        for first in (0..count).step_by(BATCH) {
            let samples = BATCH.min(count - first);
            let mut sampler = sampling.sampler(&self.process, shape, seed, first as u64, samples)?;
            pixels.extend(to_bytes(sampler.run(&mut self.network)?));
        }
        Ok(Images { shape, pixels })
    }
}

/// Images of one shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Images {
    /// Height, width and channels of each.
    pub shape: ImageShape,
    /// Their bytes, one image after the other: rows, columns, channels.
    pub pixels: Vec<u8>,
}

impl Images {
    /// The images one by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pixels.chunks_exact(self.shape.len())
    }

    /// Writes all of them as one PNG, in rows and columns; it appears whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    ///
    /// # Panics
    /// If there is no image.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let (path, png) = (path.as_ref(), grid(&self.pixels, self.shape).to_png()?);
        checkpoint::atomic::write_file(path, |out| {
            out.write_all(&png).map_err(|source| checkpoint::Error::Write { path: path.to_owned(), source })
        })?;
        Ok(())
    }
}
