//! The one-dimensional transforms of F(4, 3): four results of a three-tap filter from six inputs, with six products.
//!
//! Interpolation points 0, ±1, ±2, ∞ (Lavin & Gray 2015, "Fast algorithms for convolutional neural networks",
//! section 4.3). The two-dimensional transforms apply them to columns, then rows.

use crate::cpu::simd::Vector;

/// Results of a tile along one side.
pub(super) const RESULT: usize = 4;
/// Inputs of a tile along one side, also its products.
pub(super) const TILE: usize = 6;
/// Products of a tile: each is one plane of the batched products.
pub(super) const PLANES: usize = TILE * TILE;

/// Bᵀ d.
#[inline(always)]
fn input_1d<V: Vector>(d: [V; 6]) -> [V; 6] {
    let (four, five, two) = (V::splat(-4.0), V::splat(-5.0), V::splat(2.0));
    let even = four.mul_add(d[2], d[4]);
    let odd = four.mul_add(d[1], d[3]);
    let near_even = d[4].sub(d[2]);
    let near_odd = d[3].sub(d[1]);
    let plus_four = V::splat(4.0);
    [
        plus_four.mul_add(d[0], five.mul_add(d[2], d[4])),
        even.add(odd),
        even.sub(odd),
        two.mul_add(near_odd, near_even),
        V::splat(-2.0).mul_add(near_odd, near_even),
        plus_four.mul_add(d[1], five.mul_add(d[3], d[5])),
    ]
}

/// Aᵀ m for planes of an unscaled filter (see [`filter_1d`]), each result divided by its [`OUTPUT_SCALES`].
#[inline(always)]
fn output_1d<V: Vector>(m: [V; 6]) -> [V; 4] {
    let (sum, difference) = (m[1].add(m[2]), m[2].sub(m[1]));
    let (far_sum, far_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
    let (two, six) = (V::splat(2.0), V::splat(6.0));
    [
        six.mul_add(m[0], V::splat(-4.0).mul_add(sum, far_sum)),
        two.mul_add(difference, far_difference),
        far_sum.sub(sum),
        six.mul_add(m[5], two.mul_add(far_difference, difference)),
    ]
}

/// What is left to multiply the results of [`output_1d`] by.
const OUTPUT_SCALES: [f32; RESULT] = [1.0 / 24.0, 2.0 / 24.0, 4.0 / 24.0, 4.0 / 24.0];

/// A y, for the gradient of the products: the transpose of Aᵀ, without scales.
#[inline(always)]
fn output_gradient_1d<V: Vector>(y: [V; 4]) -> [V; 6] {
    let (even, odd) = (y[0].add(y[2]), y[1].add(y[3]));
    let far_even = V::splat(4.0).mul_add(y[2], y[0]);
    let far_odd = V::splat(4.0).mul_add(y[3], y[1]);
    [
        y[0],
        even.add(odd),
        even.sub(odd),
        V::splat(2.0).mul_add(far_odd, far_even),
        V::splat(-2.0).mul_add(far_odd, far_even),
        y[3],
    ]
}

/// G g without G's scales ¼, -⅙, -⅙, ¹⁄₂₄, ¹⁄₂₄, 1: [`output_1d`] makes up for them, once for a sum over all
/// channels.
#[inline(always)]
pub(super) fn filter_1d<V: Vector>(g: [V; 3]) -> [V; 6] {
    let outer = g[0].add(g[2]);
    let far_outer = V::splat(4.0).mul_add(g[2], g[0]);
    [
        g[0],
        outer.add(g[1]),
        outer.sub(g[1]),
        V::splat(2.0).mul_add(g[1], far_outer),
        V::splat(-2.0).mul_add(g[1], far_outer),
        g[2],
    ]
}

/// Gᵀ p with G's scales: the transpose of [`filter_1d`] but for these.
#[inline(always)]
fn filter_gradient_1d<V: Vector>(p: [V; 6]) -> [V; 3] {
    let (sum, difference) = (p[1].add(p[2]), p[2].sub(p[1]));
    let (far_sum, far_difference) = (p[3].add(p[4]), p[3].sub(p[4]));
    let sixth = V::splat(1.0 / 6.0);
    let minus_sixth = V::splat(-1.0 / 6.0);
    let near = minus_sixth.mul(sum);
    [
        V::splat(0.25).mul_add(p[0], V::splat(1.0 / 24.0).mul_add(far_sum, near)),
        sixth.mul_add(difference, V::splat(1.0 / 12.0).mul(far_difference)),
        sixth.mul_add(far_sum, near).add(p[5]),
    ]
}

/// Applies `transform` to the columns of a square, then to the rows of the result.
#[inline(always)]
fn two_dimensional<V: Vector, const FROM: usize, const TO: usize>(
    square: [[V; FROM]; FROM],
    transform: impl Fn([V; FROM]) -> [V; TO],
) -> [[V; TO]; TO] {
    let zero = V::splat(0.0);
    let mut half = [[zero; FROM]; TO];
    for column in 0..FROM {
        let mut values = [zero; FROM];
        for row in 0..FROM {
            values[row] = square[row][column];
        }
        let values = transform(values);
        for row in 0..TO {
            half[row][column] = values[row];
        }
    }
    let mut whole = [[zero; TO]; TO];
    for row in 0..TO {
        whole[row] = transform(half[row]);
    }
    whole
}

/// Bᵀ d B.
#[inline(always)]
pub(super) fn input<V: Vector>(d: [[V; 6]; 6]) -> [[V; 6]; 6] {
    two_dimensional(
        d,
        #[inline(always)]
        |v| input_1d(v),
    )
}

/// Aᵀ m A plus `bias`, for planes of an unscaled filter.
#[inline(always)]
pub(super) fn output<V: Vector>(m: [[V; 6]; 6], bias: V) -> [[V; 4]; 4] {
    let mut y = two_dimensional(
        m,
        #[inline(always)]
        |v| output_1d(v),
    );
    for i in 0..RESULT {
        for j in 0..RESULT {
            y[i][j] = V::splat(OUTPUT_SCALES[i] * OUTPUT_SCALES[j]).mul_add(y[i][j], bias);
        }
    }
    y
}

/// A y Aᵀ.
#[inline(always)]
pub(super) fn output_gradient<V: Vector>(y: [[V; 4]; 4]) -> [[V; 6]; 6] {
    two_dimensional(
        y,
        #[inline(always)]
        |v| output_gradient_1d(v),
    )
}

/// G g Gᵀ without scales.
#[inline(always)]
pub(super) fn filter<V: Vector>(g: [[V; 3]; 3]) -> [[V; 6]; 6] {
    two_dimensional(
        g,
        #[inline(always)]
        |v| filter_1d(v),
    )
}

/// Gᵀ p G.
#[inline(always)]
pub(super) fn filter_gradient<V: Vector>(p: [[V; 6]; 6]) -> [[V; 3]; 3] {
    two_dimensional(
        p,
        #[inline(always)]
        |v| filter_gradient_1d(v),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tile_is_a_convolution_and_the_gradients_are_its_transposes() {
        let value = |seed: usize, i: usize| ((i * 37 + seed * 101) % 29) as f32 / 7.0 - 2.0;
        let square = |seed| -> [[f32; 6]; 6] {
            std::array::from_fn(|r| std::array::from_fn(|c| value(seed, 6 * r + c)))
        };
        let d = square(1);
        let g: [[f32; 3]; 3] = std::array::from_fn(|r| std::array::from_fn(|c| value(2, 3 * r + c)));
        let dy: [[f32; 4]; 4] = std::array::from_fn(|r| std::array::from_fn(|c| value(3, 4 * r + c)));
        let product = |a: [[f32; 6]; 6], b: [[f32; 6]; 6]| -> [[f32; 6]; 6] {
            std::array::from_fn(|r| std::array::from_fn(|c| a[r][c] * b[r][c]))
        };
        let y = output(product(input(d), filter(g)), 0.5);
        let dg = filter_gradient(product(input(d), output_gradient(dy)));
        for r in 0..4 {
            for c in 0..4 {
                let mut sum = 0.5;
                for i in 0..3 {
                    for j in 0..3 {
                        sum += d[r + i][c + j] * g[i][j];
                    }
                }
                assert!((y[r][c] - sum).abs() < 1e-4, "{} against {sum}", y[r][c]);
            }
        }
        for i in 0..3 {
            for j in 0..3 {
                let mut sum = 0.0;
                for r in 0..4 {
                    for c in 0..4 {
                        sum += d[r + i][c + j] * dy[r][c];
                    }
                }
                assert!((dg[i][j] - sum).abs() < 1e-4, "{} against {sum}", dg[i][j]);
            }
        }
    }
}
