//! Sets of images to be measured: read forwards, batch by batch.

use crate::MeasureError;
use data::{DataError, ImageSource};
use engine::ImageShape;
use rayon::prelude::*;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Images read at a time where no network decides.
const READ_AHEAD: usize = 256;
/// Unreadable images whose reasons are kept.
const MAX_REASONS: usize = 20;

/// A numbered set of images of one shape.
pub trait ImageSet {
    /// Number of images, readable or not.
    fn len(&self) -> u64;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of every image; 1 or 3 channels.
    fn shape(&self) -> ImageShape;

    /// How many images are best read at a time, at least 1; `None` if that is no matter.
    fn batch(&self) -> Option<usize> {
        None
    }

    /// For people: what the set is.
    fn description(&self) -> String;

    /// What the images' content follows from, as text that is equal for equal content: features are cached under it.
    /// `progress` is told how many images have been looked at, and answers whether to go on.
    ///
    /// # Errors
    /// If an image cannot be read and such are not passed over.
    fn content_key(&mut self, progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError>;

    /// Images `first .. first + count` (all of them inside the set), less those that cannot be read where
    /// such are passed over.
    ///
    /// # Errors
    /// If an image cannot be read and such are not passed over.
    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError>;
}

/// Some images of a set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageBatch {
    /// Pixels, NHWC, image after image.
    pub pixels: Vec<u8>,
    /// Why images are missing, one line each.
    pub unreadable: Vec<String>,
}

/// What becomes of images that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unreadable {
    /// The first one ends the work, with its name.
    #[default]
    Refuse,
    /// They are passed over and counted.
    Skip,
}

/// The first images of a data source.
pub struct SourceImages {
    source: Arc<dyn ImageSource>,
    len: u64,
    unreadable: Unreadable,
    reasons: Vec<String>,
}

impl SourceImages {
    /// All images of `source`, or the first `limit`.
    pub fn new(source: Arc<dyn ImageSource>, limit: Option<u64>, unreadable: Unreadable) -> Self {
        let len = match limit {
            Some(limit) if source.is_endless() => limit,
            Some(limit) => limit.min(source.len()),
            None => source.len(),
        };
        Self { source, len, unreadable, reasons: Vec::new() }
    }

    /// Why the first few images that were passed over cannot be read.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    fn read_each(&self, first: u64, count: usize) -> Vec<Result<Vec<u8>, DataError>> {
        let read = |index: usize| {
            let mut pixels = vec![0; self.source.shape().len()];
            self.source.read(first + index as u64, &mut pixels).map(|()| pixels)
        };
        (0..count).into_par_iter().map(read).collect()
    }
}

impl ImageSet for SourceImages {
    fn len(&self) -> u64 {
        self.len
    }

    fn shape(&self) -> ImageShape {
        self.source.shape()
    }

    fn description(&self) -> String {
        let text = self.source.description();
        match self.len < self.source.len() {
            true => format!("the first {} of {text}", self.len),
            false => text,
        }
    }

    fn content_key(&mut self, progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError> {
        let mut hash = Xxh3::new();
        hash.update(self.shape().to_string().as_bytes());
        let mut first = 0;
        while first < self.len {
            let count = (READ_AHEAD as u64).min(self.len - first) as usize;
            for image in self.read_each(first, count) {
                match (image, self.unreadable) {
                    (Ok(pixels), _) => hash.update(&pixels),
                    (Err(_), Unreadable::Skip) => hash.update(b"unreadable"),
                    (Err(error), Unreadable::Refuse) => return Err(error.into()),
                }
            }
            first += count as u64;
            if !progress(first) {
                return Err(MeasureError::Stopped { images: 0, total: self.len });
            }
        }
        Ok(format!("pixels {:032x}", hash.digest128()))
    }

    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError> {
        let mut batch = ImageBatch::default();
        for image in self.read_each(first, count) {
            match (image, self.unreadable) {
                (Ok(pixels), _) => batch.pixels.extend(pixels),
                (Err(error), Unreadable::Skip) => {
                    let reason = error.to_string();
                    if self.reasons.len() < MAX_REASONS {
                        self.reasons.push(reason.clone());
                    }
                    batch.unreadable.push(reason);
                }
                (Err(error), Unreadable::Refuse) => return Err(error.into()),
            }
        }
        Ok(batch)
    }
}

/// Images in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImagesInMemory {
    /// Pixels, NHWC, image after image.
    pub pixels: Vec<u8>,
    /// The shape of each.
    pub shape: ImageShape,
    /// For people: what they are.
    pub description: String,
}

impl ImageSet for ImagesInMemory {
    fn len(&self) -> u64 {
        (self.pixels.len() / self.shape.len()) as u64
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn content_key(&mut self, _progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError> {
        let mut hash = Xxh3::new();
        hash.update(self.shape.to_string().as_bytes());
        hash.update(&self.pixels);
        Ok(format!("pixels {:032x}", hash.digest128()))
    }

    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError> {
        let (len, first) = (self.shape.len(), first as usize);
        let pixels = self.pixels[first * len..(first + count) * len].to_vec();
        Ok(ImageBatch { pixels, unreadable: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{ImageOptions, SourceSpec};

    fn shapes(limit: u64) -> SourceImages {
        let spec: SourceSpec = "shapes32".parse().unwrap();
        let source = data::open(&spec, &ImageOptions::default()).unwrap();
        SourceImages::new(source, Some(limit), Unreadable::Refuse)
    }

    #[test]
    fn the_key_follows_the_content() {
        let key = |limit| shapes(limit).content_key(&mut |_| true).unwrap();
        assert_eq!(key(7), key(7));
        assert_ne!(key(7), key(8));
        let shapes_in_memory = |count: usize| {
            let (shape, pixels) = (shapes(1).shape(), shapes(8).read(0, count).unwrap().pixels);
            let mut set = ImagesInMemory { pixels, shape, description: String::new() };
            set.content_key(&mut |_| true).unwrap()
        };
        assert_eq!(shapes_in_memory(7), key(7));
        let stopped = shapes(300).content_key(&mut |done| done < 256);
        assert!(matches!(stopped, Err(MeasureError::Stopped { .. })));
    }

    #[test]
    fn batches_are_parts_of_the_set() {
        let mut set = shapes(9);
        let all = set.read(0, 9).unwrap();
        assert_eq!(all.pixels.len(), 9 * set.shape().len());
        let tail = set.read(7, 2).unwrap();
        assert_eq!(tail.pixels, all.pixels[7 * set.shape().len()..]);
    }
}
