//! `ddpm`: train denoising diffusion models, sample from them, measure them, compress with them.

#![forbid(unsafe_code)]

mod ablate;
mod animation;
mod coding;
mod completions;
mod compress;
mod data_command;
mod decompress;
mod denoise;
mod evaluate;
mod export;
mod failure;
mod feature_args;
mod fid;
mod image_count;
mod image_files;
mod image_pairs;
mod import;
mod inception_score;
mod inspect;
mod interpolate;
mod invert;
mod likelihood;
mod measured;
mod model;
mod model_samples;
mod neighbours;
mod own_folder;
mod progress;
mod progressive;
mod report;
mod run_report;
mod sample;
mod sample_output;
mod sample_quality;
mod sampler_args;
mod signals;
mod stats;
mod train;
mod training_evaluation;

use clap::{Parser, Subcommand, ValueEnum};
use engine::{Algorithms, ConvMethod, CpuOptions, Device, Hardware, Precision};
use failure::Failure;
use report::Report;
use std::num::NonZeroUsize;
use std::process::ExitCode;

/// Denoising diffusion probabilistic models (Ho, Jain, Abbeel 2020).
///
/// MODEL is a run directory that `ddpm train` wrote, one of its checkpoints, or a directory in diffusers' layout.
#[derive(Parser, Debug)]
#[command(name = "ddpm", version, after_long_help = EXIT_STATUS, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

/// More threads than any machine has cores for only wait for each other, a hundred thousand for ever.
const MAX_THREADS: usize = 1024;

fn thread_count(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= MAX_THREADS);
    count.ok_or_else(|| format!("a number of threads is 1 to {MAX_THREADS}"))
}

const EXIT_STATUS: &str = "Exit status:
  0  done
  1  the work failed
  2  the call or the input was wrong
  130, 143  stopped by Ctrl-C or SIGTERM, what was done is kept

Examples:
  ddpm train shapes32                          train a small model, no data needed
  ddpm sample runs/shapes32 --n 16 --out new   draw 16 images from it
  ddpm inspect runs/shapes32                   what is in it";

/// Options that every command has.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Print one JSON object on standard output, and everything for people on standard error
    #[arg(long, global = true)]
    json: bool,

    /// Worker threads, 1 to 1024 [default: one per core]. Results are the same for any number
    #[arg(long, global = true, value_name = "COUNT", value_parser = thread_count)]
    threads: Option<NonZeroUsize>,

    /// Decides every random number, 0 to 2^63-1 [default: the configuration's for train, else 0]
    #[arg(long, global = true, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,

    /// How convolutions are computed on the CPU
    #[arg(long, global = true, value_enum, default_value_t = ConvName::Fast)]
    conv: ConvName,

    /// What networks are computed on: cpu, cuda or cuda:N (an NVIDIA GPU), or auto (for now the CPU: what
    /// computes on a GPU has not run on one yet)
    #[arg(long, global = true, value_name = "DEVICE", default_value = "cpu")]
    device: Device,

    /// How products are computed. The CPU has f32 only
    #[arg(long, global = true, value_enum, default_value_t = PrecisionName::F32)]
    precision: PrecisionName,

    /// On a GPU, whether to take only algorithms that give the same bits every time; false: those that are
    /// fastest there
    #[arg(long, global = true, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = true)]
    deterministic: bool,

    /// Say nothing while working: errors and the result only
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ConvName {
    /// 3x3 by Winograd's method where the shape gains by it: up to four times fewer products, an error near 2e-5
    Fast,
    /// By direct summation everywhere: slower, exact to rounding
    Direct,
    /// By a matrix unit (AMX: Intel's Xeons from the fourth generation on), from factors of 16 bits, each the
    /// sum of two bf16: faster, an error near 4e-5
    Bf16x3,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum PrecisionName {
    /// In single precision
    F32,
    /// On a GPU's tensor cores, from factors rounded to 10 bits: faster, an error near 1e-3
    Tf32,
    /// On a GPU, activations and factors of 8 bits (bf16): half the memory, an error near 1e-2; sums and
    /// weights stay single
    Bf16,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Self::F32,
            PrecisionName::Tf32 => Self::Tf32,
            PrecisionName::Bf16 => Self::Bf16,
        }
    }
}

impl ConvName {
    /// A name for the bits of its results, under which these are kept: another one whenever they change, like
    /// the number in compressed files (`coding.rs`).
    fn bits(self) -> &'static str {
        match self {
            Self::Fast => "fast-2",
            Self::Direct => "direct",
            Self::Bf16x3 => "bf16x3",
        }
    }
}

impl Global {
    /// What networks are computed on.
    fn hardware(&self) -> Hardware {
        let algorithms = if self.deterministic { Algorithms::Reproducible } else { Algorithms::Fastest };
        Hardware { device: self.device, precision: self.precision.into(), algorithms, cpu: self.cpu() }
    }

    /// How convolutions are computed, on which the last bits of results depend: what is kept for later is
    /// kept under it.
    fn convolutions(&self) -> &'static str {
        match (self.device, self.precision, self.deterministic) {
            (Device::Cuda(_), PrecisionName::F32, true) => "cuda-f32",
            (Device::Cuda(_), PrecisionName::F32, false) => "cuda-f32-fastest",
            (Device::Cuda(_), PrecisionName::Tf32, true) => "cuda-tf32",
            (Device::Cuda(_), PrecisionName::Tf32, false) => "cuda-tf32-fastest",
            (Device::Cuda(_), PrecisionName::Bf16, true) => "cuda-bf16",
            (Device::Cuda(_), PrecisionName::Bf16, false) => "cuda-bf16-fastest",
            (Device::Auto | Device::Cpu, ..) => self.conv.bits(),
        }
    }

    /// How the CPU computes networks.
    fn cpu(&self) -> CpuOptions {
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok());
        let conv = match self.conv {
            ConvName::Fast => ConvMethod::Fast,
            ConvName::Direct => ConvMethod::Direct,
            ConvName::Bf16x3 => ConvMethod::Bf16x3,
        };
        CpuOptions { threads: threads.map_or(1, NonZeroUsize::get), conv, ..CpuOptions::default() }
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    Train(train::Args),
    Sample(sample::Args),
    Inspect(inspect::Args),
    Likelihood(likelihood::Args),
    Progressive(Box<progressive::Args>),
    Invert(invert::Args),
    Interpolate(Box<interpolate::Args>),
    Stats(stats::Args),
    Fid(Box<fid::Args>),
    InceptionScore(inception_score::Args),
    Neighbours(neighbours::Args),
    Evaluate(Box<evaluate::Args>),
    Ablate(ablate::Args),
    Report(run_report::Args),
    Compress(compress::Args),
    Decompress(decompress::Args),
    Denoise(denoise::Args),
    Export(export::Args),
    Import(import::Args),
    Data(data_command::Args),
    Completions(completions::Args),
}

fn run(cli: &Cli) -> Result<Report, Failure> {
    cli.global.hardware().validate().map_err(Failure::input)?;
    match &cli.command {
        Command::Train(args) => train::run(args, &cli.global),
        Command::Sample(args) => sample::run(args, &cli.global),
        Command::Inspect(args) => inspect::run(args),
        Command::Report(args) => run_report::run(args),
        Command::Evaluate(args) => evaluate::run(args, &cli.global),
        Command::Ablate(args) => ablate::run(args, &cli.global),
        Command::Progressive(args) => progressive::run(args, &cli.global),
        Command::Invert(args) => invert::run(args, &cli.global),
        Command::Interpolate(args) => interpolate::run(args, &cli.global),
        Command::Likelihood(args) => likelihood::run(args, &cli.global),
        Command::Stats(args) => stats::run(args, &cli.global),
        Command::Fid(args) => fid::run(args, &cli.global),
        Command::InceptionScore(args) => inception_score::run(args, &cli.global),
        Command::Neighbours(args) => neighbours::run(args, &cli.global),
        Command::Compress(args) => compress::run(args, &cli.global),
        Command::Decompress(args) => decompress::run(args, &cli.global),
        Command::Denoise(args) => denoise::run(args, &cli.global),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
        Command::Data(args) => data_command::run(args, &cli.global),
        Command::Completions(args) => completions::run(args),
    }
}

/// Refuses an argument that is not UTF-8: paths go into JSON and configuration files, which is. Found only
/// there, it would be after the work.
fn check_arguments() -> Result<(), Failure> {
    let Some(argument) = std::env::args_os().skip(1).find(|argument| argument.to_str().is_none()) else {
        return Ok(());
    };
    Err(Failure::input(format!(
        "{}: this argument is not UTF-8 (shown with � for what is not); rename the file, or reach it by a link",
        argument.display()
    )))
}

fn main() -> ExitCode {
    if let Err(failure) = check_arguments() {
        return end(&failure, std::env::args_os().any(|argument| argument == "--json"));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain_call(&error),
    };
    // What is no network's work is shared out by these threads. That they were made before is no matter.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(cli.global.cpu().threads).build_global();
    if !cli.global.quiet
        && let Some(choice) = cli.global.hardware().choice()
    {
        progress::say(&choice);
    }
    match run(&cli).and_then(|report| report.print(cli.global.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&failure, cli.global.json),
    }
}

/// Says why the work ended.
fn end(failure: &Failure, json: bool) -> ExitCode {
    eprintln!("ddpm: {}", failure.message);
    if json {
        // Standard output carries one object in any case; that it cannot be written matters less than the failure.
        let _ = Report::new("", failure.json.clone()).print(true);
    }
    ExitCode::from(failure.status)
}

/// Shows the help asked for, or what is wrong with the call.
fn explain_call(error: &clap::Error) -> ExitCode {
    // Where it is shown cannot be written: nobody is left to be told.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let _ = Report::new("", Failure::input(error.to_string().trim_end()).json).print(true);
    }
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
