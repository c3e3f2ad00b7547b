//! Lossless files.

use crate::coins;
use codec::lossless::{Encoded, decode, encode};
use codec::{CodecError, Model};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use std::ops::ControlFlow;

const IMAGE: ImageShape = ImageShape::new(8, 6, 3);

/// The file of a single tiny image. A change of it is a breaking change: files that exist would no longer be decoded.
const GOLDEN: &str =
    "dd7021d0ea1e233832780601aacc60010a54f944766e01ef05362c0000000000009f05e327d7b7e12a3e61c4ccf9395c03";

pub fn encoded(model: &mut Model, pixels: &[u8]) -> Encoded {
    encode(model, pixels, 0, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

pub fn decoded(model: &mut Model, bytes: &[u8], len: usize) -> Result<Vec<u8>, CodecError> {
    let mut images = std::collections::BTreeMap::new();
    let take = &mut |number: usize, image: &[u8]| {
        assert_eq!(image.len(), len);
        assert!(images.insert(number, image.to_vec()).is_none());
        Ok(())
    };
    let count = decode(model, bytes, &mut |_, _| ControlFlow::Continue(()), take)?;
    assert!(images.keys().copied().eq(0..count));
    Ok(images.into_values().flatten().collect())
}

/// Coins, a little off.
fn pixels(count: usize, len: usize) -> Vec<u8> {
    let stream = Stream::new(6, Purpose::Test, 0, 0);
    let off = |k: usize| f32::from((stream.word(k as u32) & 3) as u8) - 1.5;
    let coins = coins::images(count, len);
    coins.iter().enumerate().map(|(k, x)| ((x + 1.0) * 127.5 + off(k)) as u8).collect()
}

#[test]
fn every_pixel_comes_back_at_the_price_of_the_bound() {
    let pixels = pixels(40, IMAGE.len());
    coins::with_model(IMAGE, |model| {
        let file = encoded(model, &pixels);
        assert_eq!(decoded(model, &file.bytes, IMAGE.len()).unwrap(), pixels);
        let behind = 40 - file.forerunners;
        assert!(behind > 20, "{}", file.forerunners);
        let real = (file.bits - file.initial_bits) as f64;
        assert!((real / file.bound_bits - 1.0).abs() < 0.01, "{real} {}", file.bound_bits);
        assert!(file.bytes.len() * 8 < file.bits + 8 * 40);
        // One image alone, with a pixel that the model would not have thought of.
        let mut single = pixels[..IMAGE.len()].to_vec();
        single[7] = 128;
        let file = encoded(model, &single);
        assert_eq!(decoded(model, &file.bytes, IMAGE.len()).unwrap(), single);
    });
}

#[test]
fn the_bitstream_is_what_it_was() {
    let image = ImageShape::new(4, 4, 1);
    coins::with_model(image, |model| {
        let file = encoded(model, &pixels(1, image.len()));
        let hex: String = file.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    });
}

#[test]
fn damage_is_refused() {
    let image = ImageShape::new(4, 4, 1);
    let pixels = pixels(3, image.len());
    coins::with_model(image, |model| {
        let file = encoded(model, &pixels).bytes;
        for len in 0..file.len() {
            assert!(decoded(model, &file[..len], image.len()).unwrap_err().is_input());
        }
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decoded(model, &damaged, image.len()).unwrap_err();
            assert!(error.is_input(), "{bit} {error:?}");
        }
        assert!(decoded(model, &[&file[..], &[0]].concat(), image.len()).is_err());
        assert!(matches!(
            crate::progressive::decoded(model, &file, codec::progressive::Extent::Whole),
            Err(CodecError::OtherKind)
        ));
    });
}
