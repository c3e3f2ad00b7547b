//! A decoded image file: PNG, JPEG, WebP, GIF (its first frame) or BMP.

use crate::DataError;
use crate::bounded::content_error;
use crate::jpeg;
use engine::ImageShape;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use std::io::{BufRead, Cursor, Seek};
use std::path::Path;

/// Extensions of the files that can be decoded.
pub(crate) const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];
const MAX_SIDE: u32 = 1 << 15;
/// Bytes of a decoded image: 89 megapixels of 8-bit RGB.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// Bytes of an encoded image.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// What decoding does to images, for descriptions.
pub(crate) const DECODING: &str =
    "transparency composited on white, 16 bits reduced to 8, EXIF orientation applied";

/// A whole image, upright, 8 bits a channel, gray or RGB, opaque.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Picture {
    /// Rows of interleaved channels.
    pub pixels: Vec<u8>,
    pub width: usize,
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
}

impl Picture {
    /// Decodes the bytes of a file; `path` and `offset` say in messages where they came from.
    pub(crate) fn decode(
        bytes: &[u8],
        path: &Path,
        offset: impl Into<Option<u64>>,
    ) -> Result<Self, DataError> {
        Self::read(Cursor::new(bytes), path, offset.into())
    }

    /// Decodes a file.
    pub(crate) fn read(
        mut file: impl BufRead + Seek,
        path: &Path,
        offset: Option<u64>,
    ) -> Result<Self, DataError> {
        jpeg::check_end(&mut file).map_err(|e| content_error(path, offset, e))?;
        let (decoder, orientation) = open_decoder(file, path, offset)?;
        let image = DynamicImage::from_decoder(decoder).map_err(|e| image_error(path, offset, e))?;
        Self::new(image, orientation).ok_or_else(|| no_pixels(path, offset))
    }

    fn new(mut image: DynamicImage, orientation: Orientation) -> Option<Self> {
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return None;
        }
        let color = image.color();
        let (pixels, channels) = match (color.has_color(), color.has_alpha()) {
            (false, false) => (image.into_luma8().into_raw(), 1),
            (false, true) => (on_white::<2, 1>(&image.into_luma_alpha8().into_raw()), 1),
            (true, false) => (image.into_rgb8().into_raw(), 3),
            (true, true) => (on_white::<4, 3>(&image.into_rgba8().into_raw()), 3),
        };
        Some(Self { pixels, width, height, channels })
    }

    /// Channel planes as a picture; the planes have one length, which is `width · height`.
    pub(crate) fn from_planes(planes: &[u8], width: usize, height: usize, channels: usize) -> Self {
        let plane = width * height;
        let mut pixels = vec![0; planes.len()];
        for (channel, values) in planes.chunks_exact(plane).enumerate() {
            for (pixel, &value) in pixels.chunks_exact_mut(channels).zip(values) {
                pixel[channel] = value;
            }
        }
        Self { pixels, width, height, channels }
    }

    /// Height, width and channels.
    pub(crate) fn shape(&self) -> ImageShape {
        ImageShape::new(self.height, self.width, self.channels)
    }
}

/// A file's decoder and how its image is to be turned.
fn open_decoder<'a>(
    file: impl BufRead + Seek + 'a,
    path: &Path,
    offset: Option<u64>,
) -> Result<(impl ImageDecoder + 'a, Orientation), DataError> {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader =
        ImageReader::new(file).with_guessed_format().map_err(|e| DataError::io(path, "read", e))?;
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|e| image_error(path, offset, e))?;
    // Decoders keep to the limit in what they allocate themselves; the image's own buffer is not theirs.
    limits.reserve(decoder.total_bytes()).map_err(|e| image_error(path, offset, e))?;
    // A damaged orientation tag is no reason to refuse an image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

/// (height, width) of the upright image in a file, from its header.
pub(crate) fn stored_size(file: impl BufRead + Seek, path: &Path) -> Result<(usize, usize), DataError> {
    let (decoder, orientation) = open_decoder(file, path, None)?;
    let (width, height) = decoder.dimensions();
    let turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    if width == 0 || height == 0 {
        return Err(no_pixels(path, None));
    }
    let (height, width) = if turned { (width, height) } else { (height, width) };
    Ok((height as usize, width as usize))
}

fn no_pixels(path: &Path, offset: Option<u64>) -> DataError {
    DataError::damaged(path, offset, "the image has no pixels")
}

fn image_error(path: &Path, offset: Option<u64>, error: ImageError) -> DataError {
    match error {
        ImageError::IoError(error) => content_error(path, offset, error),
        ImageError::Limits(_) => DataError::malformed(
            path,
            offset,
            format!(
                "the image is too large: more than {MAX_SIDE} pixels a side or {MAX_DECODED_BYTES} bytes decoded"
            ),
            "shrink it or remove it",
        ),
        other => DataError::damaged(path, offset, format!("it cannot be decoded ({other})")),
    }
}

/// Pixels of `C` channels and alpha (`WITH_ALPHA` = `C` + 1), straight, laid over white; rounded to nearest.
fn on_white<const WITH_ALPHA: usize, const C: usize>(pixels: &[u8]) -> Vec<u8> {
    let opaque = |pixel: &[u8; WITH_ALPHA]| -> [u8; C] {
        let alpha = u32::from(pixel[C]);
        std::array::from_fn(|channel| {
            ((u32::from(pixel[channel]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        })
    };
    pixels.as_chunks::<WITH_ALPHA>().0.iter().flat_map(opaque).collect()
}
