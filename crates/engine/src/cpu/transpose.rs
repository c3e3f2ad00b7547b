//! Transposition of a matrix in memory.

use super::simd::Level;

/// Sets `out[column][row] = data[row][column]` for `rows × columns` elements of `data`; rows of `data` are
/// `data_stride` elements apart, rows of `out` `out_stride`.
///
/// # Panics
/// If a slice is too short.
pub(crate) fn transpose(
    level: Level,
    out: &mut [f32],
    out_stride: usize,
    data: &[f32],
    data_stride: usize,
    rows: usize,
    columns: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(data.len() >= (rows - 1) * data_stride + columns);
    assert!(out.len() >= (columns - 1) * out_stride + rows);
    let plain = |out: &mut [f32], rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
        for column in columns {
            for row in rows.clone() {
                out[column * out_stride + row] = data[row * data_stride + column];
            }
        }
    };
    // Whole blocks, `side` elements along each side, by `block`; what is left plainly.
    let in_blocks = |out: &mut [f32], side: usize, block: &dyn Fn(*const f32, *mut f32)| {
        let (whole_rows, whole_columns) = (rows / side * side, columns / side * side);
        for row in (0..whole_rows).step_by(side) {
            for column in (0..whole_columns).step_by(side) {
                let from = data[row * data_stride + column..].as_ptr();
                block(from, out[column * out_stride + row..].as_mut_ptr());
            }
        }
        plain(out, 0..whole_rows, whole_columns..columns);
        plain(out, whole_rows..rows, 0..columns);
    };
    match level {
        Level::Scalar => plain(out, 0..rows, 0..columns),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the block is inside both; both levels have AVX.
        Level::Avx2 | Level::Avx512 => in_blocks(out, 8, &|from, to| unsafe {
            avx::transpose_8x8(from, data_stride, to, out_stride);
        }),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the block is inside both.
        Level::Neon => in_blocks(out, 4, &|from, to| unsafe {
            neon::transpose_4x4(from, data_stride, to, out_stride);
        }),
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    /// # Safety
    /// Four rows of four elements at both pointers, `stride`s apart.
    pub unsafe fn transpose_4x4(data: *const f32, data_stride: usize, out: *mut f32, out_stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            let r: [float32x4_t; 4] = std::array::from_fn(|i| vld1q_f32(data.add(i * data_stride)));
            // Pairs of rows interleaved, then the halves exchanged.
            let (even, odd) = (vtrn1q_f32(r[0], r[1]), vtrn2q_f32(r[0], r[1]));
            let (later_even, later_odd) = (vtrn1q_f32(r[2], r[3]), vtrn2q_f32(r[2], r[3]));
            let columns = [
                vcombine_f32(vget_low_f32(even), vget_low_f32(later_even)),
                vcombine_f32(vget_low_f32(odd), vget_low_f32(later_odd)),
                vcombine_f32(vget_high_f32(even), vget_high_f32(later_even)),
                vcombine_f32(vget_high_f32(odd), vget_high_f32(later_odd)),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(out.add(i * out_stride), column);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::*;

    /// # Safety
    /// Eight rows of eight elements at both pointers, `stride`s apart.
    #[target_feature(enable = "avx")]
    pub unsafe fn transpose_8x8(data: *const f32, data_stride: usize, out: *mut f32, out_stride: usize) {
        // SAFETY: the caller's.
        let r: [__m256; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(data.add(i * data_stride)) });
        // Pairs of rows interleaved, then pairs of pairs, then the halves exchanged.
        let pairs = [
            _mm256_unpacklo_ps(r[0], r[1]),
            _mm256_unpackhi_ps(r[0], r[1]),
            _mm256_unpacklo_ps(r[2], r[3]),
            _mm256_unpackhi_ps(r[2], r[3]),
            _mm256_unpacklo_ps(r[4], r[5]),
            _mm256_unpackhi_ps(r[4], r[5]),
            _mm256_unpacklo_ps(r[6], r[7]),
            _mm256_unpackhi_ps(r[6], r[7]),
        ];
        const LOW: i32 = 0b01_00_01_00;
        const HIGH: i32 = 0b11_10_11_10;
        let fours = [
            _mm256_shuffle_ps::<LOW>(pairs[0], pairs[2]),
            _mm256_shuffle_ps::<HIGH>(pairs[0], pairs[2]),
            _mm256_shuffle_ps::<LOW>(pairs[1], pairs[3]),
            _mm256_shuffle_ps::<HIGH>(pairs[1], pairs[3]),
            _mm256_shuffle_ps::<LOW>(pairs[4], pairs[6]),
            _mm256_shuffle_ps::<HIGH>(pairs[4], pairs[6]),
            _mm256_shuffle_ps::<LOW>(pairs[5], pairs[7]),
            _mm256_shuffle_ps::<HIGH>(pairs[5], pairs[7]),
        ];
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]);
            let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]);
            // SAFETY: the caller's.
            unsafe {
                _mm256_storeu_ps(out.add(i * out_stride), low);
                _mm256_storeu_ps(out.add((4 + i) * out_stride), high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_finds_its_place_at_every_level() {
        for level in Level::available() {
            for (rows, columns) in [(1, 1), (8, 8), (16, 24), (7, 19), (21, 9), (3, 40)] {
                let (data_stride, out_stride) = (columns + 3, rows + 5);
                let data: Vec<f32> = (0..rows * data_stride).map(|i| i as f32).collect();
                let mut out = vec![-1.0; columns * out_stride];
                transpose(level, &mut out, out_stride, &data, data_stride, rows, columns);
                for (place, &value) in out.iter().enumerate() {
                    let (column, row) = (place / out_stride, place % out_stride);
                    let expected = if row < rows { (row * data_stride + column) as f32 } else { -1.0 };
                    assert_eq!(value, expected, "{level:?} {rows}x{columns}: row {row}, column {column}");
                }
            }
        }
    }
}
