#!/usr/bin/env python3
"""What the fuzz targets begin with: the tests' fixtures, sorted by target, as `fuzz/corpus/TARGET/`.

    python tools/fuzz_seeds.py [--out fuzz/corpus]

Needs nothing but Python. What is there already stays.
"""

import argparse
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    # target: patterns of files, from the crates' folder of that name on
    "tfrecord": ["data/tests/fixtures/sources/*.tfrecord*", "data/tests/fixtures/sources/tfds/*"],
    "lmdb": ["data/tests/fixtures/sources/lsun/data.mdb"],
    "image": ["data/tests/fixtures/images/*.*"],
    "zip_images": ["data/tests/fixtures/sources/dataset.zip"],
    "tar": ["data/tests/fixtures/sources/shards/*.tar"],
    "npz": ["data/tests/fixtures/sources/*.npz"],
    "npy": ["data/tests/fixtures/sources/*.npy"],
    "torch_file": ["checkpoint/tests/fixtures/torch/*.pth", "checkpoint/tests/fixtures/imports/*.bin"],
    "tensor_bundle": ["checkpoint/tests/fixtures/imports/*.index"],
    "safetensors": ["checkpoint/tests/fixtures/*/*.safetensors", "checkpoint/tests/fixtures/*/*/*.safetensors"],
}
# Files whose bytes stand in the tests.
GOLDEN = {"codec_progressive": "progressive", "codec_lossless": "lossless"}


def seeds():
    """Pairs of (target/name, content)."""
    for target, patterns in FILES.items():
        for pattern in patterns:
            for path in sorted((ROOT / "crates").glob(pattern)):
                yield f"{target}/{'-'.join(path.parts[-2:])}", path.read_bytes()
                if target in ("zip_images", "torch_file") and zipfile.is_zipfile(path):
                    yield from members(target, path)
    for target, name in GOLDEN.items():
        text = (ROOT / f"crates/codec/tests/coding/{name}.rs").read_text()
        yield f"{target}/golden", bytes.fromhex(re.search(r'GOLDEN: &str =\s*"([0-9a-f]+)"', text)[1])


def members(target, path):
    """What targets that make archives themselves begin with."""
    with zipfile.ZipFile(path) as archive:
        read = {name.rsplit("/", 1)[-1]: archive.read(name) for name in archive.namelist()}
    if target == "zip_images":
        image = next(content for name, content in read.items() if name.endswith(".png"))
        yield "zip_images/labels-and-image", read["dataset.json"] + b"\0" + image
    else:
        for taker in ("torch_pickle", "pickle"):
            yield f"{taker}/{path.stem}", read["data.pkl"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "fuzz/corpus")
    out = parser.parse_args().out
    for name, content in seeds():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"{name}: {len(content)} bytes")


if __name__ == "__main__":
    main()
