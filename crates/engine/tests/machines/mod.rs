//! What tests compute on: the CPU, its matrix unit if it has one and that unit emulated, the CUDA backend's
//! kernels emulated on the CPU, and a CUDA device if there is one.

use engine::{Backend, ConvMethod, Cpu, CpuOptions, Cuda, CudaOptions, Precision};
use std::sync::Once;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Machine {
    Cpu(ConvMethod),
    /// The CPU with its matrix unit emulated.
    MatrixUnit,
    /// The CUDA backend on the CPU.
    Emulated(CudaOptions),
    /// A CUDA device.
    Cuda(CudaOptions),
}

/// The CUDA backends that can be had, of this precision: with NVIDIA's libraries (or what stands in for them)
/// and without. Says what is left out.
pub fn cuda(precision: Precision) -> Vec<Machine> {
    static SAID: Once = Once::new();
    let both =
        [true, false].map(|own_kernels| CudaOptions { precision, own_kernels, ..CudaOptions::default() });
    if std::env::var_os("DDPM_TEST_CUDA").is_some() {
        // There must be a device, and its time is not spent on the emulation.
        Cuda::find(0).unwrap_or_else(|error| panic!("DDPM_TEST_CUDA is set, and {error}"));
        return both.map(Machine::Cuda).into();
    }
    let mut machines = Vec::new();
    match Cuda::emulated(both[0]) {
        Ok(_) => machines.extend(both.map(Machine::Emulated)),
        // Tests write one after the other what is left out.
        Err(error) => println!("SKIPPED, no emulation of CUDA: {error}"),
    }
    match Cuda::find(0) {
        Ok(_) => machines.extend(both.map(Machine::Cuda)),
        Err(error) => SAID.call_once(|| eprintln!("SKIPPED, no CUDA device: {error}")),
    }
    machines
}

/// The CPU with a matrix unit, emulated and, where there is one, real. Says what is left out.
#[allow(dead_code, reason = "not every test wants it")]
pub fn matrix_units() -> Vec<Machine> {
    static SAID: Once = Once::new();
    let mut machines = vec![Machine::MatrixUnit];
    match (CpuOptions { conv: ConvMethod::Bf16x3, ..CpuOptions::default() }).validate() {
        Ok(()) => machines.push(Machine::Cpu(ConvMethod::Bf16x3)),
        Err(error) => SAID.call_once(|| eprintln!("SKIPPED, no matrix unit: {error}")),
    }
    machines
}

impl Machine {
    /// All there are in `f32`, the CPU by this method.
    #[allow(dead_code, reason = "not every test wants it")]
    pub fn with(conv: ConvMethod) -> Vec<Self> {
        let cuda = if conv == ConvMethod::default() { cuda(Precision::F32) } else { Vec::new() };
        [Self::Cpu(conv)].into_iter().chain(cuda).collect()
    }

    /// All there are in `f32`.
    #[allow(dead_code, reason = "not every test wants it")]
    pub fn all() -> Vec<Self> {
        Self::with(ConvMethod::default())
    }

    pub fn backend(self) -> Box<dyn Backend> {
        match self {
            Self::Cpu(conv) => {
                Box::new(Cpu::with_options(CpuOptions { threads: 2, conv, ..CpuOptions::default() }).unwrap())
            }
            Self::MatrixUnit => {
                let options = CpuOptions { threads: 2, ..CpuOptions::default() };
                Box::new(Cpu::with_emulated_matrix_unit(options).unwrap())
            }
            Self::Emulated(options) => Box::new(Cuda::emulated(options).unwrap()),
            Self::Cuda(options) => Box::new(Cuda::new(options).unwrap()),
        }
    }

    /// What the CPU is held to, or what other ways of adding up may differ by.
    #[allow(dead_code, reason = "not every test wants it")]
    pub fn tolerance(self, cpu: f64) -> f64 {
        match self {
            Self::Cpu(_) => cpu,
            _ => cpu.max(1e-5),
        }
    }
}
