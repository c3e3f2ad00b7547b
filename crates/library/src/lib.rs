//! Denoising diffusion models (Ho, Jain, Abbeel 2020) from Rust.
//!
//! Load, sample, save:
//!
//! ```
//! use ddpm::{Model, SamplerKind, Sampling};
//! # let folder = tempfile::tempdir()?;
//! # let (model, out) = (concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/mnist32"), folder.path().join("digits.png"));
//! let mut model = Model::open(model)?;
//! let sampling = Sampling { kind: SamplerKind::DpmSolver, steps: Some(8), spacing: None };
//! let digits = model.sample(4, 7, sampling)?;
//! digits.save_png(&out)?;
//! # let ink = digits.pixels.iter().filter(|&&value| value > 127).count();
//! # assert!((4 * 20..4 * 350).contains(&ink), "{ink} bright pixels are no digits");
//! # assert!(std::fs::read(&out)?.starts_with(b"\x89PNG"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Train on images of one's own, from any iterator of their bytes:
//!
//! ```
//! use ddpm::{ImageShape, Job, MemoryImages, Model, SamplerKind, Sampling, load_config, train_on};
//! use std::sync::{Arc, atomic::AtomicBool};
//! # let folder = tempfile::tempdir()?;
//! # let run = folder.path().join("run");
//! let images = (0..100).map(|i| vec![2 * i; 16 * 16]); // rows, columns, channels
//! let images = MemoryImages::new(ImageShape::new(16, 16, 1), images)?;
//! let settings = ["data.source=memory", "data.image_size=16", "data.channels=1", "train.steps=20"];
//! # let settings = [&settings[..], &["train.batch_size=4", "model.channels=8", "model.norm_groups=4"]].concat();
//! # let settings = [&settings[..], &["log.sample_count=1", "log.sample_steps=2", "log.evaluate_every=0"]].concat();
//! let config = load_config("shapes32", &settings)?;
//! let job = Job { config, directory: run.clone(), ..Job::default() };
//! train_on(Arc::new(images), &job, &AtomicBool::new(false), &mut ())?;
//! let image = Model::open(&run)?.sample(1, 0, Sampling { kind: SamplerKind::Ancestral, steps: Some(10), spacing: None })?;
//! # assert_eq!(image.shape, ImageShape::new(16, 16, 1));
//! # assert_eq!(image.pixels.len(), 256);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate has the shortest way to the usual things; the crates it stands on, which are re-exported, have
//! all of them. Whoever has a network of their own implements [`diffusion::Denoiser`], whoever has images
//! elsewhere [`data::ImageSource`].

#![forbid(unsafe_code)]

mod model;

pub use {checkpoint, data, diffusion, engine, models, train};

pub use data::{ImageSource, MemoryImages};
pub use diffusion::{SamplerKind, Sampling};
pub use engine::ImageShape;
pub use model::{Error, Images, Model};
pub use train::{Config, Job, Observer, Outcome, train_on};

/// The configuration of the preset or file `name`, changed by `settings` of the form `SECTION.KEY=VALUE`.
///
/// # Errors
/// If there is none of this name, or a setting does not exist or is out of range.
pub fn load_config(name: &str, settings: &[&str]) -> Result<Config, train::ConfigError> {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    train::config_text::load(name, &settings)
}
