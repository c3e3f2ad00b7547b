//! Products of contiguous rows with a packed factor.

use super::epilogue::RowEpilogue;
use super::panel::Panels;
use super::tile::{Block, Tiles};

/// `result = left · right`: left `[rows][depth]`, right packed, result `[rows][columns]`.
pub(crate) fn multiply_rows(tiles: Tiles, left: &[f32], right: Panels, packed: &[f32], result: &mut [f32]) {
    let rows = left.len() / right.depth;
    assert!(result.len() >= rows * right.columns);
    for panel in 0..right.count() {
        // SAFETY: the result has these rows and columns.
        unsafe {
            let (next, result) = (left.as_ptr(), result.as_mut_ptr());
            multiply_panel(tiles, left, (right, packed), panel, (next, &[]), result, RowEpilogue::Nothing);
        }
    }
}

/// The columns of panel `panel` of such a product; `next` is the left factor that is read after this one, and
/// a right factor to be called into cache before that.
///
/// # Safety
/// `result` leads to rows of all columns, as many as left has, of which nobody else uses these.
pub(crate) unsafe fn multiply_panel(
    tiles: Tiles,
    left: &[f32],
    (right, packed): (Panels, &[f32]),
    panel: usize,
    (next, later): (*const f32, &[f32]),
    result: *mut f32,
    epilogue: RowEpilogue,
) {
    let packed = &packed[panel * right.stride()..][..right.stride()];
    let block = Block {
        rows: left.len() / right.depth,
        depth: right.depth,
        a: left.as_ptr(),
        next,
        later,
        // A panel begins with its initial row.
        b: packed[right.width..].as_ptr(),
        init: packed.as_ptr(),
        c: result.wrapping_add(panel * right.width),
        c_stride: right.columns,
        columns: right.columns_of(panel),
        epilogue,
    };
    // SAFETY: left and the panel are slices; the result is as the caller says.
    unsafe { tiles.block(&block) };
}
