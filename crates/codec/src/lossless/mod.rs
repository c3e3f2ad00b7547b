//! The lossless codec: bits back with asymmetric numeral systems over the whole chain (Townsend, Bird, Barber
//! 2019; Kingma, Abbeel, Ho 2019, "Bit-Swap").
//!
//! To send an image, the sender draws the first latent from q(x_0 | pixels) by popping bits from the stack,
//! pushes the pixels by p(pixels | x_0), draws the next latent, pushes x_0 by p(x_0 | x_1), and so on to the
//! prior. The receiver undoes all that, and has the popped bits back. So an image costs its variational
//! bound, but something must be on the stack when the first one is sent: here a few images that are sent
//! another way, as a progressive file is, with their pixels pushed by p(pixels | x_t) of its last x_t.

mod ans;
mod chain;
mod decode;
mod encode;
mod gaussian;

pub use decode::decode;
pub use encode::{Encoded, encode};

use ans::{Empty, Stack};
use chain::Gaussians;
use gaussian::Grid;

/// Pushes cells of `grid`, the first at the bottom.
fn push(stack: &mut Stack, grid: &Grid, cells: &[u32], by: &Gaussians) {
    for (&cell, &mean) in cells.iter().zip(&by.mean) {
        stack.push(grid.share(cell, mean, by.sigma));
    }
}

/// Pops what [`push`] pushed.
fn pop(stack: &mut Stack, grid: &Grid, by: &Gaussians) -> Result<Vec<u32>, Empty> {
    let mut cells = vec![0; by.mean.len()];
    for (cell, &mean) in cells.iter_mut().zip(&by.mean).rev() {
        *cell = stack.pop(|slot| grid.locate(slot, mean, by.sigma))?;
    }
    Ok(cells)
}

/// Draws cells from a distribution, the last first. What is never drawn needs no slots: the floor would now
/// and then be drawn from, far from everything that is likely.
fn draw(stack: &mut Stack, grid: &Grid, from: &Gaussians) -> Result<Vec<u32>, Empty> {
    let grid = Grid { floor: 0, ..*grid };
    let mut cells = vec![0; from.mean.len()];
    for (cell, &mean) in cells.iter_mut().zip(&from.mean).rev() {
        *cell = stack.draw(|slot| grid.locate(slot, mean, from.sigma))?;
    }
    Ok(cells)
}

/// Gives back what [`draw`] took.
fn undraw(stack: &mut Stack, grid: &Grid, cells: &[u32], from: &Gaussians) -> Result<(), Empty> {
    let grid = Grid { floor: 0, ..*grid };
    for (&cell, &mean) in cells.iter().zip(&from.mean) {
        let share = grid.share(cell, mean, from.sigma);
        // Only what was drawn can be given back.
        if share.1 == 0 {
            return Err(Empty);
        }
        stack.undraw(share);
    }
    Ok(())
}

/// The values of cells.
fn values(grid: &Grid, cells: &[u32]) -> Vec<f64> {
    cells.iter().map(|&cell| grid.centre(cell)).collect()
}
