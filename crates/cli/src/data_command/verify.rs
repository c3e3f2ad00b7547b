//! `ddpm data verify`: whether every image can be read.

use super::SourceArgs;
use crate::Global;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use data::{ImageOptions, Survey};
use serde_json::json;

/// Images read between two looks at the clock.
const CHUNK: u64 = 256;
/// Bad images that are listed; the others are counted.
const LISTED: usize = 100;
/// What images are resized to when no size is asked for: it costs little, and images of all sizes pass.
const SMALL: usize = 8;

/// Read every image of a data set, check the checksums that there are, and list what is bad
///
/// Ends with status 2 if any image is bad.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let options = ImageOptions { size: args.source.size.or(Some(SMALL)), ..args.source.options() };
    let source = data::open(&args.source.source, &options).map_err(super::data_failure)?;
    let len = source.len();
    let mut progress = Progress::new("verifying", 0, len, global.quiet);
    let (mut read, mut bad, mut listed) = (0, 0, Vec::new());
    for start in (0..len).step_by(CHUNK as usize) {
        if signals.stopped() {
            progress.finish();
            let json = json!({ "status": "stopped", "read": read, "bad": bad });
            return Err(Failure::stopped(
                signals.exit_status(),
                format!("stopped; {read} of {len} images are good, {bad} bad"),
                json,
            ));
        }
        let indices: Vec<u64> = (start..len.min(start + CHUNK)).collect();
        let survey = Survey::of(&*source, &indices);
        read += survey.read;
        bad += survey.bad.len();
        for (index, error) in survey.bad {
            progress.say_result(&format!("image {index}: {error}"));
            if listed.len() < LISTED {
                listed.push(json!({ "image": index, "error": error.to_string() }));
            }
        }
        let detail = if bad > 0 { format!("{bad} bad") } else { String::new() };
        progress.update(start + indices.len() as u64, &detail);
    }
    progress.finish();
    // Damage that no image shows: pixels are pixels, whatever a checksum of them all says.
    let checksum = source.verify_checksums().err();
    let source = args.source.source.to_string();
    let json = json!({
        "source": source, "images": len, "good": read, "bad": bad, "bad_images": listed,
        "checksum_error": checksum.as_ref().map(ToString::to_string),
    });
    if bad > 0 {
        if let Some(error) = checksum {
            progress.say_result(&error.to_string());
        }
        let mut failure = Failure::input(format!("{source}: {bad} of {len} images are bad"));
        failure.json = json;
        return Err(failure);
    }
    if let Some(error) = checksum {
        return Err(Failure { json, ..super::data_failure(error) });
    }
    Ok(Report::new(format!("{source}: all {len} images are good"), json))
}
