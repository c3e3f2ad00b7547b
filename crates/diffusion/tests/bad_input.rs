//! Networks that fail or do not fit, and processes at the edge of what is possible.

use diffusion::{
    AncestralSampler, BetaSchedule, BoundEvaluation, DdimSampler, DenoiseError, Denoiser, DiffusionConfig,
    DiffusionError, GaussianDiffusion, Loss, NormalCdf, Objective, Prediction, Sampler, Spacing, Variance,
};
use engine::ImageShape;

const IMAGE: ImageShape = ImageShape::new(2, 2, 3);

/// Gives `value` everywhere, or fails when there is none.
struct Constant {
    image: ImageShape,
    output_channels: usize,
    value: Option<f32>,
}

impl Constant {
    fn new(value: f32) -> Self {
        Self { image: IMAGE, output_channels: 3, value: Some(value) }
    }
}

impl Denoiser for Constant {
    fn image_shape(&self) -> ImageShape {
        self.image
    }

    fn output_channels(&self) -> usize {
        self.output_channels
    }

    fn denoise(&mut self, _: &[f32], _: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        output.fill(self.value.ok_or("out of memory")?);
        Ok(())
    }
}

fn sampler(samples: usize) -> AncestralSampler {
    let process = GaussianDiffusion::new(&DiffusionConfig::default()).unwrap();
    AncestralSampler::new(process, IMAGE, 0, 0, samples).unwrap()
}

#[test]
fn a_failed_step_says_why_and_changes_nothing() {
    let mut sampler = sampler(2);
    sampler.step(&mut Constant::new(0.5)).unwrap();
    let before = (sampler.chain().x_t().to_vec(), sampler.chain().steps_left());
    let mut fails = |denoiser: &mut Constant, part: &str| {
        let text = sampler.step(denoiser).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
        assert_eq!((sampler.chain().x_t(), sampler.chain().steps_left()), (&before.0[..], before.1));
    };
    fails(&mut Constant::new(f32::NAN), "at t = 998 is not finite (24 of 24 values)");
    fails(&mut Constant::new(f32::INFINITY), "weights are probably damaged");
    fails(&mut Constant { value: None, ..Constant::new(0.0) }, "out of memory");
    fails(&mut Constant { output_channels: 6, ..Constant::new(0.0) }, "6 output channels");
    fails(&mut Constant { image: ImageShape::new(4, 4, 3), ..Constant::new(0.0) }, "images of 4x4x3");
    assert_eq!(sampler.step(&mut Constant::new(0.5)).unwrap().unwrap().timestep, 998);
}

#[test]
fn no_samples_are_no_problem() {
    let mut sampler = sampler(0);
    assert!(sampler.run(&mut Constant::new(0.0)).unwrap().is_empty());
    let process = GaussianDiffusion::new(&DiffusionConfig::default()).unwrap();
    let evaluation = BoundEvaluation::new(process.clone(), vec![], 0, 0, 0, NormalCdf::Tanh);
    assert!(evaluation.finish(&mut Constant::new(0.0)).unwrap().is_empty());
    let mut ddim = DdimSampler::new(process, IMAGE, 0, 0, 0, 1.0).unwrap();
    assert!(ddim.run(&mut Constant::new(0.0)).unwrap().is_empty());
}

#[test]
fn a_process_of_one_step_trains_samples_and_has_a_bound() {
    use BetaSchedule::*;
    for schedule in [Linear, Quad, Const, Warmup10, Warmup50, Jsd, Cosine] {
        for prediction in [Prediction::Eps, Prediction::Xstart, Prediction::Xprev] {
            let config = DiffusionConfig {
                timesteps: 1,
                schedule,
                prediction,
                loss: Loss::Kl,
                ..DiffusionConfig::default()
            };
            if (schedule, prediction) == (Jsd, Prediction::Eps) {
                continue;
            }
            let process = GaussianDiffusion::new(&config).unwrap();
            let mut denoiser = Constant::new(0.25);
            let mut sampler = AncestralSampler::new(process.clone(), IMAGE, 0, 0, 2).unwrap();
            assert!(sampler.run(&mut denoiser).unwrap().iter().all(|x| x.is_finite()));

            let x_start = vec![0.2; 2 * IMAGE.len()];
            let evaluation = BoundEvaluation::new(process, x_start.clone(), 2, 0, 0, NormalCdf::Tanh);
            let bounds = evaluation.finish(&mut denoiser).unwrap();
            assert_eq!(bounds[0].terms.len(), 1);
            assert!(bounds.iter().all(|bound| bound.total().is_finite()), "{schedule:?} {prediction}");

            let objective = Objective::new(&config, IMAGE).unwrap();
            let inputs = objective.draw(0, 0, &x_start);
            assert_eq!(inputs.t, [0, 0]);
            let result = objective.loss_and_gradient(&x_start, &inputs, &x_start, 2);
            assert!(result.gradient.iter().all(|g| g.is_finite()));
        }
    }
}

#[test]
fn a_schedule_that_leaves_no_signal_does_not_go_with_eps() {
    let jsd = DiffusionConfig { schedule: BetaSchedule::Jsd, ..DiffusionConfig::default() };
    let text = GaussianDiffusion::new(&jsd).unwrap_err().to_string();
    assert!(text.contains("\"eps\"") && text.contains("t = 999") && text.contains("`xstart`"), "{text}");
    for prediction in [Prediction::Xstart, Prediction::Xprev] {
        let process = GaussianDiffusion::new(&DiffusionConfig { prediction, ..jsd.clone() }).unwrap();
        let mut sampler = AncestralSampler::new(process.clone(), IMAGE, 0, 0, 1).unwrap();
        assert!(sampler.run(&mut Constant::new(0.5)).unwrap().iter().all(|x| x.is_finite()));
        match DdimSampler::new(process, IMAGE, 0, 0, 1, 0.5) {
            Ok(mut sampler) => {
                assert!(sampler.run(&mut Constant::new(0.5)).unwrap().iter().all(|x| x.is_finite()));
            }
            Err(error) => {
                assert!(prediction == Prediction::Xprev && error.to_string().contains("use `ancestral`"))
            }
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let learned =
        DiffusionConfig { variance: Variance::Learned, loss: Loss::Kl, ..DiffusionConfig::default() };
    let respaced = GaussianDiffusion::new(&learned).unwrap().respace(10, Spacing::Leading).unwrap();
    assert!(matches!(
        AncestralSampler::new(respaced.clone(), IMAGE, 0, 0, 1),
        Err(DiffusionError::Conflict(_))
    ));
    DdimSampler::new(respaced.clone(), IMAGE, 0, 0, 1, 0.0).unwrap();
    for eta in [-0.1, 1.1, f64::NAN] {
        let text = DdimSampler::new(respaced.clone(), IMAGE, 0, 0, 1, eta).unwrap_err().to_string();
        assert!(text.contains("`eta`") && text.contains("from 0 to 1"), "{text}");
    }
    let mse = DiffusionConfig { loss: Loss::Mse, ..learned.clone() };
    let range = DiffusionConfig { variance: Variance::LearnedRange, ..learned };
    let hybrid = DiffusionConfig { loss: Loss::Hybrid, ..DiffusionConfig::default() };
    for untrainable in [mse, hybrid] {
        assert!(matches!(Objective::new(&untrainable, IMAGE), Err(DiffusionError::Conflict(_))));
    }
    // A range is of the steps that are taken, so ancestral sampling may leave some out.
    let respaced = GaussianDiffusion::new(&range).unwrap().respace(10, Spacing::Leading).unwrap();
    AncestralSampler::new(respaced, IMAGE, 0, 0, 1).unwrap();
}
