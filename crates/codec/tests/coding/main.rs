//! The codec from outside.

mod coins;
mod lossless;
mod networks;
mod progressive;
