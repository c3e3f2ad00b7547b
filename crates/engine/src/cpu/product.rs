//! The product of contiguous rows with a packed factor.

use super::panel::Panels;
use super::tile::{Block, Tiles};

/// `result = left · right`: left `[rows][depth]`, right packed, result `[rows][columns]`.
pub(crate) fn multiply_rows(tiles: Tiles, left: &[f32], right: Panels, packed: &[f32], result: &mut [f32]) {
    let rows = left.len() / right.depth;
    assert!(result.len() >= rows * right.columns);
    for panel in 0..right.count() {
        let packed = &packed[panel * right.stride()..][..right.stride()];
        let block = Block {
            rows,
            depth: right.depth,
            a: left.as_ptr(),
            next: left.as_ptr(),
            // A panel begins with its initial row.
            b: packed[right.width..].as_ptr(),
            init: packed.as_ptr(),
            c: result[panel * right.width..].as_mut_ptr(),
            c_stride: right.columns,
            columns: right.columns_of(panel),
        };
        // SAFETY: left, the panel and the result have these rows and columns.
        unsafe { tiles.block(&block) };
    }
}
