//! TensorFlow's checkpoints ("tensor bundles"): `NAME.index`, a table of what tensors there are, and
//! `NAME.data-00000-of-00001`, …, their bytes. Read without TensorFlow.

use crate::tensor_file::first_not_finite;
use crate::{Dtype, Error, StoredTensor, sstable};
use protobuf::{Fields, Value, masked_crc};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest index read, in bytes; that of the paper's networks with their optimiser's state has 0.2 MB.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Most shards of a bundle.
const MAX_SHARDS: u64 = 10_000;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
/// Longest tensor read, in bytes.
const MAX_TENSOR_BYTES: u64 = 1 << 30;

/// An open checkpoint.
#[derive(Debug)]
pub struct TensorBundle {
    /// The index file.
    path: PathBuf,
    shards: u64,
    tensors: BTreeMap<String, Entry>,
}

/// What the index says about a tensor (`BundleEntryProto`).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Entry {
    /// TensorFlow's number of the type.
    dtype: u64,
    shape: Vec<usize>,
    shard: u64,
    offset: u64,
    bytes: u64,
    masked_crc: u32,
    is_sliced: bool,
}

impl TensorBundle {
    /// Opens the checkpoint that `path`, with or without `.index`, names, and reads its index, no tensor.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = index_path(path);
        let mut file = File::open(&path).map_err(Error::read(&path))?;
        let mut bytes = Vec::new();
        (&mut file).take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::read(&path))?;
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(Error::damaged(&path, "far too long for the index of a checkpoint"));
        }
        let (mut header, mut tensors) = (None, BTreeMap::new());
        sstable::for_each_entry(&bytes, &path, |key, value| {
            let malformed =
                |problem: &str| Error::damaged(&path, format!("an entry is malformed: {problem}"));
            if key.is_empty() {
                header = Some(parse_header(value).map_err(malformed)?);
                return Ok(());
            }
            let name = str::from_utf8(key).map_err(|_| malformed("its name is not text"))?;
            tensors.insert(name.to_owned(), parse_entry(value).map_err(malformed)?);
            Ok(())
        })?;
        let Some((shards, is_big_endian)) = header else {
            return Err(Error::damaged(
                &path,
                "a table, but not the index of a checkpoint: it has no header",
            ));
        };
        if is_big_endian || !(1..=MAX_SHARDS).contains(&shards) {
            return Err(Error::damaged(&path, format!("big-endian, or of {shards} shards: not supported")));
        }
        Ok(Self { path, shards, tensors })
    }

    /// The index file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, by name. Types are those of safetensors where it has them (`F32`), else TensorFlow's number.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        let stored = |(name, entry): (&String, &Entry)| StoredTensor {
            name: name.clone(),
            shape: entry.shape.clone(),
            dtype: dtype_name(entry.dtype),
        };
        self.tensors.iter().map(stored).collect()
    }

    /// The dimensions of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The number in a tensor of one whole number, such as `global_step`.
    ///
    /// # Errors
    /// If its bytes cannot be read or do not match their CRC.
    pub fn read_integer(&self, name: &str) -> Result<Option<i64>, Error> {
        const DT_INT64: u64 = 9;
        match self.tensors.get(name) {
            Some(entry) if entry.dtype == DT_INT64 && entry.bytes == 8 => {
                let bytes = self.bytes(name, entry)?;
                Ok(<[u8; 8]>::try_from(bytes).ok().map(i64::from_le_bytes))
            }
            _ => Ok(None),
        }
    }

    /// Reads a tensor into `values`, the last dimension fastest, widened to single precision.
    ///
    /// # Errors
    /// If there is no such tensor of `values.len()` numbers, its bytes do not match their CRC, it holds NaN
    /// or infinity, or the file cannot be read.
    pub fn read(&self, name: &str, values: &mut [f32]) -> Result<(), Error> {
        let missing = || Error::damaged(&self.path, format!("tensor `{name}` is missing"));
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        let dtype = float(entry.dtype).ok_or_else(|| Error::UnsupportedDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            dtype: dtype_name(entry.dtype),
        })?;
        if entry.is_sliced || entry.bytes != values.len() as u64 * dtype.bytes() as u64 {
            let problem = format!("tensor `{name}` of shape {:?} is not stored in one piece", entry.shape);
            return Err(Error::damaged(&self.path, problem));
        }
        dtype.decode(&self.bytes(name, entry)?, values);
        match first_not_finite(values) {
            None => Ok(()),
            Some((element, value)) => {
                Err(Error::NotFinite { path: self.path.clone(), tensor: name.to_owned(), element, value })
            }
        }
    }

    /// The length of all data files together, in bytes.
    pub(crate) fn bytes_of_shards(&self) -> Result<u64, Error> {
        (0..self.shards).try_fold(0, |sum, shard| {
            let path = self.shard_path(shard);
            let len = std::fs::metadata(&path).map_err(Error::read(&path))?.len();
            Ok(len.saturating_add(sum))
        })
    }

    fn shard_path(&self, shard: u64) -> PathBuf {
        self.path.with_extension(format!("data-{shard:05}-of-{:05}", self.shards))
    }

    fn bytes(&self, name: &str, entry: &Entry) -> Result<Vec<u8>, Error> {
        let path = self.shard_path(entry.shard);
        let mut file = File::open(&path).map_err(Error::read(&path))?;
        let len = file.metadata().map_err(Error::read(&path))?.len();
        let end = entry.offset.checked_add(entry.bytes).filter(|end| *end <= len);
        if end.is_none() || entry.bytes > MAX_TENSOR_BYTES {
            let problem = format!("truncated: tensor `{name}` reaches beyond its {len} bytes");
            return Err(Error::damaged(&path, problem));
        }
        let mut bytes = vec![0; entry.bytes as usize];
        file.seek(SeekFrom::Start(entry.offset)).map_err(Error::read(&path))?;
        file.read_exact(&mut bytes).map_err(Error::read(&path))?;
        if masked_crc(&[&bytes]) != entry.masked_crc {
            let problem =
                format!("corrupted: the CRC of tensor `{name}` does not match, at byte {}", entry.offset);
            return Err(Error::damaged(&path, problem));
        }
        Ok(bytes)
    }
}

/// The index of the checkpoint named by `path`, which may be the index itself.
fn index_path(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "index") {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".index");
    name.into()
}

/// Whether `path` names a checkpoint: its index, or what stands before `.index`.
pub fn is_tensor_bundle(path: &Path) -> bool {
    index_path(path).is_file()
}

/// `BundleHeaderProto`: shards, and whether numbers are big-endian.
fn parse_header(message: &[u8]) -> Result<(u64, bool), &'static str> {
    let (mut shards, mut is_big_endian) = (0, false);
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Value::Varint(value)) => shards = value,
            (2, Value::Varint(value)) => is_big_endian = value == 1,
            _ => {}
        }
    }
    Ok((shards, is_big_endian))
}

fn parse_entry(message: &[u8]) -> Result<Entry, &'static str> {
    let mut entry = Entry::default();
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Value::Varint(value)) => entry.dtype = value,
            (2, Value::Bytes(shape)) => entry.shape = parse_shape(shape)?,
            (3, Value::Varint(value)) => entry.shard = value,
            (4, Value::Varint(value)) => entry.offset = value,
            (5, Value::Varint(value)) => entry.bytes = value,
            (6, Value::Fixed32(value)) => entry.masked_crc = value,
            (7, _) => entry.is_sliced = true,
            _ => {}
        }
    }
    Ok(entry)
}

/// `TensorShapeProto`: `dim = 2`, each with `size = 1`.
fn parse_shape(message: &[u8]) -> Result<Vec<usize>, &'static str> {
    let mut shape = Vec::new();
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        if let (2, Value::Bytes(dimension)) = field {
            let mut size = 0;
            let mut fields = Fields::new(dimension);
            while let Some(field) = fields.next_field()? {
                if let (1, Value::Varint(value)) = field {
                    size = usize::try_from(value).map_err(|_| "a dimension that cannot be")?;
                }
            }
            if shape.len() == MAX_DIMENSIONS {
                return Err("a tensor of more dimensions than any weight has");
            }
            shape.push(size);
        }
    }
    Ok(shape)
}

fn float(dtype: u64) -> Option<Dtype> {
    match dtype {
        1 => Some(Dtype::F32),
        14 => Some(Dtype::Bf16),
        19 => Some(Dtype::F16),
        _ => None,
    }
}

fn dtype_name(dtype: u64) -> String {
    match dtype {
        1 => "F32".into(),
        2 => "F64".into(),
        3 => "I32".into(),
        9 => "I64".into(),
        14 => "BF16".into(),
        19 => "F16".into(),
        other => format!("type {other} of TensorFlow"),
    }
}
