//! Parameters: where each one lies in the single buffer that holds them all.

use crate::random::{Purpose, Stream};
use std::collections::HashMap;

/// How a parameter is initialised.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// Uniform in ±√(3 · scale / fan_avg) (variance scaling, the paper's code; scale 1 is Glorot, 1e-10 its
    /// "zero init").
    VarianceScaling {
        /// Multiplies the variance.
        scale: f32,
    },
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

/// One parameter tensor and its place in the buffer.
///
/// Convolution weights are `[kernel_h, kernel_w, in, out]`, linear weights `[in, out]`, all others vectors.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamSpec {
    /// Unique name, dot-separated (`down_blocks.0.resnets.0.conv1.weight`).
    pub name: String,
    /// Dimensions in memory order.
    pub shape: Vec<usize>,
    /// How it is initialised.
    pub init: Init,
    /// First element in the buffer.
    pub offset: usize,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in the buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// A handle to a parameter of a layout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Param(pub(crate) usize);

/// All parameters of a network, in order, packed into one buffer without gaps.
///
/// Weights, gradients, both moments and the moving average are buffers of [`ParamLayout::len`] elements
/// that share one layout.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ParamLayout {
    specs: Vec<ParamSpec>,
    by_name: HashMap<String, usize>,
    len: usize,
}

impl ParamLayout {
    /// Appends a parameter.
    ///
    /// # Panics
    /// If the name is taken: two parameters of one network with one name are a mistake in the model's code.
    pub fn push(&mut self, name: impl Into<String>, shape: Vec<usize>, init: Init) -> Param {
        let name = name.into();
        let index = self.specs.len();
        assert!(self.by_name.insert(name.clone(), index).is_none(), "parameter {name} declared twice");
        let spec = ParamSpec { name, shape, init, offset: self.len };
        self.len += spec.len();
        self.specs.push(spec);
        Param(index)
    }

    /// Total number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parameters, in buffer order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The parameter behind a handle.
    pub fn spec(&self, param: Param) -> &ParamSpec {
        &self.specs[param.0]
    }

    /// The parameter called `name`.
    pub fn find(&self, name: &str) -> Option<&ParamSpec> {
        self.by_name.get(name).map(|&index| &self.specs[index])
    }

    /// A buffer of initial weights for `seed`.
    pub fn initialise(&self, seed: u64) -> Vec<f32> {
        let mut buffer = vec![0.0; self.len];
        for (index, spec) in self.specs.iter().enumerate() {
            let out = &mut buffer[spec.range()];
            match spec.init {
                Init::Zeros => {}
                Init::Ones => out.fill(1.0),
                Init::VarianceScaling { scale } => {
                    let bound = (3.0 * scale / fan_average(&spec.shape)).sqrt();
                    let stream = Stream::new(seed, Purpose::Init, index as u32, 0);
                    for (block, chunk) in out.chunks_mut(4).enumerate() {
                        let words = stream.block(block as u32);
                        for (value, word) in chunk.iter_mut().zip(words) {
                            *value = bound * (2.0 * crate::random::unit_open(word) - 1.0);
                        }
                    }
                }
            }
        }
        buffer
    }
}

/// (fan_in + fan_out) / 2 of a weight `[…receptive field, in, out]`.
fn fan_average(shape: &[usize]) -> f32 {
    let (field, channels) = shape.split_at(shape.len().saturating_sub(2));
    let receptive: usize = field.iter().product();
    (receptive * channels.iter().sum::<usize>()) as f32 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variance_scaling_has_the_glorot_variance() {
        let mut layout = ParamLayout::default();
        layout.push("bias", vec![5], Init::Ones);
        layout.push("weight", vec![3, 3, 40, 60], Init::VarianceScaling { scale: 1.0 });
        let buffer = layout.initialise(3);
        assert_eq!(&buffer[..5], &[1.0; 5]);
        let weight = &buffer[layout.find("weight").unwrap().range()];
        let variance = weight.iter().map(|w| f64::from(w * w)).sum::<f64>() / weight.len() as f64;
        let glorot = 2.0 / (9.0 * 40.0 + 9.0 * 60.0);
        assert!((variance / glorot - 1.0).abs() < 0.03, "{variance} against {glorot}");
    }
}
