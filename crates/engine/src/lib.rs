//! The engine: NHWC `f32` tensors, the operations of convolutional networks with their gradients,
//! an optimiser, counter-based randomness, and the kernels that run them.
//!
//! A model is written once, forward only, as calls on a [`Graph`]. [`Program`] derives the gradient
//! from the recorded operations and plans every activation's place in one arena ahead of time.
//! A [`Session`] runs a program on a [`Backend`]; nothing is allocated while it runs.
//!
//! Results are the same bits for any number of threads, any batch split and any vector width.

pub mod params;
pub mod random;
pub mod shape;

pub use params::{Init, ParamLayout, ParamSpec};
pub use shape::{ImageShape, Shape};
