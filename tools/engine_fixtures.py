#!/usr/bin/env python3
"""Reference values of every operation of the engine and of its gradients, for `crates/engine/tests/ops_parity.rs`.

    python tools/engine_fixtures.py [--out crates/engine/tests/fixtures/ops.safetensors]

Each is PyTorch's operation in float64 on float32 inputs; everything is stored as float32. Tensors are named
`operation/case/tensor`:

    x, w, b        inputs, weight, bias (`a`, `b` of concat; `q`, `k`, `v` of attention; `gamma`, `beta` of group_norm)
    y              the output
    dy             a random gradient with respect to y
    dx, dw, db, …  the gradient of sum(y * dy) with respect to x, w, b, …

Layouts are the engine's: activations [n, h, w, c], vectors [n, c], convolution weights [kernel_h, kernel_w, in, out],
linear weights [in, out].

Operations and cases (paddings are top, bottom, left, right):
    conv2d           3x3_s1_p1, 3x3_s1_p1_wide (large enough for Winograd), 3x3_s1_p1_tiny (2x3 pixels),
                     3x3_s1_p1_pixel (1x1), 3x3_s2_p0101 (none at the top and left, 1 at the bottom and right),
                     3x3_s2_p0, 1x1, 1x1_wide, 1x7_p0033, 7x1_p3300, 5x5_p2
    linear           vectors
    group_norm       plain (4 groups, eps 1e-6), large_mean (3 groups, eps 1e-6; mean 40, deviation 0.25),
                     one_channel (groups of one channel, eps 1e-5), silu (4 groups, eps 1e-6, followed by SiLU)
    silu, relu       range (-30 to 30)
    attention        4x3, peaked (scores up to 100 in size): softmax(q k^T / sqrt(c)) v over the pixels of a sample
    upsample_nearest x2
    concat           4_7 (along channels, a first)
    add_per_sample   plain: y[n, h, w, c] = x[n, h, w, c] + v[n, c]
    scale_shift      plain: y[n, h, w, c] = x[n, h, w, c] * (1 + v[n, c]) + v[n, 6 + c], of 6 channels
    add              plain
    max_pool         3x3_s2, 3x3_s1_p1 (all values negative: padding counts as -inf)
    avg_pool         3x3_s1_p1 (padding excluded from the mean)
    global_avg_pool  plain: [n, h, w, c] -> [n, c]
    softmax          channels: over the last axis; large (logits around 1000)
    space_to_depth   block2, block4: y[n, i, j, (dy * block + dx) * C + c] = x[n, i * block + dy, j * block + dx, c],
                     the order of tf.nn.space_to_depth
    depth_to_space   block2: the inverse
    squared_error    plain: y[n] = mean over h, w, c of (x - target)^2
    sinusoid         32, 128 (channels): t [n] -> [sin(t f_0), ..., sin(t f_last), cos(t f_0), ..., cos(t f_last)] with
                     f_i = 10000^(-i / (channels / 2 - 1)); no gradient
    update           adam_clip_ema: see `updates`
"""

import argparse
import math
import platform
from pathlib import Path

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from portable_values import scaled

FIXTURE = Path(__file__).resolve().parent.parent / "crates/engine/tests/fixtures/ops.safetensors"


class Recorder:
    """Collects the inputs, outputs and gradients of each case."""

    def __init__(self):
        self.tensors = {}

    def case(self, name, function, constants=(), **inputs):
        """Runs `function` on float64 leaves made of `inputs` (float32 arrays by name); records y, dy and all gradients
        but those of `constants`."""
        leaves = {
            key: torch.from_numpy(value).double().requires_grad_(key not in constants) for key, value in inputs.items()
        }
        y = function(**leaves)
        dy = scaled(f"{name}/dy", tuple(y.shape), math.sqrt(3))
        y.backward(torch.from_numpy(dy).double())
        record = dict(inputs, y=y.detach().numpy(), dy=dy)
        record.update({f"d{key}": leaf.grad.numpy() for key, leaf in leaves.items() if key not in constants})
        self.record(name, record)

    def record(self, name, arrays):
        for key, value in arrays.items():
            assert np.isfinite(value).all(), f"{name}/{key}"
            self.tensors[f"{name}/{key}"] = np.ascontiguousarray(value, dtype=np.float32)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def conv2d(recorder, case, x_shape, kernel, out, stride=1, padding=(0, 0, 0, 0)):
    """`padding`: top, bottom, left, right."""
    name = f"conv2d/{case}"
    (kernel_h, kernel_w), channels = kernel, x_shape[3]
    top, bottom, left, right = padding

    def function(x, w, b):
        padded = F.pad(nchw(x), (left, right, top, bottom))
        return nhwc(F.conv2d(padded, w.permute(3, 2, 0, 1), b, stride))

    recorder.case(
        name, function,
        x=scaled(f"{name}/x", x_shape, math.sqrt(3)),
        w=scaled(f"{name}/w", (kernel_h, kernel_w, channels, out), math.sqrt(3 / (kernel_h * kernel_w * channels))),
        b=scaled(f"{name}/b", (out,), 0.5),
    )


def group_norm(recorder, case, x_shape, groups, eps, mean=0.5, deviation=1.5, silu=False):
    name = f"group_norm/{case}"

    def function(x, gamma, beta):
        y = F.group_norm(nchw(x), groups, gamma, beta, eps)
        return nhwc(F.silu(y) if silu else y)

    recorder.case(
        name, function,
        x=scaled(f"{name}/x", x_shape, deviation * math.sqrt(3)) + np.float32(mean),
        gamma=np.float32(1) + scaled(f"{name}/gamma", x_shape[3:], 0.5),
        beta=scaled(f"{name}/beta", x_shape[3:], 0.5),
    )


def attention(recorder, case, shape, spread):
    name = f"attention/{case}"
    n, h, w, c = shape

    def function(q, k, v):
        q, k, v = (tensor.reshape(n, h * w, c) for tensor in (q, k, v))
        scores = q @ k.transpose(1, 2) / math.sqrt(c)
        return (scores.softmax(dim=2) @ v).reshape(shape)

    recorder.case(
        name, function,
        q=scaled(f"{name}/q", shape, spread), k=scaled(f"{name}/k", shape, spread), v=scaled(f"{name}/v", shape, 1.5),
    )


def sinusoid(recorder, channels):
    t = np.array([0, 1, 57, 500, 999], dtype=np.float32)
    frequency = 10000.0 ** (-np.arange(channels // 2, dtype=np.float64) / (channels // 2 - 1))
    angle = t.astype(np.float64)[:, None] * frequency
    recorder.record(f"sinusoid/{channels}", {"t": t, "y": np.concatenate([np.sin(angle), np.cos(angle)], axis=1)})


def updates(recorder):
    """Four updates of one tensor w0: gradient g<k>, clipped to a global norm of 1; Adam with learning rate 0.01,
    betas 0.9 and 0.999, epsilon 1e-8; the moving average with decay 0.75, a copy of the weights at the first.
    The gradients' norms are about 3, 0.6, 30 and 0.01, so that some are clipped. Recorded: norm<k>, w<k>, ema<k>."""
    name, count = "update/adam_clip_ema", 23
    w0 = scaled(f"{name}/w0", (count,), 1.0)
    w = torch.from_numpy(w0).double().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    arrays, average = {"w0": w0}, None
    for k, norm in enumerate((3.0, 0.6, 30.0, 0.01), start=1):
        g = scaled(f"{name}/g{k}", (count,), norm * math.sqrt(3 / count))
        exact = torch.from_numpy(g).double()
        length = exact.norm()
        w.grad = exact * min(1.0, 1.0 / length)
        adam.step()
        now = w.detach().clone()
        average = now if average is None else 0.75 * average + 0.25 * now
        arrays |= {f"g{k}": g, f"norm{k}": length.reshape(1).numpy(), f"w{k}": now.numpy(), f"ema{k}": average.numpy()}
    recorder.record(name, arrays)


def space_to_depth(x, block):
    n, h, w, c = x.shape
    x = x.reshape(n, h // block, block, w // block, block, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // block, w // block, block * block * c)


def depth_to_space(x, block):
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, block, block, c // block**2).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * block, w * block, c // block**2)


def record_all():
    recorder = Recorder()
    case = recorder.case

    def inputs(name, shape, scale=math.sqrt(3)):
        return scaled(name, shape, scale)

    conv2d(recorder, "3x3_s1_p1", (2, 5, 7, 3), (3, 3), 5, padding=(1, 1, 1, 1))
    conv2d(recorder, "3x3_s1_p1_wide", (1, 8, 9, 17), (3, 3), 18, padding=(1, 1, 1, 1))
    conv2d(recorder, "3x3_s1_p1_tiny", (2, 2, 3, 4), (3, 3), 3, padding=(1, 1, 1, 1))
    conv2d(recorder, "3x3_s1_p1_pixel", (3, 1, 1, 4), (3, 3), 3, padding=(1, 1, 1, 1))
    conv2d(recorder, "3x3_s2_p0101", (2, 8, 7, 3), (3, 3), 5, stride=2, padding=(0, 1, 0, 1))
    conv2d(recorder, "3x3_s2_p0", (2, 7, 8, 3), (3, 3), 5, stride=2)
    conv2d(recorder, "1x1", (2, 5, 3, 9), (1, 1), 11)
    conv2d(recorder, "1x1_wide", (1, 2, 5, 18), (1, 1), 35)
    conv2d(recorder, "1x7_p0033", (1, 4, 9, 3), (1, 7), 4, padding=(0, 0, 3, 3))
    conv2d(recorder, "7x1_p3300", (1, 9, 4, 3), (7, 1), 4, padding=(3, 3, 0, 0))
    conv2d(recorder, "5x5_p2", (1, 7, 6, 3), (5, 5), 4, padding=(2, 2, 2, 2))

    case(
        "linear/vectors", lambda x, w, b: x @ w + b,
        x=inputs("linear/x", (3, 21)), w=inputs("linear/w", (21, 13), math.sqrt(3 / 21)), b=inputs("linear/b", (13,), 0.5),
    )

    group_norm(recorder, "plain", (2, 3, 3, 12), 4, 1e-6)
    group_norm(recorder, "large_mean", (2, 4, 3, 9), 3, 1e-6, mean=40, deviation=0.25)
    group_norm(recorder, "one_channel", (2, 3, 4, 5), 5, 1e-5)
    group_norm(recorder, "silu", (2, 3, 3, 20), 4, 1e-6, silu=True)

    case("silu/range", lambda x: F.silu(x), x=inputs("silu/x", (1, 5, 7, 3), 30.0))
    case("relu/range", lambda x: F.relu(x), x=inputs("relu/x", (1, 4, 3, 3), 30.0))

    attention(recorder, "4x3", (2, 4, 3, 11), math.sqrt(3))
    attention(recorder, "peaked", (1, 4, 4, 9), 6.0)

    case(
        "upsample_nearest/x2", lambda x: nhwc(F.interpolate(nchw(x), scale_factor=2, mode="nearest")),
        x=inputs("upsample/x", (2, 2, 4, 3)),
    )
    case(
        "concat/4_7", lambda a, b: torch.cat([a, b], dim=3),
        a=inputs("concat/a", (2, 3, 3, 4)), b=inputs("concat/b", (2, 3, 3, 7)),
    )
    case(
        "add_per_sample/plain", lambda x, v: x + v[:, None, None, :],
        x=inputs("add_per_sample/x", (2, 3, 3, 6)), v=inputs("add_per_sample/v", (2, 6)),
    )
    case(
        "scale_shift/plain", lambda x, v: x * (1 + v[:, None, None, :6]) + v[:, None, None, 6:],
        x=inputs("scale_shift/x", (2, 3, 3, 6)), v=inputs("scale_shift/v", (2, 12)),
    )
    case("add/plain", lambda a, b: a + b, a=inputs("add/a", (2, 2, 3, 5)), b=inputs("add/b", (2, 2, 3, 5)))

    case("max_pool/3x3_s2", lambda x: nhwc(F.max_pool2d(nchw(x), 3, 2)), x=inputs("max_pool/x", (2, 7, 9, 3)))
    case(
        "max_pool/3x3_s1_p1", lambda x: nhwc(F.max_pool2d(nchw(x), 3, 1, 1)),
        x=inputs("max_pool_padded/x", (1, 5, 6, 3)) - np.float32(2),
    )
    case(
        "avg_pool/3x3_s1_p1", lambda x: nhwc(F.avg_pool2d(nchw(x), 3, 1, 1, count_include_pad=False)),
        x=inputs("avg_pool/x", (1, 5, 6, 3)),
    )
    case("global_avg_pool/plain", lambda x: x.mean(dim=(1, 2)), x=inputs("global_avg_pool/x", (2, 5, 3, 7)))

    case("softmax/channels", lambda x: x.softmax(dim=1), x=inputs("softmax/x", (3, 19), 3.0))
    case("softmax/large", lambda x: x.softmax(dim=1), x=inputs("softmax_large/x", (2, 10), 4.0) + np.float32(1000))

    case("space_to_depth/block2", lambda x: space_to_depth(x, 2), x=inputs("space_to_depth/x", (2, 4, 6, 3)))
    case("space_to_depth/block4", lambda x: space_to_depth(x, 4), x=inputs("space_to_depth_4/x", (1, 4, 8, 2)))
    case("depth_to_space/block2", lambda x: depth_to_space(x, 2), x=inputs("depth_to_space/x", (2, 2, 3, 12)))

    case(
        "squared_error/plain", lambda x, target: ((x - target) ** 2).mean(dim=(1, 2, 3)), constants=("target",),
        x=inputs("squared_error/x", (3, 2, 4, 3)), target=inputs("squared_error/target", (3, 2, 4, 3)),
    )
    for channels in (32, 128):
        sinusoid(recorder, channels)
    updates(recorder)
    return recorder.tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURE, help="the file to write (default %(default)s)")
    options = parser.parse_args()
    tensors = record_all()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    versions = (
        f"python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors.__version__}, "
        f"numpy {np.__version__}"
    )
    save_file(tensors, options.out, {"versions": versions})
    print(f"{len(tensors)} tensors, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
