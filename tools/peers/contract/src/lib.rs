//! What `tools/bench_peers.py` asks of a program, and the answer.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Height and width of an image.
pub const SIZE: usize = 32;
/// Values of an image.
pub const IMAGE_LEN: usize = 3 * SIZE * SIZE;
/// The rate of dropout while training.
pub const DROPOUT: f64 = 0.1;
/// The largest global norm of the gradients.
pub const MAX_GRADIENT_NORM: f64 = 1.0;
/// Adam's.
pub const LEARNING_RATE: f64 = 2e-4;
/// How much of the moving average of the weights stays at an update.
pub const EMA_DECAY: f64 = 0.9999;

const USAGE: &str = "PROGRAM forward|train BATCH REPEATS THREADS   times the network or a training step
PROGRAM check BATCH WEIGHTS CASE THREADS      compares the output with another program's

WEIGHTS is the safetensors file of diffusers' network; CASE holds 32-bit floats: images, times and the expected output.";

/// What a program is to do.
pub enum Task {
    /// One call of the network without gradients.
    Forward(Repeats),
    /// Forward with dropout, mean squared error, backward, clipping by the global norm, Adam, moving average
    /// of the weights.
    Train(Repeats),
    /// The network's output with given weights, held against another program's.
    Check {
        /// A safetensors file.
        weights: PathBuf,
        /// What goes in and should come out.
        case: Case,
    },
}

impl Task {
    /// The task that the command line names; sets how many threads rayon's pools will have.
    ///
    /// Ends the process with status 2 where there is none. Call it before anything starts a thread.
    pub fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self::parse(&arguments).unwrap_or_else(|error| {
            eprintln!("{error}\n\n{USAGE}");
            std::process::exit(2)
        })
    }

    fn parse(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (task, threads) = match arguments[..] {
            [kind @ ("forward" | "train"), batch, count, threads] => {
                let repeats = Repeats { batch: positive(batch)?, count: positive(count)? };
                let task = if kind == "train" { Self::Train(repeats) } else { Self::Forward(repeats) };
                (task, threads)
            }
            ["check", batch, weights, case, threads] => {
                let case = Case::read(Path::new(case), positive(batch)?)?;
                (Self::Check { weights: weights.into(), case }, threads)
            }
            _ => return Err("the arguments are not understood".into()),
        };
        let threads = positive(threads)?.to_string();
        // SAFETY: the process has one thread until now.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads) };
        Ok(task)
    }
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or(format!("{text}: give a whole number above 0"))
}

/// How often something is timed.
#[derive(Clone, Copy)]
pub struct Repeats {
    /// Images of a batch.
    pub batch: usize,
    /// Timed iterations; one untimed comes before.
    pub count: usize,
}

impl Repeats {
    /// Median milliseconds an image of `iteration`.
    pub fn time<E>(self, mut iteration: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
        iteration()?;
        let mut times = Vec::new();
        for _ in 0..self.count {
            let start = Instant::now();
            iteration()?;
            times.push(start.elapsed().as_secs_f64() * 1e3 / self.batch as f64);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// Any images `[batch, 3, SIZE, SIZE]`.
    pub fn images(self) -> Vec<f32> {
        (0..self.batch * IMAGE_LEN).map(|index| ((index % 17) as f32 - 8.0) / 8.0).collect()
    }

    /// Any noise of that shape.
    pub fn noise(self) -> Vec<f32> {
        (0..self.batch * IMAGE_LEN).map(|index| ((index % 13) as f32 - 6.0) / 4.0).collect()
    }

    /// Any times `[batch]`.
    pub fn times(self) -> Vec<f32> {
        vec![500.0; self.batch]
    }
}

/// An input of the network and the output that another program gives it.
pub struct Case {
    /// Images of the batch.
    pub batch: usize,
    /// `[batch, 3, SIZE, SIZE]`.
    pub images: Vec<f32>,
    /// `[batch]`.
    pub times: Vec<f32>,
    expected: Vec<f32>,
}

impl Case {
    fn read(file: &Path, batch: usize) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let expected_len = 4 * batch * (2 * IMAGE_LEN + 1);
        if bytes.len() != expected_len {
            let (file, len) = (file.display(), bytes.len());
            return Err(format!("{file}: {len} bytes, a batch of {batch} has {expected_len}").into());
        }
        let (values, _) = bytes.as_chunks();
        let mut images: Vec<f32> = values.iter().copied().map(f32::from_le_bytes).collect();
        let mut times = images.split_off(batch * IMAGE_LEN);
        let expected = times.split_off(batch);
        Ok(Self { batch, images, times, expected })
    }

    /// Largest error of `output` over the expected output's root mean square.
    pub fn error(&self, output: &[f32]) -> Result<f64, String> {
        if output.len() != self.expected.len() {
            return Err(format!("{} values came out, not {}", output.len(), self.expected.len()));
        }
        let pairs = || output.iter().zip(&self.expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let squares: f64 = pairs().map(|(_, expected)| expected * expected).sum();
        // Not f64::max, which passes over NaN.
        let largest = pairs().map(|(a, b)| (a - b).abs()).max_by(f64::total_cmp).unwrap_or(0.0);
        Ok(largest / (squares / output.len() as f64).sqrt())
    }
}

/// The version of a framework that this was built with.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{package}\"\nversion = \""));
    entry.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("unknown")
}

/// Prints the one line of JSON that answers: `key` is `forward_ms_per_image`, `train_ms_per_image` or `error`.
pub fn answer(package: &str, parameters: usize, batch: usize, key: &str, value: f64) {
    let version = version(package);
    println!(
        "{}",
        serde_json::json!({key: value, "batch": batch, "parameters": parameters, "version": version})
    );
}
