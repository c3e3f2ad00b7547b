//! `ddpm neighbours`: whether samples are copies of training images.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, INPUTS, SamplingArgs, SetArgs};
use crate::image_files::{check_file_place, write_whole};
use crate::measured::{self, Measuring};
use crate::report::Report;
use crate::signals::Signals;
use engine::ImageShape;
use eval::image_set::Unreadable;
use eval::neighbours::nearest;
use serde_json::json;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use train::grid::Picture;

/// Pixels between images, and between a sample and its neighbours.
const GAP: usize = 2;
const WIDE_GAP: usize = 8;

/// Show samples with the training images nearest to them in feature space
///
/// Writes a picture with a row for each sample: the sample, then its neighbours, the nearest first.
#[derive(clap::Args, Debug)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// The samples
    #[arg(value_name = "SAMPLES")]
    samples: String,

    /// The images they may resemble
    #[arg(value_name = "REFERENCE")]
    reference: String,

    /// The picture to write; replaced if it is there
    #[arg(long, value_name = "FILE.png")]
    out: PathBuf,

    /// Samples to show, the first of their set
    #[arg(long, value_name = "COUNT", default_value = "10")]
    n: NonZeroU64,

    /// Neighbours of each
    #[arg(long, value_name = "K", default_value = "10")]
    k: NonZeroUsize,

    /// Take REFERENCE's first COUNT images [default: all; of a model 50000]
    #[arg(long, value_name = "COUNT")]
    reference_n: Option<NonZeroU64>,

    #[command(flatten)]
    features: FeatureArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

fn after_help() -> String {
    format!(
        "Example:
  ddpm neighbours runs/cifar10 cifar10:DIR:train --n 10 --out neighbours.png

{INPUTS}"
    )
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    for input in [&args.samples, &args.reference] {
        if measured::statistics_file(input)?.is_some() {
            return Err(Failure::input(format!("{input}: a statistics file; neighbours need the images")));
        }
    }
    check_file_place(&args.out, "--out")?;
    let signals = Signals::watch().map_err(Failure::work)?;
    let inputs = [args.samples.as_str(), &args.reference];
    let mut measuring =
        Measuring::new(&args.features, &args.sampling, global, &signals)?.beside_models(&inputs)?;
    let set = |input, count| SetArgs { input, count, unreadable: Unreadable::Refuse };
    let (samples, reference) =
        (set(args.samples.as_str(), Some(args.n)), set(args.reference.as_str(), args.reference_n));
    let sample_set = measuring.measure(samples)?;
    let reference_set = measuring.measure(reference)?;
    measured::note_unlike_sizes([&sample_set, &reference_set].map(|set| Some(&set.about)), global.quiet);
    let rows = sample_set.rows().map_err(measured::failure)?;
    let others = reference_set.rows().map_err(measured::failure)?;
    let dims = args.features.dims.dims();
    let found = nearest(&rows, &others, dims, args.k.get()).map_err(measured::failure)?;

    let sample_numbers: Vec<u64> = (0..found.len() as u64).collect();
    let numbers: Vec<u64> = found.iter().flatten().map(|neighbour| neighbour.reference as u64).collect();
    let (shape, shown) = measuring.images(&samples, &sample_numbers)?;
    let (other_shape, neighbours) = measuring.images(&reference, &numbers)?;
    let strip = strip(shape, &shown, other_shape, &neighbours, args.k.get());
    write_whole(&args.out, &strip.to_png().map_err(Failure::work)?)?;

    let least = found.iter().filter_map(|row| row.first()).map(|neighbour| neighbour.distance);
    let least = least.fold(f64::INFINITY, f64::min);
    let words = format!(
        "{} samples with {} neighbours each in {}; the least distance is {least:.4}\n  of        {}\n  against   {}\n  {}",
        found.len(),
        args.k,
        args.out.display(),
        measured::side_words(Some(&sample_set.about), &args.samples),
        measured::side_words(Some(&reference_set.about), &args.reference),
        measured::settings_words(&sample_set.about),
    );
    let rows: Vec<_> = found
        .iter()
        .map(|row| {
            row.iter().map(|n| json!({ "image": n.reference, "distance": n.distance })).collect::<Vec<_>>()
        })
        .collect();
    let json = json!({
        "status": "finished", "out": args.out, "neighbours": rows,
        "set": measured::side_json(Some(&sample_set.about), &args.samples),
        "reference": measured::side_json(Some(&reference_set.about), &args.reference),
    });
    Ok(Report::new(words, json))
}

/// Rows of a sample and its `k` neighbours, on white, in RGB; images of unlike sizes are centred in cells of
/// the larger one.
fn strip(
    shape: ImageShape,
    samples: &[Vec<u8>],
    other_shape: ImageShape,
    neighbours: &[Vec<u8>],
    k: usize,
) -> Picture {
    let (height, width) = (shape.height.max(other_shape.height), shape.width.max(other_shape.width));
    let out =
        ImageShape::new(samples.len() * (height + GAP) - GAP, width + WIDE_GAP + k * (width + GAP) - GAP, 3);
    let mut pixels = vec![255; out.len()];
    let mut paint = |image: &[u8], shape: ImageShape, row: usize, left: usize| {
        let top = row * (height + GAP) + (height - shape.height) / 2;
        let left = left + (width - shape.width) / 2;
        for (y, line) in image.chunks_exact(shape.width * shape.channels).enumerate() {
            for (x, pixel) in line.chunks_exact(shape.channels).enumerate() {
                let start = ((top + y) * out.width + left + x) * 3;
                let rgb = if let [r, g, b] = *pixel { [r, g, b] } else { [pixel[0]; 3] };
                pixels[start..start + 3].copy_from_slice(&rgb);
            }
        }
    };
    for (row, sample) in samples.iter().enumerate() {
        paint(sample, shape, row, 0);
        for (column, neighbour) in neighbours[row * k..][..k].iter().enumerate() {
            paint(neighbour, other_shape, row, width + WIDE_GAP + column * (width + GAP));
        }
    }
    Picture { shape: out, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_before_its_neighbours() {
        let gray = |value| vec![value; 4];
        let colour = |r, g, b| [r, g, b].repeat(4);
        let (shape, other) = (ImageShape::new(2, 2, 1), ImageShape::new(2, 2, 3));
        let samples = [gray(10), gray(20)];
        let neighbours = [colour(1, 2, 3), colour(4, 5, 6), colour(7, 8, 9), colour(11, 12, 13)];
        let strip = strip(shape, &samples, other, &neighbours, 2);
        assert_eq!(strip.shape, ImageShape::new(2 + GAP + 2, 2 + WIDE_GAP + 2 + GAP + 2, 3));
        let at = |y: usize, x: usize| &strip.pixels[(y * strip.shape.width + x) * 3..][..3];
        assert_eq!((at(0, 0), at(5, 1), at(0, 2)), (&[10; 3][..], &[20; 3][..], &[255; 3][..]));
        let second = 2 + WIDE_GAP + 2 + GAP;
        assert_eq!(
            (at(1, 2 + WIDE_GAP), at(0, second), at(4, second)),
            (&[1, 2, 3][..], &[4, 5, 6][..], &[11, 12, 13][..])
        );
    }
}
