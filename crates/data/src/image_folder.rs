//! A folder of image files of any size: PNG, JPEG, WebP, GIF (its first frame) and BMP.

use crate::fitted::{Fit, Place};
use crate::picture::{self, DECODING, EXTENSIONS, MAX_FILE_BYTES, Picture};
use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec};
use engine::ImageShape;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
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

/// The picture of all images that `ddpm sample` adds to a folder of samples, and the file that says what they
/// are: where both lie together, the picture is none of the folder's images.
pub const OVERVIEW: &str = "grid.png";
/// See [`OVERVIEW`].
pub const SAMPLES_RECORD: &str = "samples.json";

/// The image files below a folder, in the order of their paths. Files are read when their image is.
#[derive(Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    files: Vec<PathBuf>,
    /// Files of other kinds, passed over.
    others: usize,
    fit: Fit,
}

impl ImageFolder {
    /// Lists the images in `folder` (or takes the one image that it is). With a size given, images are
    /// cropped to the square in their middle and resized to it. Without, all must have the size of the first
    /// whose header can be read. Links are followed; files and folders whose names begin with a dot are
    /// ignored, and so is an [`OVERVIEW`].
    ///
    /// # Errors
    /// If a folder cannot be listed, a link leads nowhere, there is no image, or a size has to be read and none can.
    pub fn open(folder: &Path, options: &ImageOptions) -> Result<Self, DataError> {
        options.validate()?;
        let (files, others) = list(folder)?;
        let Some(first) = files.first() else {
            return Err(DataError::Empty {
                origin: folder.display().to_string(),
                remedy: format!("give a folder with {} files", EXTENSIONS.join(", ")),
            });
        };
        let fit = Fit::new(options, Some(3), || {
            // A file that cannot be read is refused when its image is, or passed over by those who may.
            let size_of = |path: &PathBuf| picture::stored_size(open_file(path)?, path);
            let (height, width) = size_of(first)
                .or_else(|error| files.iter().skip(1).find_map(|path| size_of(path).ok()).ok_or(error))?;
            Ok(ImageShape::new(height, width, 3))
        })?;
        Ok(Self { folder: folder.into(), others, fit, files })
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
        self.fit.shape()
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let path = &self.files[check_index(self, index)?];
        let picture = Picture::read(open_file(path)?, path, None)?;
        self.fit.write(picture, || Place { path: path.into(), offset: None }, pixels)
    }

    fn read_as_stored(&self, index: u64) -> Result<(ImageShape, Vec<u8>), DataError> {
        let path = &self.files[check_index(self, index)?];
        Ok(self.fit.as_stored(Picture::read(open_file(path)?, path, None)?))
    }

    fn description(&self) -> String {
        let mut text = format!("{} images from {}", self.files.len(), self.folder.display());
        if self.others > 0 {
            text.push_str(&format!(" ({} other files ignored)", self.others));
        }
        format!("{text}, {}, {DECODING}", self.fit.describe())
    }
}

/// The image files below `folder`, sorted folder by folder, and the number of other files.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, usize), DataError> {
    let mut files = Vec::new();
    let mut others = 0;
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name();
    for entry in walk.into_iter().filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.path())) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if is_harmless(&error) => {
                others += 1;
                continue;
            }
            Err(error) => return Err(not_listed(folder, error)),
        };
        if !entry.file_type().is_file() {
            continue;
        }
        let is_overview = entry.depth() > 0 && is_overview(entry.path());
        if has_image_extension(entry.path()) && !is_overview {
            files.push(entry.into_path());
        } else {
            others += 1;
        }
    }
    Ok((files, others))
}

/// Other systems leave such files (`._photo.jpg`) and folders (`.thumbnails`) beside images, with the images'
/// extension.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_overview(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == OVERVIEW) && path.with_file_name(SAMPLES_RECORD).is_file()
}

/// A link to a folder that it lies in, which is listed anyway; or a link that leads nowhere and is not called
/// an image (editors lock files by such).
fn is_harmless(error: &walkdir::Error) -> bool {
    let leads_nowhere = error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound);
    let is_ignored = error.path().is_some_and(|path| is_hidden(path) || !has_image_extension(path));
    error.loop_ancestor().is_some() || error.depth() > 0 && leads_nowhere && is_ignored
}

fn not_listed(folder: &Path, error: walkdir::Error) -> DataError {
    let path = error.path().unwrap_or(folder).to_path_buf();
    let (depth, what) = (error.depth(), error.to_string());
    match error.into_io_error() {
        Some(error) if depth > 0 && error.kind() == ErrorKind::NotFound => {
            DataError::malformed(path, None, "it is a link that leads nowhere", "mend or remove it")
        }
        error => DataError::io(path, "listed", error.unwrap_or_else(|| std::io::Error::other(what))),
    }
}

pub(crate) fn has_image_extension(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

fn open_file(path: &Path) -> Result<BufReader<File>, DataError> {
    let file = File::open(path).map_err(|e| DataError::io(path, "opened", e))?;
    let len = file.metadata().map_err(|e| DataError::io(path, "opened", e))?.len();
    if len > MAX_FILE_BYTES {
        let what = format!("a file of {len} bytes is larger than the {MAX_FILE_BYTES} accepted");
        return Err(DataError::malformed(path, None, what, "shrink the image or remove it"));
    }
    Ok(BufReader::new(file))
}
