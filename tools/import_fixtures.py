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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    record = out / "versions.json"
    versions = json.loads(record.read_text()) if record.exists() else {}
    versions |= {"python": platform.python_version(), "numpy": np.__version__}
    for write in (write_tensorflow, write_torch):
        try:
            versions |= write(out)
        except ImportError as error:
            print(f"left as it is: {error}")
    record.write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")
    for path in sorted(out.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
