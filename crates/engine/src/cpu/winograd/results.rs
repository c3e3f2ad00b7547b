//! From products back to the pixels of the result.

use super::Tiling;
use super::transform::{self, RESULT, TILE};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::parallel::Shared;
use crate::cpu::simd::{LINE, Vector, prefetch, prefetch_for_writing};
use crate::cpu::tile::MAX_WIDTH;
use crate::shape::Shape;
use std::ops::Range;

/// Where results go, and what is done to them before.
#[derive(Clone, Copy)]
pub(super) struct Results<'a> {
    tiling: Tiling,
    values: Shared,
    /// Added to every pixel, if given.
    bias: Option<&'a [f32]>,
    epilogue: Epilogue<'a>,
}

/// What is done to a tile's results. Pointers lead to the first of its channels.
enum Finish {
    Nothing,
    Relu,
    /// Each pixel has something added,
    Pixels([[*const f32; RESULT]; RESULT]),
    /// or all of them the same.
    Vector(*const f32),
}

impl<'a> Results<'a> {
    pub fn new(
        (values, shape): (&mut [f32], Shape),
        bias: Option<&'a [f32]>,
        epilogue: Epilogue<'a>,
    ) -> Self {
        Self { tiling: Tiling::new(shape, shape), values: Shared::new(values), bias, epilogue }
    }

    pub fn shape(&self) -> Shape {
        self.tiling.shape
    }

    /// Calls what [`Self::store`] needs into cache.
    #[inline(always)]
    pub fn prefetch(&self, tile: usize, channels: &Range<usize>) {
        // Beyond the image: some pixel inside, for want of another.
        let offsets = self.tiling.pixels::<RESULT, _>(tile, 0, |offset| offset, 0);
        for offset in offsets.as_flattened() {
            for channel in channels.clone().step_by(LINE) {
                prefetch_for_writing(self.values.pointer(offset + channel));
                if let Epilogue::Add(tensor) = self.epilogue {
                    prefetch(tensor.as_ptr().wrapping_add(offset + channel));
                }
            }
        }
    }

    /// Transforms the products of some channels of a tile into its pixels. `from` has one of each channel, and so has each further plane, `stride` further.
    ///
    /// # Safety
    /// Planes have these channels, which nobody else uses in the tile's pixels.
    #[inline(always)]
    pub unsafe fn store<V: Vector>(
        &self,
        tile: usize,
        channels: Range<usize>,
        from: *const f32,
        stride: usize,
    ) {
        let mut beyond = [0.0; MAX_WIDTH];
        let beyond = beyond.as_mut_ptr();
        let pixel = |offset: usize| self.values.pointer(offset + channels.start);
        let pixels = self.tiling.pixels::<RESULT, _>(tile, 0, pixel, beyond);
        let finish = match self.epilogue {
            Epilogue::Nothing => Finish::Nothing,
            Epilogue::Relu => Finish::Relu,
            Epilogue::Add(tensor) => {
                let pixel = |offset: usize| tensor.as_ptr().wrapping_add(offset + channels.start);
                Finish::Pixels(self.tiling.pixels(tile, 0, pixel, beyond.cast_const()))
            }
            Epilogue::AddPerSample(vectors) => {
                let start = self.tiling.place(tile).0 * self.tiling.shape.c + channels.start;
                Finish::Vector(vectors.as_ptr().wrapping_add(start))
            }
        };
        let bias = self.bias.map(|bias| bias[channels.clone()].as_ptr());
        let mut c = 0;
        while c + V::LANES <= channels.len() {
            // SAFETY: the caller's; a pixel beyond the image has room for a panel.
            unsafe { store_at::<V>(from, stride, c, bias, &finish, &pixels) };
            c += V::LANES;
        }
        while c < channels.len() {
            // SAFETY: as above.
            unsafe { store_at::<f32>(from, stride, c, bias, &finish, &pixels) };
            c += 1;
        }
    }
}

/// Transforms a vector of channels, from channel `c` of the tile's on.
#[inline(always)]
unsafe fn store_at<V: Vector>(
    from: *const f32,
    stride: usize,
    c: usize,
    bias: Option<*const f32>,
    finish: &Finish,
    pixels: &[[*mut f32; RESULT]; RESULT],
) {
    let mut m = [[V::splat(0.0); TILE]; TILE];
    for i in 0..TILE {
        for j in 0..TILE {
            // SAFETY: the caller's.
            m[i][j] = unsafe { V::load(from.add((i * TILE + j) * stride + c)) };
        }
    }
    // SAFETY: the caller's.
    let bias = bias.map_or(V::splat(0.0), |bias| unsafe { V::load(bias.add(c)) });
    let mut y = transform::output(m, bias);
    // SAFETY: the caller's.
    unsafe {
        match *finish {
            Finish::Nothing => {}
            Finish::Relu => {
                for i in 0..RESULT {
                    for j in 0..RESULT {
                        y[i][j] = y[i][j].rectified();
                    }
                }
            }
            Finish::Pixels(added) => {
                for i in 0..RESULT {
                    for j in 0..RESULT {
                        y[i][j] = y[i][j].add(V::load(added[i][j].add(c)));
                    }
                }
            }
            Finish::Vector(added) => {
                let added = V::load(added.add(c));
                for i in 0..RESULT {
                    for j in 0..RESULT {
                        y[i][j] = y[i][j].add(added);
                    }
                }
            }
        }
        for i in 0..RESULT {
            for j in 0..RESULT {
                y[i][j].store(pixels[i][j].add(c));
            }
        }
    }
}
