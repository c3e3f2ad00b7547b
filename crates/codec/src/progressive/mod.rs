//! The progressive codec (Algorithms 3 and 4 of the paper): images to bytes, and any prefix of the bytes to images.

mod decode;
mod encode;
mod reconstruct;

pub(crate) use decode::walk;
pub use decode::{Decoded, Extent, decode};
pub(crate) use encode::Sender;
pub use encode::{CurvePoint, Encoded, Limit, encode};
pub use reconstruct::Reconstruction;
