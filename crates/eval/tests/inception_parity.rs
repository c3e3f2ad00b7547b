//! Features and figures against other programs'. What the fixture holds is described in
//! `tools/inception_fixtures.py`.
//!
//! `DDPM_TEST_INCEPTION` names the real weights up to `Mixed_6e` (else `../weights/…` beside the folder
//! `DDPM_TEST_DATA`), `DDPM_TEST_CIFAR10` the folder of CIFAR-10's `.bin` files; without them the tests that
//! need them say that they were skipped.

#[path = "../../models/tests/diffusers_parity/portable_values.rs"]
#[allow(dead_code)]
mod portable_values;

use engine::{Cpu, ImageShape};
use eval::feature_extractor::FeatureExtractor;
use eval::feature_store::FeatureStore;
use eval::frechet::frechet_distance;
use eval::image_set::{ImageBatch, ImageSet, SourceImages, Unreadable};
use eval::inception_score::ScoreSums;
use eval::inception_weights::InceptionWeights;
use eval::kid::{KidOptions, kernel_distance};
use eval::moments::FeatureMoments;
use eval::precision_recall::precision_recall;
use eval::resize::{NETWORK_IMAGE, Resizer};
use eval::{MeasureError, ResizeMode, Statistics};
use models::inception::{Classifier, Inception, Tap};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const FIXTURE: &[u8] = include_bytes!("fixtures/inception.safetensors");

fn floats(name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(FIXTURE).unwrap();
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn doubles(name: &str) -> Vec<f64> {
    let tensors = SafeTensors::deserialize(FIXTURE).unwrap();
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F64, "{name}");
    view.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
}

/// Pixels of the script's `image(name, height, width)`.
fn image(name: &str, height: usize, width: usize) -> Vec<u8> {
    portable_values::symmetric(name)
        .take(height * width * 3)
        .map(|value| ((value + 1.0) * 128.0).floor() as u8)
        .collect()
}

/// The largest difference, as a multiple of the reference's root mean square.
fn largest_error(expected: &[f32], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    let squares: f64 = expected.iter().map(|&value| f64::from(value).powi(2)).sum();
    let rms = (squares / expected.len() as f64).sqrt();
    let differences = expected.iter().zip(actual).map(|(&e, &a)| (f64::from(e) - f64::from(a)).abs());
    differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max) / rms
}

/// The script's two images.
struct TwoImages;

impl ImageSet for TwoImages {
    fn len(&self) -> u64 {
        2
    }

    fn shape(&self) -> ImageShape {
        ImageShape::new(32, 32, 3)
    }

    fn description(&self) -> String {
        "two images".into()
    }

    fn content_key(&mut self, _progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError> {
        Ok("two images".into())
    }

    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError> {
        let images = (first..first + count as u64).map(|index| image(&format!("image.{index}"), 32, 32));
        Ok(ImageBatch { pixels: images.flatten().collect(), unreadable: Vec::new() })
    }
}

fn extractor(weights: &mut InceptionWeights, tap: Tap, mode: ResizeMode, batch: usize) -> FeatureExtractor {
    FeatureExtractor::new(weights, tap, mode, batch, Box::new(Cpu::new(2).unwrap())).unwrap()
}

fn features(set: &mut dyn ImageSet, extractor: &mut FeatureExtractor) -> Vec<f32> {
    let mut store = FeatureStore::temporary(extractor.tap().dims()).unwrap();
    extractor.fill(set, &mut store, &mut |_| true).unwrap();
    store.read_rows(set.len()).unwrap()
}

/// Writes the script's `random_state` as safetensors, as far as `tap`, with the classifier after [`Tap::Pool3`].
fn write_random_weights(path: &Path, tap: Tap) {
    let root_2 = 2f64.sqrt() as f32;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, change: &dyn Fn(f32) -> f32| {
        let values = portable_values::symmetric(&name).take(shape.iter().product());
        let bytes = values.flat_map(|value| change(value).to_le_bytes()).collect();
        tensors.push((name, shape, bytes));
    };
    for spec in Inception::layout(tap).specs() {
        let (Some(layer), &[kh, kw, input, output]) = (spec.name.strip_suffix(".weight"), &spec.shape[..])
        else {
            continue;
        };
        let scale = (3.0 / (kh * kw * input) as f64).sqrt() as f32;
        add(format!("{layer}.conv.weight"), vec![output, input, kh, kw], &|v| v * scale * root_2);
        add(format!("{layer}.bn.weight"), vec![output], &|v| 1.0 + v * 0.1);
        add(format!("{layer}.bn.bias"), vec![output], &|v| v * 0.1);
        add(format!("{layer}.bn.running_mean"), vec![output], &|v| v * 0.1);
        add(format!("{layer}.bn.running_var"), vec![output], &|v| 1.0 + v * 0.3);
    }
    if tap == Tap::Pool3 {
        let scale = (3.0f64 / 2048.0).sqrt() as f32;
        add("fc.weight".into(), vec![1008, 2048], &|v| v * scale);
        add("fc.bias".into(), vec![1008], &|v| v * 0.1);
    }
    let views: HashMap<String, TensorView> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        })
        .collect();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn resized_images_are_the_other_programs() {
    for (height, width) in [(32, 32), (299, 299), (17, 40), (400, 350)] {
        let pixels = image(&format!("image.{height}x{width}"), height, width);
        for mode in [ResizeMode::PytorchFid, ResizeMode::TorchFidelity, ResizeMode::Clean] {
            let mut out = vec![f32::NAN; NETWORK_IMAGE];
            Resizer::new(mode, ImageShape::new(height, width, 3)).resize(&pixels, &mut out);
            let spread: Vec<f32> = (0..1024).map(|i| out[i * NETWORK_IMAGE / 1024]).collect();
            let expected = floats(&format!("resize/{mode}/{height}x{width}"));
            let differences = spread.iter().zip(&expected).map(|(a, e)| (a - e).abs());
            let largest = differences.fold(0.0, f32::max);
            println!("{mode} {height}x{width}: {largest:e}");
            let bound = match mode {
                ResizeMode::TorchFidelity => 0.0,
                // Interpolated in another order.
                ResizeMode::PytorchFid => 1e-5,
                ResizeMode::Clean => 1e-6,
            };
            assert!(largest <= bound, "{mode} {height}x{width}: {largest:e}");
        }
    }
}

#[test]
fn figures_are_the_other_programs() {
    let close = |name: &str, actual: &[f64], tolerance: f64| {
        let expected = doubles(&format!("metrics/{name}"));
        assert_eq!(expected.len(), actual.len());
        for (expected, actual) in expected.iter().zip(actual) {
            println!("{name}: {actual} for {expected}");
            assert!((actual / expected - 1.0).abs() <= tolerance, "{name}: {actual} for {expected}");
        }
    };
    let logits: Vec<f32> = portable_values::symmetric("logits").take(203 * 1008).map(|v| v * 6.0).collect();
    let mut sums = ScoreSums::new(203, 1008, 10).unwrap();
    sums.add(&logits);
    let score = sums.finish();
    close("isc", &[score.mean, score.std], 1e-8);

    let first: Vec<f32> = portable_values::symmetric("first").take(300 * 24).collect();
    let second: Vec<f32> =
        portable_values::symmetric("second").take(300 * 24).map(|v| 0.9 * v + 0.1).collect();
    let statistics = |rows: &[f32]| {
        let mut moments = FeatureMoments::new(24);
        moments.add(rows);
        let (mu, sigma) = moments.finish().unwrap();
        Statistics { mu, sigma, about: None }
    };
    let fid = frechet_distance(&statistics(&first), &statistics(&second)).unwrap();
    close("fid", &[fid], 1e-9);
    // 20 images of 24 features: the other program takes the root of a singular matrix.
    let fid = frechet_distance(&statistics(&first[..480]), &statistics(&second[..480])).unwrap();
    close("fid_singular", &[fid], 1e-6);
    let whole = KidOptions { subsets: 1, subset_size: 300, seed: 0 };
    close("kid", &[kernel_distance(&first, &second, 24, &whole).unwrap().mean], 1e-8);
    let both = precision_recall(&first, &second, 24, 3).unwrap();
    // Its shares are in single precision.
    close("precision_recall", &[both.precision, both.recall], 1e-7);
}

#[test]
fn the_whole_network_is_pytorch_fids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("random.safetensors");
    write_random_weights(&path, Tap::Pool3);
    let mut weights = InceptionWeights::open(&path).unwrap();
    assert!(!weights.is_published());
    let mut network = extractor(&mut weights, Tap::Pool3, ResizeMode::PytorchFid, 2);
    let features = features(&mut TwoImages, &mut network);
    let error = largest_error(&floats("random/2048"), &features);
    let mut classifier =
        Classifier::new(&weights.classifier().unwrap(), Box::new(Cpu::new(2).unwrap())).unwrap();
    let logits = classifier.logits(&features).unwrap();
    let logits_error = largest_error(&floats("random/logits"), &logits);
    println!("2048 features: {error:e}, logits: {logits_error:e}");
    assert!(error <= 1e-4, "features: {error:e}");
    assert!(logits_error <= 1e-4, "logits: {logits_error:e}");
}

#[test]
fn batches_do_not_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("random.safetensors");
    write_random_weights(&path, Tap::Pool2);
    let mut weights = InceptionWeights::open(&path).unwrap();
    let mut of_batch =
        |batch| features(&mut TwoImages, &mut extractor(&mut weights, Tap::Pool2, ResizeMode::Clean, batch));
    let one = of_batch(1);
    assert!(one == of_batch(2));
    assert!(one == of_batch(5));
}

#[test]
fn a_file_that_ends_early_says_what_it_is_good_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part.safetensors");
    write_random_weights(&path, Tap::Pool2);
    let mut weights = InceptionWeights::open(&path).unwrap();
    assert_eq!(weights.deepest_tap(), Some(Tap::Pool2));
    assert!(weights.features(Tap::Pool1).is_ok());
    let text = weights.features(Tap::Pool3).unwrap_err().to_string();
    for word in
        ["part.safetensors", "Mixed_5b.branch1x1.conv.weight", "--dims 2048", "up to --dims 192", "https://"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let text = weights.classifier().unwrap_err().to_string();
    assert!(text.contains("fc.weight") && text.contains("Inception Score"), "{text}");
}

#[test]
fn wrong_files_show_both_hashes() {
    let dir = tempfile::tempdir().unwrap();
    // The published name, other content.
    let path = dir.path().join("pt_inception-2015-12-05-6726825d.pth");
    std::fs::write(&path, b"not found").unwrap();
    let text = InceptionWeights::open(&path).unwrap_err().to_string();
    assert!(text.contains("its SHA-256 is ") && text.contains("expected 6726825d0af5f729"), "{text}");
    // Another name, truncated.
    let path = dir.path().join("mine.pth");
    std::fs::write(&path, b"PK\x03\x04").unwrap();
    let text = InceptionWeights::open(&path).unwrap_err().to_string();
    assert!(text.contains("mine.pth") && text.contains("the published file has 6726825d0af5f729"), "{text}");
    // Weights of something else.
    let path = dir.path().join("other.safetensors");
    let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
    std::fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
    let text = InceptionWeights::open(&path).unwrap().features(Tap::Pool1).unwrap_err().to_string();
    assert!(text.contains("not an Inception network's file"), "{text}");
}

fn real_weights() -> Option<InceptionWeights> {
    let named = std::env::var_os("DDPM_TEST_INCEPTION").map(PathBuf::from);
    let beside = || {
        let data = PathBuf::from(std::env::var_os("DDPM_TEST_DATA")?);
        Some(data.parent()?.join("weights/inception-2015-12-05-to-768.safetensors"))
    };
    let Some(path) = named.or_else(beside).filter(|path| path.is_file()) else {
        eprintln!(
            "SKIPPED: neither DDPM_TEST_INCEPTION nor DDPM_TEST_DATA leads to the real Inception weights"
        );
        return None;
    };
    Some(InceptionWeights::open(&path).unwrap())
}

#[test]
fn real_features_are_pytorch_fids() {
    let Some(mut weights) = real_weights() else { return };
    let cases = [
        (Tap::Pool1, ResizeMode::PytorchFid, "real/64"),
        (Tap::Pool2, ResizeMode::PytorchFid, "real/192"),
        (Tap::Mixed6, ResizeMode::PytorchFid, "real/768"),
        (Tap::Mixed6, ResizeMode::TorchFidelity, "real/768/torch-fidelity"),
        (Tap::Mixed6, ResizeMode::Clean, "real/768/clean"),
    ];
    for (tap, mode, name) in cases {
        let features = features(&mut TwoImages, &mut extractor(&mut weights, tap, mode, 2));
        let error = largest_error(&floats(name), &features);
        println!("{name}: {error:e}");
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn the_fid_of_real_images_is_pytorch_fids() {
    let Some(mut weights) = real_weights() else { return };
    let Some(folder) = std::env::var_os("DDPM_TEST_CIFAR10") else {
        eprintln!("SKIPPED: DDPM_TEST_CIFAR10 is not set");
        return;
    };
    let folder = Path::new(&folder).display().to_string();
    for tap in [Tap::Pool1, Tap::Pool2, Tap::Mixed6] {
        let mut network = extractor(&mut weights, tap, ResizeMode::PytorchFid, 16);
        let mut statistics = |split: &str| {
            let spec = format!("cifar10:{folder}:{split}").parse().unwrap();
            let source = data::open(&spec, &data::ImageOptions::default()).unwrap();
            let mut set = SourceImages::new(source, Some(150), Unreadable::Refuse);
            let mut moments = FeatureMoments::new(tap.dims());
            moments.add(&features(&mut set, &mut network));
            let (mu, sigma) = moments.finish().unwrap();
            Statistics { mu, sigma, about: None }
        };
        let fid = frechet_distance(&statistics("test"), &statistics("train")).unwrap();
        let expected = doubles(&format!("cifar10/{}", tap.dims()))[0];
        println!("CIFAR-10, {} features: {fid} for {expected}", tap.dims());
        assert!((fid / expected - 1.0).abs() <= 1e-3, "{fid} for {expected}");
    }
}
