#!/usr/bin/env python3
"""How the cost of the CIFAR-10 network grows: with the batch, the image's size, the width and the threads.

    cargo build --release -p ddpm-models --example step_time
    python tools/growth.py target/release/examples/step_time --rounds 3

prints one Markdown table for each, milliseconds an image. Every figure is of a process of its own; in a round each runs once, and the
median over the rounds counts. What is not varied is batch 8, 32x32 pixels, 128 channels, two threads.
"""

import argparse
import json
import statistics
import subprocess

BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Fewer images as they get larger, so that one figure is about as much work as another.
SIZES = ((32, 8), (64, 8), (128, 2), (256, 1))
CHANNELS = (32, 64, 96, 128, 192, 256)


def milliseconds(command, kind, batch=8, threads=2, options=()):
    """The median over a process's repeats."""
    run = [command, kind, str(batch), "3", str(threads), "cifar10", *map(str, options)]
    lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
    return json.loads(lines[-1])[f"{kind}_ms_per_image"]


def table(title, columns, measure, rounds):
    """Prints a row for the forward pass and one for the training step."""
    figures = {(kind, column): [] for kind in ("forward", "train") for column in columns}
    for number in range(rounds):
        order = list(figures)
        for kind, column in order if number % 2 == 0 else reversed(order):
            figures[kind, column].append(measure(kind, column))
    print(f"| {title} | " + " | ".join(map(str, columns)) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for kind, name in (("forward", "forward"), ("train", "training step")):
        cells = [f"{statistics.median(figures[kind, column]):.1f}" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", help="the step_time program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", choices=("batch", "size", "channels", "threads"), help="one of the tables")
    arguments = parser.parse_args()
    command = arguments.command
    batch_of = dict(SIZES)
    tables = {
        "batch": (BATCHES, lambda kind, batch: milliseconds(command, kind, batch)),
        "size": (
            tuple(batch_of),
            lambda kind, size: milliseconds(command, kind, batch_of[size], options=("--image-size", size)),
        ),
        "channels": (CHANNELS, lambda kind, width: milliseconds(command, kind, options=("--channels", width))),
        "threads": (tuple(arguments.threads), lambda kind, threads: milliseconds(command, kind, threads=threads)),
    }
    for title, (columns, measure) in tables.items():
        if arguments.only in (None, title):
            table(title, columns, measure, arguments.rounds)


if __name__ == "__main__":
    main()
