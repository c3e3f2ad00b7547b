//! What the backend asks of a device: memory, launches, and the libraries' products.
//!
//! [`super::nvidia`] is the real one. With the feature `emulation` there is another, which runs the same
//! kernels on the CPU, for tests where there is no GPU.

use super::convolution::Direction;
use super::error::CudaError;
use super::kernels::{Convolution, Dropout, Operands, Product, Window};
use std::ffi::c_void;

/// A place in a device's memory, in bytes.
pub(crate) type Address = u64;

/// What writes a part of an upload, given the number of the part's first byte, of which 4 is a divisor.
pub(crate) type Fill<'a> = dyn Fn(usize, &mut [u8]) + 'a;

/// What gets a part of a download, likewise.
pub(crate) type Take<'a> = dyn FnMut(usize, &[u8]) + 'a;

/// Threads of a block, in all kernels (`THREADS` in `kernels/prelude.cu`).
pub(crate) const THREADS: usize = 256;

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    U32(u32),
    Size(usize),
    F32(f32),
    F64(f64),
    Address(Address),
    Window(Window),
    Product(Product),
    Convolution(Convolution),
    Dropout(Dropout),
}

impl Argument {
    /// Where the value lies, as launches want it.
    pub fn pointer(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Self::U32(value) => (&raw const *value).cast(),
            Self::Size(value) => (&raw const *value).cast(),
            Self::F32(value) => (&raw const *value).cast(),
            Self::F64(value) => (&raw const *value).cast(),
            Self::Address(value) => (&raw const *value).cast(),
            Self::Window(value) => (&raw const *value).cast(),
            Self::Product(value) => (&raw const *value).cast(),
            Self::Convolution(value) => (&raw const *value).cast(),
            Self::Dropout(value) => (&raw const *value).cast(),
        };
        pointer.cast_mut()
    }
}

/// A device, with one queue of work: what is called happens in that order.
pub(crate) trait Device: Send {
    /// What it is, for people.
    fn description(&self) -> String;

    /// Bytes that can be had now.
    fn free_memory(&self) -> Result<usize, CudaError>;

    /// Memory; `None` where there is not enough.
    fn allocate(&self, bytes: usize) -> Result<Option<Address>, CudaError>;

    /// Gives memory back.
    ///
    /// # Safety
    /// It is from `allocate`, is given back once, and not used again.
    unsafe fn free(&self, address: Address);

    /// Copies `bytes` to the device, which `fill` writes part by part.
    ///
    /// # Safety
    /// There is memory for it.
    unsafe fn upload(&self, to: Address, bytes: usize, fill: &Fill) -> Result<(), CudaError>;

    /// Copies `bytes` from the device, when all before is done; `take` gets them part by part.
    ///
    /// # Safety
    /// The memory is there.
    unsafe fn download(&self, from: Address, bytes: usize, take: &mut Take) -> Result<(), CudaError>;

    /// Sets memory to 0.
    ///
    /// # Safety
    /// The memory is there.
    unsafe fn clear(&self, at: Address, bytes: usize) -> Result<(), CudaError>;

    /// Runs a kernel of [`super::kernels::source`] by blocks of [`THREADS`].
    ///
    /// # Safety
    /// The arguments are the kernel's, in number, type and order, and what they point to is there.
    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        arguments: &[Argument],
    ) -> Result<(), CudaError>;

    /// Waits until everything is done.
    fn synchronize(&self) -> Result<(), CudaError>;

    /// Begins to record what is called instead of doing it. `false`: this device cannot.
    fn begin_recording(&self) -> Result<bool, CudaError>;

    /// Ends recording.
    fn end_recording(&self) -> Result<Option<Box<dyn Recording>>, CudaError>;

    /// The libraries, unless kernels of our own are to do everything.
    fn libraries(&self) -> Option<&dyn Libraries>;
}

/// Work that was recorded and can be done again as one.
pub(crate) trait Recording: Send {
    /// Does it.
    fn replay(&self) -> Result<(), CudaError>;
}

/// What a library does for a convolution, and needs for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Support {
    /// Bytes of workspace.
    pub workspace: usize,
    /// Whether it adds the bias to the result.
    pub adds_bias: bool,
}

/// Where a convolution's image, filter and result lie, or their gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolved {
    pub x: Address,
    /// `[out, kernel_h, kernel_w, in]`.
    pub w: Address,
    pub y: Address,
    /// Stored as activations are; read where the library adds it.
    pub bias: Address,
}

/// The vendor's products.
pub(crate) trait Libraries {
    /// What the library does for a convolution; `None` when it does not take it.
    fn support(&self, direction: Direction, geometry: &Convolution) -> Option<Support>;

    /// Computes a convolution that [`Self::support`] took: the one of the tensors that the direction names,
    /// from the other two.
    ///
    /// # Safety
    /// The tensors have the geometry's shapes, the workspace has its size.
    unsafe fn convolve(
        &self,
        direction: Direction,
        geometry: &Convolution,
        convolved: Convolved,
        workspace: Address,
    ) -> Result<(), CudaError>;

    /// Computes `batch` products; `false` when the library does not take them. Weights are stored as
    /// activations are, gradients are `f32`.
    ///
    /// # Safety
    /// The matrices are there.
    unsafe fn multiply(
        &self,
        operands: Operands,
        product: &Product,
        batch: usize,
        factors: [Address; 2],
        out: Address,
    ) -> Result<bool, CudaError>;
}
