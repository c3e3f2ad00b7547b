//! The kernels on the CPU: their source compiled as C++ by the system's compiler, with `emulation.h` for what
//! CUDA adds. For tests.

mod stand_ins;
mod tape;

use super::device::{Address, Argument, Device, Fill, Libraries, Recording, THREADS, Take};
use super::error::CudaError;
use super::kernels::{count, names, source};
use super::transfer::parts;
use crate::kernel::Storage;
use stand_ins::StandIns;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use tape::Tape;

type Launch = unsafe extern "C" fn(grid: *const u32, threads: u32, arguments: *mut *mut c_void, count: u32);

/// The compiled kernels.
struct Kernels {
    launches: HashMap<&'static str, Launch>,
    /// What the launches point into.
    _library: libloading::Library,
}

/// The CPU in the place of a GPU. Memory is the program's own, addresses are pointers.
pub(super) struct Emulation {
    kernels: &'static Kernels,
    stand_ins: Option<StandIns>,
    tape: Tape,
    allocations: Mutex<HashMap<Address, Vec<u64>>>,
}

/// Bytes that cross at once: few, so that much crosses in parts.
const AT_ONCE: usize = 1000;

/// What makes a kernel one with barriers.
const BARRIERS: [&str; 8] = [
    "__syncthreads(",
    "block_sum(",
    "block_max(",
    "sum_rows<",
    "fold(",
    "transpose(",
    "multiply(",
    "multiply_matrices(",
];

impl Emulation {
    /// With stand-ins for NVIDIA's libraries, or without.
    pub fn new(storage: Storage, libraries: bool) -> Result<Self, CudaError> {
        static KERNELS: [OnceLock<Result<Kernels, CudaError>>; 2] = [OnceLock::new(), OnceLock::new()];
        let kernels = KERNELS[usize::from(storage == Storage::Bf16)].get_or_init(|| build(storage));
        let kernels = kernels.as_ref().map_err(Clone::clone)?;
        let tape = Tape::default();
        let stand_ins = libraries.then(|| StandIns { storage, tape: tape.clone() });
        Ok(Self { kernels, stand_ins, tape, allocations: Mutex::default() })
    }
}

fn build(storage: Storage) -> Result<Kernels, CudaError> {
    let failed = |error: &dyn std::fmt::Display| CudaError::Compile {
        architecture: "emulation".to_owned(),
        log: error.to_string(),
    };
    let kernels = source(storage);
    let mut source = format!("{}{kernels}", include_str!("emulation.h"));
    for name in names() {
        let text = kernels.split(&format!("__global__ void {name}(")).nth(1).unwrap_or_default();
        let text = text.split("\n}\n").next().unwrap_or_default();
        let barriers = BARRIERS.iter().any(|call| text.contains(call));
        // Writing to a string cannot fail.
        let _ = writeln!(source, "EMULATED({name}, {barriers})");
    }
    let folder = std::env::temp_dir().join(format!("ddpm-emulation-{}-{storage:?}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
    let loaded = compile(&source, &folder).map_err(|error| failed(&error));
    // The library stays loaded; that the folder cannot be removed matters to nobody.
    let _ = std::fs::remove_dir_all(&folder);
    let library = loaded?;
    let mut launches = HashMap::new();
    for name in names() {
        // SAFETY: `EMULATED` defines functions of this type.
        let launch = unsafe { library.get::<Launch>(format!("emulated_{name}").as_bytes()) };
        launches.insert(name, *launch.map_err(|error| failed(&error))?);
    }
    Ok(Kernels { launches, _library: library })
}

fn compile(source: &str, folder: &Path) -> Result<libloading::Library, String> {
    let (text, library) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
    std::fs::write(&text, source).map_err(|error| error.to_string())?;
    let output = Command::new("g++")
        .args([
            "-std=c++17",
            "-O2",
            "-march=native",
            "-U_FORTIFY_SOURCE",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-w",
        ])
        .args(["-shared", "-fPIC", "-fvisibility=hidden", "-o"])
        .args([&library, &text])
        .output()
        .map_err(|error| format!("g++: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // SAFETY: it is what was just compiled; loading it runs nothing of note.
    unsafe { libloading::Library::new(&library) }.map_err(|error| error.to_string())
}

impl Device for Emulation {
    fn description(&self) -> String {
        "kernels emulated on the CPU".to_owned()
    }

    fn free_memory(&self) -> Result<usize, CudaError> {
        Ok(0)
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Address>, CudaError> {
        /// Elements between the start of the memory and a multiple of 64 bytes.
        const MARGIN: usize = 8;
        self.tape.refuse("taking memory")?;
        let mut memory = Vec::new();
        if memory.try_reserve_exact(bytes.div_ceil(8) + MARGIN).is_err() {
            return Ok(None);
        }
        // What is read before it is written shows: NaN.
        memory.resize(bytes.div_ceil(8) + MARGIN, u64::MAX);
        let address = (memory.as_mut_ptr() as Address).next_multiple_of(64);
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).insert(address, memory);
        Ok(Some(address))
    }

    unsafe fn free(&self, address: Address) {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    unsafe fn upload(&self, to: Address, bytes: usize, fill: &Fill) -> Result<(), CudaError> {
        self.tape.refuse("an upload")?;
        for part in parts(bytes, AT_ONCE) {
            // SAFETY: there is memory for it.
            fill(part.start, unsafe {
                std::slice::from_raw_parts_mut((to as *mut u8).add(part.start), part.len())
            });
        }
        Ok(())
    }

    unsafe fn download(&self, from: Address, bytes: usize, take: &mut Take) -> Result<(), CudaError> {
        self.tape.refuse("a download")?;
        for part in parts(bytes, AT_ONCE) {
            // SAFETY: the memory is there.
            take(part.start, unsafe {
                std::slice::from_raw_parts((from as *const u8).add(part.start), part.len())
            });
        }
        Ok(())
    }

    unsafe fn clear(&self, at: Address, bytes: usize) -> Result<(), CudaError> {
        self.tape.take(move || {
            // SAFETY: the memory is there.
            unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
            Ok(())
        })
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        /// Fibres and shared memory are the library's variables.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let Some(&launch) = self.kernels.launches.get(kernel) else {
            return Err(CudaError::Call { call: kernel, status: "no such kernel".to_owned() });
        };
        let arguments = arguments.to_vec();
        self.tape.take(move || {
            let mut pointers: Vec<_> = arguments.iter().map(Argument::pointer).collect();
            let _guard = ONE_AT_A_TIME.lock();
            // SAFETY: the arguments are the kernel's, as the caller says; their number is checked there.
            unsafe { launch(grid.as_ptr(), count(THREADS), pointers.as_mut_ptr(), count(pointers.len())) };
            Ok(())
        })
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.tape.refuse("waiting")
    }

    fn begin_recording(&self) -> Result<bool, CudaError> {
        self.tape.begin();
        Ok(true)
    }

    fn end_recording(&self) -> Result<Option<Box<dyn Recording>>, CudaError> {
        Ok(self.tape.end())
    }

    fn libraries(&self) -> Option<&dyn Libraries> {
        self.stand_ins.as_ref().map(|stand_ins| stand_ins as &dyn Libraries)
    }
}
