//! Each step of a program as launches.

use super::attention;
use super::convolution::{self, Direction};
use super::device::{Argument, Libraries};
use super::error::CudaError;
use super::group_norm;
use super::kernels::{self, Window, check_size, count};
use super::queue::{Queue, WORD};
use crate::kernel::{Kernel, Scratch, Slot, Step, Storage, View};
use crate::ops::{Conv, Dropout, Pool, Sinusoid};
use crate::random::Purpose;
use crate::shape::Shape;

/// Rows whose sum is one part of a sum over rows: many parts for many rows, so that all of a device works,
/// but few to add up.
fn rows_per_chunk(rows: usize) -> usize {
    const LEAST: usize = 32;
    const MOST_CHUNKS: usize = 512;
    rows.div_ceil(MOST_CHUNKS).max(LEAST)
}

/// Elements of the parts of sums over `rows` rows, in each of `n` samples.
fn column_parts(n: usize, rows: usize, c: usize) -> usize {
    n * rows.div_ceil(rows_per_chunk(rows)) * c
}

/// Scratch for a step.
pub(super) fn scratch(
    libraries: Option<&dyn Libraries>,
    storage: Storage,
    kernel: &Kernel,
    inputs: &[Shape],
    outputs: &[Shape],
) -> Scratch {
    if inputs.iter().chain(outputs).any(|&shape| check_size(shape).is_err()) {
        // The step is refused before it runs.
        return Scratch::default();
    }
    let Some(&shape) = inputs.first() else { return Scratch::default() };
    match *kernel {
        Kernel::Conv(conv) => {
            convolution::scratch(libraries, storage, Direction::Forward, conv, shape, outputs[0])
        }
        Kernel::ConvInputGrad(conv) => {
            convolution::scratch(libraries, storage, Direction::InputGradient, conv, outputs[0], shape)
        }
        Kernel::ConvWeightGrad(conv) => {
            convolution::scratch(libraries, storage, Direction::WeightGradient, conv, shape, inputs[1])
        }
        Kernel::BiasGrad => {
            Scratch { prepared: 0, workspace: column_parts(1, shape.n * shape.pixels(), shape.c) }
        }
        Kernel::SumPixels => {
            Scratch { prepared: 0, workspace: column_parts(shape.n, shape.pixels(), shape.c) }
        }
        Kernel::ScaleShiftGrad => {
            Scratch { prepared: 0, workspace: column_parts(shape.n, shape.pixels(), 2 * shape.c) }
        }
        Kernel::GroupNorm(_) | Kernel::GroupNormDropout(..) => group_norm::scratch(shape),
        Kernel::GroupNormGrad(norm) | Kernel::GroupNormDropoutGrad(norm, _) => {
            group_norm::gradient_scratch(shape, norm)
        }
        Kernel::AttentionGrad(_) => attention::gradient_scratch(storage, shape),
        _ => Scratch::default(),
    }
}

/// Checks that a step can be run where activations are stored as `storage`.
pub(super) fn check(step: &Step, storage: Storage) -> Result<(), CudaError> {
    let scratch = step.prepared.iter().chain(&step.workspace);
    step.inputs.iter().chain(&step.outputs).chain(scratch).try_for_each(|view| check_size(view.shape))?;
    if let Kernel::Attention(_) | Kernel::AttentionGrad(_) = step.kernel {
        let shape = step.inputs[0].shape;
        check_size(Shape::new(1, shape.n, shape.pixels(), shape.pixels()))?;
    }
    let inputs =
        step.inputs.iter().enumerate().map(|(index, view)| (view, step.kernel.is_input_exact(index)));
    let outputs =
        step.outputs.iter().enumerate().map(|(index, view)| (view, step.kernel.is_output_exact(index)));
    let is_stored = |(view, exact): (&View, bool)| {
        view.storage == if exact || view.slot != Slot::Arena { Storage::F32 } else { storage }
    };
    match inputs.chain(outputs).all(is_stored) {
        true => Ok(()),
        false => Err(CudaError::MixedStorage { kernel: format!("{:?}", step.kernel) }),
    }
}

impl Queue<'_> {
    /// Runs a step whose scratch is prepared.
    pub(super) fn execute(&self, step: &Step) -> Result<(), CudaError> {
        match step.kernel {
            Kernel::Conv(conv) => self.convolve(conv, step),
            Kernel::ConvInputGrad(conv) => self.convolve_input_gradient(conv, step),
            Kernel::ConvWeightGrad(conv) => self.convolve_weight_gradient(conv, step),
            Kernel::GroupNorm(norm) => self.normalise(norm, kernels::Dropout::default(), step),
            Kernel::GroupNormDropout(norm, dropout) => self.normalise(norm, self.dropout(dropout), step),
            Kernel::GroupNormAgain(norm) => self.normalise_again(norm, kernels::Dropout::default(), step),
            Kernel::GroupNormDropoutAgain(norm, dropout) => {
                self.normalise_again(norm, self.dropout(dropout), step)
            }
            Kernel::GroupNormGrad(norm) => self.normalise_gradient(norm, kernels::Dropout::default(), step),
            Kernel::GroupNormDropoutGrad(norm, dropout) => {
                self.normalise_gradient(norm, self.dropout(dropout), step)
            }
            Kernel::Attention(attention) => self.attend(attention.scale, step),
            Kernel::AttentionGrad(attention) => self.attend_gradient(attention.scale, step),
            Kernel::Silu => self.elementwise("silu", step),
            Kernel::SiluGrad => self.elementwise("silu_gradient", step),
            Kernel::Relu => self.elementwise("relu", step),
            Kernel::ReluGrad => self.elementwise("relu_gradient", step),
            Kernel::Add => self.elementwise("add", step),
            Kernel::Accumulate => self.accumulate(step),
            Kernel::AddPerSample => self.per_sample("add_per_sample", step),
            Kernel::ScaleShift => self.per_sample("scale_shift", step),
            Kernel::ScaleShiftGrad => self.scale_shift_gradient(step),
            Kernel::BiasGrad => {
                let dy = step.inputs[0].shape;
                self.sum_columns(step, [1, dy.n * dy.pixels(), dy.c], "fold_to_gradient")
            }
            Kernel::SumPixels => {
                let x = step.inputs[0].shape;
                self.sum_columns(step, [x.n, x.pixels(), x.c], "fold_to_elements")
            }
            Kernel::Upsample => self.resample("upsample", step.inputs[0].shape, step),
            Kernel::UpsampleGrad => self.resample("upsample_gradient", step.outputs[0].shape, step),
            Kernel::Concat => self.concat(step),
            Kernel::ChannelSlice { start } => {
                let (x, y) = (step.inputs[0], step.outputs[0]);
                self.copy_channels(y.shape.c, (x, start), (y, 0))
            }
            Kernel::Dropout(dropout) => self.drop_out(dropout, step),
            Kernel::MaxPool(pool) => self.pool("max_pool", pool, [step.inputs[0], step.outputs[0]], step),
            Kernel::AvgPool(pool) => self.pool("avg_pool", pool, [step.inputs[0], step.outputs[0]], step),
            Kernel::MaxPoolGrad(pool) => {
                self.pool("max_pool_gradient", pool, [step.inputs[0], step.inputs[1]], step)
            }
            Kernel::AvgPoolGrad(pool) => {
                self.pool("avg_pool_gradient", pool, [step.outputs[0], step.inputs[0]], step)
            }
            Kernel::Softmax => self.softmax("softmax", step),
            Kernel::SoftmaxGrad => self.softmax("softmax_gradient", step),
            Kernel::SpaceToDepth { block } => self.blocks(block, true, step.inputs[0].shape, step),
            Kernel::DepthToSpace { block } => self.blocks(block, false, step.outputs[0].shape, step),
            Kernel::SplitHeads { heads } => self.heads(heads, true, step.outputs[0].shape, step),
            Kernel::MergeHeads { heads } => self.heads(heads, false, step.inputs[0].shape, step),
            Kernel::Sinusoid(sinusoid) => self.sinusoid(sinusoid, step),
            Kernel::SquaredError => self.squared_error(step),
            Kernel::SquaredErrorGrad => self.squared_error_gradient(step),
            Kernel::Normals(purpose) => self.normals(purpose, step),
            Kernel::WeightedSum => self.weighted_sum(step),
            Kernel::Clear => {
                let gradients = step.outputs[0];
                // SAFETY: the planner's views lie within the slots.
                unsafe { self.device.clear(self.address(gradients), gradients.shape.len() * WORD) }
            }
            Kernel::ConvThen(..) | Kernel::ConvWeightGradSet(_) => {
                unreachable!("only planned for backends that ask for it")
            }
        }
    }

    /// The addresses of all inputs, then of the first output.
    fn tensors<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = Argument> + 'a {
        step.inputs.iter().chain(&step.outputs[..1]).map(|&view| self.argument(view))
    }

    fn elementwise(&self, kernel: &'static str, step: &Step) -> Result<(), CudaError> {
        let len = step.outputs[0].shape.len();
        let mut arguments = vec![Argument::U32(count(len))];
        arguments.extend(self.tensors(step));
        self.spread(kernel, len.div_ceil(4), &arguments)
    }

    fn accumulate(&self, step: &Step) -> Result<(), CudaError> {
        let len = step.outputs[0].shape.len();
        let [from, into] = [step.inputs[0], step.outputs[0]].map(|view| self.argument(view));
        self.spread("add", len.div_ceil(4), &[Argument::U32(count(len)), into, from, into])
    }

    /// A sample's vector at all its pixels.
    fn per_sample(&self, kernel: &'static str, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let mut arguments = vec![Argument::U32(count(shape.sample_len())), Argument::U32(count(shape.c))];
        arguments.extend(self.tensors(step));
        self.spread_samples(kernel, shape.sample_len().div_ceil(4), shape.n, &arguments)
    }

    /// (x, vector, dy) → (dx, vector gradient).
    fn scale_shift_gradient(&self, step: &Step) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let [x, vector, dy] = [0, 1, 2].map(|index| self.argument(step.inputs[index]));
        let [len, c] = [shape.sample_len(), shape.c].map(|number| Argument::U32(count(number)));
        let dx = self.argument(step.outputs[0]);
        self.spread_samples("scale_gradient", shape.sample_len(), shape.n, &[len, c, vector, dy, dx])?;
        let (rows, chunk) = (shape.pixels(), rows_per_chunk(shape.pixels()));
        let chunks = rows.div_ceil(chunk);
        let parts = step.workspace.map_or(0, |view| self.address(view));
        let sizes = [rows, chunk].map(|number| Argument::U32(count(number)));
        self.grid(
            "scale_shift_sums",
            [count(chunks), count(shape.n), 1],
            &[sizes[0], sizes[1], c, x, dy, Argument::Address(parts)],
        )?;
        let vector_gradient = self.address(step.outputs[1]);
        self.fold("fold_to_elements", [shape.n, chunks, 2 * shape.c], parts, vector_gradient)
    }

    /// `y[n, c]` from `Σ_rows x[n, row, c]`, chunks of rows first.
    fn sum_columns(
        &self,
        step: &Step,
        [n, rows, c]: [usize; 3],
        fold: &'static str,
    ) -> Result<(), CudaError> {
        let chunk = rows_per_chunk(rows);
        let chunks = rows.div_ceil(chunk);
        let parts = step.workspace.map_or(0, |view| self.address(view));
        self.grid(
            "column_sums",
            [count(chunks), count(n), 1],
            &[
                Argument::U32(count(rows)),
                Argument::U32(count(chunk)),
                Argument::U32(count(c)),
                self.argument(step.inputs[0]),
                Argument::Address(parts),
            ],
        )?;
        self.fold(fold, [n, chunks, c], parts, self.address(step.outputs[0]))
    }

    /// `small`: the shape of the one of half the size.
    fn resample(&self, kernel: &'static str, small: Shape, step: &Step) -> Result<(), CudaError> {
        let len = step.outputs[0].shape.len();
        let mut arguments =
            vec![Argument::U32(count(len)), Argument::U32(count(small.w)), Argument::U32(count(small.c))];
        arguments.extend(self.tensors(step));
        let vector = if small.c.is_multiple_of(4) { 4 } else { 1 };
        self.spread(kernel, len / vector, &arguments)
    }

    fn concat(&self, step: &Step) -> Result<(), CudaError> {
        let mut start = 0;
        for &part in &step.inputs {
            self.copy_channels(part.shape.c, (part, 0), (step.outputs[0], start))?;
            start += part.shape.c;
        }
        Ok(())
    }

    /// Copies `part` channels from one channel of a tensor to one of another.
    fn copy_channels(
        &self,
        part: usize,
        (x, x_start): (View, usize),
        (y, y_start): (View, usize),
    ) -> Result<(), CudaError> {
        let pixels = x.shape.n * x.shape.pixels();
        let mut numbers = [part, x.shape.c, x_start, y.shape.c, y_start];
        let in_fours = numbers.iter().all(|number| number.is_multiple_of(4));
        let kernel = if in_fours { "copy_channel_quads" } else { "copy_channels" };
        if in_fours {
            numbers = numbers.map(|number| number / 4);
        }
        let mut arguments = vec![Argument::U32(count(pixels))];
        arguments.extend(numbers.map(|number| Argument::U32(count(number))));
        arguments.extend([self.argument(x), self.argument(y)]);
        self.spread(kernel, pixels * numbers[0], &arguments)
    }

    /// A dropout as kernels take it.
    fn dropout(&self, dropout: Dropout) -> kernels::Dropout {
        kernels::Dropout {
            purpose: Purpose::Dropout as u32,
            layer: dropout.layer,
            threshold: dropout.threshold(),
            scale: dropout.scale(),
            run: self.run,
        }
    }

    fn drop_out(&self, dropout: Dropout, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let mut arguments =
            vec![Argument::U32(count(shape.sample_len())), Argument::Dropout(self.dropout(dropout))];
        arguments.extend(self.tensors(step));
        self.spread_samples("dropout", shape.sample_len().div_ceil(4), shape.n, &arguments)
    }

    fn pool(
        &self,
        kernel: &'static str,
        pool: Pool,
        [x, y]: [View; 2],
        step: &Step,
    ) -> Result<(), CudaError> {
        let geometry: Conv = pool.geometry();
        let len = step.outputs[0].shape.len();
        let mut arguments =
            vec![Argument::U32(count(len)), Argument::Window(Window::new(geometry, x.shape, y.shape))];
        arguments.extend(self.tensors(step));
        self.spread(kernel, len, &arguments)
    }

    fn softmax(&self, kernel: &'static str, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let mut arguments = vec![Argument::U32(count(shape.c)), Argument::F32(1.0)];
        arguments.extend(self.tensors(step));
        self.grid(kernel, [count(shape.n * shape.pixels()), 1, 1], &arguments)
    }

    /// `image`: the shape of the one with fewer channels.
    fn blocks(&self, block: usize, to_depth: bool, image: Shape, step: &Step) -> Result<(), CudaError> {
        let mut arguments: Vec<_> = [image.len(), image.w, image.c, block, usize::from(to_depth)]
            .map(|number| Argument::U32(count(number)))
            .into();
        arguments.extend(self.tensors(step));
        self.spread("space_to_depth", image.len(), &arguments)
    }

    /// `apart`: the shape with a sample for each head.
    fn heads(&self, heads: usize, split: bool, apart: Shape, step: &Step) -> Result<(), CudaError> {
        let mut arguments: Vec<_> = [apart.len(), heads, apart.pixels(), apart.c, usize::from(split)]
            .map(|number| Argument::U32(count(number)))
            .into();
        arguments.extend(self.tensors(step));
        self.spread("split_heads", apart.len(), &arguments)
    }

    fn sinusoid(&self, sinusoid: Sinusoid, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let half = shape.c / 2;
        let decay = libm::log(f64::from(sinusoid.max_period)) / (half - sinusoid.shift) as f64;
        let (sines, cosines) = if sinusoid.cosines_first { (half, 0) } else { (0, half) };
        let mut arguments = vec![
            Argument::U32(count(shape.n)),
            Argument::U32(count(half)),
            Argument::F64(decay),
            Argument::U32(count(sines)),
            Argument::U32(count(cosines)),
            Argument::F32(sinusoid.scale),
        ];
        arguments.extend(self.tensors(step));
        self.spread("sinusoid", shape.n * half, &arguments)
    }

    fn squared_error(&self, step: &Step) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let mut arguments = vec![Argument::U32(count(shape.sample_len()))];
        arguments.extend(self.tensors(step));
        self.grid("squared_error", [count(shape.n), 1, 1], &arguments)
    }

    fn squared_error_gradient(&self, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let mut arguments = vec![Argument::U32(count(shape.sample_len()))];
        arguments.extend(self.tensors(step));
        self.spread_samples("squared_error_gradient", shape.sample_len(), shape.n, &arguments)
    }

    fn normals(&self, purpose: Purpose, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let mut arguments = vec![
            Argument::U32(count(shape.sample_len())),
            Argument::U32(purpose as u32),
            Argument::Address(self.run),
        ];
        arguments.extend(self.tensors(step));
        self.spread_samples("normals", shape.sample_len().div_ceil(4), shape.n, &arguments)
    }

    fn weighted_sum(&self, step: &Step) -> Result<(), CudaError> {
        let shape = step.outputs[0].shape;
        let mut arguments = vec![Argument::U32(count(shape.sample_len()))];
        arguments.extend(self.tensors(step));
        self.spread_samples("weighted_sum", shape.sample_len(), shape.n, &arguments)
    }
}
