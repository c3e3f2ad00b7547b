//! `ddpm interpolate`: images between two images.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, SamplingArgs};
use crate::image_files::{ImageFolder, read_image, write_whole};
use crate::image_pairs::{ImagePair, PairArgs};
use crate::measured::{self, Measuring};
use crate::model::{self, Model};
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use clap::ValueEnum;
use data::ImageOptions;
use diffusion::pixels::{from_bytes, to_bytes};
use diffusion::{Denoiser, Interpolation, LAMBDAS, Member, Mixing, Pair};
use engine::ImageShape;
use eval::image_distances::{feature_distance, pixel_rmse};
use eval::image_set::{ImageSet, ImagesInMemory};
use eval::reconstruction::{Distance, Reconstructions};
use serde_json::json;
use std::path::{Path, PathBuf};
use train::grid::{self, Picture};

/// Pixels of a mask from this value on are interpolated.
const MASK_FROM: u8 = 128;

/// Interpolate between images in latent space
///
/// Takes both images t steps forward into the noise, mixes what they have become, and lets the reverse
/// process lead back to an image, with the same noise for every mixture (Fig. 8 of the paper). The larger t,
/// the coarser what the images between vary (Fig. 9); the ends, λ = 0 and 1, are reconstructions.
///
/// Writes into the folder --out: grid.png, a row for each pair and t (A, the images from λ to λ, B), every
/// image by itself in images/, and interpolation.json. Where 0 and 1 are among the λ and there is no mask, it
/// also measures what the reconstructions have kept: reconstruction.csv, .svg and .png.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm interpolate runs/faces a.png b.png --out between
  ddpm interpolate runs/faces a.png b.png --t 0,125,250,375,500,625,750,875,1000 --out fine-to-coarse
  ddpm interpolate runs/digits --data mnist:DIR:test --members 0,1 --members 7,8 --out between --sampler ddim --steps 50
  ddpm interpolate runs/faces a.png b.png --mask eyes.png --out eyes
  ddpm interpolate runs/digits --data mnist:DIR:test --pairs 32 --lambdas 0,1 --t 100,200,400,800 --feature-distance --out kept

--steps are spread over all T; from x_t, those below t are taken.

--mask: white is interpolated, black follows A. At every step the black part is made anew from A with that step's noise, so that
the reverse process goes on from where A is.")]
pub struct Args {
    /// A run directory (its last checkpoint), a checkpoint, or a directory in diffusers' layout
    model: PathBuf,

    #[command(flatten)]
    pairs: PairArgs,

    /// Diffusion steps that the images are taken forward, 0 (not at all: pixels are mixed) to the model's T;
    /// several give a row each [default: half of T, 500 of 1000]
    #[arg(long, value_name = "T,…", value_delimiter = ',')]
    t: Vec<usize>,

    /// Where between A (0) and B (1), in this order; -1 to 2, beyond 0 and 1 it extrapolates
    #[arg(long, value_name = "L,…", value_delimiter = ',', allow_negative_numbers = true, value_parser = parse_lambda)]
    #[arg(default_value = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1")]
    lambdas: Vec<f64>,

    /// How latents are mixed
    #[arg(long, value_enum, default_value_t = MixingName::Linear)]
    mixing: MixingName,

    /// Interpolate only where this image is white, the rest follows A; of the model's size
    #[arg(long, value_name = "M.png")]
    mask: Option<PathBuf>,

    /// The folder for the results; must not have anything in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Also measure how far reconstructions are in the Inception network's features
    #[arg(long, conflicts_with = "mask")]
    feature_distance: bool,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    features: FeatureArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum MixingName {
    /// (1 - λ) x + λ x', as in the paper: in the middle there is less noise than the network expects
    Linear,
    /// Along the arc between them, which keeps the size of the noise
    Spherical,
}

impl MixingName {
    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Spherical => "spherical",
        }
    }
}

impl From<MixingName> for Mixing {
    fn from(name: MixingName) -> Self {
        match name {
            MixingName::Linear => Self::Linear,
            MixingName::Spherical => Self::Spherical,
        }
    }
}

fn parse_lambda(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(lambda) if LAMBDAS.contains(&lambda) => Ok(lambda),
        _ => Err(format!("λ is a number from {} to {}", LAMBDAS.start(), LAMBDAS.end())),
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    ImageFolder::check_vacant(&args.out)?;
    let sampling = args.sampling.sampling().map_err(Failure::input)?;
    let batch = args.features.batch.get();
    let mut model = model::open_at(&args.model, args.sampling.weights(), batch, global.hardware())?;
    let process = model.process()?;
    let image = model.denoiser.image_shape();
    let timesteps = process.timesteps();
    let levels = if args.t.is_empty() { vec![timesteps / 2] } else { args.t.clone() };
    if let Some(t) = levels.iter().find(|&&t| t > timesteps) {
        return Err(Failure::input(format!("--t {t}: the model's process has the steps 0 to {timesteps}")));
    }
    let pairs = args.pairs.read(image, &model.image_options()?)?;
    let region = args.mask.as_deref().map(|path| read_mask(path, image)).transpose()?;
    let way = Interpolation {
        process,
        sampling,
        image,
        seed: global.seed.unwrap_or(0),
        mixing: args.mixing.into(),
        region,
    };
    // What cannot be is found before any work.
    for &t in &levels {
        way.start(t, &[]).map_err(Failure::input)?;
    }
    if args.feature_distance && args.ends().is_none() {
        return Err(Failure::input("--feature-distance: reconstructions need 0 and 1 among --lambdas"));
    }
    let mut measuring = match args.feature_distance {
        true => Some(Measuring::new(&args.features, &args.sampling, global, &signals)?),
        false => None,
    };

    let decoded = args.decode(&way, &mut model, &pairs, &levels, &signals, global.quiet)?;
    let reconstructions = match way.region {
        None => args.measure(&decoded, &pairs, &levels, image, measuring.as_mut())?,
        Some(_) => None,
    };
    args.write(&decoded, &pairs, &levels, image)?;
    if let Some(reconstructions) = &reconstructions {
        let figure = reconstructions.figure();
        let svg = figure.svg().map_err(Failure::work)?;
        let png = figure.png().map_err(Failure::work)?;
        write_whole(&args.out.join("reconstruction.csv"), reconstructions.csv().as_bytes())?;
        write_whole(&args.out.join("reconstruction.svg"), svg.as_bytes())?;
        write_whole(&args.out.join("reconstruction.png"), &png)?;
    }
    let (steps, eta) = (sampling.steps(&way.process), sampling.kind.eta());
    let json = json!({
        "status": "finished", "out": args.out, "model": model.facts(),
        "image": [image.height, image.width, image.channels],
        "pairs": pairs.iter().map(|pair| &pair.names).collect::<Vec<_>>(), "t": levels, "lambdas": args.lambdas,
        "mixing": args.mixing.name(), "mask": args.mask, "sampler": sampling.kind.name(), "steps": steps,
        "spacing": sampling.spacing(), "eta": eta, "seed": way.seed, "reconstructions": reconstructions,
        "features": measuring.as_mut().map(|measuring| measuring.settings()),
    });
    let text = serde_json::to_string_pretty(&json).map_err(Failure::work)?;
    write_whole(&args.out.join("interpolation.json"), text.as_bytes())?;

    let mut words = format!(
        "{} images in {} ({}, {}, {steps} steps from T, seed {})",
        decoded.len() / image.len(),
        args.out.display(),
        model.weights_name(),
        sampling.kind.name(),
        way.seed,
    );
    if let Some(reconstructions) = &reconstructions {
        words.push_str(&format!("\n{}", reconstructions.words()));
    }
    Ok(Report::new(words, json))
}

impl Args {
    /// The places of 0 and 1 among the λ, where reconstructions are.
    fn ends(&self) -> Option<(usize, usize)> {
        let at = |lambda| self.lambdas.iter().position(|&found| found == lambda);
        Some((at(0.0)?, at(1.0)?))
    }

    /// The images of all pairs, for all `levels`, at all λ, in this order.
    fn decode(
        &self,
        way: &Interpolation,
        model: &mut Model,
        pairs: &[ImagePair],
        levels: &[usize],
        signals: &Signals,
        quiet: bool,
    ) -> Result<Vec<u8>, Failure> {
        let len = way.image.len();
        let ends: Vec<_> =
            pairs.iter().map(|pair| pair.pixels.each_ref().map(|end| from_bytes(end))).collect();
        let members: Vec<Member> = (0..)
            .zip(&ends)
            .map(|(number, [first, second])| Pair { number, first, second })
            .flat_map(|pair| self.lambdas.iter().map(move |&lambda| Member { pair, lambda }))
            .collect();
        let batches = || members.chunks(self.features.batch.get());
        let mut total = 0;
        for &t in levels {
            let steps = way.start(t, &[]).map_err(Failure::input)?.steps_left();
            total += (steps * batches().len()) as u64;
        }
        let mut progress = Progress::new("interpolating", 0, total, quiet);
        let mut done = 0;
        // Of each level, all pairs and λ.
        let mut by_level = Vec::new();
        for &t in levels {
            let mut images = Vec::with_capacity(members.len() * len);
            for batch in batches() {
                let mut decoding = way.start(t, batch).map_err(Failure::input)?;
                while decoding.step(&mut model.denoiser).map_err(Failure::work)?.is_some() {
                    if signals.stopped() {
                        progress.finish();
                        let json = json!({ "status": "stopped", "out": self.out });
                        let message = "stopped; nothing is written";
                        return Err(Failure::stopped(signals.exit_status(), message, json));
                    }
                    done += 1;
                    progress.update(done, &format!("t = {t}"));
                }
                images.extend(to_bytes(decoding.x_t()));
            }
            by_level.push(images);
        }
        progress.finish();
        let row = self.lambdas.len() * len;
        let order =
            (0..pairs.len()).flat_map(|pair| by_level.iter().map(move |images| &images[pair * row..][..row]));
        Ok(order.flatten().copied().collect())
    }

    /// What reconstructions have kept; none if there are none.
    fn measure(
        &self,
        decoded: &[u8],
        pairs: &[ImagePair],
        levels: &[usize],
        image: ImageShape,
        mut measuring: Option<&mut Measuring>,
    ) -> Result<Option<Reconstructions>, Failure> {
        let Some((first, second)) = self.ends() else { return Ok(None) };
        let halves = |of: &dyn Fn(usize, usize) -> Vec<u8>| -> Vec<u8> {
            [0, 1].iter().flat_map(|&end| (0..pairs.len()).flat_map(move |pair| of(pair, end))).collect()
        };
        let pixels = halves(&|pair, end| pairs[pair].pixels[end].clone());
        let originals = Described::new(pixels, "the originals", image, measuring.as_deref_mut())?;
        let between_pairs = originals.between_halves(image.len());
        let mut numbers: Vec<_> = (0..levels.len()).collect();
        numbers.sort_by_key(|&number| levels[number]);
        let mut by_t = Vec::new();
        for number in numbers {
            let pixels = halves(&|pair, end| {
                let index = (pair * levels.len() + number) * self.lambdas.len() + [first, second][end];
                decoded[index * image.len()..][..image.len()].to_vec()
            });
            let reconstructions =
                Described::new(pixels, "the reconstructions", image, measuring.as_deref_mut())?;
            by_t.push((levels[number], originals.distance(&reconstructions, image.len())));
        }
        Ok(Some(Reconstructions { images: 2 * pairs.len() as u64, between_pairs, by_t }))
    }

    fn write(
        &self,
        decoded: &[u8],
        pairs: &[ImagePair],
        levels: &[usize],
        image: ImageShape,
    ) -> Result<(), Failure> {
        let rows = pairs
            .iter()
            .enumerate()
            .flat_map(|(number, pair)| levels.iter().map(move |&t| (number, pair, t)));
        let folder = ImageFolder::create(&self.out, 0)?;
        let singles = ImageFolder::create(&self.out.join("images"), 0)?;
        let mut shown = Vec::new();
        for ((number, pair, t), row) in rows.zip(decoded.chunks_exact(self.lambdas.len() * image.len())) {
            let [first, second] = &pair.pixels;
            shown.extend([first, row, second].into_iter().flatten());
            for (lambda, pixels) in self.lambdas.iter().zip(row.chunks_exact(image.len())) {
                let name = format!("pair{number}-t{t:04}-lambda{lambda}.png");
                singles.write_picture(&name, &Picture { shape: image, pixels: pixels.to_vec() })?;
            }
        }
        folder.write_picture("grid.png", &grid::rows(&shown, image, self.lambdas.len() + 2))
    }
}

/// The images at λ = 0 of all pairs, then those at λ = 1; and their features, if they are computed.
struct Described {
    pixels: Vec<u8>,
    features: Option<Vec<f32>>,
}

impl Described {
    fn new(
        pixels: Vec<u8>,
        description: &str,
        shape: ImageShape,
        measuring: Option<&mut Measuring>,
    ) -> Result<Self, Failure> {
        let Some(measuring) = measuring else { return Ok(Self { pixels, features: None }) };
        let mut images = ImagesInMemory { pixels, shape, description: description.into() };
        let features =
            measuring.features_of(&mut images)?.read_rows(images.len()).map_err(measured::failure)?;
        Ok(Self { pixels: images.pixels, features: Some(features) })
    }

    /// The distance between counterparts; images have `len` values.
    fn distance(&self, other: &Self, len: usize) -> Distance {
        let images = self.pixels.len() / len;
        let features = self.features.as_ref().zip(other.features.as_ref());
        Distance {
            rmse: pixel_rmse(&self.pixels, &other.pixels, len),
            feature_distance: features
                .map(|(rows, others)| feature_distance(rows, others, rows.len() / images)),
        }
    }

    /// The distance between the two images of each pair.
    fn between_halves(&self, len: usize) -> Distance {
        let (first, second) = self.pixels.split_at(self.pixels.len() / 2);
        let features = self.features.as_ref().map(|rows| rows.split_at(rows.len() / 2)).unzip();
        let half = |pixels: &[u8], features: Option<&[f32]>| Self {
            pixels: pixels.to_vec(),
            features: features.map(<[f32]>::to_vec),
        };
        half(first, features.0).distance(&half(second, features.1), len)
    }
}

/// For each element of an image, whether the mask is white there.
fn read_mask(path: &Path, image: ImageShape) -> Result<Vec<bool>, Failure> {
    let options = ImageOptions { channels: Some(1), ..ImageOptions::default() };
    let (found, pixels) = read_image(path, &options).map_err(Failure::input)?;
    if (found.height, found.width) != (image.height, image.width) {
        return Err(Failure::input(format!(
            "{}: a mask of {}x{} pixels (height x width), the model's images have {}x{}",
            path.display(),
            found.height,
            found.width,
            image.height,
            image.width
        )));
    }
    Ok(pixels.iter().flat_map(|&pixel| std::iter::repeat_n(pixel >= MASK_FROM, image.channels)).collect())
}
