"""Small PyTorch files for the tests of the reader: crates/checkpoint/tests/fixtures/torch/*.pth.

    python tools/torch_file_fixtures.py

Made with torch 2.11.0. `zip.pth` and `legacy.pth` hold the same state dictionary in PyTorch's two formats:
every type that is read, a tensor that is a transposed view, one with an offset into a shared storage, a parameter,
a nested dictionary, batch normalisation's integer counter, and things that are no tensors.
"""

import collections
import pathlib

import torch

OUT = pathlib.Path(__file__).parent.parent / "crates/checkpoint/tests/fixtures/torch"


def values(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape) / 8 - 1


def state():
    base = values(4, 6)
    inner = collections.OrderedDict(weight=values(2, 3, 1, 1), counter=torch.tensor(7))
    return collections.OrderedDict(
        plain=values(2, 3),
        transposed=base.t(),
        part=base[1:3, 2:5],
        scalar=torch.tensor(1.5),
        half=values(5).half(),
        bfloat16=values(5).bfloat16(),
        double=values(3).double(),
        parameter=torch.nn.Parameter(values(2)),
        inner=inner,
        epoch=3,
        learning_rate=2e-4,
        note="not a tensor",
    )


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    torch.save(state(), OUT / "zip.pth")
    torch.save(state(), OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    print(torch.__version__, [(p.name, p.stat().st_size) for p in sorted(OUT.iterdir())])
