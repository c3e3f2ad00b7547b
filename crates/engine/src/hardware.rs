//! What networks are computed on: the one place that chooses a backend.

use crate::backend::{Backend, BackendError};
use crate::cpu::{Cpu, CpuOptions};
use crate::cuda::{Cuda, CudaOptions};
use crate::kernel::Storage;
use std::fmt;
use std::str::FromStr;

/// Which device, as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Device {
    /// Whichever is best, of those that have proven themselves.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, from 0.
    Cuda(usize),
}

/// `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => name
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("{name} is not a device: auto, cpu, cuda or cuda:N")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// How products are computed. Weights, statistics and losses are `f32` in any case.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Precision {
    /// In `f32`.
    #[default]
    F32,
    /// From factors of 10 bits on tensor cores; sums in `f32`. CUDA only.
    Tf32,
    /// Activations are stored as bf16, products are from bf16; sums, statistics and weights are `f32`. CUDA only.
    Bf16,
}

impl Precision {
    /// What activations are stored as.
    pub(crate) const fn storage(self) -> Storage {
        match self {
            Self::F32 | Self::Tf32 => Storage::F32,
            Self::Bf16 => Storage::Bf16,
        }
    }
}

/// How the libraries' algorithms are chosen on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Algorithms {
    /// By rules, and only those that give the same bits every time.
    #[default]
    Reproducible,
    /// By timing them at start, whatever order they add up in: two runs differ in the last bits.
    Fastest,
}

/// What networks are computed on, and how.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hardware {
    /// The device asked for.
    pub device: Device,
    /// How it computes products.
    pub precision: Precision,
    /// How a GPU's algorithms are chosen.
    pub algorithms: Algorithms,
    /// How the CPU computes, where it is the one.
    pub cpu: CpuOptions,
}

impl From<CpuOptions> for Hardware {
    fn from(cpu: CpuOptions) -> Self {
        Self { cpu, ..Self::default() }
    }
}

impl Hardware {
    /// Checks what can be without looking for the device.
    ///
    /// # Errors
    /// If the CPU is to compute in another precision than its own, or by a unit that it has not.
    pub fn validate(&self) -> Result<(), BackendError> {
        match self.device {
            Device::Auto | Device::Cpu if self.precision != Precision::F32 => Err(BackendError::CpuPrecision),
            Device::Auto | Device::Cpu => self.cpu.validate(),
            Device::Cuda(_) => Ok(()),
        }
    }

    /// A backend on the device.
    ///
    /// # Errors
    /// If it is not there, lacks something, or does not compute in this precision.
    pub fn open(&self) -> Result<Box<dyn Backend>, BackendError> {
        self.validate()?;
        match self.device {
            Device::Cuda(index) => {
                let (precision, algorithms) = (self.precision, self.algorithms);
                let options = CudaOptions { index, precision, algorithms, own_kernels: false };
                Ok(Box::new(Cuda::new(options)?))
            }
            Device::Auto | Device::Cpu => Ok(Box::new(Cpu::with_options(self.cpu)?)),
        }
    }

    /// What `auto` chose and why, in a line; `None` where nothing was left to choose.
    pub fn choice(&self) -> Option<String> {
        (self.device == Device::Auto).then(|| match Cuda::find(0) {
            Ok(gpu) => format!(
                "device: the CPU; --device cuda would take {gpu}, but that way has not been proven on a GPU yet"
            ),
            Err(error) => format!("device: the CPU, since {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(name.parse::<Device>().is_err(), "{name}");
        }
    }

    #[test]
    fn what_a_device_cannot_do_is_refused() {
        let refused = |hardware: Hardware| hardware.open().err().unwrap().to_string();
        for precision in [Precision::Tf32, Precision::Bf16] {
            let cpu = Hardware { precision, ..Hardware::default() };
            assert!(refused(cpu).contains("--precision f32"));
        }
    }
}
