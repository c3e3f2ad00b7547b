#!/usr/bin/env python3
"""Opens a model directory with diffusers as its users do, and predicts noise with it.

    python tools/check_diffusers.py DIR [--input IN.safetensors --output OUT.safetensors]

Fails if diffusers warns about anything, misses a key or does not know one. IN holds `x_t` [N, C, H, W] and
`timesteps` int64 [N]; OUT receives `prediction`. Prints one JSON object: what diffusers made of the directory.
"""

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path

import diffusers
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file


class Complaints(logging.Handler):
    """Keeps what a library logs."""

    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    complaints = Complaints()
    diffusers.utils.logging.get_logger("diffusers").addHandler(complaints)
    diffusers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        # Without the optional package `accelerate` the default would warn about the installation.
        plain = dict(low_cpu_mem_usage=False)
        pipeline = DDPMPipeline.from_pretrained(arguments.directory, **plain)
        _, loading = UNet2DModel.from_pretrained(arguments.directory / "unet", output_loading_info=True, **plain)
    # Deprecations inside libraries are not about the directory.
    complaints.messages += [str(w.message) for w in raised if issubclass(w.category, UserWarning)]
    keys = {what: sorted(loading[what]) for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
    with safe_open(arguments.directory / "unet/diffusion_pytorch_model.safetensors", "pt") as file:
        labels = file.metadata()

    unet, scheduler = pipeline.unet.eval(), pipeline.scheduler
    if arguments.input:
        given = load_file(arguments.input)
        with torch.no_grad():
            prediction = unet(given["x_t"], given["timesteps"]).sample
        save_file({"prediction": prediction.contiguous()}, arguments.output)
    refusal = None
    try:
        x = torch.zeros(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        step = scheduler.step(unet(x, 1).sample, 1, x).prev_sample
        assert torch.isfinite(step).all(), "a step of the scheduler gives NaN"
    except ValueError as error:
        refusal = str(error)
    report = dict(
        diffusers=diffusers.__version__,
        parameters=sum(p.numel() for p in unet.parameters()),
        labels=labels,
        betas=[scheduler.betas[0].item(), scheduler.betas[-1].item()],
        beta_sum=scheduler.betas.double().sum().item(),
        timesteps=len(scheduler.betas),
        variance_type=scheduler.config.variance_type,
        sampling_refused=refusal,
        complaints=complaints.messages,
        **keys,
    )
    print(json.dumps(report))
    return 1 if complaints.messages or any(keys.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
