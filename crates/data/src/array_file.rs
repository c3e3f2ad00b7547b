//! NumPy arrays of images: `.npy`, and `.npz` as openai's evaluator and `ddpm sample` have it.

use crate::bounded::content_error;
use crate::error::member_path;
use crate::fitted::{self, PictureSet, Place};
use crate::image_layout::ImageLayout;
use crate::picture::Picture;
use crate::positioned::{FileCursor, PositionedFile};
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec};
use flate2::Crc;
use numpy::{Element, Header, NumpyError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zip::{CompressionMethod, ZipArchive};

pub(crate) static NPZ: SourceKind = SourceKind {
    name: "npz",
    form: "npz:FILE",
    about: "a NumPy archive with an array of images (arr_0 or images), 8 bits a channel; labels in labels, y or arr_1",
    takes_path: true,
    takes_split: false,
    open: |spec, options| open(spec, options, open_npz),
};

pub(crate) static NPY: SourceKind = SourceKind {
    name: "npy",
    form: "npy:FILE",
    about: "a NumPy array of images, 8 bits a channel, [n, height, width, channels] or [n, channels, height, width]",
    takes_path: true,
    takes_split: false,
    open: |spec, options| open(spec, options, open_npy),
};

fn open(
    spec: &SourceSpec,
    options: &ImageOptions,
    read: fn(&Path) -> Result<ArrayImages, DataError>,
) -> Result<Arc<dyn ImageSource>, DataError> {
    fitted::open(read(spec.required_path()?)?, options, None)
}

/// Where the images' array is looked for, in this order, before the only array that could be it.
const IMAGE_NAMES: [&str; 5] = ["arr_0", "images", "x_train", "data", "samples"];
const LABEL_NAMES: [&str; 5] = ["labels", "y", "y_train", "label", "arr_1"];
/// Bytes read at a time to check a checksum.
const CRC_CHUNK: u64 = 1 << 18;
const REMEDY: &str =
    "save images as uint8 of shape [n, height, width, 3], [n, 3, height, width] or, gray, [n, height, width]";
/// An array whose images are read when they are asked for.
#[derive(Debug)]
struct ArrayImages {
    file: Arc<PositionedFile>,
    /// The file as given, or the array's name inside it.
    origin: PathBuf,
    start: u64,
    layout: ImageLayout,
    labels: Option<Vec<u32>>,
    /// Of an archive's member that is read where it lies, past the archive's reader, which would check it.
    stored: Option<StoredMember>,
}

/// A member of an archive that is not compressed.
#[derive(Clone, Copy, Debug)]
struct StoredMember {
    start: u64,
    len: u64,
    crc32: u32,
}

impl PictureSet for ArrayImages {
    fn len(&self) -> u64 {
        self.layout.count as u64
    }

    fn picture(&self, index: u64) -> Result<Picture, DataError> {
        let mut bytes = vec![0; self.layout.image_len()];
        self.file.read_exact_at(self.offset(index), &mut bytes)?;
        Ok(self.layout.picture(bytes))
    }

    fn place(&self, index: u64) -> Place<'_> {
        Place { path: self.origin.as_path().into(), offset: Some(self.offset(index)) }
    }

    fn verify_checksums(&self) -> Result<(), DataError> {
        let Some(StoredMember { start, len, crc32 }) = self.stored else { return Ok(()) };
        let mut crc = Crc::new();
        let mut buffer = vec![0; CRC_CHUNK.min(len) as usize];
        let mut done = 0;
        while done < len {
            let part = &mut buffer[..CRC_CHUNK.min(len - done) as usize];
            self.file.read_exact_at(start + done, part)?;
            crc.update(part);
            done += part.len() as u64;
        }
        if crc.sum() != crc32 {
            let what =
                format!("the CRC of its content is {:08x}, not {crc32:08x} as the archive says", crc.sum());
            return Err(DataError::damaged(&self.origin, None, what));
        }
        Ok(())
    }

    fn label(&self, index: u64) -> Option<u32> {
        self.labels.as_ref()?.get(index as usize).copied()
    }

    fn description(&self) -> String {
        let order = if self.layout.planar { "NCHW" } else { "NHWC" };
        format!("{} images from the array {} ({order})", self.layout.count, self.origin.display())
    }
}

impl ArrayImages {
    fn offset(&self, index: u64) -> u64 {
        self.start + index * self.layout.image_len() as u64
    }

    /// `len` bytes of array at `start` in `file`, header included.
    fn new(file: Arc<PositionedFile>, origin: &Path, start: u64, len: u64) -> Result<Self, DataError> {
        let head = FileCursor::new(file.clone(), start).take(len);
        let (header, header_len) = Header::read(head, origin).map_err(numpy_error)?;
        let layout = image_layout(&header)
            .ok_or_else(|| DataError::malformed(origin, start, not_images(&header), REMEDY))?;
        let start = start + header_len;
        let stored = len.saturating_sub(header_len);
        if header.bytes() != Some(stored) {
            let what = format!("{stored} bytes of pixels do not fill the shape {:?}", header.shape);
            return Err(DataError::damaged(origin, start, what));
        }
        Ok(Self { file, origin: origin.into(), start, layout, labels: None, stored: None })
    }
}

fn image_layout(header: &Header) -> Option<ImageLayout> {
    ImageLayout::of(&header.shape).filter(|_| header.element == Element::U8 && !header.fortran_order)
}

fn not_images(header: &Header) -> String {
    let order = if header.fortran_order { ", in Fortran order," } else { "" };
    let element = header.element.descr();
    format!("an array of `{element}` of shape {:?}{order} is no set of 8-bit images", header.shape)
}

fn numpy_error(error: NumpyError) -> DataError {
    match error {
        NumpyError::Read { path, source } => DataError::io(path, "read", source),
        NumpyError::Format { path, offset, reason } => DataError::malformed(path, offset, reason, REMEDY),
        NumpyError::Archive { ref path, .. } | NumpyError::Missing { ref path, .. } => {
            DataError::damaged(path, None, error.to_string())
        }
    }
}

fn open_npy(path: &Path) -> Result<ArrayImages, DataError> {
    let file = Arc::new(PositionedFile::open(path)?);
    let len = file.len();
    ArrayImages::new(file, path, 0, len)
}

fn open_npz(path: &Path) -> Result<ArrayImages, DataError> {
    let file = Arc::new(PositionedFile::open(path)?);
    let damaged = |error: zip::result::ZipError| {
        DataError::malformed(path, None, error.to_string(), "write it with numpy.savez")
    };
    let mut archive = ZipArchive::new(FileCursor::new(file.clone(), 0)).map_err(damaged)?;
    // (name without .npy, number in the archive, header, its length)
    let mut arrays = Vec::new();
    for number in 0..archive.len() {
        let entry = archive.by_index(number).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        // An array of other numbers than are read anywhere is none of images.
        let Ok((header, header_len)) = Header::read(entry, &member_path(path, &name)) else { continue };
        arrays.push((name, number, header, header_len));
    }
    let images = arrays.iter().filter(|(_, _, header, _)| image_layout(header).is_some());
    let named = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
    let best = images.clone().min_by_key(|(name, ..)| named(&IMAGE_NAMES, name).unwrap_or(usize::MAX));
    let known = best.filter(|(name, ..)| named(&IMAGE_NAMES, name).is_some() || images.count() == 1);
    let Some((name, number, header, header_len)) = known else {
        let found: Vec<String> =
            arrays.iter().map(|(name, _, h, _)| format!("{name} {:?}", h.shape)).collect();
        let what = format!("no array of images is called arr_0 or images; there is {}", found.join(", "));
        return Err(DataError::malformed(path, None, what, REMEDY));
    };
    let origin = member_path(path, name);
    let mut set = {
        let entry = archive.by_index(*number).map_err(damaged)?;
        match (entry.compression(), entry.data_start()) {
            (CompressionMethod::Stored, Some(start)) => {
                let stored = StoredMember { start, len: entry.size(), crc32: entry.crc32() };
                ArrayImages { stored: Some(stored), ..ArrayImages::new(file, &origin, start, stored.len)? }
            }
            _ => {
                let expected = header.bytes().unwrap_or(u64::MAX).saturating_add(*header_len);
                let unpacked = Arc::new(PositionedFile::new(unpack(entry, &origin, expected)?, &origin)?);
                let len = unpacked.len();
                ArrayImages::new(unpacked, &origin, 0, len)?
            }
        }
    };
    let labels = arrays.iter().filter(|(name, ..)| named(&LABEL_NAMES, name).is_some());
    let labels = labels.min_by_key(|(name, ..)| named(&LABEL_NAMES, name));
    if let Some((name, number, header, _)) = labels
        && header.shape == [set.layout.count]
        && matches!(header.element, Element::U8 | Element::I32 { .. } | Element::I64 { .. })
    {
        let entry = archive.by_index(*number).map_err(damaged)?;
        set.labels = Some(read_labels(entry, &member_path(path, name), header.element, set.layout.count)?);
    }
    Ok(set)
}

/// Unpacks a compressed array into a file without a name, since images are read from anywhere in it.
fn unpack(entry: impl Read, origin: &Path, expected: u64) -> Result<std::fs::File, DataError> {
    let mut file = tempfile::tempfile().map_err(|e| {
        DataError::io(std::env::temp_dir(), "used to unpack a compressed array (set TMPDIR)", e)
    })?;
    // One byte more than the shape tells, which is then noticed as too many.
    io::copy(&mut entry.take(expected.saturating_add(1)), &mut file)
        .map_err(|e| content_error(origin, None, e))?;
    Ok(file)
}

fn read_labels(
    mut entry: impl Read,
    origin: &Path,
    element: Element,
    count: usize,
) -> Result<Vec<u32>, DataError> {
    Header::read(&mut entry, origin).map_err(numpy_error)?;
    let mut bytes = Vec::new();
    let expected = count as u64 * element.size() as u64;
    // The archive's reader checks the checksum only when it is asked for more than there is.
    let one_more = expected.saturating_add(1);
    entry.take(one_more).read_to_end(&mut bytes).map_err(|e| content_error(origin, None, e))?;
    bytes.truncate(usize::try_from(expected).unwrap_or(usize::MAX));
    if bytes.len() as u64 != expected {
        return Err(DataError::damaged(origin, bytes.len() as u64, "it ends in the middle of its labels"));
    }
    let is_big_endian =
        matches!(element, Element::I32 { big_endian: true } | Element::I64 { big_endian: true });
    let label = |chunk: &[u8]| {
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = match is_big_endian {
            true => chunk.iter().fold(0, fold),
            false => chunk.iter().rev().fold(0, fold),
        };
        u32::try_from(value)
            .map_err(|_| DataError::damaged(origin, None, "a label is negative or beyond 2^32"))
    };
    bytes.chunks_exact(element.size()).map(label).collect()
}
