//! Writing data sets: any source as a folder of images, tar shards, TFRecords, an LMDB database or a NumPy archive.
//!
//! What is being written lies in `NAME.unfinished` until it is whole, and only then gets its name. Opened
//! again for the same content, it goes on where it stopped.

mod folder;
mod lmdb;
mod npz;
mod spool;
mod tar;
mod tfrecord;

pub use npz::write_npz;

use crate::{DataError, ImageSource, SourceSpec, whole_files};
use engine::ImageShape;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Images read and encoded at a time, in parallel.
const CHUNK: u64 = 64;

/// An image to be written.
struct Item<'a> {
    /// Its number.
    index: u64,
    /// Its pixels, interleaved.
    pixels: &'a [u8],
    shape: ImageShape,
    label: Option<u32>,
}

/// A format being written.
trait Writer {
    /// Images that are in it already.
    fn written(&self) -> u64;

    /// What is kept of an image; called on many threads.
    fn encode(&self, item: &Item<'_>) -> Result<Vec<u8>, DataError>;

    /// Adds the next image, as encoded.
    fn push(&mut self, item: &Item<'_>, encoded: Vec<u8>) -> Result<(), DataError>;

    /// Sees to it that what was added survives the program's end; called after every few images.
    fn flush(&mut self) -> Result<(), DataError>;

    /// Completes what lies in `NAME.unfinished`; `source` is asked for labels.
    fn finish(self: Box<Self>, source: &dyn ImageSource) -> Result<(), DataError>;
}

/// Opens a writer at the unfinished path, for this many images of this shape, where it stopped.
type OpenWriter = fn(&Path, u64, ImageShape) -> Result<Box<dyn Writer + Send + Sync>, DataError>;

/// The kinds that can be written, by the names of their sources.
const WRITERS: [(&str, OpenWriter); 5] = [
    ("images", folder::open),
    ("tar", tar::open),
    ("tfrecord", tfrecord::open),
    ("lmdb", lmdb::open),
    ("npz", npz::open),
];

/// The names of the kinds of sources that can be written.
pub fn writable_kinds() -> impl Iterator<Item = &'static str> {
    WRITERS.iter().map(|(name, _)| *name)
}

/// A conversion, driven a few images at a time.
pub struct Conversion {
    writer: Box<dyn Writer + Send + Sync>,
    target: PathBuf,
    unfinished: PathBuf,
    record: PathBuf,
    len: u64,
}

impl Conversion {
    /// Prepares to write all images of `source` to `target`, or goes on with what an earlier conversion of the same
    /// source to it left unfinished.
    ///
    /// # Errors
    /// [`DataError::Option`] if something has the target's name already, the unfinished content is of another
    /// source, or the kind cannot be written; [`DataError::Io`] if the place cannot be written to.
    pub fn open(source: &dyn ImageSource, target: &SourceSpec) -> Result<Self, DataError> {
        let name = target.kind().name;
        let Some((_, open)) = WRITERS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<String> = WRITERS.iter().map(|(name, _)| format!("{name}:PATH")).collect();
            return Err(option(format!("{name} cannot be written"), format!("give {}", known.join(", "))));
        };
        let path = target.required_path()?;
        if path.exists() {
            let what = format!("{} exists already", path.display());
            return Err(option(what, "choose another place, or remove it"));
        }
        let (unfinished, record) = (with_suffix(path, ".unfinished"), with_suffix(path, ".unfinished.txt"));
        let content = format!("{name}: {}\n", source.description());
        match std::fs::read(&record) {
            Ok(found) if found != content.as_bytes() => {
                let what =
                    format!("{} holds the unfinished conversion of something else", unfinished.display());
                return Err(option(
                    what,
                    format!("remove it and {}, or choose another place", record.display()),
                ));
            }
            Ok(_) => {}
            Err(_) if unfinished.exists() => {
                let what = format!("{} is there, and nothing says what is in it", unfinished.display());
                return Err(option(what, "remove it, or choose another place"));
            }
            Err(_) => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|e| DataError::io(parent, "made", e))?;
                }
                whole_files::write(&record, content.as_bytes())?;
            }
        }
        let writer = open(&unfinished, source.len(), source.shape())?;
        Ok(Self { writer, target: path.into(), unfinished, record, len: source.len() })
    }

    /// Images written.
    pub fn written(&self) -> u64 {
        self.writer.written()
    }

    /// Images to be written in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the next few images; tells whether any are left.
    ///
    /// # Errors
    /// What reading an image met with, or [`DataError::Io`] for a full disk. What was written before stays;
    /// if nothing was, nothing is left.
    pub fn step(&mut self, source: &dyn ImageSource) -> Result<bool, DataError> {
        let (start, shape) = (self.writer.written(), source.shape());
        let writer = &self.writer;
        let encoded = (start..self.len.min(start + CHUNK)).into_par_iter().map(|index| {
            let mut pixels = vec![0; shape.len()];
            source.read(index, &mut pixels)?;
            let label = source.label(index);
            let encoded = writer.encode(&Item { index, pixels: &pixels, shape, label })?;
            Ok((index, pixels, label, encoded))
        });
        let encoded = encoded.collect::<Result<Vec<_>, DataError>>().inspect_err(|_| {
            if start == 0 {
                self.discard();
            }
        })?;
        for (index, pixels, label, encoded) in encoded {
            self.writer.push(&Item { index, pixels: &pixels, shape, label }, encoded)?;
        }
        self.writer.flush()?;
        Ok(self.writer.written() < self.len)
    }

    /// Takes away what lies at the unfinished places, where no image has been written: a source that cannot
    /// be converted leaves nothing that would be in the way of another try.
    fn discard(&self) {
        for path in [&self.unfinished, &npz::pixels_path(&self.unfinished), &self.record] {
            // What cannot be removed is named when the next conversion finds it.
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }

    /// Completes the data set and gives it its name.
    ///
    /// # Errors
    /// [`DataError::Io`] for a full disk; finishing can be tried again by a new conversion.
    pub fn finish(self, source: &dyn ImageSource) -> Result<(), DataError> {
        let Self { writer, target, unfinished, record, .. } = self;
        writer.finish(source)?;
        std::fs::rename(&unfinished, &target).map_err(|e| DataError::io(&target, "written", e))?;
        std::fs::remove_file(&record).map_err(|e| DataError::io(&record, "removed", e))
    }
}

fn option(what: impl Into<String>, remedy: impl Into<String>) -> DataError {
    DataError::Option { option: "the data set to write", what: what.into(), remedy: remedy.into() }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// An image as a PNG file.
fn png(item: &Item<'_>) -> Result<Vec<u8>, DataError> {
    let ImageShape { height, width, channels } = item.shape;
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::new();
    // Sizes come from sources, which keep them within a PNG's.
    PngEncoder::new(&mut bytes).write_image(item.pixels, width as u32, height as u32, color).map_err(
        |error| option(format!("image {} cannot be a PNG: {error}", item.index), "choose another size"),
    )?;
    Ok(bytes)
}
