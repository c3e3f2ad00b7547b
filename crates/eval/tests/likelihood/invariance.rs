//! The same bits, however the work is divided: batches, threads, stops.

use super::{Case, Pixels};
use diffusion::{DiffusionConfig, NormalCdf};
use engine::{Cpu, CpuOptions, ImageShape};
use eval::ModelFacts;
use eval::likelihood::{
    ImageGroup, LikelihoodError, LikelihoodJob, Measurement, MeasurementError, SourceError,
};
use models::{Unet, UnetConfig, UnetDenoiser};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const IMAGE: ImageShape = ImageShape::new(8, 8, 1);

fn source() -> Pixels {
    let image = |i: usize| (0..IMAGE.len()).map(|p| (p * (7 * i + 3) % 256) as u8).collect();
    Pixels { shape: IMAGE, images: (0..6).map(image).collect() }
}

/// A small U-Net with its initial weights.
fn network(batch: usize, threads: usize) -> UnetDenoiser {
    let config = UnetConfig {
        image_size: 8,
        image_channels: 1,
        learned_variance: false,
        channels: 8,
        channel_mult: vec![1, 2],
        num_res_blocks: 1,
        attention_resolutions: vec![4],
        dropout: 0.0,
        block_size: 1,
        norm_groups: 4,
        scale_shift_norm: false,
        conventions: models::Conventions::default(),
    };
    let weights = Unet::layout(&config).initialise(1);
    let cpu = CpuOptions { threads, ..CpuOptions::default() };
    UnetDenoiser::new(&config, &weights, batch, Box::new(Cpu::with_options(cpu).unwrap())).unwrap()
}

fn config() -> DiffusionConfig {
    DiffusionConfig { timesteps: 25, beta_end: 0.3, ..DiffusionConfig::default() }
}

fn whole(case: &Case, path: &Path, batch: usize, threads: usize) -> eval::likelihood::Summary {
    assert!(case.measure(path, &mut network(batch, threads), 6, batch, u64::MAX));
    case.summary(path, 6).2
}

#[test]
fn batches_threads_and_stops_change_no_bit() {
    let (config, source) = (config(), source());
    let dir = tempfile::tempdir().unwrap();
    for terms in [25, 10] {
        let case = Case { config: &config, terms, cdf: NormalCdf::Tanh, seed: 3, source: &source };
        let path = |name: &str| dir.path().join(format!("{name}-{terms}"));
        let expected = whole(&case, &path("reference"), 4, 1);
        assert!(expected.bits_per_dim.mean > 1.0);
        for (batch, threads) in [(1, 1), (3, 2), (7, 3), (200, 2)] {
            let found = whole(&case, &path(&format!("{batch}-{threads}")), batch, threads);
            assert!(found == expected, "batch {batch}, {threads} threads");
        }
        // Stopped again and again, going on with other batches, one image more each time.
        let stopped = path("stopped");
        let (mut images, mut stops) = (1, 0);
        for most in (5..).step_by(11) {
            let batch = 1 + most as usize % 6;
            stops += 1;
            if case.measure(&stopped, &mut network(batch, 1), images, batch, most) {
                if images == 6 {
                    break;
                }
                images += 1;
            }
        }
        assert!(stops > 5);
        assert!(case.summary(&stopped, 6).2 == expected, "stopped {stops} times");
        let (order, totals, fewer) = case.summary(&stopped, 2);
        assert_eq!(order[..], case.summary(&stopped, 6).0[..2]);
        assert_eq!((fewer.images, fewer.bits_per_dim.mean), (2, totals[0] + (totals[1] - totals[0]) / 2.0));

        let other = Case { seed: 4, ..case };
        assert!(whole(&other, &path("other"), 4, 1) != expected);
    }
}

#[test]
fn images_of_another_shape_are_refused() {
    let (config, source) = (config(), source());
    let case = Case { config: &config, terms: 25, cdf: NormalCdf::Tanh, seed: 3, source: &source };
    let (process, strata) = (case.process(), case.strata());
    let shape = ImageShape::new(8, 8, 3);
    let error = Measurement::new(&process, &strata, &source, shape, NormalCdf::Tanh, 3).err().unwrap();
    assert!(matches!(error, SourceError::Shape { .. }));
    assert!(error.to_string().contains("8x8x3") || error.to_string().contains("8×8×3"), "{error}");
}

#[test]
fn more_images_than_can_be_numbered_are_refused_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let job = LikelihoodJob {
        model: ModelFacts { path: "m".into(), weights: None, step: None, fingerprint: "f".into() },
        diffusion: config(),
        terms: None,
        decoder_cdf: NormalCdf::Tanh,
        seed: 3,
        convolutions: "none".into(),
        batch: 4,
    };
    let out = dir.path().join("out");
    for images in [u64::MAX, u64::MAX / 26 + 1] {
        let set = ImageGroup { name: "data".into(), source: Arc::new(source()), images };
        let stop = AtomicBool::new(true);
        let error = job.run(&mut network(4, 1), &[set], &out, &stop, &mut |_| {}).unwrap_err();
        assert!(error.is_input() && error.to_string().contains(&images.to_string()), "{error}");
        assert!(matches!(error, LikelihoodError::Measurement(MeasurementError::TooMany { .. })));
        assert!(!out.exists());
    }
}
