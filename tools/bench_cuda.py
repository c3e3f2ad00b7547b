#!/usr/bin/env python3
"""Times the paper's U-Nets on an NVIDIA GPU: our engine beside PyTorch at its best, on the same card in the same call.

    cargo build --release -p ddpm-models --example step_time
    python tools/bench_cuda.py --ours target/release/examples/step_time --json out.json
    python tools/bench_cuda.py --cases train:128 --precisions f32 --no-torch

PyTorch is diffusers' UNet2DModel with channels_last, torch.compile, fused Adam, a foreach moving average and global-norm clipping, each in
bf16 (autocast), tf32 and f32; where diffusers cannot be imported, PyTorch is left out, and says so. Ours is `step_time --device cuda`. Times are
medians over `--iterations`, in milliseconds for the whole batch; peak memory is the allocator's (PyTorch) or the card's less what was used before (ours).

A large copy and a large matrix product are timed first: what the card can do at most, for each time to stand beside.

NVIDIA's libraries are found by their names, or in the folders of DDPM_CUDA_LIBRARIES; those of PyTorch's wheels are added here.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

NETWORKS = {
    "cifar10": (32, (128, 256, 256, 256), (1,), 0.1),
    "celebahq256": (256, (128, 128, 256, 256, 512, 512), (4,), 0.0),
}
CASES = ("train:128:cifar10", "forward:256:cifar10", "train:16:celebahq256")


def wheel_folders():
    """The folders of NVIDIA's wheels beside PyTorch."""
    try:
        import nvidia
    except ImportError:
        return []
    return [str(folder) for root in nvidia.__path__ for folder in pathlib.Path(root).glob("*/lib") if folder.is_dir()]


def ceilings():
    """What the card reaches: bytes copied and operations of a bf16 product, a second."""
    import torch

    def best(work, repeats=10):
        times = []
        for _ in range(repeats + 3):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times[3:])

    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() * 4 / best(lambda: target.copy_(source))
    result = {"copy_bytes_per_second": copy}
    for name, kind in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("f32", torch.float32)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=kind) for _ in range(2))
        result[f"{name}_operations_per_second"] = 2 * 8192**3 / best(lambda: a @ b)
    return result


def pytorch(case, precision, iterations):
    """Median milliseconds and peak memory of one case in PyTorch, in this process."""
    import torch
    from diffusers import UNet2DModel

    kind, batch, name = case.split(":")
    batch, training = int(batch), kind == "train"
    size, widths, attends, dropout = NETWORKS[name]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "f32"
    torch.backends.cudnn.benchmark = True
    down = ["AttnDownBlock2D" if level in attends else "DownBlock2D" for level in range(len(widths))]
    up = ["AttnUpBlock2D" if level in attends else "UpBlock2D" for level in reversed(range(len(widths)))]
    network = UNet2DModel(
        sample_size=size, in_channels=3, out_channels=3, block_out_channels=widths, layers_per_block=2,
        down_block_types=down, up_block_types=up, norm_num_groups=32, norm_eps=1e-6, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1, attention_head_dim=None, act_fn="silu", dropout=dropout,
    ).cuda().to(memory_format=torch.channels_last)
    network.train(training)
    parameters = [p for p in network.parameters()]
    ema = [p.detach().clone() for p in parameters]
    adam = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    compiled = torch.compile(network)
    x = torch.randn(batch, 3, size, size, device="cuda").to(memory_format=torch.channels_last)
    noise, t = torch.randn_like(x), torch.full((batch,), 500, device="cuda")

    def iteration():
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            prediction = compiled(x, t).sample
        if not training:
            return
        loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1e-4)

    with torch.enable_grad() if training else torch.no_grad():
        for _ in range(5):
            iteration()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(iterations):
            start = time.perf_counter()
            iteration()
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"ms": statistics.median(times), "peak_mib": torch.cuda.max_memory_allocated() / 2**20}))


def run(command, environment=None):
    """The JSON object that a command prints last, or what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(command, case, precision, iterations):
    kind, batch, name = case.split(":")
    folders = os.pathsep.join(wheel_folders() + [os.environ.get("DDPM_CUDA_LIBRARIES", "")]).strip(os.pathsep)
    environment = {**os.environ, "DDPM_CUDA_LIBRARIES": folders}
    call = [*shlex.split(command), kind, batch, str(iterations), "0", name, "--device", "cuda", "--precision", precision]
    result = run(call, environment)
    if "error" in result:
        return result
    return {"ms": result[f"{kind}_ms_per_image"] * int(batch), "arena_mib": result["arena_mib"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="the example step_time")
    parser.add_argument("--cases", nargs="+", default=CASES, help="train|forward:BATCH[:NETWORK]")
    parser.add_argument("--precisions", nargs="+", default=("bf16", "tf32", "f32"))
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--json", help="where all numbers go")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        pytorch(options.one, options.precisions[0], options.iterations)
        return
    results = {}
    if not options.no_torch:
        results["ceilings"] = ceilings()
        print(json.dumps(results["ceilings"]))
    for case in options.cases:
        case = case if case.count(":") == 2 else case + ":cifar10"
        for precision in options.precisions:
            row = {}
            if not options.no_torch:
                row["pytorch"] = run(
                    [sys.executable, __file__, "--one", case, "--precisions", precision, "--iterations", str(options.iterations)]
                )
            if options.ours:
                row["ours"] = ours(options.ours, case, precision, options.iterations)
            results[f"{case} {precision}"] = row
            print(f"{case:24} {precision:5}", "  ".join(f"{who}: {numbers}" for who, numbers in row.items()), flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
