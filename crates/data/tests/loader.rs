//! The loader: what it yields, that it resumes exactly, and how it ends.

use data::shapes32::Shapes32;
use data::{DataError, ImageSource, Loader, LoaderOptions};
use engine::ImageShape;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `len` images of 1×3 pixels: (index, 100, 200).
struct Numbered {
    len: u64,
    reads: AtomicU64,
    /// Images from this one on cannot be read while `broken`.
    bad: u64,
    broken: AtomicBool,
}

impl Numbered {
    fn new(len: u64) -> Self {
        Self { len, reads: AtomicU64::new(0), bad: len, broken: AtomicBool::new(true) }
    }
}

impl ImageSource for Numbered {
    fn len(&self) -> u64 {
        self.len
    }

    fn shape(&self) -> ImageShape {
        ImageShape::new(1, 3, 1)
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if index >= self.bad && self.broken.load(Ordering::Relaxed) {
            let path = format!("image{index}.png").into();
            return Err(DataError::Missing { path, what: "gone".into(), remedy: "look for it".into() });
        }
        pixels.copy_from_slice(&[index as u8, 100, 200]);
        Ok(())
    }

    fn description(&self) -> String {
        "numbered".into()
    }
}

fn options(batch_size: usize, seed: u64, start: u64) -> LoaderOptions {
    LoaderOptions { batch_size, seed, flip: true, start, prefetch: 2 }
}

/// At least the samples `start..start + count`, drawn in batches.
fn draw(source: Arc<dyn ImageSource>, options: LoaderOptions, count: usize) -> Vec<f32> {
    let wanted = count * source.shape().len();
    let mut loader = Loader::new(source, options).unwrap();
    let mut all = Vec::new();
    while all.len() < wanted {
        let position = loader.position();
        let batch = loader.next_batch().unwrap();
        assert_eq!(batch.first_sample(), position);
        assert_eq!(loader.position(), position + options.batch_size as u64);
        assert_eq!(batch.images().len(), batch.shape().len());
        all.extend(batch.images());
    }
    all.truncate(wanted);
    all
}

fn image_number(sample: &[f32]) -> u64 {
    let first = sample[0].min(sample[2]);
    ((first + 1.0) * 127.5).round() as u64
}

#[test]
fn every_epoch_has_every_image_once_in_another_order() {
    let drawn = draw(Arc::new(Numbered::new(50)), options(8, 3, 0), 200);
    let numbers: Vec<u64> = drawn.chunks(3).map(image_number).collect();
    let epochs: Vec<&[u64]> = numbers.chunks(50).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_ne!(epochs[0], (0..50).collect::<Vec<_>>());
}

#[test]
fn pixels_are_scaled_to_minus_one_to_one() {
    let batch =
        Loader::new(Arc::new(Numbered::new(1)), LoaderOptions::default()).unwrap().next_batch().unwrap();
    assert_eq!(batch.images(), [-1.0, 100.0 / 127.5 - 1.0, 200.0 / 127.5 - 1.0]);
    assert_eq!(255.0f32 / 127.5 - 1.0, 1.0);
}

#[test]
fn about_half_of_the_images_are_mirrored_and_none_without_flip() {
    // Images below 100 begin with their number; mirrored, they end with it.
    let mirrored = |options| {
        let drawn = draw(Arc::new(Numbered::new(100)), options, 2000);
        drawn.chunks(3).filter(|sample| sample[0] > sample[2]).count()
    };
    let count = mirrored(options(50, 1, 0));
    assert!((900..1100).contains(&count), "{count}");
    assert_eq!(mirrored(LoaderOptions { flip: false, ..options(50, 1, 0) }), 0);
}

#[test]
fn an_image_is_mirrored_in_some_epochs_and_not_in_others() {
    let drawn = draw(Arc::new(Numbered::new(1)), options(1, 5, 0), 40);
    let mirrored = drawn.chunks(3).filter(|sample| sample[0] > sample[2]).count();
    assert!((8..32).contains(&mirrored), "{mirrored}");
}

#[test]
fn mirroring_reverses_rows_and_keeps_channels() {
    let source = Arc::new(Shapes32::new(4));
    let plain = draw(source.clone(), LoaderOptions { flip: false, ..options(16, 9, 0) }, 16);
    let flipped = draw(source, options(16, 9, 0), 16);
    let mut changed = 0;
    for (plain, flipped) in plain.chunks(3072).zip(flipped.chunks(3072)) {
        if plain != flipped {
            changed += 1;
            for (row, other) in plain.chunks(96).zip(flipped.chunks(96)) {
                let reversed: Vec<f32> = row.chunks(3).rev().flatten().copied().collect();
                assert_eq!(reversed, other);
            }
        }
    }
    assert!((3..14).contains(&changed), "{changed}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn resuming_anywhere_with_any_batch_size_gives_the_same_bits(
        seed: u64, len in 1u64..40, first in 1usize..9, second in 1usize..9, start in 0u64..100, prefetch in 0usize..4,
    ) {
        let source = Arc::new(Numbered::new(len));
        let whole = draw(source.clone(), options(first, seed, 0), start as usize + 30);
        let resumed = draw(source, LoaderOptions { prefetch, ..options(second, seed, start) }, 30);
        prop_assert_eq!(&whole[start as usize * 3..], &resumed[..]);
    }
}

#[test]
fn an_endless_source_never_repeats_an_image() {
    // Epochs are 50,000 images: two batches from either side of the end of the first.
    let source = Arc::new(Shapes32::new(0));
    let drawn = draw(source.clone(), LoaderOptions { flip: false, ..options(4, 2, 49_998) }, 4);
    let contained = |number: u64| {
        let mut pixels = vec![0; 3072];
        source.read(number, &mut pixels).unwrap();
        let image: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 127.5 - 1.0).collect();
        drawn.chunks(3072).position(|sample| sample == image)
    };
    let mut found: Vec<(usize, u64)> =
        (0..100_000).filter_map(|number| contained(number).map(|place| (place, number))).collect();
    found.sort_unstable();
    assert_eq!(found.len(), 4);
    assert!(found[..2].iter().all(|&(_, number)| number < 50_000), "{found:?}");
    assert!(found[2..].iter().all(|&(_, number)| number >= 50_000), "{found:?}");
}

#[test]
fn batches_are_ready_before_they_are_asked_for_but_no_more_than_agreed() {
    let source = Arc::new(Numbered::new(1000));
    let _loader = Loader::new(source.clone(), LoaderOptions { prefetch: 3, ..options(10, 0, 0) }).unwrap();
    // Three in the channel and one that waits for room.
    let deadline = Instant::now() + Duration::from_secs(20);
    while source.reads.load(Ordering::Relaxed) < 40 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(source.reads.load(Ordering::Relaxed), 40);
}

#[test]
fn buffers_are_used_again() {
    let mut loader =
        Loader::new(Arc::new(Numbered::new(7)), LoaderOptions { prefetch: 1, ..options(5, 0, 0) }).unwrap();
    let mut addresses = std::collections::HashSet::new();
    for _ in 0..100 {
        addresses.insert(loader.next_batch().unwrap().images().as_ptr() as usize);
    }
    // One in use, one ready, one being read; and one more if it is asked for before the first has come back.
    assert!(addresses.len() <= 4, "{}", addresses.len());
}

#[test]
fn a_batch_outlives_its_loader() {
    let mut loader = Loader::new(Arc::new(Numbered::new(7)), options(5, 0, 0)).unwrap();
    let batch = loader.next_batch().unwrap();
    drop(loader);
    assert_eq!(batch.images().len(), 15);
}

#[test]
fn an_error_names_the_file_and_the_batch_is_tried_again() {
    let source = Arc::new(Numbered { bad: 5, ..Numbered::new(10) });
    let start = 20;
    let mut loader = Loader::new(source.clone(), options(10, 1, start)).unwrap();
    let text = loader.next_batch().unwrap_err().to_string();
    assert!(text.contains("image") && text.contains(".png: gone; look for it"), "{text}");
    assert_eq!(loader.position(), start);
    // Long enough for a thread that does not wait to try again and again.
    std::thread::sleep(Duration::from_millis(100));
    let reads = source.reads.load(Ordering::Relaxed);
    assert!(reads <= 10, "{reads} images were read for one batch");
    loader.next_batch().unwrap_err();
    source.broken.store(false, Ordering::Relaxed);
    // The first call after the repair sees it.
    assert_eq!(loader.next_batch().unwrap().first_sample(), start);
    assert_eq!(loader.next_batch().unwrap().first_sample(), start + 10);
    // A loader that waits for being asked again ends, too.
    source.broken.store(true, Ordering::Relaxed);
    let mut loader = Loader::new(source.clone(), options(10, 1, start)).unwrap();
    loader.next_batch().unwrap_err();
    drop(loader);
}

#[test]
fn dropping_the_loader_ends_its_thread() {
    let source = Arc::new(Numbered::new(10));
    for prefetch in [0, 1, 5] {
        let mut loader = Loader::new(source.clone(), LoaderOptions { prefetch, ..options(4, 1, 0) }).unwrap();
        loader.next_batch().unwrap();
        drop(loader);
        // The thread held the only other reference.
        assert_eq!(Arc::strong_count(&source), 1);
    }
}

#[test]
fn what_cannot_be_loaded_is_refused() {
    let refuse = |source: Numbered, options| Loader::new(Arc::new(source), options).unwrap_err().to_string();
    assert!(refuse(Numbered::new(0), options(1, 0, 0)).contains("no image"));
    assert!(refuse(Numbered::new(1 << 33), options(1, 0, 0)).contains("8589934592 images"));
    assert!(refuse(Numbered::new(9), options(0, 0, 0)).contains("batch size"));
    assert!(refuse(Numbered::new(9), options(usize::MAX, 0, 0)).contains("do not fit in memory"));
    let mut loader = Loader::new(Arc::new(Numbered::new(9)), options(usize::MAX / 100, 0, 0)).unwrap();
    assert!(loader.next_batch().unwrap_err().to_string().contains("do not fit in memory"));
}

#[test]
fn a_panic_in_a_source_is_an_error_of_the_loader() {
    struct Panicking;
    impl ImageSource for Panicking {
        fn len(&self) -> u64 {
            5
        }
        fn shape(&self) -> ImageShape {
            ImageShape::new(1, 1, 1)
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), DataError> {
            panic!("meant to be seen in the log of this test")
        }
        fn description(&self) -> String {
            "panicking".into()
        }
    }
    let mut loader = Loader::new(Arc::new(Panicking), options(2, 0, 7)).unwrap();
    for _ in 0..2 {
        assert!(matches!(loader.next_batch(), Err(DataError::LoaderStopped { position: 7 })));
    }
}
