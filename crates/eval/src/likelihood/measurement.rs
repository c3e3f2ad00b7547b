//! The bound over a data set: image by image, in batches of whatever size, from wherever it was stopped.

use super::strata::Strata;
use super::term_file::{TermFile, TermFileError};
use data::{DataError, EpochOrder, ImageSource};
use diffusion::pixels::from_bytes;
use diffusion::{BoundTerm, Denoiser, DiffusionError, GaussianDiffusion, NormalCdf, noise};
use engine::ImageShape;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first image measured of a source without end: training takes them from 0 on.
const FIRST_HELD_OUT: u64 = 1 << 40;

/// Why a measurement did not begin, or did not go on. What was measured before is kept.
#[derive(Debug, thiserror::Error)]
pub enum MeasurementError {
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// The file of terms.
    #[error(transparent)]
    Terms(#[from] TermFileError),
    /// More terms than can be numbered.
    #[error("{images} images of {entries} entries each are more than can be numbered; measure fewer images")]
    TooMany {
        /// Images asked for.
        images: u64,
        /// Entries of each in the file of terms.
        entries: u64,
    },
    /// A term is NaN or infinite.
    #[error("L_{t} of image {image} is {value}; the model's variance is probably not usable")]
    NotFinite {
        /// The term's t, counted from 0.
        t: usize,
        /// The image's number.
        image: u64,
        /// The term.
        value: f64,
    },
}

/// The bound of a model on the images of a source.
///
/// Images are taken in a random order that depends on the seed only, so that the first few are a fair sample
/// of all; an endless source gives images from number 2⁴⁰ on, which no training reaches. For each image comes
/// first the prior term, then those that the strata draw, by fresh noise that depends on the seed, t and the
/// image's number: so no batch size changes a bit.
pub struct Measurement<'a> {
    process: &'a GaussianDiffusion,
    strata: &'a Strata,
    source: &'a dyn ImageSource,
    cdf: NormalCdf,
    seed: u64,
    order: Option<EpochOrder>,
}

/// Which images cannot be measured, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SourceError {
    /// Images of another shape than the network's.
    #[error("images are {found}, the model's are {expected}; ask the source for that size and channels")]
    Shape {
        /// The source's.
        found: ImageShape,
        /// The model's.
        expected: ImageShape,
    },
    /// Too many images to put in order.
    #[error("{images} images are more than {} can be put in a random order", u32::MAX)]
    TooMany {
        /// How many there are.
        images: u64,
    },
}

/// The terms of one batch: which image and step each is of.
#[derive(Default)]
struct Batch {
    x_start: Vec<f32>,
    x_t: Vec<f32>,
    t: Vec<usize>,
    image: Vec<u64>,
    /// For each entry of the file: a prior, or `None` for the next term of the batch.
    entries: Vec<Option<f64>>,
}

impl<'a> Measurement<'a> {
    /// A measurement on images of `shape`.
    ///
    /// # Errors
    /// If the source's images have another shape, or there are more than 2³²-1 (of a source that ends).
    pub fn new(
        process: &'a GaussianDiffusion,
        strata: &'a Strata,
        source: &'a dyn ImageSource,
        shape: ImageShape,
        cdf: NormalCdf,
        seed: u64,
    ) -> Result<Self, SourceError> {
        let found = source.shape();
        if found != shape {
            return Err(SourceError::Shape { found, expected: shape });
        }
        let images = source.len();
        let order = match u32::try_from(images) {
            _ if source.is_endless() => None,
            Ok(len) => Some(EpochOrder::new(seed, len)),
            Err(_) => return Err(SourceError::TooMany { images }),
        };
        Ok(Self { process, strata, source, cdf, seed, order })
    }

    /// Entries of an image in the file: its prior term and its terms.
    pub fn entries_per_image(&self) -> usize {
        1 + self.strata.terms()
    }

    /// Entries of the first `images` images in the file.
    ///
    /// # Errors
    /// [`MeasurementError::TooMany`] if they, or the images of a source without end, cannot be numbered.
    pub fn entries(&self, images: u64) -> Result<u64, MeasurementError> {
        let per_image = self.entries_per_image() as u64;
        let numbered = FIRST_HELD_OUT.checked_add(images).and(images.checked_mul(per_image));
        numbered.ok_or(MeasurementError::TooMany { images, entries: per_image })
    }

    /// The number, in the source, of the image that is measured as number `place`.
    pub fn image(&mut self, place: u64) -> u64 {
        match &mut self.order {
            Some(order) => order.at(place).1,
            None => FIRST_HELD_OUT + place,
        }
    }

    /// Measures what is missing in `file` of the first `images` images, `batch` terms at a time, until `stop` is set.
    /// `tell` hears how many terms of how many are done. Returns whether all are.
    ///
    /// # Errors
    /// [`MeasurementError`]; the batches before are in the file.
    pub fn run(
        &mut self,
        denoiser: &mut dyn Denoiser,
        images: u64,
        batch: usize,
        file: &mut TermFile,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<bool, MeasurementError> {
        let per_image = self.entries_per_image() as u64;
        let total = self.entries(images)?;
        // Of an image's entries the first takes no call of the network.
        let terms = |entries: u64| entries - entries.div_ceil(per_image);
        while file.entries() < total {
            tell(terms(file.entries()), terms(total));
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let batch = self.gather(file.entries(), total, batch)?;
            let found = self.evaluate(denoiser, batch)?;
            file.append(&found)?;
        }
        tell(terms(total), terms(total));
        Ok(true)
    }

    /// The entries from number `first` on that take `batch` terms, but none from number `end` on.
    fn gather(&mut self, first: u64, end: u64, batch: usize) -> Result<Batch, DataError> {
        let per_image = self.entries_per_image() as u64;
        let len = self.source.shape().len();
        let mut gathered = Batch::default();
        let mut entry = first;
        while entry < end && gathered.t.len() < batch {
            let image = self.image(entry / per_image);
            let x_start = self.read(image)?;
            let mut slot = (entry % per_image) as usize;
            if slot == 0 {
                gathered.entries.push(Some(self.process.prior_bits_per_dim(&x_start, 1)[0]));
                slot = 1;
                entry += 1;
            }
            for &t in self.strata.steps(self.seed, image)[slot - 1..].iter().take(batch - gathered.t.len()) {
                let timestep = self.process.network_timestep(t);
                let noise = noise::forward_noise(self.seed, image, &[timestep], len);
                gathered.x_t.extend(self.process.q_sample(&x_start, &[t], &noise));
                gathered.x_start.extend_from_slice(&x_start);
                gathered.t.push(t);
                gathered.image.push(image);
                gathered.entries.push(None);
                entry += 1;
            }
        }
        Ok(gathered)
    }

    /// Image number `image` in [-1, 1].
    fn read(&self, image: u64) -> Result<Vec<f32>, DataError> {
        let mut pixels = vec![0; self.source.shape().len()];
        self.source.read(image, &mut pixels)?;
        Ok(from_bytes(&pixels))
    }

    fn evaluate(
        &self,
        denoiser: &mut dyn Denoiser,
        batch: Batch,
    ) -> Result<Vec<BoundTerm>, MeasurementError> {
        let Batch { x_start, x_t, t, image, entries } = batch;
        let terms = self.process.bound_term(denoiser, &x_start, &x_t, &t, self.cdf)?;
        for ((term, &t), &image) in terms.iter().zip(&t).zip(&image) {
            let value = term.bits_per_dim;
            // As it will stand in the file.
            if !(value as f32).is_finite() {
                return Err(MeasurementError::NotFinite { t, image, value });
            }
        }
        let mut terms = terms.into_iter();
        let entry = |prior: Option<f64>| match prior {
            Some(bits_per_dim) => Some(BoundTerm { bits_per_dim, xstart_mse: 0.0 }),
            None => terms.next(),
        };
        Ok(entries.into_iter().filter_map(entry).collect())
    }
}
