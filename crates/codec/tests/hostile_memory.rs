//! A small file of very many steps takes no more memory than a file of its size.
//!
//! Alone in its program: what is measured is the whole program's memory.
#![cfg(target_os = "linux")]

#[path = "coding/coins.rs"]
#[allow(dead_code)]
mod coins;

use codec::progressive::{Extent, Reconstruction, decode};
use codec::{CodecError, Model};
use engine::ImageShape;
use std::ops::ControlFlow;

const IMAGES: u64 = 60_000;
/// Bytes of coded bits.
const BODY: usize = 400_000;
/// What the program's memory may grow by: some 200 bytes an image, and the file a few times.
const MOST: u64 = 20 << 20;

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A progressive file whose bits are all 0: every image goes on in the gear it has, by the first candidates.
fn hostile(identity: u32, curve: [u8; 3], steps: u64) -> Vec<u8> {
    let mut bytes = vec![0xdd, b'p', 1 << 5, 0, 0, 0, 0];
    bytes.extend(identity.to_le_bytes());
    varint(&mut bytes, IMAGES);
    bytes.extend(curve);
    varint(&mut bytes, steps);
    bytes.resize(bytes.len() + BODY, 0);
    bytes
}

/// The most memory the program has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// Decodes until the network would be asked: the steps that are there.
fn steps(model: &mut Model, bytes: &[u8], extent: Extent) -> Result<u64, CodecError> {
    let mut all = 0;
    let watch = &mut |_, total| {
        all = total;
        ControlFlow::Break(())
    };
    match decode(model, bytes, extent, Reconstruction::XStart, watch, &mut |_, _| Ok(())) {
        Err(CodecError::Stopped) => Ok(all - IMAGES),
        Err(error) => Err(error),
        Ok(_) => panic!("it should have been stopped"),
    }
}

#[test]
fn memory_is_bounded_by_the_files_length() {
    coins::with_model(ImageShape::new(4, 4, 1), |model| {
        let steps_announced = 400_000;
        let file = hostile(model.identity(), [0x11, 0x88, 0x88], steps_announced);
        let before = peak();
        assert_eq!(steps(model, &file, Extent::Prefix).unwrap(), steps_announced);
        // The checksum is 0, which is wrong; as many bytes follow the last step.
        let error = steps(model, &file, Extent::Whole).unwrap_err();
        assert!(error.is_input(), "{error}");
        let grown = peak() - before;
        assert!(grown < MOST, "{grown} bytes for a file of {}", file.len());
    });
}
