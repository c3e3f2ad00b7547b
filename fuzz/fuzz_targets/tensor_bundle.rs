//! Indices of TensorFlow's checkpoints, beside the data of a good one.
#![no_main]

use ddpm_fuzz::{file, repair_table, weights::read_weights};
use std::sync::Once;

const DATA: &[u8] =
    include_bytes!("../../crates/checkpoint/tests/fixtures/imports/model.ckpt-7.data-00000-of-00001.gz");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static DATA_FILE: Once = Once::new();
    DATA_FILE.call_once(|| {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(DATA), &mut data)
            .expect("it is a gzip file");
        file("model.ckpt-7.data-00000-of-00001", &data);
    });
    read_weights(&file("model.ckpt-7.index", bytes));
    let mut repaired = bytes.to_vec();
    repair_table(&mut repaired);
    if repaired != bytes {
        read_weights(&file("model.ckpt-7.index", &repaired));
    }
});
