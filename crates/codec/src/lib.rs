//! Images as bits, by a diffusion model that sender and receiver both have (§4.3 of the paper).
//!
//! [`progressive`] writes files of which any prefix is an image, the better the longer it is; [`lossless`]
//! ones that keep every pixel.
//!
//! What decides anything at the receiver has the same bits on any machine, with any number of threads and any
//! batch. The format is specified in `docs/format.md`.

#![forbid(unsafe_code)]

mod bits;
mod candidates;
mod chain;
pub mod error;
mod error_curve;
mod hadamard;
pub mod header;
mod itinerary;
mod jump;
pub mod lossless;
mod measured_curve;
pub mod model;
mod progress;
pub mod progressive;
mod rotation;
mod schedule;

pub use error::CodecError;
pub use header::{Header, Kind};
pub use model::Model;
pub use progress::{Take, Watch};
