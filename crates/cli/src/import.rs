//! `ddpm import`: a model of another program, as one of this.

use crate::failure::Failure;
use crate::inspect::word;
use crate::model::{WeightsName, checkpoint_failure};
use crate::report::Report;
use checkpoint::{
    Dtype, Existing, ForeignModel, Heads, ImportOptions, LabelledWeights, ModelDescription, ModelLocation,
    QkvOrder, Weights, beyond_diffusers,
};
use clap::ValueEnum;
use diffusion::{BetaSchedule, DiffusionConfig, Variance};
use models::{Conventions, Unet, UnetConfig};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Read a model that another program wrote, and write it as one of this program's and diffusers'
///
/// MODEL is a PyTorch state dictionary (.bin, .ckpt, .pt, .pth), a TensorFlow checkpoint (its name with or
/// without .index) or a directory in diffusers' layout. A file says nothing of the diffusion process: that of
/// the program it is of is taken, which for openai's networks with a learned variance is known only to those
/// who trained them (--timesteps, --schedule).
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm import model.ckpt-790000 --out cifar10-ema                   the original code's, averaged weights
  ddpm import ema_diffusion_cifar10_model-790000.ckpt --out cifar10-ema
  ddpm import logs/DDPM_CIFAR10_EPS/ckpt.pt --out cifar10           w86763777/pytorch-ddpm's
  ddpm import ddpm-cifar10-32 --weights raw --out cifar10-raw       the hub's, which has the raw weights
  ddpm import cifar10_uncond_50M_500K.pt --weights ema --timesteps 4000 --schedule cosine --out improved
                                                                    openai's improved-diffusion
  ddpm import lsun_uncond_100M_1200K_bs128.pt --weights ema --heads 1 --out bedroom
  ddpm import model.ckpt-790000 --dry-run                           what is in it")]
pub struct Args {
    /// The file or directory
    model: PathBuf,

    /// The directory to write; must be empty or not exist
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,

    /// Which weights to take, or which a file has that does not say [default: ema where there are both]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,

    /// Height and width of the images, in pixels [default: what puts attention at 16x16]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,

    /// The variance when sampling
    /// [default: the paper's: fixed-large up to 32x32, else fixed-small; openai's: fixed-large]
    #[arg(long, value_enum)]
    variance: Option<VarianceName>,

    /// Steps of the diffusion process [default: 1000, or what the file says]
    #[arg(long, value_name = "T")]
    timesteps: Option<usize>,

    /// How β grows; linear is from 1e-4 to 0.02, in openai's networks both times 1000 / T
    #[arg(long, value_enum, default_value_t = ScheduleName::Linear)]
    schedule: ScheduleName,

    /// Heads of every attention, on both ways; no tensor tells [default: 4 in openai's networks, else 1]
    #[arg(long, value_name = "N", conflicts_with = "head_channels")]
    heads: Option<usize>,

    /// Channels of a head, where that is the same for all, instead of --heads
    #[arg(long, value_name = "N")]
    head_channels: Option<usize>,

    /// The network was trained with guided-diffusion's use_new_attention_order
    #[arg(long)]
    new_attention_order: bool,

    /// The network sees t itself (openai's rescale_timesteps was False); else theirs see t * 1000 / T
    #[arg(long)]
    keep_timesteps: bool,

    /// Say what is there, read and check it, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum VarianceName {
    /// The posterior's
    FixedSmall,
    /// The forward process's
    FixedLarge,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ScheduleName {
    /// The paper's
    Linear,
    /// Nichol and Dhariwal's
    Cosine,
}

/// What was found.
struct Found {
    description: ModelDescription,
    parameters: Vec<f32>,
    weights: Option<Weights>,
    step: Option<u64>,
    /// Whose, and what was left aside, in words.
    about: String,
    /// What had to be assumed, a line each.
    notes: String,
    /// Tensors that are not part of the weights.
    ignored: Vec<String>,
}

pub fn run(args: &Args) -> Result<Report, Failure> {
    if let (Some(out), false) = (&args.out, args.dry_run) {
        checkpoint::check_vacant(out, Existing::Keep).map_err(checkpoint_failure)?;
    }
    let found = if args.model.is_dir() { from_directory(args)? } else { from_file(args)? };
    let unet = &found.description.model;
    let layout = Unet::layout(unet);
    let weights = found.weights.map_or_else(|| "unlabelled".to_owned(), |weights| weights.to_string());
    let mut words = format!(
        "{}\n{} images, {} parameters, {weights} weights{}\nnetwork: {} channels times {:?}, {} blocks a level, attention at {:?}{}{}\nprocess: {} steps, {} schedule, {} variance{}\n",
        found.about,
        unet.image_shape(),
        layout.len(),
        found.step.map_or_else(String::new, |step| format!(" after {step} updates")),
        unet.channels,
        unet.channel_mult,
        unet.num_res_blocks,
        unet.attention_resolutions,
        heads_in_words(unet),
        if unet.scale_shift_norm { ", scaled and shifted by time" } else { "" },
        found.description.diffusion.timesteps,
        word(found.description.diffusion.schedule),
        word(found.description.diffusion.variance),
        match unet.conventions.time_scale {
            1.0 => String::new(),
            scale => format!(", of which the network sees t times {scale}"),
        },
    );
    words += &keys_in_words(layout.specs().len(), &found.ignored);
    words += &found.notes;
    if found.weights != Some(Weights::Ema) {
        words += "these are not known to be averaged weights: raw ones give worse images (CIFAR-10: FID about 12 instead of 3.2)\n";
    }
    let json = json!({
        "status": if args.dry_run { "dry run" } else { "finished" }, "model": args.model, "about": found.about,
        "parameters": layout.len(), "weights": found.weights, "step": found.step, "unet": unet,
        "diffusion": found.description.diffusion, "tensors_ignored": found.ignored.len(), "out": args.out,
    });
    if let (Some(out), false) = (&args.out, args.dry_run) {
        let weights = found.weights.ok_or_else(unlabelled)?;
        let labelled =
            LabelledWeights { parameters: &found.parameters, weights, step: found.step.unwrap_or(0) };
        checkpoint::export(out, &found.description, &layout, labelled, Dtype::F32)
            .map_err(checkpoint_failure)?;
        words += &format!("written to {}", out.display());
        words +=
            &beyond_diffusers(unet).map_or_else(String::new, |what| format!("; {}", not_for_diffusers(what)));
    }
    Ok(Report::new(words, json))
}

/// Which keys were found, missing and left aside. A missing or unexpected one has been refused.
fn keys_in_words(found: usize, ignored: &[String]) -> String {
    const SHOWN: usize = 3;
    let aside = match ignored {
        [] => String::new(),
        _ => {
            let shown = ignored[..ignored.len().min(SHOWN)].join(", ");
            let more = if ignored.len() > SHOWN { ", …" } else { "" };
            let count = match ignored.len() {
                1 => "1 tensor that is not part of these weights is".to_owned(),
                count => format!("{count} tensors that are not part of these weights are"),
            };
            format!("; {count} left aside ({shown}{more})")
        }
    };
    format!("keys: all {found} found, none missing or unexpected{aside}\n")
}

/// That diffusers will not open the model, in words.
pub fn not_for_diffusers(what: &str) -> String {
    format!("diffusers has no words for {what} and refuses to open it; every command here does")
}

fn unlabelled() -> Failure {
    Failure::input("the file does not say which weights it has; say --weights ema or --weights raw")
}

/// Refuses weights of unknown kind, before they are read, where they are to be written.
fn check_label(args: &Args, weights: Option<Weights>) -> Result<(), Failure> {
    if weights.is_none() && !args.dry_run { Err(unlabelled()) } else { Ok(()) }
}

fn wanted(args: &Args) -> Option<Weights> {
    args.weights.map(Weights::from)
}

fn heads_in_words(unet: &UnetConfig) -> String {
    let Conventions { heads, head_channels, .. } = unet.conventions;
    match (heads, head_channels) {
        (Some(heads), _) => format!(" ({heads} heads)"),
        (None, Some(channels)) => format!(" (heads of {channels} channels)"),
        (None, None) => String::new(),
    }
}

fn from_file(args: &Args) -> Result<Found, Failure> {
    let heads = args.heads.map(Heads::Number).or(args.head_channels.map(Heads::OfChannels));
    if args.heads == Some(0) || args.head_channels == Some(0) {
        return Err(Failure::input("--heads and --head-channels must be above 0"));
    }
    let order = if args.new_attention_order { QkvOrder::Thirds } else { QkvOrder::ByHead };
    let options =
        ImportOptions { weights: wanted(args), image_size: args.image_size, heads, qkv_order: order };
    let mut model = ForeignModel::open(&args.model, &options).map_err(checkpoint_failure)?;
    check_label(args, model.weights)?;
    let parameters = model.read_parameters(&Unet::layout(&model.unet)).map_err(checkpoint_failure)?;
    let both = if model.has_both { ", which has ema and raw weights" } else { "" };
    let about = format!("{}: a model of {}{both}", args.model.display(), model.program);
    let diffusion = process_of(&model, args)?;
    let mut unet = model.unet.clone();
    if let Some(scaled_to) = model.rescaled_timesteps.filter(|_| !args.keep_timesteps) {
        unet.conventions.time_scale = scaled_to as f32 / diffusion.timesteps as f32;
    }
    Ok(Found {
        notes: assumptions(&model, args),
        description: ModelDescription { model: unet, diffusion },
        parameters,
        weights: model.weights,
        step: model.step,
        about,
        ignored: model.ignored,
    })
}

/// What the file does not say and nobody said, in words.
fn assumptions(model: &ForeignModel, args: &Args) -> String {
    let mut notes = String::new();
    if model.heads_are_assumed {
        notes += "the file does not say how many heads attention has: taken as 4 everywhere; if it is another number, say --heads (a num_heads_upsample of its own is not possible)\n";
    }
    if model.is_of_any_process() {
        notes += ASSUMED_PROCESS;
    }
    if model.rescaled_timesteps.is_some() && args.timesteps.is_none() {
        notes += "the file does not say its process: taken as 1000 steps; if it is another, say --timesteps and --schedule\n";
    }
    notes
}

/// The process that such a model is trained for, as far as nothing else is said.
fn process_of(model: &ForeignModel, args: &Args) -> Result<DiffusionConfig, Failure> {
    let timesteps = args.timesteps.or(model.timesteps).unwrap_or(DiffusionConfig::default().timesteps);
    let is_openai = model.rescaled_timesteps.is_some();
    let variance = match (model.unet.learned_variance, args.variance) {
        (true, Some(_)) => {
            return Err(Failure::input("the network gives the variance itself; leave out --variance"));
        }
        (true, None) => model.learned_variance,
        (false, None) if is_openai => Variance::FixedLarge,
        (false, variance) => fixed_variance(&model.unet, variance),
    };
    let paper = DiffusionConfig::default();
    let mut config = DiffusionConfig { timesteps, variance, loss: variance.usual_loss(), ..paper };
    if is_openai {
        // As openai's code scales them, so that the noise at the end is the same.
        let scale = 1000.0 / timesteps.max(1) as f64;
        config = DiffusionConfig {
            beta_start: config.beta_start * scale,
            beta_end: config.beta_end * scale,
            ..config
        };
    }
    if args.schedule == ScheduleName::Cosine {
        // Its β do not depend on the ends.
        config =
            DiffusionConfig { schedule: BetaSchedule::Cosine, beta_start: 1e-4, beta_end: 0.02, ..config };
    }
    config.validate().map_err(Failure::input)?;
    Ok(config)
}

fn fixed_variance(unet: &UnetConfig, variance: Option<VarianceName>) -> Variance {
    match variance {
        Some(VarianceName::FixedSmall) => Variance::FixedSmall,
        Some(VarianceName::FixedLarge) => Variance::FixedLarge,
        None if unet.image_size <= 32 => Variance::FixedLarge,
        None => Variance::FixedSmall,
    }
}

/// The process of the paper for such images.
fn papers_process(unet: &UnetConfig) -> DiffusionConfig {
    let variance = if unet.learned_variance { Variance::Learned } else { fixed_variance(unet, None) };
    DiffusionConfig { variance, loss: variance.usual_loss(), ..DiffusionConfig::default() }
}

fn from_directory(args: &Args) -> Result<Found, Failure> {
    let is_said = [
        args.image_size.is_some(),
        args.variance.is_some(),
        args.timesteps.is_some(),
        args.schedule != ScheduleName::Linear,
        args.heads.is_some(),
        args.head_channels.is_some(),
        args.new_attention_order,
        args.keep_timesteps,
    ];
    if is_said.contains(&true) {
        let what = "a directory says itself what --image-size, --variance, --timesteps, --schedule and those of heads would";
        return Err(Failure::input(what));
    }
    let location = ModelLocation::resolve(&args.model).map_err(checkpoint_failure)?;
    // A directory without a label takes the one that is given.
    let unlabelled = location.open(None).map_err(checkpoint_failure)?;
    let mut stored = match unlabelled.weights {
        None => unlabelled,
        Some(_) => location.open(wanted(args)).map_err(checkpoint_failure)?,
    };
    let of_name = hub_label(&args.model).filter(|_| stored.weights.is_none());
    let weights = stored.weights.or(wanted(args)).or(of_name);
    check_label(args, weights)?;
    let parameters = stored.read_parameters(&Unet::layout(&stored.unet)).map_err(checkpoint_failure)?;
    let mut about = format!("{}: a model in diffusers' layout", location.directory.display());
    if let Some(kind) = of_name {
        about += &format!(" (the hub's model of this name has the {kind} weights)");
    }
    let notes = if stored.diffusion.is_none() { ASSUMED_PROCESS } else { "" };
    let diffusion = stored.diffusion.clone().unwrap_or_else(|| papers_process(&stored.unet));
    Ok(Found {
        description: ModelDescription { model: stored.unet.clone(), diffusion },
        parameters,
        weights,
        step: stored.step,
        about,
        notes: notes.to_owned(),
        ignored: Vec::new(),
    })
}

/// Said where a network comes without its process.
const ASSUMED_PROCESS: &str = "nothing there says what process the network was trained for: the paper's is taken; give the whole pipeline if it is another\n";

/// Which weights the hub's models of a name have, which nothing in them says: google/ddpm-cifar10-32 the raw ones,
/// google/ddpm-ema-… the averaged ones; also as the hub's cache names them.
fn hub_label(path: &Path) -> Option<Weights> {
    path.iter().rev().find_map(|part| {
        let name = part.to_str()?;
        let name = name.rsplit("--").next().unwrap_or(name);
        match name {
            "ddpm-cifar10-32" => Some(Weights::Raw),
            _ => name.starts_with("ddpm-ema-").then_some(Weights::Ema),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_names_say_which_weights_they_have() {
        for (path, weights) in [
            ("ddpm-cifar10-32", Some(Weights::Raw)),
            ("hub/models--google--ddpm-cifar10-32/snapshots/267b167d", Some(Weights::Raw)),
            ("google/ddpm-ema-church-256", Some(Weights::Ema)),
            ("models--google--ddpm-ema-bedroom-256/snapshots/0", Some(Weights::Ema)),
            ("ddpm-church-256", None),
            ("my-ddpm-cifar10-32", None),
        ] {
            assert_eq!(hub_label(Path::new(path)), weights, "{path}");
        }
    }

    #[test]
    fn what_is_left_aside_is_counted_and_shown() {
        assert_eq!(keys_in_words(9, &[]), "keys: all 9 found, none missing or unexpected\n");
        let names: Vec<String> = (0..5).map(|k| format!("model/{k}/Adam")).collect();
        assert!(keys_in_words(9, &names).ends_with(
            "; 5 tensors that are not part of these weights are left aside (model/0/Adam, model/1/Adam, model/2/Adam, …)\n"
        ));
        assert!(
            keys_in_words(9, &names[..1])
                .ends_with("; 1 tensor that is not part of these weights is left aside (model/0/Adam)\n")
        );
    }
}
