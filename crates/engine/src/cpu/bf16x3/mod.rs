//! Convolutions as sums of products of bf16, three for each product of `f32`, by the processor's matrix unit.
//!
//! Each factor is the sum of a high and a low half ([`split`]); high·high, high·low and low·high are summed, low·low, below 2⁻¹⁶ of
//! the product, is left out (Henry, Tang & Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for
//! higher-precision computations"). A unit that multiplies bf16 sixteen times as fast as vectors multiply `f32` is five times as fast this way.
//!
//! Sums run over blocks of 32 channels, then filter taps (forward and input gradient); over a block's pixels (weight gradient).
//! Everything is summed directly: whatever is convolved, in whatever stride, errors are those of the factors.

mod convolution;
mod matrix_unit;
mod positions;
mod split;
mod weight_gradient;

pub(crate) use convolution::{Convolution, Tensors};
pub(crate) use matrix_unit::MatrixUnit;
pub(crate) use weight_gradient::{weight_gradient, weight_gradient_scratch};

use crate::cpu::axis::Axis;
use crate::ops::Conv;
use crate::shape::Shape;
use positions::Positions;

/// Whether a convolution from `source` to `result`, or either of its gradients, is computed this way: not where most of the unit's rows or columns
/// would be empty.
pub(crate) fn pays(source: Shape, result: Shape) -> bool {
    source.c >= 16 && result.c >= 16
}

/// How results `y` of a convolution read `x`.
fn forward_positions(conv: Conv, x: Shape, y: Shape) -> Positions {
    Positions::new(
        x,
        Axis::forward(y.h, x.h, conv.kernel_h, conv.stride, conv.padding.top),
        Axis::forward(y.w, x.w, conv.kernel_w, conv.stride, conv.padding.left),
    )
}
