//! What every source of images offers.

use crate::{DataError, ResizeFilter};
use engine::ImageShape;

/// Largest `size` accepted, in pixels.
const MAX_SIZE: usize = 8192;

/// A numbered set of images of one shape, 8 bits a channel.
pub trait ImageSource: Send + Sync {
    /// Number of images (of an epoch, for an endless source). Never 0 for a source made by [`open`](crate::open).
    fn len(&self) -> u64;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether images go on beyond [`len`](Self::len), every `u64` being the number of a different one.
    fn is_endless(&self) -> bool {
        false
    }

    /// The shape of every image.
    fn shape(&self) -> ImageShape;

    /// Writes the pixels of image `index` to `pixels` (height, width, channel order; 0 black, 255 full).
    ///
    /// # Errors
    /// With the file's name if it cannot be read or decoded; [`DataError::OutOfRange`] for no such image.
    ///
    /// # Panics
    /// If the length of `pixels` is not that of [`shape`](Self::shape).
    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError>;

    /// Image `index` in its own height and width, and its pixels. Where no size was asked for, images of a
    /// source may differ in size, of which [`read`](Self::read) takes those alone that are like the first.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for the size.
    fn read_as_stored(&self, index: u64) -> Result<(ImageShape, Vec<u8>), DataError> {
        let shape = self.shape();
        let mut pixels = vec![0; shape.len()];
        self.read(index, &mut pixels)?;
        Ok((shape, pixels))
    }

    /// Reads through what has a checksum that reading single images does not check: an array of images, for
    /// one, has a checksum of the whole. Worth its time to whoever reads all images in any case.
    ///
    /// # Errors
    /// With the file's name if a checksum does not hold or a file cannot be read.
    fn verify_checksums(&self) -> Result<(), DataError> {
        Ok(())
    }

    /// The class of image `index`, where the source has classes.
    fn label(&self, _index: u64) -> Option<u32> {
        None
    }

    /// For people: what the source is, how many images of which shape, and all that is done to them
    /// (padded, cropped, resized, alpha composited, …).
    fn description(&self) -> String;
}

/// In which shape images are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageOptions {
    /// Height and width, in pixels (1 to 8192). `None`: as stored.
    pub size: Option<usize>,
    /// 1 (gray) or 3 (RGB). `None`: as stored, for a folder of images 3.
    pub channels: Option<usize>,
    /// How images are resized when `size` is not theirs.
    pub filter: ResizeFilter,
}

impl ImageOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`DataError::Option`] for a size or a number of channels that cannot be.
    pub fn validate(&self) -> Result<(), DataError> {
        if let Some(size) = self.size
            && !(1..=MAX_SIZE).contains(&size)
        {
            let what = format!("{size} pixels is out of range");
            return Err(DataError::Option {
                option: "image size",
                what,
                remedy: format!("give 1 to {MAX_SIZE}"),
            });
        }
        if let Some(channels) = self.channels
            && channels != 1
            && channels != 3
        {
            let what = format!("{channels} is not possible");
            return Err(DataError::Option {
                option: "image channels",
                what,
                remedy: "give 1 (gray) or 3 (RGB)".into(),
            });
        }
        Ok(())
    }
}

/// Refuses an image number beyond the source's end.
pub(crate) fn check_index(source: &dyn ImageSource, index: u64) -> Result<usize, DataError> {
    let len = source.len();
    match usize::try_from(index) {
        Ok(number) if index < len => Ok(number),
        _ => Err(DataError::OutOfRange { origin: source.description(), index, len }),
    }
}
