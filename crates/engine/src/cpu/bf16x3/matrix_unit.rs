//! The processor's unit for products of small matrices of bf16 (Intel's AMX), and the same bit for bit by
//! plain arithmetic.

use super::split::{Split, split_pairs, split_row};
use crate::cpu::simd::Level;
use crate::cpu::transpose::transpose;
use std::marker::PhantomData;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::OnceLock;

/// Rows and columns of a product.
pub(super) const SIDE: usize = 32;
/// Terms of each sum that a step adds.
pub(super) const STEP: usize = 32;
/// Bytes of a row of a left factor: for each step the high halves of its terms, then the low ones.
pub(super) const LEFT_ROW: usize = 2 * 2 * STEP;
/// Bytes of a row of a right factor, which holds two terms: their high halves for each column, side by side,
/// then their low ones.
pub(super) const RIGHT_ROW: usize = 2 * 2 * 2 * SIDE;
/// Rows of a step's right factor.
pub(super) const PAIRS: usize = STEP / 2;

/// What multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MatrixUnit {
    /// The processor's own.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// Plain arithmetic that gives the same bits, slowly: for tests on other processors.
    Emulated,
}

/// Where a step's factors lie, in bytes from the product's: [`SIDE`] rows of [`LEFT_ROW`] bytes and [`PAIRS`]
/// rows of [`RIGHT_ROW`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Step {
    pub left: usize,
    pub right: usize,
}

/// What a product sums over, in order.
///
/// One more follows that is not summed: while the last one is multiplied, its factors are called into cache.
pub(super) struct Steps(Vec<Step>);

impl Steps {
    /// In this order; the next product's factors lie `ahead` of this one's.
    pub fn new(steps: impl Iterator<Item = Step>, ahead: Step) -> Self {
        let mut steps: Vec<_> = steps.collect();
        let next = steps
            .first()
            .map(|first| Step { left: first.left + ahead.left, right: first.right + ahead.right });
        steps.extend(next);
        Self(steps)
    }

    pub fn len(&self) -> usize {
        self.0.len().saturating_sub(1)
    }
}

/// A product of [`SIDE`] rows by as many columns, of factors split in halves.
pub(super) struct Product<'a> {
    pub steps: &'a Steps,
    pub left: *const u8,
    pub right: *const u8,
}

/// Splits a step's part of a row of a left factor.
#[inline(always)]
pub(super) fn split_left<S: Split>(terms: &[f32; STEP], row: &mut [f32; LEFT_ROW / 4]) {
    // SAFETY: as many bytes either way.
    split_row::<S, STEP>(terms, unsafe { &mut *row.as_mut_ptr().cast() });
}

/// Splits two terms of all columns into a row of a right factor.
#[inline(always)]
pub(super) fn split_right<S: Split>(
    first: &[f32; SIDE],
    second: &[f32; SIDE],
    row: &mut [f32; RIGHT_ROW / 4],
) {
    // SAFETY: as many bytes either way.
    split_pairs::<S, SIDE>(first, second, unsafe { &mut *row.as_mut_ptr().cast() });
}

/// Sixteen rows of sixteen columns.
type Tile = [[f32; 16]; 16];

/// A product's result: `[columns' half][rows' half]`.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Sums([[Tile; 2]; 2]);

impl Sums {
    pub const ZERO: Self = Self([[[[0.0; 16]; 16]; 2]; 2]);

    /// The columns of a row, in two halves.
    #[inline(always)]
    pub fn row(&self, row: usize) -> [&[f32; 16]; 2] {
        [0, 1].map(|half: usize| &self.0[half][row / 16][row % 16])
    }

    /// The rows of each column, in two halves.
    pub fn columns(&self, level: Level) -> [[[f32; 16]; 2]; SIDE] {
        let mut columns = [[[0.0; 16]; 2]; SIDE];
        for (half, tiles) in self.0.iter().enumerate() {
            let columns = columns[16 * half..].as_flattened_mut().as_flattened_mut();
            for (rows, tile) in tiles.iter().enumerate() {
                transpose(level, &mut columns[16 * rows..], SIDE, tile.as_flattened(), 16, 16, 16);
            }
        }
        columns
    }
}

impl MatrixUnit {
    /// The processor's, if it has one and the system lets programs use it.
    pub fn detect() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            static USABLE: OnceLock<bool> = OnceLock::new();
            USABLE.get_or_init(|| amx::exists() && amx::is_permitted()).then_some(Self::Amx)
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        None
    }

    /// The unit, made ready to multiply on this thread.
    pub(super) fn ready(self) -> Ready {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self == Self::Amx {
            // SAFETY: a value of this variant exists only where the unit does.
            unsafe { amx::configure() };
        }
        Ready { unit: self, thread: PhantomData }
    }
}

/// A unit that can multiply, on the thread it was made ready on. One at a time.
pub(super) struct Ready {
    unit: MatrixUnit,
    thread: PhantomData<*const ()>,
}

impl Drop for Ready {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.unit == MatrixUnit::Amx {
            // SAFETY: as above.
            unsafe { amx::release() };
        }
    }
}

impl Ready {
    /// Sets `sums` to the sum over all steps of low·high + high·high + high·low.
    ///
    /// Each of the three adds to the sum so far what 32 terms come to: those at even places and those at odd
    /// ones, each in order with one rounding a term, then added (Intel's manual, TDPBF16PS). Numbers too
    /// small to be normal count as 0.
    ///
    /// # Safety
    /// For every step the product's pointers lead to its factors.
    pub unsafe fn multiply(&mut self, product: &Product, sums: &mut Sums) {
        match self.unit {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: the unit exists and is configured; the rest is the caller's.
            MatrixUnit::Amx => unsafe { amx::multiply(product, sums) },
            // SAFETY: the caller's.
            MatrixUnit::Emulated => unsafe { emulation::multiply(product, sums) },
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::{LEFT_ROW, Product, RIGHT_ROW, Sums};
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Whether there are tiles, products of bf16, and the vector instructions that come with them.
    pub fn exists() -> bool {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        let vectors = is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        #[allow(unused_unsafe, reason = "safe in newer compilers")]
        // SAFETY: every processor of 64 bits has this instruction.
        let (leaves, features) = unsafe { (__cpuid(0).eax, __cpuid_count(7, 0).edx) };
        vectors && leaves >= 7 && features & BF16_AND_TILES == BF16_AND_TILES
    }

    /// Asks the system to save the tiles' registers for this process, without which their first use ends it.
    pub fn is_permitted() -> bool {
        const REQUEST_STATE_COMPONENT: libc::c_int = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // SAFETY: changes nothing but which registers the process may use.
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_STATE_COMPONENT, TILE_DATA) == 0 }
    }

    /// The format that `ldtilecfg` reads: all eight tiles have 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Tiles {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static TILES: Tiles = Tiles {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// # Safety
    /// The unit exists and is permitted.
    pub unsafe fn configure() {
        // SAFETY: the format is one that the unit knows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &TILES, options(nostack)) };
    }

    /// After it the system need not save the tiles when it interrupts the thread.
    ///
    /// # Safety
    /// The unit exists and is permitted.
    pub unsafe fn release() {
        // SAFETY: the caller's.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    /// Calls eight lines of a step ahead into the first-level cache.
    macro_rules! ahead {
        ($register:literal, $from:literal) => {
            concat!(
                line_ahead!($register, $from, "0"),
                line_ahead!($register, $from, "64"),
                line_ahead!($register, $from, "128"),
                line_ahead!($register, $from, "192"),
                line_ahead!($register, $from, "256"),
                line_ahead!($register, $from, "320"),
                line_ahead!($register, $from, "384"),
                line_ahead!($register, $from, "448"),
            )
        };
    }
    macro_rules! line_ahead {
        ($register:literal, $from:literal, $line:literal) => {
            concat!("prefetcht0 [{", $register, "} + ", $from, " + ", $line, "]\n")
        };
    }

    /// # Safety
    /// The unit is configured; the rest as for [`super::Ready::multiply`].
    pub unsafe fn multiply(product: &Product, sums: &mut Sums) {
        if product.steps.len() == 0 {
            *sums = Sums::ZERO;
            return;
        }
        // SAFETY: the caller's. The compiler uses no tile itself, and none holds anything afterwards.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {left}, [{step}]",
                "mov {right}, [{step} + 8]",
                "add {left}, {first_left}",
                "add {right}, {first_right}",
                "mov {next_left}, [{step} + 16]",
                "mov {next_right}, [{step} + 24]",
                "add {next_left}, {first_left}",
                "add {next_right}, {first_right}",
                "add {step}, 16",
                // Low halves of the left factor by high ones of the right.
                "tileloadd tmm4, [{right} + {right_row}*1]",
                "tileloadd tmm6, [{left} + {left_row}*1 + 64]",
                "tdpbf16ps tmm0, tmm6, tmm4",
                ahead!("next_left", "0"),
                ahead!("next_right", "0"),
                "tileloadd tmm7, [{left} + {left_row}*1 + 2112]",
                "tdpbf16ps tmm1, tmm7, tmm4",
                ahead!("next_left", "512"),
                "tileloadd tmm5, [{right} + {right_row}*1 + 64]",
                "tdpbf16ps tmm2, tmm6, tmm5",
                ahead!("next_right", "512"),
                // High by high.
                "tileloadd tmm6, [{left} + {left_row}*1]",
                "tdpbf16ps tmm3, tmm7, tmm5",
                ahead!("next_left", "1024"),
                ahead!("next_right", "1024"),
                "tileloadd tmm7, [{left} + {left_row}*1 + 2048]",
                "tdpbf16ps tmm0, tmm6, tmm4",
                ahead!("next_left", "1536"),
                "tdpbf16ps tmm1, tmm7, tmm4",
                ahead!("next_right", "1536"),
                "tileloadd tmm4, [{right} + {right_row}*1 + 128]",
                "tdpbf16ps tmm2, tmm6, tmm5",
                ahead!("next_left", "2048"),
                ahead!("next_right", "2048"),
                "tdpbf16ps tmm3, tmm7, tmm5",
                ahead!("next_left", "2560"),
                "tileloadd tmm5, [{right} + {right_row}*1 + 192]",
                // High by low.
                "tdpbf16ps tmm0, tmm6, tmm4",
                ahead!("next_right", "2560"),
                "tdpbf16ps tmm1, tmm7, tmm4",
                ahead!("next_left", "3072"),
                ahead!("next_right", "3072"),
                "tdpbf16ps tmm2, tmm6, tmm5",
                ahead!("next_left", "3584"),
                "tdpbf16ps tmm3, tmm7, tmm5",
                ahead!("next_right", "3584"),
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 1024], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 3072], tmm3",
                step = inout(reg) product.steps.0.as_ptr() => _,
                steps = inout(reg) product.steps.len() => _,
                first_left = in(reg) product.left,
                first_right = in(reg) product.right,
                left_row = in(reg) LEFT_ROW,
                right_row = in(reg) RIGHT_ROW,
                line = in(reg) 64usize,
                sums = in(reg) sums,
                left = out(reg) _,
                right = out(reg) _,
                next_left = out(reg) _,
                next_right = out(reg) _,
                options(nostack),
            );
        }
    }
}

mod emulation {
    use super::{LEFT_ROW, PAIRS, Product, RIGHT_ROW, STEP, Sums, Tile};

    /// Of 16 columns, the halves of two terms.
    type Pairs = [[u16; 2]; 16];

    pub unsafe fn multiply(product: &Product, sums: &mut Sums) {
        *sums = Sums::ZERO;
        for step in &product.steps.0[..product.steps.len()] {
            let left = |low: usize, row: usize| {
                // SAFETY: the caller's.
                unsafe { &*product.left.add(step.left + row * LEFT_ROW + low * 64).cast::<[u16; STEP]>() }
            };
            let right = |low: usize, half: usize, row: usize| {
                let at = step.right + row * RIGHT_ROW + low * 128 + half * 64;
                // SAFETY: the caller's.
                unsafe { &*product.right.add(at).cast::<Pairs>() }
            };
            for (left_low, right_low) in [(1, 0), (0, 0), (0, 1)] {
                for (half, columns) in sums.0.iter_mut().enumerate() {
                    for (rows, tile) in columns.iter_mut().enumerate() {
                        let left = std::array::from_fn(|row| left(left_low, 16 * rows + row));
                        add_products(tile, left, std::array::from_fn(|row| right(right_low, half, row)));
                    }
                }
            }
        }
    }

    fn add_products(tile: &mut Tile, left: [&[u16; STEP]; 16], right: [&Pairs; PAIRS]) {
        for (sums, left) in tile.iter_mut().zip(left) {
            let mut parts = [[0f32; 16]; 2];
            for (left, right) in left.as_chunks::<2>().0.iter().zip(right) {
                for (place, part) in parts.iter_mut().enumerate() {
                    for (sum, right) in part.iter_mut().zip(right) {
                        *sum = normal(widen(left[place]).mul_add(widen(right[place]), *sum));
                    }
                }
            }
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum = normal(*sum + normal(parts[0][column] + parts[1][column]));
            }
        }
    }

    fn widen(half: u16) -> f32 {
        normal(f32::from_bits(u32::from(half) << 16))
    }

    fn normal(value: f32) -> f32 {
        if value.is_subnormal() { 0f32.copysign(value) } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    #[test]
    fn the_processor_and_its_emulation_give_the_same_bits() {
        let Some(unit) = MatrixUnit::detect() else {
            eprintln!("SKIPPED, this processor has no AMX");
            return;
        };
        let stream = Stream::new(7, Purpose::Test, 0, 0);
        let (left_step, right_step) = (SIDE * LEFT_ROW, PAIRS * RIGHT_ROW);
        let steps = [0, 3, 1, 2].map(|step| Step { left: left_step * step, right: right_step * step });
        let steps = Steps::new(steps.into_iter(), Step { left: 0, right: 0 });
        // Of all sizes: with such exponents sums round, vanish beside others, and become too small to be normal.
        for spread in [4, 30, 90] {
            let mut number = 0;
            let mut random = || {
                number += 1;
                let exponent = 127 - spread / 2 + stream.below(2 * number, u64::from(spread)) as u16;
                let rest = stream.below(2 * number + 1, 1 << 8) as u16;
                (rest & 0x80) << 8 | exponent << 7 | rest & 0x7f
            };
            let [left, right] =
                [left_step, right_step].map(|step| (0..4 * step / 2).map(|_| random()).collect::<Vec<u16>>());
            let product = Product { steps: &steps, left: left.as_ptr().cast(), right: right.as_ptr().cast() };
            let [mut expected, mut actual] = [Sums::ZERO; 2];
            // SAFETY: the factors have these steps.
            unsafe {
                MatrixUnit::Emulated.ready().multiply(&product, &mut expected);
                unit.ready().multiply(&product, &mut actual);
            }
            for row in 0..SIDE {
                let bits = |sums: &Sums| sums.row(row).map(|half| half.map(f32::to_bits));
                assert_eq!(bits(&actual), bits(&expected), "row {row}, exponents within {spread}");
            }
        }
    }
}
