#!/usr/bin/env python3
"""U-Net reference outputs and gradients from diffusers, for `crates/models/tests/diffusers_parity`.

    python tools/unet_fixtures.py [--only NAME] [--out crates/models/tests/fixtures]

Weights and inputs are not stored: both sides make them with `portable_values.py`.
All weights and biases but those of normalisations are multiplied by the configuration's weight scale, a power of two:
with small activations the normalisations' epsilon shows.
Everything is in PyTorch's memory order (images NCHW, convolutions OIHW, linear layers [out, in]).

For a network f and N samples:
    x          scaled("x", [N, C, H, W], sqrt(3))    unit variance
    timesteps  the stored tensor `timesteps`, int64 [N]
    y          f(x, timesteps)
    r          symmetric("r", shape of y)            the gradient of the loss sum(y * r) with respect to y

Stored in each `<configuration>.safetensors`:
    timesteps            int64 [N]
    output               f32 [N, C', H, W]: y computed in float64, the time embedding included
    output_stock         f32: y of the unchanged diffusers model in float32, as its users run it
    gradient/<name>      f32 [21], of the gradient g (float64) of the parameter with that diffusers name:
                         [0]      its root mean square, rms(g)
                         [1..5]   four projections sum_i g_i * v(f"projection.{j}.{name}", i), j = 0..3: they see
                                  every element (an error e moves each by about rms(e) * sqrt(len / 3))
                         [5..21]  the elements at flat indices floor(k * len / 16), k = 0..15
The header's metadata holds the configuration, the number of parameters, versions, and the distance of the stock
float32 model from the float64 one.

float64 here means: the model's weights are float32 numbers, everything after is float64. diffusers computes the
sinusoids in float32 always, which at t near 1000 costs 3e-5 of their size, so the reference replaces that one
function by the same formula in float64.

The gradient of a key projection's bias is zero in exact arithmetic (it shifts all scores of a query alike):
what is stored is float64 noise, to be compared on the scale of the query bias's gradient.
"""

import argparse
import json
import math
import platform
from pathlib import Path

import diffusers
import numpy as np
import safetensors
import torch
from diffusers import UNet2DModel
from safetensors.numpy import save_file

from portable_values import parameter, scaled, symmetric

PROJECTIONS = 4
SAMPLES = 16
FIXTURES = Path(__file__).resolve().parent.parent / "crates/models/tests/fixtures"


def network(size, channels, blocks, attention, groups, image_channels=3, learned=False, block_size=1):
    """UNet2DModel's arguments for a network of the paper's family, and the block size around it.

    `size` is the image's; `attention` lists feature-map sizes in network pixels, after the gathering of
    `block_size` x `block_size` pixels into channels.
    """
    levels = [(size // block_size) >> level for level in range(len(channels))]
    down = ["AttnDownBlock2D" if s in attention else "DownBlock2D" for s in levels]
    up = ["AttnUpBlock2D" if s in attention else "UpBlock2D" for s in reversed(levels)]
    in_channels = image_channels * block_size**2
    return dict(
        sample_size=size // block_size, in_channels=in_channels, out_channels=in_channels * (2 if learned else 1),
        block_out_channels=list(channels), down_block_types=down, up_block_types=up, layers_per_block=blocks,
        norm_num_groups=groups, norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        attention_head_dim=None, act_fn="silu", dropout=0.0, center_input_sample=False,
    ), block_size


def with_defaults(arguments, block, **more):
    """The same network with diffusers' own defaults, which are not the paper's, and what else is given."""
    defaults = dict(norm_eps=1e-5, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, attention_head_dim=8)
    return arguments | defaults | more, block


CONFIGURATIONS = {
    # name: (network, timesteps, weight scale)
    "tiny_rgb": (network(8, (32, 64), 1, {4}, 8), [3, 917], 1.0),
    "gray_three_levels": (network(16, (16, 32, 32), 2, {8}, 8, image_channels=1), [917, 3], 1 / 16),
    "learned": (network(8, (32, 64), 1, {8}, 16, learned=True), [0, 999], 1.0),
    "block_size_two": (network(16, (16, 32), 1, {4}, 8, learned=True, block_size=2), [500, 41], 1.0),
    # Small activations, so that the normalisations' larger epsilon shows.
    "diffusers_defaults": (with_defaults(*network(8, (32, 64), 1, {4}, 8)), [3, 917], 1 / 8),
    "scale_shift": (with_defaults(*network(8, (32, 64), 1, {4}, 8), resnet_time_scale_shift="scale_shift", attn_norm_num_groups=8), [3, 917], 1 / 8),
    "cifar10": (network(32, (128, 256, 256, 256), 2, {16}, 32), [617], 1.0),
}


def sinusoids_float64(timesteps, embedding_dim, flip_sin_to_cos, downscale_freq_shift, scale=1, max_period=10000):
    assert scale == 1 and embedding_dim % 2 == 0
    half = embedding_dim // 2
    places = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angle = timesteps[:, None].double() * torch.exp(-math.log(max_period) * places)
    parts = [angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)


def space_to_depth(x, block):
    """NCHW; output channel (dy * block + dx) * C + c holds pixel (y * block + dy, x * block + dx), TensorFlow's order."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, block * block * c, h // block, w // block)


def depth_to_space(x, block):
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // block**2, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def predict(model, block, x, timesteps):
    return depth_to_space(model(space_to_depth(x, block), timesteps).sample, block)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, dtype=np.float64)))))


def digest(name, gradient):
    """What is stored of a parameter's gradient; see the top of the file."""
    flat = gradient.astype(np.float64).ravel()
    projections = [
        float(np.dot(flat, symmetric(f"projection.{j}.{name}", flat.shape).astype(np.float64)))
        for j in range(PROJECTIONS)
    ]
    picked = flat[[k * flat.size // SAMPLES for k in range(SAMPLES)]]
    return np.concatenate([[rms(flat)], projections, picked]).astype(np.float32)


def make(name):
    (arguments, block), timesteps, weight_scale = CONFIGURATIONS[name]
    model = UNet2DModel(**arguments).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            values = parameter(key, tuple(tensor.shape))
            if not (tensor.dim() == 1 and key.endswith(".weight")):
                values *= np.float32(weight_scale)
            tensor.copy_(torch.from_numpy(values))
    count = sum(tensor.numel() for tensor in model.parameters())

    size = arguments["sample_size"] * block
    x_shape = (len(timesteps), arguments["in_channels"] // block**2, size, size)
    x = torch.from_numpy(scaled("x", x_shape, math.sqrt(3)))
    t = torch.tensor(timesteps)
    with torch.no_grad():
        stock = predict(model, block, x, t).numpy()

    model.double()
    sinusoids = diffusers.models.embeddings.get_timestep_embedding
    diffusers.models.embeddings.get_timestep_embedding = sinusoids_float64
    try:
        output = predict(model, block, x.double(), t)
        r = torch.from_numpy(symmetric("r", tuple(output.shape))).double()
        (output * r).sum().backward()
    finally:
        diffusers.models.embeddings.get_timestep_embedding = sinusoids

    output = output.detach().numpy()
    stock_distance = rms(stock - output) / rms(output)
    # Contiguous, since save_file writes an array's memory as it lies, and PyTorch may have chosen channels last.
    tensors = {
        "timesteps": np.array(timesteps, dtype=np.int64),
        "output": np.ascontiguousarray(output, dtype=np.float32),
        "output_stock": np.ascontiguousarray(stock),
    }
    for key, tensor in model.named_parameters():
        tensors[f"gradient/{key}"] = digest(key, tensor.grad.numpy())
    metadata = {
        "configuration": json.dumps(arguments, sort_keys=True),
        "block_size": str(block),
        "parameters": str(count),
        "weight_scale": str(weight_scale),
        "stock_distance": f"{stock_distance:.3e}",
        "versions": versions(),
    }
    return tensors, metadata


def versions():
    return (
        f"python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"safetensors {safetensors.__version__}, numpy {np.__version__}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CONFIGURATIONS, help="make this fixture alone")
    parser.add_argument("--out", type=Path, default=FIXTURES, help="folder for the files (default %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else CONFIGURATIONS:
        tensors, metadata = make(name)
        path = options.out / f"{name}.safetensors"
        save_file(tensors, path, metadata)
        print(
            f"{name}: {metadata['parameters']} parameters, output rms {rms(tensors['output']):.4f}, "
            f"stock float32 off by {metadata['stock_distance']} of it, {path.stat().st_size} bytes"
        )


if __name__ == "__main__":
    main()
