//! TFRecord files of images.
#![no_main]

use ddpm_fuzz::{file, read_source, repair_records};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read_source("tfrecord", &file("images.tfrecord", bytes));
    let mut repaired = bytes.to_vec();
    repair_records(&mut repaired);
    if repaired != bytes {
        read_source("tfrecord", &file("images.tfrecord", &repaired));
    }
});
