//! Resizing by separable resampling, in integers: the same result on every machine.
//!
//! Pixels are squares, image edges are aligned (no half-pixel shift). Rows first, then columns, each pass rounded to
//! 8 bits with weights of 22 fractional bits. That is also how Pillow resamples, so [`ResizeFilter::Lanczos`]
//! agrees with its `LANCZOS`, the filter with which the LSUN and CelebA-HQ sets of the paper were made.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How pixels are weighted when an image is resized.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeFilter {
    /// The mean over the exact area that an output pixel covers. Never overshoots.
    #[default]
    Area,
    /// Lanczos's windowed sinc with 3 lobes, widened when shrinking. Sharper; may overshoot at edges.
    Lanczos,
}

impl fmt::Display for ResizeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Area => "area",
            Self::Lanczos => "lanczos",
        })
    }
}

impl FromStr for ResizeFilter {
    type Err = crate::DataError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "area" => Ok(Self::Area),
            "lanczos" => Ok(Self::Lanczos),
            _ => Err(crate::DataError::Option {
                option: "resize filter",
                what: format!("there is none called `{text}`"),
                remedy: "give area or lanczos".into(),
            }),
        }
    }
}

/// A rectangle of an interleaved 8-bit image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pixels: &'a [u8],
    /// Pixels from one row to the next.
    stride: usize,
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    channels: usize,
}

impl<'a> View<'a> {
    /// A whole image, `height · width · channels` bytes, of 1 or 3 channels.
    pub(crate) fn new(pixels: &'a [u8], width: usize, height: usize, channels: usize) -> Self {
        assert_eq!(pixels.len(), width * height * channels, "{width}x{height}x{channels} image");
        assert!(!pixels.is_empty() && (channels == 1 || channels == 3));
        Self { pixels, stride: width, x: 0, y: 0, width, height, channels }
    }

    /// The largest square in the middle; an odd pixel of margin goes to the right or bottom.
    pub(crate) fn centre_square(self) -> Self {
        let side = self.width.min(self.height);
        Self {
            x: self.x + (self.width - side) / 2,
            y: self.y + (self.height - side) / 2,
            width: side,
            height: side,
            ..self
        }
    }

    fn row(&self, y: usize) -> &'a [u8] {
        let start = ((self.y + y) * self.stride + self.x) * self.channels;
        &self.pixels[start..start + self.width * self.channels]
    }

    /// The rectangle as `width × height` pixels (not 0).
    pub(crate) fn resize(&self, width: usize, height: usize, filter: ResizeFilter) -> Vec<u8> {
        let across = Weights::new(self.width, width, filter);
        let down = Weights::new(self.height, height, filter);
        let row_len = width * self.channels;
        let mut narrow = vec![0; self.height * row_len];
        for (y, out) in narrow.chunks_exact_mut(row_len).enumerate() {
            match self.channels {
                1 => across.resample_row::<1>(self.row(y), out),
                _ => across.resample_row::<3>(self.row(y), out),
            }
        }
        let mut result = vec![0; height * row_len];
        let mut sums = vec![0; row_len];
        for (out, (first, weights)) in result.chunks_exact_mut(row_len).zip(down.iter()) {
            sums.fill(HALF);
            for (row, &weight) in narrow[first * row_len..].chunks_exact(row_len).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&sums) {
                *out = to_u8(sum);
            }
        }
        result
    }
}

/// Fractional bits of a weight: 255 · 2²² and Lanczos's lobes fit in an `i32`.
const FRACTION: u32 = 22;
const HALF: i32 = 1 << (FRACTION - 1);

fn to_u8(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// For each output pixel of a row or column, the input pixels it is made of.
struct Weights {
    /// First input pixel, and where in `weights` its weights begin and end.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
}

impl Weights {
    fn new(from: usize, to: usize, filter: ResizeFilter) -> Self {
        let mut result = Self { spans: Vec::with_capacity(to), weights: Vec::new() };
        let mut real = Vec::new();
        for index in 0..to {
            real.clear();
            let first = match filter {
                ResizeFilter::Area => area_weights(from, to, index, &mut real),
                ResizeFilter::Lanczos => lanczos_weights(from, to, index, &mut real),
            };
            let total: f64 = real.iter().sum();
            let start = result.weights.len();
            let scale = f64::from(1 << FRACTION) / total;
            result.weights.extend(real.iter().map(|weight| libm::round(weight * scale) as i32));
            result.spans.push((first, start..result.weights.len()));
        }
        result
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().map(|(first, range)| (*first, &self.weights[range.clone()]))
    }

    fn resample_row<const C: usize>(&self, row: &[u8], out: &mut [u8]) {
        let (row, _) = row.as_chunks::<C>();
        let (out, _) = out.as_chunks_mut::<C>();
        for (out, (first, weights)) in out.iter_mut().zip(self.iter()) {
            let mut sums = [HALF; C];
            for (pixel, &weight) in row[first..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *out = sums.map(to_u8);
        }
    }
}

/// The overlaps of output pixel `index`, `[index·from, (index+1)·from)` in units of 1/`to` input pixels,
/// with the input pixels `[x·to, (x+1)·to)`. Returns the first x.
fn area_weights(from: usize, to: usize, index: usize, weights: &mut Vec<f64>) -> usize {
    let (start, end) = (index * from, (index + 1) * from);
    let first = start / to;
    for x in first..end.div_ceil(to) {
        let overlap = end.min((x + 1) * to) - start.max(x * to);
        weights.push(overlap as f64);
    }
    first
}

/// Lanczos weights of the input pixels within three lobes of output pixel `index`'s centre. Returns the first one.
fn lanczos_weights(from: usize, to: usize, index: usize, weights: &mut Vec<f64>) -> usize {
    let scale = from as f64 / to as f64;
    let lobe = scale.max(1.0);
    let centre = (index as f64 + 0.5) * scale;
    let first = (centre - 3.0 * lobe + 0.5).max(0.0) as usize;
    let end = ((centre + 3.0 * lobe + 0.5) as usize).min(from);
    for x in first..end {
        weights.push(lanczos((x as f64 + 0.5 - centre) / lobe));
    }
    first
}

/// sinc(x) · sinc(x/3) within three lobes, 0 outside.
fn lanczos(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    if x.abs() >= 3.0 {
        return 0.0;
    }
    let angle = std::f64::consts::PI * x;
    3.0 * libm::sin(angle) * libm::sin(angle / 3.0) / (angle * angle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gradient(width: usize, height: usize, channels: usize) -> Vec<u8> {
        (0..width * height * channels).map(|i| (i * 37 % 251) as u8).collect()
    }

    #[test]
    fn area_halves_by_the_mean_of_four() {
        let pixels = [0, 10, 20, 30, 40, 50, 60, 70];
        let out = View::new(&pixels, 4, 2, 1).resize(2, 1, ResizeFilter::Area);
        assert_eq!(out, [25, 45]);
    }

    #[test]
    fn area_weighs_pixels_by_how_much_of_them_is_covered() {
        // Three pixels to two: each takes one whole and half of the middle one.
        let out = View::new(&[0, 90, 30], 3, 1, 1).resize(2, 1, ResizeFilter::Area);
        assert_eq!(out, [30, 50]);
    }

    #[test]
    fn the_centre_square_is_cut_out_of_both_orientations() {
        let pixels = gradient(5, 3, 3);
        let wide = View::new(&pixels, 5, 3, 3).centre_square().resize(3, 3, ResizeFilter::Area);
        for y in 0..3 {
            assert_eq!(wide[y * 9..][..9], pixels[(y * 5 + 1) * 3..][..9]);
        }
        let pixels = gradient(2, 5, 1);
        let tall = View::new(&pixels, 2, 5, 1).centre_square().resize(2, 2, ResizeFilter::Lanczos);
        assert_eq!(tall, pixels[2..6]);
    }

    #[test]
    fn lanczos_sharpens_an_edge_and_area_does_not_overshoot() {
        let edge: Vec<u8> = (0..32).map(|x| if x < 16 { 50 } else { 200 }).collect();
        let range = |filter| {
            let out = View::new(&edge, 32, 1, 1).resize(12, 1, filter);
            (*out.iter().min().unwrap(), *out.iter().max().unwrap())
        };
        assert_eq!(range(ResizeFilter::Area), (50, 200));
        let (low, high) = range(ResizeFilter::Lanczos);
        assert!(low < 50 && high > 200, "{low} {high}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_plain_image_stays_plain(
            width in 1usize..70, height in 1usize..70, to in 1usize..50, value: u8, lanczos: bool,
        ) {
            let filter = if lanczos { ResizeFilter::Lanczos } else { ResizeFilter::Area };
            let pixels = vec![value; width * height * 3];
            let out = View::new(&pixels, width, height, 3).centre_square().resize(to, to, filter);
            prop_assert_eq!(out, vec![value; to * to * 3]);
        }

        #[test]
        fn a_colour_image_is_resized_channel_by_channel(width in 1usize..40, height in 1usize..40, to in 1usize..40) {
            let pixels = gradient(width, height, 3);
            let colour = View::new(&pixels, width, height, 3).resize(to, to, ResizeFilter::Lanczos);
            for channel in 0..3 {
                let plane: Vec<u8> = pixels.iter().skip(channel).step_by(3).copied().collect();
                let gray = View::new(&plane, width, height, 1).resize(to, to, ResizeFilter::Lanczos);
                let of_colour: Vec<u8> = colour.iter().skip(channel).step_by(3).copied().collect();
                prop_assert_eq!(gray, of_colour);
            }
        }
    }
}
