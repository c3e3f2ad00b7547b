//! A real device, through the driver.

use super::CudaOptions;
use super::compiler;
use super::convolution::Direction;
use super::cublas::Cublas;
use super::cudnn::Cudnn;
use super::device::{
    Address, Argument, Convolved, Device, Fill, Libraries, Recording, Support, THREADS, Take,
};
use super::error::CudaError;
use super::kernels::{Convolution, Operands, Product, count, names};
use super::library;
use super::staging::Staging;
use crate::hardware::{Algorithms, Precision};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result, sys};
use cudarc::{cublaslt, cudnn};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

/// The oldest compute capability whose kernels today's compilers make.
const OLDEST: i32 = 7;
/// Workspace of matrix products: what NVIDIA recommends for Hopper.
const PRODUCT_WORKSPACE: usize = 32 << 20;

/// An NVIDIA GPU with the kernels loaded.
pub(super) struct Nvidia {
    // Dropped in this order.
    vendor: Option<Vendor>,
    _module: Module,
    functions: HashMap<&'static str, sys::CUfunction>,
    staging: RefCell<Staging>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    description: String,
}

// SAFETY: its handles may be used from any thread, by one at a time, with the context made current; each
// method does so first.
unsafe impl Send for Nvidia {}

struct Module(sys::CUmodule, Arc<CudaContext>);

impl Drop for Module {
    fn drop(&mut self) {
        if self.1.bind_to_thread().is_ok() {
            // SAFETY: it was loaded, and is unloaded once.
            let _ = unsafe { result::module::unload(self.0) };
        }
    }
}

/// The libraries and the memory they work in.
struct Vendor {
    cudnn: Cudnn,
    cublas: Cublas,
    workspace: Address,
    context: Arc<CudaContext>,
}

impl Drop for Vendor {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was allocated, and is freed once; what used it has been waited for.
            let _ = result::ctx::synchronize().and_then(|()| unsafe { result::free_sync(self.workspace) });
        }
    }
}

/// A device that could be used.
pub(super) struct Found {
    context: Arc<CudaContext>,
    capability: (i32, i32),
    pub description: String,
}

impl Found {
    /// Looks for device number `index`, and for all that is needed to use it.
    pub fn new(index: usize) -> Result<Self, CudaError> {
        library::load()?;
        result::init().map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => CudaError::NoDevice { index, count: 0 },
            _ => cannot_start("cuInit")(error),
        })?;
        check_versions()?;
        let devices = CudaContext::device_count().map_err(cannot_start("cuDeviceGetCount"))?;
        let devices = usize::try_from(devices).unwrap_or(0);
        if index >= devices {
            return Err(CudaError::NoDevice { index, count: devices });
        }
        let context = CudaContext::new(index).map_err(cannot_start("cuDevicePrimaryCtxRetain"))?;
        let name = context.name().map_err(cannot_start("cuDeviceGetName"))?;
        let capability = context.compute_capability().map_err(cannot_start("cuDeviceGetAttribute"))?;
        let (major, minor) = capability;
        if major < OLDEST {
            return Err(CudaError::OldDevice { name, major, minor });
        }
        let memory = context.total_mem().map_err(cannot_start("cuDeviceTotalMem"))?;
        let description = format!("{name} ({} GiB, compute capability {major}.{minor})", memory >> 30);
        Ok(Self { context, capability, description })
    }
}

impl Nvidia {
    /// A device with NVIDIA's libraries, or without where our own kernels are to do everything.
    pub fn new(options: CudaOptions) -> Result<Self, CudaError> {
        let CudaOptions { index, precision, algorithms, own_kernels } = options;
        let Found { context, capability, description } = Found::new(index)?;
        let stream = context.new_stream().map_err(cannot_start("cuStreamCreate"))?;

        let staging = RefCell::new(Staging::new(&context)?);
        let code = compiler::compile(capability, precision.storage())?;
        // SAFETY: the compiler made this image.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = Module(module.map_err(cannot_start("cuModuleLoadData"))?, context.clone());
        let mut functions = HashMap::new();
        for name in names() {
            let c_name = CString::new(name).unwrap_or_default();
            // SAFETY: the module is loaded.
            let function = unsafe { result::module::get_function(module.0, c_name) };
            functions.insert(name, function.map_err(cannot_start("cuModuleGetFunction"))?);
        }
        let vendor = match own_kernels {
            true => None,
            false => Some(Vendor::new(&context, &stream, precision, algorithms)?),
        };
        Ok(Self { vendor, _module: module, functions, staging, stream, context, description })
    }

    fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))
    }
}

/// Asks the driver and the libraries for their versions.
fn check_versions() -> Result<(), CudaError> {
    let mut driver = 0;
    // SAFETY: the pointer is to a number.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut driver) };
    status.result().map_err(cannot_start("cuDriverGetVersion"))?;
    // SAFETY: both are loaded, and their functions take nothing.
    let (cublas, cudnn, cudnn_cuda) = unsafe {
        (
            cublaslt::sys::cublasLtGetVersion(),
            cudnn::sys::cudnnGetVersion(),
            cudnn::sys::cudnnGetCudartVersion(),
        )
    };
    check_cudnn(cudnn)?;
    let (major, minor) = compiler::version()?;
    let number = |version: usize| i32::try_from(version).unwrap_or(0);
    let libraries = [
        ("libnvrtc.so", (major, minor)),
        ("libcublasLt.so", (number(cublas / 10_000), number(cublas % 10_000 / 100))),
        ("libcudnn.so", (number(cudnn_cuda / 1000), number(cudnn_cuda % 1000 / 10))),
    ];
    check_driver((driver / 1000, driver % 1000 / 10), &libraries)
}

/// Statuses and more have other numbers before version 9.
fn check_cudnn(version: usize) -> Result<(), CudaError> {
    const OLDEST: usize = 90_000;
    if version >= OLDEST {
        return Ok(());
    }
    let found = format!("{}.{}", version / 1000, version % 1000 / 100);
    Err(CudaError::OldLibrary { library: "libcudnn.so", found, needed: "9" })
}

/// Machine code of a newer major version is nothing to an older driver; within one all is compatible.
fn check_driver(
    (driver, minor): (i32, i32),
    libraries: &[(&'static str, (i32, i32))],
) -> Result<(), CudaError> {
    match libraries.iter().find(|(_, (major, _))| *major > driver) {
        None => Ok(()),
        Some((library, (major, library_minor))) => Err(CudaError::OldDriver {
            driver: format!("{driver}.{minor}"),
            library,
            version: format!("{major}.{library_minor}"),
        }),
    }
}

impl Vendor {
    fn new(
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
        precision: Precision,
        algorithms: Algorithms,
    ) -> Result<Self, CudaError> {
        context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        let queue = stream.cu_stream().cast();
        // SAFETY: the context is current, and the stream its own, kept by the device this is part of.
        let cudnn = unsafe { Cudnn::new(queue, precision, algorithms)? };
        // SAFETY: it is freed once, when this is dropped.
        let workspace =
            unsafe { result::malloc_sync(PRODUCT_WORKSPACE) }.map_err(cannot_start("cuMemAlloc"))?;
        // SAFETY: as for cuDNN; the workspace is freed after the last product.
        let cublas = unsafe { Cublas::new(queue, (workspace, PRODUCT_WORKSPACE), precision, algorithms)? };
        Ok(Self { cudnn, cublas, workspace, context: context.clone() })
    }
}

impl Device for Nvidia {
    fn description(&self) -> String {
        self.description.clone()
    }

    fn free_memory(&self) -> Result<usize, CudaError> {
        self.context.mem_get_info().map(|(free, _)| free).map_err(failed("cuMemGetInfo"))
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Address>, CudaError> {
        self.bind()?;
        // SAFETY: who gets the address frees it.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(failed("cuMemAlloc")(error)),
        }
    }

    unsafe fn free(&self, address: Address) {
        if self.bind().is_ok() {
            // SAFETY: the caller frees once; freeing waits for what uses it. Nothing could be done about a failure.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn upload(&self, to: Address, bytes: usize, fill: &Fill) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: there is memory for it, as the caller says.
        unsafe { self.staging.borrow_mut().upload(self.stream.cu_stream(), to, bytes, fill) }
    }

    unsafe fn download(&self, from: Address, bytes: usize, take: &mut Take) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the memory is there, as the caller says.
        unsafe { self.staging.borrow_mut().download(self.stream.cu_stream(), from, bytes, take) }
    }

    unsafe fn clear(&self, at: Address, bytes: usize) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the memory is there.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemsetD8Async"))
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        [x, y, z]: [u32; 3],
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        self.bind()?;
        let Some(&function) = self.functions.get(kernel) else {
            return Err(CudaError::Call { call: kernel, status: "no such kernel".to_owned() });
        };
        let mut pointers: Vec<_> = arguments.iter().map(Argument::pointer).collect();
        let threads = (count(THREADS), 1, 1);
        // SAFETY: the arguments are the kernel's, as the caller says.
        unsafe {
            result::launch_kernel(function, (x, y, z), threads, 0, self.stream.cu_stream(), &mut pointers)
        }
        .map_err(failed(kernel))
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(failed("cuStreamSynchronize"))
    }

    fn begin_recording(&self) -> Result<bool, CudaError> {
        // Libraries may load code the first time they need it, which this mode allows.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed("cuStreamBeginCapture"))?;
        Ok(true)
    }

    fn end_recording(&self) -> Result<Option<Box<dyn Recording>>, CudaError> {
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let graph = graph.map_err(failed("cuStreamEndCapture"))?;
        let context = self.context.clone();
        Ok(graph.map(|graph| Box::new(Graph { graph, context }) as Box<dyn Recording>))
    }

    fn libraries(&self) -> Option<&dyn Libraries> {
        self.vendor.as_ref().map(|vendor| vendor as &dyn Libraries)
    }
}

/// A recorded graph.
struct Graph {
    graph: CudaGraph,
    context: Arc<CudaContext>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // The graph is destroyed after this, on whichever thread it is.
        let _ = self.context.bind_to_thread();
    }
}

// SAFETY: it may be used from any thread, by one at a time; what launches it makes the context current.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn replay(&self) -> Result<(), CudaError> {
        self.graph.launch().map_err(failed("cuGraphLaunch"))
    }
}

impl Libraries for Vendor {
    fn support(&self, direction: Direction, geometry: &Convolution) -> Option<Support> {
        self.context.bind_to_thread().ok()?;
        self.cudnn.support(direction, geometry)
    }

    unsafe fn convolve(
        &self,
        direction: Direction,
        geometry: &Convolution,
        convolved: Convolved,
        workspace: Address,
    ) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: as the caller says.
        unsafe { self.cudnn.convolve(direction, geometry, convolved, workspace) }
    }

    unsafe fn multiply(
        &self,
        operands: Operands,
        product: &Product,
        batch: usize,
        factors: [Address; 2],
        out: Address,
    ) -> Result<bool, CudaError> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: as the caller says.
        unsafe { self.cublas.multiply(operands, product, batch, factors, out) }
    }
}

pub(super) fn failed(call: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Call { call, status: error.to_string() }
}

/// The same before there was anything to lose.
pub(super) fn cannot_start(call: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Start { call, status: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_do_not_go_together_are_named() {
        let libraries = |nvrtc, cublas, cudnn| {
            [("libnvrtc.so", nvrtc), ("libcublasLt.so", cublas), ("libcudnn.so", cudnn)]
        };
        for driver in [(12, 2), (12, 9), (13, 0)] {
            check_driver(driver, &libraries((12, 9), (12, 4), (12, 0))).unwrap();
        }
        let error = check_driver((12, 8), &libraries((12, 9), (13, 1), (13, 0))).unwrap_err().to_string();
        assert!(error.contains("CUDA 12.8") && error.contains("libcublasLt.so is of CUDA 13.1"), "{error}");
        check_cudnn(90_100).unwrap();
        check_cudnn(92_100).unwrap();
        let error = check_cudnn(8907).unwrap_err().to_string();
        assert!(error.contains("libcudnn.so is of version 8.9"), "{error}");
    }
}
