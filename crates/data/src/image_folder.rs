//! A folder of image files of any size: PNG, JPEG, WebP, GIF (its first frame) and BMP.

use crate::fitted::{Fit, Place};
use crate::picture::{self, DECODING, EXTENSIONS, MAX_FILE_BYTES, Picture};
use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec};
use engine::ImageShape;
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
        let fit = Fit::new(options, Some(3), || {
            let (height, width) = picture::stored_size(open_file(first)?, first)?;
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
