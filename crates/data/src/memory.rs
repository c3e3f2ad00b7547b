//! Images that a program hands over, held in memory.

use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec};
use engine::ImageShape;
use std::sync::Arc;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "memory",
    form: "memory",
    about: "images that a program hands over (for use as a library); they cannot be opened by name",
    takes_path: false,
    takes_split: false,
    open,
};

fn open(spec: &SourceSpec, _: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    Err(DataError::Spec {
        spec: spec.to_string(),
        what: "the images were in the memory of the program that trained on them".into(),
        remedy: "run that program, or name another source".into(),
    })
}

/// Images of one shape in memory.
///
/// ```
/// use data::{ImageSource, MemoryImages};
/// use engine::ImageShape;
/// // Ten gray images of 4×4 pixels, each of one brightness.
/// let images = MemoryImages::new(ImageShape::new(4, 4, 1), (0..10).map(|i| vec![25 * i; 16]))?;
/// assert_eq!((images.len(), images.shape().len()), (10, 16));
/// # Ok::<(), data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryImages {
    shape: ImageShape,
    pixels: Vec<u8>,
}

impl MemoryImages {
    /// Takes `images`, each the bytes of its pixels (rows of height, width, channels; 0 black, 255 full).
    ///
    /// # Errors
    /// [`DataError::Option`] if the shape has a side of 0 or channels other than 1 or 3;
    /// [`DataError::Malformed`] if an image has another number of bytes; [`DataError::Empty`] if there is
    /// none.
    pub fn new(
        shape: ImageShape,
        images: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Self, DataError> {
        if shape.is_empty() || !matches!(shape.channels, 1 | 3) {
            return Err(DataError::Option {
                option: "image shape",
                what: format!("{shape} is none of an image"),
                remedy: "give a height, a width, and 1 (gray) or 3 (RGB) channels".into(),
            });
        }
        let mut pixels = Vec::new();
        for (number, image) in images.into_iter().enumerate() {
            let image = image.as_ref();
            if image.len() != shape.len() {
                let what = format!("it has {} bytes, an image of {shape} has {}", image.len(), shape.len());
                let remedy = "hand over images of one shape, a byte a channel";
                return Err(DataError::malformed(format!("image {number}"), None, what, remedy));
            }
            pixels.extend_from_slice(image);
        }
        if pixels.is_empty() {
            let remedy = "hand over at least one".into();
            return Err(DataError::Empty { origin: KIND.name.into(), remedy });
        }
        Ok(Self { shape, pixels })
    }
}

impl ImageSource for MemoryImages {
    fn len(&self) -> u64 {
        (self.pixels.len() / self.shape.len()) as u64
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let start = check_index(self, index)? * self.shape.len();
        pixels.copy_from_slice(&self.pixels[start..start + self.shape.len()]);
        Ok(())
    }

    fn description(&self) -> String {
        format!("{} images {} from the program's memory", self.len(), self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_back_and_wrong_ones_are_named() {
        let shape = ImageShape::new(1, 2, 3);
        let images = MemoryImages::new(shape, [[1u8; 6], [2; 6]]).unwrap();
        let mut pixels = [0; 6];
        images.read(1, &mut pixels).unwrap();
        assert_eq!((images.len(), pixels), (2, [2; 6]));
        assert!(matches!(images.read(2, &mut pixels), Err(DataError::OutOfRange { .. })));
        let error = MemoryImages::new(shape, [vec![1; 6], vec![1; 5]]).unwrap_err().to_string();
        assert!(error.contains("image 1") && error.contains("5 bytes"), "{error}");
        assert!(
            MemoryImages::new(shape, [[]; 0]).unwrap_err().to_string().contains("hand over at least one")
        );
        for (height, channels) in [(0, 3), (2, 2)] {
            assert!(MemoryImages::new(ImageShape::new(height, 2, channels), [[]; 0]).is_err());
        }
    }

    #[test]
    fn they_cannot_be_opened_by_name() {
        let spec: SourceSpec = "memory".parse().unwrap();
        assert!(
            crate::open(&spec, &ImageOptions::default()).is_err_and(|e| e.to_string().contains("memory"))
        );
    }
}
