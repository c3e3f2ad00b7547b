//! Kernels compiled at start, by NVRTC, for the device's own architecture.

use super::error::CudaError;
use super::kernels::source;
use crate::kernel::Storage;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString};

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

/// Machine code of all kernels for a compute capability and activations stored as `storage`. NVRTC must have been loaded.
pub(super) fn compile((major, minor): (i32, i32), storage: Storage) -> Result<Vec<u8>, CudaError> {
    let architecture = format!("sm_{major}{minor}");
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
    CudaError::Call { call, status: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::library;
    use std::path::PathBuf;

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
                let code = compile(capability, storage).unwrap_or_else(|error| panic!("{error}"));
                assert!(code.starts_with(b"\x7fELF"), "no machine code for {capability:?}");
                println!("{capability:?}, {storage:?}: {} bytes", code.len());
            }
        }
    }
}
