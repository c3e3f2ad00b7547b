//! The CPU backend: blocked, vectorised, parallel kernels on aligned memory.

mod attention;
mod axis;
mod bf16x3;
mod conv;
mod convolutions;
mod elementwise;
mod epilogue;
mod group_norm;
mod layout;
pub(crate) mod machine_memory;
mod math;
mod memory;
mod optimizer;
mod panel;
mod parallel;
mod pool;
mod product;
mod reduction;
mod simd;
mod team;
mod tile;
mod transpose;
mod winograd;

pub use convolutions::ConvMethod;
pub use simd::Level;

use crate::backend::{Backend, BackendError};
use crate::kernel::{Kernel, Run, Scratch, Slot, Step, Then, View};
use crate::ops::Conv;
use crate::optimizer::AdamStep;
use crate::profile::{CLEAR, Profile};
use crate::shape::Shape;
use bf16x3::Convolution;
use convolutions::Convolutions;
use memory::{Buffer, Memory, SLOTS, slot_index};
use parallel::run_awake;
use std::time::Instant;
use tile::Tiles;

/// What a [`Cpu`] is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuOptions {
    /// Threads; 0 for one per core.
    pub threads: usize,
    /// Vector width, one of [`Level::available`].
    pub level: Level,
    /// How convolutions are computed.
    pub conv: ConvMethod,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: 0, level: Level::detect(), conv: ConvMethod::default() }
    }
}

impl CpuOptions {
    /// Checks that this processor can compute so.
    ///
    /// # Errors
    /// [`BackendError::NoMatrixUnit`].
    pub fn validate(&self) -> Result<(), BackendError> {
        Convolutions::new(self.conv).map(|_| ())
    }
}

/// The CPU as a backend.
pub struct Cpu {
    pool: rayon::ThreadPool,
    level: Level,
    convolutions: Convolutions,
    tiles: Tiles,
    buffers: [Buffer; SLOTS],
    norm_parts: Vec<f64>,
    profile: Option<Profile>,
}

impl Cpu {
    /// A backend with `threads` threads (0: one per core) and everything else by default.
    ///
    /// # Errors
    /// [`BackendError::Threads`].
    pub fn new(threads: usize) -> Result<Self, BackendError> {
        Self::with_options(CpuOptions { threads, ..CpuOptions::default() })
    }

    /// A backend made to order. Threads and vector width do not change a bit of any result.
    ///
    /// # Errors
    /// [`BackendError::Threads`], [`BackendError::NoMatrixUnit`].
    pub fn with_options(options: CpuOptions) -> Result<Self, BackendError> {
        Self::with_convolutions(options, Convolutions::new(options.conv)?)
    }

    /// A backend that emulates the matrix unit of [`ConvMethod::Bf16x3`], slowly and bit for bit.
    ///
    /// # Errors
    /// [`BackendError::Threads`].
    pub fn with_emulated_matrix_unit(options: CpuOptions) -> Result<Self, BackendError> {
        Self::with_convolutions(options, Convolutions::EMULATED)
    }

    fn with_convolutions(options: CpuOptions, convolutions: Convolutions) -> Result<Self, BackendError> {
        let CpuOptions { threads, level, .. } = options;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("engine-{index}"))
            .build()
            .map_err(|error| BackendError::Threads { threads, reason: error.to_string() })?;
        Ok(Self {
            pool,
            level,
            convolutions,
            tiles: Tiles::new(level),
            buffers: [const { Buffer::EMPTY }; SLOTS],
            norm_parts: Vec::new(),
            profile: None,
        })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Backend for Cpu {
    fn report(&self) -> Option<String> {
        let mib = |buffers: &[Buffer]| {
            let bytes = buffers.iter().map(|buffer| size_of_val(buffer.as_slice())).sum::<usize>();
            bytes.div_ceil(1 << 20)
        };
        let [arena, parameters @ ..] = &self.buffers;
        let threads = match self.threads() {
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        let unused = match self.convolutions.has_faster() {
            true => "; --conv bf16x3 would use its matrix unit: faster, from factors of 16 bits",
            false => "",
        };
        Some(format!(
            "the CPU, {threads}, {}, {} MiB of memory: {} for activations and gradients in one arena, {} for parameters and what goes with them{unused}",
            self.level.name(),
            mib(&self.buffers),
            mib(std::slice::from_ref(arena)),
            mib(parameters),
        ))
    }

    fn check_memory(&self, values: usize, parameters: usize) -> Result<(), BackendError> {
        let needed = values.saturating_mul(size_of::<f32>());
        match machine_memory::total() {
            Some(total) if needed as u64 > total => {
                let parameters = parameters.saturating_mul(size_of::<f32>());
                Err(BackendError::TooLarge { needed, parameters, total })
            }
            _ => Ok(()),
        }
    }

    fn allocate(&mut self, slot: Slot, len: usize) -> Result<(), BackendError> {
        if slot == Slot::Params {
            self.norm_parts = vec![0.0; optimizer::norm_parts(len)];
        }
        let buffer = &mut self.buffers[slot_index(slot)];
        *buffer = Buffer::EMPTY;
        *buffer = Buffer::zeroed(len, slot.purpose())?;
        Ok(())
    }

    fn upload(&mut self, to: View, data: &[f32]) {
        self.buffers[slot_index(to.slot)].as_mut_slice()[to.offset..][..data.len()].copy_from_slice(data);
    }

    fn download(&self, from: View, out: &mut [f32]) {
        out.copy_from_slice(&self.buffers[slot_index(from.slot)].as_slice()[from.offset..][..out.len()]);
    }

    fn clear_gradients(&mut self) {
        let start = Instant::now();
        let [arena, params, ..] = &mut self.buffers;
        let gradients = &mut arena.as_mut_slice()[..params.as_slice().len()];
        self.pool.install(|| elementwise::clear(gradients));
        if let Some(profile) = &mut self.profile {
            profile.add_other(CLEAR, start.elapsed());
        }
    }

    fn sets_weight_gradients(&self) -> bool {
        true
    }

    fn fuses(&self, conv: Conv, then: Then, source: Shape, result: Shape) -> bool {
        self.convolutions.fuses(conv, then, source, result)
    }

    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], outputs: &[Shape], keeps: bool) -> Scratch {
        let (tiles, threads) = (self.tiles, self.threads());
        let convolution = |conv, transposed| {
            let convolution = Convolution { conv, source: inputs[0], result: outputs[0], transposed };
            self.convolutions.scratch(convolution, tiles, threads, keeps)
        };
        match *kernel {
            Kernel::Conv(conv) | Kernel::ConvThen(conv, _) => convolution(conv, false),
            Kernel::ConvInputGrad(conv) => convolution(conv, true),
            Kernel::ConvWeightGrad(conv) | Kernel::ConvWeightGradSet(conv) => {
                self.convolutions.weight_gradient_scratch(conv, inputs[0], inputs[1], tiles, threads)
            }
            Kernel::Attention(_) => attention::forward_scratch(inputs[0], tiles),
            Kernel::AttentionGrad(_) => attention::gradient_scratch(inputs[0], tiles),
            Kernel::GroupNorm(_) | Kernel::GroupNormAgain(_) | Kernel::GroupNormGrad(_) => {
                Scratch { prepared: 0, workspace: group_norm::workspace(inputs[0]) }
            }
            _ => Scratch::default(),
        }
    }

    fn prepare(&mut self, steps: &[Step]) {
        let memory = Memory::new(&mut self.buffers);
        let Self { level, convolutions, tiles, .. } = *self;
        let machine = Machine { memory, level, convolutions, tiles };
        self.pool.install(|| steps.iter().for_each(|step| machine.prepare(step)));
    }

    fn run(&mut self, steps: &[Step], run: &Run, prepare: bool) {
        let memory = Memory::new(&mut self.buffers);
        let Self { level, convolutions, tiles, .. } = *self;
        let machine = Machine { memory, level, convolutions, tiles };
        let profile = &mut self.profile;
        run_awake(&self.pool, || {
            for step in steps {
                let start = profile.is_some().then(Instant::now);
                if prepare {
                    machine.prepare(step);
                }
                machine.execute(step, run);
                if let (Some(profile), Some(start)) = (profile.as_mut(), start) {
                    profile.add(step, start.elapsed());
                }
            }
        });
    }

    fn gradient_norm(&mut self) -> f64 {
        let Self { pool, level, buffers, norm_parts, profile, .. } = self;
        let [arena, params, ..] = buffers;
        let gradients = &arena.as_slice()[..params.as_slice().len()];
        let start = Instant::now();
        let norm = pool.install(|| optimizer::global_norm(*level, gradients, norm_parts));
        if let Some(profile) = profile {
            profile.add_other("gradient norm", start.elapsed());
        }
        norm
    }

    fn update(&mut self, step: &AdamStep, gradient_scale: f32, clears: bool) {
        let Self { pool, level, buffers, profile, .. } = self;
        let [arena, params, first, second, ema] = buffers;
        let params = params.as_mut_slice();
        let state = optimizer::State {
            gradients: &mut arena.as_mut_slice()[..params.len()],
            params,
            first: first.as_mut_slice(),
            second: second.as_mut_slice(),
            ema: ema.as_mut_slice(),
        };
        let start = Instant::now();
        pool.install(|| optimizer::adam(*level, step, gradient_scale, clears, state));
        if let Some(profile) = profile {
            profile.add_other("adam, average", start.elapsed());
        }
    }

    fn start_profile(&mut self) {
        self.profile = Some(Profile::default());
    }

    fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }
}

/// What executes steps inside the thread pool.
#[derive(Clone, Copy)]
struct Machine {
    memory: Memory,
    level: Level,
    convolutions: Convolutions,
    tiles: Tiles,
}

// SAFETY: its pointers are to buffers that `Cpu::run` has borrowed exclusively.
unsafe impl Send for Machine {}
// SAFETY: as above; steps run one after the other.
unsafe impl Sync for Machine {}

impl Machine {
    fn input<'a>(&self, step: &Step, index: usize) -> &'a [f32] {
        // SAFETY: the planner gives a step's tensors places that do not overlap.
        unsafe { self.memory.read(step.inputs[index]) }
    }

    fn inputs<'a, const N: usize>(&self, step: &Step) -> [&'a [f32]; N] {
        std::array::from_fn(|index| self.input(step, index))
    }

    fn write<'a>(&self, view: View) -> &'a mut [f32] {
        // SAFETY: the planner gives a step's tensors places that do not overlap.
        unsafe { self.memory.write(view) }
    }

    fn outputs<'a, const N: usize>(&self, step: &Step) -> [&'a mut [f32]; N] {
        std::array::from_fn(|index| self.write(step.outputs[index]))
    }

    fn scratch<'a>(&self, view: Option<View>) -> &'a mut [f32] {
        view.map_or(&mut [], |view| self.write(view))
    }

    fn prepare(&self, step: &Step) {
        match step.kernel {
            Kernel::Conv(conv) | Kernel::ConvThen(conv, _) => self.prepare_convolution(step, conv, false),
            Kernel::ConvInputGrad(conv) => self.prepare_convolution(step, conv, true),
            _ => {}
        }
    }

    fn execute(&self, step: &Step, run: &Run) {
        let Self { level, tiles, .. } = *self;
        if step.kernel == Kernel::Clear {
            return elementwise::clear(self.write(step.outputs[0]));
        }
        if step.kernel == Kernel::Relu && step.inputs[0] == step.outputs[0] {
            return elementwise::relu_in_place(level, self.write(step.outputs[0]));
        }
        let shape = step.inputs[0].shape;
        let result = step.outputs[0].shape;
        match step.kernel {
            Kernel::Conv(conv) => self.convolve(step, conv, false, None),
            Kernel::ConvThen(conv, then) => self.convolve(step, conv, false, Some(then)),
            Kernel::ConvInputGrad(conv) => self.convolve(step, conv, true, None),
            Kernel::ConvWeightGrad(conv) => self.weight_gradient(step, conv, true),
            Kernel::ConvWeightGradSet(conv) => self.weight_gradient(step, conv, false),
            Kernel::BiasGrad => {
                conv::bias_gradient(level, self.input(step, 0), shape.c, self.write(step.outputs[0]))
            }
            Kernel::GroupNorm(norm) => {
                let workspace = self.scratch(step.workspace);
                group_norm::forward(level, norm, shape, self.inputs(step), workspace, self.outputs(step));
            }
            Kernel::GroupNormAgain(norm) => {
                let workspace = self.scratch(step.workspace);
                let y = self.write(step.outputs[0]);
                group_norm::apply(level, norm, shape, self.inputs(step), workspace, y);
            }
            Kernel::GroupNormGrad(norm) => {
                let workspace = self.scratch(step.workspace);
                let dy = (step.inputs[4] != step.outputs[0]).then(|| self.input(step, 4));
                let factors = self.inputs(step);
                group_norm::gradient(level, norm, shape, factors, dy, workspace, self.outputs(step));
            }
            Kernel::Attention(attention) => {
                let [y, probabilities] = self.outputs(step);
                let workspace = self.scratch(step.workspace);
                let scale = attention.scale;
                attention::forward(
                    level,
                    tiles,
                    scale,
                    shape,
                    self.inputs(step),
                    workspace,
                    y,
                    probabilities,
                );
            }
            Kernel::AttentionGrad(attention) => {
                let workspace = self.scratch(step.workspace);
                let scale = attention.scale;
                attention::gradient(
                    level,
                    tiles,
                    scale,
                    shape,
                    self.inputs(step),
                    workspace,
                    self.outputs(step),
                );
            }
            Kernel::ScaleShiftGrad => {
                layout::scale_shift_gradient(shape, self.inputs(step), self.outputs(step))
            }
            Kernel::Concat => {
                let y = self.write(step.outputs[0]);
                let mut start = 0;
                for view in &step.inputs {
                    // SAFETY: as for `input`.
                    let x = unsafe { self.memory.read(*view) };
                    layout::concat_part(x, view.shape.c, start, result.c, y);
                    start += view.shape.c;
                }
            }
            _ => self.execute_simple(step, run, shape, result),
        }
    }

    /// Kernels with one output and no scratch.
    fn execute_simple(&self, step: &Step, run: &Run, shape: Shape, result: Shape) {
        let level = self.level;
        let x = self.input(step, 0);
        let y = self.write(step.outputs[0]);
        let second = || self.input(step, 1);
        match step.kernel {
            Kernel::Silu => elementwise::silu(level, x, y),
            Kernel::SiluGrad => elementwise::silu_gradient(level, x, second(), y),
            Kernel::Relu => elementwise::relu(level, x, y),
            Kernel::ReluGrad => elementwise::relu_gradient(level, x, second(), y),
            Kernel::Add => elementwise::zip(level, x, second(), y, |a, b| a + b),
            Kernel::Accumulate => elementwise::accumulate(level, x, y),
            Kernel::AddPerSample => layout::add_per_sample(shape, x, second(), y),
            Kernel::SumPixels => layout::sum_pixels(shape, x, y),
            Kernel::ScaleShift => layout::scale_shift(shape, x, second(), y),
            Kernel::Upsample => layout::upsample(shape, x, y),
            Kernel::UpsampleGrad => layout::upsample_gradient(result, x, y),
            Kernel::ChannelSlice { start } => layout::channel_slice(x, shape.c, start, result.c, y),
            Kernel::Dropout(dropout) => elementwise::dropout(level, run, dropout, shape.sample_len(), x, y),
            Kernel::MaxPool(pool) => pool::max_pool(self.level, pool, (x, shape), (y, result)),
            Kernel::MaxPoolGrad(pool) => {
                pool::max_pool_gradient(pool, (x, shape), (second(), step.inputs[1].shape), y);
            }
            Kernel::AvgPool(pool) => pool::avg_pool(self.level, pool, (x, shape), (y, result)),
            Kernel::AvgPoolGrad(pool) => pool::avg_pool_gradient(pool, (x, shape), (y, result)),
            Kernel::Softmax => reduction::softmax(level, shape.c, x, y),
            Kernel::SoftmaxGrad => reduction::softmax_gradient(level, shape.c, x, second(), y),
            Kernel::SpaceToDepth { block } => layout::space_to_depth(shape, block, x, y),
            Kernel::DepthToSpace { block } => layout::depth_to_space(result, block, x, y),
            Kernel::SplitHeads { heads } => layout::split_heads(result, heads, x, y),
            Kernel::MergeHeads { heads } => layout::merge_heads(shape, heads, x, y),
            Kernel::Sinusoid(sinusoid) => reduction::sinusoid(sinusoid, x, result.c, y),
            Kernel::SquaredError => reduction::squared_error(level, shape.sample_len(), x, second(), y),
            Kernel::SquaredErrorGrad => {
                let dy = self.input(step, 2);
                reduction::squared_error_gradient(shape.sample_len(), x, second(), dy, y);
            }
            Kernel::Normals(purpose) => elementwise::normals(run, purpose, x, result.sample_len(), y),
            Kernel::WeightedSum => {
                elementwise::weighted_sum(level, shape.sample_len(), x, second(), self.input(step, 2), y);
            }
            Kernel::Conv(_)
            | Kernel::ConvThen(..)
            | Kernel::ConvInputGrad(_)
            | Kernel::ConvWeightGrad(_)
            | Kernel::ConvWeightGradSet(_)
            | Kernel::BiasGrad
            | Kernel::GroupNorm(_)
            | Kernel::GroupNormAgain(_)
            | Kernel::GroupNormGrad(_)
            | Kernel::Attention(_)
            | Kernel::AttentionGrad(_)
            | Kernel::ScaleShiftGrad
            | Kernel::Concat
            | Kernel::Clear => unreachable!("handled by `execute`"),
            Kernel::GroupNormDropout(..)
            | Kernel::GroupNormDropoutAgain(..)
            | Kernel::GroupNormDropoutGrad(..) => {
                unreachable!("only planned for backends that fuse dropout")
            }
        }
    }
}
