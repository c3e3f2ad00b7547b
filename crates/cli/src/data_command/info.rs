//! `ddpm data info`: a data set at a glance.

use super::SourceArgs;
use crate::Global;
use crate::failure::Failure;
use crate::image_files::{check_file_place, write_whole};
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use data::{ImageOptions, Survey};
use serde_json::json;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use train::grid;

/// Images on a contact sheet.
const SHEET_IMAGES: u64 = 64;
/// Largest height and width of one on it, where images differ in size.
const SHEET_SIZE: usize = 128;
/// Images read between two looks at the clock.
const CHUNK: usize = 256;

/// Show what a data set is: how many images of which shape and class, the channels' mean and spread, a contact sheet
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm data info cifar10:data/cifar10
  ddpm data info lmdb:church_outdoor_train_lmdb --size 64 --filter lanczos --sheet church.png")]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Images that the statistics are taken of, evenly spread; more are more exact
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    sample: NonZeroU64,

    /// Write a picture of 64 images, evenly spread, to this file (.png)
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let source = args.source.open()?;
    args.sheet.iter().try_for_each(|path| check_file_place(path, "--sheet"))?;
    let (len, shape) = (source.len(), source.shape());
    let indices = spread(len, args.sample.get());
    let mut survey = Survey::default();
    let mut progress = Progress::new("reading", 0, indices.len() as u64, global.quiet);
    for part in indices.chunks(CHUNK) {
        if signals.stopped() {
            progress.finish();
            return Err(Failure::stopped(signals.exit_status(), "stopped", json!({ "status": "stopped" })));
        }
        survey += Survey::of(&*source, part);
        progress.update(survey.read + survey.bad.len() as u64, "");
    }
    progress.finish();
    if survey.read == 0
        && let Some((_, error)) = survey.bad.first()
    {
        return Err(Failure::input(format!("no image could be read; the first: {error}")));
    }
    let sizes = survey.sizes.clone().unwrap_or([shape.height..=shape.height, shape.width..=shape.width]);
    let is_one_size = sizes.iter().all(|side| side.start() == side.end());
    if let Some(path) = &args.sheet {
        // Images of several sizes stand side by side as training would crop and resize them.
        let resized = if is_one_size {
            None
        } else {
            let smallest = sizes.iter().map(|side| *side.start()).min().unwrap_or(1);
            let options = ImageOptions { size: Some(smallest.min(SHEET_SIZE)), ..args.source.options() };
            Some(data::open(&args.source.source, &options).map_err(super::data_failure)?)
        };
        let source = resized.as_ref().unwrap_or(&source);
        let shape = source.shape();
        let mut images = Vec::new();
        for index in spread(len, SHEET_IMAGES) {
            let mut pixels = vec![0; shape.len()];
            source.read(index, &mut pixels).map_err(super::data_failure)?;
            images.extend(pixels);
        }
        write_whole(path, &grid::grid(&images, shape).to_png().map_err(Failure::work)?)?;
    }

    let (means, deviations) = (survey.means(), survey.standard_deviations());
    let numbers = |values: &[f64]| values.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>().join(", ");
    let mut words = format!(
        "{}\nimages     {len}, {}\nmean       {} (0 to 255, of {} images)\nstd        {}\n",
        source.description(),
        if is_one_size { format!("{shape} each") } else { sizes_in_words(&sizes, shape.channels) },
        numbers(&means),
        survey.read,
        numbers(&deviations)
    );
    if !survey.classes.is_empty() {
        let (least, most) = (survey.classes.values().min(), survey.classes.values().max());
        words += &format!(
            "classes    {}, with {} to {} images of those read\n",
            survey.classes.len(),
            least.unwrap_or(&0),
            most.unwrap_or(&0)
        );
    }
    if !survey.bad.is_empty() {
        words += &format!("unreadable {} of those read; `ddpm data verify` lists them\n", survey.bad.len());
    }
    let json = json!({
        "source": args.source.source.to_string(), "description": source.description(), "images": len,
        "shape": is_one_size.then_some([shape.height, shape.width, shape.channels]),
        "heights": [sizes[0].start(), sizes[0].end()], "widths": [sizes[1].start(), sizes[1].end()], "read": survey.read, "unreadable": survey.bad.len(),
        "mean": means, "std": deviations, "classes": survey.classes, "sheet": args.sheet,
    });
    Ok(Report::new(words, json))
}

/// From which size to which the images are.
fn sizes_in_words([heights, widths]: &[RangeInclusive<usize>; 2], channels: usize) -> String {
    format!(
        "{} to {} high, {} to {} wide, {channels} channels: to train on them, give a size to crop and resize them to",
        heights.start(),
        heights.end(),
        widths.start(),
        widths.end(),
    )
}

/// At most `count` numbers below `len`, evenly spread, ascending.
fn spread(len: u64, count: u64) -> Vec<u64> {
    let count = count.min(len);
    (0..count).map(|i| (u128::from(i) * u128::from(len) / u128::from(count)) as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_over_the_whole() {
        assert_eq!(spread(10, 4), [0, 2, 5, 7]);
        assert_eq!(spread(3, 64), [0, 1, 2]);
        assert_eq!(spread(u64::MAX, 2), [0, u64::MAX / 2]);
    }
}
