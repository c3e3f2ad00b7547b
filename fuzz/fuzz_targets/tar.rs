//! Tar shards of images and labels.
#![no_main]

use ddpm_fuzz::{file, read_source};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| read_source("tar", &file("shards.tar", bytes)));
