"""Features a second of pytorch-fid's network and of ours, in turn, on the same machine.

    cargo build --release -p ddpm-models --example inception_time
    python tools/bench_inception.py [--dims 2048] [--batch 16] [--threads 2] [--rounds 3] [--conv fast bf16x3] --ours PATH/inception_time

Both with random weights, on 299x299 inputs. Needs torch, torchvision and pytorch-fid; a round takes some 10 s.
"""

import argparse
import json
import subprocess
import time

import torch
from pytorch_fid import inception

from inception_fixtures import fid_inception_state


def network(dims):
    whole = fid_inception_state()
    inception.load_state_dict_from_url = lambda *_, **__: whole.state_dict()
    block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]
    return inception.InceptionV3([block], resize_input=False, normalize_input=False).eval()


def milliseconds(model, x, repeats):
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    return sorted(times[1:])[(repeats - 1) // 2] * 1e3 / len(x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--conv", nargs="+", default=["fast"], help="our ways to convolve (default fast)")
    parser.add_argument("--ours", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = network(args.dims)
    x = torch.rand(args.batch, 3, 299, 299) * 2 - 1
    last = x.to(memory_format=torch.channels_last)
    model_last = network(args.dims).to(memory_format=torch.channels_last)
    results = {"pytorch": [], "pytorch channels_last": []}
    results |= {f"ours, {conv}": [] for conv in args.conv}
    for _ in range(args.rounds):
        results["pytorch"].append(milliseconds(model, x, args.repeats))
        results["pytorch channels_last"].append(milliseconds(model_last, last, args.repeats))
        for conv in args.conv:
            call = [args.ours, args.dims, args.batch, args.repeats, args.threads, conv]
            output = subprocess.run([str(part) for part in call], capture_output=True, text=True, check=True)
            results[f"ours, {conv}"].append(json.loads(output.stdout)["ms_per_image"])
    for name, times in results.items():
        best = min(times)
        print(f"{name:24} ms/image {' '.join(f'{t:.1f}' for t in times)}   best {best:.1f} = {1e3 / best:.1f} images/s")


if __name__ == "__main__":
    main()
