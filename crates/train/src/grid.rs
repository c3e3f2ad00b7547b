//! Many images in one: grids, and PNG.

use engine::ImageShape;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// Pixels between the images of a grid.
pub const GAP: usize = 2;

/// An image of bytes: rows, columns, channels (1 gray, 3 RGB), in this memory order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picture {
    /// Height, width and channels.
    pub shape: ImageShape,
    /// `shape.len()` bytes.
    pub pixels: Vec<u8>,
}

/// An image that cannot be written as PNG.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode an image of {shape} as PNG: {reason}")]
pub struct EncodeError {
    shape: ImageShape,
    reason: String,
}

/// Lays out `images`, a whole number of images of `shape` one after the other, in rows of ⌈√n⌉, on white,
/// [`GAP`] pixels apart.
///
/// # Panics
/// If `images` is not a whole, positive number of images: a mistake of the caller's.
pub fn grid(images: &[u8], shape: ImageShape) -> Picture {
    let count = images.len() / shape.len();
    let columns = (1..).find(|side| side * side >= count).unwrap_or(count);
    rows(images, shape, columns)
}

/// The same in rows of `columns`.
///
/// # Panics
/// If `images` is not a whole, positive number of images, or there are no columns: a mistake of the caller's.
pub fn rows(images: &[u8], shape: ImageShape, columns: usize) -> Picture {
    assert!(!images.is_empty() && images.len().is_multiple_of(shape.len()), "not a whole number of images");
    let count = images.len() / shape.len();
    let rows = count.div_ceil(columns);
    let extent = |cells: usize, size: usize| cells * (size + GAP) - GAP;
    let out = ImageShape::new(extent(rows, shape.height), extent(columns, shape.width), shape.channels);
    let mut pixels = vec![255; out.len()];
    let row_bytes = shape.width * shape.channels;
    for (index, image) in images.chunks_exact(shape.len()).enumerate() {
        let top = index / columns * (shape.height + GAP);
        let left = index % columns * (shape.width + GAP);
        for (y, row) in image.chunks_exact(row_bytes).enumerate() {
            let start = ((top + y) * out.width + left) * out.channels;
            pixels[start..start + row_bytes].copy_from_slice(row);
        }
    }
    Picture { shape: out, pixels }
}

impl Picture {
    /// The picture as a PNG file's bytes.
    ///
    /// # Errors
    /// If the encoder refuses the size (a side of 0, or beyond 2³² pixels).
    pub fn to_png(&self) -> Result<Vec<u8>, EncodeError> {
        png(&self.pixels, self.shape)
    }
}

/// One image of `shape` as a PNG file's bytes.
///
/// # Errors
/// If the encoder refuses the size (a side of 0, or beyond 2³² pixels), or `pixels` is not one image.
pub fn png(pixels: &[u8], shape: ImageShape) -> Result<Vec<u8>, EncodeError> {
    let fail = |reason: String| EncodeError { shape, reason };
    if pixels.len() != shape.len() {
        return Err(fail(format!("{} bytes of pixels", pixels.len())));
    }
    let color = match shape.channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        channels => return Err(fail(format!("{channels} channels"))),
    };
    let side = |size: usize| u32::try_from(size).map_err(|_| fail(format!("a side of {size} pixels")));
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(pixels, side(shape.width)?, side(shape.height)?, color)
        .map_err(|error| fail(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_in_rows_with_gaps() {
        let shape = ImageShape::new(2, 3, 1);
        let images: Vec<u8> = (0..3).flat_map(|image| (0..6).map(move |pixel| image * 10 + pixel)).collect();
        assert_eq!(rows(&images, shape, 1).shape, ImageShape::new(3 * 2 + 2 * GAP, 3, 1));
        let grid = grid(&images, shape);
        assert_eq!(grid.shape, ImageShape::new(2 + GAP + 2, 3 + GAP + 3, 1));
        let w = 255;
        #[rustfmt::skip]
        let expected = [
             0,  1,  2, w, w, 10, 11, 12,
             3,  4,  5, w, w, 13, 14, 15,
             w,  w,  w, w, w,  w,  w,  w,
             w,  w,  w, w, w,  w,  w,  w,
            20, 21, 22, w, w,  w,  w,  w,
            23, 24, 25, w, w,  w,  w,  w,
        ];
        assert_eq!(grid.pixels, expected);
    }

    #[test]
    fn png_keeps_every_pixel() {
        for channels in [1, 3] {
            let shape = ImageShape::new(5, 4, channels);
            let picture = Picture { shape, pixels: (0..shape.len()).map(|i| (i * 37 % 256) as u8).collect() };
            let decoded = image::load_from_memory(&picture.to_png().unwrap()).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (4, 5));
            assert_eq!(decoded.color().channel_count() as usize, channels);
            assert_eq!(decoded.as_bytes(), picture.pixels);
        }
    }

    #[test]
    fn what_png_cannot_hold_is_an_error() {
        assert!(png(&[0; 8], ImageShape::new(2, 2, 2)).is_err());
        assert!(png(&[0; 3], ImageShape::new(2, 2, 1)).is_err());
    }
}
