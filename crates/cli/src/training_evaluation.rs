//! What `ddpm train` judges its averaged weights by: FID of samples, and likelihood.

use crate::Global;
use crate::failure::Failure;
use crate::image_count;
use crate::model_samples::NetworkSamples;
use crate::progress::Progress;
use crate::sample_quality::{Features, QualityProbe};
use checkpoint::weights_fingerprint;
use data::{SourceSpec, Split};
use diffusion::{GaussianDiffusion, NormalCdf};
use eval::ablation::QualityScore;
use eval::image_set::{SourceImages, Unreadable};
use eval::likelihood::{ImageGroup, LikelihoodJob};
use eval::{MeasureError, ModelFacts};
use models::UnetDenoiser;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use train::evaluation::EvaluationError;
use train::sampling::sampling_in;
use train::{Config, Evaluator, Score};

/// Terms of the bound evaluated of each image: enough for a curve over training.
const TERMS: usize = 50;

/// Judges the weights of one run.
pub struct TrainingEvaluation {
    config: Config,
    process: GaussianDiffusion,
    denoiser: UnetDenoiser,
    probe: Option<QualityProbe>,
    likelihood: Option<ImageGroup>,
    convolutions: &'static str,
    quiet: bool,
}

impl TrainingEvaluation {
    /// What `[log]` of `config` asks for; `None` if that is nothing, or `stop` was set.
    ///
    /// # Errors
    /// If the Inception network's weights or images are missing, or memory is short: before training begins.
    pub fn new(
        config: &Config,
        inception: Option<&Path>,
        global: &Global,
        stop: &AtomicBool,
    ) -> Result<Option<Self>, Failure> {
        let log = &config.log;
        if log.evaluate_every == 0 {
            return Ok(None);
        }
        let spec: SourceSpec = config.data.source.parse().map_err(Failure::input)?;
        let backend = || global.hardware().open().map_err(Failure::work);
        let probe = match log.evaluate_samples {
            0 => None,
            _ => {
                let mut reference = SourceImages::new(
                    config.data.open(&spec).map_err(Failure::input)?,
                    None,
                    Unreadable::Refuse,
                );
                let total = eval::image_set::ImageSet::len(&reference);
                let features = Features {
                    inception,
                    dims: log.evaluate_dims,
                    convolutions: global.convolutions(),
                    hardware: global.hardware(),
                };
                let mut shown = Progress::new("features of the training images", 0, total, global.quiet);
                let probe = QualityProbe::new(&features, &mut reference, stop, &mut |done| {
                    shown.update(done, "");
                });
                shown.finish();
                match probe? {
                    None => return Ok(None),
                    probe => probe,
                }
            }
        };
        let likelihood = match log.evaluate_images {
            0 => None,
            images => {
                let spec = spec.with_split(Split::Test);
                let source = config.data.open(&spec).map_err(Failure::input)?;
                let images = image_count::at_most("log.evaluate_images =", images, &spec, &*source)?;
                Some(ImageGroup { name: spec.split_name().unwrap_or("data").into(), source, images })
            }
        };
        let process = GaussianDiffusion::new(&config.diffusion).map_err(Failure::input)?;
        let weights = vec![0.0; models::Unet::layout(&config.unet()).len()];
        let denoiser = UnetDenoiser::new(&config.unet(), &weights, config.train.pass_size(), backend()?)
            .map_err(Failure::work)?;
        let convolutions = global.convolutions();
        Ok(Some(Self {
            config: config.clone(),
            process,
            denoiser,
            probe,
            likelihood,
            convolutions,
            quiet: global.quiet,
        }))
    }

    fn sample_quality(&mut self, stop: &AtomicBool) -> Result<Vec<Score>, EvaluationError> {
        let Some(probe) = &mut self.probe else { return Ok(Vec::new()) };
        let log = &self.config.log;
        let mut samples = NetworkSamples {
            denoiser: &mut self.denoiser,
            process: &self.process,
            sampling: sampling_in(log.evaluate_steps, self.process.timesteps()),
            seed: self.config.train.seed,
            count: log.evaluate_samples,
            stop,
        };
        let mut shown = Progress::new("evaluating", 0, log.evaluate_samples, self.quiet);
        let scores = probe.scores(&mut samples, &mut |done| shown.update(done, "samples"));
        shown.finish();
        Ok(scores?.into_iter().map(|QualityScore { name, value, .. }| Score { name, value }).collect())
    }

    fn likelihood(&mut self, ema: &[f32], stop: &AtomicBool) -> Result<Option<Vec<Score>>, EvaluationError> {
        let Some(set) = &self.likelihood else { return Ok(Some(Vec::new())) };
        let timesteps = self.process.timesteps();
        let job = LikelihoodJob {
            model: ModelFacts {
                path: "weights in training".into(),
                weights: Some("ema".into()),
                step: None,
                fingerprint: weights_fingerprint(ema),
            },
            diffusion: self.config.diffusion.clone(),
            terms: Some(TERMS.min(timesteps)),
            decoder_cdf: NormalCdf::Tanh,
            seed: self.config.train.seed,
            convolutions: self.convolutions.into(),
            batch: self.config.train.pass_size(),
        };
        let folder = tempfile::tempdir()?;
        let sets = std::slice::from_ref(set);
        let report = job.run(&mut self.denoiser, sets, folder.path(), stop, &mut |_| ())?;
        Ok(report.map(|report| {
            let value = report.sets[0].summary.bits_per_dim.mean;
            vec![Score { name: "bits_per_dim".into(), value }]
        }))
    }
}

impl Evaluator for TrainingEvaluation {
    fn evaluate(
        &mut self,
        _completed: u64,
        ema: &[f32],
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Score>>, EvaluationError> {
        self.denoiser.set_weights(ema);
        let quality = match self.sample_quality(stop) {
            // Half the samples are no score; they are drawn again when the run goes on.
            Err(error) if is_stop(error.as_ref()) => return Ok(None),
            other => other?,
        };
        let likelihood = self.likelihood(ema, stop)?;
        Ok(likelihood.map(|likelihood| quality.into_iter().chain(likelihood).collect()))
    }
}

fn is_stop(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref::<MeasureError>(), Some(MeasureError::Stopped { .. }))
}
