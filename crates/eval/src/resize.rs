//! From an image's pixels to what the Inception network sees: 299×299 and a scale.
//!
//! The tools of the field do this in three ways that give different FIDs (Parmar et al., "On Aliased Resizing
//! and Surprising Subtleties in GAN Evaluation", 2022), so every figure names its own.

use engine::ImageShape;
use models::inception::IMAGE_SIZE;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Elements of an image as the network sees it.
pub const NETWORK_IMAGE: usize = IMAGE_SIZE * IMAGE_SIZE * 3;

/// How images are brought to the network's size and range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeMode {
    /// As pytorch-fid: bilinear between pixels' centres, 2x - 1 of [0, 1].
    #[default]
    PytorchFid,
    /// As TensorFlow 1 and so the published figures of 2017 to 2020, torch-fidelity: bilinear between pixels'
    /// corners, (x - 128) / 128.
    TorchFidelity,
    /// As clean-fid: bicubic, widened when shrinking so that nothing aliases, clipped to 0…255, (x - 128) / 128.
    Clean,
}

impl ResizeMode {
    /// What it is called on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PytorchFid => "pytorch-fid",
            Self::TorchFidelity => "torch-fidelity",
            Self::Clean => "clean",
        }
    }
}

impl fmt::Display for ResizeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no resize mode.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no resize mode called `{0}`; there are pytorch-fid, torch-fidelity and clean")]
pub struct UnknownResizeMode(String);

impl FromStr for ResizeMode {
    type Err = UnknownResizeMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let modes = [Self::PytorchFid, Self::TorchFidelity, Self::Clean];
        modes.into_iter().find(|mode| mode.name() == text).ok_or_else(|| UnknownResizeMode(text.to_owned()))
    }
}

/// Resizes images of one shape.
#[derive(Clone, PartialEq, Debug)]
pub struct Resizer {
    mode: ResizeMode,
    shape: ImageShape,
    across: Axis,
    down: Axis,
}

/// Which source pixels make up each of the 299 positions along an axis.
#[derive(Clone, PartialEq, Debug)]
enum Axis {
    /// Between `pixel` and `next`, at `fraction` of the way.
    Linear(Vec<Between>),
    /// Weighted sums from a first pixel on.
    Sum(Vec<(usize, Vec<f64>)>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Between {
    pixel: usize,
    next: usize,
    fraction: f32,
}

impl Axis {
    fn new(mode: ResizeMode, len: usize) -> Self {
        let positions = 0..IMAGE_SIZE;
        let scale = len as f32 / IMAGE_SIZE as f32;
        let between = |place: f32| {
            let pixel = (place as usize).min(len - 1);
            Between { pixel, next: (pixel + 1).min(len - 1), fraction: place - pixel as f32 }
        };
        match mode {
            ResizeMode::PytorchFid => {
                Self::Linear(positions.map(|i| between((scale * (i as f32 + 0.5) - 0.5).max(0.0))).collect())
            }
            ResizeMode::TorchFidelity => {
                // The scale is made in double precision and rounded.
                let scale = (len as f64 / IMAGE_SIZE as f64) as f32;
                Self::Linear(positions.map(|i| between(i as f32 * scale)).collect())
            }
            ResizeMode::Clean => Self::Sum(positions.map(|i| cubic_weights(len, i)).collect()),
        }
    }

    /// Source pixels that any position needs.
    fn reach(&self) -> usize {
        match self {
            Self::Linear(places) => places.iter().map(|place| place.next + 1).max().unwrap_or(0),
            Self::Sum(places) => {
                places.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0)
            }
        }
    }
}

/// Pillow's bicubic: the first pixel, and the weights from there on, of position `index` of [`IMAGE_SIZE`].
fn cubic_weights(len: usize, index: usize) -> (usize, Vec<f64>) {
    let scale = len as f64 / IMAGE_SIZE as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let centre = (index as f64 + 0.5) * scale;
    let first = (centre - support + 0.5).max(0.0) as usize;
    let end = ((centre + support + 0.5) as usize).min(len);
    let mut weights: Vec<f64> =
        (first..end).map(|pixel| cubic((pixel as f64 - centre + 0.5) / stretch)).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    (first, weights)
}

/// Keys's cubic with a = -1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    }
    if x < 2.0 {
        return (((x - 5.0) * x + 8.0) * x - 4.0) * A;
    }
    0.0
}

impl Resizer {
    /// For images of `shape`, gray or RGB; gray is taken for all three channels.
    ///
    /// # Panics
    /// If an image of this shape has no pixel, or other than 1 or 3 channels.
    pub fn new(mode: ResizeMode, shape: ImageShape) -> Self {
        assert!(!shape.is_empty() && (shape.channels == 1 || shape.channels == 3), "images of {shape}");
        Self { mode, shape, across: Axis::new(mode, shape.width), down: Axis::new(mode, shape.height) }
    }

    /// The image `pixels` of the shape (NHWC) as the network sees it, into `out` `[299, 299, 3]`.
    ///
    /// # Panics
    /// If either length is another.
    pub fn resize(&self, pixels: &[u8], out: &mut [f32]) {
        const ROW: usize = IMAGE_SIZE * 3;
        assert_eq!((pixels.len(), out.len()), (self.shape.len(), NETWORK_IMAGE));
        let unit = match self.mode {
            ResizeMode::PytorchFid => 255.0,
            ResizeMode::TorchFidelity | ResizeMode::Clean => 1.0,
        };
        let values: [f32; 256] = std::array::from_fn(|byte| byte as f32 / unit);
        // Rows first, all that a position down the image needs; then columns.
        let mut rows = vec![0.0; self.down.reach() * ROW];
        let row_bytes = self.shape.width * self.shape.channels;
        for (row, pixels) in rows.chunks_exact_mut(ROW).zip(pixels.chunks_exact(row_bytes)) {
            match self.shape.channels {
                1 => self.across.row(|pixel| [values[usize::from(pixels[pixel])]; 3], row),
                _ => {
                    let (pixels, _) = pixels.as_chunks::<3>();
                    self.across.row(|pixel| pixels[pixel].map(|byte| values[usize::from(byte)]), row);
                }
            }
        }
        let row = |index: usize| &rows[index * ROW..][..ROW];
        match &self.down {
            Axis::Linear(places) => {
                for (out, place) in out.chunks_exact_mut(ROW).zip(places) {
                    let pairs = row(place.pixel).iter().zip(row(place.next));
                    for (out, (&a, &b)) in out.iter_mut().zip(pairs) {
                        *out = a + (b - a) * place.fraction;
                    }
                }
            }
            Axis::Sum(places) => {
                let mut sums = vec![0.0; ROW];
                for (out, (first, weights)) in out.chunks_exact_mut(ROW).zip(places) {
                    sums.fill(0.0);
                    for (offset, &weight) in weights.iter().enumerate() {
                        for (sum, &value) in sums.iter_mut().zip(row(first + offset)) {
                            *sum += f64::from(value) * weight;
                        }
                    }
                    for (out, &sum) in out.iter_mut().zip(&sums) {
                        *out = sum as f32;
                    }
                }
            }
        }
        match self.mode {
            ResizeMode::PytorchFid => out.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0),
            ResizeMode::TorchFidelity => out.iter_mut().for_each(|value| *value = (*value - 128.0) / 128.0),
            ResizeMode::Clean => {
                out.iter_mut().for_each(|value| *value = (value.clamp(0.0, 255.0) - 128.0) / 128.0);
            }
        }
    }
}

impl Axis {
    /// One row of pixels along this axis.
    fn row(&self, pixel: impl Fn(usize) -> [f32; 3], out: &mut [f32]) {
        let (out, _) = out.as_chunks_mut::<3>();
        match self {
            Self::Linear(places) => {
                for (out, place) in out.iter_mut().zip(places) {
                    let (a, b) = (pixel(place.pixel), pixel(place.next));
                    *out = std::array::from_fn(|c| a[c] + (b[c] - a[c]) * place.fraction);
                }
            }
            Self::Sum(places) => {
                for (out, (first, weights)) in out.iter_mut().zip(places) {
                    let mut sums = [0.0; 3];
                    for (offset, &weight) in weights.iter().enumerate() {
                        let values = pixel(first + offset);
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum += f64::from(value) * weight;
                        }
                    }
                    *out = sums.map(|sum| sum as f32);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODES: [ResizeMode; 3] = [ResizeMode::PytorchFid, ResizeMode::TorchFidelity, ResizeMode::Clean];

    fn resized(mode: ResizeMode, shape: ImageShape, pixels: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; NETWORK_IMAGE];
        Resizer::new(mode, shape).resize(pixels, &mut out);
        out
    }

    #[test]
    fn names_survive() {
        for mode in MODES {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("bicubic".parse::<ResizeMode>().unwrap_err().to_string().contains("clean"));
    }

    #[test]
    fn an_image_of_the_networks_size_only_changes_its_range() {
        let shape = ImageShape::new(IMAGE_SIZE, IMAGE_SIZE, 3);
        let pixels: Vec<u8> = (0..shape.len()).map(|i| (i * 7 % 256) as u8).collect();
        for mode in MODES {
            let out = resized(mode, shape, &pixels);
            for (&value, &pixel) in out.iter().zip(&pixels) {
                let expected = match mode {
                    ResizeMode::PytorchFid => 2.0 * (f32::from(pixel) / 255.0) - 1.0,
                    _ => (f32::from(pixel) - 128.0) / 128.0,
                };
                assert!((value - expected).abs() < 1e-6, "{mode}: {value} for {pixel}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn gray_is_all_three_channels(height in 1usize..400, width in 1usize..400, start: u8) {
            let gray: Vec<u8> = (0..height * width).map(|i| start.wrapping_add((i * 31) as u8)).collect();
            let colour: Vec<u8> = gray.iter().flat_map(|&value| [value; 3]).collect();
            for mode in MODES {
                let one = resized(mode, ImageShape::new(height, width, 1), &gray);
                prop_assert!(one.iter().all(|value| value.is_finite() && (-1.01..=1.01).contains(value)));
                prop_assert_eq!(one, resized(mode, ImageShape::new(height, width, 3), &colour));
            }
        }
    }
}
