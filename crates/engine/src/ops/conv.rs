//! Convolution, and linear maps as 1×1 convolutions.
//!
//! `y[n, i, j, o] = b[o] + Σ_{ky, kx, c} x[n, i·s + ky - top, j·s + kx - left, c] · w[ky, kx, c, o]`, zeros
//! outside the image. Shapes: x `[n, h, w, in]`, w `[kh, kw, in, out]`, b `[out]`, y `[n, h', w', out]` with
//! `h' = (h + top + bottom - kh) / s + 1`.

use crate::graph::{Graph, Operand, Var};
use crate::kernel::Kernel;
use crate::params::Param;
use crate::program::Differentiation;
use crate::shape::Shape;

/// Rows and columns of zeros around an image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// None at all.
    pub const NONE: Self = Self { top: 0, bottom: 0, left: 0, right: 0 };
    /// One row below and one column to the right: what a stride-2 3×3 convolution of the U-Net has.
    pub const BOTTOM_RIGHT: Self = Self { top: 0, bottom: 1, left: 0, right: 1 };

    /// `vertical` rows above and below, `horizontal` columns left and right.
    pub const fn symmetric(vertical: usize, horizontal: usize) -> Self {
        Self { top: vertical, bottom: vertical, left: horizontal, right: horizontal }
    }
}

/// A convolution's geometry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Conv {
    /// Rows of the filter.
    pub kernel_h: usize,
    /// Columns of the filter.
    pub kernel_w: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: Padding,
}

impl Conv {
    /// A 1×1 convolution: a linear map at each pixel.
    pub const POINTWISE: Self = Self { kernel_h: 1, kernel_w: 1, stride: 1, padding: Padding::NONE };
    /// 3×3, stride 1, same size.
    pub const SAME_3X3: Self =
        Self { kernel_h: 3, kernel_w: 3, stride: 1, padding: Padding::symmetric(1, 1) };

    /// Number of filter positions.
    pub const fn taps(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    /// Size of the result for an image of `h × w`.
    ///
    /// # Panics
    /// If the padded image is smaller than the filter.
    pub fn output_size(&self, h: usize, w: usize) -> (usize, usize) {
        let rows = h + self.padding.top + self.padding.bottom;
        let columns = w + self.padding.left + self.padding.right;
        assert!(
            rows >= self.kernel_h && columns >= self.kernel_w,
            "a {h}x{w} image is too small for {self:?}"
        );
        ((rows - self.kernel_h) / self.stride + 1, (columns - self.kernel_w) / self.stride + 1)
    }
}

impl Graph {
    /// Convolution of `x` with `weight` `[kh, kw, in, out]` and `bias` `[out]`.
    pub fn conv(&mut self, x: Var, weight: Param, bias: Param, conv: Conv) -> Var {
        let shape = self.shape(x);
        let spec = self.params.spec(weight);
        let [kh, kw, input, output] = spec.shape[..] else {
            panic!("{}: a convolution's weight has 4 dimensions, not {:?}", spec.name, spec.shape)
        };
        assert_eq!((kh, kw, input), (conv.kernel_h, conv.kernel_w, shape.c), "{} on {shape}", spec.name);
        assert_eq!(self.params.spec(bias).shape, [output]);
        let (h, w) = conv.output_size(shape.h, shape.w);
        let operands = vec![Operand::Var(x), Operand::Param(weight), Operand::Param(bias)];
        self.record(Kernel::Conv(conv), operands, Shape::new(shape.n, h, w, output), None)
    }

    /// `y = x · weight + bias` at each pixel: `weight` `[in, out]`, `bias` `[out]`.
    pub fn linear(&mut self, x: Var, weight: Param, bias: Param) -> Var {
        let shape = self.shape(x);
        let spec = self.params.spec(weight);
        let [input, output] = spec.shape[..] else {
            panic!("{}: a linear map's weight has 2 dimensions, not {:?}", spec.name, spec.shape)
        };
        assert_eq!(input, shape.c, "{} on {shape}", spec.name);
        assert_eq!(self.params.spec(bias).shape, [output]);
        let operands = vec![Operand::Var(x), Operand::Param(weight), Operand::Param(bias)];
        self.record(Kernel::Conv(Conv::POINTWISE), operands, Shape { c: output, ..shape }, None)
    }
}

/// dx convolves dy with the mirrored, transposed filter; dw correlates x with dy; db sums dy.
pub(crate) fn gradient(conv: Conv, d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(Kernel::ConvWeightGrad(conv), vec![d.operand(0), dy], &[1]);
    d.emit_gradient(Kernel::BiasGrad, vec![dy], &[2]);
    if d.needs_gradient(0) {
        d.emit_gradient(Kernel::ConvInputGrad(conv), vec![dy, d.operand(1)], &[0]);
    }
}
