//! A real device, through the driver.

use super::compiler;
use super::convolution::Direction;
use super::cublas::Cublas;
use super::cudnn::Cudnn;
use super::device::{Address, Argument, Device, Libraries, Recording, THREADS};
use super::error::CudaError;
use super::kernels::{Convolution, Operands, Product, count, names};
use super::library;
use crate::hardware::Precision;
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result, sys};
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
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    description: String,
}

// SAFETY: its handles may be used from any thread, by one at a time, with the context made current; each method does so first.
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
            _ => failed("cuInit")(error),
        })?;
        check_versions()?;
        let devices = CudaContext::device_count().map_err(failed("cuDeviceGetCount"))?;
        let devices = usize::try_from(devices).unwrap_or(0);
        if index >= devices {
            return Err(CudaError::NoDevice { index, count: devices });
        }
        let context = CudaContext::new(index).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let name = context.name().map_err(failed("cuDeviceGetName"))?;
        let capability = context.compute_capability().map_err(failed("cuDeviceGetAttribute"))?;
        let (major, minor) = capability;
        if major < OLDEST {
            return Err(CudaError::OldDevice { name, major, minor });
        }
        let memory = context.total_mem().map_err(failed("cuDeviceTotalMem"))?;
        let description = format!("{name} ({} GiB, compute capability {major}.{minor})", memory >> 30);
        Ok(Self { context, capability, description })
    }
}

impl Nvidia {
    /// Device number `index`, with NVIDIA's libraries or (`own_kernels`) without.
    pub fn new(index: usize, precision: Precision, own_kernels: bool) -> Result<Self, CudaError> {
        let Found { context, capability, description } = Found::new(index)?;
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;

        let code = compiler::compile(capability, precision.storage())?;
        // SAFETY: the compiler made this image.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = Module(module.map_err(failed("cuModuleLoadData"))?, context.clone());
        let mut functions = HashMap::new();
        for name in names() {
            let c_name = CString::new(name).unwrap_or_default();
            // SAFETY: the module is loaded.
            let function = unsafe { result::module::get_function(module.0, c_name) };
            functions.insert(name, function.map_err(failed("cuModuleGetFunction"))?);
        }
        let vendor = match own_kernels {
            true => None,
            false => Some(Vendor::new(&context, &stream, precision)?),
        };
        Ok(Self { vendor, _module: module, functions, stream, context, description })
    }

    fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))
    }
}

/// Machine code of newer compilers is nothing to older drivers.
fn check_versions() -> Result<(), CudaError> {
    let mut driver = 0;
    // SAFETY: the pointer is to a number.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut driver) };
    status.result().map_err(failed("cuDriverGetVersion"))?;
    let (major, minor) = compiler::version()?;
    // Within a major version all is compatible.
    if driver / 1000 < major {
        let driver = format!("{}.{}", driver / 1000, driver % 1000 / 10);
        return Err(CudaError::OldDriver { driver, libraries: format!("{major}.{minor}") });
    }
    Ok(())
}

impl Vendor {
    fn new(
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
        precision: Precision,
    ) -> Result<Self, CudaError> {
        context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        let queue = stream.cu_stream().cast();
        // SAFETY: the context is current, and the stream its own, kept by the device this is part of.
        let cudnn = unsafe { Cudnn::new(queue, precision)? };
        // SAFETY: it is freed once, when this is dropped.
        let workspace = unsafe { result::malloc_sync(PRODUCT_WORKSPACE) }.map_err(failed("cuMemAlloc"))?;
        // SAFETY: as for cuDNN; the workspace is freed after the last product.
        let cublas = unsafe { Cublas::new(queue, (workspace, PRODUCT_WORKSPACE), precision)? };
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

    unsafe fn upload(&self, to: Address, data: &[u8]) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: there is memory for it; ordinary memory is read before the call returns.
        unsafe { result::memcpy_htod_async(to, data, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyHtoDAsync"))
    }

    unsafe fn download(&self, from: Address, out: &mut [u8]) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the memory is there, and `out` is not looked at before the copy is done.
        unsafe { result::memcpy_dtoh_async(out, from, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyDtoHAsync"))?;
        self.stream.synchronize().map_err(failed("cuStreamSynchronize"))
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
        Ok(graph.map(|graph| Box::new(Graph(graph)) as Box<dyn Recording>))
    }

    fn libraries(&self) -> Option<&dyn Libraries> {
        self.vendor.as_ref().map(|vendor| vendor as &dyn Libraries)
    }
}

/// A recorded graph.
struct Graph(CudaGraph);

// SAFETY: it may be used from any thread, by one at a time; what launches it makes the context current.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn replay(&self) -> Result<(), CudaError> {
        self.0.launch().map_err(failed("cuGraphLaunch"))
    }
}

impl Libraries for Vendor {
    fn convolution_workspace(&self, direction: Direction, geometry: &Convolution) -> Option<usize> {
        self.context.bind_to_thread().ok()?;
        self.cudnn.workspace(direction, geometry)
    }

    unsafe fn convolve(
        &self,
        direction: Direction,
        geometry: &Convolution,
        from: [Address; 2],
        out: Address,
        workspace: Address,
    ) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: as the caller says.
        unsafe { self.cudnn.convolve(direction, geometry, from, out, workspace) }
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

fn failed(call: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Call { call, status: error.to_string() }
}
