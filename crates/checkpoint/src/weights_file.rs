//! A file of tensors, whichever of the formats of the field it is in.

use crate::{Error, StoredTensor, TensorFile, TorchFile};
use std::path::Path;

/// A safetensors or PyTorch file.
#[derive(Debug)]
pub enum WeightsFile {
    /// `.safetensors`.
    Safetensors(TensorFile),
    /// `.pth`, `.pt`, `.ckpt`, `.bin`.
    Torch(TorchFile),
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
        TorchFile::open(path).map(Self::Torch)
    }

    /// The tensors.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        match self {
            Self::Safetensors(file) => file.tensors(),
            Self::Torch(file) => file.tensors(),
        }
    }

    /// The dimensions of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Safetensors(file) => file.shape(name),
            Self::Torch(file) => file.shape(name),
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
        }
    }
}
