//! Gaussians on a grid, in exact integers: every cell has a share of 2^32 slots, none is without.

use super::ans::{PRECISION, Share};
use std::f64::consts::FRAC_1_SQRT_2;

/// All slots.
const SLOTS: u64 = 1 << PRECISION;

/// Φ(z), of the standard normal distribution.
fn cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z * FRAC_1_SQRT_2)
}

/// Cells of equal width, numbered from 0, the outermost of which reach to infinity.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Grid {
    /// The centre of the first cell.
    pub first: f64,
    /// The width.
    pub width: f64,
    /// How many cells.
    pub cells: u32,
    /// Slots that every cell has, however unlikely.
    pub floor: u64,
}

impl Grid {
    /// The grid for numbers of standard deviation `sigma` or more, a third to a sixth of it wide, up to ±`reach`.
    pub fn finer_than(sigma: f64, reach: f64) -> Self {
        let width = libm::exp2(libm::floor(libm::log2(sigma / 3.0)));
        let half = libm::ceil(reach / width);
        Self { first: -half * width, width, cells: 2 * half as u32 + 1, floor: 1 }
    }

    /// The centre of a cell.
    pub fn centre(&self, cell: u32) -> f64 {
        self.first + self.width * f64::from(cell)
    }

    /// The share of `cell` in N(`mean`, `sigma`²).
    pub fn share(&self, cell: u32, mean: f64, sigma: f64) -> Share {
        let first = self.begin(cell, mean, sigma);
        (first, self.begin(cell + 1, mean, sigma) - first)
    }

    /// The cell that `slot` belongs to, and its share.
    pub fn locate(&self, slot: u64, mean: f64, sigma: f64) -> (u32, Share) {
        // The cell begins at or before the slot, the next one after it.
        let (mut low, mut high) = (0, self.cells);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.begin(middle, mean, sigma) <= slot { low = middle } else { high = middle }
        }
        (low, self.share(low, mean, sigma))
    }

    /// The first slot of a cell; all slots for that after the last.
    fn begin(&self, cell: u32, mean: f64, sigma: f64) -> u64 {
        if cell == 0 {
            return 0;
        }
        if cell >= self.cells {
            return SLOTS;
        }
        let edge = self.first + self.width * (f64::from(cell) - 0.5);
        let shared = SLOTS - u64::from(self.cells) * self.floor;
        (shared as f64 * cdf((edge - mean) / sigma)) as u64 + u64::from(cell) * self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fill_the_slots_and_every_slot_finds_its_cell() {
        for (mean, sigma) in [(0.0, 1.0), (0.3, 0.02), (-40.0, 0.01), (900.0, 3.0)] {
            let grid = Grid::finer_than(0.02, 9.0);
            let mut next = 0;
            for cell in 0..grid.cells {
                let (first, count) = grid.share(cell, mean, sigma);
                assert_eq!(first, next);
                assert!(count >= grid.floor);
                for slot in [first, first + count - 1] {
                    assert_eq!(grid.locate(slot, mean, sigma), (cell, (first, count)));
                }
                next = first + count;
            }
            assert_eq!(next, SLOTS);
        }
        let grid = Grid::finer_than(1.0, 9.0);
        let middle = grid.cells / 2;
        assert_eq!(grid.centre(middle), 0.0);
        let share = grid.share(middle, 0.0, 1.0).1 as f64 / SLOTS as f64;
        assert!((share - (cdf(0.125) - cdf(-0.125))).abs() < 1e-7, "{share}");
    }
}
