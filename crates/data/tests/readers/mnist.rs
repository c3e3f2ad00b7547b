//! MNIST's idx files.

use crate::files::{gzip, idx_images, idx_labels, message, open_as_stored, open_with, read};
use data::ImageOptions;
use engine::ImageShape;
use std::fs;

#[test]
fn plain_and_gzip_files_are_found_where_they_usually_are() {
    for (folder, images, labels, packed) in [
        (".", "train-images-idx3-ubyte", "train-labels-idx1-ubyte", false),
        ("raw", "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", true),
        ("MNIST/raw", "train-images.idx3-ubyte", "train-labels.idx1-ubyte", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(folder);
        fs::create_dir_all(&place).unwrap();
        let pack = |content: Vec<u8>| if packed { gzip(&content) } else { content };
        fs::write(place.join(images), pack(idx_images(12))).unwrap();
        fs::write(place.join(labels), pack(idx_labels(12))).unwrap();
        let source = open_as_stored(&format!("mnist:{}", dir.path().display())).unwrap();
        assert_eq!((source.len(), source.shape()), (12, ImageShape::new(28, 28, 1)));
        assert_eq!(read(&*source, 11).unwrap(), idx_images(12)[16 + 11 * 784..]);
        assert_eq!((source.label(11), source.label(12)), (Some(1), None));
        assert!(message(read(&*source, 12)).contains("no image 12, only 0 to 11"));
    }
}

#[test]
fn at_size_32_it_is_padded_not_resized() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t10k-images-idx3-ubyte"), idx_images(2)).unwrap();
    let spec = format!("mnist:{}:test", dir.path().display());
    let source = open_with(&spec, ImageOptions { size: Some(32), ..Default::default() }).unwrap();
    let padded = read(&*source, 1).unwrap();
    let stored = &idx_images(2)[16 + 784..];
    for y in 0..32 {
        for x in 0..32 {
            let inside = (2..30).contains(&y) && (2..30).contains(&x);
            let value = if inside { stored[(y - 2) * 28 + x - 2] } else { 0 };
            assert_eq!(padded[y * 32 + x], value, "{y} {x}");
        }
    }
    let text = source.description();
    assert!(text.contains("padded by 2 black pixels") && text.contains("without labels"), "{text}");

    let source =
        open_with(&spec, ImageOptions { size: Some(14), channels: Some(3), ..Default::default() }).unwrap();
    assert_eq!(source.shape(), ImageShape::new(14, 14, 3));
    let text = source.description();
    assert!(text.contains("resized to 14x14") && text.contains("expanded to RGB"), "{text}");
}

#[test]
fn wrong_files_are_refused_at_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("mnist:{}", dir.path().display());
    assert!(message(open_as_stored(&spec)).contains("train-images-idx3-ubyte"));
    let try_with = |images: &[u8], labels: &[u8]| {
        fs::write(dir.path().join("train-images-idx3-ubyte"), images).unwrap();
        fs::write(dir.path().join("train-labels-idx1-ubyte"), labels).unwrap();
        message(open_as_stored(&spec))
    };
    let (images, labels) = (idx_images(3), idx_labels(3));
    let text = try_with(&images[..2000], &labels);
    assert!(text.contains("at byte 2000: it ends after 1984 of the 2352 bytes"), "{text}");
    assert!(
        try_with(&[images.clone(), vec![0]].concat(), &labels).contains("at byte 2368: it goes on after")
    );
    assert!(try_with(&images[..10], &labels).contains("within the idx header"));
    assert!(try_with(&labels, &labels).contains("at byte 0: it begins with [00, 00, 08, 01]"));
    assert!(try_with(&images, &idx_labels(4)).contains("4 labels for 3 images"));
    assert!(try_with(&images, &labels[..9]).contains("train-labels"));
    assert!(try_with(&idx_images(0), &idx_labels(0)).contains("no image"));
    let mut wide = images.clone();
    wide[15] = 29;
    assert!(try_with(&wide, &labels).contains("images of 28x29 pixels"));
    // A header that promises 3 TB.
    let mut huge = images.clone();
    huge[4..8].fill(0xff);
    assert!(try_with(&huge, &labels).contains("4294967295 images are declared"));
    // A damaged checksum.
    let mut packed = gzip(&images);
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    assert!(try_with(&packed, &labels).contains("train-images"));
}
