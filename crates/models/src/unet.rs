//! The paper's U-Net: residual blocks with group normalisation, attention where configured, skips from down to up.
//!
//! Parameters carry the names that diffusers' `UNet2DModel` gives them.

use crate::config::{Conventions, UnetConfig};
use engine::{Conv, Graph, GroupNorm, Init, Padding, Param, ParamLayout, Shape, Sinusoid, Var};

/// Scale of the initial variance.
const GLOROT: Init = Init::VarianceScaling { scale: 1.0 };
/// Where the network should start as the identity: all but zero (the original code's constant).
const NEAR_ZERO: Init = Init::VarianceScaling { scale: 1e-10 };
/// Longest wavelength of the time embedding, over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// A U-Net for one batch size, as a graph.
pub struct Unet {
    /// The operations.
    pub graph: Graph,
    /// Input: noisy images `[n, size, size, channels]`.
    pub x_t: Var,
    /// Input: time steps `[n, 1, 1, 1]`.
    pub timesteps: Var,
    /// The prediction `[n, size, size, output channels]`.
    pub output: Var,
}

/// What a network is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// With dropout.
    Training,
    /// Without.
    Inference,
}

impl Unet {
    /// The network of a valid `config` for batches of `batch` images.
    pub fn new(config: &UnetConfig, batch: usize, mode: Mode) -> Self {
        let size = config.image_size;
        let mut graph = Graph::new();
        let x_t = graph.input(Shape::new(batch, size, size, config.image_channels));
        let timesteps = graph.input(Shape::vectors(batch, 1));
        let output = Self::record(config, &mut graph, [x_t, timesteps], mode);
        Self { graph, x_t, timesteps, output }
    }

    /// Records the network of a valid `config` on a graph that has its inputs, x_t `[n, size, size, channels]` and time
    /// steps `[n, 1, 1, 1]`; returns the prediction.
    pub fn record(config: &UnetConfig, graph: &mut Graph, [x_t, timesteps]: [Var; 2], mode: Mode) -> Var {
        let dropout = if mode == Mode::Training { config.dropout } else { 0.0 };
        Builder { config, graph, dropout }.network(x_t, timesteps)
    }

    /// The parameters of the network of `config`.
    pub fn layout(config: &UnetConfig) -> ParamLayout {
        Self::new(config, 1, Mode::Inference).graph.layout().clone()
    }
}

struct Builder<'a> {
    config: &'a UnetConfig,
    graph: &'a mut Graph,
    dropout: f32,
}

impl Builder<'_> {
    fn network(&mut self, x_t: Var, timesteps: Var) -> Var {
        let config = self.config;
        let block = config.block_size;
        let x = if block > 1 { self.graph.space_to_depth(x_t, block) } else { x_t };
        let time = self.time_embedding(timesteps);

        let mut h = self.conv("conv_in", x, config.channels, Conv::SAME_3X3, GLOROT);
        let mut skips = vec![h];
        let levels = config.channel_mult.len();
        for level in 0..levels {
            let name = format!("down_blocks.{level}");
            for block in 0..config.num_res_blocks {
                h = self.residual_block(
                    &format!("{name}.resnets.{block}"),
                    h,
                    time,
                    config.level_channels(level),
                );
                if config.attends(level) {
                    h = self.attention_block(&format!("{name}.attentions.{block}"), h);
                }
                skips.push(h);
            }
            if level + 1 < levels {
                h = self.downsample(&format!("{name}.downsamplers.0.conv"), h);
                skips.push(h);
            }
        }

        let channels = config.level_channels(levels - 1);
        h = self.residual_block("mid_block.resnets.0", h, time, channels);
        h = self.attention_block("mid_block.attentions.0", h);
        h = self.residual_block("mid_block.resnets.1", h, time, channels);

        for (up, level) in (0..levels).rev().enumerate() {
            let name = format!("up_blocks.{up}");
            let skips_of_level = skips.split_off(skips.len() - (config.num_res_blocks + 1));
            for (block, &skip) in skips_of_level.iter().rev().enumerate() {
                h = self.graph.concat(&[h, skip]);
                h = self.residual_block(
                    &format!("{name}.resnets.{block}"),
                    h,
                    time,
                    config.level_channels(level),
                );
                if config.attends(level) {
                    h = self.attention_block(&format!("{name}.attentions.{block}"), h);
                }
            }
            if level > 0 {
                h = self.upsample(&format!("{name}.upsamplers.0.conv"), h);
            }
        }

        h = self.norm("conv_norm_out", h, true);
        let output_channels = config.output_channels() * block * block;
        h = self.conv("conv_out", h, output_channels, Conv::SAME_3X3, NEAR_ZERO);
        if block > 1 { self.graph.depth_to_space(h, block) } else { h }
    }

    /// SiLU of the embedding of t: every residual block begins with it.
    fn time_embedding(&mut self, timesteps: Var) -> Var {
        let width = 4 * self.config.channels;
        let Conventions { freq_shift, cosines_first, time_scale, .. } = self.config.conventions;
        let sinusoid =
            Sinusoid { max_period: MAX_PERIOD, shift: freq_shift, cosines_first, scale: time_scale };
        let h = self.graph.sinusoid(timesteps, self.config.channels, sinusoid);
        let h = self.linear("time_embedding.linear_1", h, width, GLOROT);
        let h = self.graph.silu(h);
        let h = self.linear("time_embedding.linear_2", h, width, GLOROT);
        self.graph.silu(h)
    }

    /// GroupNorm, SiLU, conv; + time; GroupNorm, SiLU, dropout, conv; + input (projected when channels
    /// change). Or, instead of being added, the time scales and shifts what the second GroupNorm gives.
    fn residual_block(&mut self, name: &str, x: Var, time: Var, channels: usize) -> Var {
        let (input, time_channels) = (self.graph.shape(x).c, self.graph.shape(time).c);
        let scale_shift = self.config.scale_shift_norm;
        // All parameters first, in the order that files have them in.
        let norm1 = self.norm_parameters(&format!("{name}.norm1"), input);
        let conv1 = self.weight_and_bias(&format!("{name}.conv1"), vec![3, 3, input, channels], GLOROT);
        let time_width = if scale_shift { 2 * channels } else { channels };
        let time_projection = vec![time_channels, time_width];
        let (time_weight, time_bias) =
            self.weight_and_bias(&format!("{name}.time_emb_proj"), time_projection, GLOROT);
        let norm2 = self.norm_parameters(&format!("{name}.norm2"), channels);
        let conv2 = self.weight_and_bias(&format!("{name}.conv2"), vec![3, 3, channels, channels], NEAR_ZERO);
        // The projection comes first, so that its gradient comes last: in between less has to be kept.
        let shortcut = if input == channels {
            x
        } else {
            self.conv(&format!("{name}.conv_shortcut"), x, channels, Conv::POINTWISE, GLOROT)
        };
        let h = self.normalise(x, norm1, true);
        let h = self.graph.conv(h, conv1.0, conv1.1, Conv::SAME_3X3);
        let time = self.graph.linear(time, time_weight, time_bias);
        let h = if scale_shift {
            let h = self.normalise(h, norm2, false);
            let h = self.graph.scale_shift(h, time);
            self.graph.silu(h)
        } else {
            let h = self.graph.add_per_sample(h, time);
            self.normalise(h, norm2, true)
        };
        let h = self.graph.dropout(h, self.dropout);
        let h = self.graph.conv(h, conv2.0, conv2.1, Conv::SAME_3X3);
        self.graph.add(shortcut, h)
    }

    /// GroupNorm, attention over all pixels, projection; + input.
    fn attention_block(&mut self, name: &str, x: Var) -> Var {
        let channels = self.graph.shape(x).c;
        let h = self.norm(&format!("{name}.group_norm"), x, false);
        let [q, k, v] =
            ["to_q", "to_k", "to_v"].map(|part| self.linear(&format!("{name}.{part}"), h, channels, GLOROT));
        let heads = self.config.conventions.heads_of(channels);
        let h = if heads == 1 {
            self.graph.attention(q, k, v)
        } else {
            let [q, k, v] = [q, k, v].map(|all| self.graph.split_heads(all, heads));
            let h = self.graph.attention(q, k, v);
            self.graph.merge_heads(h, heads)
        };
        let h = self.linear(&format!("{name}.to_out.0"), h, channels, NEAR_ZERO);
        self.graph.add(x, h)
    }

    fn downsample(&mut self, name: &str, x: Var) -> Var {
        let padding = match self.config.conventions.downsample_padding {
            0 => Padding::BOTTOM_RIGHT,
            _ => Padding::symmetric(1, 1),
        };
        let halving = Conv { stride: 2, padding, ..Conv::SAME_3X3 };
        self.conv(name, x, self.graph.shape(x).c, halving, GLOROT)
    }

    fn upsample(&mut self, name: &str, x: Var) -> Var {
        let channels = self.graph.shape(x).c;
        let h = self.graph.upsample(x);
        self.conv(name, h, channels, Conv::SAME_3X3, GLOROT)
    }

    fn conv(&mut self, name: &str, x: Var, output: usize, conv: Conv, init: Init) -> Var {
        let shape = vec![conv.kernel_h, conv.kernel_w, self.graph.shape(x).c, output];
        let (weight, bias) = self.weight_and_bias(name, shape, init);
        self.graph.conv(x, weight, bias, conv)
    }

    fn linear(&mut self, name: &str, x: Var, output: usize, init: Init) -> Var {
        let shape = vec![self.graph.shape(x).c, output];
        let (weight, bias) = self.weight_and_bias(name, shape, init);
        self.graph.linear(x, weight, bias)
    }

    fn weight_and_bias(&mut self, name: &str, shape: Vec<usize>, init: Init) -> (Param, Param) {
        let output = shape[shape.len() - 1];
        let weight = self.graph.parameter(format!("{name}.weight"), shape, init);
        (weight, self.graph.parameter(format!("{name}.bias"), vec![output], Init::Zeros))
    }

    fn norm(&mut self, name: &str, x: Var, silu: bool) -> Var {
        let parameters = self.norm_parameters(name, self.graph.shape(x).c);
        self.normalise(x, parameters, silu)
    }

    fn norm_parameters(&mut self, name: &str, channels: usize) -> (Param, Param) {
        let gamma = self.graph.parameter(format!("{name}.weight"), vec![channels], Init::Ones);
        (gamma, self.graph.parameter(format!("{name}.bias"), vec![channels], Init::Zeros))
    }

    fn normalise(&mut self, x: Var, (gamma, beta): (Param, Param), silu: bool) -> Var {
        let norm =
            GroupNorm { groups: self.config.norm_groups, epsilon: self.config.conventions.norm_eps, silu };
        self.graph.group_norm(x, gamma, beta, norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper(image_size: usize, channels: usize, channel_mult: &[usize], block_size: usize) -> UnetConfig {
        UnetConfig {
            image_size,
            image_channels: 3,
            learned_variance: false,
            channels,
            channel_mult: channel_mult.to_vec(),
            num_res_blocks: 2,
            attention_resolutions: vec![16],
            dropout: 0.0,
            block_size,
            norm_groups: 32,
            scale_shift_norm: false,
            conventions: Conventions::default(),
        }
    }

    #[test]
    fn parameters_are_as_many_as_published() {
        let count = |config: &UnetConfig| {
            config.validate().unwrap();
            Unet::layout(config).len()
        };
        assert_eq!(count(&paper(32, 128, &[1, 2, 2, 2], 1)), 35_746_307);
        assert_eq!(count(&paper(256, 128, &[1, 1, 2, 2, 4, 4], 1)), 113_673_219);
        assert_eq!(count(&paper(256, 192, &[1, 1, 2, 2, 4, 4], 1)), 255_677_955);
        let learned = UnetConfig { learned_variance: true, ..paper(32, 128, &[1, 2, 2, 2], 1) };
        assert_eq!(count(&learned), 35_746_307 + 3 * (9 * 128 + 1));
        // openai's published CIFAR-10 network ("50M"): the two halves of the time's projections, and one
        // block a level more.
        let improved = UnetConfig {
            learned_variance: true,
            num_res_blocks: 3,
            attention_resolutions: vec![16, 8],
            scale_shift_norm: true,
            ..paper(32, 128, &[1, 2, 2, 2], 1)
        };
        assert_eq!(count(&improved), 52_546_438);
        // Blocks of 2×2 pixels: 12 channels in and out instead of 3.
        assert_eq!(count(&paper(64, 128, &[1, 2, 2, 2], 2)), 35_746_307 + 9 * (9 * 128) * 2 + 9);
    }

    #[test]
    fn impossible_configurations_name_their_key() {
        let valid = paper(32, 128, &[1, 2, 2, 2], 1);
        type Change = fn(&mut UnetConfig);
        let cases: [(&str, Change); 17] = [
            ("image_size", |c| c.image_size = 36),
            ("image_size", |c| c.image_size = 0),
            ("image_channels", |c| c.image_channels = 2),
            ("channels", |c| c.channels = 0),
            ("channel_mult", |c| c.channel_mult.clear()),
            ("num_res_blocks", |c| c.num_res_blocks = 0),
            ("attention_resolutions", |c| c.attention_resolutions = vec![5]),
            ("dropout", |c| c.dropout = f32::NAN),
            ("block_size", |c| c.block_size = 3),
            ("norm_groups", |c| c.norm_groups = 24),
            ("conventions", |c| c.conventions.norm_eps = f32::NAN),
            ("conventions", |c| c.conventions.freq_shift = 2),
            ("conventions", |c| c.conventions.head_channels = Some(48)),
            ("conventions", |c| c.conventions.time_scale = 0.0),
            ("conventions", |c| c.conventions.heads = Some(3)),
            // All levels that attend have 256 channels.
            ("conventions", |c| c.conventions.heads = Some(4)),
            ("conventions", |c| {
                c.channel_mult = vec![1, 2, 2, 3];
                c.conventions = Conventions { heads: Some(4), head_channels: Some(64), ..c.conventions };
            }),
        ];
        valid.validate().unwrap();
        for (key, change) in cases {
            let mut config = valid.clone();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }
}
