//! The U-Net of the paper and the Inception network of FID, written once, forward only, over the engine.

#![forbid(unsafe_code)]

pub mod config;
pub mod inception;
pub mod network;
pub mod unet;

pub use config::{Conventions, UnetConfig, UnetConfigError};
pub use network::UnetDenoiser;
pub use unet::{Mode, Unet};
