#!/usr/bin/env python3
"""Reference chains for `crates/diffusion/tests/reference/solvers.rs`, from diffusers' schedulers.

    python tools/sampler_fixtures.py [--out crates/diffusion/tests/fixtures/samplers.json]

DPMSolverMultistepScheduler (order 2, midpoint), DDIMInverseScheduler, and DDPMScheduler with `learned_range`; their
float32 tables are replaced by float64 ones. Noise, the network and the form of the file are those of
`diffusion_fixtures.py`.
"""

import argparse
import json
import platform
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm

from diffusion_fixtures import (
    FIRST_SAMPLE, PREDICTION_TYPES, SAMPLER_SHAPE, SEED, batch_normals, coarse, in_float64, toy_network,
)

OUT = Path(__file__).resolve().parent.parent / "crates/diffusion/tests/fixtures/samplers.json"


def latents():
    return torch.tensor(batch_normals(SEED, "latent", 0, FIRST_SAMPLE, SAMPLER_SHAPE))


def dpm_chain(prediction, clip, spacing, steps):
    scheduler = in_float64(DPMSolverMultistepScheduler(
        prediction_type=PREDICTION_TYPES[prediction], timestep_spacing=spacing,
        # With the largest value 1, the threshold is 1 whatever the quantile: x̂0 is clipped to [-1, 1].
        thresholding=clip, sample_max_value=1.0,
    ))
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) == steps
    signal = scheduler.alphas_cumprod[timesteps]
    scheduler.sigmas = torch.cat([((1 - signal) / signal).sqrt(), torch.zeros(1, dtype=torch.float64)])
    x, rows = latents(), []
    for t in timesteps:
        x = scheduler.step(toy_network(x, [t]), t, x).prev_sample
        rows.append({"t": t, "x": coarse(x)})
    return {"prediction": prediction, "clip": clip, "spacing": spacing, "steps": steps, "chain": rows}


def inversion_chain(spacing, steps):
    scheduler = in_float64(DDIMInverseScheduler(clip_sample=False, timestep_spacing=spacing))
    scheduler.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x, rows = latents().clamp(-1, 1), []
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(toy_network(x, [t]), t, x).prev_sample
        rows.append({"t": t, "x": coarse(x)})
    return {"spacing": spacing, "steps": steps, "chain": rows}


def toy_range(x):
    """The second half of the output of `ToyDenoiser::with_range`."""
    return -0.4 + 0.5 * x / (1 + x.abs())


def range_chain(spacing, steps):
    scheduler = in_float64(DDPMScheduler(variance_type="learned_range", timestep_spacing=spacing))
    scheduler.set_timesteps(steps)
    x, rows = latents(), []
    for i, t in enumerate(scheduler.timesteps.tolist()):
        last = i == steps - 1
        z = np.zeros(SAMPLER_SHAPE) if last else batch_normals(SEED, "reverse_noise", t, FIRST_SAMPLE, SAMPLER_SHAPE)
        scheduling_ddpm.randn_tensor = lambda *_, z=z, **__: torch.tensor(z)
        # diffusers splits the second dimension, whatever it stands for.
        x = scheduler.step(torch.cat([toy_network(x, [t]), toy_range(x)], dim=1), t, x).prev_sample
        rows.append({"t": t, "x": coarse(x)})
    return {"spacing": spacing, "steps": steps, "chain": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    fixtures = {
        "versions": {
            "python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "shape": SAMPLER_SHAPE, "seed": SEED, "first_sample": FIRST_SAMPLE,
        "dpm_solver": [
            dpm_chain(prediction, clip, spacing, steps)
            for prediction in PREDICTION_TYPES
            for clip in (False, True)
            for spacing in ("leading", "trailing", "linspace")
            for steps in (1, 2, 5, 20)
        ],
        "inversion": [inversion_chain(spacing, steps) for spacing in ("leading", "trailing") for steps in (5, 50)],
        "learned_range": [range_chain(spacing, 5) for spacing in ("leading", "trailing", "linspace")],
    }
    out.write_text(json.dumps(fixtures, separators=(",", ":")) + "\n")
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
