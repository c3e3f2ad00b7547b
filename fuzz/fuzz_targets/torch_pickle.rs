//! The pickle of a state dictionary, in an archive without fault around some storages.
#![no_main]

use ddpm_fuzz::{file, weights::read_weights, zip_of};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let storage = [0x3e; 96];
    let names: Vec<String> = (0..8).map(|key| format!("archive/data/{key}")).collect();
    let mut members = vec![("archive/data.pkl", bytes)];
    members
        .extend(names.iter().enumerate().map(|(key, name)| (name.as_str(), &storage[..8 + 12 * (key % 8)])));
    read_weights(&file("model.pth", &zip_of(&members)));
});
