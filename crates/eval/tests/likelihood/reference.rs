//! Every number of a measurement against an independent implementation in float64 (`tools/likelihood_fixtures.py`).

use super::{Case, Pixels};
use diffusion::{DenoiseError, Denoiser, DiffusionConfig, NormalCdf};
use engine::ImageShape;
use eval::Estimate;
use eval::likelihood::TermFile;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    timesteps: usize,
    beta_start: f64,
    beta_end: f64,
    shape: [usize; 3],
    seed: u64,
    pixels: Vec<Vec<u8>>,
    cases: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    terms: usize,
    cdf: NormalCdf,
    strata: Vec<[usize; 2]>,
    images: Vec<u64>,
    drawn: Vec<Drawn>,
    totals: Vec<f64>,
    bits_per_dim: [f64; 4],
    rate: [f64; 4],
    distortion: [f64; 4],
    prior: [f64; 4],
    standard_error_of_choice: f64,
    step_bits: Vec<[f64; 4]>,
    step_rates: Vec<[f64; 4]>,
    step_rmse: Vec<[f64; 4]>,
}

#[derive(Deserialize)]
struct Drawn {
    steps: Vec<usize>,
    bits: Vec<f64>,
}

/// 1.2 x / (1 + |x|) + 0.3 t/1000 - 0.1 c for channel c.
struct ToyDenoiser(ImageShape);

impl Denoiser for ToyDenoiser {
    fn image_shape(&self) -> ImageShape {
        self.0
    }

    fn output_channels(&self) -> usize {
        self.0.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let len = self.0.len();
        for ((x_t, output), t) in x_t.chunks(len).zip(output.chunks_mut(len)).zip(timesteps) {
            for (i, (x, y)) in x_t.iter().zip(output).enumerate() {
                *y = 1.2 * x / (1.0 + x.abs()) + 0.3 * t / 1000.0 - 0.1 * (i % self.0.channels) as f32;
            }
        }
        Ok(())
    }
}

#[track_caller]
fn assert_close(what: &str, found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(
        error <= tolerance * expected.abs().max(1.0),
        "{what}: {found} instead of {expected}, off by {error:e}"
    );
}

#[track_caller]
fn assert_estimate(what: &str, found: &Estimate, expected: [f64; 4], tolerance: f64) {
    let found = [Some(found.mean), found.standard_error, found.low, found.high];
    for (part, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        assert_close(&format!("{what}, part {part}"), found.unwrap(), expected, tolerance);
    }
}

#[test]
fn every_term_and_every_statistic() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/likelihood.json")).unwrap();
    let config = DiffusionConfig {
        timesteps: fixture.timesteps,
        beta_start: fixture.beta_start,
        beta_end: fixture.beta_end,
        ..DiffusionConfig::default()
    };
    let shape = ImageShape::new(fixture.shape[0], fixture.shape[1], fixture.shape[2]);
    let source = Pixels { shape, images: fixture.pixels.clone() };
    assert_eq!(fixture.cases.len(), 4);
    for expected in &fixture.cases {
        let case = Case {
            config: &config,
            terms: expected.terms,
            cdf: expected.cdf,
            seed: fixture.seed,
            source: &source,
        };
        let strata: Vec<_> = case.strata().as_slice().iter().map(|s| [s.first, s.len]).collect();
        assert_eq!(strata, expected.strata);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terms");
        let images = fixture.pixels.len() as u64;
        assert!(case.measure(&path, &mut ToyDenoiser(shape), images, 5, u64::MAX));

        let file = TermFile::open(&path, &case.identity()).unwrap();
        let mut drawn = expected.images.iter().zip(&expected.drawn);
        file.visit_groups(1 + expected.terms, images, |entries| {
            let (&image, drawn) = drawn.next().unwrap();
            assert_eq!(case.strata().steps(fixture.seed, image), drawn.steps);
            for ((entry, &bits), t) in entries[1..].iter().zip(&drawn.bits).zip(&drawn.steps) {
                assert_close(&format!("image {image}, t = {t}"), entry.bits_per_dim, bits, 2e-5);
            }
        })
        .unwrap();
        assert!(drawn.next().is_none());
        drop(file);

        let (order, totals, summary) = case.summary(&path, images);
        let what = format!("{} terms, {:?}", expected.terms, expected.cdf);
        assert_eq!(order, expected.images, "{what}");
        for (&found, &expected) in totals.iter().zip(&expected.totals) {
            assert_close(&format!("{what}: an image"), found, expected, 2e-5);
        }
        assert_estimate(&format!("{what}: total"), &summary.bits_per_dim, expected.bits_per_dim, 2e-5);
        assert_estimate(&format!("{what}: rate"), &summary.rate, expected.rate, 2e-5);
        assert_estimate(&format!("{what}: distortion"), &summary.distortion, expected.distortion, 2e-5);
        assert_estimate(&format!("{what}: prior"), &summary.prior, expected.prior, 1e-7);
        assert_close(&what, summary.standard_error_of_choice, expected.standard_error_of_choice, 2e-5);
        for (s, row) in summary.steps.iter().enumerate() {
            let what = format!("{what}, t = {} to {}", row.first_t, row.last_t);
            assert_estimate(&format!("{what}: bits/dim"), &row.bits_per_dim, expected.step_bits[s], 2e-5);
            assert_estimate(&format!("{what}: rate"), &row.rate, expected.step_rates[s], 2e-5);
            assert_estimate(&format!("{what}: RMSE"), &row.rmse, expected.step_rmse[s], 2e-5);
        }
    }
}
