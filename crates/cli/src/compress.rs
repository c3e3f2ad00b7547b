//! `ddpm compress`: images to bytes.

use crate::Global;
use crate::coding;
use crate::failure::Failure;
use crate::image_count;
use crate::image_files::{check_file_place, write_whole};
use crate::measured;
use crate::model::{self, ModelArgs};
use crate::progress::{self, Progress};
use crate::report::Report;
use crate::signals::Signals;
use codec::progressive::{self, CurvePoint, Limit};
use codec::{CodecError, Header, lossless};
use data::{ImageOptions, SourceSpec};
use diffusion::Denoiser;
use diffusion::pixels::{PIXEL_VALUES_PER_UNIT, from_bytes};
use engine::ImageShape;
use serde_json::{Value, json};
use std::io::Read;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Compress images into one file, with a model that the receiver has too
///
/// The file is progressive: it is sent from noise to image, and any prefix of it is decoded to the best
/// images at that size (`ddpm decompress --prefix`). Without a target it goes on down to the first step of
/// the model's process, a root mean squared error below 1 of 255 for a good model. Images in one file share
/// the header and are refined together. With --lossless every pixel is kept, and all of the file is needed.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm compress runs/digits a.png b.png --out digits.ddpm
  ddpm compress runs/digits mnist:DIR:test --n 16 --out digits.ddpm --target-rate 0.3
  ddpm compress runs/digits a.png --out a.ddpm --target-psnr 30
  ddpm compress runs/digits mnist:DIR:test --n 100 --out digits.ddpm --lossless
  ddpm decompress runs/digits digits.ddpm --out decoded --prefix 400

Sizes are counted in bits/dim: bits for each channel of each pixel. docs/format.md specifies the file.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Images: files, folders, or sources such as mnist:DIR:test; brought to the model's size and channels,
    /// which is said
    #[arg(required = true, value_name = "IMG")]
    images: Vec<String>,

    /// The file to write; replaced if it is there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Images to take of each source, the first of it [default: all]
    #[arg(long, value_name = "COUNT")]
    n: Option<NonZeroU64>,

    /// With --lossless, too, bring image files to the model's size: what is then kept is every pixel of the
    /// smaller images
    #[arg(long, requires = "lossless")]
    fit: bool,

    /// Keep every pixel, at the price of the model's variational bound: by bits-back coding over a chain of
    /// some tens of steps. A few images pay more, so that it suits many in one file
    #[arg(long, conflicts_with_all = ["target_rate", "target_psnr", "curve"])]
    lossless: bool,

    /// End the file at this many bits/dim, above 0, header included; if the model's process ends before, that is
    /// said
    #[arg(long, value_name = "BITS", conflicts_with = "target_psnr")]
    target_rate: Option<f64>,

    /// End the file when x̂0 of all images has this peak signal-to-noise ratio, in dB, above 0; if it never has,
    /// that is said
    #[arg(long, value_name = "DB")]
    target_psnr: Option<f64>,

    /// Write a table of what each prefix is worth: bytes, relative entropy, error
    #[arg(long, value_name = "CSV")]
    curve: Option<PathBuf>,

    /// Images that go through the network at once, at least 1: more take more memory
    #[arg(long, value_name = "B", default_value = "16")]
    batch: NonZeroUsize,
}

/// The kind of source whose images are any size.
const IMAGE_FILES: &str = "images";

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    check_file_place(&args.out, "--out")?;
    args.curve.iter().try_for_each(|path| check_file_place(path, "--curve"))?;
    args.check_images_stay()?;
    let signals = Signals::watch().map_err(Failure::work)?;
    let mut opened = model::open(&args.model, args.batch.get(), coding::hardware(global)?)?;
    let process = opened.process()?;
    let image = opened.denoiser.image_shape();
    let (pixels, changed) = args.pixels(image, &opened.image_options()?)?;
    if changed > 0 && !global.quiet {
        let problem = "images are not of the model's size or channels";
        progress::say(&format!("note: {changed} {problem} {image}: the file has them cropped and resized"));
    }
    let count = pixels.len() / image.len();
    let seed = global.seed.unwrap_or(0);
    let limit = args.limit();

    let start = Instant::now();
    let mut model = coding::model(&process, &mut opened.denoiser, &opened.fingerprint, global.conv)?
        .with_batch(args.batch.get());
    let mut progress = None;
    let mut watch =
        |done, total| coding::show(&mut progress, "compressing", done, total, global.quiet, &signals);
    let x_start = from_bytes(&pixels);
    let coded = match args.lossless {
        true => lossless::encode(&mut model, &pixels, seed, &mut watch).map(File::Lossless),
        false => progressive::encode(&mut model, &x_start, seed, limit, &mut watch).map(File::Progressive),
    };
    progress.iter().for_each(Progress::finish);
    let file = coded.map_err(|error| match error {
        CodecError::Stopped => {
            let json = json!({ "status": "stopped", "out": args.out });
            Failure::stopped(signals.exit_status(), "stopped; nothing is written", json)
        }
        error => match (&error, args.target()) {
            // It speaks of the target, and not of the option.
            (CodecError::Request(problem), Some((option, target))) => {
                Failure::input(format!("{option} {target}: {problem}"))
            }
            _ => coding::failure(error),
        },
    })?;
    write_whole(&args.out, file.bytes())?;
    if let (Some(path), File::Progressive(file)) = (&args.curve, &file) {
        write_whole(path, table(&file.curve, x_start.len()).as_bytes())?;
    }
    Ok(told(args, &file, [count, changed], x_start.len(), start.elapsed().as_secs_f64()))
}

enum File {
    Progressive(progressive::Encoded),
    Lossless(lossless::Encoded),
}

impl File {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Progressive(file) => &file.bytes,
            Self::Lossless(file) => &file.bytes,
        }
    }
}

/// Root mean squared error on the 0–255 scale.
fn rmse(squared_error: f64) -> f64 {
    PIXEL_VALUES_PER_UNIT * squared_error.sqrt()
}

fn table(curve: &[CurvePoint], numbers: usize) -> String {
    let mut text = "bytes,bits_per_dim,divergence_bits_per_dim,rmse\n".to_owned();
    for point in curve {
        let rate = 8.0 * point.bytes as f64 / numbers as f64;
        let divergence = point.divergence_bits / numbers as f64;
        text.push_str(&format!("{},{rate},{divergence},{}\n", point.bytes, rmse(point.squared_error)));
    }
    text
}

fn told(args: &Args, file: &File, [images, changed]: [usize; 2], numbers: usize, seconds: f64) -> Report {
    let bytes = file.bytes().len();
    let rate = 8.0 * bytes as f64 / numbers as f64;
    let (what, more) = match file {
        File::Progressive(file) => of_progressive(args, file, numbers),
        File::Lossless(file) => of_lossless(file, images, numbers),
    };
    let out = args.out.display();
    let words =
        format!("{out}: {images} images in {bytes} bytes, {rate:.4} bits/dim; {what}; {seconds:.1} s");
    let mut json = json!({
        "status": "finished", "out": args.out, "images": images, "changed": changed, "bytes": bytes,
        "bits_per_dim": rate, "seconds": seconds,
    });
    if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
    Report::new(words, json)
}

fn of_progressive(args: &Args, file: &progressive::Encoded, numbers: usize) -> (String, Value) {
    let divergence = file.divergence_bits / numbers as f64;
    let (rmse, psnr) = (rmse(file.squared_error), 10.0 * (4.0 / file.squared_error).log10());
    let mut words = format!(
        "{divergence:.4} bits/dim of relative entropy in {} steps; x̂0 has RMSE {rmse:.3} of 255, PSNR {psnr:.2} dB",
        file.curve.len(),
    );
    if let (Some((option, target)), false) = (args.target(), file.limit_reached) {
        words.push_str(&format!(
            "; {option} {target} was not reached: this is all that the model's process \
             can say (--lossless keeps every pixel)"
        ));
    }
    let mut json = json!({
        "kind": "progressive", "header_bytes": file.header_bytes, "divergence_bits_per_dim": divergence,
        "steps": file.curve.len(), "rmse": rmse, "psnr": psnr,
    });
    if args.target().is_some() {
        json["target_reached"] = json!(file.limit_reached);
    }
    (words, json)
}

fn of_lossless(file: &lossless::Encoded, images: usize, numbers: usize) -> (String, Value) {
    let behind = images - file.forerunners;
    let numbers_behind = (numbers / images * behind) as f64;
    let per_dim = |bits: f64| (behind > 0).then(|| bits / numbers_behind);
    let (bound, real) = (per_dim(file.bound_bits), per_dim((file.bits - file.initial_bits) as f64));
    let words = match (bound, real) {
        (Some(bound), Some(real)) => format!(
            "lossless: {behind} images at {real:.4} bits/dim, whose bound is {bound:.4} ({} steps), behind {} that cost {} bits \
             in all",
            file.steps, file.forerunners, file.initial_bits
        ),
        _ => "lossless: too few images for bits back".to_owned(),
    };
    let json = json!({
        "kind": "lossless", "steps": file.steps, "forerunners": file.forerunners, "initial_bits": file.initial_bits,
        "bits_back_bits_per_dim": real, "bound_bits_per_dim": bound,
    });
    (words, json)
}

impl Args {
    /// The option that says where the file ends, and its value.
    fn target(&self) -> Option<(&'static str, f64)> {
        let rate = self.target_rate.map(|rate| ("--target-rate", rate));
        rate.or(self.target_psnr.map(|decibels| ("--target-psnr", decibels)))
    }

    fn limit(&self) -> Limit {
        match (self.target_rate, self.target_psnr) {
            (Some(rate), _) => Limit::BitsPerDim(rate),
            (None, Some(decibels)) => Limit::Psnr(decibels),
            (None, None) => Limit::None,
        }
    }

    /// Refuses to write over an image that is to be compressed, or over a file of a data set.
    fn check_images_stay(&self) -> Result<(), Failure> {
        for (option, path) in [("--out", Some(&self.out)), ("--curve", self.curve.as_ref())] {
            let Some(Ok(written)) = path.map(|path| path.canonicalize()) else { continue };
            // No data set has these. One may well lie there from an earlier call.
            if option == "--out" && is_compressed(&written) {
                continue;
            }
            for name in &self.images {
                let spec = spec(name)?;
                let source = spec.path().and_then(|path| path.canonicalize().ok());
                if source.is_some_and(|source| written.starts_with(source)) {
                    return Err(Failure::input(format!(
                        "{}: is one of the images, or a file among them ({name}); choose another {option} for the file",
                        written.display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The bytes of all images, in the network's shape, and how many were brought to it.
    fn pixels(&self, image: ImageShape, options: &ImageOptions) -> Result<(Vec<u8>, usize), Failure> {
        let mut pixels = Vec::new();
        let mut changed = 0;
        for name in &self.images {
            let spec = spec(name)?;
            let source = data::open(&spec, options).map_err(Failure::input)?;
            let count = image_count::or_all("--n", self.n.map(NonZeroU64::get), name, &*source)?;
            let begin = pixels.len();
            let so_far = (begin / image.len()) as u64;
            if so_far.saturating_add(count) > codec::header::MAX_IMAGES as u64 {
                let most = codec::header::MAX_IMAGES;
                let problem = format!("{name}: a file holds {most} images at most; give fewer by --n");
                return Err(Failure::input(problem));
            }
            pixels.resize(begin + count as usize * image.len(), 0);
            for (index, pixels) in (0..).zip(pixels[begin..].chunks_exact_mut(image.len())) {
                source.read(index, pixels).map_err(Failure::input)?;
            }
            // Other sources are data sets, prepared as their descriptions say.
            if spec.kind().name == IMAGE_FILES {
                let images = pixels[begin..].chunks_exact(image.len());
                changed += self.count_changed(name, &spec, images, image)?;
            }
        }
        Ok((pixels, changed))
    }

    /// How many of a source's images are not as they are stored; an error if all have to be.
    fn count_changed<'a>(
        &self,
        name: &str,
        spec: &SourceSpec,
        images: impl Iterator<Item = &'a [u8]>,
        image: ImageShape,
    ) -> Result<usize, Failure> {
        let rgb = ImageOptions { channels: Some(3), ..ImageOptions::default() };
        let stored = data::open(spec, &rgb).map_err(Failure::input)?;
        let mut changed = 0;
        for (index, pixels) in (0..).zip(images) {
            let (shape, original) = stored.read_as_stored(index).map_err(Failure::input)?;
            let is_kept = (shape.height, shape.width) == (image.height, image.width)
                && original.chunks_exact(3).zip(pixels.chunks_exact(image.channels)).all(|(rgb, kept)| {
                    (0..3).all(|channel| rgb[channel] == kept[channel.min(image.channels - 1)])
                });
            if !is_kept && self.lossless && !self.fit {
                return Err(Failure::input(format!(
                    "{name}: image {index} is {}x{}, or in colour where the model's images are gray; the model's are \
                     {image}: --lossless would not keep every pixel; give --fit to crop and resize images first",
                    shape.height, shape.width
                )));
            }
            changed += usize::from(!is_kept);
        }
        Ok(changed)
    }
}

/// Whether the file at `path` begins as this program's compressed files do.
fn is_compressed(path: &Path) -> bool {
    let mut beginning = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut beginning));
    read.is_ok() && Header::read(&beginning).is_ok()
}

/// A source, or an image file, or a folder of such.
fn spec(name: &str) -> Result<SourceSpec, Failure> {
    let spec = measured::source_spec(name).map_err(Failure::input)?;
    spec.ok_or_else(|| Failure::input(format!("{name}: is a model, where images are needed")))
}
