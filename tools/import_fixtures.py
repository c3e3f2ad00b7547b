#!/usr/bin/env python3
"""Checkpoints of a small network by the programs that wrote the field's, for `crates/checkpoint/tests/imports.rs`.

    python tools/import_fixtures.py [--out crates/checkpoint/tests/fixtures/imports]

Needs numpy, torch with safetensors, and tensorflow (one of them may be missing: its files are then left as they are).

The network has 32 channels, two levels of equal width, one residual block each, attention at the lower one.
Parameter number n of the original's variables, by name, has the elements ((7 k + 13 n) mod 251) / 64 - 2 in the order of
TensorFlow; averaged weights are half of that.

model.ckpt-7.index, model.ckpt-7.data-00000-of-00001.gz    written by TensorFlow: raw and averaged weights, an optimiser's
                                                           slots, the step
diffusion_pytorch_model.bin                                the weights of fixtures/current, pickled by PyTorch
ema_model-7.ckpt.gz                                        the averaged weights under pytorch_diffusion's names, by PyTorch
ckpt.pt.gz, ckpt_output.npy                                a checkpoint as w86763777/pytorch-ddpm saves them, of the network
                                                           written down below, and what that network predicts in float64
ema_0.9999_000007.pt.gz, improved_output.npy               a checkpoint as openai/improved-diffusion saves them, of the
                                                           network written down below, and what it predicts in float64
improved_thirds.npy                                        what it would predict with the other order of queries, keys, values
"""

import argparse
import gzip
import json
import platform
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "crates/checkpoint/tests/fixtures/imports"
CHANNELS, IMAGE = 32, 3


def variables():
    """Shapes of the original's variables."""
    c, shapes = CHANNELS, {}

    def conv(name, inputs, outputs, size=3):
        shapes[f"{name}/W"] = (size, size, inputs, outputs)
        shapes[f"{name}/b"] = (outputs,)

    def dense(name, inputs, outputs):
        shapes[f"{name}/W"] = (inputs, outputs)
        shapes[f"{name}/b"] = (outputs,)

    def norm(name, channels):
        shapes[f"{name}/gamma"] = shapes[f"{name}/beta"] = (channels,)

    def block(name, inputs):
        norm(f"{name}/norm1", inputs)
        conv(f"{name}/conv1", inputs, c)
        dense(f"{name}/temb_proj", 4 * c, c)
        norm(f"{name}/norm2", c)
        conv(f"{name}/conv2", c, c)
        if inputs != c:
            dense(f"{name}/nin_shortcut", inputs, c)

    def attention(name):
        norm(f"{name}/norm", c)
        for layer in ("q", "k", "v", "proj_out"):
            dense(f"{name}/{layer}", c, c)

    dense("model/temb/dense0", c, 4 * c)
    dense("model/temb/dense1", 4 * c, 4 * c)
    conv("model/conv_in", IMAGE, c)
    block("model/down_0/block_0", c)
    conv("model/down_0/downsample/conv", c, c)
    block("model/down_1/block_0", c)
    attention("model/down_1/attn_0")
    block("model/mid/block_1", c)
    attention("model/mid/attn_1")
    block("model/mid/block_2", c)
    for i in range(2):
        block(f"model/up_1/block_{i}", 2 * c)
        attention(f"model/up_1/attn_{i}")
        block(f"model/up_0/block_{i}", 2 * c)
    conv("model/up_1/upsample/conv", c, c)
    norm("model/norm_out", c)
    conv("model/conv_out", c, IMAGE)
    values = {}
    for n, name in enumerate(sorted(shapes)):
        k = np.arange(np.prod(shapes[name]))
        values[name] = (((7 * k + 13 * n) % 251) / 64 - 2).astype(np.float32).reshape(shapes[name])
    return values


def pack(path):
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    path.unlink()


def write_tensorflow(out):
    import tensorflow as tf

    tensors = {}
    for name, value in variables().items():
        tensors[name] = value
        tensors[f"{name}/ExponentialMovingAverage"] = value / 2
        if name.endswith("/b"):
            tensors[f"{name}/Adam"] = value * 0
    tensors["global_step"] = np.int64(7)
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(out / "model.ckpt-7"), tensor_names=names, shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
    pack(out / "model.ckpt-7.data-00000-of-00001")
    return {"tensorflow": tf.__version__}


def write_torch(out):
    import torch

    state = {}
    for name, value in variables().items():
        name = name.removeprefix("model/").replace("temb/dense0", "temb/dense/0").replace("temb/dense1", "temb/dense/1")
        for level in range(2):
            for way in ("down", "up"):
                name = name.replace(f"{way}_{level}/", f"{way}/{level}/")
        if name.startswith(("down", "up")):
            name = name.replace("block_", "block/").replace("attn_", "attn/")
        stem, kind = name.replace("/", ".").rsplit(".", 1)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
            if "attn" in stem or "nin_shortcut" in stem:
                value = value[:, :, None, None]
        kind = {"W": "weight", "gamma": "weight", "b": "bias", "beta": "bias"}[kind]
        state[f"{stem}.{kind}"] = torch.tensor(np.ascontiguousarray(value / 2))
    torch.save(state, out / "ema_model-7.ckpt")
    pack(out / "ema_model-7.ckpt")
    from safetensors.torch import load_file

    current = out.parent / "current/unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(current), out / "diffusion_pytorch_model.bin")
    return {"torch": torch.__version__}


def write_pytorch_ddpm(out):
    """The network of w86763777/pytorch-ddpm, from its description: its names, padding, epsilon and time embedding.

    Parameter number n of the averaged weights, in the order of the state dictionary, has the elements
    ((7 k + 13 n) mod 251 - 125) / 125, divided by the square root of the inputs of an output; weights of normalisations
    are 1 + a quarter of that. Raw weights are twice the averaged ones. The input is ((7 k) mod 251 - 125) / 125 at t = 61.
    """
    import torch
    from torch import nn
    from torch.nn.functional import interpolate

    channels, multipliers, blocks, steps = 32, (1, 2), 1, 100

    class Block(nn.Module):
        def __init__(self, inputs, outputs, attends):
            super().__init__()
            conv = lambda i, o, size: nn.Conv2d(i, o, size, padding=size // 2)
            self.block1 = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), conv(inputs, outputs, 3))
            self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(4 * channels, outputs))
            self.block2 = nn.Sequential(nn.GroupNorm(32, outputs), nn.SiLU(), nn.Dropout(0), conv(outputs, outputs, 3))
            self.shortcut = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
            self.attn = Attention(outputs) if attends else nn.Identity()

        def forward(self, x, time):
            h = self.block1(x) + self.temb_proj(time)[:, :, None, None]
            return self.attn(self.block2(h) + self.shortcut(x))

    class Attention(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.group_norm = nn.GroupNorm(32, width)
            self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Conv2d(width, width, 1) for _ in range(4))

        def forward(self, x):
            h = self.group_norm(x)
            q, k, v = (layer(h).flatten(2) for layer in (self.proj_q, self.proj_k, self.proj_v))
            scores = torch.einsum("ncq,nck->nqk", q, k) / x.shape[1] ** 0.5
            return x + self.proj(torch.einsum("nqk,nck->ncq", scores.softmax(-1), v).reshape(x.shape))

    class Resize(nn.Module):
        def __init__(self, width, up):
            super().__init__()
            self.up, self.main = up, nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1)

        def forward(self, x, time):
            return self.main(interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)

    class TimeEmbedding(nn.Module):
        def __init__(self):
            super().__init__()
            frequency = 10000.0 ** (-torch.arange(0, channels, 2) / channels)
            angle = torch.arange(steps)[:, None] * frequency
            table = torch.stack([angle.sin(), angle.cos()], dim=2).reshape(steps, channels)
            self.timembedding = nn.Sequential(
                nn.Embedding.from_pretrained(table), nn.Linear(channels, 4 * channels), nn.SiLU(),
                nn.Linear(4 * channels, 4 * channels),
            )

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_embedding = TimeEmbedding()
            self.head = nn.Conv2d(3, channels, 3, padding=1)
            down, up, width, skips = [], [], channels, [channels]
            for level, multiplier in enumerate(multipliers):
                for _ in range(blocks):
                    down.append(Block(width, channels * multiplier, level == 1))
                    width = channels * multiplier
                    skips.append(width)
                if level + 1 < len(multipliers):
                    down.append(Resize(width, False))
                    skips.append(width)
            middle = [Block(width, width, True), Block(width, width, False)]
            for level, multiplier in reversed(list(enumerate(multipliers))):
                for _ in range(blocks + 1):
                    up.append(Block(skips.pop() + width, channels * multiplier, level == 1))
                    width = channels * multiplier
                if level > 0:
                    up.append(Resize(width, True))
            self.downblocks, self.middleblocks, self.upblocks = map(nn.ModuleList, (down, middle, up))
            self.tail = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

        def forward(self, x, t):
            time = self.time_embedding.timembedding(t)
            skips = [self.head(x)]
            for layer in self.downblocks:
                skips.append(layer(skips[-1], time))
            h = skips[-1]
            for layer in self.middleblocks:
                h = layer(h, time)
            for layer in self.upblocks:
                h = layer(torch.cat([h, skips.pop()], dim=1) if isinstance(layer, Block) else h, time)
            return self.tail(h)

    pattern = lambda k, n: torch.tensor(((7 * k + 13 * n) % 251 - 125) / 125, dtype=torch.float32)
    network = Network().eval()
    averaged, raw = {}, {}
    for n, (name, tensor) in enumerate(network.state_dict().items()):
        values = pattern(np.arange(tensor.numel()), n).reshape(tensor.shape)
        if "timembedding.0" in name:
            averaged[name] = raw[name] = tensor
            continue
        if tensor.dim() > 1:
            values = values / tensor[0].numel() ** 0.5
        elif name.endswith("weight"):
            values = 1 + values / 4
        averaged[name], raw[name] = values, 2 * values
    network.load_state_dict(averaged)
    with torch.no_grad():
        x = pattern(np.arange(3 * 32 * 32), 0).reshape(1, 3, 32, 32)
        output = network.double()(x.double(), torch.tensor([61]))
    np.save(out / "ckpt_output.npy", output.float().numpy())
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=lambda step: 1.0)
    torch.save({
        "net_model": raw, "ema_model": averaged, "sched": schedule.state_dict(), "optim": optimizer.state_dict(), "step": 7,
        "x_T": x,
    }, out / "ckpt.pt")
    pack(out / "ckpt.pt")
    return {"torch": torch.__version__}


def write_improved_diffusion(out):
    """The network of openai/improved-diffusion, from its description: time scales and shifts what is normalised, one layer
    gives queries, keys and values, attention has several heads, and a second half of the output says the variance.

    Parameters are made as those of pytorch-ddpm are. t = 611 of 4000, which the network sees a quarter of.
    """
    import torch
    from torch import nn
    from torch.nn.functional import interpolate

    width, multipliers, blocks, heads, attending = 32, (1, 2, 3), 1, 2, (1, 2)
    state = {"thirds": False}

    class Residual(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * width, 2 * outputs))
            self.out_layers = nn.Sequential(
                nn.GroupNorm(32, outputs), nn.SiLU(), nn.Dropout(0), nn.Conv2d(outputs, outputs, 3, padding=1)
            )
            self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x, time):
            norm, rest = self.out_layers[0], self.out_layers[1:]
            scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, dim=1)
            return self.skip_connection(x) + rest(norm(self.in_layers(x)) * (1 + scale) + shift)

    class Attention(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.norm, self.qkv = nn.GroupNorm(32, channels), nn.Conv1d(channels, 3 * channels, 1)
            self.proj_out = nn.Conv1d(channels, channels, 1)

        def forward(self, x, time):
            n, c, *size = x.shape
            flat = x.flatten(2)
            parts = self.qkv(self.norm(flat))
            if state["thirds"]:
                q, k, v = parts.reshape(n, 3, heads, c // heads, -1).unbind(1)
            else:
                q, k, v = parts.reshape(n, heads, 3, c // heads, -1).unbind(2)
            scores = torch.einsum("nhcq,nhck->nhqk", q, k) / (c // heads) ** 0.5
            h = torch.einsum("nhqk,nhck->nhcq", scores.softmax(-1), v).reshape(n, c, -1)
            return (flat + self.proj_out(h)).reshape(n, c, *size)

    class Down(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

        def forward(self, x, time):
            return self.op(x)

    class Up(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

        def forward(self, x, time):
            return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))

    def block(*parts):
        return nn.ModuleList(parts)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
            down, up, channels, skips = [block(nn.Conv2d(3, width, 3, padding=1))], [], width, [width]
            for level, multiplier in enumerate(multipliers):
                for _ in range(blocks):
                    parts = [Residual(channels, width * multiplier)]
                    channels = width * multiplier
                    parts += [Attention(channels)] * (level in attending)
                    down.append(block(*parts))
                    skips.append(channels)
                if level + 1 < len(multipliers):
                    down.append(block(Down(channels)))
                    skips.append(channels)
            middle = block(Residual(channels, channels), Attention(channels), Residual(channels, channels))
            for level, multiplier in reversed(list(enumerate(multipliers))):
                for index in range(blocks + 1):
                    parts = [Residual(channels + skips.pop(), width * multiplier)]
                    channels = width * multiplier
                    parts += [Attention(channels)] * (level in attending)
                    parts += [Up(channels)] * (level > 0 and index == blocks)
                    up.append(block(*parts))
            self.input_blocks, self.middle_block, self.output_blocks = nn.ModuleList(down), middle, nn.ModuleList(up)
            self.out = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, 6, 3, padding=1))

        def forward(self, x, t):
            half = width // 2
            angle = (t * 1000 / 4000)[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
            time = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=1))
            skips, h = [], x
            for parts in self.input_blocks:
                for part in parts:
                    h = part(h) if isinstance(part, nn.Conv2d) else part(h, time)
                skips.append(h)
            for part in self.middle_block:
                h = part(h, time)
            for parts in self.output_blocks:
                h = torch.cat([h, skips.pop()], dim=1)
                for part in parts:
                    h = part(h, time)
            return self.out(h)

    pattern = lambda k, n: torch.tensor(((7 * k + 13 * n) % 251 - 125) / 125, dtype=torch.float32)
    network, values = Network().eval(), {}
    for n, (name, tensor) in enumerate(network.state_dict().items()):
        made = pattern(np.arange(tensor.numel()), n).reshape(tensor.shape)
        if tensor.dim() > 1:
            made = made / tensor[0].numel() ** 0.5
        elif name.endswith("weight"):
            made = 1 + made / 4
        values[name] = made
    network.load_state_dict(values)
    network.double()
    x, t = pattern(np.arange(3 * 32 * 32), 0).reshape(1, 3, 32, 32).double(), torch.tensor([611.0]).double()
    with torch.no_grad():
        for thirds, name in ((False, "improved_output.npy"), (True, "improved_thirds.npy")):
            state["thirds"] = thirds
            # Pixels in eight places of each row and column are enough to see any difference.
            np.save(out / name, network(x, t).float().numpy()[:, :, ::4, ::4].copy())
    torch.save(values, out / "ema_0.9999_000007.pt")
    pack(out / "ema_0.9999_000007.pt")
    return {"torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    record = out / "versions.json"
    versions = json.loads(record.read_text()) if record.exists() else {}
    versions |= {"python": platform.python_version(), "numpy": np.__version__}
    for write in (write_tensorflow, write_torch, write_pytorch_ddpm, write_improved_diffusion):
        try:
            versions |= write(out)
        except ImportError as error:
            print(f"left as it is: {error}")
    record.write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")
    for path in sorted(out.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
