//! How a convolution's results along one axis read their source.

use crate::ops::Conv;
use crate::shape::Shape;

/// Pixels of the result along one axis that share their taps, and where their sources lie: pixel `j` is at
/// `phase + j · step`, its tap `i` reads `j · source_step + shift + i · shift_step` and is filter position
/// `tap + i · tap_step`.
#[derive(Clone, Copy)]
pub(crate) struct Axis {
    pub pixels: usize,
    pub phase: usize,
    pub step: usize,
    pub source_len: usize,
    pub source_step: usize,
    pub shift: isize,
    pub shift_step: isize,
    pub taps: usize,
    pub tap: usize,
    pub tap_step: usize,
}

impl Axis {
    /// Rows and columns of the results `y` of `x`.
    pub fn both_forward(conv: Conv, x: Shape, y: Shape) -> [Self; 2] {
        [
            Self::forward(y.h, x.h, conv.kernel_h, conv.stride, conv.padding.top),
            Self::forward(y.w, x.w, conv.kernel_w, conv.stride, conv.padding.left),
        ]
    }

    /// Rows and columns of a phase (row, column) of the input gradient `dx` from `dy`.
    pub fn both_input_gradient(conv: Conv, dy: Shape, dx: Shape, phase: [usize; 2]) -> [Self; 2] {
        [
            Self::input_gradient(dy.h, dx.h, conv.kernel_h, conv.stride, conv.padding.top, phase[0]),
            Self::input_gradient(dy.w, dx.w, conv.kernel_w, conv.stride, conv.padding.left, phase[1]),
        ]
    }

    fn forward(output: usize, input: usize, kernel: usize, stride: usize, before: usize) -> Self {
        Self {
            pixels: output,
            phase: 0,
            step: 1,
            source_len: input,
            source_step: stride,
            shift: -(before as isize),
            shift_step: 1,
            taps: kernel,
            tap: 0,
            tap_step: 1,
        }
    }

    /// Input pixels ≡ `phase` (mod stride): the taps k with `phase + before - k` divisible by the stride
    /// reach an output.
    fn input_gradient(
        output: usize,
        input: usize,
        kernel: usize,
        stride: usize,
        before: usize,
        phase: usize,
    ) -> Self {
        let tap = (phase + before) % stride;
        Self {
            pixels: input.saturating_sub(phase).div_ceil(stride),
            phase,
            step: stride,
            source_len: output,
            source_step: 1,
            shift: ((phase + before - tap) / stride) as isize,
            shift_step: -1,
            taps: kernel.saturating_sub(tap).div_ceil(stride),
            tap,
            tap_step: stride,
        }
    }

    pub fn source(&self, pixel: usize, tap: usize) -> Option<usize> {
        let position = (pixel * self.source_step) as isize + self.shift + tap as isize * self.shift_step;
        (position >= 0 && position < self.source_len as isize).then_some(position as usize)
    }
}
