//! The bound over data sets.

mod gaussian_data;
mod invariance;
mod reference;

use data::{DataError, ImageSource};
use diffusion::{Denoiser, DiffusionConfig, GaussianDiffusion, NormalCdf};
use engine::ImageShape;
use eval::likelihood::{Identity, Measurement, Strata, Summary, TermFile};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Images in memory.
struct Pixels {
    shape: ImageShape,
    images: Vec<Vec<u8>>,
}

impl ImageSource for Pixels {
    fn len(&self) -> u64 {
        self.images.len() as u64
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        pixels.copy_from_slice(&self.images[index as usize]);
        Ok(())
    }

    fn description(&self) -> String {
        "images in memory".into()
    }
}

/// What a test measures.
struct Case<'a> {
    config: &'a DiffusionConfig,
    terms: usize,
    cdf: NormalCdf,
    seed: u64,
    source: &'a Pixels,
}

impl Case<'_> {
    fn process(&self) -> GaussianDiffusion {
        GaussianDiffusion::new(self.config).unwrap()
    }

    fn strata(&self) -> Strata {
        Strata::new(&self.process(), self.terms).unwrap()
    }

    fn identity(&self) -> Identity {
        let ImageShape { height, width, channels } = self.source.shape;
        Identity {
            model: "test".into(),
            diffusion: self.config.clone(),
            data: self.source.description(),
            data_images: self.source.len(),
            image: [height, width, channels],
            decoder_cdf: self.cdf,
            terms: self.terms,
            seed: self.seed,
            convolutions: "none".into(),
        }
    }

    /// Measures what is missing of `images` images; stops after about `most` terms. Returns whether all are measured.
    fn measure(
        &self,
        path: &Path,
        denoiser: &mut dyn Denoiser,
        images: u64,
        batch: usize,
        most: u64,
    ) -> bool {
        let (process, strata) = (self.process(), self.strata());
        let mut measurement =
            Measurement::new(&process, &strata, self.source, self.source.shape, self.cdf, self.seed).unwrap();
        let mut file = TermFile::open(path, &self.identity()).unwrap();
        let stop = AtomicBool::new(false);
        let mut tell = |done, _| stop.store(done >= most, std::sync::atomic::Ordering::Relaxed);
        measurement.run(denoiser, images, batch, &mut file, &stop, &mut tell).unwrap()
    }

    /// The order of images, the total of each, and what they come to.
    fn summary(&self, path: &Path, images: u64) -> (Vec<u64>, Vec<f64>, Summary) {
        let (process, strata) = (self.process(), self.strata());
        let mut measurement =
            Measurement::new(&process, &strata, self.source, self.source.shape, self.cdf, self.seed).unwrap();
        let file = TermFile::open(path, &self.identity()).unwrap();
        let (mut order, mut totals) = (Vec::new(), Vec::new());
        let summary = Summary::of(
            &file,
            &strata,
            self.seed,
            images,
            |place| measurement.image(place),
            |image, bound| {
                order.push(image);
                totals.push(bound.total());
            },
        );
        (order, totals, summary.unwrap())
    }
}
