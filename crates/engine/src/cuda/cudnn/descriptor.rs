//! Descriptors of cuDNN's graph API: made, given attributes, finished, and then only read.

use cudarc::cudnn::result::CudnnError;
use cudarc::cudnn::sys;
use std::ffi::{c_int, c_void};

pub(super) use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
pub(super) use sys::cudnnBackendDescriptorType_t as Kind;

/// A descriptor, destroyed with this. What it was made of may go before it.
pub(super) struct Descriptor(sys::cudnnBackendDescriptor_t);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once. Nothing could be done about a failure.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl Descriptor {
    pub fn new(kind: Kind) -> Result<Self, CudnnError> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: cuDNN is loaded, the pointer is to a descriptor.
        unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut descriptor) }.result()?;
        Ok(Self(descriptor))
    }

    /// Sets an attribute of which cuDNN says that its elements are of type `T`.
    fn set<T>(self, name: Name, kind: Type, values: &[T]) -> Result<Self, CudnnError> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: there are so many values, of the type that `kind` names; they are copied.
        unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, count, values) }.result()?;
        Ok(self)
    }

    pub fn integers(self, name: Name, values: &[i64]) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    pub fn number(self, name: Name, value: f32) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    pub fn flag(self, name: Name, value: bool) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_BOOLEAN, &[value])
    }

    pub fn data_type(self, name: Name, value: sys::cudnnDataType_t) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[value])
    }

    pub fn convolution_mode(
        self,
        name: Name,
        value: sys::cudnnConvolutionMode_t,
    ) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_CONVOLUTION_MODE, &[value])
    }

    pub fn pointwise_mode(self, name: Name, value: sys::cudnnPointwiseMode_t) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_POINTWISE_MODE, &[value])
    }

    pub fn heuristic(self, name: Name, value: sys::cudnnBackendHeurMode_t) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_HEUR_MODE, &[value])
    }

    pub fn handle(self, name: Name, value: sys::cudnnHandle_t) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[value])
    }

    pub fn addresses(self, name: Name, values: &[*mut c_void]) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_VOID_PTR, values)
    }

    pub fn descriptors(self, name: Name, values: &[&Self]) -> Result<Self, CudnnError> {
        let values: Vec<_> = values.iter().map(|descriptor| descriptor.0).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &values)
    }

    #[cfg(test)]
    pub fn text(self, name: Name, value: &str) -> Result<Self, CudnnError> {
        self.set(name, Type::CUDNN_TYPE_CHAR, value.as_bytes())
    }

    /// Checks the attributes; none can be set any more.
    pub fn finish(self) -> Result<Self, CudnnError> {
        // SAFETY: the descriptor was created.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(self)
    }

    /// Reads at most `values.len()` elements of an attribute; returns how many there are.
    fn get<T>(&self, name: Name, kind: Type, values: &mut [T]) -> Result<usize, CudnnError> {
        let mut count = 0;
        let (room, values) = (values.len() as i64, values.as_mut_ptr());
        let values = if room == 0 { std::ptr::null_mut() } else { values.cast() };
        // SAFETY: there is room for so many values, of the type that `kind` names.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, room, &raw mut count, values) }
            .result()?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub fn integer(&self, name: Name) -> Result<i64, CudnnError> {
        let mut value = [0];
        self.get(name, Type::CUDNN_TYPE_INT64, &mut value)?;
        Ok(value[0])
    }

    /// The notes on an engine, by their numbers: a newer library may have some that are not known here.
    pub fn notes(&self, name: Name) -> Result<Vec<c_int>, CudnnError> {
        const MOST: usize = 64;
        let kind = match name {
            Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE => Type::CUDNN_TYPE_BEHAVIOR_NOTE,
            _ => Type::CUDNN_TYPE_NUMERICAL_NOTE,
        };
        let mut notes = vec![0; MOST];
        let count = self.get(name, kind, &mut notes)?;
        notes.truncate(count);
        Ok(notes)
    }

    /// The descriptor that an attribute is.
    pub fn part(&self, name: Name, kind: Kind) -> Result<Self, CudnnError> {
        let part = Self::new(kind)?;
        // What is written is what the descriptor holds, not another descriptor.
        self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut [part.0])?;
        Ok(part)
    }

    /// The descriptors, of one kind, that an attribute consists of.
    pub fn parts(&self, name: Name, kind: Kind) -> Result<Vec<Self>, CudnnError> {
        const DESCRIPTOR: Type = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        let count = self.get::<sys::cudnnBackendDescriptor_t>(name, DESCRIPTOR, &mut [])?;
        let mut parts = (0..count).map(|_| Self::new(kind)).collect::<Result<Vec<_>, _>>()?;
        let mut places: Vec<_> = parts.iter().map(|part| part.0).collect();
        let count = self.get(name, DESCRIPTOR, &mut places)?;
        parts.truncate(count);
        Ok(parts)
    }

    /// Runs an execution plan.
    ///
    /// # Safety
    /// The pack's addresses have the tensors of the plan, and its workspace.
    pub unsafe fn execute(&self, handle: sys::cudnnHandle_t, pack: &Self) -> Result<(), CudnnError> {
        // SAFETY: as the caller says.
        unsafe { sys::cudnnBackendExecute(handle, self.0, pack.0) }.result()
    }
}
