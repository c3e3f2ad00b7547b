//! Networks, written once, forward only, over the engine.

#![forbid(unsafe_code)]

pub mod config;

pub use config::UnetConfig;
