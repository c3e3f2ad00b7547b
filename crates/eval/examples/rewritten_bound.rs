//! The bound of a trained model in both forms, eq. 5 and eq. 16 of the paper, for a data set of finitely many
//! images, of which all entropies are known; and in which order a diffusion model decodes them: I(x_0;
//! x_{t-1} | x_t) by t.
//!
//! `cargo run --release -p ddpm-eval --example rewritten_bound -- MODEL SRC [images] [steps] [information.svg]`,
//! for instance `models/mnist32 mnist:DIR:test 32 100`. It calls the network images × steps times.

use checkpoint::{ModelLocation, StoredModel};
use data::{ImageOptions, SourceSpec};
use diffusion::pixels::from_bytes;
use diffusion::{Denoiser, GaussianDiffusion, NormalCdf, RewrittenBound, RewrittenBoundEvaluation, Spacing};
use engine::Cpu;
use eval::chart::{Axis, Chart, Figure, Scale, Series};
use models::{Unet, UnetDenoiser};
use std::error::Error;
use std::path::Path;

/// Steps in a line of the table.
const LINES: usize = 20;

fn open(model: &Path, batch: usize) -> Result<(StoredModel, UnetDenoiser), Box<dyn Error>> {
    let mut stored = ModelLocation::resolve(model)?.open(None)?;
    let weights = stored.read_parameters(&Unet::layout(&stored.unet))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let denoiser = UnetDenoiser::new(&stored.unet, &weights, batch, Box::new(Cpu::new(threads)?))?;
    Ok((stored, denoiser))
}

/// Both forms for the first `images` images of `spec`, over `steps` steps; and the t of each step.
fn measure(
    model: &Path,
    spec: &SourceSpec,
    images: usize,
    steps: usize,
) -> Result<(RewrittenBound, Vec<usize>), Box<dyn Error>> {
    let (stored, mut denoiser) = open(model, images.min(16))?;
    let config = stored.diffusion.ok_or("the model's diffusion process is not known")?;
    let process = GaussianDiffusion::new(&config)?.respace(steps, Spacing::Trailing)?;
    let image = denoiser.image_shape();
    let (size, channels) = (Some(image.height), Some(image.channels));
    let source = data::open(spec, &ImageOptions { size, channels, ..ImageOptions::default() })?;
    let mut pixels = vec![0; images * image.len()];
    for (number, pixels) in pixels.chunks_exact_mut(image.len()).enumerate() {
        source.read(number as u64, pixels)?;
    }
    let x_start = from_bytes(&pixels);
    let evaluation = RewrittenBoundEvaluation::new(process.clone(), x_start, images, 0, NormalCdf::Tanh);
    let bound = evaluation.finish(&mut denoiser)?;
    Ok((bound, (0..steps).map(|step| process.network_timestep(step) + 1).collect()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, source, rest @ ..] = &arguments[..] else {
        return Err("MODEL SRC [images] [steps] [information.svg]".into());
    };
    let number = |index: usize, default| rest.get(index).map_or(Ok(default), |text| text.parse());
    let (images, steps) = (number(0, 32)?, number(1, 100)?);
    let (bound, t) = measure(Path::new(model), &source.parse()?, images, steps)?;

    println!("{images} images, {steps} steps; bits per image, over ranges of t:");
    println!("            t   usual terms (eq. 5)   information   divergences (eq. 16)");
    let line = |name: String, usual: f64, information: f64| {
        println!("{name:>13} {usual:21.3} {information:13.4} {:22.3}", usual - information);
    };
    line("prior".into(), bound.prior.usual, bound.prior.information);
    let size = steps.div_ceil(LINES);
    for (t, terms) in t.chunks(size).zip(bound.terms.chunks(size)).rev() {
        let sum = |of: fn(&diffusion::RewrittenTerm) -> f64| terms.iter().map(of).sum();
        line(format!("{} to {}", t[t.len() - 1], t[0]), sum(|term| term.usual), sum(|term| term.information));
    }
    for (name, bits) in [
        ("sum of the information".into(), bound.information()),
        (format!("H(x_0) = log2 {images}"), bound.entropy),
        ("L by eq. 5".into(), bound.usual()),
        ("L by eq. 16".into(), bound.rewritten()),
    ] {
        println!("{name:28} {bits:.6} bits");
    }

    if let Some(path) = rest.get(2) {
        let points = t.iter().zip(&bound.terms).map(|(&t, term)| (t as f64, term.information)).collect();
        let axis = |label: &str| Axis { label: label.into(), scale: Scale::Linear, from_zero: true };
        let chart = Chart {
            title: "Information about x₀ that comes to light at t".into(),
            x: axis("t (the reverse process goes from right to left)"),
            y: axis("I(x₀; xₜ₋₁ | xₜ) (bits)"),
            series: vec![Series { name: String::new(), points, band: Vec::new(), dots: true }],
        };
        std::fs::write(path, Figure { charts: vec![chart], columns: 1 }.svg()?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_agree_on_a_trained_model() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mnist32");
        let (bound, t) = measure(&model, &"shapes32".parse().unwrap(), 6, 12).unwrap();
        assert_eq!((bound.terms.len(), t[11]), (12, 1000));
        // Information comes from densities of mixtures, step by step; the entropy from the number of images.
        assert!((bound.information() - 6f64.log2()).abs() < 1e-4, "{}", bound.information());
        assert!((bound.usual() - bound.rewritten()).abs() < 1e-4);
        // A step of a network that has never seen such images costs more than it tells.
        assert!(bound.rewritten() > bound.entropy + 100.0);
    }
}
