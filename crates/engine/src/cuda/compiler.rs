//! Kernels compiled at start, by NVRTC, for the device's own architecture.

use super::error::CudaError;
use super::kernels::source;
use crate::kernel::Storage;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, PoisonError};

/// The version of NVRTC, as (major, minor).
pub(super) fn version() -> Result<(i32, i32), CudaError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: NVRTC is loaded; both pointers are to numbers.
    let status = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    status.result().map_err(|error| call("nvrtcVersion", &error))?;
    Ok((major, minor))
}

/// A program that is given back.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// The numbers of the architectures for which NVRTC makes code, as 90 for 9.0.
fn supported() -> Result<Vec<i32>, CudaError> {
    let mut count = 0;
    // SAFETY: NVRTC is loaded, the pointer is to a number.
    let status = unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) };
    status.result().map_err(|error| call("nvrtcGetNumSupportedArchs", &error))?;
    let mut architectures = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for all.
    let status = unsafe { sys::nvrtcGetSupportedArchs(architectures.as_mut_ptr()) };
    status.result().map_err(|error| call("nvrtcGetSupportedArchs", &error))?;
    Ok(architectures)
}

/// The architecture to compile for: the device's, or the nearest before it, whose code it runs if the major
/// number is the same.
fn architecture((major, minor): (i32, i32), supported: &[i32]) -> Option<i32> {
    let family = 10 * major..=10 * major + minor;
    supported.iter().copied().filter(|number| family.contains(number)).max()
}

/// Machine code of all kernels for a compute capability and activations stored as `storage`. NVRTC must have
/// been loaded. It is made once in a process: that takes seconds.
pub(super) fn compile(capability: (i32, i32), storage: Storage) -> Result<Arc<Vec<u8>>, CudaError> {
    type Made = ((i32, i32), Storage, Arc<Vec<u8>>);
    static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., code)) =
        made.iter().find(|(known, stored, _)| (*known, *stored) == (capability, storage))
    {
        return Ok(code.clone());
    }
    let code = Arc::new(compile_anew(capability, storage)?);
    made.push((capability, storage, code.clone()));
    Ok(code)
}

fn compile_anew((major, minor): (i32, i32), storage: Storage) -> Result<Vec<u8>, CudaError> {
    let Some(number) = architecture((major, minor), &supported()?) else {
        let (version, point) = version()?;
        return Err(CudaError::UnknownArchitecture { version: format!("{version}.{point}"), major, minor });
    };
    let architecture = format!("sm_{number}");
    let source = CString::new(source(storage)).map_err(|error| call("reading the kernels", &error))?;
    let program = result::create_program(&source, Some(c"ddpm.cu"));
    let program = Program(program.map_err(|error| call("nvrtcCreateProgram", &error))?);
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
    // SAFETY: the program was created and is destroyed at the end.
    if unsafe { result::compile_program(program.0, &options) }.is_err() {
        return Err(CudaError::Compile { architecture, log: log(&program) });
    }
    let mut len = 0;
    // SAFETY: the program is compiled, the pointer is to a number.
    let status = unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut len) };
    status.result().map_err(|error| call("nvrtcGetCUBINSize", &error))?;
    let mut code = vec![0u8; len];
    // SAFETY: there is room for `len` bytes.
    let status = unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) };
    status.result().map_err(|error| call("nvrtcGetCUBIN", &error))?;
    Ok(code)
}

fn log(program: &Program) -> String {
    // SAFETY: the program was created and is not destroyed.
    let Ok(log) = (unsafe { result::get_program_log(program.0) }) else {
        return "its log cannot be read".to_owned();
    };
    // C's characters have a sign on some processors and none on others.
    let bytes: Vec<u8> = log.iter().flat_map(|byte| byte.to_ne_bytes()).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

fn call(call: &'static str, error: &dyn std::fmt::Display) -> CudaError {
    CudaError::Start { call, status: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::library;
    use std::path::PathBuf;
    use std::time::Instant;

    #[test]
    fn a_device_runs_code_of_its_own_family() {
        let supported = [75, 80, 86, 90, 100];
        assert_eq!(architecture((9, 0), &supported), Some(90));
        assert_eq!(architecture((8, 9), &supported), Some(86));
        assert_eq!(architecture((10, 3), &supported), Some(100));
        assert_eq!(architecture((12, 0), &supported), None);
        assert_eq!(architecture((7, 0), &supported), None);
    }

    /// NVRTC needs no GPU: `DDPM_TEST_NVRTC` names the folder that has it.
    #[test]
    fn kernels_compile_for_every_architecture() {
        let Some(folder) = std::env::var_os("DDPM_TEST_NVRTC").map(PathBuf::from) else {
            println!(
                "SKIPPED: DDPM_TEST_NVRTC names no folder with libnvrtc; kernels are not compiled for GPUs"
            );
            return;
        };
        library::load_compiler(Some(&folder)).unwrap();
        println!("NVRTC {:?}", version().unwrap());
        for storage in [Storage::F32, Storage::Bf16] {
            for capability in [(8, 0), (9, 0), (10, 0)] {
                let start = Instant::now();
                let code = compile(capability, storage).unwrap_or_else(|error| panic!("{error}"));
                assert!(code.starts_with(b"\x7fELF"), "no machine code for {capability:?}");
                println!("{capability:?}, {storage:?}: {} bytes in {:?}", code.len(), start.elapsed());
            }
        }
        let error = compile((99, 0), Storage::F32).unwrap_err().to_string();
        assert!(error.contains("99.0"), "{error}");
    }
}
