//! The published files. `DDPM_TEST_DATA` names a folder with `mnist/` in it, `DDPM_TEST_CIFAR10` one with the `.bin`
//! files; without them these tests say that they were skipped.

use crate::files::{open_as_stored, open_with, read};
use data::ImageOptions;
use std::path::PathBuf;

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: {variable} is not set");
    }
    folder
}

/// The images of each class, and the mean of all pixels over 255.
fn statistics(spec: &str) -> (u64, Vec<u64>, f64) {
    let source = open_as_stored(spec).unwrap();
    let mut classes = vec![0; 10];
    let mut sum = 0u64;
    for index in 0..source.len() {
        classes[source.label(index).unwrap() as usize] += 1;
        sum += read(&*source, index).unwrap().iter().map(|&value| u64::from(value)).sum::<u64>();
    }
    let elements = source.len() * source.shape().len() as u64;
    (source.len(), classes, sum as f64 / elements as f64 / 255.0)
}

#[test]
fn mnist_has_its_published_statistics() {
    let Some(folder) = folder("DDPM_TEST_DATA") else { return };
    let spec = format!("mnist:{}", folder.join("mnist").display());
    let (len, classes, mean) = statistics(&spec);
    assert_eq!(len, 60_000);
    assert_eq!(classes, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    assert!((mean - 0.1307).abs() < 5e-5, "{mean}");
    let (len, classes, _) = statistics(&format!("{spec}:test"));
    assert_eq!(len, 10_000);
    assert_eq!(classes, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    // The first training image is a 5, the first test image a 7.
    let first = |spec: &str| open_as_stored(spec).unwrap().label(0);
    assert_eq!((first(&spec), first(&format!("{spec}:test"))), (Some(5), Some(7)));
}

#[test]
fn cifar10_has_its_published_statistics() {
    let Some(folder) = folder("DDPM_TEST_CIFAR10") else { return };
    let spec = format!("cifar10:{}", folder.display());
    let (len, classes, mean) = statistics(&spec);
    assert_eq!(len, 50_000);
    assert_eq!(classes, [5000; 10]);
    // The mean over the channels' published means 0.4914, 0.4822, 0.4465.
    assert!((mean - 0.4734).abs() < 2e-4, "{mean}");
    let (len, classes, _) = statistics(&format!("{spec}:test"));
    assert_eq!((len, classes), (10_000, vec![1000; 10]));
    // The first image is a frog (6): red is its first plane, 59 62 63 0 in the upper left corner (59 43 50 …).
    let source = open_as_stored(&spec).unwrap();
    assert_eq!(source.label(0), Some(6));
    assert_eq!(read(&*source, 0).unwrap()[..3], [59, 62, 63]);
}

#[test]
fn records_of_flowers_are_read_with_their_checksums() {
    let Some(folder) = folder("DDPM_TEST_DATA") else { return };
    for (file, len) in [("train", 45), ("eval", 4)] {
        let spec =
            format!("tfrecord:{}", folder.join("tfrecord").join(format!("{file}.tfrecords")).display());
        let options = ImageOptions { size: Some(64), ..Default::default() };
        let source = open_with(&spec, options).unwrap();
        assert_eq!(source.len(), len);
        for index in 0..len {
            // Photographs: neither black nor flat.
            let pixels = read(&*source, index).unwrap();
            let (least, most) = (pixels.iter().min().unwrap(), pixels.iter().max().unwrap());
            assert!(most - least > 100, "image {index}");
        }
    }
}

#[test]
fn a_database_that_py_lmdb_wrote_is_read() {
    let Some(folder) = folder("DDPM_TEST_DATA") else { return };
    let spec = format!("lmdb:{}", folder.join("lmdb/gt.lmdb").display());
    let source = open_with(&spec, ImageOptions { size: Some(64), ..Default::default() }).unwrap();
    assert_eq!(source.len(), 2);
    assert_ne!(read(&*source, 0).unwrap(), read(&*source, 1).unwrap());
}
