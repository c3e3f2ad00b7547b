//! NumPy's files: `.npy`, one array of numbers, and `.npz`, a zip archive of them.
//!
//! Arrays are read whole ([`npy::read`], [`Member::read_f64`]) or a piece at a time ([`Member`]); memory is
//! never asked for before the bytes that fill it are there.

#![forbid(unsafe_code)]

mod error;
mod header;
pub mod npy;
pub mod npz;

pub use error::NumpyError;
pub use header::{Element, Header};
pub use npy::Array;
pub use npz::{Member, NpzFile, NpzWriter};
