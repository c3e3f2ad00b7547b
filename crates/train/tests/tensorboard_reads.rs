//! A real TensorBoard reads what we write. Needs `DDPM_TEST_TENSORBOARD_PYTHON`: a Python with `tensorboard`.

use engine::ImageShape;
use std::path::Path;
use std::process::Command;
use train::grid::Picture;
use train::tensorboard::EventFile;

const READ: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, IMAGES, TENSORS, SCALARS
from tensorboard.util import tensor_util
events = EventAccumulator(sys.argv[1], size_guidance={IMAGES: 0, TENSORS: 0, SCALARS: 0})
events.Reload()
tags = events.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
    "images": {tag: [[e.step, e.width, e.height, e.encoded_image_string.hex()] for e in events.Images(tag)]
               for tag in tags["images"]},
}))
"#;

fn read(python: &str, folder: &Path) -> serde_json::Value {
    let output = Command::new(python).args(["-c", READ]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tensorboard_shows_a_resumed_run_as_one() {
    let Ok(python) = std::env::var("DDPM_TEST_TENSORBOARD_PYTHON") else {
        eprintln!("SKIPPED: DDPM_TEST_TENSORBOARD_PYTHON does not name a Python with tensorboard");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let picture = Picture {
        shape: ImageShape::new(5, 300, 3),
        pixels: (0..5 * 300 * 3).map(|i| (i % 251) as u8).collect(),
    };
    let mut first = EventFile::create(dir.path(), 0).unwrap();
    for step in [10, 20, 30, 40] {
        first.scalars(step, &[("train/loss", 1.0 / step as f64), ("train/rate", 0.5)]).unwrap();
    }
    first.image(30, "samples", &picture).unwrap();
    drop(first);
    // The run was killed after step 40 and resumed from a checkpoint at step 30.
    let mut second = EventFile::create(dir.path(), 30).unwrap();
    second.scalars(40, &[("train/loss", 7.0)]).unwrap();
    drop(second);

    let seen = read(&python, dir.path());
    let loss = [(10, 0.1f32), (20, 0.05), (30, 1.0 / 30.0), (40, 7.0)];
    let expected: Vec<_> =
        loss.iter().map(|&(step, value)| serde_json::json!([step, f64::from(value)])).collect();
    assert_eq!(seen["scalars"]["train/loss"], serde_json::Value::from(expected));
    assert_eq!(seen["scalars"]["train/rate"].as_array().unwrap().len(), 3, "{}", seen["scalars"]);
    let image = &seen["images"]["samples"][0];
    assert_eq!((&image[0], &image[1], &image[2]), (&30.into(), &300.into(), &5.into()));
    let png: String = picture.to_png().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(image[3], png);
}
