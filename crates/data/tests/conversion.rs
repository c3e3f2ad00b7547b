//! Data sets written in every format, interrupted and resumed, and read again.

use data::{Conversion, DataError, ImageOptions, ImageSource, SourceSpec, open};
use proptest::prelude::*;
use std::sync::Arc;

/// The whole content of a source.
fn content(source: &dyn ImageSource) -> Vec<(Vec<u8>, Option<u32>)> {
    let image = |index| {
        let mut pixels = vec![0; source.shape().len()];
        source.read(index, &mut pixels).unwrap();
        (pixels, source.label(index))
    };
    (0..source.len()).map(image).collect()
}

fn open_spec(spec: &str) -> Arc<dyn ImageSource> {
    open(&spec.parse().unwrap(), &ImageOptions::default()).unwrap()
}

/// Images of noise, of which PNG files are long, or of a plain colour, of which they are short.
struct Noise {
    len: u64,
    side: usize,
}

impl ImageSource for Noise {
    fn len(&self) -> u64 {
        self.len
    }

    fn shape(&self) -> engine::ImageShape {
        engine::ImageShape::new(self.side, self.side, 3)
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for value in pixels.iter_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *value = if index.is_multiple_of(3) { index as u8 } else { (state >> 56) as u8 };
        }
        Ok(())
    }

    fn label(&self, index: u64) -> Option<u32> {
        Some(index as u32 % 10)
    }

    fn description(&self) -> String {
        format!("noise {} {}", self.len, self.side)
    }
}

const KINDS: [&str; 5] = ["images", "tar", "tfrecord", "lmdb", "npz"];

fn convert(
    source: &dyn ImageSource,
    target: &SourceSpec,
    stop_after: Option<usize>,
) -> Result<(), DataError> {
    let mut conversion = Conversion::open(source, target)?;
    let mut steps = 0;
    while conversion.written() < conversion.len() {
        if Some(steps) == stop_after {
            return Ok(());
        }
        conversion.step(source)?;
        steps += 1;
    }
    conversion.finish(source)
}

fn check(kind: &str, source: &Noise, stops: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let target: SourceSpec = format!("{kind}:{}", dir.path().join("below/set").display()).parse().unwrap();
    for &stop in stops {
        convert(source, &target, Some(stop)).unwrap();
        // Earlier stops may have left so little that this one was whole.
        if target.path().unwrap().exists() {
            break;
        }
    }
    if !target.path().unwrap().exists() {
        convert(source, &target, None).unwrap();
    }
    let found = content(&*open_spec(&target.to_string()));
    // Folders and databases of images have no classes when read as such.
    let has_labels = matches!(kind, "tar" | "tfrecord" | "npz");
    let expected: Vec<_> =
        content(source).into_iter().map(|(pixels, label)| (pixels, label.filter(|_| has_labels))).collect();
    assert!(found == expected, "{kind}");
    // Nothing else is left.
    let left: Vec<_> = std::fs::read_dir(dir.path().join("below")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn every_format_gives_back_what_was_written() {
    for kind in KINDS {
        check(kind, &Noise { len: 300, side: 8 }, &[]);
        // Values of several pages.
        check(kind, &Noise { len: 5, side: 70 }, &[]);
    }
}

#[test]
fn what_cannot_be_converted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("photos");
    std::fs::create_dir(&images).unwrap();
    for (name, width) in [("a", 3), ("b", 5)] {
        image::RgbImage::new(width, 3).save(images.join(format!("{name}.png"))).unwrap();
    }
    let open = |size| {
        let spec = format!("images:{}", images.display()).parse().unwrap();
        data::open(&spec, &data::ImageOptions { size, ..Default::default() }).unwrap()
    };
    for kind in KINDS {
        let below = dir.path().join(kind);
        let target: SourceSpec = format!("{kind}:{}", below.join("set").display()).parse().unwrap();
        let error = convert(&*open(None), &target, None).unwrap_err().to_string();
        assert!(error.contains("b.png") && error.contains("image size"), "{error}");
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 0, "{kind}");
        // Nor is anything in the way of the same with a size.
        convert(&*open(Some(3)), &target, None).unwrap();
    }
}

#[test]
fn a_database_of_three_levels() {
    check("lmdb", &Noise { len: 9000, side: 3 }, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stopped_conversions_go_on(kind in prop::sample::select(&KINDS[..]), len in 1u64..200, stops in prop::collection::vec(0usize..3, 0..4)) {
        check(kind, &Noise { len, side: 5 }, &stops);
    }
}

#[test]
fn a_cut_record_or_value_is_written_again() {
    let source = Noise { len: 130, side: 6 };
    for (kind, part) in
        [("tfrecord", "set.unfinished"), ("lmdb", "set.unfinished/values"), ("npz", "set.unfinished.pixels")]
    {
        let dir = tempfile::tempdir().unwrap();
        let target: SourceSpec = format!("{kind}:{}", dir.path().join("set").display()).parse().unwrap();
        convert(&source, &target, Some(2)).unwrap();
        let path = dir.path().join(part);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        convert(&source, &target, None).unwrap();
        let found: Vec<_> =
            content(&*open_spec(&target.to_string())).into_iter().map(|(pixels, _)| pixels).collect();
        assert!(
            found == content(&source).into_iter().map(|(pixels, _)| pixels).collect::<Vec<_>>(),
            "{kind}"
        );
    }
}

#[test]
fn nothing_is_replaced_or_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let target: SourceSpec = format!("tfrecord:{}", dir.path().join("set").display()).parse().unwrap();
    convert(&Noise { len: 100, side: 4 }, &target, Some(1)).unwrap();
    let text = convert(&Noise { len: 101, side: 4 }, &target, None).unwrap_err().to_string();
    assert!(text.contains("unfinished conversion of something else"), "{text}");
    convert(&Noise { len: 100, side: 4 }, &target, None).unwrap();
    let text = convert(&Noise { len: 100, side: 4 }, &target, None).unwrap_err().to_string();
    assert!(text.contains("exists already"), "{text}");
    let text =
        convert(&Noise { len: 1, side: 4 }, &"mnist:x".parse().unwrap(), None).unwrap_err().to_string();
    assert!(text.contains("mnist cannot be written") && text.contains("lmdb:PATH"), "{text}");
}
