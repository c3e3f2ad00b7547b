//! NVIDIA's libraries, loaded when a device is wanted. They are looked for before they are used, so that what
//! is missing is an error with a remedy.

use super::error::CudaError;
use cudarc::{cublaslt, cudnn, driver, nvrtc};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Folders to look into first, divided as PATH is.
const FOLDERS: &str = "DDPM_CUDA_LIBRARIES";

/// A library, and what of it must be there.
struct Library {
    /// The name that errors give.
    name: &'static str,
    purpose: &'static str,
    remedy: &'static str,
    /// File names for folders named by the user, newest first.
    files: &'static [&'static str],
    /// Beginnings of the names of what it loads itself, by name, from the same folder.
    companions: &'static [&'static str],
    is_present: unsafe fn() -> bool,
    loaded: unsafe fn() -> &'static libloading::Library,
    functions: &'static [&'static str],
}

const TOOLKIT: &str = "install CUDA 12 or later, or name the folders of its libraries in DDPM_CUDA_LIBRARIES, divided by colons";

const LIBRARIES: [Library; 4] = [
    Library {
        name: "libcuda.so.1",
        purpose: "the NVIDIA driver",
        remedy: "this machine has no NVIDIA driver, or the program cannot see it: install one",
        files: &[],
        companions: &[],
        is_present: driver::sys::is_culib_present,
        loaded: driver::sys::culib,
        functions: &[
            "cuInit",
            "cuDriverGetVersion",
            "cuDeviceGet",
            "cuDeviceGetCount",
            "cuDeviceGetName",
            "cuDeviceGetAttribute",
            "cuDeviceTotalMem_v2",
            "cuDevicePrimaryCtxRetain",
            "cuDevicePrimaryCtxRelease_v2",
            "cuCtxGetCurrent",
            "cuCtxSetCurrent",
            "cuCtxSynchronize",
            "cuGetErrorName",
            "cuGetErrorString",
            "cuStreamCreate",
            "cuStreamSynchronize",
            "cuStreamDestroy_v2",
            "cuMemAlloc_v2",
            "cuMemFree_v2",
            "cuMemGetInfo_v2",
            "cuMemHostAlloc",
            "cuMemFreeHost",
            "cuEventCreate",
            "cuEventRecord",
            "cuEventSynchronize",
            "cuEventDestroy_v2",
            "cuMemcpyHtoDAsync_v2",
            "cuMemcpyDtoHAsync_v2",
            "cuMemsetD8Async",
            "cuModuleLoadData",
            "cuModuleUnload",
            "cuModuleGetFunction",
            "cuLaunchKernel",
            "cuStreamBeginCapture_v2",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags",
            "cuGraphLaunch",
            "cuGraphDestroy",
            "cuGraphExecDestroy",
        ],
    },
    Library {
        name: "libnvrtc.so",
        purpose: "CUDA's run-time compiler, for kernels",
        remedy: TOOLKIT,
        files: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
        companions: &["libnvrtc-builtins.so"],
        is_present: nvrtc::sys::is_culib_present,
        loaded: nvrtc::sys::culib,
        functions: &[
            "nvrtcVersion",
            "nvrtcGetNumSupportedArchs",
            "nvrtcGetSupportedArchs",
            "nvrtcCreateProgram",
            "nvrtcCompileProgram",
            "nvrtcGetProgramLogSize",
            "nvrtcGetProgramLog",
            "nvrtcGetCUBINSize",
            "nvrtcGetCUBIN",
            "nvrtcDestroyProgram",
        ],
    },
    // cuDNN loads cuBLAS itself, by its name: it must be there before.
    Library {
        name: "libcublasLt.so",
        purpose: "CUDA's matrix products",
        remedy: TOOLKIT,
        files: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
        companions: &["libcublas.so"],
        is_present: cublaslt::sys::is_culib_present,
        loaded: cublaslt::sys::culib,
        functions: &[
            "cublasLtGetVersion",
            "cublasLtCreate",
            "cublasLtDestroy",
            "cublasLtMatmul",
            "cublasLtMatmulAlgoGetHeuristic",
            "cublasLtMatmulDescCreate",
            "cublasLtMatmulDescSetAttribute",
            "cublasLtMatmulDescDestroy",
            "cublasLtMatrixLayoutCreate",
            "cublasLtMatrixLayoutSetAttribute",
            "cublasLtMatrixLayoutDestroy",
            "cublasLtMatmulPreferenceCreate",
            "cublasLtMatmulPreferenceSetAttribute",
            "cublasLtMatmulPreferenceDestroy",
        ],
    },
    Library {
        name: "libcudnn.so",
        purpose: "NVIDIA's convolutions",
        remedy: "install cuDNN 9, or name its folder in DDPM_CUDA_LIBRARIES",
        files: &["libcudnn.so.9", "libcudnn.so"],
        companions: &["libcudnn_"],
        is_present: cudnn::sys::is_culib_present,
        loaded: cudnn::sys::culib,
        functions: &[
            "cudnnGetVersion",
            "cudnnGetCudartVersion",
            "cudnnCreate",
            "cudnnDestroy",
            "cudnnSetStream",
            "cudnnBackendCreateDescriptor",
            "cudnnBackendDestroyDescriptor",
            "cudnnBackendSetAttribute",
            "cudnnBackendGetAttribute",
            "cudnnBackendFinalize",
            "cudnnBackendExecute",
        ],
    },
];

/// Loads all libraries, or says which is missing.
pub(super) fn load() -> Result<(), CudaError> {
    LIBRARIES.iter().try_for_each(Library::load)
}

#[cfg(test)]
/// Loads the run-time compiler alone, from `folder` if it is there: compiling needs no driver.
pub(super) fn load_compiler(folder: Option<&Path>) -> Result<(), CudaError> {
    let compiler = &LIBRARIES[1];
    if let Some(folder) = folder {
        compiler.preload(folder);
    }
    compiler.load()
}

#[cfg(test)]
/// Loads all but the driver, without which cuDNN plans for devices that are not there, from the folders that
/// `DDPM_TEST_CUDNN` names; if there are none, says that `what` is not tested and gives false.
pub(super) fn load_without_driver(what: &str) -> bool {
    let folders = folders("DDPM_TEST_CUDNN");
    if folders.is_empty() {
        println!("SKIPPED: DDPM_TEST_CUDNN names no folders with cuDNN, cuBLASLt and NVRTC; {what}");
        return false;
    }
    for library in &LIBRARIES[1..] {
        folders.iter().for_each(|folder| library.preload(folder));
        library.load().unwrap();
    }
    true
}

impl Library {
    fn load(&self) -> Result<(), CudaError> {
        // Two threads at once would do no harm, but one after the other do it once.
        static LOADING: Mutex<()> = Mutex::new(());
        let _guard = LOADING.lock();
        folders(FOLDERS).iter().for_each(|folder| self.preload(folder));
        // SAFETY: NVIDIA's libraries do nothing of note when they are loaded.
        if !unsafe { (self.is_present)() } {
            toolkit_folders().iter().for_each(|folder| self.preload(folder));
        }
        // SAFETY: as above.
        if !unsafe { (self.is_present)() } {
            let remedy = self.remedy.to_owned();
            return Err(CudaError::MissingLibrary { library: self.name, purpose: self.purpose, remedy });
        }
        for function in self.functions {
            // SAFETY: the library is present; the function is looked up, not called.
            let symbol = unsafe { (self.loaded)().get::<unsafe extern "C" fn()>(function.as_bytes()) };
            if symbol.is_err() {
                return Err(CudaError::MissingFunction { library: self.name, function });
            }
        }
        Ok(())
    }

    /// Loads the library from a folder if it is there. It stays; who asks for it by its name later gets this one.
    fn preload(&self, folder: &Path) {
        let Some(path) = self.files.iter().map(|file| folder.join(file)).find(|path| path.exists()) else {
            return;
        };
        keep(&path);
        let entries = folder.read_dir().into_iter().flatten().flatten();
        let is_companion = |path: &PathBuf| {
            let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
            self.companions.iter().any(|start| name.starts_with(start)) && name.contains(".so.")
        };
        let companions: Vec<_> = entries.map(|entry| entry.path()).filter(is_companion).collect();
        // Twice: some need others.
        companions.iter().chain(&companions).for_each(|path| keep(path));
    }
}

/// Loads a library for good; that it cannot be shows when it is looked for by its name.
fn keep(path: &Path) {
    // SAFETY: NVIDIA's libraries do nothing of note when they are loaded. Whatever else has their names, the
    // user named the folder.
    if let Ok(library) = unsafe { libloading::Library::new(path) } {
        std::mem::forget(library);
    }
}

/// The folders that a variable of the environment names.
fn folders(variable: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(variable);
    value
        .as_deref()
        .map(OsStr::to_os_string)
        .map_or_else(Vec::new, |value| std::env::split_paths(&value).collect())
}

/// Where CUDA is usually installed.
fn toolkit_folders() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().flat_map(folders);
    named.chain([PathBuf::from("/usr/local/cuda")]).map(|root| root.join("lib64")).collect()
}
