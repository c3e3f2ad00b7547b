//! CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009): 32×32 RGB in ten classes,
//! as binary batches or Python pickles, unpacked or in the `.tar.gz` they are published in.

mod python_batch;

use crate::bounded::{content_error, open_unpacked, read_all};
use crate::error::member_path;
use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, Split, converted};
use engine::ImageShape;
use python_batch::PythonBatch;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "cifar10",
    form: "cifar10:DIR[:train|:test]",
    about: "CIFAR-10: the binary or the Python version, unpacked or as .tar.gz",
    takes_path: true,
    takes_split: true,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    let source = Cifar10::open(spec.required_path()?, spec.split())?;
    Ok(converted::convert(Arc::new(source), options))
}

const SHAPE: ImageShape = ImageShape::new(32, 32, 3);
const PLANE: usize = 32 * 32;
const IMAGE: usize = 3 * PLANE;
/// A record of the binary version: the label, then the red, green and blue planes.
const RECORD: usize = 1 + IMAGE;
const CLASSES: u8 = 10;
/// A batch as published has 31 MB in either version.
const MAX_BATCH_BYTES: u64 = 128 << 20;
/// An archive as published has 186 MB in either version.
const MAX_ARCHIVE_BYTES: u64 = 1 << 30;

const FOLDERS: [&str; 2] = ["cifar-10-batches-bin", "cifar-10-batches-py"];
const ARCHIVES: [&str; 2] = ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"];
const REMEDY: &str =
    "get cifar-10-binary.tar.gz or cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html";

/// How a batch is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    Binary,
    Python,
}

impl Version {
    fn suffix(self) -> &'static str {
        match self {
            Self::Binary => ".bin",
            Self::Python => "",
        }
    }
}

/// The images and labels of one file.
#[derive(Debug, Default)]
struct CifarBatch {
    /// [`IMAGE`] bytes an image, NHWC.
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// A split of CIFAR-10, held in memory (154 MB for the 50,000 training images).
#[derive(Debug)]
pub struct Cifar10 {
    batches: Vec<CifarBatch>,
    origin: PathBuf,
    version: Version,
    split: Split,
}

impl Cifar10 {
    /// Opens the data set in `path`: a folder with the batches or the archive in it or in their usual subfolder,
    /// or an archive itself. Where there are several, the order is: binary batches, pickles, binary archive,
    /// Python archive.
    ///
    /// # Errors
    /// If files are missing, unreadable, truncated or not what they should be.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        if path.is_file() {
            return Self::open_archive(path, split);
        }
        if !path.is_dir() {
            return Err(DataError::Missing {
                path: path.into(),
                what: "there is no such folder or archive".into(),
                remedy: format!("the form is {}; `ddpm data fetch cifar10` gets the data set", KIND.form),
            });
        }
        let folders = [path.to_path_buf(), path.join(FOLDERS[0]), path.join(FOLDERS[1])];
        for version in [Version::Binary, Version::Python] {
            let first = format!("{}{}", batch_names(split)[0], version.suffix());
            if let Some(folder) = folders.iter().find(|folder| folder.join(&first).is_file()) {
                return Self::open_folder(folder, version, split);
            }
        }
        match ARCHIVES.iter().map(|name| path.join(name)).find(|archive| archive.is_file()) {
            Some(archive) => Self::open_archive(&archive, split),
            None => Err(DataError::Missing {
                path: path.into(),
                what: format!("neither CIFAR-10's {split} batches nor its archive are there"),
                remedy: REMEDY.into(),
            }),
        }
    }

    fn open_folder(folder: &Path, version: Version, split: Split) -> Result<Self, DataError> {
        let mut batches = Vec::new();
        for name in batch_names(split) {
            let path = folder.join(format!("{name}{}", version.suffix()));
            if !path.exists() {
                return Err(missing_batch(path));
            }
            let content = read_all(&mut open_unpacked(&path, MAX_BATCH_BYTES)?, &path)?;
            batches.push(read_batch(&content, version, &path)?);
        }
        Self::new(batches, folder, version, split)
    }

    fn open_archive(archive: &Path, split: Split) -> Result<Self, DataError> {
        let names = batch_names(split);
        let mut found = BTreeMap::new();
        let mut tar = tar::Archive::new(open_unpacked(archive, MAX_ARCHIVE_BYTES)?);
        let archive_error = |error| content_error(archive, None, error);
        // Raw: extension headers (long names and the like) are passed over instead of being kept in memory.
        for entry in tar.entries().map_err(archive_error)?.raw(true) {
            let mut entry = entry.map_err(archive_error)?;
            let Some((number, version)) = recognise(&entry.path_bytes(), &names) else { continue };
            let member = member_path(archive, &String::from_utf8_lossy(&entry.path_bytes()));
            if entry.size() > MAX_BATCH_BYTES {
                let what = format!("a batch of {} bytes is far too large", entry.size());
                return Err(DataError::damaged(member, None, what));
            }
            let size = entry.size();
            let content = read_all(&mut entry, &member)?;
            if content.len() as u64 != size {
                return Err(DataError::damaged(
                    member,
                    content.len() as u64,
                    "the archive ends in the middle of it",
                ));
            }
            found.insert(number, (version, read_batch(&content, version, &member)?));
        }
        // The checksum stands at gzip's end.
        io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(archive_error)?;

        let mut batches = Vec::new();
        let mut versions = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let (version, batch) = found.remove(&number).ok_or_else(|| missing_batch(archive.join(name)))?;
            versions.push(version);
            batches.push(batch);
        }
        Self::new(batches, archive, versions[0], split)
    }

    fn new(
        batches: Vec<CifarBatch>,
        origin: &Path,
        version: Version,
        split: Split,
    ) -> Result<Self, DataError> {
        if batches.iter().all(|batch| batch.labels.is_empty()) {
            return Err(DataError::Empty { origin: origin.display().to_string(), remedy: REMEDY.into() });
        }
        Ok(Self { batches, origin: origin.into(), version, split })
    }

    /// The batch that image `index` is in, and its number there.
    fn locate(&self, index: usize) -> Option<(&CifarBatch, usize)> {
        let mut rest = index;
        for batch in &self.batches {
            match rest.checked_sub(batch.labels.len()) {
                Some(left) => rest = left,
                None => return Some((batch, rest)),
            }
        }
        None
    }
}

impl ImageSource for Cifar10 {
    fn len(&self) -> u64 {
        self.batches.iter().map(|batch| batch.labels.len() as u64).sum()
    }

    fn shape(&self) -> ImageShape {
        SHAPE
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let number = check_index(self, index)?;
        if let Some((batch, number)) = self.locate(number) {
            pixels.copy_from_slice(&batch.pixels[number * IMAGE..][..IMAGE]);
        }
        Ok(())
    }

    fn label(&self, index: u64) -> Option<u32> {
        let (batch, number) = self.locate(usize::try_from(index).ok()?)?;
        Some(batch.labels[number].into())
    }

    fn description(&self) -> String {
        let version = match self.version {
            Version::Binary => "binary",
            Version::Python => "Python",
        };
        let (split, len, origin) = (self.split, self.len(), self.origin.display());
        format!("CIFAR-10 {split}, {version} version: {len} images {SHAPE} from {origin}")
    }
}

fn batch_names(split: Split) -> Vec<String> {
    match split {
        Split::Train => (1..=5).map(|number| format!("data_batch_{number}")).collect(),
        Split::Test => vec!["test_batch".into()],
    }
}

fn missing_batch(path: PathBuf) -> DataError {
    DataError::Missing { path, what: "this batch of CIFAR-10 is missing".into(), remedy: REMEDY.into() }
}

/// Whether an archive's member is one of the batches `names`: its number among them, and its version.
fn recognise(member: &[u8], names: &[String]) -> Option<(usize, Version)> {
    let file = member.rsplit(|&byte| byte == b'/').next()?;
    for version in [Version::Binary, Version::Python] {
        let stem = file.strip_suffix(version.suffix().as_bytes());
        if let Some(number) = stem.and_then(|stem| names.iter().position(|name| name.as_bytes() == stem)) {
            return Some((number, version));
        }
    }
    None
}

fn read_batch(content: &[u8], version: Version, path: &Path) -> Result<CifarBatch, DataError> {
    match version {
        Version::Binary => read_binary(content, path),
        Version::Python => read_python(content, path),
    }
}

fn read_binary(content: &[u8], path: &Path) -> Result<CifarBatch, DataError> {
    let (records, rest) = content.as_chunks::<RECORD>();
    if !rest.is_empty() {
        let what = format!("the last record has {} of {RECORD} bytes", rest.len());
        return Err(DataError::damaged(path, (records.len() * RECORD) as u64, what));
    }
    let mut batch =
        CifarBatch { pixels: vec![0; records.len() * IMAGE], labels: Vec::with_capacity(records.len()) };
    let (images, _) = batch.pixels.as_chunks_mut::<IMAGE>();
    for (number, ([label, planes @ ..], image)) in records.iter().zip(images).enumerate() {
        if *label >= CLASSES {
            let what = format!("label {label} of record {number} is not a class (0 to 9)");
            return Err(DataError::damaged(path, (number * RECORD) as u64, what));
        }
        batch.labels.push(*label);
        interleave(image, |element| planes[element]);
    }
    Ok(batch)
}

fn read_python(content: &[u8], path: &Path) -> Result<CifarBatch, DataError> {
    let PythonBatch { data, labels } = python_batch::read(content, path)?;
    let offset = data.offset as u64;
    if data.columns != IMAGE || labels.len() != data.rows {
        let what = format!(
            "`data` is {} x {} with {} labels instead of n x {IMAGE} with n",
            data.rows,
            data.columns,
            labels.len()
        );
        return Err(DataError::damaged(path, offset, what));
    }
    let class = |label: &i64| match u8::try_from(*label) {
        Ok(class) if class < CLASSES => Ok(class),
        _ => Err(DataError::damaged(path, None, format!("label {label} is not a class (0 to 9)"))),
    };
    let mut batch = CifarBatch {
        pixels: vec![0; data.bytes.len()],
        labels: labels.iter().map(class).collect::<Result<_, _>>()?,
    };
    let (row_step, column_step) = if data.fortran_order { (1, data.rows) } else { (data.columns, 1) };
    for (row, image) in batch.pixels.as_chunks_mut::<IMAGE>().0.iter_mut().enumerate() {
        interleave(image, |element| data.bytes[row * row_step + element * column_step]);
    }
    Ok(batch)
}

/// From planes (CHW, read through `planar`) to pixels (HWC).
fn interleave(image: &mut [u8; IMAGE], planar: impl Fn(usize) -> u8) {
    for (pixel, rgb) in image.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        *rgb = [planar(pixel), planar(PLANE + pixel), planar(2 * PLANE + pixel)];
    }
}
