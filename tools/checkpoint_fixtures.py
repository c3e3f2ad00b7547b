#!/usr/bin/env python3
"""Model directories written by diffusers, for `crates/checkpoint/tests/foreign_models.rs`.

    python tools/checkpoint_fixtures.py [--out crates/checkpoint/tests/fixtures]

One small network (8x8 RGB, channels 4 and 8, one block a level, attention at 4) with weights from
`portable_values.py`, in three forms:
    current/   as DDPMPipeline.save_pretrained writes it: subfolders, to_q/to_k/to_v/to_out.0, float32
    older/     as the hub has models of 2022: no subfolders, query/key/value/proj_attn, as linear layers in the middle
               and as 1x1 convolutions elsewhere, float16, keys that later versions added are absent
    network/   UNet2DModel.save_pretrained alone, bfloat16
`older/` is checked here by loading it with diffusers again: it must predict what the network predicts.

Beside each stands `<form>.expected.json`: for every parameter in the network's order the name, the shape in this project's
memory order (convolutions [kh, kw, in, out], linear layers [in, out]) and two sums over the elements e_i in that
order, as float64: sum e_i and sum e_i * (i mod 97).
"""

import argparse
import json
import platform
import shutil
from pathlib import Path

import diffusers
import numpy as np
import safetensors
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from portable_values import parameter

FIXTURES = Path(__file__).resolve().parent.parent / "crates/checkpoint/tests/fixtures"
WEIGHTS = "diffusion_pytorch_model.safetensors"
NETWORK = dict(
    sample_size=8, in_channels=3, out_channels=3, block_out_channels=[4, 8], layers_per_block=1,
    down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    norm_num_groups=4, norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    attention_head_dim=None, act_fn="silu", center_input_sample=False,
)  # fmt: skip
OLDER_SPELLING = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def network() -> UNet2DModel:
    unet = UNet2DModel(**NETWORK)
    state = {name: torch.from_numpy(parameter(name, tuple(p.shape))) for name, p in unet.state_dict().items()}
    unet.load_state_dict(state)
    return unet.eval()


def expected(unet: UNet2DModel, dtype: torch.dtype) -> dict:
    parameters = []
    for name, value in unet.state_dict().items():
        value = value.to(dtype).to(torch.float64).numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        flat = value.ravel()
        weighted = float((flat * (np.arange(flat.size) % 97)).sum())
        parameters.append(dict(name=name, shape=list(value.shape), sum=float(flat.sum()), weighted_sum=weighted))
    versions = dict(
        python=platform.python_version(), torch=torch.__version__, diffusers=diffusers.__version__,
        safetensors=safetensors.__version__, numpy=np.__version__,
    )  # fmt: skip
    return dict(versions=versions, parameters=parameters)


def write_expected(directory: Path, unet: UNet2DModel, dtype: torch.dtype) -> None:
    # Not in the folder, which holds what diffusers writes and no more.
    (directory.parent / f"{directory.name}.expected.json").write_text(json.dumps(expected(unet, dtype), separators=(",", ":")) + "\n")


def current(directory: Path, unet: UNet2DModel) -> None:
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(variance_type="fixed_large")).save_pretrained(directory)
    write_expected(directory, unet, torch.float32)


def older(directory: Path, unet: UNet2DModel) -> None:
    directory.mkdir(parents=True)
    unet_config = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "mid_block_scale_factor": 1, **NETWORK}
    unet_config["time_embedding_type"] = "positional"
    scheduler_config = {
        "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
        "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
        "variance_type": "fixed_small",
    }  # fmt: skip
    index = {
        "_class_name": "DDPMPipeline", "_diffusers_version": "0.0.4",
        "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"],
    }  # fmt: skip
    for name, content in [
        ("config.json", unet_config), ("scheduler_config.json", scheduler_config), ("model_index.json", index),
    ]:  # fmt: skip
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    state = {}
    for name, value in unet.state_dict().items():
        value = value.to(torch.float16)
        for newer, spelling in OLDER_SPELLING.items():
            if ".attentions." in name and f".{newer}." in name:
                name = name.replace(f".{newer}.", f".{spelling}.")
                if value.ndim == 2 and not name.startswith("mid_block."):
                    value = value[:, :, None, None]
        state[name] = value.contiguous()
    # diffusers reads the linear form of the older spelling only, so that is what is checked with it.
    linear = {name: value.reshape(value.shape[:2]) if ".attentions." in name else value for name, value in state.items()}
    save_file(linear, directory / WEIGHTS, metadata={"format": "pt"})
    reread = DDPMPipeline.from_pretrained(directory).unet.eval()
    x, t = torch.from_numpy(parameter("x", (2, 3, 8, 8))), torch.tensor([3, 917])
    with torch.no_grad():
        error = (reread(x, t).sample - unet(x, t).sample).abs().max().item()
    assert error < 1e-2, f"diffusers reads the older spelling differently: {error}"
    save_file(state, directory / WEIGHTS, metadata={"format": "pt"})
    write_expected(directory, unet, torch.float16)


def bare_network(directory: Path, unet: UNet2DModel) -> None:
    unet.to(torch.bfloat16).save_pretrained(directory)
    write_expected(directory, unet, torch.bfloat16)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=FIXTURES)
    out = arguments.parse_args().out
    for name, write in [("current", current), ("older", older), ("network", bare_network)]:
        shutil.rmtree(out / name, ignore_errors=True)
        write(out / name, network())
        size = (next((out / name).rglob(WEIGHTS))).stat().st_size
        tensors = load_file(next((out / name).rglob(WEIGHTS)))
        print(f"{name}: {len(tensors)} tensors, {size} bytes")


if __name__ == "__main__":
    main()
