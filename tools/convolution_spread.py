#!/usr/bin/env python3
"""Whether a training by another way to convolve differs from one by direct sums more than two seeds do.

    python tools/convolution_spread.py target/release/ddpm [--method fast|bf16x3] [--preset shapes32] [--steps 400] [--seeds 4] [--set KEY=VALUE]…

Trains every seed both ways and compares the mean losses of equal stretches of updates: the largest difference between the
two ways with one seed, and the standard deviation over seeds of each way. Standard library only.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile


def losses(options, method, seed, folder):
    """The run's losses, means over equal stretches."""
    run = pathlib.Path(folder) / f"{method}-{seed}"
    every = max(1, options.steps // 8)
    settings = [f"train.steps={options.steps}", f"log.every={every}", "log.sample_every=0", *options.set]
    command = [options.ddpm, "train", options.preset, "--out", run, "--seed", seed, "--conv", method, "--quiet"]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ddpm")
    parser.add_argument("--method", choices=("fast", "bf16x3"), default="fast", help="the other way (default fast: Winograd's)")
    parser.add_argument("--preset", default="shapes32")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    methods = (options.method, "direct")
    with tempfile.TemporaryDirectory() as folder:
        curves = {method: [losses(options, method, seed, folder) for seed in range(options.seeds)] for method in methods}
    print(f"| updates | {options.method}, mean | direct, mean | largest difference with one seed | deviation over seeds: {options.method} | direct |")
    print("|---|---|---|---|---|---|")
    stretches = len(curves["direct"][0])
    for stretch in range(stretches):
        other, direct = ([curve[stretch] for curve in curves[method]] for method in methods)
        apart = max(abs(a - b) for a, b in zip(other, direct))
        print(
            f"| {(stretch + 1) * options.steps // stretches} | {statistics.mean(other):.5f} | {statistics.mean(direct):.5f} | {apart:.5f} "
            f"| {statistics.stdev(other):.5f} | {statistics.stdev(direct):.5f} |"
        )


if __name__ == "__main__":
    main()
