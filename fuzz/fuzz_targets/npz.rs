//! NumPy's archives, as sources of images and as arrays.
#![no_main]

use ddpm_fuzz::{file, read_source};
use numpy::{NpzFile, npz::Member};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = file("arrays.npz", bytes);
    read_source("npz", &path);
    if let Ok(mut archive) = NpzFile::open(&path) {
        for name in archive.names() {
            let _ = archive.member(&name).and_then(Member::read_f64);
            let _ = archive.member(&name).and_then(Member::read_text);
        }
    }
});
