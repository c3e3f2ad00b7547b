//! A folder of image files of any size: PNG, JPEG, WebP, GIF (its first frame) and BMP.

use crate::bounded::content_error;
use crate::resize::{ResizeFilter, View};
use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, channels};
use engine::ImageShape;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walkdir::WalkDir;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "images",
    form: "images:DIR",
    about: "a folder of PNG, JPEG, WebP, GIF or BMP files, nested folders included",
    takes_path: true,
    takes_split: false,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    Ok(Arc::new(ImageFolder::open(spec.required_path()?, options)?))
}

const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];
const MAX_SIDE: u32 = 1 << 15;
/// Bytes of a decoded image: 89 megapixels of 8-bit RGB.
const MAX_DECODED_BYTES: u64 = 256 << 20;
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The image files below a folder, in the order of their paths. Files are read when their image is.
#[derive(Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    files: Vec<PathBuf>,
    /// Files of other kinds, passed over.
    others: usize,
    shape: ImageShape,
    /// How images get the shape; `None`: they must have it.
    filter: Option<ResizeFilter>,
}

impl ImageFolder {
    /// Lists the images in `folder` (or takes the one image that it is). With a size given, images are cropped to the
    /// square in their middle and resized to it. Without, all must have the size of the first, whose header is read.
    /// Links are followed; files whose names begin with a dot are ignored.
    ///
    /// # Errors
    /// If a folder cannot be listed, there is no image, or the first has to be read and cannot.
    pub fn open(folder: &Path, options: &ImageOptions) -> Result<Self, DataError> {
        options.validate()?;
        let (files, others) = list(folder)?;
        let Some(first) = files.first() else {
            return Err(DataError::Empty {
                origin: folder.display().to_string(),
                remedy: format!("give a folder with {} files", EXTENSIONS.join(", ")),
            });
        };
        let channels = options.channels.unwrap_or(3);
        let (height, width) = match options.size {
            Some(size) => (size, size),
            None => stored_size(first)?,
        };
        Ok(Self {
            folder: folder.into(),
            others,
            shape: ImageShape::new(height, width, channels),
            filter: options.size.map(|_| options.filter),
            files,
        })
    }

    /// The file of every image, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl ImageSource for ImageFolder {
    fn len(&self) -> u64 {
        self.files.len() as u64
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let path = &self.files[check_index(self, index)?];
        let image = Decoded::read(path)?;
        let ImageShape { height, width, channels } = self.shape;
        let view = View::new(&image.pixels, image.width, image.height, image.channels);
        let fitted = match self.filter {
            _ if (image.height, image.width) == (height, width) => image.pixels,
            Some(filter) => view.centre_square().resize(width, height, filter),
            None => {
                let what = format!(
                    "it has {}x{} pixels (height x width), the first image {height}x{width}",
                    image.height, image.width
                );
                return Err(DataError::malformed(
                    path,
                    None,
                    what,
                    "give an image size to crop and resize to",
                ));
            }
        };
        pixels.copy_from_slice(&channels::convert(fitted, image.channels, channels));
        Ok(())
    }

    fn description(&self) -> String {
        let ImageShape { height, width, channels } = self.shape;
        let mut text = format!("{} images from {}", self.files.len(), self.folder.display());
        if self.others > 0 {
            text.push_str(&format!(" ({} other files ignored)", self.others));
        }
        match self.filter {
            Some(filter) => text
                .push_str(&format!(", centre-cropped to square and resized to {height}x{width} ({filter})")),
            None => text.push_str(&format!(", {height}x{width} each")),
        }
        text.push_str(match channels {
            1 => ", RGB reduced to gray (BT.601 luma)",
            _ => ", gray expanded to RGB",
        });
        text.push_str(", transparency composited on white, 16 bits reduced to 8, EXIF orientation applied");
        text
    }
}

/// The image files below `folder`, sorted folder by folder, and the number of other files.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, usize), DataError> {
    let mut files = Vec::new();
    let mut others = 0;
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_path_buf();
            let what = error.to_string();
            DataError::io(
                path,
                "listed",
                error.into_io_error().unwrap_or_else(|| std::io::Error::other(what)),
            )
        })?;
        if !entry.file_type().is_file() || is_hidden(&entry) {
            continue;
        }
        if has_image_extension(entry.path()) {
            files.push(entry.into_path());
        } else {
            others += 1;
        }
    }
    Ok((files, others))
}

/// Other systems leave such files (`._photo.jpg`) beside images, with the images' extension.
fn is_hidden(entry: &walkdir::DirEntry) -> bool {
    entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn has_image_extension(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// A file's decoder and how its image is to be turned.
fn open_decoder(path: &Path) -> Result<(impl ImageDecoder, Orientation), DataError> {
    let file = File::open(path).map_err(|e| DataError::io(path, "opened", e))?;
    let len = file.metadata().map_err(|e| DataError::io(path, "opened", e))?.len();
    if len > MAX_FILE_BYTES {
        let what = format!("a file of {len} bytes is larger than the {MAX_FILE_BYTES} accepted");
        return Err(DataError::malformed(path, None, what, "shrink the image or remove it"));
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(|e| DataError::io(path, "read", e))?;
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|e| image_error(path, e))?;
    // Decoders keep to the limit in what they allocate themselves; the image's own buffer is not theirs.
    limits.reserve(decoder.total_bytes()).map_err(|e| image_error(path, e))?;
    // A damaged orientation tag is no reason to refuse an image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

fn image_error(path: &Path, error: ImageError) -> DataError {
    match error {
        ImageError::IoError(error) => content_error(path, None, error),
        ImageError::Limits(_) => DataError::malformed(
            path,
            None,
            format!(
                "the image is too large: more than {MAX_SIDE} pixels a side or {MAX_DECODED_BYTES} bytes decoded"
            ),
            "shrink it or remove it",
        ),
        other => DataError::damaged(path, None, format!("it cannot be decoded ({other})")),
    }
}

/// (height, width) of the upright image.
fn stored_size(path: &Path) -> Result<(usize, usize), DataError> {
    let (decoder, orientation) = open_decoder(path)?;
    let (width, height) = decoder.dimensions();
    let turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (height, width) = if turned { (width, height) } else { (height, width) };
    Ok((height as usize, width as usize))
}

/// A whole image, upright, 8 bits a channel, gray or RGB, opaque.
struct Decoded {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
    channels: usize,
}

impl Decoded {
    fn read(path: &Path) -> Result<Self, DataError> {
        let (decoder, orientation) = open_decoder(path)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(|e| image_error(path, e))?;
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return Err(DataError::damaged(path, None, "the image has no pixels"));
        }
        let color = image.color();
        let (pixels, channels) = match (color.has_color(), color.has_alpha()) {
            (false, false) => (image.into_luma8().into_raw(), 1),
            (false, true) => (on_white::<2, 1>(&image.into_luma_alpha8().into_raw()), 1),
            (true, false) => (image.into_rgb8().into_raw(), 3),
            (true, true) => (on_white::<4, 3>(&image.into_rgba8().into_raw()), 3),
        };
        Ok(Self { pixels, width, height, channels })
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
