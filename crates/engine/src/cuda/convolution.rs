//! Convolutions: by cuDNN, those of single pixels as products, and what no library takes by kernels of our own.
//!
//! cuDNN's filters are `[out, kernel_h, kernel_w, in]`, ours `[kernel_h, kernel_w, in, out]`: they are
//! transposed into the scratch for what is prepared, and the bias is put after them where the library adds
//! it. Padding that it does not take, not being alike on both sides, is written out, into the workspace.

use super::device::{Address, Argument, Convolved, Libraries, Support};
use super::error::CudaError;
use super::kernels::{Convolution, Operands, Product, Side, count};
use super::queue::{Queue, WORD};
use crate::kernel::{Kernel, Scratch, Step, Storage};
use crate::ops::Conv;
use crate::shape::Shape;

/// What of a convolution is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Direction {
    /// The result from image and filter.
    Forward,
    /// The image's gradient from filter and result's gradient.
    InputGradient,
    /// The filter's gradient from image and result's gradient.
    WeightGradient,
}

/// How a convolution is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    /// As a product of matrices.
    Pointwise,
    /// By the library, with this geometry.
    Library { geometry: Convolution, support: Support },
    /// By a kernel of our own.
    Own,
}

/// Words up to which scratch is divided: 256 bytes.
const ALIGNMENT: usize = 64;

/// The geometry with the padding written out: a larger image, none around it. Pixels that no window reaches stay.
fn padded(g: &Convolution) -> Convolution {
    let side = |result: u32, kernel: u32, len: u32| ((result - 1) * g.stride + kernel).max(len);
    Convolution {
        x_h: side(g.y_h, g.kernel_h, g.x_h + g.top),
        x_w: side(g.y_w, g.kernel_w, g.x_w + g.left),
        top: 0,
        left: 0,
        ..*g
    }
}

fn route(libraries: Option<&dyn Libraries>, direction: Direction, conv: Conv, g: &Convolution) -> Route {
    if conv == Conv::POINTWISE {
        return Route::Pointwise;
    }
    let by_library = |geometry: Convolution| {
        let support = libraries?.support(direction, &geometry)?;
        Some(Route::Library { geometry, support })
    };
    let with_padding_written = || if g.has_alike_padding() { None } else { by_library(padded(g)) };
    by_library(*g).or_else(with_padding_written).unwrap_or(Route::Own)
}

/// Whether a convolution is left to our own kernels, which are slow.
pub(super) fn is_own(libraries: Option<&dyn Libraries>, step: &Step) -> Option<bool> {
    let (inputs, outputs) = (&step.inputs, &step.outputs);
    let (direction, conv, x, y) = match step.kernel {
        Kernel::Conv(conv) => (Direction::Forward, conv, inputs[0].shape, outputs[0].shape),
        Kernel::ConvInputGrad(conv) => (Direction::InputGradient, conv, outputs[0].shape, inputs[0].shape),
        Kernel::ConvWeightGrad(conv) => (Direction::WeightGradient, conv, inputs[0].shape, inputs[1].shape),
        _ => return None,
    };
    Some(route(libraries, direction, conv, &Convolution::new(conv, x, y)) == Route::Own)
}

/// Where the bias begins behind a prepared filter, in words.
fn bias_offset(storage: Storage, filter_len: usize) -> usize {
    storage.words(filter_len).next_multiple_of(ALIGNMENT)
}

/// Where the parts of the workspace begin, in words.
struct Parts {
    /// The library's own.
    library: usize,
    /// The filter's gradient as the library has it.
    filter: usize,
    len: usize,
}

/// First the padded image, if there is one.
fn parts(
    storage: Storage,
    direction: Direction,
    [original, geometry]: [&Convolution; 2],
    workspace: usize,
) -> Parts {
    let image = if geometry == original { 0 } else { storage.words(geometry.x().len()) };
    let library = image.next_multiple_of(ALIGNMENT);
    let filter = (library + workspace.div_ceil(WORD)).next_multiple_of(ALIGNMENT);
    let gradient =
        if direction == Direction::WeightGradient { storage.words(geometry.filter_len()) } else { 0 };
    Parts { library, filter, len: filter + gradient }
}

/// Pixels over which our own kernel sums a part of a filter's gradient, and the number of parts: more of them
/// where the filter is small, so that all of a device works.
fn chunks(g: &Convolution) -> (usize, usize) {
    /// Elements of all parts, about.
    const ALL: usize = 1 << 20;
    const LEAST: usize = 256;
    let pixels = g.y().n * g.y().pixels();
    let wanted = (ALL / g.filter_len()).clamp(1, 256);
    let chunk = pixels.div_ceil(wanted).max(LEAST);
    (chunk, pixels.div_ceil(chunk))
}

/// Scratch for a convolution of image `x` to result `y`.
pub(super) fn scratch(
    libraries: Option<&dyn Libraries>,
    storage: Storage,
    direction: Direction,
    conv: Conv,
    x: Shape,
    y: Shape,
) -> Scratch {
    let original = Convolution::new(conv, x, y);
    let filter = match direction {
        Direction::WeightGradient => 0,
        _ => storage.words(original.filter_len()),
    };
    match route(libraries, direction, conv, &original) {
        // The library multiplies what is stored alike.
        Route::Pointwise if storage != Storage::F32 && libraries.is_some() => {
            Scratch { prepared: filter, workspace: 0 }
        }
        Route::Own if direction == Direction::WeightGradient => {
            let chunks = chunks(&original).1;
            Scratch { prepared: 0, workspace: chunks * original.filter_len() }
        }
        Route::Pointwise | Route::Own => Scratch::default(),
        Route::Library { geometry, support } => Scratch {
            prepared: match support.adds_bias {
                true => bias_offset(storage, original.filter_len()) + storage.words(y.c),
                false => filter,
            },
            workspace: parts(storage, direction, [&original, &geometry], support.workspace).len,
        },
    }
}

impl Queue<'_> {
    fn workspace(&self, step: &Step, offset: usize) -> Address {
        step.workspace.map_or(0, |view| self.address(view) + (offset * WORD) as Address)
    }

    /// Brings the filter to what the library wants.
    pub(super) fn prepare_convolution(&self, step: &Step) -> Result<(), CudaError> {
        let Some(prepared) = step.prepared else { return Ok(()) };
        let weight = step.inputs[1];
        let len = weight.shape.len();
        let (from, to) = (self.address(weight), self.address(prepared));
        let outputs = match step.kernel {
            Kernel::Conv(Conv::POINTWISE) | Kernel::ConvInputGrad(Conv::POINTWISE) => {
                return self.convert(len, from, to);
            }
            Kernel::Conv(_) => step.outputs[0].shape.c,
            _ => step.inputs[0].shape.c,
        };
        self.transpose("transpose_filter", [len / outputs, outputs], from, to)?;
        // Behind the filter there is room for the bias if the library adds it.
        match (&step.kernel, self.prepared_bias(step)) {
            (Kernel::Conv(_), Some(bias)) => self.convert(outputs, self.address(step.inputs[2]), bias),
            _ => Ok(()),
        }
    }

    /// Where the bias lies behind the filter, if there is room for it.
    fn prepared_bias(&self, step: &Step) -> Option<Address> {
        let prepared = step.prepared?;
        let offset = bias_offset(self.storage, step.inputs[1].shape.len());
        (offset < prepared.shape.len()).then(|| self.address(prepared) + (offset * WORD) as Address)
    }

    fn convert(&self, len: usize, from: Address, to: Address) -> Result<(), CudaError> {
        let arguments = [Argument::U32(count(len)), Argument::Address(from), Argument::Address(to)];
        self.spread("convert", len, &arguments)
    }

    fn transpose(
        &self,
        kernel: &'static str,
        [rows, columns]: [usize; 2],
        from: Address,
        to: Address,
    ) -> Result<(), CudaError> {
        let grid = [count(columns.div_ceil(32)), count(rows.div_ceil(32)), 1];
        self.grid(
            kernel,
            grid,
            &[
                Argument::U32(count(rows)),
                Argument::U32(count(columns)),
                Argument::Address(from),
                Argument::Address(to),
            ],
        )
    }

    /// Moves an image into the padded one (`pad`) or its gradient out of it (`crop`).
    fn reframe(
        &self,
        kernel: &'static str,
        [g, padded]: [&Convolution; 2],
        from: Address,
        to: Address,
    ) -> Result<(), CudaError> {
        let written = if kernel == "pad" { padded.x() } else { g.x() };
        self.spread(
            kernel,
            written.len(),
            &[
                Argument::U32(count(written.len())),
                Argument::U32(g.x_h),
                Argument::U32(g.x_w),
                Argument::U32(g.input),
                Argument::U32(padded.x_h),
                Argument::U32(padded.x_w),
                Argument::U32(g.top),
                Argument::U32(g.left),
                Argument::Address(from),
                Argument::Address(to),
            ],
        )
    }

    fn add_bias(&self, step: &Step) -> Result<(), CudaError> {
        let y = step.outputs[0];
        let work = if y.shape.c.is_multiple_of(4) { y.shape.len() / 4 } else { y.shape.len() };
        self.spread(
            "add_bias",
            work,
            &[
                Argument::U32(count(y.shape.len())),
                Argument::U32(count(y.shape.c)),
                self.argument(step.inputs[2]),
                self.argument(y),
            ],
        )
    }

    /// (x, weight, bias) → y.
    pub(super) fn convolve(&self, conv: Conv, step: &Step) -> Result<(), CudaError> {
        let (x, y) = (step.inputs[0], step.outputs[0]);
        let g = Convolution::new(conv, x.shape, y.shape);
        match route(self.device.libraries(), Direction::Forward, conv, &g) {
            Route::Pointwise => {
                let sizes = [y.shape.n * y.shape.pixels(), y.shape.c, x.shape.c];
                let product = Product::new(sizes, Side::Plain, Side::Plain);
                self.multiply_weights(&product, step, self.address(y))?;
                self.add_bias(step)
            }
            Route::Library { geometry, support } => {
                let parts = parts(self.storage, Direction::Forward, [&g, &geometry], support.workspace);
                let x = self.padded_image(step, &g, &geometry)?;
                let w = step.prepared.map_or(0, |view| self.address(view));
                let bias = self.prepared_bias(step).unwrap_or(0);
                let convolved = Convolved { x, w, y: self.address(y), bias };
                let workspace = self.workspace(step, parts.library);
                self.library(Direction::Forward, &geometry, convolved, workspace)?;
                if support.adds_bias { Ok(()) } else { self.add_bias(step) }
            }
            Route::Own => self.tiles(
                "convolution",
                [y.shape.n * y.shape.pixels(), y.shape.c, 1],
                &[
                    Argument::Convolution(g),
                    self.argument(x),
                    self.argument(step.inputs[1]),
                    self.argument(step.inputs[2]),
                    self.argument(y),
                ],
            ),
        }
    }

    /// (dy, weight) → dx.
    pub(super) fn convolve_input_gradient(&self, conv: Conv, step: &Step) -> Result<(), CudaError> {
        let (dy, dx) = (step.inputs[0], step.outputs[0]);
        let g = Convolution::new(conv, dx.shape, dy.shape);
        match route(self.device.libraries(), Direction::InputGradient, conv, &g) {
            Route::Pointwise => {
                let sizes = [dx.shape.n * dx.shape.pixels(), dx.shape.c, dy.shape.c];
                let product = Product::new(sizes, Side::Plain, Side::Transposed);
                self.multiply_weights(&product, step, self.address(dx))
            }
            Route::Library { geometry, support } => {
                let parts = parts(self.storage, Direction::InputGradient, [&g, &geometry], support.workspace);
                let w = step.prepared.map_or(0, |view| self.address(view));
                let in_place = geometry == g;
                let x = if in_place { self.address(dx) } else { self.workspace(step, 0) };
                let convolved = Convolved { x, w, y: self.address(dy), bias: 0 };
                let workspace = self.workspace(step, parts.library);
                self.library(Direction::InputGradient, &geometry, convolved, workspace)?;
                if in_place {
                    return Ok(());
                }
                self.reframe("crop", [&g, &geometry], x, self.address(dx))
            }
            Route::Own => self.tiles(
                "convolution_input_gradient",
                [dx.shape.n * dx.shape.pixels(), dx.shape.c, 1],
                &[
                    Argument::Convolution(g),
                    self.argument(dy),
                    self.argument(step.inputs[1]),
                    self.argument(dx),
                ],
            ),
        }
    }

    /// (x, dy) → dw, added to.
    pub(super) fn convolve_weight_gradient(&self, conv: Conv, step: &Step) -> Result<(), CudaError> {
        let (x, dy) = (step.inputs[0], step.inputs[1]);
        let dw = self.address(step.outputs[0]);
        let g = Convolution::new(conv, x.shape, dy.shape);
        match route(self.device.libraries(), Direction::WeightGradient, conv, &g) {
            Route::Pointwise => {
                let sizes = [x.shape.c, dy.shape.c, x.shape.n * x.shape.pixels()];
                let product = Product::new(sizes, Side::Transposed, Side::Plain).added();
                self.multiply(Operands::Gradient, &product, 1, [self.address(x), self.address(dy)], dw)
            }
            Route::Library { geometry, support } => {
                let parts =
                    parts(self.storage, Direction::WeightGradient, [&g, &geometry], support.workspace);
                let x = self.padded_image(step, &g, &geometry)?;
                let w = self.workspace(step, parts.filter);
                let convolved = Convolved { x, w, y: self.address(dy), bias: 0 };
                let workspace = self.workspace(step, parts.library);
                self.library(Direction::WeightGradient, &geometry, convolved, workspace)?;
                self.transpose("transpose_gradient", [g.output as usize, g.filter_rows()], w, dw)
            }
            Route::Own => {
                let (chunk, chunks) = chunks(&g);
                let parts = self.workspace(step, 0);
                self.tiles(
                    "convolution_weight_gradient",
                    [g.filter_rows(), dy.shape.c, chunks],
                    &[
                        Argument::Convolution(g),
                        Argument::U32(count(chunk)),
                        self.argument(x),
                        self.argument(dy),
                        Argument::Address(parts),
                    ],
                )?;
                self.fold("fold_to_gradient", [1, chunks, g.filter_len()], parts, dw)
            }
        }
    }

    /// The image as the library gets it.
    fn padded_image(&self, step: &Step, g: &Convolution, padded: &Convolution) -> Result<Address, CudaError> {
        let image = self.address(step.inputs[0]);
        if padded == g {
            return Ok(image);
        }
        let to = self.workspace(step, 0);
        self.reframe("pad", [g, padded], image, to)?;
        Ok(to)
    }

    fn library(
        &self,
        direction: Direction,
        geometry: &Convolution,
        convolved: Convolved,
        workspace: Address,
    ) -> Result<(), CudaError> {
        let Some(libraries) = self.device.libraries() else { return Ok(()) };
        // SAFETY: the tensors have the geometry's shapes; `scratch` asked for the workspace.
        unsafe { libraries.convolve(direction, geometry, convolved, workspace) }
    }

    /// The product of the step's first input and its weight, by the library with the prepared weight, or our
    /// own kernel.
    fn multiply_weights(&self, product: &Product, step: &Step, out: Address) -> Result<(), CudaError> {
        let (x, weight) = (self.address(step.inputs[0]), self.address(step.inputs[1]));
        let prepared = step.prepared.map_or(weight, |view| self.address(view));
        if self.multiply_by_library(Operands::Weights, product, 1, [x, prepared], out)? {
            return Ok(());
        }
        self.multiply_by_kernel(Operands::Weights, product, 1, [x, weight], out)
    }

    /// Computes `batch` products, by the library or our own kernel.
    pub(super) fn multiply(
        &self,
        operands: Operands,
        product: &Product,
        batch: usize,
        factors: [Address; 2],
        out: Address,
    ) -> Result<(), CudaError> {
        if self.multiply_by_library(operands, product, batch, factors, out)? {
            return Ok(());
        }
        self.multiply_by_kernel(operands, product, batch, factors, out)
    }

    fn multiply_by_library(
        &self,
        operands: Operands,
        product: &Product,
        batch: usize,
        factors: [Address; 2],
        out: Address,
    ) -> Result<bool, CudaError> {
        match self.device.libraries() {
            // SAFETY: the callers' matrices have the product's sizes.
            Some(libraries) => unsafe { libraries.multiply(operands, product, batch, factors, out) },
            None => Ok(false),
        }
    }

    fn multiply_by_kernel(
        &self,
        operands: Operands,
        product: &Product,
        batch: usize,
        [a, b]: [Address; 2],
        out: Address,
    ) -> Result<(), CudaError> {
        self.tiles(
            operands.kernel(),
            [product.m as usize, product.n as usize, batch],
            &[
                Argument::Product(*product),
                Argument::Address(a),
                Argument::Address(b),
                Argument::Address(out),
            ],
        )
    }
}
