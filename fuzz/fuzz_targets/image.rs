//! Encoded images: what values of LMDB databases, TFRecords, members of archives and cells of parquet files hold.
#![no_main]

use ddpm_fuzz::{file, read_source};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = file("images/0.png", bytes);
    read_source("images", path.parent().expect("it has a folder"));
});
