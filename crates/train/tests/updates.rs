//! Single updates: what they change, what they leave, and what the division of a batch does to them.

use diffusion::Objective;
use engine::{ConvMethod, Cpu, CpuOptions, Program, Run, Session, Slot};
use models::{Mode, Unet};
use train::config::Config;
use train::config_text;
use train::step::{NotFinite, StepError, StepOutcome, TrainingStep};

const SLOTS: [Slot; 4] = [Slot::Params, Slot::Ema, Slot::FirstMoment, Slot::SecondMoment];

fn config(sets: &[&str]) -> Config {
    let tiny = [
        "data.image_size=8",
        "model.channels=8",
        "model.block_size=1",
        "diffusion.prediction=eps",
        "diffusion.variance=fixed_large",
        "model.channel_mult=[1,2]",
        "model.num_res_blocks=1",
        "model.attention_resolutions=[4]",
        "model.norm_groups=4",
        "model.dropout=0.2",
        "diffusion.timesteps=20",
        "log.sample_every=0",
        "train.batch_size=6",
        "train.warmup_steps=0",
        "train.decay_steps=0",
        "train.learning_rate=1e-2",
        "train.ema_decay=0.75",
    ];
    let sets: Vec<String> = tiny.iter().chain(sets).map(|text| text.to_string()).collect();
    config_text::load("shapes32", &sets).unwrap()
}

fn step(config: &Config) -> TrainingStep {
    TrainingStep::new(config, Box::new(Cpu::new(1).unwrap())).unwrap()
}

/// A batch of images, the same for the same number.
fn images(config: &Config, number: usize) -> Vec<f32> {
    let len = config.train.batch_size * config.unet().image_shape().len();
    (0..len).map(|i| ((i * 37 + number * 101) % 200) as f32 / 100.0 - 1.0).collect()
}

fn state(step: &TrainingStep) -> Vec<Vec<u32>> {
    SLOTS
        .iter()
        .map(|&slot| step.buffer(slot).unwrap().iter().map(|value| value.to_bits()).collect())
        .collect()
}

/// What two updates give, and the state after them.
fn after_two_updates(sets: &[&str], conv: ConvMethod) -> ([StepOutcome; 2], Vec<Vec<u32>>) {
    let config = config(sets);
    let cpu = Cpu::with_options(CpuOptions { threads: 1, conv, ..CpuOptions::default() }).unwrap();
    let mut step = TrainingStep::new(&config, Box::new(cpu)).unwrap();
    let outcomes = [0, 1].map(|k| step.run(k, k * 6, &images(&config, k as usize)).unwrap());
    (outcomes, state(&step))
}

#[test]
fn an_update_goes_down_the_gradient_of_the_objective() {
    for prediction in ["eps", "xstart", "xprev"] {
        let config = config(&[&format!("diffusion.prediction={prediction}")]);
        let images = images(&config, 0);
        let mut trained = step(&config);
        let found = trained.run(4, 24, &images).unwrap();

        let objective = Objective::new(&config.diffusion, config.unet().image_shape()).unwrap();
        let Unet { graph, x_t, timesteps, output } = Unet::new(&config.unet(), 6, Mode::Training);
        let backend = Box::new(Cpu::new(1).unwrap());
        let program = Program::training(&graph, &[output], backend.as_ref());
        let mut session = Session::new(program, backend).unwrap();
        session.set_parameters(&graph.layout().initialise(config.train.seed));
        let run = Run { seed: config.train.seed, first_sample: 24 };
        let inputs = objective.draw(run.seed, run.first_sample, &images);
        session.set(x_t, &inputs.x_t);
        session.set(timesteps, &inputs.timesteps());
        session.forward(&run);
        let mut predictions = vec![0.0; images.len()];
        session.read(output, &mut predictions).unwrap();
        let expected = objective.loss_and_gradient(&images, &inputs, &predictions, 6);
        session.set_gradient(output, &expected.gradient);
        session.backward(&run);
        let gradient = session.buffer(Slot::Grads).unwrap();
        let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        for (found, expected) in trained.buffer(Slot::Grads).unwrap().iter().zip(&gradient) {
            assert!(
                f64::from((found - expected).abs()) < 1e-6 * norm,
                "{prediction}: {found}, not {expected}"
            );
        }
        let loss = expected.losses.iter().sum::<f64>() / 6.0;
        let is_close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-6;
        assert!(is_close(found.loss, loss), "{prediction}: {} instead of {loss}", found.loss);
        assert!(is_close(found.grad_norm, norm), "{prediction}: {} instead of {norm}", found.grad_norm);
    }
}

#[test]
fn the_division_of_a_batch_is_only_about_memory() {
    let after_two_updates = |set: &str, conv: ConvMethod| after_two_updates(&[set], conv);
    let whole = after_two_updates("train.micro_batch=0", ConvMethod::Direct);
    let (fast, _) = after_two_updates("train.micro_batch=0", ConvMethod::Fast);
    for set in ["train.micro_batch=1", "train.micro_batch=2", "train.micro_batch=6"] {
        assert!(after_two_updates(set, ConvMethod::Direct) == whole, "{set}");
        let (divided, _) = after_two_updates(set, ConvMethod::Fast);
        assert_eq!(divided[0].loss, fast[0].loss, "{set}");
        assert!((divided[0].grad_norm / fast[0].grad_norm - 1.0).abs() < 1e-5, "{set}");
    }
    assert!(after_two_updates("train.seed=1", ConvMethod::Direct) != whole);
}

#[test]
fn what_is_recomputed_is_only_about_memory() {
    let after_two_updates =
        |set: &str, conv: ConvMethod| after_two_updates(&[set, "model.channels=16"], conv);
    for conv in [ConvMethod::Direct, ConvMethod::Fast] {
        let kept = after_two_updates("train.recompute=nothing", conv);
        for set in ["train.recompute=cheap", "train.recompute=convolutions"] {
            assert!(after_two_updates(set, conv) == kept, "{set}, {conv:?}");
        }
    }
}

#[test]
fn the_first_update_of_a_warm_up_moves_no_weight_and_copies_the_average() {
    let config = config(&["train.warmup_steps=10"]);
    let mut step = step(&config);
    let initial = step.buffer(Slot::Params).unwrap();
    assert_eq!(step.buffer(Slot::Ema).unwrap(), initial);
    let outcome = step.run(0, 0, &images(&config, 0)).unwrap();
    assert_eq!(outcome.learning_rate, 0.0);
    assert_eq!(step.buffer(Slot::Params).unwrap(), initial);
    assert_eq!(step.buffer(Slot::Ema).unwrap(), initial);
    assert!(step.buffer(Slot::FirstMoment).unwrap().iter().any(|&moment| moment != 0.0));
    let outcome = step.run(1, 6, &images(&config, 1)).unwrap();
    assert_eq!(outcome.learning_rate, 1e-3);
    assert_ne!(step.buffer(Slot::Params).unwrap(), initial);
}

#[test]
fn the_average_follows_the_weights() {
    let config = config(&[]);
    let mut step = step(&config);
    step.run(0, 0, &images(&config, 0)).unwrap();
    let first = step.buffer(Slot::Params).unwrap();
    assert_eq!(step.buffer(Slot::Ema).unwrap(), first, "the first update copies");
    step.run(1, 6, &images(&config, 1)).unwrap();
    let (second, ema) = (step.buffer(Slot::Params).unwrap(), step.buffer(Slot::Ema).unwrap());
    for ((first, second), ema) in first.iter().zip(&second).zip(&ema) {
        let expected = 0.75 * f64::from(*first) + 0.25 * f64::from(*second);
        assert!((f64::from(*ema) - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{ema} {expected}");
    }
}

/// The second update, worked out from its moments (Kingma & Ba 2015, Algorithm 1).
#[test]
fn updates_are_adams_with_the_settings_of_the_configuration() {
    let sets = ["train.beta1=0.6", "train.beta2=0.7", "train.eps=1e-3", "train.learning_rate=4e-3"];
    let config = config(&sets);
    let mut step = step(&config);
    step.run(0, 0, &images(&config, 0)).unwrap();
    let before = step.buffer(Slot::Params).unwrap();
    step.run(1, 6, &images(&config, 1)).unwrap();
    let [after, _, first, second] = SLOTS.map(|slot| step.buffer(slot).unwrap());
    let mut moved: f64 = 0.0;
    for (index, (&before, &after)) in before.iter().zip(&after).enumerate() {
        let mean = f64::from(first[index]) / (1.0 - 0.6f64.powi(2));
        let mean_square = f64::from(second[index]) / (1.0 - 0.7f64.powi(2));
        let change = 4e-3 * mean / (mean_square.sqrt() + 1e-3);
        let error = f64::from(before) - change - f64::from(after);
        assert!(error.abs() < 1e-6 * (1.0 + f64::from(before).abs()), "{index}: {before} {after} {change}");
        moved = moved.max(change.abs());
    }
    assert!(moved > 2e-3, "{moved}");
}

#[test]
fn a_long_gradient_is_scaled_down() {
    let first_moments = |set: &str| {
        let config = config(&[set]);
        let mut step = step(&config);
        let outcome = step.run(0, 0, &images(&config, 0)).unwrap();
        (outcome.grad_norm, step.buffer(Slot::FirstMoment).unwrap())
    };
    let norm = |moments: &[f32]| moments.iter().map(|&m| f64::from(m) * f64::from(m)).sum::<f64>().sqrt();
    let (free_norm, free) = first_moments("train.grad_clip=0");
    let (clipped_norm, clipped) = first_moments("train.grad_clip=0.001");
    // The mean of gradients after one update is a tenth of the gradient.
    assert!((norm(&free) / (0.1 * free_norm) - 1.0).abs() < 1e-4);
    assert_eq!(free_norm, clipped_norm, "the norm told is that before clipping");
    assert!(free_norm > 0.01);
    assert!((norm(&clipped) / (0.1 * 0.001) - 1.0).abs() < 1e-4, "{}", norm(&clipped));
}

#[test]
fn what_is_not_finite_changes_nothing() {
    let config = config(&["train.micro_batch=2"]);
    let mut step = step(&config);
    step.run(0, 0, &images(&config, 0)).unwrap();
    let before = state(&step);
    // In the last pass, when two have already added to the gradient.
    let mut spoilt = images(&config, 1);
    *spoilt.last_mut().unwrap() = f32::NAN;
    let error = step.run(1, 6, &spoilt).unwrap_err();
    assert!(matches!(error, StepError::NotFinite(NotFinite::Loss { update: 2, .. })), "{error}");
    assert!(state(&step) == before);
    // What the spoilt passes left behind does not reach the next update.
    let outcome = step.run(1, 6, &images(&config, 1)).unwrap();
    let mut other = self::step(&config);
    other.run(0, 0, &images(&config, 0)).unwrap();
    assert_eq!(other.run(1, 6, &images(&config, 1)).unwrap(), outcome);
    assert!(state(&other) == state(&step));
}

#[test]
fn training_brings_the_loss_down() {
    let config = config(&["train.ema_decay=0.9", "model.dropout=0.0", "train.batch_size=16"]);
    let mut step = step(&config);
    let batch = images(&config, 0);
    let losses: Vec<f64> = (0..60).map(|k| step.run(k, 16 * k, &batch).unwrap().loss).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[55..]));
    // An untrained network predicts 0: the squared error is ε's variance.
    assert!((first - 1.0).abs() < 0.15, "{first}");
    assert!(last < 0.7 * first, "{first} to {last}");
}
