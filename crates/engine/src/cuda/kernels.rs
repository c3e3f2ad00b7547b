//! The kernels' source, and the structs they share with the host.

use super::error::CudaError;
use crate::kernel::Storage;
use crate::ops::Conv;
use crate::shape::Shape;

/// All kernels, as one CUDA C++ source: with `HALF` defined, activations are bf16.
const SOURCE: &str = concat!(
    include_str!("kernels/prelude.cu"),
    include_str!("kernels/elementwise.cu"),
    include_str!("kernels/layout.cu"),
    include_str!("kernels/reduction.cu"),
    include_str!("kernels/group_norm.cu"),
    include_str!("kernels/window.cu"),
    include_str!("kernels/product.cu"),
    include_str!("kernels/optimizer.cu"),
);

/// The kernels for activations stored as `storage`.
pub(crate) fn source(storage: Storage) -> String {
    match storage {
        Storage::F32 => SOURCE.to_owned(),
        Storage::Bf16 => format!("#define HALF\n{SOURCE}"),
    }
}

/// The names of the kernels.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SOURCE.split("__global__ void ").skip(1).filter_map(|rest| rest.split_once('(').map(|(name, _)| name))
}

/// Elements of a tensor that kernels can count.
const MAX_ELEMENTS: usize = 1 << 31;
/// Blocks in a grid's second and third direction: samples, at most.
const MAX_SAMPLES: usize = 65_535;

/// Checks that kernels can count a tensor's elements and samples.
pub(super) fn check_size(shape: Shape) -> Result<(), CudaError> {
    // `len` must not overflow before it is compared.
    let len = [shape.n, shape.h, shape.w, shape.c].into_iter().try_fold(1usize, usize::checked_mul);
    let count = len.unwrap_or(usize::MAX);
    if count >= MAX_ELEMENTS {
        return Err(CudaError::TooLarge { what: "a tensor", count, limit: MAX_ELEMENTS - 1 });
    }
    if shape.n > MAX_SAMPLES {
        return Err(CudaError::TooLarge { what: "a batch", count: shape.n, limit: MAX_SAMPLES });
    }
    Ok(())
}

/// A number that [`check_size`] has bounded, as kernels take it.
pub(crate) fn count(value: usize) -> u32 {
    debug_assert!(u32::try_from(value).is_ok());
    value as u32
}

/// `Window` in `kernels/window.cu`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    kernel_h: u32,
    kernel_w: u32,
    stride: u32,
    top: u32,
    left: u32,
    x_h: u32,
    x_w: u32,
    y_h: u32,
    y_w: u32,
    c: u32,
}

impl Window {
    pub fn new(geometry: Conv, x: Shape, y: Shape) -> Self {
        Self {
            kernel_h: count(geometry.kernel_h),
            kernel_w: count(geometry.kernel_w),
            stride: count(geometry.stride),
            top: count(geometry.padding.top),
            left: count(geometry.padding.left),
            x_h: count(x.h),
            x_w: count(x.w),
            y_h: count(y.h),
            y_w: count(y.w),
            c: count(x.c),
        }
    }
}

/// `Dropout` in `kernels/elementwise.cu`; with `run` 0 nothing is dropped.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) struct Dropout {
    pub purpose: u32,
    pub layer: u32,
    /// Random words below it drop their element.
    pub threshold: u32,
    pub scale: f32,
    /// Where the seed and the number of the first sample lie.
    pub run: u64,
}

/// `Convolution` in `kernels/product.cu`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Convolution {
    pub n: u32,
    pub x_h: u32,
    pub x_w: u32,
    pub input: u32,
    pub y_h: u32,
    pub y_w: u32,
    pub output: u32,
    pub kernel_h: u32,
    pub kernel_w: u32,
    pub stride: u32,
    pub top: u32,
    pub left: u32,
}

impl Convolution {
    pub fn new(conv: Conv, x: Shape, y: Shape) -> Self {
        Self {
            n: count(x.n),
            x_h: count(x.h),
            x_w: count(x.w),
            input: count(x.c),
            y_h: count(y.h),
            y_w: count(y.w),
            output: count(y.c),
            kernel_h: count(conv.kernel_h),
            kernel_w: count(conv.kernel_w),
            stride: count(conv.stride),
            top: count(conv.padding.top),
            left: count(conv.padding.left),
        }
    }

    /// The image's shape.
    pub fn x(&self) -> Shape {
        Shape::new(self.n as usize, self.x_h as usize, self.x_w as usize, self.input as usize)
    }

    /// The result's shape.
    pub fn y(&self) -> Shape {
        Shape::new(self.n as usize, self.y_h as usize, self.y_w as usize, self.output as usize)
    }

    /// Whether padding `top` and `left` on both sides gives a result of this size.
    pub fn has_alike_padding(&self) -> bool {
        let fits = |result: u32, len: u32, pad: u32, kernel: u32| {
            len + 2 * pad >= kernel && (len + 2 * pad - kernel) / self.stride + 1 == result
        };
        fits(self.y_h, self.x_h, self.top, self.kernel_h)
            && fits(self.y_w, self.x_w, self.left, self.kernel_w)
    }

    /// Padding below and to the right.
    pub fn padding_after(&self) -> [u32; 2] {
        if self.has_alike_padding() {
            return [self.top, self.left];
        }
        let after = |result: u32, len: u32, before: u32, kernel: u32| {
            ((result - 1) * self.stride + kernel).saturating_sub(len + before)
        };
        [
            after(self.y_h, self.x_h, self.top, self.kernel_h),
            after(self.y_w, self.x_w, self.left, self.kernel_w),
        ]
    }

    /// Rows of a filter as a matrix with `output` columns.
    pub fn filter_rows(&self) -> usize {
        self.kernel_h as usize * self.kernel_w as usize * self.input as usize
    }

    /// Elements of the filter.
    pub fn filter_len(&self) -> usize {
        self.filter_rows() * self.output as usize
    }
}

/// `Product` in `kernels/product.cu`: `c = alpha · a b`, or that added to c. Strides in elements; c's columns
/// are 1 apart.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Product {
    pub m: u32,
    pub n: u32,
    pub depth: u32,
    pub accumulate: u32,
    pub alpha: f32,
    pub a_row: u32,
    pub a_column: u32,
    pub b_row: u32,
    pub b_column: u32,
    pub c_row: u32,
    pub a_batch: u64,
    pub b_batch: u64,
    pub c_batch: u64,
}

/// What a product is of, which says what its matrices consist of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Operands {
    /// Activations with each other.
    Activations,
    /// Activations with a parameter.
    Weights,
    /// Activations with each other, to a parameter's gradient.
    Gradient,
}

impl Operands {
    /// Our own kernel.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Activations => "product",
            Self::Weights => "product_with_weights",
            Self::Gradient => "product_to_gradient",
        }
    }
}

/// A factor or its transpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Plain,
    Transposed,
}

impl Product {
    /// The product `[m, n] = [m, depth] [depth, n]` of matrices without gaps, of which factors may be stored
    /// transposed.
    pub fn new([m, n, depth]: [usize; 3], a: Side, b: Side) -> Self {
        let strides = |side, rows: usize, columns: usize| match side {
            Side::Plain => (count(columns), 1),
            Side::Transposed => (1, count(rows)),
        };
        let (a_row, a_column) = strides(a, m, depth);
        let (b_row, b_column) = strides(b, depth, n);
        Self {
            m: count(m),
            n: count(n),
            depth: count(depth),
            accumulate: 0,
            alpha: 1.0,
            a_row,
            a_column,
            b_row,
            b_column,
            c_row: count(n),
            a_batch: (m * depth) as u64,
            b_batch: (depth * n) as u64,
            c_batch: (m * n) as u64,
        }
    }

    /// Adds to the result instead.
    pub fn added(self) -> Self {
        Self { accumulate: 1, ..self }
    }
}
