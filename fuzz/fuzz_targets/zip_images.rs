//! Zips of images with their labels, as StyleGAN's tool writes them.
#![no_main]

use ddpm_fuzz::{file, read_source, zip_of};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read_source("zip", &file("dataset.zip", bytes));
    // The labels up to a zero byte, and an image, in an archive without fault.
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let members = [("dataset.json", &bytes[..end]), ("00000/img00000000.png", &bytes[end..])];
    read_source("zip", &file("dataset.zip", &zip_of(&members)));
});
