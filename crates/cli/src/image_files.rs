//! Image files: one that is read, and a folder of images that appear one by one, each whole.

use crate::failure::Failure;
use data::{DataError, ImageOptions, ImageSource, image_folder, whole_files};
use engine::ImageShape;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use train::grid::{self, Picture};

/// A folder being filled with numbered images.
#[derive(Debug)]
pub struct ImageFolder {
    path: PathBuf,
    digits: usize,
}

impl ImageFolder {
    /// Checks that `path` is an empty folder, or that nothing is there.
    ///
    /// # Errors
    /// If it is a file, or has something in it that would get lost among the images.
    pub fn check_vacant(path: &Path) -> Result<(), Failure> {
        let refuse = |problem: &str| {
            Err(Failure::input(format!("{}: {problem}; choose another --out, or remove it", path.display())))
        };
        match std::fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => refuse("the folder is not empty"),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                refuse("is a file, or lies in one, where a folder for the images is needed")
            }
            Err(error) => Err(Failure::input(format!("{}: {error}; choose another --out", path.display()))),
        }
    }

    /// Makes the folder, for `count` images.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path, count: usize) -> Result<Self, Failure> {
        std::fs::create_dir_all(path).map_err(|error| {
            Failure::input(format!(
                "{}: cannot make the folder: {error}; choose another --out",
                path.display()
            ))
        })?;
        let digits = count.saturating_sub(1).to_string().len().max(6);
        Ok(Self { path: path.to_owned(), digits })
    }

    /// Where image number `index` is or will be.
    pub fn image_path(&self, index: usize) -> PathBuf {
        self.path.join(self.image_name(index))
    }

    /// Whether image number `index` is there.
    pub fn has_image(&self, index: usize) -> bool {
        self.image_path(index).is_file()
    }

    fn image_name(&self, index: usize) -> String {
        format!("{index:0digits$}.png", digits = self.digits)
    }

    /// Writes the images from number `first` on, whose `pixels` lie one after the other, as bytes of height,
    /// width and channels. Together they come to the disk in a fraction of the time that one by one they
    /// would take.
    ///
    /// # Errors
    /// If one cannot be written; nothing is then under its name, and of the others any may be there.
    pub fn write_images(&self, first: usize, pixels: &[u8], shape: ImageShape) -> Result<(), Failure> {
        let images = (first..).zip(pixels.chunks_exact(shape.len()));
        let files = images.map(|(index, pixels)| {
            Ok((self.image_path(index), grid::png(pixels, shape).map_err(Failure::work)?))
        });
        whole_files::write_all(&files.collect::<Result<Vec<_>, Failure>>()?).map_err(Failure::work)
    }

    /// Writes image number `index`.
    ///
    /// # Errors
    /// If it cannot be written; nothing is then under its name.
    pub fn write_image(&self, index: usize, pixels: &[u8], shape: ImageShape) -> Result<(), Failure> {
        let bytes = grid::png(pixels, shape).map_err(Failure::work)?;
        self.write(&self.image_name(index), &bytes)
    }

    /// Writes a picture under another name.
    ///
    /// # Errors
    /// If it cannot be written; nothing is then under its name.
    pub fn write_picture(&self, name: &str, picture: &Picture) -> Result<(), Failure> {
        self.write(name, &picture.to_png().map_err(Failure::work)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        write_whole(&self.path.join(name), bytes)
    }
}

/// The image in a file: its shape and pixels.
///
/// # Errors
/// If it is a folder, is not there, or cannot be decoded.
pub fn read_image(path: &Path, options: &ImageOptions) -> Result<(ImageShape, Vec<u8>), DataError> {
    if path.is_dir() {
        return Err(DataError::Empty {
            origin: path.display().to_string(),
            remedy: "it is a folder: give an image file".into(),
        });
    }
    let source = image_folder::ImageFolder::open(path, options)?;
    let mut pixels = vec![0; source.shape().len()];
    source.read(0, &mut pixels)?;
    Ok((source.shape(), pixels))
}

/// Checks, before the work that fills it, that a file can be written at `path`, and makes the folder that it
/// belongs in.
///
/// # Errors
/// If a folder is there, or the folder it belongs in cannot be made. `option` is the path's, for messages.
pub fn check_file_place(path: &Path, option: &str) -> Result<(), Failure> {
    let refuse = |problem: &str| {
        Err(Failure::input(format!("{}: {problem}; give another path by {option}", path.display())))
    };
    if path.is_dir() {
        return refuse("is a folder, where a file is to be written");
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()).map(std::fs::create_dir_all) {
        Some(Err(error)) => refuse(&format!("cannot make the folder that it belongs in: {error}")),
        _ => Ok(()),
    }
}

/// Writes a file that appears under its name when it is whole and on the disk.
///
/// # Errors
/// If it cannot be written; what was there before is then still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    whole_files::write(path, bytes).map_err(Failure::work)
}
