//! Data sets by the formats' own writers (`tools/source_fixtures.py`): every pixel, every class.

use crate::files::{fixtures, message, open_as_stored, open_with, read};
use data::{ImageOptions, ImageSource, ResizeFilter, Survey};
use engine::ImageShape;
use image::ImageEncoder;
use std::io::Write;

/// Which image of the fixtures these pixels are; every one is checked.
fn number_of(pixels: &[u8], shape: ImageShape) -> u64 {
    // 173 is the inverse of 37.
    let number = u64::from(pixels[0].wrapping_mul(173));
    for (at, &value) in pixels.iter().enumerate() {
        let (y, x, c) =
            (at / shape.channels / shape.width, at / shape.channels % shape.width, at % shape.channels);
        let expected = (37 * number + 11 * y as u64 + 5 * x as u64 + 83 * c as u64) % 256;
        assert_eq!(u64::from(value), expected, "image {number}, row {y}, column {x}, channel {c}");
    }
    number
}

/// The numbers of a source's images, checked against `shape` and the classes they must have.
fn numbers(source: &dyn ImageSource, shape: ImageShape, has_labels: bool) -> Vec<u64> {
    assert_eq!(source.shape(), shape);
    let images = 0..source.len();
    images
        .map(|index| {
            let number = number_of(&read(source, index).unwrap(), shape);
            assert_eq!(source.label(index), has_labels.then_some(number as u32 % 7), "class of {number}");
            number
        })
        .collect()
}

fn spec(kind: &str, file: &str) -> String {
    format!("{kind}:{}", fixtures("sources").join(file).display())
}

const LARGE: ImageShape = ImageShape::new(30, 36, 3);

fn in_order(kind: &str, file: &str, shape: ImageShape, has_labels: bool, expected: std::ops::Range<u64>) {
    let source = open_as_stored(&spec(kind, file)).unwrap();
    assert_eq!(numbers(&*source, shape, has_labels), expected.collect::<Vec<_>>(), "{kind}:{file}");
    let len = source.len();
    assert!(message(read(&*source, len)).contains(&format!("no image {len}")));
    assert!(source.description().contains(&format!("{len} images")), "{}", source.description());
}

#[test]
fn stylegan_records() {
    in_order("tfrecord", "stylegan-r03.tfrecords", ImageShape::new(8, 8, 3), false, 0..5);
    in_order("tfrecord", "stylegan-r02.tfrecords", ImageShape::new(4, 4, 3), false, 0..5);
}

#[test]
fn of_stylegans_resolutions_the_one_asked_for_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["stylegan-r02.tfrecords", "stylegan-r03.tfrecords"] {
        std::fs::copy(fixtures("sources").join(name), dir.path().join(name)).unwrap();
    }
    let spec = format!("tfrecord:{}", dir.path().display());
    for (size, chosen) in [(Some(4), 4), (Some(8), 8), (None, 8)] {
        let source = open_with(&spec, ImageOptions { size, ..Default::default() }).unwrap();
        assert_eq!(numbers(&*source, ImageShape::new(chosen, chosen, 3), false), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn tfds_records() {
    in_order("tfrecord", "tfds", LARGE, true, 0..5);
    in_order("tfrecord", "tfds:test", LARGE, true, 5..7);
    in_order("tfrecord", "encoded.tfrecord", LARGE, true, 0..3);
}

#[test]
fn zip_as_stylegan_writes_it() {
    in_order("zip", "dataset.zip", LARGE, true, 0..5);
}

#[test]
fn hidden_members_of_a_zip_are_ignored() {
    let pixels: Vec<u8> = vec![7; 12];
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    encoder.write_image(&pixels, 2, 2, image::ExtendedColorType::Rgb8).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let members: [(&str, &[u8]); 5] = [
        ("photos/a.png", &png),
        ("__MACOSX/photos/._a.png", b"no image"),
        (".b.png", b"no image"),
        ("photos\\.c.png", b"no image"),
        ("./d.png", &png),
    ];
    for (name, content) in members {
        archive.start_file(name, stored).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap();
    let source = open_as_stored(&format!("zip:{}", path.display())).unwrap();
    assert_eq!(source.len(), 2);
    for index in 0..2 {
        assert_eq!(read(&*source, index).unwrap(), pixels);
    }
}

#[test]
fn tar_shards() {
    in_order("tar", "shards", LARGE, true, 0..6);
    in_order("tar", "shards/set-000001.tar", LARGE, true, 3..6);
}

#[test]
fn parquet_as_the_hub_has_it() {
    in_order("parquet", "hub", LARGE, true, 0..12);
    in_order("parquet", "hub/train-00001-of-00002.parquet", LARGE, true, 6..12);
    let source = open_as_stored(&spec("parquet", "hub:test")).unwrap();
    assert_eq!((source.len(), number_of(&read(&*source, 0).unwrap(), LARGE)), (2, 12));
    assert_eq!((source.label(0), source.label(1)), (Some(5), None));
    let text = message(read(&*source, 1));
    assert!(text.contains("row 1") && text.contains("no image"), "{text}");
}

#[test]
fn parquet_of_many_pages_is_read_in_any_order() {
    let source = open_as_stored(&spec("parquet", "paged.parquet")).unwrap();
    assert_eq!(source.len(), 30);
    // 7 and 30 have no divisor in common: every row twice.
    for index in (0..60).map(|i| i * 7 % 30) {
        match (read(&*source, index), index) {
            (result, 17) => assert!(message(result).contains("row 17: the row has no image")),
            (result, _) => assert_eq!(number_of(&result.unwrap(), LARGE), index),
        }
    }
}

#[test]
fn parquet_compressed_otherwise_is_read_or_named() {
    in_order("parquet", "packed-zstd.parquet", LARGE, true, 0..3);
    in_order("parquet", "packed-lz4.parquet", LARGE, true, 0..3);
    for (file, method) in [("packed-gzip.parquet", "GZIP"), ("packed-brotli.parquet", "BROTLI")] {
        let text = open_as_stored(&spec("parquet", file)).err().unwrap().to_string();
        assert!(text.contains(file) && text.contains(method) && text.contains("zstd"), "{text}");
    }
    // Checksums of pages are looked at where there are any. (The first 500 bytes are statistics.)
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let mut bytes = std::fs::read(fixtures("sources").join("packed-lz4.parquet")).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let text = open_as_stored(&format!("parquet:{}", path.display())).err().unwrap().to_string();
    assert!(text.contains("x.parquet") && text.contains("CRC"), "{text}");
}

#[test]
fn images_of_several_sizes_keep_theirs_where_they_are_described() {
    let dir = tempfile::tempdir().unwrap();
    for (name, width) in [("a", 3), ("b", 5), ("c", 4)] {
        image::RgbImage::new(width, 2).save(dir.path().join(format!("{name}.png"))).unwrap();
    }
    let images = format!("images:{}", dir.path().display());
    let options = ImageOptions { size: Some(2), ..ImageOptions::default() };
    for (options, sizes) in [(ImageOptions::default(), [2..=2, 3..=5]), (options, [2..=2, 2..=2])] {
        let survey = Survey::of(&*open_with(&images, options).unwrap(), &[0, 1, 2]);
        assert_eq!((survey.read, survey.bad.len(), survey.sizes), (3, 0, Some(sizes)));
    }
    // Those who want one shape still hear of it.
    assert!(message(read(&*open_as_stored(&images).unwrap(), 1)).contains("b.png"));
}

#[test]
fn numpy_arrays() {
    in_order("npz", "stored.npz", LARGE, true, 0..3);
    in_order("npz", "packed.npz", LARGE, true, 0..4);
    in_order("npy", "planar.npy", LARGE, false, 0..2);
}

/// What is not compressed is read where it lies, image by image, which checks no checksum of the whole.
#[test]
fn the_checksum_of_a_stored_numpy_array_is_checked_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.npz");
    let name = format!("npz:{}", path.display());
    let whole = std::fs::read(fixtures("sources").join("stored.npz")).unwrap();
    std::fs::write(&path, &whole).unwrap();
    let small = ImageOptions { size: Some(8), ..ImageOptions::default() };
    for options in [ImageOptions::default(), small] {
        open_with(&name, options).unwrap().verify_checksums().unwrap();
    }
    let sound = read(&*open_as_stored(&name).unwrap(), 0).unwrap();
    let pixels = whole.windows(sound.len()).position(|bytes| bytes == sound).unwrap();
    for place in [pixels, pixels + 3 * sound.len() - 1] {
        let mut flipped = whole.clone();
        flipped[place] ^= 4;
        std::fs::write(&path, flipped).unwrap();
        for options in [ImageOptions::default(), small] {
            let source = open_with(&name, options).unwrap();
            let said = message(source.verify_checksums());
            assert!(said.contains("flipped.npz") && said.contains("CRC"), "{said}");
        }
    }
    // Labels, the second array, are read as a whole, and then there is no need to ask.
    let labels = whole.windows(6).rposition(|bytes| bytes == b"\x93NUMPY").unwrap() + 128;
    let mut flipped = whole.clone();
    flipped[labels] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    let said = message(open_as_stored(&name));
    assert!(said.contains("flipped.npz/arr_1") && said.contains("checksum"), "{said}");
}

#[test]
fn lmdb_as_lsun_is_published() {
    for path in ["lsun", "lsun/data.mdb"] {
        let source = open_as_stored(&spec("lmdb", path)).unwrap();
        let mut found = numbers(&*source, LARGE, false);
        assert!(!found.is_sorted(), "the order is that of the keys, which are hashes");
        found.sort_unstable();
        assert_eq!(found, (0..48).collect::<Vec<_>>());
    }
    // Reading makes no lock file.
    assert!(!fixtures("sources").join("lsun/lock.mdb").exists());
}

#[test]
fn images_are_cropped_resized_and_reduced_to_gray_as_asked() {
    for source in
        ["lmdb:lsun", "tfrecord:tfds", "zip:dataset.zip", "tar:shards", "parquet:hub", "npz:stored.npz"]
    {
        let (kind, file) = source.split_once(':').unwrap();
        let options = ImageOptions { size: Some(16), channels: Some(1), filter: ResizeFilter::Lanczos };
        let source = open_with(&spec(kind, file), options).unwrap();
        assert_eq!(source.shape(), ImageShape::new(16, 16, 1));
        read(&*source, 0).unwrap();
        let text = source.description();
        assert!(text.contains("resized to 16x16 (lanczos)") && text.contains("gray"), "{text}");
    }
}

#[test]
fn what_is_not_there_or_of_another_kind_is_named() {
    for (kind, file, hint) in [
        ("tfrecord", "nowhere", "no such file"),
        ("tfrecord", "shards", "*.tfrecord* file"),
        ("tfrecord", "dataset.zip", "CRC of a record's length"),
        ("tfrecord", "../cifar10/cifar-10-binary.tar.gz", "compressed by gzip"),
        ("tar", "hub", "*.tar file"),
        ("tar", "dataset.zip", "dataset.zip"),
        ("parquet", "shards", "*.parquet file"),
        ("parquet", "planar.npy", "planar.npy"),
        ("zip", "planar.npy", "planar.npy"),
        ("npy", "dataset.zip", "not an .npy file"),
        ("npz", "planar.npy", "planar.npy"),
        ("npz", "dataset.zip", "no array of images"),
        ("lmdb", "shards", "no data.mdb"),
        ("lmdb", "planar.npy", "not an LMDB database"),
    ] {
        let error =
            open_as_stored(&spec(kind, file)).err().unwrap_or_else(|| panic!("{kind}:{file} was opened"));
        let text = error.to_string();
        assert!(text.contains(hint) && text.contains(file), "{kind}:{file}: {text}");
    }
}
