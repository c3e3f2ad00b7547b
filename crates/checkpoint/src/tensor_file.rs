//! safetensors files, tensor by tensor: a file of any size is read and written with the memory of its largest tensor.
//!
//! The format: 8 bytes (little-endian) with the length of a JSON header, the header (each tensor's type, shape and
//! place; `__metadata__` holds labels), the tensors' bytes without gaps.

use crate::{Dtype, Error};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Longest header read, in bytes. The largest network of the paper needs 0.1 MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Bytes converted at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// An open safetensors file whose header has been checked against the file's length.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
    labels: BTreeMap<String, String>,
}

/// What the header says about one tensor.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its type in safetensors' terms (`F32`, `BF16`, …).
    pub dtype: String,
}

impl TensorFile {
    /// Opens a file and reads its header, no tensor.
    ///
    /// # Errors
    /// If it cannot be read, its header is not valid, or its length is not what the header says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = || Error::read(path);
        let mut file = File::open(path).map_err(read())?;
        let file_bytes = file.metadata().map_err(read())?.len();
        let mut prefix = [0; 8];
        if file_bytes < prefix.len() as u64 {
            return Err(Error::damaged(
                path,
                format!("truncated: {file_bytes} bytes are no safetensors file"),
            ));
        }
        file.read_exact(&mut prefix).map_err(read())?;
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > MAX_HEADER_BYTES.min(file_bytes - 8) {
            let problem = format!(
                "not a safetensors file, or truncated: a header of {header_bytes} bytes in a file of {file_bytes}"
            );
            return Err(Error::damaged(path, problem));
        }
        let mut header = Vec::new();
        (&mut file).take(header_bytes).read_to_end(&mut header).map_err(read())?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| Error::damaged(path, format!("its safetensors header is not valid: {error}")))?;
        let data_start = 8 + header_bytes;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != file_bytes {
            let what = if expected > file_bytes { "truncated" } else { "longer than its header says" };
            let problem = format!("{what}: {file_bytes} bytes instead of {expected}");
            return Err(Error::damaged(path, problem));
        }
        let labels = metadata.metadata().iter().flatten();
        let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { path: path.to_owned(), file, data_start, metadata, labels })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length, in bytes.
    pub fn bytes(&self) -> u64 {
        self.data_start + self.metadata.data_len() as u64
    }

    /// The labels inside the file (`__metadata__`).
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The tensors, in the order of their bytes.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        let stored = |name: String| {
            let info = self.metadata.info(&name)?;
            Some(StoredTensor { dtype: info.dtype.to_string(), shape: info.shape.clone(), name })
        };
        self.metadata.offset_keys().into_iter().filter_map(stored).collect()
    }

    /// The dimensions of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Reads a tensor into `values`, in the file's order, widened to single precision.
    ///
    /// # Errors
    /// If there is no such tensor of `values.len()` elements, its type is not F32, F16 or BF16, a value is
    /// NaN or infinite, or the file cannot be read.
    pub(crate) fn read(&mut self, name: &str, values: &mut [f32]) -> Result<(), Error> {
        let missing = || Error::damaged(&self.path, format!("tensor `{name}` is missing"));
        let info = self.metadata.info(name).ok_or_else(missing)?;
        let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| Error::UnsupportedDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            dtype: info.dtype.to_string(),
        })?;
        let (start, end) = info.data_offsets;
        if end - start != values.len() * dtype.bytes() {
            let problem = format!("tensor `{name}` is {:?}, not of {} elements", info.shape, values.len());
            return Err(Error::damaged(&self.path, problem));
        }
        self.file.seek(SeekFrom::Start(self.data_start + start as u64)).map_err(Error::read(&self.path))?;
        let mut bytes = vec![0; CHUNK_BYTES.min(end - start)];
        for (index, part) in values.chunks_mut(CHUNK_BYTES / dtype.bytes()).enumerate() {
            let bytes = &mut bytes[..part.len() * dtype.bytes()];
            self.file.read_exact(bytes).map_err(Error::read(&self.path))?;
            dtype.decode(bytes, part);
            if let Some((element, value)) = first_not_finite(part) {
                return Err(Error::NotFinite {
                    path: self.path.clone(),
                    tensor: name.to_owned(),
                    element: index * (CHUNK_BYTES / dtype.bytes()) + element,
                    value,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TensorFile").field(&self.path).finish()
    }
}

/// The first value that is NaN or infinite, with its position.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    // A fold without an early exit vectorises; the search only runs on the bad case.
    let all_finite = values.iter().fold(true, |finite, value| finite & value.is_finite());
    if all_finite {
        return None;
    }
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

/// Puts a tensor's elements into the emptied vector.
pub(crate) type Fill<'a> = Box<dyn Fn(&mut Vec<f32>) + 'a>;

/// The elements of a tensor, in the file's order.
pub(crate) enum Elements<'a> {
    /// As they lie in memory.
    Ready(&'a [f32]),
    /// Made when they are written.
    Computed(Fill<'a>),
}

/// One tensor of a file to be written.
pub(crate) struct TensorToWrite<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its dimensions in the file.
    pub shape: Vec<usize>,
    /// Its elements.
    pub elements: Elements<'a>,
}

/// Writes a safetensors file of `tensors`, in this order, to `out`. The same input gives the same bytes.
///
/// `path` is the file's name for messages.
///
/// # Errors
/// If a value is NaN or infinite or does not fit `dtype`, or a write fails.
pub(crate) fn write_tensors(
    path: &Path,
    out: &mut dyn Write,
    labels: &BTreeMap<String, String>,
    dtype: Dtype,
    tensors: &[TensorToWrite<'_>],
) -> Result<(), Error> {
    let header = header(labels, dtype, tensors).map_err(|error| Error::write(path)(error.into()))?;
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::write(path))?;
    out.write_all(&header).map_err(Error::write(path))?;
    let (mut computed, mut bytes) = (Vec::new(), Vec::with_capacity(CHUNK_BYTES));
    for tensor in tensors {
        let values = match &tensor.elements {
            Elements::Ready(values) => values,
            Elements::Computed(fill) => {
                computed.clear();
                fill(&mut computed);
                computed.as_slice()
            }
        };
        debug_assert_eq!(values.len(), tensor.shape.iter().product::<usize>(), "{}", tensor.name);
        check_range(path, &tensor.name, dtype, values)?;
        for part in values.chunks(CHUNK_BYTES / dtype.bytes()) {
            bytes.clear();
            dtype.encode(part, &mut bytes);
            out.write_all(&bytes).map_err(Error::write(path))?;
        }
    }
    Ok(())
}

fn header(
    labels: &BTreeMap<String, String>,
    dtype: Dtype,
    tensors: &[TensorToWrite<'_>],
) -> serde_json::Result<Vec<u8>> {
    // `safetensors` itself keeps labels in a hash map, whose order would differ from run to run.
    let mut object = Map::new();
    if !labels.is_empty() {
        object.insert("__metadata__".to_owned(), serde_json::to_value(labels)?);
    }
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.shape.iter().product::<usize>() * dtype.bytes();
        let info = TensorInfo {
            dtype: dtype.to_safetensors(),
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        object.insert(tensor.name.clone(), serde_json::to_value(info)?);
        start = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(object))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

fn check_range(path: &Path, tensor: &str, dtype: Dtype, values: &[f32]) -> Result<(), Error> {
    let (path, tensor) = (path.to_owned(), tensor.to_owned());
    if let Some((element, value)) = first_not_finite(values) {
        return Err(Error::NotFinite { path, tensor, element, value });
    }
    // Half way from the largest finite value to the next power of two, a value rounds to infinity.
    let limit = match dtype {
        Dtype::F32 => f32::INFINITY,
        Dtype::F16 => 65520.0,
        Dtype::Bf16 => f32::from_bits(0x7f7f_8000),
    };
    match values.iter().copied().enumerate().find(|(_, value)| value.abs() >= limit) {
        None => Ok(()),
        Some((element, value)) => Err(Error::OutOfRange { tensor, element, value, dtype: dtype.name() }),
    }
}
