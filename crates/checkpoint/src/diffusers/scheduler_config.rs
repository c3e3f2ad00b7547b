//! `scheduler/scheduler_config.json`: a [`DiffusionConfig`] in the words of diffusers' `DDPMScheduler`.
//!
//! What that scheduler cannot do is written in words that it does not know, so that it refuses to sample
//! instead of sampling something else: prediction types `xprev`, and `epsilon+log_variance` (`sample+…`,
//! `xprev+…`) for a learned variance, which diffusers would take for the variance itself.

use super::DIFFUSERS_VERSION;
use crate::Error;
use crate::json_file::Fields;
use diffusion::config::MAX_TIMESTEPS;
use diffusion::schedule::betas;
use diffusion::{BetaSchedule, DiffusionConfig, Prediction, Variance};
use serde_json::{Value, json};
use std::path::Path;

/// β in files are single precision now and then.
const BETA_TOLERANCE: f64 = 1e-6;

const PREDICTION_TYPES: [(Prediction, &str); 3] =
    [(Prediction::Eps, "epsilon"), (Prediction::Xstart, "sample"), (Prediction::Xprev, "xprev")];

/// Added to the prediction type when the second half of the output is the log variance.
const LOG_VARIANCE: &str = "+log_variance";

/// The schedules that diffusers computes itself; the others are written out as `trained_betas`.
const NAMED_SCHEDULES: [(BetaSchedule, &str); 3] = [
    (BetaSchedule::Linear, "linear"),
    (BetaSchedule::Quad, "scaled_linear"),
    (BetaSchedule::Cosine, "squaredcos_cap_v2"),
];

const ALL_SCHEDULES: [BetaSchedule; 7] = [
    BetaSchedule::Linear,
    BetaSchedule::Quad,
    BetaSchedule::Const,
    BetaSchedule::Warmup10,
    BetaSchedule::Warmup50,
    BetaSchedule::Jsd,
    BetaSchedule::Cosine,
];

/// The content of `scheduler/scheduler_config.json` for a process.
pub fn scheduler_to_json(config: &DiffusionConfig) -> Value {
    let name = NAMED_SCHEDULES.iter().find(|(schedule, _)| *schedule == config.schedule);
    let trained_betas = if name.is_some() { Value::Null } else { json!(betas(config)) };
    let (variance_type, suffix) = match config.variance {
        Variance::FixedSmall => ("fixed_small", ""),
        Variance::FixedLarge => ("fixed_large", ""),
        Variance::Learned => ("learned", LOG_VARIANCE),
        Variance::LearnedRange => ("learned_range", ""),
    };
    let prediction = PREDICTION_TYPES.iter().find(|(prediction, _)| *prediction == config.prediction);
    let prediction_type = format!("{}{suffix}", prediction.map_or("", |(_, name)| name));
    json!({
        "_class_name": "DDPMScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "beta_end": config.beta_end,
        "beta_schedule": name.map_or("linear", |(_, name)| name),
        "beta_start": config.beta_start,
        "clip_sample": config.clip_denoised,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": config.timesteps,
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": false,
        "sample_max_value": 1.0,
        "steps_offset": 0,
        "thresholding": false,
        "timestep_spacing": "leading",
        "trained_betas": trained_betas,
        "variance_type": variance_type,
    })
}

/// Reads `scheduler/scheduler_config.json`.
///
/// The file does not say what the network was trained to minimise: the loss is [`Variance::usual_loss`].
///
/// # Errors
/// Names the key whose value is not supported.
pub fn scheduler_from_json(path: &Path) -> Result<DiffusionConfig, Error> {
    let mut fields = Fields::read(path)?;
    let class = fields.required("_class_name")?;
    if class != "DDPMScheduler" {
        return Err(fields.unsupported("_class_name", &class, "only DDPMScheduler is supported"));
    }
    fields.only("clip_sample_range", 1.0, 1.0)?;
    fields.only("rescale_betas_zero_snr", false, false)?;
    fields.only("steps_offset", 0, 0)?;
    fields.only("thresholding", false, false)?;
    // These say how to threshold, how to pick fewer steps, and what arrays of old were: none is part of the process.
    for key in ["dynamic_thresholding_ratio", "sample_max_value", "timestep_spacing", "tensor_format"] {
        fields.take(key, Value::Null);
    }
    let value = fields.take("num_train_timesteps", 1000);
    let timesteps = fields.integer("num_train_timesteps", &value, 1..=MAX_TIMESTEPS)?;
    let value = fields.take("clip_sample", true);
    let clip_denoised =
        value.as_bool().ok_or_else(|| fields.unsupported("clip_sample", &value, "must be true or false"))?;
    let (prediction, variance) = prediction_and_variance(&mut fields)?;
    let config = DiffusionConfig {
        timesteps,
        prediction,
        variance,
        loss: variance.usual_loss(),
        clip_denoised,
        ..DiffusionConfig::default()
    };
    let config = with_schedule(&mut fields, config)?;
    fields.finish()?;
    Ok(config)
}

fn prediction_and_variance(fields: &mut Fields) -> Result<(Prediction, Variance), Error> {
    let value = fields.take("prediction_type", "epsilon");
    let text = value.as_str().unwrap_or_default();
    let (name, learned) = match text.strip_suffix(LOG_VARIANCE) {
        Some(name) => (name, true),
        None => (text, false),
    };
    let prediction =
        PREDICTION_TYPES.iter().find(|(_, known)| *known == name).map(|(prediction, _)| *prediction);
    let prediction = prediction.ok_or_else(|| {
        fields.unsupported("prediction_type", &value, "only epsilon, sample and xprev are supported")
    })?;
    let value = fields.take("variance_type", "fixed_small");
    let variance = match (value.as_str().unwrap_or_default(), learned) {
        // Two ways in diffusers to compute one number.
        ("fixed_small" | "fixed_small_log", false) => Variance::FixedSmall,
        ("fixed_large", false) => Variance::FixedLarge,
        ("learned", true) => Variance::Learned,
        ("learned_range", false) => Variance::LearnedRange,
        (_, true) => {
            let supported = format!("only learned goes with a prediction_type that ends in {LOG_VARIANCE}");
            return Err(fields.unsupported("variance_type", &value, supported));
        }
        (_, false) => {
            let supported = "only fixed_small, fixed_large and learned_range are supported";
            return Err(fields.unsupported("variance_type", &value, supported));
        }
    };
    Ok((prediction, variance))
}

/// `config` with the schedule of the file, by its name or by its β.
fn with_schedule(fields: &mut Fields, config: DiffusionConfig) -> Result<DiffusionConfig, Error> {
    let (start, end) = (fields.take("beta_start", 1e-4), fields.take("beta_end", 0.02));
    let beta_start = fields.number("beta_start", &start)?;
    let beta_end = fields.number("beta_end", &end)?;
    let name = fields.take("beta_schedule", "linear");
    let trained = fields.take("trained_betas", Value::Null);
    let config = DiffusionConfig { beta_start, beta_end, ..config };
    if trained.is_null() {
        for (key, value, beta) in [("beta_start", &start, beta_start), ("beta_end", &end, beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(fields.unsupported(key, value, "must be between 0 and 1"));
            }
        }
        let schedule =
            NAMED_SCHEDULES.iter().find(|(_, known)| name == *known).map(|(schedule, _)| *schedule);
        let supported = "only linear, scaled_linear and squaredcos_cap_v2 are supported";
        let schedule = schedule.ok_or_else(|| fields.unsupported("beta_schedule", &name, supported))?;
        return Ok(DiffusionConfig { schedule, ..config });
    }

    let list = fields.list("trained_betas", &trained)?;
    let list: Vec<f64> =
        list.iter().map(|beta| fields.number("trained_betas", beta)).collect::<Result<_, _>>()?;
    let (Some(&first), Some(&last)) = (list.first(), list.last()) else {
        return Err(fields.unsupported("trained_betas", &trained, "must not be empty"));
    };
    if list.len() != config.timesteps {
        let supported =
            format!("must have num_train_timesteps = {} entries, not {}", config.timesteps, list.len());
        return Err(fields.unsupported("trained_betas", &trained, supported));
    }
    // The ends of the list stand in where the file's own were left as they are by default.
    let ends = [(beta_start, beta_end), (first, last)].into_iter().filter(|ends| is_range(*ends));
    let candidates = ends.flat_map(|(beta_start, beta_end)| {
        ALL_SCHEDULES.map(|schedule| DiffusionConfig { schedule, beta_start, beta_end, ..config.clone() })
    });
    let matches = |candidate: &DiffusionConfig| {
        betas(candidate)
            .iter()
            .zip(&list)
            .all(|(ours, theirs)| (ours - theirs).abs() <= BETA_TOLERANCE * ours)
    };
    candidates.into_iter().find(matches).ok_or_else(|| {
        fields.unsupported("trained_betas", &trained, "these are the values of no schedule known here")
    })
}

fn is_range((start, end): (f64, f64)) -> bool {
    start > 0.0 && start < 1.0 && end > 0.0 && end < 1.0
}

/// Whether two processes have the same β, whatever they call their schedules.
pub(super) fn have_equal_betas(one: &DiffusionConfig, other: &DiffusionConfig) -> bool {
    one.timesteps == other.timesteps && are_equal(&betas(one), &betas(other))
}

fn are_equal(betas: &[f64], others: &[f64]) -> bool {
    betas.iter().zip(others).all(|(beta, other)| (beta - other).abs() <= BETA_TOLERANCE * beta)
}
