//! What can go wrong with an NVIDIA device, and what to do about it.

/// Why a CUDA device cannot be used, or stopped working.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum CudaError {
    /// A library is not there.
    #[error("{library} cannot be loaded ({purpose}): {remedy}; or use --device cpu")]
    MissingLibrary {
        /// The file's name.
        library: &'static str,
        /// What it is for.
        purpose: &'static str,
        /// What to do.
        remedy: String,
    },
    /// A library lacks a function: it is too old, or not what its name says.
    #[error(
        "{library} has no function {function}: it is too old; install one of CUDA 12 or later, or use --device cpu"
    )]
    MissingFunction {
        /// The file's name.
        library: &'static str,
        /// The function.
        function: &'static str,
    },
    /// The driver is older than a library.
    #[error(
        "the NVIDIA driver supports CUDA {driver}, but {library} is of CUDA {version}: install a newer driver, or libraries of \
         CUDA {driver} or older, or use --device cpu"
    )]
    OldDriver {
        /// The newest CUDA that the driver supports.
        driver: String,
        /// The library's file.
        library: &'static str,
        /// The CUDA that it is of, or made for.
        version: String,
    },
    /// A library is too old.
    #[error(
        "{library} is of version {found}, at least {needed} is needed: install that, or use --device cpu"
    )]
    OldLibrary {
        /// The library's file.
        library: &'static str,
        /// Its version.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// The run-time compiler does not know the device.
    #[error(
        "CUDA's run-time compiler, of version {version}, makes no code for compute capability {major}.{minor}: install the CUDA \
         libraries of a version that does (a newer one for a new device), or use --device cpu"
    )]
    UnknownArchitecture {
        /// Its version.
        version: String,
        /// The device's compute capability.
        major: i32,
        /// After the point.
        minor: i32,
    },
    /// The device is there, but cannot be put to work.
    #[error(
        "the CUDA device cannot be put to work: {call} failed with {status}; see whether nvidia-smi shows it and memory free, or use \
         --device cpu"
    )]
    Start {
        /// The function.
        call: &'static str,
        /// The status it returned.
        status: String,
    },
    /// There is no device of this number.
    #[error(
        "there is no CUDA device {index}: the driver shows {count} (CUDA_VISIBLE_DEVICES may hide some); use --device cpu or cuda:N with N below {count}"
    )]
    NoDevice {
        /// The number asked for, from 0.
        index: usize,
        /// Devices there are.
        count: usize,
    },
    /// The device is too old.
    #[error("{name} has compute capability {major}.{minor}; at least 7.0 is needed: use --device cpu")]
    OldDevice {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// After the point.
        minor: i32,
    },
    /// An operation on statistics, times or losses, which are not stored as activations are.
    #[error("with --precision bf16, {kernel} cannot compute with losses or times: use tf32 or f32")]
    MixedStorage {
        /// The operation.
        kernel: String,
    },
    /// A tensor or batch is larger than kernels can count.
    #[error(
        "{what} of {count} is too large for a CUDA device (at most {limit}): use a smaller batch or train.micro_batch"
    )]
    TooLarge {
        /// Of what there are too many.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The device's memory is short.
    #[error(
        "{what} need {bytes} bytes, but the CUDA device has {free} free: use a smaller batch or train.micro_batch, or end what else runs there"
    )]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that could be had.
        free: usize,
        /// What they were for.
        what: &'static str,
    },
    /// The kernels did not compile.
    #[error("NVRTC could not compile the kernels for {architecture}: {log}")]
    Compile {
        /// The device's architecture.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// A call of the driver or a library failed.
    #[error(
        "CUDA device: {call} failed with {status}; what it was computing is lost, start again from what was saved"
    )]
    Call {
        /// The function.
        call: &'static str,
        /// The status it returned.
        status: String,
    },
}
