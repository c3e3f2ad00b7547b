//! `ddpm data convert`: a data set in another form.

use super::{SourceArgs, data_failure};
use crate::Global;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use data::{Conversion, SourceSpec};
use serde_json::json;
use std::time::Instant;

/// Write any data set as a folder of PNGs, tar shards, TFRecords, an LMDB database or a .npz
///
/// Stopped, it goes on when called again; the result has its name only once it is whole.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm data convert lmdb:bedroom_train_lmdb tfrecord:bedroom-r08.tfrecords --size 256 --filter lanczos
  ddpm data convert parquet:train.parquet lmdb:train_lmdb
  ddpm data convert images:photos tar:shards --size 64")]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// What to write: images:DIR, tar:DIR, tfrecord:FILE (StyleGAN-style), lmdb:DIR (like LSUN) or npz:FILE
    target: SourceSpec,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let source = args.source.open()?;
    source.verify_checksums().map_err(data_failure)?;
    let mut conversion = Conversion::open(&*source, &args.target).map_err(data_failure)?;
    let (len, first) = (conversion.len(), conversion.written());
    let mut progress = Progress::new("converting", first, len, global.quiet);
    let start = Instant::now();
    while conversion.written() < len {
        if signals.stopped() {
            progress.finish();
            let written = conversion.written();
            let message = format!("stopped; {written} of {len} images are written; the same call goes on");
            let json = json!({ "status": "stopped", "images": written });
            return Err(Failure::stopped(signals.exit_status(), message, json));
        }
        conversion.step(&*source).map_err(data_failure)?;
        progress.update(conversion.written(), "");
    }
    conversion.finish(&*source).map_err(data_failure)?;
    progress.finish();
    let (shape, seconds) = (source.shape(), start.elapsed().as_secs_f64());
    let words = format!("{len} images of {shape} in {}, {seconds:.1} s", args.target);
    let json = json!({
        "status": "finished", "source": args.source.source.to_string(), "target": args.target.to_string(), "images": len,
        "resumed_from": first, "shape": [shape.height, shape.width, shape.channels], "seconds": seconds,
    });
    Ok(Report::new(words, json))
}
