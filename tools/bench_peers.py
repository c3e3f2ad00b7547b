#!/usr/bin/env python3
"""Times the paper's U-Nets (CIFAR-10: 35.7M parameters, 256x256: 114M) in other programs on the CPU, beside our own.

    python tools/bench_peers.py                                    the others alone, all cases, a table
    cargo build --release -p ddpm-models --example step_time
    python tools/bench_peers.py --ours target/release/examples/step_time --rounds 5 --json out.json
    python tools/bench_peers.py --cases train:8 --programs nchw compile --rounds 3
    (cd tools/peers && cargo build --release)                      candle and burn
    python tools/bench_peers.py --rust tools/peers/target/release --ours target/release/examples/step_time
    python tools/bench_peers.py --rust tools/peers/target/release --check

Programs: diffusers' UNet2DModel in PyTorch with images in the memory format `nchw` or `channels_last`, or through
torch.compile (`compile`, in NCHW), or channels last under torch.autocast, which convolves and multiplies in bf16 (`autocast`); forward also that network as ONNX in ONNX Runtime (`onnxruntime`) and OpenVINO
(`openvino`, held to f32). Needs torch, diffusers, onnx, onnxruntime and openvino, as far as they are asked for. With
`--rust`, also the CIFAR-10 network in the Rust frameworks `candle` and `burn`, written in tools/peers; `--check` tells
whether they compute what diffusers computes.

Cases: `forward:B` is one network call without gradients at batch B; `train:B` is a training step: forward, mean squared
error, backward, global-norm clipping at 1, Adam, and the exponential moving average of the weights.

Every measurement runs in a fresh process: untimed iterations first, then `--iterations` timed ones, of which the median
counts (torch.compile compiles in the first; its cache on disk serves the other processes). In a round each contender runs once; the order is reversed every other round, so that a machine that
slows down or speeds up favours none. Reported are medians over the rounds, the median of the ratios within the rounds,
and the largest resident set of any of the processes (for the others that includes their libraries: `import` tells how much).

Contract for `--ours CMD` (split as a shell would; name the executable itself, not `cargo run`, or the memory of the
wrong process is measured). It is called as

    CMD forward|train BATCH ITERATIONS THREADS NETWORK

warms up by itself, and prints as the last line of its standard output one JSON object with the median milliseconds per
image:

    {"batch": 8, "forward_ms_per_image": 31.4}      for `forward`
    {"batch": 8, "train_ms_per_image": 98.0}        for `train`

Further keys are allowed and ignored. An exit status other than 0 stops the benchmark.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

# Nothing heavy may be imported here: a child's largest resident set starts from its parent's.

TORCH = ("nchw", "channels_last", "compile", "autocast")
RUNTIMES = ("onnxruntime", "openvino")
RUST = ("candle", "burn")
# The largest error of a network that is the same, in f32, over the output's root mean square.
SAME = 1e-4


# The paper's networks: image size, widths of the levels, which of them attend, dropout while training.
NETWORKS = {
    "cifar10": (32, (128, 256, 256, 256), (1,), 0.1),
    "celebahq256": (256, (128, 128, 256, 256, 512, 512), (4,), 0.0),
}


def network(name, dropout):
    """One of the paper's networks in diffusers."""
    from diffusers import UNet2DModel

    size, widths, attends, _ = NETWORKS[name]
    down = ["AttnDownBlock2D" if level in attends else "DownBlock2D" for level in range(len(widths))]
    up = ["AttnUpBlock2D" if level in attends else "UpBlock2D" for level in reversed(range(len(widths)))]
    return UNet2DModel(
        sample_size=size, in_channels=3, out_channels=3, block_out_channels=widths, layers_per_block=2,
        down_block_types=down, up_block_types=up,
        norm_num_groups=32, norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        attention_head_dim=None, act_fn="silu", dropout=dropout,
    )


def image_shape(options):
    """A batch as PyTorch has it."""
    size = NETWORKS[options.network][0]
    return options.batch, 3, size, size


def torch_iteration(options):
    """One iteration of PyTorch as a function."""
    import torch
    from torch import nn

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layout = torch.channels_last if options.program in ("channels_last", "autocast") else torch.contiguous_format
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.program == "autocast")
    dropout = NETWORKS[options.network][3] if options.dropout is None else options.dropout
    model = network(options.network, dropout).to(memory_format=layout)
    parameters = list(model.parameters())
    if options.program == "compile":
        model = torch.compile(model)
    x = torch.randn(image_shape(options)).to(memory_format=layout)
    noise = torch.randn_like(x)
    t = torch.randint(0, 1000, (options.batch,))

    if options.mode == "forward":
        model.eval()

        def iteration():
            with torch.no_grad(), precision:
                model(x, t)
    else:
        model.train()
        average = [p.detach().clone() for p in parameters]
        adam = torch.optim.Adam(parameters, lr=2e-4, fused=options.adam == "fused", foreach=options.adam == "foreach")

        def iteration():
            adam.zero_grad(set_to_none=True)
            with precision:
                prediction = model(x, t).sample
            loss = nn.functional.mse_loss(prediction.float(), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - 0.9999)

    return iteration


def export_onnx(options):
    """Writes the network for a batch as ONNX."""
    import torch

    class Prediction(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x, t):
            return self.model(x, t, return_dict=False)[0]

    model = Prediction(network(options.network, 0.0).eval())
    inputs = (torch.randn(image_shape(options)), torch.full((options.batch,), 500))
    torch.onnx.export(model, inputs, options.onnx, input_names=["x", "t"], output_names=["eps"], opset_version=18, dynamo=False)


def runtime_iteration(options):
    """One call of an ONNX runtime as a function."""
    import numpy

    values = {
        "x": numpy.random.default_rng(0).standard_normal(image_shape(options), dtype=numpy.float32),
        "t": numpy.full(options.batch, 500, numpy.int64),
    }
    if options.program == "onnxruntime":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        session = onnxruntime.InferenceSession(options.onnx, settings, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, values)
    import openvino

    settings = {"INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(options.onnx, "CPU", settings)
    return lambda: compiled(values)


def measure(options):
    """Runs one measurement in this process and prints it."""
    import importlib
    import resource

    module = importlib.import_module("torch" if options.program in TORCH else options.program)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    iteration = torch_iteration(options) if options.program in TORCH else runtime_iteration(options)
    for _ in range(options.warmup):
        iteration()
    seconds = []
    for _ in range(options.iterations):
        start = time.perf_counter()
        iteration()
        seconds.append(time.perf_counter() - start)
    milliseconds = 1000 * statistics.median(seconds) / options.batch
    print(json.dumps({
        "batch": options.batch, f"{options.mode}_ms_per_image": milliseconds, "import_mib": imported,
        "version": module.__version__,
    }))


def run(command, key):
    """Runs a contender: its JSON object, with `peak_mib` of its process added."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    # wait4 rather than wait: it tells this one process's largest resident set.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with status {process.returncode}")
    lines = output.strip().splitlines()
    try:
        result = json.loads(lines[-1])
        result["value"] = float(result[key])
    except (IndexError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{shlex.join(command)}: the last line of its output must be a JSON object with {key} ({error!r})")
    result["peak_mib"] = usage.ru_maxrss / 1024
    return result


def rust_binary(options, program):
    return os.path.join(options.rust, f"{program}_unet")


def without_missing(options, parser):
    """The programs that can be run; says which are left out."""
    rust = [program for program in options.programs if program in RUST]
    if not rust:
        return options.programs
    if options.rust and options.network == "cifar10":
        for program in rust:
            if not os.access(rust_binary(options, program), os.X_OK):
                parser.error(f"{rust_binary(options, program)} is no program: cd tools/peers && cargo build --release")
        return options.programs
    reason = "they have the network cifar10 only" if options.rust else "build tools/peers and name the folder with --rust"
    print(f"{' and '.join(rust)} left out: {reason}", file=sys.stderr)
    return [program for program in options.programs if program not in RUST]


def check(options):
    """Holds the Rust programs' output, and PyTorch's own, against diffusers in float64 with the same random weights."""
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = network("cifar10", 0.0).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 700.0])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights, case = os.path.join(folder, "weights.safetensors"), os.path.join(folder, "case")
        safetensors.torch.save_file(model.state_dict(), weights)
        single = model(x, t).sample
        expected = model.double()(x.double(), t.double()).sample
        error = ((single - expected).abs().max() / expected.square().mean().sqrt()).item()
        print(f"PyTorch {torch.__version__}: {parameters} parameters, error {error:.1e}")
        with open(case, "wb") as file:
            for values in (x, t, expected.float()):
                file.write(values.numpy().tobytes())
        for program in (program for program in options.programs if program in RUST):
            command = [rust_binary(options, program), "check", str(len(x)), weights, case, str(options.threads)]
            result = run(command, "error")
            print(f"{program} {result['version']}: {result['parameters']} parameters, error {result['error']:.1e}")
            if result["parameters"] != parameters or not result["error"] < SAME:
                sys.exit(f"{program} has another network")


def contenders(options, mode, batch, folder):
    """Name and command line of each program to be measured."""
    iterations, threads = str(options.iterations), str(options.threads)
    result = []
    for program in options.programs:
        if mode == "train" and program in RUNTIMES:
            continue
        if program in RUST:
            result.append((program, [rust_binary(options, program), mode, str(batch), iterations, threads]))
            continue
        command = [
            sys.executable, os.path.abspath(__file__), "--child", "--mode", mode, "--program", program,
            "--batch", str(batch), "--threads", threads, "--warmup", str(options.warmup), "--iterations", iterations,
            "--network", options.network, "--adam", options.adam,
        ]
        if options.dropout is not None:
            command += ["--dropout", str(options.dropout)]
        if program in RUNTIMES:
            onnx = os.path.join(folder, f"network-{batch}.onnx")
            if not os.path.exists(onnx):
                # In a process of its own: PyTorch's memory would be inherited as this one's largest.
                export = [sys.executable, os.path.abspath(__file__), "--child", "--network", options.network, "--onnx", onnx]
                subprocess.run([*export, "--batch", str(batch)], check=True)
            command += ["--onnx", onnx]
        result.append((program, command))
    for ours in options.ours:
        program, *settings = shlex.split(ours)
        name = shlex.join(["ours", *settings])
        if any(name == other for other, _ in result):
            sys.exit(f"--ours is given twice with the same settings: {ours}")
        result.append((name, [program, *settings, mode, str(batch), iterations, threads, options.network]))
    return result


def compare(options, mode, batch, folder):
    """All rounds of one case; rows of the table."""
    programs = contenders(options, mode, batch, folder)
    runs = {name: [] for name, _ in programs}
    for turn in range(options.rounds):
        for name, command in programs if turn % 2 == 0 else reversed(programs):
            runs[name].append(run(command, f"{mode}_ms_per_image"))
            print(f"  {mode}:{batch} round {turn + 1}: {name} {runs[name][-1]['value']:.1f} ms", file=sys.stderr, flush=True)
    rows = []
    for name, results in runs.items():
        times = [result["value"] for result in results]
        row = {
            "case": f"{mode}:{batch}", "program": name, "ms_per_image": statistics.median(times),
            "least": min(times), "most": max(times), "peak_mib": max(result["peak_mib"] for result in results),
            "import_mib": results[0].get("import_mib"), "version": results[0].get("version"),
        }
        row["times"] = {
            own: statistics.median(other["value"] / mine["value"] for other, mine in zip(results, runs[own]))
            for own in runs if own.startswith("ours") and own != name
        }
        rows.append(row)
    return rows


def table(rows):
    def cell(row, key, form):
        return form.format(row[key]) if row.get(key) is not None else ""

    owns = list(dict.fromkeys(own for row in rows for own in row["times"]))
    lines = [
        "| case | program | ms per image | least – most | " + "".join(f"÷ {own} | " for own in owns) + "peak MiB | of it, import |",
        "|---" * (6 + len(owns)) + "|",
    ]
    for row in rows:
        ratios = "".join(f"{row['times'][own]:.2f} | " if own in row["times"] else "| " for own in owns)
        lines.append(
            f"| {row['case']} | {row['program']} | {row['ms_per_image']:.1f} | {row['least']:.1f} – {row['most']:.1f} "
            f"| {ratios}{row['peak_mib']:.0f} | {cell(row, 'import_mib', '{:.0f}')} |"
        )
    return "\n".join(lines)


def case(text):
    mode, _, batch = text.partition(":")
    if mode not in ("forward", "train") or not batch.isdigit() or int(batch) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not forward:B or train:B")
    return mode, int(batch)


def warn_if_busy():
    """The machine's load before the first run; says so when the ratios will not be worth anything."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"warning: the machine is busy (load average {load:.1f}). PyTorch's threads wait for each other by spinning, and "
            "lose more to other work than ours: do not report ratios from this run.",
            file=sys.stderr,
        )
    return load


def positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=case, default=[("forward", 1), ("forward", 8), ("train", 8)],
                        metavar="MODE:BATCH", help="what to time (default forward:1 forward:8 train:8)")
    parser.add_argument("--programs", nargs="+", choices=TORCH + RUNTIMES + RUST, default=list(TORCH + RUNTIMES + RUST),
                        help="what ours is compared with (default all; the runtimes cannot train)")
    parser.add_argument("--rust", metavar="FOLDER", help="where candle_unet and burn_unet are, built from tools/peers")
    parser.add_argument("--check", action="store_true", help="instead of timing, hold candle's and burn's output against diffusers'")
    parser.add_argument("--threads", type=positive, default=2, help="threads of every program (default 2)")
    parser.add_argument("--rounds", type=positive, default=5, help="processes per program and case (default 5)")
    parser.add_argument("--warmup", type=positive, default=2, help="untimed iterations of each other program (default 2)")
    parser.add_argument("--iterations", type=positive, default=5, help="timed iterations of each process (default 5)")
    parser.add_argument("--network", choices=NETWORKS, default="cifar10", help="which of the paper's networks (default cifar10)")
    parser.add_argument("--dropout", type=float, help="PyTorch's dropout rate while training, in [0, 1) (default the preset's)")
    parser.add_argument("--adam", choices=("fused", "foreach", "single"), default="fused",
                        help="PyTorch's implementation of Adam (default fused, its fastest on a CPU)")
    parser.add_argument("--ours", metavar="CMD", action="append", default=[],
                        help="our program, called in turns with the others; see the contract above. Repeatable, with other settings each time")
    parser.add_argument("--json", metavar="FILE", help="also write the rows and the settings as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=("forward", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=positive, help=argparse.SUPPRESS)
    parser.add_argument("--program", choices=TORCH + RUNTIMES, help=argparse.SUPPRESS)
    parser.add_argument("--onnx", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.program:
            measure(options)
        else:
            export_onnx(options)
        return
    options.programs = without_missing(options, parser)
    if options.check:
        check(options)
        return
    load = warn_if_busy()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for mode, batch in options.cases for row in compare(options, mode, batch, folder)]
    print(table(rows))
    if options.json:
        settings = {key: getattr(options, key) for key in ("network", "threads", "rounds", "warmup", "iterations", "dropout", "adam", "ours")}
        with open(options.json, "w") as file:
            json.dump({"settings": settings, "load_before": load, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
