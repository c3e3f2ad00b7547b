//! The engine: NHWC `f32` tensors, the operations of convolutional networks with their gradients,
//! an optimiser, counter-based randomness, and the kernels that run them.
//!
//! A model is written once, forward only, as calls on a [`Graph`]. [`Program`] derives the gradient
//! from the recorded operations and plans every activation's place in one arena ahead of time.
//! A [`Session`] runs a program on a [`Backend`]; no memory for tensors is allocated while it runs.
//!
//! Results are the same bits for any number of threads and any vector width; predictions also for any split
//! into batches.

pub mod backend;
pub mod cpu;
pub mod cuda;
pub mod graph;
pub mod hardware;
pub mod kernel;
pub mod ops;
pub mod optimizer;
pub mod params;
pub mod profile;
pub mod program;
pub mod random;
pub mod session;
pub mod shape;

pub use backend::{Backend, BackendError};
pub use cpu::{ConvMethod, Cpu, CpuOptions, Level};
pub use cuda::{Cuda, CudaError, CudaOptions};
pub use graph::{Graph, Var};
pub use hardware::{Algorithms, Device, Hardware, Precision};
pub use kernel::{Run, Slot};
pub use ops::{Conv, GroupNorm, Padding, Pool, Sinusoid};
pub use optimizer::AdamStep;
pub use params::{Init, Param, ParamLayout, ParamSpec};
pub use profile::Profile;
pub use program::{Program, Recomputation, TrainingOptions};
pub use session::Session;
pub use shape::{ImageShape, Shape};
