//! A file of tensors, whichever of the formats of the field it is in.

use crate::tensor_bundle::{TensorBundle, is_tensor_bundle};
use crate::{Error, StoredTensor, TensorFile, TorchFile};
use std::collections::BTreeMap;
use std::path::Path;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// A safetensors or PyTorch file, or a TensorFlow checkpoint.
#[derive(Debug)]
pub enum WeightsFile {
    /// `.safetensors`.
    Safetensors(TensorFile),
    /// `.pth`, `.pt`, `.ckpt`, `.bin`.
    Torch(TorchFile),
    /// `.index` and `.data-…`.
    Bundle(TensorBundle),
}

impl WeightsFile {
    /// Opens `path`; which format it is, its name's ending says. No tensor is read.
    ///
    /// # Errors
    /// If the file cannot be read or is not of its format.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors")) {
            return TensorFile::open(path).map(Self::Safetensors);
        }
        if is_tensor_bundle(path) {
            return TensorBundle::open(path).map(Self::Bundle);
        }
        TorchFile::open(path).map(Self::Torch)
    }

    /// Where the file lies; of a TensorFlow checkpoint the index.
    pub fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Torch(file) => file.path(),
            Self::Bundle(file) => file.path(),
        }
    }

    /// The length of the file, or of the files of a TensorFlow checkpoint, in bytes.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn bytes(&self) -> Result<u64, Error> {
        match self {
            Self::Safetensors(file) => Ok(file.bytes()),
            Self::Torch(file) => Ok(std::fs::metadata(file.path()).map_err(Error::read(file.path()))?.len()),
            Self::Bundle(file) => file.bytes_of_shards(),
        }
    }

    /// Refuses a file that is too short for so many parameters, whatever it says of their shapes: before
    /// memory is asked for.
    pub(crate) fn check_holds(&self, parameters: usize) -> Result<(), Error> {
        if parameters as u64 <= self.bytes()? {
            return Ok(());
        }
        let problem = format!("truncated: it is too short for the {parameters} parameters that it names");
        Err(Error::damaged(self.path(), problem))
    }

    /// The labels inside the file, which only safetensors have.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Safetensors(file) => file.labels(),
            Self::Torch(_) | Self::Bundle(_) => &NO_LABELS,
        }
    }

    /// The tensors.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        match self {
            Self::Safetensors(file) => file.tensors(),
            Self::Torch(file) => file.tensors(),
            Self::Bundle(file) => file.tensors(),
        }
    }

    /// The dimensions of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Safetensors(file) => file.shape(name),
            Self::Torch(file) => file.shape(name),
            Self::Bundle(file) => file.shape(name),
        }
    }

    /// Reads a tensor into `values`, the last dimension fastest, widened to single precision.
    ///
    /// # Errors
    /// If there is no such tensor of `values.len()` numbers, it holds NaN or infinity, or the file cannot be read.
    pub fn read(&mut self, name: &str, values: &mut [f32]) -> Result<(), Error> {
        match self {
            Self::Safetensors(file) => file.read(name, values),
            Self::Torch(file) => file.read(name, values),
            Self::Bundle(file) => file.read(name, values),
        }
    }
}
