//! Convolution to few channels, those of an image.
//!
//! A vector of the result's channels would be mostly empty, so vectors are of neighbouring pixels here: a
//! task turns the source's rows of a few of the result's round, `[row][channel][column]` with zeros around
//! the image, and multiplies them by one weight after the other. An element has the chain of operations that
//! gathered pixels give it.

use super::Gather;
use crate::cpu::epilogue::Epilogue;
use crate::cpu::parallel::{Shared, for_each_task, thread_index};
use crate::cpu::simd::{LINE, Vector, with_vectors};
use crate::cpu::transpose::transpose;
use crate::kernel::Scratch;
use crate::ops::Conv;
use crate::shape::Shape;

/// Rows of the result that a task computes: a few more of the source are turned round for them.
const BAND: usize = 8;
/// Rows, vectors of their pixels, and channels that are summed at a time: enough sums to keep the
/// multiply-adds busy, and registers for them at every level. What a hundred channels of the source have
/// there fits in the first-level cache, where the taps of a row find it again.
const ROWS: usize = 2;
const VECTORS: usize = 2;
const CHANNELS: usize = 3;
/// Pixels of a row that may be summed at a time.
const PIXELS: usize = VECTORS * LINE;

/// Whether a convolution from `source` to `result` is one to few channels.
pub(super) fn applies(conv: Conv, source: Shape, result: Shape) -> bool {
    let fits = conv != Conv::POINTWISE && conv.stride == 1 && conv.padding.left <= LINE;
    fits && result.c < LINE / 2 && source.c >= LINE
}

/// How the source's rows of a band of the result's lie, turned round.
#[derive(Clone, Copy)]
struct Turned {
    rows: usize,
    /// Elements of a row of one channel: a line before the image's, which hence begin a line, and all that
    /// the last vector of pixels reads.
    line: usize,
    /// Elements of a row of all channels.
    row: usize,
}

impl Turned {
    fn new(conv: Conv, source: Shape, result: Shape) -> Self {
        let columns = source.w.max(result.w.next_multiple_of(PIXELS) + conv.kernel_w - 1);
        let line = LINE + columns.next_multiple_of(LINE);
        Self { rows: BAND + conv.kernel_h - 1, line, row: line * source.c }
    }

    fn len(&self) -> usize {
        self.rows * self.row
    }
}

/// Scratch for [`forward`].
pub(super) fn scratch(conv: Conv, source: Shape, result: Shape, threads: usize) -> Scratch {
    let weights = conv.taps() * source.c * result.c;
    Scratch {
        prepared: result.c.next_multiple_of(LINE) + weights,
        workspace: threads * Turned::new(conv, source, result).len(),
    }
}

/// Keeps the bias and the filter, `[tap][c][o]`, as they are.
pub(super) fn prepare(weight: &[f32], bias: &[f32], prepared: &mut [f32]) {
    let (biases, weights) = prepared.split_at_mut(bias.len().next_multiple_of(LINE));
    biases[..bias.len()].copy_from_slice(bias);
    weights.copy_from_slice(weight);
}

/// y from x.
pub(super) fn forward(gather: Gather) {
    let Gather { conv, tiles, source: (source, x), prepared, epilogue, workspace, result } = gather;
    let (result, y) = result;
    let layout = Turned::new(conv, x, y);
    let (bias, weight) = prepared.split_at(y.c.next_multiple_of(LINE));
    let bands = y.h.div_ceil(BAND);
    let workspace = Shared::new(workspace);
    let result = Shared::new(result);

    for_each_task(y.n * bands, |task| {
        let (n, first) = (task / bands, task % bands * BAND);
        // SAFETY: each thread has its own part.
        let turned = unsafe { workspace.slice(thread_index() * layout.len(), layout.len()) };
        for (index, row) in turned.chunks_exact_mut(layout.row).enumerate() {
            let Some(from) = (first + index).checked_sub(conv.padding.top).filter(|&from| from < x.h) else {
                row.fill(0.0);
                continue;
            };
            for line in row.chunks_exact_mut(layout.line) {
                line[..LINE].fill(0.0);
                line[LINE + x.w..].fill(0.0);
            }
            let pixels = &source[(n * x.h + from) * x.w * x.c..][..x.w * x.c];
            transpose(tiles.level, &mut row[LINE..], layout.line, pixels, x.c, x.w, x.c);
        }
        let start = (n * y.h + first) * y.w * y.c;
        // SAFETY: these rows are this task's.
        let rows = unsafe { result.slice(start, BAND.min(y.h - first) * y.w * y.c) };
        for (index, rows) in rows.chunks_mut(ROWS * y.w * y.c).enumerate() {
            let turned = &turned[index * ROWS * layout.row + LINE - conv.padding.left..];
            for channel in (0..y.c).step_by(CHANNELS) {
                let sums = Sums { conv, layout, depth: x.c, turned, weight, bias, all: y.c, channel };
                with_vectors!(tiles.level, V => match CHANNELS.min(y.c - channel) {
                    1 => sums.store::<V, 1>(rows, y.w),
                    2 => sums.store::<V, 2>(rows, y.w),
                    _ => sums.store::<V, CHANNELS>(rows, y.w),
                });
            }
        }
        finish(epilogue, start, rows);
    });
}

/// The sums of rows of the result, for a few of its channels.
struct Sums<'a> {
    conv: Conv,
    layout: Turned,
    /// The source's channels.
    depth: usize,
    /// The rows of the source, from what the first pixel's first tap reads.
    turned: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    /// The result's channels, and the first of these.
    all: usize,
    channel: usize,
}

impl Sums<'_> {
    /// Stores those of `rows`, at most [`ROWS`], `width` pixels long.
    #[inline(always)]
    fn store<V: Vector, const COUNT: usize>(&self, rows: &mut [f32], width: usize) {
        for column in (0..width).step_by(VECTORS * V::LANES) {
            let mut values = [[[0.0; PIXELS]; COUNT]; ROWS];
            self.at::<V, COUNT>(column, &mut values);
            for (row, values) in rows.chunks_exact_mut(width * self.all).zip(&values) {
                let pixels = row.chunks_exact_mut(self.all).skip(column).take(VECTORS * V::LANES);
                for (index, pixel) in pixels.enumerate() {
                    for (element, values) in pixel[self.channel..].iter_mut().zip(values) {
                        *element = values[index];
                    }
                }
            }
        }
    }

    /// `values[row][channel][pixel]` of a few vectors of pixels from `column` on.
    #[inline(always)]
    fn at<V: Vector, const COUNT: usize>(&self, column: usize, values: &mut [[[f32; PIXELS]; COUNT]; ROWS]) {
        let Self { conv, layout, depth, turned, weight, bias, all, channel } = *self;
        let mut sums = [[[V::splat(0.0); COUNT]; VECTORS]; ROWS];
        for vector in sums.as_flattened_mut() {
            for (index, sum) in vector.iter_mut().enumerate() {
                *sum = V::splat(bias[channel + index]);
            }
        }
        let mut weights = weight[channel..][..conv.taps() * depth * all - channel].as_ptr();
        for tap in 0..conv.taps() {
            let (i, j) = (tap / conv.kernel_w, tap % conv.kernel_w);
            let first = i * layout.row + column + j;
            let rows = &turned[first..][..ROWS * layout.row - layout.line + VECTORS * V::LANES];
            let mut from = rows.as_ptr();
            for _ in 0..depth {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: the rows reach as far, and the filter has as many weights.
                        unsafe {
                            let pixels = V::load(from.wrapping_add(row * layout.row + vector * V::LANES));
                            for (index, sum) in sums.iter_mut().enumerate() {
                                *sum = pixels.mul_add(V::splat(*weights.add(index)), *sum);
                            }
                        }
                    }
                }
                from = from.wrapping_add(layout.line);
                weights = weights.wrapping_add(all);
            }
        }
        for (values, sums) in values.iter_mut().zip(&sums) {
            for (vector, sums) in sums.iter().enumerate() {
                for (values, sum) in values.iter_mut().zip(sums) {
                    // SAFETY: there is room for as many vectors.
                    unsafe { sum.store(values.as_mut_ptr().add(vector * V::LANES)) };
                }
            }
        }
    }
}

/// Does what follows to the elements of the result from `start` on.
fn finish(epilogue: Epilogue, start: usize, elements: &mut [f32]) {
    match epilogue {
        Epilogue::Nothing => {}
        Epilogue::Relu => elements.iter_mut().for_each(|element| *element = element.rectified()),
        Epilogue::Add(tensor) => {
            elements.iter_mut().zip(&tensor[start..]).for_each(|(element, added)| *element += added);
        }
        Epilogue::AddPerSample(_) => unreachable!("planned for tiles of pixels alone"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{gather_forward, gather_scratch, pack_forward};
    use super::*;
    use crate::cpu::simd::Level;
    use crate::cpu::tile::Tiles;
    use crate::ops::Padding;
    use crate::random::noise;

    #[test]
    fn elements_have_the_bits_of_gathered_ones() {
        let wide = Conv { kernel_h: 5, kernel_w: 7, padding: Padding::symmetric(2, 3), ..Conv::SAME_3X3 };
        let lopsided = Conv { kernel_w: 2, padding: Padding::BOTTOM_RIGHT, ..Conv::SAME_3X3 };
        let threads = rayon::current_num_threads();
        // Bands and vectors that are not whole, fewer rows than a band has, as many channels at a time as
        // there can be.
        for (conv, h, w, c, o) in [
            (Conv::SAME_3X3, 32, 32, 128, 3),
            (Conv::SAME_3X3, 13, 19, 37, 1),
            (Conv::SAME_3X3, 3, 2, 16, 2),
            (Conv::SAME_3X3, 6, 33, 20, 6),
            (wide, 9, 18, 17, 7),
            (lopsided, 7, 16, 16, 5),
        ] {
            let (y_h, y_w) = conv.output_size(h, w);
            let (x, y) = (Shape::new(2, h, w, c), Shape::new(2, y_h, y_w, o));
            assert!(applies(conv, x, y));
            let (source, weight, bias) = (noise(1, x.len()), noise(2, conv.taps() * c * o), noise(3, o));
            let there = noise(4, y.len());
            for level in Level::available() {
                let tiles = Tiles::new(level);
                for epilogue in [Epilogue::Nothing, Epilogue::Relu, Epilogue::Add(&there)] {
                    let convolve = |few: bool| {
                        let scratch = match few {
                            true => scratch(conv, x, y, threads),
                            false => gather_scratch(x, y, conv, tiles, threads),
                        };
                        let mut prepared = vec![f32::NAN; scratch.prepared];
                        match few {
                            true => prepare(&weight, &bias, &mut prepared),
                            false => pack_forward(&weight, &bias, x, y, conv, tiles, &mut prepared),
                        }
                        let mut result = vec![f32::NAN; y.len()];
                        let gather = Gather {
                            conv,
                            tiles,
                            source: (&source, x),
                            prepared: &prepared,
                            epilogue,
                            workspace: &mut vec![f32::NAN; scratch.workspace],
                            result: (&mut result, y),
                        };
                        if few {
                            forward(gather)
                        } else {
                            gather_forward(gather)
                        }
                        result.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    };
                    assert!(convolve(true) == convolve(false), "{conv:?}, {x} to {y}, {level:?}");
                }
            }
        }
    }
}
