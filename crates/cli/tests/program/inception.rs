//! Inception networks of random weights, in the file that the program reads.

use models::inception::{Classifier, Inception, Tap};
use serde_json::Value;
use std::path::Path;

/// The names and shapes `[kh, kw, in, out]` of the convolutions up to `tap`.
fn convolutions(tap: Tap) -> Vec<(String, [usize; 4])> {
    let layout = Inception::layout(tap);
    let weights = layout.specs().iter().filter_map(|spec| {
        Some((spec.name.strip_suffix(".weight")?.to_owned(), spec.shape.as_slice().try_into().ok()?))
    });
    weights.collect()
}

/// A safetensors file of the network up to `tap`, and if that is all of it, the classifier.
pub fn write_weights(path: &Path, tap: Tap) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut state = 1u32;
    let mut add = |name: String, shape: Vec<usize>, change: &dyn Fn(f32) -> f32| {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            data.extend(change((state >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes());
        }
        let place =
            serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, place);
    };
    for (name, [height, width, input, output]) in convolutions(tap) {
        let scale = (6.0 / (height * width * input) as f32).sqrt();
        add(format!("{name}.conv.weight"), vec![output, input, height, width], &|v| v * scale);
        for (part, centre) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            add(format!("{name}.bn.{part}"), vec![output], &|v| centre + 0.1 * v);
        }
    }
    if tap == Tap::Pool3 {
        for spec in Classifier::layout().specs() {
            add(spec.name.clone(), spec.shape.iter().rev().copied().collect(), &|v| 0.1 * v);
        }
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}
