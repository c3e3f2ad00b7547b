//! A network's parameters as diffusers stores them: other dimension order, two spellings of attention.

use crate::tensor_file::{Elements, TensorToWrite, write_tensors};
use crate::weights_file::WeightsFile;
use crate::{Dtype, Error};
use engine::{ParamLayout, ParamSpec};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::Path;

/// The names of attention's projections in this program and in diffusers since 0.15, and before.
const ATTENTION_SPELLINGS: [(&str, &str); 4] =
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// How a weights file differs from the network it should belong to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ParameterMismatch {
    /// Parameters of the network that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that the network has no parameter for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape: name, shape in the file, shape expected (both in the file's order).
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl ParameterMismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for ParameterMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshapen = self.misshapen.iter();
        let misshapen: Vec<String> = misshapen
            .map(|(name, found, expected)| format!("{name} (is {found:?}, expected {expected:?})"))
            .collect();
        let parts =
            [("missing", &self.missing), ("unexpected", &self.unexpected), ("of another shape", &misshapen)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> = parts.map(|(what, names)| format!("{what}: {}", enumerate(names))).collect();
        f.write_str(&parts.join("; "))
    }
}

/// The first few of `names`, and how many more there are.
fn enumerate(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// Writes `parameters` as a diffusers weights file of `dtype`, labelled with `labels`.
///
/// # Errors
/// If a weight is NaN or infinite or does not fit `dtype`, or a write fails; `path` is named.
///
/// # Panics
/// If `parameters` is not of the layout's length.
pub(crate) fn write_parameters(
    path: &Path,
    out: &mut dyn Write,
    labels: &BTreeMap<String, String>,
    dtype: Dtype,
    layout: &ParamLayout,
    parameters: &[f32],
) -> Result<(), Error> {
    assert_eq!(parameters.len(), layout.len(), "the buffer is not of this layout");
    let tensors: Vec<TensorToWrite<'_>> = layout
        .specs()
        .iter()
        .map(|spec| TensorToWrite {
            name: spec.name.clone(),
            shape: file_shape(spec),
            elements: Elements::Computed(Box::new(|values| {
                Matrices::of(spec).store(&parameters[spec.range()], values);
            })),
        })
        .collect();
    write_tensors(path, out, labels, dtype, &tensors)
}

/// Reads all parameters of `layout` from a diffusers weights file, and calls `visit` with each and its values
/// in memory's order. Memory is taken for the largest of them alone.
///
/// # Errors
/// If tensors are missing, unexpected, of another shape or an unsupported type, a weight is NaN or infinite, or the
/// file cannot be read.
pub(crate) fn for_each_parameter(
    file: &mut WeightsFile,
    layout: &ParamLayout,
    mut visit: impl FnMut(&ParamSpec, &[f32]),
) -> Result<(), Error> {
    let names = match_names(file, layout)?;
    let (mut stored, mut values) = (Vec::new(), Vec::new());
    for (spec, name) in layout.specs().iter().zip(names) {
        stored.resize(spec.len(), 0.0);
        values.resize(spec.len(), 0.0);
        file.read(&name, &mut stored)?;
        Matrices::of(spec).load(&stored, &mut values);
        visit(spec, &values);
    }
    Ok(())
}

/// The name in `file` of each parameter of `layout`, in the layout's order.
///
/// # Errors
/// Lists all that is missing, unexpected or of another shape.
pub(crate) fn match_names(file: &WeightsFile, layout: &ParamLayout) -> Result<Vec<String>, Error> {
    let mut mismatch = ParameterMismatch::default();
    let mut names = Vec::with_capacity(layout.specs().len());
    for spec in layout.specs() {
        let spellings = [Some(spec.name.clone()), older_spelling(&spec.name)];
        let found = spellings.into_iter().flatten().find_map(|name| Some((file.shape(&name)?, name)));
        let Some((shape, name)) = found else {
            mismatch.missing.push(spec.name.clone());
            continue;
        };
        if !is_shape_of(spec, shape) {
            mismatch.misshapen.push((name.clone(), shape.to_vec(), file_shape(spec)));
        }
        names.push(name);
    }
    let known: HashSet<&str> = names.iter().map(String::as_str).collect();
    let stored = file.tensors().into_iter().map(|tensor| tensor.name);
    mismatch.unexpected = stored.filter(|name| !known.contains(name.as_str())).collect();
    if mismatch.is_empty() {
        return Ok(names);
    }
    Err(Error::Parameters { path: file.path().to_owned(), mismatch: Box::new(mismatch) })
}

/// `….attentions.0.to_q.weight` → `….attentions.0.query.weight`; nothing for parameters with one spelling.
fn older_spelling(name: &str) -> Option<String> {
    let (module, parameter) = name.rsplit_once('.')?;
    name.contains(".attentions.").then_some(())?;
    ATTENTION_SPELLINGS.iter().find_map(|(newer, older)| {
        let block = module.strip_suffix(newer)?.strip_suffix('.')?;
        Some(format!("{block}.{older}.{parameter}"))
    })
}

/// Dimensions of a parameter in the file: convolutions `[out, in, kernel_h, kernel_w]`, linear layers `[out, in]`.
pub(crate) fn file_shape(spec: &ParamSpec) -> Vec<usize> {
    match *spec.shape.as_slice() {
        [height, width, inputs, outputs] => vec![outputs, inputs, height, width],
        [inputs, outputs] => vec![outputs, inputs],
        _ => spec.shape.clone(),
    }
}

/// Whether a stored tensor may be this parameter. Linear layers also come as convolutions of one pixel.
pub(crate) fn is_shape_of(spec: &ParamSpec, stored: &[usize]) -> bool {
    stored == file_shape(spec)
        || matches!(stored, [outputs, inputs, 1, 1] | [outputs, inputs, 1] if [*inputs, *outputs] == spec.shape[..])
}

/// Brings a weight from the file's order to memory's.
pub(crate) fn load_parameter(spec: &ParamSpec, stored: &[f32], memory: &mut [f32]) {
    Matrices::of(spec).load(stored, memory);
}

/// A weight as `positions` matrices (one for each place in the kernel).
///
/// In memory it is `[positions, inputs, outputs]`, in the file `[outputs, inputs, positions]`; vectors have
/// one output.
struct Matrices {
    positions: usize,
    inputs: usize,
    outputs: usize,
}

impl Matrices {
    fn of(spec: &ParamSpec) -> Self {
        match *spec.shape.as_slice() {
            [height, width, inputs, outputs] => Self { positions: height * width, inputs, outputs },
            [inputs, outputs] => Self { positions: 1, inputs, outputs },
            _ => Self { positions: 1, inputs: spec.len(), outputs: 1 },
        }
    }

    /// From memory's order to the file's; replaces `stored`.
    fn store(&self, memory: &[f32], stored: &mut Vec<f32>) {
        stored.resize(memory.len(), 0.0);
        self.for_each_pair(|in_memory, in_file| stored[in_file] = memory[in_memory]);
    }

    /// From the file's order to memory's.
    fn load(&self, stored: &[f32], memory: &mut [f32]) {
        self.for_each_pair(|in_memory, in_file| memory[in_memory] = stored[in_file]);
    }

    /// Calls `visit` with the position of every element in memory and in the file.
    fn for_each_pair(&self, mut visit: impl FnMut(usize, usize)) {
        // Sixteen outputs at a time are one cache line in memory's order, and few enough lines in the file's.
        const TILE: usize = 16;
        for first in (0..self.outputs).step_by(TILE) {
            let last = (first + TILE).min(self.outputs);
            for input in 0..self.inputs {
                for position in 0..self.positions {
                    let row = (position * self.inputs + input) * self.outputs;
                    let column = input * self.positions + position;
                    for output in first..last {
                        visit(row + output, output * self.inputs * self.positions + column);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Init;

    fn spec(shape: &[usize]) -> ParamSpec {
        ParamSpec { name: "weight".into(), shape: shape.to_vec(), init: Init::Zeros, offset: 0 }
    }

    #[test]
    fn convolutions_go_from_hwio_to_oihw() {
        let (height, width, inputs, outputs) = (2, 3, 4, 35);
        let spec = spec(&[height, width, inputs, outputs]);
        let memory: Vec<f32> = (0..spec.len()).map(|value| value as f32).collect();
        let mut stored = Vec::new();
        Matrices::of(&spec).store(&memory, &mut stored);
        assert_eq!(file_shape(&spec), [outputs, inputs, height, width]);
        for (y, x) in [(0, 0), (1, 2), (0, 2)] {
            for (input, output) in [(0, 0), (3, 34), (1, 16)] {
                let hwio = ((y * width + x) * inputs + input) * outputs + output;
                let oihw = ((output * inputs + input) * height + y) * width + x;
                assert_eq!(stored[oihw], memory[hwio]);
            }
        }
        let mut back = vec![0.0; memory.len()];
        Matrices::of(&spec).load(&stored, &mut back);
        assert_eq!(back, memory);
    }

    #[test]
    fn linear_layers_are_transposed_and_vectors_kept() {
        let mut stored = Vec::new();
        Matrices::of(&spec(&[2, 3])).store(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &mut stored);
        assert_eq!(stored, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        Matrices::of(&spec(&[3])).store(&[0.0, 1.0, 2.0], &mut stored);
        assert_eq!(stored, [0.0, 1.0, 2.0]);
    }

    #[test]
    fn only_attention_has_an_older_spelling() {
        let older = |name| older_spelling(name);
        assert_eq!(
            older("mid_block.attentions.0.to_q.weight").unwrap(),
            "mid_block.attentions.0.query.weight"
        );
        assert_eq!(
            older("up_blocks.1.attentions.2.to_out.0.bias").unwrap(),
            "up_blocks.1.attentions.2.proj_attn.bias"
        );
        assert_eq!(older("mid_block.attentions.0.group_norm.weight"), None);
        assert_eq!(older("conv_in.weight"), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let missing = (0..9).map(|index| format!("p{index}")).collect();
        let mismatch = ParameterMismatch { missing, ..Default::default() };
        assert_eq!(mismatch.to_string(), "missing: p0, p1, p2, p3, p4, p5 and 3 more");
    }
}
