//! NumPy's arrays, alone and in an archive without fault.
#![no_main]

use ddpm_fuzz::{file, read_source, zip_of};
use numpy::{NpzFile, npz::Member};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = file("array.npy", bytes);
    read_source("npy", &path);
    if let Ok(array) = numpy::npy::read(&path) {
        assert_eq!(array.values.len(), array.shape.iter().product::<usize>());
    }
    // Labels are the rest behind the first half.
    let (images, labels) = bytes.split_at(bytes.len() / 2);
    for members in [&[("arr_0.npy", bytes)][..], &[("arr_0.npy", images), ("labels.npy", labels)]] {
        let path = file("arrays.npz", &zip_of(members));
        read_source("npz", &path);
        let _ = NpzFile::open(&path).and_then(|mut archive| archive.member("arr_0")?.read_f64());
        let _ =
            NpzFile::open(&path).and_then(|mut archive| archive.member("arr_0").and_then(Member::read_text));
    }
});
