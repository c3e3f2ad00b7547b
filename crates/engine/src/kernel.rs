//! The instruction set: what a program's steps do, and what a backend must be able to run.
//!
//! Each operation's file in [`crate::ops`] says what its kernels read and write. Shapes travel with the views,
//! so kernels hold attributes only.

use crate::ops::{Attention, Conv, Dropout, GroupNorm, Pool, Sinusoid};
use crate::random::Purpose;
use crate::shape::Shape;

/// What one step of a program does.
#[derive(Clone, PartialEq, Debug)]
pub enum Kernel {
    /// [`crate::ops::conv`]: (x, weight, bias) → y.
    Conv(Conv),
    /// The same and what follows it, where a backend does both in one: see [`crate::Backend::fuses`]. (x,
    /// weight, bias, what is added if anything is) → y.
    ConvThen(Conv, Then),
    /// (dy, weight) → dx.
    ConvInputGrad(Conv),
    /// (x, dy) → weight gradient, added to.
    ConvWeightGrad(Conv),
    /// The same, set: nothing was there before. See [`crate::Backend::sets_weight_gradients`].
    ConvWeightGradSet(Conv),
    /// dy → sum over all but channels, added to.
    BiasGrad,
    /// [`crate::ops::group_norm`]: (x, gamma, beta) → (y, statistics).
    GroupNorm(GroupNorm),
    /// (x, gamma, beta, statistics, dy) → (dx, gamma gradient, beta gradient), the latter two added to. dx
    /// may take dy's place.
    GroupNormGrad(GroupNorm),
    /// (x, gamma, beta, statistics) → y: the normalisation again, with the statistics of the first time.
    GroupNormAgain(GroupNorm),
    /// The first of them with dropout after it, where a backend does both in one: see
    /// [`crate::Backend::fuses_dropout`].
    GroupNormDropout(GroupNorm, Dropout),
    /// (x, gamma, beta, statistics) → y: both again.
    GroupNormDropoutAgain(GroupNorm, Dropout),
    /// The gradient through both: (x, gamma, beta, statistics, dy) → (dx, gamma gradient, beta gradient).
    GroupNormDropoutGrad(GroupNorm, Dropout),
    /// [`crate::ops::activation`]: x → x · sigmoid(x).
    Silu,
    /// (x, dy) → dx.
    SiluGrad,
    /// x → max(x, 0), which may take x's place.
    Relu,
    /// (x, dy) → dx.
    ReluGrad,
    /// [`crate::ops::attention`]: (q, k, v) → (y, probabilities).
    Attention(Attention),
    /// (q, k, v, probabilities, dy) → (dq, dk, dv).
    AttentionGrad(Attention),
    /// [`crate::ops::add`]: (a, b) → a + b.
    Add,
    /// a += b, in place: (b) → a.
    Accumulate,
    /// (x, vector per sample) → x + vector at every pixel.
    AddPerSample,
    /// x → sum over pixels, per sample and channel.
    SumPixels,
    /// [`crate::ops::scale_shift`]: (x, vector per sample) → y.
    ScaleShift,
    /// (x, vector, dy) → (dx, vector gradient).
    ScaleShiftGrad,
    /// [`crate::ops::upsample`]: nearest neighbour, twice the size.
    Upsample,
    /// dy → sum over each 2×2 block.
    UpsampleGrad,
    /// [`crate::ops::concat`]: all inputs side by side in channels.
    Concat,
    /// Channels `start ..` of the input, as many as the output has.
    ChannelSlice {
        /// First channel.
        start: usize,
    },
    /// [`crate::ops::dropout`]: x → x / (1 - rate) where kept, else 0; its own gradient.
    Dropout(Dropout),
    /// [`crate::ops::pool`].
    MaxPool(Pool),
    /// (x, dy) → dx.
    MaxPoolGrad(Pool),
    /// Average over the window's pixels inside the image.
    AvgPool(Pool),
    /// dy → dx.
    AvgPoolGrad(Pool),
    /// [`crate::ops::softmax`] over channels.
    Softmax,
    /// (y, dy) → dx.
    SoftmaxGrad,
    /// [`crate::ops::space_to_depth`].
    SpaceToDepth {
        /// Side of the blocks gathered into channels.
        block: usize,
    },
    /// Its inverse, and gradient.
    DepthToSpace {
        /// Side of the blocks laid out.
        block: usize,
    },
    /// [`crate::ops::heads`].
    SplitHeads {
        /// Heads that a sample's channels are divided among.
        heads: usize,
    },
    /// Its inverse, and gradient.
    MergeHeads {
        /// Heads that make up a sample.
        heads: usize,
    },
    /// [`crate::ops::sinusoid`]: a number per sample → sines and cosines.
    Sinusoid(Sinusoid),
    /// [`crate::ops::squared_error`]: (a, b) → per-sample mean of (a - b)².
    SquaredError,
    /// (a, b, dy) → gradient of a.
    SquaredErrorGrad,
    /// [`crate::ops::normals`]: a step per sample → numbers of N(0, 1).
    Normals(Purpose),
    /// [`crate::ops::weighted_sum`]: (x, y, two weights per sample) → their sum.
    WeightedSum,
    /// () → gradients of parameters, all 0.
    Clear,
}

/// What follows a convolution and reads no more than its result and one tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// [`Kernel::Relu`].
    Relu,
    /// [`Kernel::Add`]ing a tensor.
    Add,
    /// [`Kernel::AddPerSample`].
    AddPerSample,
}

/// The memory a backend keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// Activations, gradients, scratch: one planned arena.
    Arena,
    /// Parameters.
    Params,
    /// Gradients of the parameters: the beginning of the arena of a training program.
    Grads,
    /// Adam's mean of gradients.
    FirstMoment,
    /// Adam's mean of squared gradients.
    SecondMoment,
    /// Exponential moving average of the parameters.
    Ema,
}

impl Slot {
    /// What it is for, in words.
    pub(crate) const fn purpose(self) -> &'static str {
        match self {
            Self::Arena | Self::Grads => "activations and gradients",
            Self::Params => "parameters",
            Self::FirstMoment | Self::SecondMoment => "the optimiser's moments",
            Self::Ema => "the moving average",
        }
    }
}

/// What the elements of a tensor are in a backend's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Storage {
    /// `f32`.
    #[default]
    F32,
    /// The upper half of an `f32`; two to a word.
    Bf16,
}

impl Storage {
    /// Words of 4 bytes that `len` elements take.
    pub const fn words(self, len: usize) -> usize {
        match self {
            Self::F32 => len,
            Self::Bf16 => len.div_ceil(2),
        }
    }
}

impl Kernel {
    /// Whether an input is `f32` wherever activations are smaller: statistics, times, losses.
    pub(crate) fn is_input_exact(&self, index: usize) -> bool {
        matches!(
            (self, index),
            (Self::Sinusoid(_) | Self::Normals(_), 0)
                | (Self::GroupNormGrad(_) | Self::GroupNormDropoutGrad(..), 3)
                | (Self::GroupNormAgain(_) | Self::GroupNormDropoutAgain(..), 3)
                | (Self::SquaredError | Self::SquaredErrorGrad, 1)
                | (Self::SquaredErrorGrad, 2)
                | (Self::WeightedSum, _)
        )
    }

    /// The same of an output.
    pub(crate) fn is_output_exact(&self, index: usize) -> bool {
        matches!(
            (self, index),
            (Self::GroupNorm(_) | Self::GroupNormDropout(..), 1) | (Self::SquaredError | Self::Normals(_), 0)
        )
    }
}

/// A tensor in a backend's memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct View {
    /// Which memory.
    pub slot: Slot,
    /// What its elements are.
    pub storage: Storage,
    /// Where it begins, in words of 4 bytes.
    pub offset: usize,
    /// Shape; parameters are flat: `[1, 1, 1, len]`.
    pub shape: Shape,
}

impl View {
    /// `len` words from the beginning of a slot.
    pub(crate) const fn start(slot: Slot, len: usize) -> Self {
        Self { slot, storage: Storage::F32, offset: 0, shape: Shape::vectors(1, len) }
    }
}

/// Scratch memory that a backend wants for a kernel, in words of 4 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Scratch {
    /// For what depends on parameters only (a packed filter): kept while they do not change.
    pub prepared: usize,
    /// For the duration of one execution.
    pub workspace: usize,
}

/// One step of a program.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What to do.
    pub kernel: Kernel,
    /// Tensors read.
    pub inputs: Vec<View>,
    /// Tensors written (or added to, where the kernel says so).
    pub outputs: Vec<View>,
    /// Scratch that lives while parameters do not change.
    pub prepared: Option<View>,
    /// Scratch for this step alone.
    pub workspace: Option<View>,
}

/// What a run's random numbers depend on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Run {
    /// Seed of the dropout masks.
    pub seed: u64,
    /// Number, over the whole training, of the batch's first sample.
    pub first_sample: u64,
}
