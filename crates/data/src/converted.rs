//! A source whose images all have one stored shape, given in another.

use crate::channels;
use crate::resize::{ResizeFilter, View};
use crate::{DataError, ImageOptions, ImageSource};
use engine::ImageShape;
use std::sync::Arc;

/// Crops, resizes and changes the channels of `inner`'s images.
struct Converted {
    inner: Arc<dyn ImageSource>,
    shape: ImageShape,
    filter: ResizeFilter,
}

/// `inner` in the shape that `options` ask for; `inner` itself if it has it already.
pub fn convert(inner: Arc<dyn ImageSource>, options: &ImageOptions) -> Arc<dyn ImageSource> {
    let stored = inner.shape();
    let channels = options.channels.unwrap_or(stored.channels);
    let shape = match options.size {
        Some(size) => ImageShape::new(size, size, channels),
        None => ImageShape { channels, ..stored },
    };
    if shape == stored {
        return inner;
    }
    Arc::new(Converted { inner, shape, filter: options.filter })
}

impl ImageSource for Converted {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn is_endless(&self) -> bool {
        self.inner.is_endless()
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let stored = self.inner.shape();
        let mut image = vec![0; stored.len()];
        self.inner.read(index, &mut image)?;
        if (stored.height, stored.width) != (self.shape.height, self.shape.width) {
            image = View::new(&image, stored.width, stored.height, stored.channels).centre_square().resize(
                self.shape.width,
                self.shape.height,
                self.filter,
            );
        }
        pixels.copy_from_slice(&channels::convert(image, stored.channels, self.shape.channels));
        Ok(())
    }

    fn verify_checksums(&self) -> Result<(), DataError> {
        self.inner.verify_checksums()
    }

    fn label(&self, index: u64) -> Option<u32> {
        self.inner.label(index)
    }

    fn description(&self) -> String {
        let stored = self.inner.shape();
        let mut text = self.inner.description();
        if (stored.height, stored.width) != (self.shape.height, self.shape.width) {
            if stored.height != stored.width {
                text.push_str(", centre-cropped to square");
            }
            text.push_str(&format!(
                ", resized to {}x{} ({})",
                self.shape.height, self.shape.width, self.filter
            ));
        }
        if let Some(change) = channels::describe(stored.channels, self.shape.channels) {
            text.push_str(", ");
            text.push_str(change);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes32::Shapes32;

    #[test]
    fn the_stored_shape_passes_through() {
        let source: Arc<dyn ImageSource> = Arc::new(Shapes32::new(0));
        let same = convert(source.clone(), &ImageOptions { size: Some(32), ..Default::default() });
        assert!(Arc::ptr_eq(&source, &same));
    }

    #[test]
    fn size_and_channels_change_and_the_description_says_so() {
        let options = ImageOptions { size: Some(16), channels: Some(1), filter: ResizeFilter::Area };
        let source: Arc<dyn ImageSource> = Arc::new(Shapes32::new(0));
        let small = convert(source.clone(), &options);
        assert_eq!(small.shape(), ImageShape::new(16, 16, 1));
        let (mut stored, mut converted) = (vec![0; 3072], vec![0; 256]);
        source.read(5, &mut stored).unwrap();
        small.read(5, &mut converted).unwrap();
        // The same mean brightness, to the rounding.
        let mean = |pixels: &[u8]| pixels.iter().map(|&v| f64::from(v)).sum::<f64>() / pixels.len() as f64;
        let luma: Vec<u8> = channels::convert(stored, 3, 1);
        assert!((mean(&luma) - mean(&converted)).abs() < 0.5);
        let text = small.description();
        assert!(text.contains("resized to 16x16 (area)") && text.contains("reduced to gray"), "{text}");
        assert_eq!(small.label(5), source.label(5));
        assert!(small.is_endless());
    }
}
