//! Files of safetensors.
#![no_main]

use ddpm_fuzz::{file, weights::read_weights};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| read_weights(&file("model.safetensors", bytes)));
