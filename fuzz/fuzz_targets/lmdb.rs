//! Files of LMDB databases.
#![no_main]

use ddpm_fuzz::{file, read_source};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| read_source("lmdb", &file("data.mdb", bytes)));
