//! PyTorch's files of tensors (`torch.save` of a state dictionary), read without running what is in them.
//!
//! Two forms: since PyTorch 1.6 a zip archive with `data.pkl` and one stored member per storage; before,
//! several pickles in a row and then the storages. A pickle names each tensor's storage, offset, shape and
//! strides; [`pickle`] reads that and makes no call. Tensors are read when they are asked for.

use crate::tensor_file::first_not_finite;
use crate::{Dtype, Error, StoredTensor};
use pickle::{Id, Pickle, Rules, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use zip::ZipArchive;
use zip::result::ZipError;

/// What the pickle of a state dictionary may call: what makes tensors, parameters and ordered dictionaries.
const CALLABLES: [&str; 3] =
    ["torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"];
/// A tensor takes some 30 values.
const MAX_VALUES: usize = 1 << 20;
/// Longest pickle read, in bytes; those of 1000 tensors have 0.1 MB.
const MAX_PICKLE_BYTES: u64 = 32 << 20;
/// Most elements of one tensor: a gigabyte in single precision.
const MAX_ELEMENTS: usize = 1 << 28;
/// Dictionaries inside dictionaries that are followed (`state_dict` in a checkpoint, say).
const MAX_DEPTH: usize = 4;
/// Most entries of all dictionaries together. A pickle can hold a dictionary once and refer to it any number
/// of times.
const MAX_ENTRIES: usize = 1 << 18;
/// Longest key of an entry or a storage, in bytes.
const MAX_KEY_BYTES: usize = 256;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
/// What a file of before PyTorch 1.6 begins with: 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const REMEDY: &str = "get the file again, or save it as safetensors";

/// An open file of tensors.
pub struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    storages: Storages,
    /// The storage that was read last, if the tensor was but a part of it: the next one may be another part,
    /// and a file of some kilobytes of names can have thousands of parts of one large storage.
    shared: Option<(StorageId, Vec<f32>)>,
}

/// What tells a storage, as tensors refer to it, from others: its key, its type and its elements.
type StorageId = (String, String, usize);

/// One tensor: a view of a storage.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Tensor {
    storage: String,
    /// PyTorch's name of the storage's type (`FloatStorage`).
    kind: String,
    storage_elements: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Where storages lie.
enum Storages {
    /// Members `{folder}data/{key}`.
    Zip { archive: Box<ZipArchive<BufReader<File>>>, folder: String },
    /// First bytes, by key.
    Legacy { file: File, starts: HashMap<String, u64> },
}

impl TorchFile {
    /// Opens a file and reads what tensors it has, none of them. Dictionaries inside the dictionary are
    /// followed; their tensors are named `outer.inner`. Whatever is no tensor is passed over.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, is of another format, or asks for calls that a state
    /// dictionary does not need.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::read(path))?;
        let mut start = Vec::new();
        (&mut file).take(4).read_to_end(&mut start).map_err(Error::read(path))?;
        file.rewind().map_err(Error::read(path))?;
        if start.starts_with(b"PK") {
            return Self::open_zip(path, file);
        }
        if start.first() == Some(&0x80) {
            return Self::open_legacy(path, file);
        }
        Err(Error::damaged(path, format!("neither a zip archive nor a pickle, so no PyTorch file; {REMEDY}")))
    }

    fn open_zip(path: &Path, file: File) -> Result<Self, Error> {
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(archive_error(path))?;
        let names: Vec<String> = archive.file_names().flatten().map(|name| name.into_owned()).collect();
        let Some(folder) = names.iter().find_map(|name| name.strip_suffix("data.pkl")) else {
            return Err(Error::damaged(path, format!("a zip archive without data.pkl; {REMEDY}")));
        };
        let mut bytes = Vec::new();
        let member = archive.by_name(&format!("{folder}data.pkl")).map_err(archive_error(path))?;
        member.take(MAX_PICKLE_BYTES + 1).read_to_end(&mut bytes).map_err(content_error(path))?;
        if bytes.len() as u64 > MAX_PICKLE_BYTES {
            return Err(Error::damaged(
                path,
                format!("its data.pkl is longer than {MAX_PICKLE_BYTES} bytes"),
            ));
        }
        let (pickle, _) = read_pickle(path, &bytes)?;
        let tensors = collect_tensors(path, &pickle)?;
        let storages = Storages::Zip { archive: Box::new(archive), folder: folder.to_owned() };
        Ok(Self { path: path.to_owned(), tensors, storages, shared: None })
    }

    /// Pickles of a magic number, a protocol version, the system, the dictionary, and the storages' keys;
    /// then for each key its number of elements (8 bytes) and the elements.
    fn open_legacy(path: &Path, mut file: File) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        (&mut file).take(MAX_PICKLE_BYTES).read_to_end(&mut bytes).map_err(Error::read(path))?;
        let mut at = 0;
        let mut next = || {
            let (pickle, length) = read_pickle(path, &bytes[at..])?;
            at += length;
            Ok::<_, Error>(pickle)
        };
        let magic = next()?;
        if magic.long(magic.root()) != Some(&LEGACY_MAGIC) {
            return Err(Error::damaged(path, format!("a pickle, but not one that PyTorch wrote; {REMEDY}")));
        }
        let _protocol = next()?;
        let _system = next()?;
        let tensors = collect_tensors(path, &next()?)?;
        let keys = next()?;
        let Value::List(items) = keys.value(keys.root()) else {
            return Err(Error::damaged(path, format!("the list of its storages is missing; {REMEDY}")));
        };
        let sizes: HashMap<&str, u64> = tensors
            .values()
            .filter_map(|tensor| {
                let bytes = element_bytes(&tensor.kind)?.checked_mul(tensor.storage_elements)?;
                Some((tensor.storage.as_str(), bytes as u64))
            })
            .collect();
        let (mut starts, mut position) = (HashMap::new(), at as u64);
        for &item in items {
            // What lies after a storage of unknown size cannot be found; nothing of it is a tensor that was
            // understood.
            let Some((key, &size)) = keys.text(item).and_then(|key| Some((key, sizes.get(key)?))) else {
                break;
            };
            starts.insert(key.to_owned(), position.saturating_add(8));
            position = position.saturating_add(8).saturating_add(size);
        }
        let storages = Storages::Legacy { file, starts };
        Ok(Self { path: path.to_owned(), tensors, storages, shared: None })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, in the order of their names.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        let stored = |(name, tensor): (&String, &Tensor)| StoredTensor {
            name: name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.kind.trim_end_matches("Storage").to_owned(),
        };
        self.tensors.iter().map(stored).collect()
    }

    /// The dimensions of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Reads a tensor into `values`, the last dimension fastest, widened to single precision.
    ///
    /// # Errors
    /// If there is no such tensor of `values.len()` elements, its type is not float, half, bfloat16 or
    /// double, a value is NaN or infinite, or the file cannot be read or is damaged.
    pub fn read(&mut self, name: &str, values: &mut [f32]) -> Result<(), Error> {
        let missing = || Error::damaged(&self.path, format!("tensor `{name}` is missing"));
        let tensor = self.tensors.get(name).ok_or_else(missing)?.clone();
        let elements = tensor.shape.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
        if elements != Some(values.len()) {
            let problem = format!("tensor `{name}` is {:?}, not of {} elements", tensor.shape, values.len());
            return Err(Error::damaged(&self.path, problem));
        }
        let id = (tensor.storage.clone(), tensor.kind.clone(), tensor.storage_elements);
        // Taken out: where another storage is read, there is room for it before.
        let storage = match self.shared.take().filter(|(shared, _)| *shared == id) {
            Some((_, storage)) => storage,
            None => self.storage(name, &tensor)?,
        };
        tensor.gather(&storage, values).ok_or_else(|| {
            Error::damaged(&self.path, format!("tensor `{name}` reaches beyond its storage; {REMEDY}"))
        })?;
        if values.len() < storage.len() {
            self.shared = Some((id, storage));
        }
        match first_not_finite(values) {
            None => Ok(()),
            Some((element, value)) => {
                Err(Error::NotFinite { path: self.path.clone(), tensor: name.to_owned(), element, value })
            }
        }
    }

    /// All elements of a tensor's storage, in single precision.
    fn storage(&mut self, name: &str, tensor: &Tensor) -> Result<Vec<f32>, Error> {
        let path = &self.path;
        let damaged = |problem: String| Error::damaged(path, format!("tensor `{name}`: {problem}; {REMEDY}"));
        let bytes_each = element_bytes(&tensor.kind).filter(|_| tensor.kind != "LongStorage");
        let bytes_each = bytes_each.ok_or_else(|| Error::UnsupportedDtype {
            path: path.clone(),
            tensor: name.to_owned(),
            dtype: tensor.kind.clone(),
        })?;
        if tensor.storage_elements > MAX_ELEMENTS {
            return Err(damaged(format!("a storage of {} elements", tensor.storage_elements)));
        }
        let expected = tensor.storage_elements * bytes_each;
        let mut bytes = Vec::new();
        match &mut self.storages {
            Storages::Zip { archive, folder } => {
                let member = format!("{folder}data/{}", tensor.storage);
                let content = archive.by_name(&member).map_err(archive_error(path))?;
                content.take(expected as u64 + 1).read_to_end(&mut bytes).map_err(content_error(path))?;
            }
            Storages::Legacy { file, starts } => {
                let start =
                    starts.get(&tensor.storage).ok_or_else(|| damaged("its storage is missing".into()))?;
                let mut count = [0; 8];
                file.seek(SeekFrom::Start(start - 8)).map_err(Error::read(path))?;
                file.read_exact(&mut count).map_err(content_error(path))?;
                if u64::from_le_bytes(count) != tensor.storage_elements as u64 {
                    return Err(damaged("its storage is not of the size that the dictionary says".into()));
                }
                file.take(expected as u64).read_to_end(&mut bytes).map_err(Error::read(path))?;
            }
        }
        if bytes.len() != expected {
            return Err(damaged(format!(
                "{} bytes instead of {expected}, the file is truncated",
                bytes.len()
            )));
        }
        let mut values = vec![0.0; tensor.storage_elements];
        match tensor.kind.as_str() {
            "FloatStorage" => Dtype::F32.decode(&bytes, &mut values),
            "HalfStorage" => Dtype::F16.decode(&bytes, &mut values),
            "BFloat16Storage" => Dtype::Bf16.decode(&bytes, &mut values),
            _ => {
                for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f64::from_le_bytes(bytes) as f32;
                }
            }
        }
        Ok(values)
    }
}

impl fmt::Debug for TorchFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TorchFile").field(&self.path).finish()
    }
}

impl Tensor {
    /// What `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, …)` would have made.
    fn from_call(pickle: &Pickle, arguments: Id) -> Option<Self> {
        let [storage, offset, shape, strides, ..] = *pickle.tuple(arguments)? else { return None };
        let Value::Persistent(reference) = pickle.value(storage) else { return None };
        // ("storage", type, key, device, elements) and, in old files, the place in a larger storage.
        let [tag, kind, key, _device, elements, ref rest @ ..] = *pickle.tuple(*reference)? else {
            return None;
        };
        let Value::Global(kind) = pickle.value(kind) else { return None };
        let is_short = [shape, strides]
            .into_iter()
            .all(|sizes| pickle.tuple(sizes).is_some_and(|sizes| sizes.len() <= MAX_DIMENSIONS));
        let key = pickle.text(key).filter(|key| is_short && key.len() <= MAX_KEY_BYTES)?;
        let whole = rest.iter().all(|&view| pickle.value(view) == &Value::None);
        if pickle.text(tag) != Some("storage") || !whole {
            return None;
        }
        let tensor = Self {
            storage: key.to_owned(),
            kind: kind.strip_prefix("torch ")?.to_owned(),
            storage_elements: pickle.size(elements)?,
            offset: pickle.size(offset)?,
            shape: pickle.sizes(shape)?,
            strides: pickle.sizes(strides)?,
        };
        (tensor.shape.len() == tensor.strides.len()).then_some(tensor)
    }

    /// The tensor's elements out of its storage's; `None` if it reaches beyond.
    fn gather(&self, storage: &[f32], values: &mut [f32]) -> Option<()> {
        let mut index = vec![0; self.shape.len()];
        for value in values {
            let mut steps = index.iter().zip(&self.strides);
            let place = steps.try_fold(self.offset, |place, (&i, &stride): (&usize, &usize)| {
                place.checked_add(i.checked_mul(stride)?)
            })?;
            *value = *storage.get(place)?;
            for (i, &len) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < len {
                    break;
                }
                *i = 0;
            }
        }
        Some(())
    }
}

/// Bytes of an element of a storage whose type is understood.
fn element_bytes(kind: &str) -> Option<usize> {
    match kind {
        "HalfStorage" | "BFloat16Storage" => Some(2),
        "FloatStorage" => Some(4),
        "DoubleStorage" | "LongStorage" => Some(8),
        _ => None,
    }
}

fn read_pickle<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Pickle<'a>, usize), Error> {
    let rules = Rules { callables: &CALLABLES, max_values: MAX_VALUES };
    pickle::read(bytes, &rules).map_err(|error| Error::damaged(path, format!("{error}; {REMEDY}")))
}

/// All tensors in the dictionary that the pickle is, by name.
fn collect_tensors(path: &Path, pickle: &Pickle) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut tensors = BTreeMap::new();
    let mut dictionaries = vec![(pickle.root(), String::new(), 0)];
    if pickle.entries(pickle.root()).is_none() {
        return Err(Error::damaged(path, "not a dictionary of tensors; save the model's state_dict()"));
    }
    let mut entries_left = MAX_ENTRIES;
    while let Some((dictionary, prefix, depth)) = dictionaries.pop() {
        let entries = pickle.entries(dictionary).unwrap_or_default();
        entries_left = entries_left.checked_sub(entries.len()).ok_or_else(|| {
            Error::damaged(path, format!("its dictionaries have more than {MAX_ENTRIES} entries; {REMEDY}"))
        })?;
        for (key, value) in entries {
            let Some(key) = pickle.text(key).filter(|key| key.len() <= MAX_KEY_BYTES) else { continue };
            let name = format!("{prefix}{key}");
            match pickle.value(value) {
                Value::Call { name: call, arguments, .. } if call.starts_with("torch._utils ") => {
                    let tensor = tensor_of(pickle, call, *arguments);
                    let problem = || format!("`{name}` is a tensor of a form that is not read; {REMEDY}");
                    tensors.insert(name.clone(), tensor.ok_or_else(|| Error::damaged(path, problem()))?);
                }
                Value::Dict(_) | Value::Call { .. } if depth < MAX_DEPTH => {
                    dictionaries.push((value, format!("{name}."), depth + 1));
                }
                _ => {}
            }
        }
    }
    Ok(tensors)
}

fn tensor_of(pickle: &Pickle, call: &str, arguments: Id) -> Option<Tensor> {
    if call != "torch._utils _rebuild_parameter" {
        return Tensor::from_call(pickle, arguments);
    }
    let Value::Call { name, arguments, .. } = pickle.value(*pickle.tuple(arguments)?.first()?) else {
        return None;
    };
    (name == "torch._utils _rebuild_tensor_v2").then(|| Tensor::from_call(pickle, *arguments))?
}

fn archive_error(path: &Path) -> impl FnOnce(ZipError) -> Error + '_ {
    move |error| match error {
        ZipError::Io(source) => content_error(path)(source),
        other => Error::damaged(path, format!("its zip archive is damaged or truncated ({other}); {REMEDY}")),
    }
}

/// Tells content that is damaged from a disk that fails.
fn content_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    move |error| match error.kind() {
        UnexpectedEof => Error::damaged(path, format!("truncated; {REMEDY}")),
        InvalidData | InvalidInput | std::io::ErrorKind::Other => {
            Error::damaged(path, format!("{error}; {REMEDY}"))
        }
        _ => Error::Read { path: path.to_owned(), source: error },
    }
}
