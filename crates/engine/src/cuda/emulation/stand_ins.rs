//! What stands in for cuDNN and cuBLASLt: the plainest loops over the same layouts.

use super::tape::Tape;
use crate::cuda::bf16;
use crate::cuda::convolution::Direction;
use crate::cuda::device::{Address, Convolved, Libraries, Support};
use crate::cuda::error::CudaError;
use crate::cuda::kernels::{Convolution, Operands, Product};
use crate::kernel::Storage;

/// Both libraries, for activations stored in one way.
pub(super) struct StandIns {
    pub storage: Storage,
    pub tape: Tape,
}

/// Bytes of workspace that every convolution wants: no round number.
const WORKSPACE: usize = 1001;

/// A tensor in memory.
#[derive(Clone, Copy)]
struct Tensor {
    address: Address,
    storage: Storage,
}

impl Tensor {
    /// # Safety
    /// The element is there.
    unsafe fn read(self, index: usize) -> f64 {
        // SAFETY: the element is there.
        f64::from(unsafe {
            match self.storage {
                Storage::F32 => *(self.address as *const f32).add(index),
                Storage::Bf16 => bf16::to_f32(*(self.address as *const u16).add(index)),
            }
        })
    }

    /// # Safety
    /// The element is there.
    unsafe fn write(self, index: usize, value: f64) {
        // SAFETY: the element is there.
        unsafe {
            match self.storage {
                Storage::F32 => *(self.address as *mut f32).add(index) = value as f32,
                Storage::Bf16 => *(self.address as *mut u16).add(index) = bf16::from_f32(value as f32),
            }
        }
    }
}

/// Calls `f` with the indices of all elements of image, filter `[out, kernel_h, kernel_w, in]` and result
/// that are multiplied.
fn for_each_product(g: &Convolution, mut f: impl FnMut(usize, usize, usize)) {
    let sizes = [g.n, g.y_h, g.y_w, g.output, g.kernel_h, g.kernel_w, g.input, g.x_h, g.x_w]
        .map(|size| size as usize);
    let [n, y_h, y_w, output, kernel_h, kernel_w, input, x_h, x_w] = sizes;
    let [stride, top, left] = [g.stride, g.top, g.left].map(|size| size as usize);
    for pixel in 0..n * y_h * y_w {
        for tap in 0..kernel_h * kernel_w {
            let row = pixel / y_w % y_h * stride + tap / kernel_w;
            let column = pixel % y_w * stride + tap % kernel_w;
            if row < top || row - top >= x_h || column < left || column - left >= x_w {
                continue;
            }
            let from = (pixel / (y_w * y_h) * x_h + row - top) * x_w + column - left;
            for o in 0..output {
                for c in 0..input {
                    f(from * input + c, (o * kernel_h * kernel_w + tap) * input + c, pixel * output + o);
                }
            }
        }
    }
}

impl Libraries for StandIns {
    fn support(&self, direction: Direction, geometry: &Convolution) -> Option<Support> {
        // Some the libraries do not take, and some they take without the bias or without other padding.
        let adds_bias = adds_bias(direction, geometry);
        let takes_padding = geometry.has_alike_padding() || geometry.input.is_multiple_of(2);
        (geometry.kernel_h != 2 && takes_padding).then_some(Support { workspace: WORKSPACE, adds_bias })
    }

    unsafe fn convolve(
        &self,
        direction: Direction,
        geometry: &Convolution,
        convolved: Convolved,
        workspace: Address,
    ) -> Result<(), CudaError> {
        let (storage, geometry) = (self.storage, *geometry);
        self.tape.take(move || {
            // SAFETY: as the caller says.
            unsafe { self::convolve(storage, direction, &geometry, convolved, workspace) };
            Ok(())
        })
    }

    unsafe fn multiply(
        &self,
        operands: Operands,
        p: &Product,
        batch: usize,
        [a, b]: [Address; 2],
        out: Address,
    ) -> Result<bool, CudaError> {
        // Some the libraries do not take.
        if p.depth == 17 {
            return Ok(false);
        }
        let (storage, p) = (self.storage, *p);
        self.tape.take(move || {
            // SAFETY: as the caller says.
            unsafe { self::multiply(storage, operands, &p, batch, [a, b], out) };
            Ok(())
        })?;
        Ok(true)
    }
}

fn adds_bias(direction: Direction, geometry: &Convolution) -> bool {
    direction == Direction::Forward && geometry.output.is_multiple_of(2)
}

/// # Safety
/// The tensors have the geometry's shapes, the workspace has its size.
unsafe fn convolve(
    storage: Storage,
    direction: Direction,
    geometry: &Convolution,
    convolved: Convolved,
    workspace: Address,
) {
    // SAFETY: the workspace has its size. What must not lie there is spoilt.
    unsafe { std::ptr::write_bytes(workspace as *mut u8, 0xFF, WORKSPACE) };
    let Convolved { x, w, y, bias } = convolved;
    let [x, w, y, bias] = [x, w, y, bias].map(|address| Tensor { address, storage });
    let (first, second, out) = match direction {
        Direction::Forward => (x, w, y),
        Direction::InputGradient => (w, y, x),
        Direction::WeightGradient => (x, y, w),
    };
    let adds_bias = adds_bias(direction, geometry);
    let len = match direction {
        Direction::Forward => geometry.y().len(),
        Direction::InputGradient => geometry.x().len(),
        Direction::WeightGradient => geometry.filter_len(),
    };
    let mut sums = vec![0.0; len];
    for_each_product(geometry, |x, w, y| {
        let (a, b, to) = match direction {
            Direction::Forward => (x, w, y),
            Direction::InputGradient => (w, y, x),
            Direction::WeightGradient => (x, y, w),
        };
        // SAFETY: the tensors have the geometry's shapes.
        sums[to] += unsafe { first.read(a) * second.read(b) };
    });
    for (index, sum) in sums.into_iter().enumerate() {
        // SAFETY: as above; the bias has a number for each channel.
        unsafe {
            let bias = if adds_bias { bias.read(index % geometry.output as usize) } else { 0.0 };
            out.write(index, sum + bias);
        }
    }
}

/// # Safety
/// The matrices are there.
unsafe fn multiply(
    storage: Storage,
    operands: Operands,
    p: &Product,
    batch: usize,
    [a, b]: [Address; 2],
    out: Address,
) {
    let [a, b] = [a, b].map(|address| Tensor { address, storage });
    let storage = if operands == Operands::Gradient { Storage::F32 } else { storage };
    let out = Tensor { address: out, storage };
    let place = |batch: u64, index: usize, row: usize, row_step: u32, column: usize, column_step: u32| {
        batch as usize * index + row * row_step as usize + column * column_step as usize
    };
    for index in 0..batch {
        for i in 0..p.m as usize {
            for j in 0..p.n as usize {
                let to = place(p.c_batch, index, i, p.c_row, j, 1);
                // SAFETY: the matrices are there.
                unsafe {
                    let mut sum = 0.0;
                    for k in 0..p.depth as usize {
                        sum += a.read(place(p.a_batch, index, i, p.a_row, k, p.a_column))
                            * b.read(place(p.b_batch, index, k, p.b_row, j, p.b_column));
                    }
                    let before = if p.accumulate == 1 { out.read(to) } else { 0.0 };
                    out.write(to, f64::from(p.alpha) * sum + before);
                }
            }
        }
    }
}
