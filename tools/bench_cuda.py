#!/usr/bin/env python3
"""Times the paper's U-Nets on an NVIDIA GPU: our engine beside PyTorch at its best, on the same card in the same call.

    cargo build --release -p ddpm-models --example step_time
    python tools/bench_cuda.py --ours target/release/examples/step_time --json out.json
    python tools/bench_cuda.py --cases train:128 --precisions f32 --no-torch

PyTorch is diffusers' UNet2DModel with channels_last, torch.compile, fused Adam, a foreach moving average and global-norm clipping, each in
bf16 (autocast), tf32 and f32; where diffusers cannot be imported, PyTorch is left out, and says so; where torch.compile fails, PyTorch is
timed without, and says so. Ours is `step_time --device cuda`, with algorithms that give the same bits every time, or (`--fastest`) also with
those that are fastest. Times are medians over `--iterations`, in milliseconds for the whole batch, ours with the images' way to the card
and in training with drawing the noise (PyTorch has both there already), in sampling with the predictions' way back. `peak_mib` is the allocator's (PyTorch) or what our engine took; `card_mib` what the card had in use at most while the
program ran, less what it had before: with it count the context and the libraries.

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
import tempfile
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


def pytorch(case, precision, iterations, compile_mode):
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
    compiled, mode = torch.compile(network, mode=None if compile_mode == "default" else compile_mode), compile_mode
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
        try:
            iteration()
        except Exception as error:  # torch.compile needs a C compiler and more.
            print(f"not compiled: {error}", file=sys.stderr)
            compiled, mode = network, "none"
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
    peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"ms": statistics.median(times), "peak_mib": peak, "compile": mode}))


def card_mib():
    """MiB that the card has in use, if it can be asked."""
    try:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return float(subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.splitlines()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def run(command, environment=None, log=None):
    """The JSON object that a command prints last with `card_mib`, or what went wrong. All it wrote goes to `log`."""
    before, most = card_mib(), 0.0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        child = subprocess.Popen(command, stdout=out, stderr=error, text=True, env=environment)
        while child.poll() is None:
            most = max(most, card_mib() or 0.0)
            time.sleep(0.2)
        out.seek(0), error.seek(0)
        lines, errors = out.read().strip().splitlines(), error.read()
    if log:
        with open(log, "a") as file:
            file.write(f"$ {shlex.join(command)}\n{errors}\n" + "\n".join(lines) + "\n")
    if child.returncode != 0:
        return {"error": (errors.strip().splitlines() or ["no message"])[-1]}
    result = json.loads(lines[-1])
    if before is not None:
        result["card_mib"] = most - before
    return result


def ours(command, case, precision, iterations, deterministic, log):
    kind, batch, name = case.split(":")
    folders = os.pathsep.join(wheel_folders() + [os.environ.get("DDPM_CUDA_LIBRARIES", "")]).strip(os.pathsep)
    environment = {**os.environ, "DDPM_CUDA_LIBRARIES": folders}
    call = [*shlex.split(command), kind, batch, str(iterations), "0", name]
    call += ["--device", "cuda", "--precision", precision, "--deterministic", str(deterministic).lower()]
    result = run(call, environment, log)
    if "error" in result:
        return result
    row = {"ms": result[f"{kind}_ms_per_image"] * int(batch), "peak_mib": result["memory_mib"]}
    return row | {key: result[key] for key in ("card_mib",) if key in result}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="the example step_time")
    parser.add_argument("--cases", nargs="+", default=CASES, help="train|forward:BATCH[:NETWORK]")
    parser.add_argument("--precisions", nargs="+", default=("bf16", "tf32", "f32"))
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--fastest", action="store_true", help="time ours also with --deterministic false")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--compile", default="default", help="torch.compile's mode: default, reduce-overhead, max-autotune")
    parser.add_argument("--log", help="where all that the programs write goes")
    parser.add_argument("--json", help="where all numbers go")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        pytorch(options.one, options.precisions[0], options.iterations, options.compile)
        return
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch cannot be imported: no ceilings, and ours alone", flush=True)
        options.no_torch = True
    results = {}
    if not options.no_torch:
        try:
            results["ceilings"] = ceilings()
            print(json.dumps(results["ceilings"]), flush=True)
        except RuntimeError as error:
            print(f"PyTorch cannot use the card: no ceilings, and ours alone ({str(error).splitlines()[0]})", flush=True)
            options.no_torch = True
    for case in options.cases:
        case = case if case.count(":") == 2 else case + ":cifar10"
        for precision in options.precisions:
            row = {}
            if not options.no_torch:
                call = [sys.executable, __file__, "--one", case, "--precisions", precision, "--compile", options.compile]
                row["pytorch"] = run([*call, "--iterations", str(options.iterations)], log=options.log)
            if options.ours:
                row["ours"] = ours(options.ours, case, precision, options.iterations, True, options.log)
                if options.fastest:
                    row["ours, fastest"] = ours(options.ours, case, precision, options.iterations, False, options.log)
            if "ms" in row.get("pytorch", {}) and "ms" in row.get("ours", {}):
                row["times as fast"] = round(row["pytorch"]["ms"] / row["ours"]["ms"], 3)
                row["of its memory"] = round(row["ours"]["peak_mib"] / row["pytorch"]["peak_mib"], 3)
            results[f"{case} {precision}"] = row
            print(f"{case:24} {precision:5}", "  ".join(f"{who}: {numbers}" for who, numbers in row.items()), flush=True)
            if options.json:
                pathlib.Path(options.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
