//! `ddpm data`: what images there are, whether they are whole, in which form, and where to get them.

mod convert;
mod download;
mod fetch;
mod info;
mod list;
mod published;
mod verify;

use crate::Global;
use crate::failure::Failure;
use crate::report::Report;
use clap::{Subcommand, ValueEnum};
use data::{DataError, ImageOptions, ImageSource, ResizeFilter, SourceSpec};
use std::sync::Arc;

/// Look at data sets, check, convert and fetch them
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(list::Args),
    Info(info::Args),
    Verify(verify::Args),
    Convert(convert::Args),
    Fetch(fetch::Args),
}

/// Which images, in which shape.
#[derive(clap::Args, Debug)]
struct SourceArgs {
    /// Where the images are: KIND:PATH, as `ddpm data list` shows
    source: SourceSpec,

    /// Crop to the square in the middle and resize to this many pixels [default: as stored]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,

    /// 1 (gray) or 3 (RGB) [default: as stored]
    #[arg(long, value_name = "CHANNELS")]
    channels: Option<usize>,

    /// How images are resized; StyleGAN's tool prepared LSUN with lanczos
    #[arg(long, value_enum, default_value_t = FilterName::Area)]
    filter: FilterName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FilterName {
    /// The mean over the area that a pixel covers
    Area,
    /// Lanczos's windowed sinc with 3 lobes
    Lanczos,
}

impl SourceArgs {
    fn options(&self) -> ImageOptions {
        let filter = match self.filter {
            FilterName::Area => ResizeFilter::Area,
            FilterName::Lanczos => ResizeFilter::Lanczos,
        };
        ImageOptions { size: self.size, channels: self.channels, filter }
    }

    fn open(&self) -> Result<Arc<dyn ImageSource>, Failure> {
        data::open(&self.source, &self.options()).map_err(data_failure)
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    match &args.command {
        Command::List(args) => list::run(args),
        Command::Info(args) => info::run(args, global),
        Command::Verify(args) => verify::run(args, global),
        Command::Convert(args) => convert::run(args, global),
        Command::Fetch(args) => fetch::run(args, global),
    }
}

/// An error of data as the program's failure: a disk that does not do its work is none of the input.
fn data_failure(error: DataError) -> Failure {
    match &error {
        DataError::Io { action: "written" | "removed", .. } | DataError::LoaderStopped { .. } => {
            Failure::work(error)
        }
        _ => Failure::input(error),
    }
}
