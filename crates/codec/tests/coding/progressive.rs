//! Progressive files.

use crate::coins;
use codec::progressive::{Encoded, Extent, Limit, Reconstruction, decode, encode};
use codec::{CodecError, Model};
use diffusion::Prediction;
use engine::ImageShape;
use proptest::prelude::*;
use std::ops::ControlFlow;

const IMAGE: ImageShape = ImageShape::new(8, 6, 3);

/// The file of three images with everything by default. A change of it is a breaking change: files that exist
/// would no longer be decoded.
const GOLDEN: &str =
    "dd702088cf57713832780603aacc000fa29a8ef67e6f6dd77483c614163aa95fbc879e62ff232b7eaf7b2a1a5a3d1200";

pub fn encoded(model: &mut Model, x_start: &[f32], limit: Limit) -> Encoded {
    encode(model, x_start, 0, limit, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

pub fn decoded(model: &mut Model, bytes: &[u8], extent: Extent) -> Result<Vec<f32>, CodecError> {
    let mut images = Vec::new();
    let take = &mut |number: usize, image: &[f32]| {
        assert_eq!(number * image.len(), images.len());
        images.extend_from_slice(image);
        Ok(())
    };
    let watch = &mut |_, _| ControlFlow::Continue(());
    decode(model, bytes, extent, Reconstruction::XStart, watch, take)?;
    Ok(images)
}

fn squared_error(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x - y).powi(2)).sum::<f64>() / x.len() as f64
}

#[test]
fn every_prefix_is_as_good_as_the_sender_says() {
    let x_start = coins::images(5, IMAGE.len());
    coins::with_model(IMAGE, |model| {
        let file = encoded(model, &x_start, Limit::None);
        assert!(file.squared_error < 1e-3);
        // The entropy of the images is one bit a number. A chain of 200 steps loses some, real numbers cost more.
        let bits = file.bytes.len() as f64 * 8.0;
        let numbers = x_start.len() as f64;
        assert!(
            file.divergence_bits > numbers && file.divergence_bits < 1.45 * numbers,
            "{}",
            file.divergence_bits
        );
        // Chunks of so small images have few bits, which do not pay well.
        assert!(bits < 1.4 * file.divergence_bits + 8.0 * 16.0, "{bits} {}", file.divergence_bits);
        assert!(file.squared_error < 0.01 * file.curve[0].squared_error);
        for (index, point) in file.curve.iter().enumerate() {
            if index % 7 > 0 && index + 1 < file.curve.len() {
                continue;
            }
            // Up to the next step's last byte, a prefix is worth the same.
            let next = file.curve.get(index + 1).map_or(file.bytes.len(), |next| next.bytes - 1);
            for len in [point.bytes, next.max(point.bytes)] {
                let images = decoded(model, &file.bytes[..len], Extent::Prefix).unwrap();
                let error = squared_error(&images, &x_start);
                assert!((error - point.squared_error).abs() < 1e-6, "{len}: {error} {}", point.squared_error);
            }
        }
        assert_eq!(
            decoded(model, &file.bytes, Extent::Whole).unwrap(),
            decoded(model, &file.bytes, Extent::Prefix).unwrap()
        );
    });
}

#[test]
fn batches_and_levels_change_no_bit() {
    let x_start = coins::images(5, IMAGE.len());
    coins::with_model(IMAGE, |model| {
        let file = encoded(model, &x_start, Limit::None);
        let images = decoded(model, &file.bytes, Extent::Whole).unwrap();
        for level in engine::Level::available() {
            let process = coins::process();
            let mut denoiser = coins::Coins::new(&process, IMAGE);
            let mut other =
                Model::new(&process, &mut denoiser, "coins", 0).unwrap().with_batch(2).with_level(level);
            assert!(encoded(&mut other, &x_start, Limit::None) == file, "{}", level.name());
            assert!(decoded(&mut other, &file.bytes, Extent::Whole).unwrap() == images);
        }
        let seeded = encode(model, &x_start, 1, Limit::None, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_ne!(seeded.bytes[20..], file.bytes[20..]);
        let error = squared_error(&decoded(model, &seeded.bytes, Extent::Whole).unwrap(), &x_start);
        assert!((error - seeded.squared_error).abs() < 1e-6);
    });
}

#[test]
fn the_bitstream_is_what_it_was() {
    let x_start = coins::images(3, IMAGE.len());
    coins::with_model(IMAGE, |model| {
        let file = encoded(model, &x_start, Limit::BitsPerDim(0.9));
        let hex: String = file.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    });
}

/// The identity is in every file: another one, and no file that exists would be read.
#[test]
fn identities_are_what_they_were() {
    let identity = |prediction| {
        let process = coins::process_of(prediction);
        let mut denoiser = coins::Coins::new(&process, IMAGE);
        Model::new(&process, &mut denoiser, "coins", 0).unwrap().identity()
    };
    assert_eq!(format!("{:08x}", identity(Prediction::Eps)), "06783238");
    assert_eq!(format!("{:08x}", identity(Prediction::Xstart)), "979279fe");
}

#[test]
fn targets_are_met() {
    let x_start = coins::images(4, IMAGE.len());
    let numbers = x_start.len() as f64;
    coins::with_model(IMAGE, |model| {
        for rate in [0.25, 0.6, 1.0] {
            let file = encoded(model, &x_start, Limit::BitsPerDim(rate));
            let bits = file.bytes.len() as f64 * 8.0;
            assert!(bits <= rate * numbers + 7.0 && bits > rate * numbers - 40.0, "{rate} {bits}");
            decoded(model, &file.bytes, Extent::Whole).unwrap();
        }
        for decibels in [8.0, 15.0, 25.0] {
            let file = encoded(model, &x_start, Limit::Psnr(decibels));
            let psnr = |error: f64| 10.0 * (4.0 / error).log10();
            assert!(psnr(file.squared_error) >= decibels, "{decibels} {}", file.squared_error);
            let before = file.curve[file.curve.len() - 2].squared_error;
            assert!(psnr(before) < decibels);
            let images = decoded(model, &file.bytes, Extent::Whole).unwrap();
            assert!((squared_error(&images, &x_start) - file.squared_error).abs() < 1e-6);
        }
        let refused =
            encode(model, &x_start, 0, Limit::BitsPerDim(0.01), &mut |_, _| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(CodecError::Request(_))));
    });
}

#[test]
fn only_whole_images_are_coded() {
    coins::with_model(IMAGE, |model| {
        let x_start = coins::images(2, IMAGE.len());
        for numbers in [0, 1, IMAGE.len() - 1, IMAGE.len() + 1] {
            let watch = &mut |_, _| ControlFlow::Continue(());
            let refused = encode(model, &x_start[..numbers], 0, Limit::None, watch);
            assert!(matches!(refused, Err(CodecError::Images { found, .. }) if found == numbers));
            let watch = &mut |_, _| ControlFlow::Continue(());
            let refused = codec::lossless::encode(model, &vec![7; numbers], 0, watch);
            assert!(matches!(refused, Err(CodecError::Images { found, .. }) if found == numbers));
        }
    });
}

#[test]
fn work_can_be_stopped() {
    let x_start = coins::images(2, IMAGE.len());
    coins::with_model(IMAGE, |model| {
        let mut calls = 0;
        let watch = &mut |done, total| {
            calls += 1;
            assert!(done <= total);
            if calls > 9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert!(matches!(encode(model, &x_start, 0, Limit::None, watch), Err(CodecError::Stopped)));
        assert_eq!(calls, 10);
    });
}

#[test]
fn damage_is_refused_with_its_reason() {
    let x_start = coins::images(2, IMAGE.len());
    coins::with_model(IMAGE, |model| {
        let file = encoded(model, &x_start, Limit::None).bytes;
        for len in 0..file.len() {
            let error = decoded(model, &file[..len], Extent::Whole).unwrap_err();
            let expected = match len {
                0 => matches!(error, CodecError::NotAFile),
                1..16 => matches!(error, CodecError::HeaderCut { .. }),
                _ => matches!(error, CodecError::Truncated { .. }),
            };
            assert!(expected, "{len} {error:?}");
            if len >= 16 {
                decoded(model, &file[..len], Extent::Prefix).unwrap();
            }
        }
        let longer = [&file[..], &[0]].concat();
        assert!(matches!(
            decoded(model, &longer, Extent::Whole),
            Err(CodecError::TrailingBytes { extra: 1 })
        ));
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decoded(model, &damaged, Extent::Whole).unwrap_err();
            assert!(error.is_input(), "{bit} {error:?}");
        }
        let process = coins::process();
        let mut denoiser = coins::Coins::new(&process, IMAGE);
        let mut other = Model::new(&process, &mut denoiser, "other coins", 0).unwrap();
        for extent in [Extent::Whole, Extent::Prefix] {
            assert!(matches!(decoded(&mut other, &file, extent), Err(CodecError::WrongModel { .. })));
        }
    });
}

#[test]
fn a_file_of_a_model_computed_another_way_is_refused() {
    let image = ImageShape::new(2, 2, 1);
    let x_start = coins::images(1, image.len());
    let pixels = diffusion::pixels::to_bytes(&x_start);
    let watch = || |_: u64, _: u64| ControlFlow::Continue(());
    let process = coins::process();
    let mut denoiser = coins::Coins::new(&process, image);
    let mut model = Model::new(&process, &mut denoiser, "coins", 5).unwrap();
    let file = encoded(&mut model, &x_start, Limit::None).bytes;
    let lossless = codec::lossless::encode(&mut model, &pixels, 0, &mut watch()).unwrap().bytes;
    decoded(&mut model, &file, Extent::Whole).unwrap();
    coins::with_model(image, |other| {
        let refused = |error: CodecError| {
            let expected = matches!(error, CodecError::OtherVariant { in_file: 5, given: 0 });
            assert!(expected && error.is_input(), "{error:?}");
        };
        for extent in [Extent::Whole, Extent::Prefix] {
            refused(decoded(other, &file, extent).unwrap_err());
        }
        let take = &mut |_: usize, _: &[u8]| Ok(());
        refused(codec::lossless::decode(other, &lossless, &mut watch(), take).unwrap_err());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever follows a header's first bytes, a prefix is decoded or refused.
    #[test]
    fn nonsense_is_survived(mut bytes in proptest::collection::vec(any::<u8>(), 12..60), images in 1u8..9, keep in 0usize..3) {
        let image = ImageShape::new(2, 2, 1);
        coins::with_model(image, |model| {
            let header = encoded(model, &coins::images(1, image.len()), Limit::None).bytes;
            let keep = [3, 11, 16][keep];
            bytes[..keep.min(12)].copy_from_slice(&header[..keep.min(12)]);
            if keep > 3 {
                bytes[11] = images;
            }
            for extent in [Extent::Prefix, Extent::Whole] {
                match decoded(model, &bytes, extent) {
                    Ok(decoded) => assert!(decoded.iter().all(|x| x.abs() <= 1.0)),
                    Err(error) => assert!(error.is_input(), "{error:?}"),
                }
            }
        });
    }
}
