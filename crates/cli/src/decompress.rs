//! `ddpm decompress`: bytes to images.

use crate::Global;
use crate::coding;
use crate::failure::Failure;
use crate::image_files::ImageFolder;
use crate::model::{self, ModelArgs};
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use clap::ValueEnum;
use codec::progressive::{self, Decoded, Extent, Reconstruction};
use codec::{CodecError, Header, Kind, lossless};
use diffusion::Denoiser;
use diffusion::pixels::to_bytes;
use engine::ImageShape;
use serde_json::{Value, json};
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of a file that are read, at most.
const MAX_BYTES: u64 = 1 << 30;

/// Decompress a file that `ddpm compress` wrote, with the same model
///
/// Writes DIR/000000.png, DIR/000001.png, …: the same pixels on any machine, with any number of threads and
/// any batch. A file that is damaged, cut off or made with another model is refused. Of a progressive file, a
/// part is enough if that is asked for.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm decompress runs/digits digits.ddpm --out decoded
  ddpm decompress runs/digits digits.ddpm --out rough --prefix 400                       as if only 400 bytes were there
  ddpm decompress runs/digits half.ddpm --out rough --allow-partial --reconstruct xstart  what a broken download gives")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The compressed file
    file: PathBuf,

    /// Folder for the images, new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Use the first bytes only, or all if there are fewer
    #[arg(long, value_name = "BYTES")]
    prefix: Option<u64>,

    /// Take a file that is cut off for a prefix. Damage is then not noticed
    #[arg(long)]
    allow_partial: bool,

    /// How images are made of what a prefix says
    #[arg(long, value_enum, default_value_t = ReconstructionName::Flow)]
    reconstruct: ReconstructionName,

    /// Calls of the network for each image's flow, at least 1
    #[arg(long, value_name = "K", default_value = "25")]
    flow_steps: NonZeroUsize,

    /// Images that go through the network at once, at least 1: more take more memory
    #[arg(long, value_name = "B", default_value = "16")]
    batch: NonZeroUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ReconstructionName {
    /// Along the deterministic flow (DDIM): sharp
    Flow,
    /// The network's estimate x̂0: least squared error, soft where little is known
    Xstart,
}

impl ReconstructionName {
    fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Xstart => "xstart",
        }
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    ImageFolder::check_vacant(&args.out)?;
    let bytes = args.bytes()?;
    let failed = |error: CodecError| {
        let remedy = match error {
            CodecError::Truncated { .. } => "; if it is cut off, --allow-partial decodes what is there",
            _ => "",
        };
        let failure = coding::failure(error);
        let message = format!("{}: {}{remedy}", args.file.display(), failure.message);
        Failure {
            message: message.clone(),
            json: json!({ "error": message, "status": failure.status }),
            ..failure
        }
    };
    let header = Header::read(&bytes).map_err(failed)?;
    // The file says how networks were computed when it was made.
    let conv = coding::conv(header.variant)
        .map_err(|failure| Failure::input(format!("{}: {}", args.file.display(), failure.message)))?;
    let global = &Global { conv, ..*global };
    let batch = args.batch.get().min(header.images);
    let mut opened = model::open(&args.model, batch, coding::hardware(global)?)?;
    let process = opened.process()?;
    let image = opened.denoiser.image_shape();
    let extent = match args.prefix.is_some() || args.allow_partial {
        true => Extent::Prefix,
        false => Extent::Whole,
    };
    let how = match args.reconstruct {
        ReconstructionName::Flow => Reconstruction::Flow { steps: args.flow_steps.get() },
        ReconstructionName::Xstart => Reconstruction::XStart,
    };

    if header.kind == Kind::Lossless && extent == Extent::Prefix {
        let problem =
            "holds lossless images, of which all bytes are needed: leave out --prefix and --allow-partial";
        return Err(Failure::input(format!("{} {problem}", args.file.display())));
    }

    let start = Instant::now();
    let mut progress = None;
    let mut writer = Writer { out: &args.out, header, image, folder: None, written: 0, failure: None };
    let mut model =
        coding::model(&process, &mut opened.denoiser, &opened.fingerprint, conv)?.with_batch(batch);
    let mut watch =
        |done, total| coding::show(&mut progress, "decompressing", done, total, global.quiet, &signals);
    let decoded = match header.kind {
        Kind::Progressive => {
            let take = &mut |number: usize, x_start: &[f32]| writer.take(number, &to_bytes(x_start));
            progressive::decode(&mut model, &bytes, extent, how, &mut watch, take).map(Some)
        }
        Kind::Lossless => {
            let take = &mut |number: usize, pixels: &[u8]| writer.take(number, pixels);
            lossless::decode(&mut model, &bytes, &mut watch, take).map(|_| None)
        }
    };
    progress.iter().for_each(Progress::finish);
    match (decoded, writer.failure) {
        (_, Some(failure)) => Err(failure),
        (Ok(decoded), None) => Ok(told(args, header, decoded, bytes.len(), start.elapsed().as_secs_f64())),
        (Err(CodecError::Stopped), None) => {
            let (written, images) = (writer.written, header.images);
            let message = format!("stopped; {written} of {images} images are in {}", args.out.display());
            let json = json!({ "status": "stopped", "out": args.out, "images": written });
            Err(Failure::stopped(signals.exit_status(), message, json))
        }
        (Err(error), None) => Err(failed(error)),
    }
}

/// Where decoded images go.
struct Writer<'a> {
    out: &'a Path,
    header: Header,
    image: ImageShape,
    /// Made with the first image.
    folder: Option<ImageFolder>,
    written: usize,
    /// Why images could not be written.
    failure: Option<Failure>,
}

impl Writer<'_> {
    /// Writes an image; a failure, for which the codec has no word, is kept and the work stopped.
    fn take(&mut self, number: usize, pixels: &[u8]) -> Result<(), CodecError> {
        self.write(number, pixels).map_err(|failure| {
            self.failure = Some(failure);
            CodecError::Stopped
        })?;
        self.written += 1;
        Ok(())
    }

    fn write(&mut self, number: usize, pixels: &[u8]) -> Result<(), Failure> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => ImageFolder::create(self.out, self.header.images)?,
        };
        self.folder.insert(folder).write_image(number, pixels, self.image)
    }
}

fn told(args: &Args, header: Header, decoded: Option<Decoded>, bytes: usize, seconds: f64) -> Report {
    let images = header.images;
    let (part, more) = match decoded {
        None => ("every pixel".to_owned(), json!({ "kind": "lossless" })),
        Some(Decoded { steps, all_steps, reached: (first, last), .. }) => {
            let part =
                if steps == all_steps { format!("all {steps}") } else { format!("{steps} of {all_steps}") };
            let t = if first == last { first.to_string() } else { format!("{first} to {last}") };
            let json = json!({
                "kind": "progressive", "steps": steps, "all_steps": all_steps, "reached_t": [first, last],
                "reconstruct": args.reconstruct.name(),
            });
            (format!("{part} steps, to t = {t}"), json)
        }
    };
    let words =
        format!("{images} images in {} from {bytes} bytes: {part}; {seconds:.1} s", args.out.display());
    let mut json = json!({
        "status": "finished", "out": args.out, "images": images, "bytes": bytes, "seconds": seconds,
    });
    if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
    Report::new(words, json)
}

impl Args {
    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let problem =
            |error: &dyn std::fmt::Display| Failure::input(format!("{}: {error}", self.file.display()));
        let file = std::fs::File::open(&self.file).map_err(|error| problem(&error))?;
        let mut bytes = Vec::new();
        let most = self.prefix.unwrap_or(MAX_BYTES + 1).min(MAX_BYTES + 1);
        file.take(most).read_to_end(&mut bytes).map_err(|error| problem(&error))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(problem(&"larger than the 1 GiB that a compressed file may have"));
        }
        Ok(bytes)
    }
}
