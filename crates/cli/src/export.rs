//! `ddpm export`: a model on its own, to keep or to give away.

use crate::failure::Failure;
use crate::import::not_for_diffusers;
use crate::model::{self, ModelArgs};
use crate::report::Report;
use checkpoint::{Dtype, Existing, LabelledWeights, ModelDescription, beyond_diffusers, check_vacant};
use clap::ValueEnum;
use models::Unet;
use serde_json::json;
use std::path::PathBuf;

/// Write a model as a directory in diffusers' layout, without its training state
///
/// It opens with diffusers' DDPMPipeline.from_pretrained (what diffusers cannot express is reported) and with
/// every command here.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:
  ddpm export runs/cifar10 --out cifar10-ema --dtype f16           half the size")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The directory to write; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// How weights are stored
    #[arg(long, value_enum, default_value_t = DtypeName::F32)]
    dtype: DtypeName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum DtypeName {
    /// Single precision: exact
    F32,
    /// Half precision: 11 significant bits
    F16,
    /// The upper half of single precision: 8 significant bits
    Bf16,
}

pub fn run(args: &Args) -> Result<Report, Failure> {
    check_vacant(&args.out, Existing::Keep).map_err(model::checkpoint_failure)?;
    let mut stored = model::open_stored(&args.model)?;
    let diffusion = stored.diffusion.clone().ok_or_else(|| {
        Failure::input(
            "the model is only a network: its diffusion process is not known, so the pipeline is not whole",
        )
    })?;
    let weights = stored.weights.ok_or_else(|| {
        Failure::input("the model's weights are not labelled as EMA or raw, so the copy could not be either")
    })?;
    let layout = Unet::layout(&stored.unet);
    let parameters = stored.read_parameters(&layout).map_err(model::checkpoint_failure)?;
    let description = ModelDescription { model: stored.unet.clone(), diffusion };
    let step = stored.step.unwrap_or(0);
    let labelled = LabelledWeights { parameters: &parameters, weights, step };
    let dtype = match args.dtype {
        DtypeName::F32 => Dtype::F32,
        DtypeName::F16 => Dtype::F16,
        DtypeName::Bf16 => Dtype::Bf16,
    };
    checkpoint::export(&args.out, &description, &layout, labelled, dtype)
        .map_err(model::checkpoint_failure)?;
    let mut words = format!(
        "{} parameters, {weights} weights after {step} updates, as {} in {}",
        layout.len(),
        dtype.name(),
        args.out.display()
    );
    if let Some(what) = beyond_diffusers(&description.model) {
        words += &format!("\n{}", not_for_diffusers(what));
    }
    let json = json!({
        "out": args.out, "parameters": layout.len(), "weights": weights, "step": step, "dtype": dtype.name(),
    });
    Ok(Report::new(words, json))
}
