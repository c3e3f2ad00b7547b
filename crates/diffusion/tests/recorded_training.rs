//! What is recorded on a graph is what the objective gives by itself.

use diffusion::{BetaSchedule, DiffusionConfig, Loss, Objective, Prediction, Variance};
use engine::random::{Purpose, Stream};
use engine::{Cpu, Graph, ImageShape, Program, Run, Session};

const IMAGE: ImageShape = ImageShape::new(5, 7, 3);
const BATCH: usize = 6;
/// The whole batch, of which the others are computed elsewhere.
const TOTAL_BATCH: usize = 11;

fn config(prediction: Prediction) -> DiffusionConfig {
    DiffusionConfig {
        timesteps: 50,
        schedule: BetaSchedule::Linear,
        prediction,
        ..DiffusionConfig::default()
    }
}

fn random(sample: u64) -> Vec<f32> {
    let mut values = vec![0.0; BATCH * IMAGE.len()];
    Stream::new(99, Purpose::Test, 0, sample).normals(0, &mut values);
    values
}

#[test]
fn noisy_images_have_the_same_bits_and_losses_the_same_gradient() {
    let run = Run { seed: 5 << 40 | 3, first_sample: (1 << 33) - 2 };
    for prediction in [Prediction::Eps, Prediction::Xstart] {
        let objective = Objective::new(&config(prediction), IMAGE).unwrap();
        let x_start: Vec<f32> = random(0).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        let inputs = objective.draw(run.seed, run.first_sample, &x_start);
        let steps = objective.draw_steps(run.seed, run.first_sample, BATCH);
        assert_eq!(steps.timesteps, inputs.timesteps());

        let mut graph = Graph::new();
        let recorded = objective.record(&mut graph, BATCH).unwrap();
        // In the place of the network's.
        let output = graph.input_with_gradient(graph.shape(recorded.x_t));
        let loss = recorded.loss(&mut graph, output);
        let session = |program: fn(&Graph, &[engine::Var], &dyn engine::Backend) -> Program, result| {
            let backend = Box::new(Cpu::new(2).unwrap());
            let program = program(&graph, &[result], backend.as_ref());
            let mut session = Session::new(program, backend).unwrap();
            recorded.set(&mut session, &x_start, &steps);
            session
        };
        let mut forward = session(Program::inference, recorded.x_t);
        forward.forward(&run);
        let mut x_t = vec![0.0; x_start.len()];
        forward.read(recorded.x_t, &mut x_t).unwrap();
        assert!(x_t == inputs.x_t, "{prediction}");

        let predicted = random(1);
        let expected = objective.loss_and_gradient(&x_start, &inputs, &predicted, TOTAL_BATCH);
        let mut training = session(Program::training, loss);
        training.set(output, &predicted);
        training.forward(&run);
        training.set_gradient(loss, &[1.0 / TOTAL_BATCH as f32; BATCH]);
        training.backward(&run);
        let (mut losses, mut gradient) = (vec![0.0; BATCH], vec![0.0; x_start.len()]);
        training.read(loss, &mut losses).unwrap();
        training.read_gradient(output, &mut gradient).unwrap();
        for (found, expected) in losses.iter().zip(&expected.losses) {
            assert!(
                (f64::from(*found) / expected - 1.0).abs() < 1e-6,
                "{prediction}: {found}, not {expected}"
            );
        }
        for (found, expected) in gradient.iter().zip(&expected.gradient) {
            assert!(
                (found - expected).abs() <= 3e-7 * expected.abs(),
                "{prediction}: {found}, not {expected}"
            );
        }
    }
}

#[test]
fn losses_that_are_no_squared_error_of_a_constant_are_not_recorded() {
    let recorded = |config| Objective::new(&config, IMAGE).unwrap().record(&mut Graph::new(), 1).is_some();
    assert!(recorded(config(Prediction::Eps)));
    assert!(!recorded(config(Prediction::Xprev)));
    for (variance, loss) in [(Variance::FixedSmall, Loss::Kl), (Variance::LearnedRange, Loss::Hybrid)] {
        assert!(!recorded(DiffusionConfig { variance, loss, ..config(Prediction::Eps) }));
    }
}
