//! Which way each convolution is computed, and its steps that way.

use super::Machine;
use super::bf16x3::{self, Convolution, MatrixUnit};
use super::epilogue::Epilogue;
use super::tile::Tiles;
use super::{conv, elementwise, winograd};
use crate::backend::BackendError;
use crate::kernel::{Scratch, Step, Then};
use crate::ops::Conv;
use crate::shape::Shape;
use std::str::FromStr;

/// How convolutions are computed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ConvMethod {
    /// 3×3 convolutions of stride 1 by Winograd's F(4×4, 3×3) where the shape makes it faster; the error of
    /// the whole network stays near 1e-5.
    #[default]
    Fast,
    /// By direct summation everywhere: slower, exact to `f32` rounding.
    Direct,
    /// By direct summation of factors of 16 bits, each the sum of two bf16, by the processor's matrix unit
    /// (AMX): faster; the error of the whole network is near 5e-5. Refused where there is no such unit.
    Bf16x3,
}

/// `fast`, `direct` or `bf16x3`.
impl FromStr for ConvMethod {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fast" => Ok(Self::Fast),
            "direct" => Ok(Self::Direct),
            "bf16x3" => Ok(Self::Bf16x3),
            _ => Err(format!("{name} is not a way to convolve: fast, direct or bf16x3")),
        }
    }
}

/// A method, with what it needs.
#[derive(Clone, Copy)]
pub(super) enum Convolutions {
    Fast,
    Direct,
    Bf16x3(MatrixUnit),
}

/// The way of one convolution.
enum Way {
    Winograd,
    Gathered,
    Bf16x3(MatrixUnit),
}

impl Convolutions {
    pub fn new(method: ConvMethod) -> Result<Self, BackendError> {
        Ok(match method {
            ConvMethod::Fast => Self::Fast,
            ConvMethod::Direct => Self::Direct,
            ConvMethod::Bf16x3 => Self::Bf16x3(MatrixUnit::detect().ok_or(BackendError::NoMatrixUnit)?),
        })
    }

    /// By the matrix unit, emulated.
    pub const EMULATED: Self = Self::Bf16x3(MatrixUnit::Emulated);

    /// Whether this processor has a matrix unit that [`ConvMethod::Bf16x3`] would use, where the fastest way
    /// is wanted.
    pub fn has_faster(self) -> bool {
        matches!(self, Self::Fast) && MatrixUnit::detect().is_some()
    }

    /// The way from `source` to `result`, and of this convolution's gradients: a matter of shapes alone, and
    /// never of the batch.
    fn way(self, conv: Conv, source: Shape, result: Shape) -> Way {
        match self {
            Self::Fast if winograd::pays(conv, source, result) => Way::Winograd,
            Self::Bf16x3(unit) if bf16x3::pays(source, result) => Way::Bf16x3(unit),
            _ => Way::Gathered,
        }
    }

    /// Whether a convolution does what follows it, too.
    pub fn fuses(self, conv: Conv, then: Then, source: Shape, result: Shape) -> bool {
        match self.way(conv, source, result) {
            Way::Winograd => true,
            Way::Gathered => then != Then::AddPerSample,
            Way::Bf16x3(_) => false,
        }
    }

    /// Scratch memory of a convolution, or of its input gradient; `keeps` as in [`crate::Backend::scratch`].
    pub fn scratch(self, convolution: Convolution, tiles: Tiles, threads: usize, keeps: bool) -> Scratch {
        let Convolution { conv, source, result, transposed } = convolution;
        match self.way(conv, source, result) {
            Way::Winograd => winograd::scratch(source, result, tiles, threads, keeps),
            Way::Gathered if transposed => conv::gather_scratch(source, result, conv, tiles, threads),
            Way::Gathered => conv::forward_scratch(source, result, conv, tiles, threads),
            Way::Bf16x3(_) => convolution.scratch(threads),
        }
    }

    /// Scratch memory of a weight gradient.
    pub fn weight_gradient_scratch(
        self,
        conv: Conv,
        x: Shape,
        dy: Shape,
        tiles: Tiles,
        threads: usize,
    ) -> Scratch {
        match self.way(conv, x, dy) {
            Way::Winograd => winograd::weight_gradient_scratch(x, dy, tiles, threads),
            Way::Gathered => conv::weight_gradient_scratch(conv, x, dy, tiles, threads),
            Way::Bf16x3(_) => bf16x3::weight_gradient_scratch(conv, x, dy),
        }
    }
}

impl Machine {
    /// Packs the filter of a convolution, or of its input gradient.
    pub(super) fn prepare_convolution(&self, step: &Step, conv: Conv, transposed: bool) {
        let Some(prepared) = step.prepared else { return };
        let prepared = self.write(prepared);
        let (source, result) = (step.inputs[0].shape, step.outputs[0].shape);
        let weight = self.input(step, 1);
        match self.convolutions.way(conv, source, result) {
            Way::Winograd => {
                let filter = winograd::Filter::new(weight, source, result, transposed);
                winograd::pack(self.level, filter, source, result, prepared);
            }
            Way::Gathered if transposed => {
                conv::prepare_input_gradient(weight, source, result, conv, self.tiles, prepared);
            }
            Way::Gathered => {
                let bias = self.input(step, 2);
                conv::prepare_forward(weight, bias, source, result, conv, self.tiles, prepared);
            }
            Way::Bf16x3(unit) => {
                let convolution = Convolution { conv, source, result, transposed };
                convolution.prepare(self.level, unit, weight, prepared);
            }
        }
    }

    /// A convolution and what follows it, or its input gradient.
    pub(super) fn convolve(&self, step: &Step, conv: Conv, transposed: bool, then: Option<Then>) {
        let Self { level, tiles, .. } = *self;
        let source = (self.input(step, 0), step.inputs[0].shape);
        let result = (self.write(step.outputs[0]), step.outputs[0].shape);
        let prepared = &*self.scratch(step.prepared);
        let workspace = self.scratch(step.workspace);
        let bias = || (!transposed).then(|| self.input(step, 2));
        let epilogue = match then {
            None => Epilogue::Nothing,
            Some(Then::Relu) => Epilogue::Relu,
            Some(Then::Add) => Epilogue::Add(self.input(step, 3)),
            Some(Then::AddPerSample) => Epilogue::AddPerSample(self.input(step, 3)),
        };
        match self.convolutions.way(conv, source.1, result.1) {
            Way::Winograd => {
                let product = winograd::Product {
                    source,
                    filter: winograd::Filter::new(self.input(step, 1), source.1, result.1, transposed),
                    packed: prepared,
                    before: winograd::before(conv, transposed),
                    bias: bias(),
                    epilogue,
                    workspace,
                    result,
                };
                winograd::convolve(level, tiles, product);
            }
            Way::Gathered => {
                let gather = conv::Gather { conv, tiles, source, prepared, epilogue, workspace, result };
                if transposed {
                    conv::input_gradient(gather);
                } else {
                    conv::forward(gather);
                }
            }
            Way::Bf16x3(unit) => {
                let convolution = Convolution { conv, source: source.1, result: result.1, transposed };
                let tensors = bf16x3::Tensors {
                    source: source.0,
                    filter: prepared,
                    bias: bias(),
                    workspace,
                    result: result.0,
                };
                convolution.run(level, unit, tensors);
            }
        }
    }

    /// A weight gradient, added to what is there if it `adds`, else set.
    pub(super) fn weight_gradient(&self, step: &Step, conv: Conv, adds: bool) {
        let Self { level, tiles, .. } = *self;
        let [x, dy] = self.inputs(step);
        let (x, dy) = ((x, step.inputs[0].shape), (dy, step.inputs[1].shape));
        let [dw] = self.outputs(step);
        let workspace = self.scratch(step.workspace);
        match self.convolutions.way(conv, x.1, dy.1) {
            Way::Winograd => {
                let before = winograd::before(conv, false);
                winograd::weight_gradient(level, tiles, before, x, dy, workspace, (dw, adds));
            }
            Way::Gathered => conv::weight_gradient(conv, tiles, x, dy, workspace, (dw, adds)),
            Way::Bf16x3(unit) => {
                if !adds {
                    elementwise::clear(dw);
                }
                bf16x3::weight_gradient(level, unit, conv, x, dy, workspace, dw);
            }
        }
    }
}
