//! Walsh–Hadamard transforms: n signed sums of n numbers in n log n additions.

use engine::Level;

/// Transforms that are computed side by side.
pub(crate) const LANES: usize = 16;

/// Rows that stay in the first-level cache while all that is left is done to them.
const CACHED_ROWS: usize = 256;

/// Replaces `rows[r]` by Σ_k (-1)^popcount(r & k) rows[k], in each lane. `rows` has a power of two as length.
pub(crate) fn transform_lanes(level: Level, rows: &mut [[f32; LANES]]) {
    level.vectorize(
        #[inline(always)]
        || {
            let mut len = rows.len();
            while len > CACHED_ROWS {
                rows.chunks_exact_mut(len).for_each(quarter);
                len /= 4;
            }
            for rows in rows.chunks_exact_mut(len) {
                let mut len = len;
                while len > 2 {
                    rows.chunks_exact_mut(len).for_each(quarter);
                    len /= 4;
                }
                if len == 2 {
                    rows.chunks_exact_mut(2).for_each(halve);
                }
            }
        },
    );
}

/// The two longest strides of a transform: four rows at a time.
#[inline(always)]
fn quarter(rows: &mut [[f32; LANES]]) {
    let (low, high) = rows.split_at_mut(rows.len() / 2);
    let (a, b) = low.split_at_mut(low.len() / 2);
    let (c, d) = high.split_at_mut(high.len() / 2);
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        for lane in 0..LANES {
            let (sum, other_sum) = (a[lane] + c[lane], b[lane] + d[lane]);
            let (difference, other_difference) = (a[lane] - c[lane], b[lane] - d[lane]);
            a[lane] = sum + other_sum;
            b[lane] = sum - other_sum;
            c[lane] = difference + other_difference;
            d[lane] = difference - other_difference;
        }
    }
}

/// The last stride, of one row.
#[inline(always)]
fn halve(rows: &mut [[f32; LANES]]) {
    let (low, high) = rows.split_at_mut(1);
    for (low, high) in low[0].iter_mut().zip(&mut high[0]) {
        (*low, *high) = (*low + *high, *low - *high);
    }
}

/// The same of one column of numbers.
pub(crate) fn transform(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        half *= 2;
    }
}

/// Whether number k enters sum r of a transform with a minus sign.
pub(crate) fn is_negative(row: usize, k: usize) -> bool {
    (row & k).count_ones() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_their_signs_in_every_lane_and_level() {
        for len in [1, 2, 32, 64, 1024] {
            let values: Vec<f32> = (0..len).map(|i| ((i * 37 + 11) % 64) as f32).collect();
            let sums: Vec<f32> = (0..len)
                .map(|row| (0..len).map(|k| if is_negative(row, k) { -values[k] } else { values[k] }).sum())
                .collect();
            let mut column = values.clone();
            transform(&mut column);
            assert_eq!(column, sums);
            for level in Level::available() {
                let mut rows: Vec<[f32; LANES]> =
                    values.iter().map(|&v| std::array::from_fn(|lane| v * lane as f32)).collect();
                transform_lanes(level, &mut rows);
                for (row, sum) in rows.iter().zip(&sums) {
                    for (lane, value) in row.iter().enumerate() {
                        assert_eq!(*value, sum * lane as f32);
                    }
                }
            }
        }
    }
}
