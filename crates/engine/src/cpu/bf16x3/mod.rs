//! Convolutions as sums of products of bf16, three for each product of `f32`, by the processor's matrix unit.
//!
//! Each factor is the sum of a high and a low half ([`split`]); high·high, high·low and low·high are summed,
//! low·low, below 2⁻¹⁶ of the product, is left out (Henry, Tang & Heinecke 2019, "Leveraging the bfloat16
//! artificial intelligence datatype for higher-precision computations"). A unit that multiplies bf16 sixteen
//! times as fast as vectors multiply `f32` is five times as fast this way.
//!
//! Sums run over blocks of 32 channels, then filter taps (forward and input gradient); over a block's pixels
//! (weight gradient). Everything is summed directly: whatever is convolved, in whatever stride, errors are
//! those of the factors.

mod convolution;
mod matrix_unit;
mod positions;
mod split;
mod weight_gradient;

pub(crate) use convolution::{Convolution, Tensors};
pub(crate) use matrix_unit::MatrixUnit;
pub(crate) use weight_gradient::{weight_gradient, weight_gradient_scratch};

use crate::shape::Shape;

/// Whether a convolution from `source` to `result`, or either of its gradients, is computed this way: not
/// where most of the unit's rows or columns would be empty.
pub(crate) fn pays(source: Shape, result: Shape) -> bool {
    source.c >= 16 && result.c >= 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Level;
    use crate::ops::{Conv, Padding};
    use crate::random::{Purpose, Stream};

    /// A convolution's result, its input gradient and its weight gradient, with `rest` wherever nothing has
    /// been written yet.
    fn all(x: Shape, channels: usize, conv: Conv, rest: f32) -> [Vec<u32>; 3] {
        let (h, w) = conv.output_size(x.h, x.w);
        let y = Shape::new(x.n, h, w, channels);
        let normals = |sample, len| {
            let mut values = vec![0.0; len];
            Stream::new(3, Purpose::Test, 0, sample).normals(0, &mut values);
            values
        };
        let weight = normals(0, conv.taps() * x.c * channels);
        let (xs, dys) = (normals(1, x.len()), normals(2, y.len()));
        let (level, unit) = (Level::detect(), MatrixUnit::Emulated);
        let convolve = |source: &[f32], convolution: Convolution| {
            let scratch = convolution.scratch(rayon::current_num_threads());
            let (mut filter, mut workspace) = (vec![rest; scratch.prepared], vec![rest; scratch.workspace]);
            let mut result = vec![rest; convolution.result.len()];
            convolution.prepare(level, unit, &weight, &mut filter);
            let tensors = Tensors {
                source,
                filter: &filter,
                bias: None,
                workspace: &mut workspace,
                result: &mut result,
            };
            convolution.run(level, unit, tensors);
            result
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let results = pool.install(|| {
            let result = convolve(&xs, Convolution { conv, source: x, result: y, transposed: false });
            let dx = convolve(&dys, Convolution { conv, source: y, result: x, transposed: true });
            let mut dw = vec![0.0; weight.len()];
            let mut workspace = vec![rest; weight_gradient_scratch(conv, x, y).workspace];
            weight_gradient(level, unit, conv, (&xs, x), (&dys, y), &mut workspace, &mut dw);
            [result, dx, dw]
        });
        results.map(|values| values.into_iter().map(f32::to_bits).collect())
    }

    #[test]
    fn what_scratch_memory_held_before_does_not_matter() {
        let strided = Conv { stride: 2, padding: Padding::BOTTOM_RIGHT, ..Conv::SAME_3X3 };
        for (shape, channels, conv) in [
            (Shape::new(1, 7, 5, 40), 20, Conv::SAME_3X3),
            (Shape::new(2, 6, 9, 16), 33, Conv::SAME_3X3),
            (Shape::new(11, 4, 3, 16), 16, Conv::SAME_3X3),
            (Shape::new(3, 8, 6, 24), 16, strided),
            (Shape::new(3, 3, 5, 20), 40, Conv::POINTWISE),
        ] {
            let clean = all(shape, channels, conv, 0.0);
            assert!(all(shape, channels, conv, f32::NAN) == clean, "{shape}, {conv:?}");
        }
    }
}
