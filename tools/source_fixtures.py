#!/usr/bin/env python3
"""Small data sets in the formats that `crates/data` reads, by the writers that the formats come from.

    python tools/source_fixtures.py [--out crates/data/tests/fixtures/sources]

Needs numpy, pillow, pyarrow, lmdb (py-lmdb) and tensorflow. Pixel (y, x, c) of image i is
37 i + 11 y + 5 x + 83 c mod 256, so that a reader's test knows every pixel, and which image it has from the first one;
images are 30 high and 36 wide, raw ones 8x8. The class of image i is i mod 7.

lsun/           py-lmdb in LSUN's layout: keys are hashes, values image files; every eighth one a BMP, too long for a leaf
stylegan-r03.tfrecords, stylegan-r02.tfrecords    StyleGAN-style: shape and data, channel by channel
tfds/           TFDS-style shards of a train and a test split: image and label
encoded.tfrecord    image/encoded and image/class/label
dataset.zip     as StyleGAN2-ADA's dataset tool writes it
shards/         tar shards as WebDataset's, one with pax and one with GNU names
hub/            parquet as the Hugging Face hub has it: image struct, label, several row groups
paged.parquet   the same of many pages
packed-*.parquet   the same compressed by other methods, with page checksums
stored.npz, packed.npz, planar.npy
"""

import argparse
import hashlib
import io
import json
import platform
import shutil
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "crates/data/tests/fixtures/sources"


def pixels(i, height=30, width=36):
    y, x, c = np.ogrid[:height, :width, :3]
    return ((37 * i + 11 * y + 5 * x + 83 * c) % 256).astype(np.uint8)


def encoded(i, form="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels(i)).save(out, form)
    return out.getvalue()


def write_lsun(folder):
    env = lmdb.open(str(folder), map_size=1 << 24)
    keys = {i: hashlib.sha1(str(i).encode()).hexdigest().encode() for i in range(48)}
    for batch in (range(0, 30), range(20, 48)):
        # A second transaction moves the root, and leaves free pages behind.
        with env.begin(write=True) as txn:
            for i in batch:
                txn.put(keys[i], encoded(i, "BMP" if i % 8 == 0 else "PNG"))
    env.close()
    (folder / "lock.mdb").unlink()


def bytes_feature(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write_records(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(tf.train.Example(features=tf.train.Features(feature=row)).SerializeToString())


def write_tfrecords(out):
    for level in (2, 3):
        side = 1 << level
        write_records(out / f"stylegan-r{level:02}.tfrecords", [
            {"shape": int_feature(3, side, side), "data": bytes_feature(pixels(i, side, side).transpose(2, 0, 1).tobytes())}
            for i in range(5)
        ])
    (out / "tfds").mkdir()
    for split, numbers in (("train", [range(0, 3), range(3, 5)]), ("test", [range(5, 7)])):
        for shard, images in enumerate(numbers):
            name = f"toy-{split}.tfrecord-{shard:05}-of-{len(numbers):05}"
            write_records(out / "tfds" / name, [
                {"image": bytes_feature(encoded(i)), "label": int_feature(i % 7)} for i in images
            ])
    write_records(out / "encoded.tfrecord", [
        {"image/encoded": bytes_feature(encoded(i)), "image/class/label": int_feature(i % 7), "image/height": int_feature(30)}
        for i in range(3)
    ])


def write_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        labels = []
        for i in range(5):
            name = f"00000/img{i:08}.png"
            archive.writestr(zipfile.ZipInfo(name), encoded(i), zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
            labels.append([name, i % 7])
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": labels}))


def write_shards(folder):
    folder.mkdir()
    for shard, (form, prefix) in enumerate(((tarfile.PAX_FORMAT, "a" * 120), (tarfile.GNU_FORMAT, "b" * 120))):
        with tarfile.open(folder / f"set-{shard:06}.tar", "w", format=form) as tar:
            for i in range(3 * shard, 3 * shard + 3):
                members = [(f"{prefix}/{i:04}.png", encoded(i)), (f"{prefix}/{i:04}.cls", str(i % 7).encode())]
                members.append((f"{prefix}/{i:04}.json", b"{}"))
                # The class before and after its image.
                for name, content in members if i % 2 else members[::-1]:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def write_parquet(folder):
    folder.mkdir()
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for shard in range(2):
        numbers = range(6 * shard, 6 * shard + 6)
        table = pa.table({
            "image": pa.array([{"bytes": encoded(i), "path": None} for i in numbers], image_type),
            "label": pa.array([i % 7 for i in numbers], pa.int64()),
        })
        pq.write_table(table, folder / f"train-{shard:05}-of-00002.parquet", row_group_size=4, data_page_size=1)
    rows = [{"bytes": encoded(12), "path": "x.png"}, None]
    table = pa.table({"img": pa.array(rows, image_type), "label": pa.array([5, None], pa.int64())})
    pq.write_table(table, folder / "test-00000-of-00001.parquet", compression="none")


def write_paged(path):
    """One row group of many pages, each of several rows: the first of a dictionary, the others plain; row 17 has no image."""
    rows = [None if i == 17 else {"bytes": encoded(i), "path": None} for i in range(30)]
    table = pa.table({"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    pq.write_table(table, path, dictionary_pagesize_limit=1500, data_page_size=1000, write_batch_size=3)


def write_packed(out):
    """Of every compression that pyarrow has, three rows in pages of both versions, with checksums."""
    for number, compression in enumerate(("zstd", "lz4", "gzip", "brotli")):
        rows = [{"bytes": encoded(i), "path": None} for i in range(3)]
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, image_type), "label": pa.array(range(3), pa.int64())})
        pq.write_table(
            table, out / f"packed-{compression}.parquet", compression=compression, use_dictionary=False,
            data_page_version=("2.0", "1.0")[number % 2], write_page_checksum=True,
        )


def write_arrays(out):
    images = np.stack([pixels(i) for i in range(4)])
    labels = np.arange(4) % 7
    np.savez(out / "stored.npz", images[:3], labels[:3])
    np.savez_compressed(out / "packed.npz", images=images, labels=labels.astype(">i4"))
    np.save(out / "planar.npy", images[:2].transpose(0, 3, 1, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_lsun(out / "lsun")
    write_tfrecords(out)
    write_zip(out / "dataset.zip")
    write_shards(out / "shards")
    write_parquet(out / "hub")
    write_paged(out / "paged.parquet")
    write_packed(out)
    write_arrays(out)
    versions = {
        "python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__, "lmdb": lmdb.__version__,
        "pyarrow": pa.__version__, "tensorflow": tf.__version__,
    }
    (out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    for path in sorted(out.rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(out)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
