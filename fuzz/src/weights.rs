//! Files of weights, read as programs read them.

use checkpoint::{Error, ForeignModel, ImportOptions, WeightsFile};
use models::Unet;
use std::path::Path;

/// Elements of a tensor that is read.
const MAX_ELEMENTS: usize = 1 << 20;

/// Reads all tensors of a file, and the model that it may be.
pub fn read_weights(path: &Path) {
    for result in [try_tensors(path), try_model(path)] {
        if let Err(error) = result {
            assert!(error.is_input(), "{error}");
        }
    }
}

fn try_tensors(path: &Path) -> Result<(), Error> {
    let mut file = WeightsFile::open(path)?;
    for tensor in file.tensors() {
        let elements = tensor.shape.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
        if let Some(elements) = elements.filter(|&elements| elements <= MAX_ELEMENTS) {
            let mut values = vec![f32::NAN; elements];
            if file.read(&tensor.name, &mut values).is_ok() {
                assert!(values.iter().all(|value| value.is_finite()));
            }
        }
    }
    Ok(())
}

fn try_model(path: &Path) -> Result<(), Error> {
    let mut model = ForeignModel::open(path, &ImportOptions::default())?;
    let layout = Unet::layout(&model.unet);
    let parameters = model.read_parameters(&layout)?;
    assert_eq!(parameters.len(), layout.len());
    Ok(())
}
