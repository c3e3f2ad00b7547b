#!/usr/bin/env python3
"""Times 64 images of the paper's CIFAR-10 network: `ddpm sample` beside diffusers' pipelines, on the CPU.

    cargo build --release -p ddpm
    python tools/bench_sampling.py target/release/ddpm --rounds 2 [--conv fast bf16x3]

The network has random weights, the same for all: a pipeline saved by diffusers, which ddpm opens as it is. Two samplers: DDIM with 50
steps, and the reverse process in all 1000. Every figure is of a process of its own, from its start to its end; in a round each runs once.
Each is run with few steps and with some more, and what a step takes is had from the difference; the whole is that many steps and the rest.
Prints a Markdown table. diffusers' images have the memory format channels_last, the faster of the two here.
"""

import argparse
import functools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

IMAGES = 64
FEW, MORE = 2, 6
STEPS = {"ddim": 50, "ancestral": 1000}
PIPELINE = """
import sys, torch
from diffusers import {name}
torch.set_num_threads({threads})
pipeline = {name}.from_pretrained(sys.argv[1])
pipeline.unet.to(memory_format=torch.channels_last)
pipeline.set_progress_bar_config(disable=True)
pipeline(batch_size={images}, num_inference_steps={steps}, generator=torch.Generator().manual_seed(0))
"""


def save_pipeline(directory):
    """The network with random weights as diffusers saves it."""
    from diffusers import DDPMPipeline, DDPMScheduler

    from bench_peers import network

    DDPMPipeline(unet=network("cifar10", 0.0).eval(), scheduler=DDPMScheduler()).save_pretrained(directory)


def seconds(command):
    """What a process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ddpm", help="the ddpm program")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--conv", nargs="+", default=["fast"], help="ddpm's ways to convolve (default fast)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        model = directory / "model"
        save_pipeline(model)

        def ddpm(conv, sampler, steps, number):
            return [
                arguments.ddpm, "sample", model, "--out", directory / f"{conv}-{sampler}-{steps}-{number}", "--n", str(IMAGES),
                "--sampler", sampler, "--steps", str(steps), "--threads", str(arguments.threads), "--conv", conv, "--quiet",
            ]  # fmt: skip

        def diffusers(sampler, steps, _):
            name = "DDIMPipeline" if sampler == "ddim" else "DDPMPipeline"
            text = PIPELINE.format(name=name, threads=arguments.threads, images=IMAGES, steps=steps)
            return [sys.executable, "-c", text, model]

        programs = {f"ddpm, {conv}": functools.partial(ddpm, conv) for conv in arguments.conv} | {"diffusers": diffusers}
        times = {}
        for number in range(arguments.rounds):
            cells = [(s, p, n) for s in STEPS for n in (FEW, MORE) for p in programs]
            for sampler, program, steps in cells if number % 2 == 0 else reversed(cells):
                command = programs[program](sampler, steps, number)
                times.setdefault((sampler, program, steps), []).append(seconds(command))

    print("| sampler | steps | | a step, s | in all, s |")
    print("|---|---|---|---|---|")
    for sampler, steps in STEPS.items():
        for program in programs:
            few, more = (statistics.median(times[sampler, program, count]) for count in (FEW, MORE))
            step = (more - few) / (MORE - FEW)
            print(f"| {sampler} | {steps} | {program} | {step:.2f} | {few + (steps - FEW) * step:.0f} |")


if __name__ == "__main__":
    main()
