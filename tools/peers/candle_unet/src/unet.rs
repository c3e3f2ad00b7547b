//! The paper's CIFAR-10 U-Net; parameters have the names of diffusers' `UNet2DModel`. Images are
//! `[n, channels, height, width]`.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, VarBuilder, conv2d, group_norm, linear, ops};
use contract::DROPOUT;

const CHANNELS: usize = 128;
const TIME_CHANNELS: usize = 4 * CHANNELS;
/// Channels of the levels, and which of them attends.
const LEVELS: [usize; 4] = [CHANNELS, 2 * CHANNELS, 2 * CHANNELS, 2 * CHANNELS];
const ATTENDING_LEVEL: usize = 1;
const BLOCKS: usize = 2;

fn norm(channels: usize, weights: VarBuilder) -> Result<GroupNorm> {
    group_norm(32, channels, 1e-6, weights)
}

fn conv3x3(input: usize, output: usize, weights: VarBuilder) -> Result<Conv2d> {
    conv2d(input, output, 3, Conv2dConfig { padding: 1, ..Default::default() }, weights)
}

struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_projection: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    fn new(input: usize, output: usize, weights: VarBuilder) -> Result<Self> {
        let shortcut = if input == output {
            None
        } else {
            Some(conv2d(input, output, 1, Default::default(), weights.pp("conv_shortcut"))?)
        };
        Ok(Self {
            norm1: norm(input, weights.pp("norm1"))?,
            conv1: conv3x3(input, output, weights.pp("conv1"))?,
            time_projection: linear(TIME_CHANNELS, output, weights.pp("time_emb_proj"))?,
            norm2: norm(output, weights.pp("norm2"))?,
            conv2: conv3x3(output, output, weights.pp("conv2"))?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, time: &Tensor, training: bool) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward(x)?.silu()?)?;
        let time = self.time_projection.forward(time)?;
        let h = h.broadcast_add(&time.unsqueeze(2)?.unsqueeze(3)?)?;
        let h = self.norm2.forward(&h)?.silu()?;
        let h = if training { ops::dropout(&h, DROPOUT as f32)? } else { h };
        let h = self.conv2.forward(&h)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)? + h,
            None => x + h,
        }
    }
}

struct Attention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl Attention {
    fn new(channels: usize, weights: VarBuilder) -> Result<Self> {
        let projection = |name: &str| linear(channels, channels, weights.pp(name));
        Ok(Self {
            norm: norm(channels, weights.pp("group_norm"))?,
            query: projection("to_q")?,
            key: projection("to_k")?,
            value: projection("to_v")?,
            output: projection("to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        let (_, channels, _, _) = x.dims4()?;
        let h = self.norm.forward(x)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let query = (self.query.forward(&h)? * (channels as f64).powf(-0.5))?;
        let scores = query.matmul(&self.key.forward(&h)?.t()?)?;
        // The fused one has no gradient.
        let shares =
            if training { ops::softmax(&scores, D::Minus1)? } else { ops::softmax_last_dim(&scores)? };
        let h = self.output.forward(&shares.matmul(&self.value.forward(&h)?)?)?;
        x + h.transpose(1, 2)?.reshape(x.shape())?
    }
}

/// A residual block, and attention where the level has it.
struct Block {
    residual: ResidualBlock,
    attention: Option<Attention>,
}

impl Block {
    fn new(input: usize, level: usize, index: usize, weights: &VarBuilder) -> Result<Self> {
        let residual = ResidualBlock::new(input, LEVELS[level], weights.pp(format!("resnets.{index}")))?;
        let attention = if level == ATTENDING_LEVEL {
            Some(Attention::new(LEVELS[level], weights.pp(format!("attentions.{index}")))?)
        } else {
            None
        };
        Ok(Self { residual, attention })
    }

    fn forward(&self, x: &Tensor, time: &Tensor, training: bool) -> Result<Tensor> {
        let h = self.residual.forward(x, time, training)?;
        self.attention.as_ref().map_or(Ok(h.clone()), |attention| attention.forward(&h, training))
    }
}

/// Blocks of one resolution, and the convolution that leads to the next.
struct Level {
    blocks: Vec<Block>,
    resampling: Option<Conv2d>,
}

/// The network.
pub struct Unet {
    time1: Linear,
    time2: Linear,
    conv_in: Conv2d,
    down: Vec<Level>,
    middle: (ResidualBlock, Attention, ResidualBlock),
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// The network of the given weights.
    pub fn new(weights: VarBuilder) -> Result<Self> {
        let mut channels = CHANNELS;
        let mut skips = vec![channels];
        let mut down = Vec::new();
        for (level, &output) in LEVELS.iter().enumerate() {
            let weights = weights.pp(format!("down_blocks.{level}"));
            let mut blocks = Vec::new();
            for index in 0..BLOCKS {
                blocks.push(Block::new(channels, level, index, &weights)?);
                channels = output;
                skips.push(channels);
            }
            let resampling = if level + 1 < LEVELS.len() {
                skips.push(channels);
                let halving = Conv2dConfig { stride: 2, ..Default::default() };
                Some(conv2d(channels, channels, 3, halving, weights.pp("downsamplers.0.conv"))?)
            } else {
                None
            };
            down.push(Level { blocks, resampling });
        }
        let middle = weights.pp("mid_block");
        let middle = (
            ResidualBlock::new(channels, channels, middle.pp("resnets.0"))?,
            Attention::new(channels, middle.pp("attentions.0"))?,
            ResidualBlock::new(channels, channels, middle.pp("resnets.1"))?,
        );
        let mut up = Vec::new();
        for (number, (level, &output)) in LEVELS.iter().enumerate().rev().enumerate() {
            let weights = weights.pp(format!("up_blocks.{number}"));
            let mut blocks = Vec::new();
            for (index, skip) in skips.split_off(skips.len() - BLOCKS - 1).into_iter().rev().enumerate() {
                blocks.push(Block::new(channels + skip, level, index, &weights)?);
                channels = output;
            }
            let resampling = if level > 0 {
                Some(conv3x3(channels, channels, weights.pp("upsamplers.0.conv"))?)
            } else {
                None
            };
            up.push(Level { blocks, resampling });
        }
        Ok(Self {
            time1: linear(CHANNELS, TIME_CHANNELS, weights.pp("time_embedding.linear_1"))?,
            time2: linear(TIME_CHANNELS, TIME_CHANNELS, weights.pp("time_embedding.linear_2"))?,
            conv_in: conv3x3(3, CHANNELS, weights.pp("conv_in"))?,
            down,
            middle,
            up,
            norm_out: norm(CHANNELS, weights.pp("conv_norm_out"))?,
            conv_out: conv3x3(CHANNELS, 3, weights.pp("conv_out"))?,
        })
    }

    /// The prediction for `images` at `times` `[n]`; with dropout, and with operations that have gradients,
    /// if `training`.
    pub fn forward(&self, images: &Tensor, times: &Tensor, training: bool) -> Result<Tensor> {
        let time = self.time1.forward(&sinusoids(times)?)?.silu()?;
        let time = self.time2.forward(&time)?.silu()?;
        let mut h = self.conv_in.forward(images)?;
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for block in &level.blocks {
                h = block.forward(&h, &time, training)?;
                skips.push(h.clone());
            }
            if let Some(conv) = &level.resampling {
                let padded = h.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
                h = conv.forward(&padded)?;
                skips.push(h.clone());
            }
        }
        let (before, attention, after) = &self.middle;
        h = attention.forward(&before.forward(&h, &time, training)?, training)?;
        h = after.forward(&h, &time, training)?;
        for level in &self.up {
            for (block, skip) in
                level.blocks.iter().zip(skips.split_off(skips.len() - BLOCKS - 1).iter().rev())
            {
                h = block.forward(&Tensor::cat(&[&h, skip], 1)?, &time, training)?;
            }
            if let Some(conv) = &level.resampling {
                let (_, _, height, width) = h.dims4()?;
                h = conv.forward(&h.upsample_nearest2d(2 * height, 2 * width)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&h)?.silu()?)
    }
}

/// Sines, then cosines, of the times at geometric frequencies from 1 to 1/10,000.
fn sinusoids(times: &Tensor) -> Result<Tensor> {
    let half = CHANNELS / 2;
    let frequency = |index: usize| 1e4f64.powf(-(index as f64) / (half - 1) as f64) as f32;
    let frequencies = Tensor::from_iter((0..half).map(frequency), times.device())?;
    let angles = times.unsqueeze(1)?.broadcast_mul(&frequencies)?;
    Tensor::cat(&[angles.sin()?, angles.cos()?], 1)
}
