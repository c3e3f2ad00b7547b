//! `ddpm denoise`.

use crate::ddpm::{ddpm, fail, succeed, trained};
use std::path::Path;
use std::process::Command;

const IMAGES: usize = 3;

/// An `.npy` file of `float32`.
fn npy(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let shape: Vec<String> = shape.iter().map(|len| format!("{len},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape.join(" "));
    let mut bytes = b"\x93NUMPY\x01\x00v\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Shape, as written in the header, and numbers.
fn read(path: &Path) -> (String, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let header = String::from_utf8_lossy(&bytes[..128]).into_owned();
    assert!(header.contains("'descr': '<f4'"), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0.to_owned();
    let values = bytes[128..].as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
    (shape, values)
}

fn value(n: usize, y: usize, x: usize, c: usize) -> f32 {
    ((n * 191 + y * 31 + x * 7 + c * 53) % 100) as f32 / 50.0 - 1.0
}

fn denoise(run: &Path, x: &Path, t: &str, out: &Path) -> Command {
    let mut command = ddpm(&["denoise", "--t", t]);
    command.arg(run).arg("--x").arg(x).arg("--out").arg(out);
    command
}

#[test]
fn the_output_has_the_layout_of_the_input() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let [x, out] = ["x.npy", "eps.npy"].map(|name| dir.path().join(name));
    let (mut nhwc, mut nchw) = (Vec::new(), Vec::new());
    for n in 0..IMAGES {
        nhwc.extend((0..8 * 8 * 3).map(|i| value(n, i / 24, i / 3 % 8, i % 3)));
        nchw.extend((0..8 * 8 * 3).map(|i| value(n, i / 8 % 8, i % 8, i / 64)));
    }
    std::fs::write(&x, npy(&[IMAGES, 8, 8, 3], &nhwc)).unwrap();
    succeed(&mut denoise(&run, &x, "7", &out));
    let (shape, channels_last) = read(&out);
    assert_eq!(shape, "3, 8, 8, 3,");
    std::fs::write(&x, npy(&[IMAGES, 3, 8, 8], &nchw)).unwrap();
    succeed(&mut denoise(&run, &x, "7", &out));
    let (shape, channels_first) = read(&out);
    assert_eq!(shape, "3, 3, 8, 8,");
    for n in 0..IMAGES {
        for i in 0..8 * 8 * 3 {
            let (y, x, c) = (i / 24, i / 3 % 8, i % 3);
            assert_eq!(channels_first[n * 192 + c * 64 + y * 8 + x], channels_last[n * 192 + i]);
        }
    }
    assert!(channels_first.iter().all(|value| value.is_finite()));
    succeed(&mut denoise(&run, &x, "8", &out));
    assert_ne!(read(&out).1, channels_first, "the time step matters");
}

#[test]
fn what_the_network_cannot_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let [x, out] = ["x.npy", "eps.npy"].map(|name| dir.path().join(name));
    std::fs::write(&out, "mine").unwrap();
    std::fs::write(&x, npy(&[1, 8, 3, 8], &[0.0; 192])).unwrap();
    fail(&mut denoise(&run, &x, "1", &out), 2, &["x.npy", "[1, 8, 3, 8]", "[n, 3, 8, 8]"]);
    std::fs::write(&x, npy(&[1, 8, 8, 3], &[0.0; 191])).unwrap();
    fail(&mut denoise(&run, &x, "1", &out), 2, &["x.npy, byte 128"]);
    std::fs::write(&x, npy(&[1, 8, 8, 3], &[0.0; 192])).unwrap();
    fail(&mut denoise(&run, &x, "20", &out), 2, &["--t 20", "0 to 19"]);
    fail(&mut denoise(&run, &x, "-1", &out), 2, &["-1"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
}
