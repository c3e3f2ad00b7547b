//! The paper's CIFAR-10 U-Net; fields have the names of diffusers' `UNet2DModel`, whose weights can so be
//! loaded. Images are `[n, channels, height, width]`.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Dropout, DropoutConfig, GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::silu;
use burn::tensor::module::{attention, interpolate};
use burn::tensor::ops::{AttentionModuleOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use contract::DROPOUT;

const CHANNELS: usize = 128;
const TIME_CHANNELS: usize = 4 * CHANNELS;
/// Channels of the levels, and which of them attends.
const LEVELS: [usize; 4] = [CHANNELS, 2 * CHANNELS, 2 * CHANNELS, 2 * CHANNELS];
const ATTENDING_LEVEL: usize = 1;
const BLOCKS: usize = 2;

fn norm(channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(32, channels).with_epsilon(1e-6).init(device)
}

fn conv3x3(input: usize, output: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([input, output], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

fn linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).init(device)
}

#[derive(Module, Debug)]
struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    fn new(input: usize, output: usize, device: &Device) -> Self {
        Self {
            norm1: norm(input, device),
            conv1: conv3x3(input, output, device),
            time_emb_proj: linear(TIME_CHANNELS, output, device),
            norm2: norm(output, device),
            dropout: DropoutConfig::new(DROPOUT).init(),
            conv2: conv3x3(output, output, device),
            conv_shortcut: (input != output).then(|| Conv2dConfig::new([input, output], [1, 1]).init(device)),
        }
    }

    fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let h = self.conv1.forward(silu(self.norm1.forward(x.clone())));
        let h = h + self.time_emb_proj.forward(time).unsqueeze_dims(&[2, 3]);
        let h = self.conv2.forward(self.dropout.forward(silu(self.norm2.forward(h))));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

#[derive(Module, Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
}

impl Attention {
    fn new(channels: usize, device: &Device) -> Self {
        let projection = || linear(channels, channels, device);
        Self {
            group_norm: norm(channels, device),
            to_q: projection(),
            to_k: projection(),
            to_v: projection(),
            to_out: vec![projection()],
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let h: Tensor<3> = self.group_norm.forward(x.clone()).flatten(2, 3);
        // One head.
        let h: Tensor<4> = h.swap_dims(1, 2).unsqueeze_dim(1);
        let [query, key, value] = [&self.to_q, &self.to_k, &self.to_v].map(|part| part.forward(h.clone()));
        let mut h = attention(query, key, value, None, None, AttentionModuleOptions::default());
        for projection in &self.to_out {
            h = projection.forward(h);
        }
        x + h.swap_dims(2, 3).reshape(shape)
    }
}

/// The convolution that leads to another resolution.
#[derive(Module, Debug)]
struct Resampler {
    conv: Conv2d,
}

/// Blocks of one resolution.
#[derive(Module, Debug)]
struct Level {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<Attention>,
    downsamplers: Vec<Resampler>,
    upsamplers: Vec<Resampler>,
}

impl Level {
    /// The blocks at `level` for inputs of the given channels.
    fn new(inputs: &[usize], level: usize, device: &Device) -> Self {
        let output = LEVELS[level];
        let attentions = if level == ATTENDING_LEVEL { inputs.len() } else { 0 };
        Self {
            resnets: inputs.iter().map(|&input| ResidualBlock::new(input, output, device)).collect(),
            attentions: (0..attentions).map(|_| Attention::new(output, device)).collect(),
            downsamplers: vec![],
            upsamplers: vec![],
        }
    }

    fn block(&self, index: usize, x: Tensor<4>, time: &Tensor<2>) -> Tensor<4> {
        let h = self.resnets[index].forward(x, time.clone());
        match self.attentions.get(index) {
            Some(attention) => attention.forward(h),
            None => h,
        }
    }
}

#[derive(Module, Debug)]
struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

/// The network.
#[derive(Module, Debug)]
pub struct Unet {
    time_embedding: TimeEmbedding,
    conv_in: Conv2d,
    down_blocks: Vec<Level>,
    mid_block: Level,
    up_blocks: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// A network of fresh weights.
    pub fn new(device: &Device) -> Self {
        let mut channels = CHANNELS;
        let mut skips = vec![channels];
        let mut down_blocks = Vec::new();
        for (level, &output) in LEVELS.iter().enumerate() {
            let mut blocks = Level::new(&[channels, output], level, device);
            channels = output;
            skips.extend([channels; BLOCKS]);
            if level + 1 < LEVELS.len() {
                let halving = Conv2dConfig::new([channels, channels], [3, 3])
                    .with_stride([2, 2])
                    .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1));
                blocks.downsamplers.push(Resampler { conv: halving.init(device) });
                skips.push(channels);
            }
            down_blocks.push(blocks);
        }
        let mid_block = Level {
            resnets: (0..2).map(|_| ResidualBlock::new(channels, channels, device)).collect(),
            attentions: vec![Attention::new(channels, device)],
            downsamplers: vec![],
            upsamplers: vec![],
        };
        let mut up_blocks = Vec::new();
        for (level, &output) in LEVELS.iter().enumerate().rev() {
            let mut inputs = Vec::new();
            for skip in skips.split_off(skips.len() - BLOCKS - 1).into_iter().rev() {
                inputs.push(channels + skip);
                channels = output;
            }
            let mut blocks = Level::new(&inputs, level, device);
            if level > 0 {
                blocks.upsamplers.push(Resampler { conv: conv3x3(channels, channels, device) });
            }
            up_blocks.push(blocks);
        }
        Self {
            time_embedding: TimeEmbedding {
                linear_1: linear(CHANNELS, TIME_CHANNELS, device),
                linear_2: linear(TIME_CHANNELS, TIME_CHANNELS, device),
            },
            conv_in: conv3x3(3, CHANNELS, device),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: norm(CHANNELS, device),
            conv_out: conv3x3(CHANNELS, 3, device),
        }
    }

    /// The prediction for `images` at `times` `[n]`; with dropout on a device with gradients.
    pub fn forward(&self, images: Tensor<4>, times: Tensor<1>) -> Tensor<4> {
        let time = silu(self.time_embedding.linear_1.forward(sinusoids(times)));
        let time = silu(self.time_embedding.linear_2.forward(time));
        let mut h = self.conv_in.forward(images);
        let mut skips = vec![h.clone()];
        for level in &self.down_blocks {
            for index in 0..level.resnets.len() {
                h = level.block(index, h, &time);
                skips.push(h.clone());
            }
            for halving in &level.downsamplers {
                h = halving.conv.forward(h);
                skips.push(h.clone());
            }
        }
        h = self.mid_block.block(0, h, &time);
        h = self.mid_block.block(1, h, &time);
        for level in &self.up_blocks {
            for (index, skip) in
                skips.split_off(skips.len() - level.resnets.len()).into_iter().rev().enumerate()
            {
                h = level.block(index, Tensor::cat(vec![h, skip], 1), &time);
            }
            for doubling in &level.upsamplers {
                let options = InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]);
                h = doubling.conv.forward(interpolate(h, options));
            }
        }
        self.conv_out.forward(silu(self.conv_norm_out.forward(h)))
    }
}

/// Sines, then cosines, of the times at geometric frequencies from 1 to 1/10,000.
fn sinusoids(times: Tensor<1>) -> Tensor<2> {
    let half = CHANNELS / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|index| 1e4f64.powf(-(index as f64) / (half - 1) as f64) as f32).collect();
    let frequencies = Tensor::<1>::from_floats(frequencies.as_slice(), &times.device());
    let angles = times.unsqueeze_dim::<2>(1) * frequencies.unsqueeze_dim(0);
    Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
}
