//! From products back to the pixels of the result.

use super::Tiling;
use super::transform::{self, RESULT, TILE};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::parallel::Shared;
use crate::cpu::simd::{LINE, Vector, prefetch, prefetch_for_writing};
use crate::cpu::tile::MAX_WIDTH;
use crate::shape::Shape;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The offset of a pixel beyond the image.
const BEYOND: usize = usize::MAX;

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
    /// Each pixel has something added, which lies where the pixel does,
    Add(*const f32),
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

    /// Transforms the products of some channels of `tiles` into their pixels. Each plane of `products` has a
    /// row of these channels for each tile, `width` long; from plane to plane it is `stride`.
    ///
    /// # Safety
    /// All planes have these rows, and nobody else uses these channels of the tiles' pixels.
    #[inline(always)]
    pub unsafe fn store<V: Vector>(
        &self,
        tiles: Range<usize>,
        channels: &Range<usize>,
        (products, width, stride): (*const f32, usize, usize),
    ) {
        let mut next = self.offsets(tiles.start);
        for (row, tile) in tiles.clone().enumerate() {
            let offsets = next;
            if tile + 1 < tiles.end {
                next = self.offsets(tile + 1);
                self.prefetch(&next, channels);
            }
            // SAFETY: the caller's.
            unsafe { self.store_tile::<V>(tile, &offsets, channels, products.add(row * width), stride) };
        }
    }

    /// Where a tile's pixels begin, [`BEYOND`] the image nowhere.
    #[inline(always)]
    fn offsets(&self, tile: usize) -> [[usize; RESULT]; RESULT] {
        self.tiling.pixels(tile, 0, |offset| offset, BEYOND)
    }

    /// Calls a tile's pixels into cache, and what is added to them.
    #[inline(always)]
    fn prefetch(&self, offsets: &[[usize; RESULT]; RESULT], channels: &Range<usize>) {
        for &offset in offsets.as_flattened().iter().filter(|&&offset| offset != BEYOND) {
            for channel in channels.clone().step_by(LINE) {
                let at = offset + channel;
                prefetch_for_writing(self.values.pointer(at));
                if let Epilogue::Add(tensor) = self.epilogue {
                    prefetch(tensor.as_ptr().wrapping_add(at));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store_tile<V: Vector>(
        &self,
        tile: usize,
        offsets: &[[usize; RESULT]; RESULT],
        channels: &Range<usize>,
        from: *const f32,
        stride: usize,
    ) {
        let mut beyond = MaybeUninit::<[f32; MAX_WIDTH]>::uninit();
        let beyond = beyond.as_mut_ptr().cast::<f32>();
        let mut pixels = [[beyond; RESULT]; RESULT];
        for i in 0..RESULT {
            for j in 0..RESULT {
                if offsets[i][j] != BEYOND {
                    pixels[i][j] = self.values.pointer(offsets[i][j] + channels.start);
                }
            }
        }
        let finish = match self.epilogue {
            Epilogue::Nothing => Finish::Nothing,
            Epilogue::Relu => Finish::Relu,
            Epilogue::Add(tensor) => Finish::Add(tensor.as_ptr().wrapping_add(channels.start)),
            Epilogue::AddPerSample(vectors) => {
                let start = self.tiling.place(tile).0 * self.tiling.shape.c + channels.start;
                Finish::Vector(vectors.as_ptr().wrapping_add(start))
            }
        };
        let bias = self.bias.map(|bias| bias[channels.clone()].as_ptr());
        let mut c = 0;
        while c + V::LANES <= channels.len() {
            // SAFETY: the caller's; a pixel beyond the image has room for a panel.
            unsafe { store_at::<V>(from, stride, c, bias, &finish, offsets, &pixels) };
            c += V::LANES;
        }
        while c < channels.len() {
            // SAFETY: as above.
            unsafe { store_at::<f32>(from, stride, c, bias, &finish, offsets, &pixels) };
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
    offsets: &[[usize; RESULT]; RESULT],
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
            Finish::Add(added) => {
                for i in 0..RESULT {
                    for j in 0..RESULT {
                        if offsets[i][j] != BEYOND {
                            y[i][j] = y[i][j].add(V::load(added.add(offsets[i][j] + c)));
                        }
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
