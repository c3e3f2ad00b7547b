//! The product of a block of contiguous rows with a packed factor.

use super::panel::Panels;
use super::tile::{RowTile, Tiles};

/// Upper bound of the tile heights.
const MAX_HEIGHT: usize = 16;

/// `result = left · right`: left `[rows][depth]`, right packed, result `[rows][columns]`.
pub(crate) fn multiply_rows(tiles: Tiles, left: &[f32], right: Panels, packed: &[f32], result: &mut [f32]) {
    let rows = left.len() / right.depth;
    for panel in 0..right.count() {
        let base = packed[panel * right.stride()..][..right.stride()].as_ptr();
        let mut start = 0;
        while start < rows {
            let count = (rows - start).min(tiles.height);
            let mut sources = [std::ptr::null(); MAX_HEIGHT];
            let mut targets = [std::ptr::null_mut(); MAX_HEIGHT];
            for row in 0..MAX_HEIGHT {
                sources[row] = left[(start + row.min(count - 1)) * right.depth..].as_ptr();
                targets[row] = result[(start + row.min(count - 1)) * right.columns..].as_mut_ptr();
            }
            let tile = RowTile {
                segments: 1,
                depth: right.depth,
                a: sources.as_ptr(),
                taps: &0,
                // SAFETY: a panel begins with its initial row.
                b: unsafe { base.add(right.width) },
                init: base,
                next: base,
                c: targets.as_ptr(),
                c_offset: panel * right.width,
                rows: count,
                columns: right.columns_of(panel),
            };
            // SAFETY: every pointer leads to a whole row.
            unsafe { tiles.rows(&tile) };
            start += count;
        }
    }
}
