#!/usr/bin/env python3
"""Files in the formats that `crates/data` reads, by other writers, with what they should be read as.

    python tools/data_fixtures.py [--out crates/data/tests/fixtures]

cifar10/    the two archives of CIFAR-10 with few images a batch. The pickles have the instructions that Python 2's
            cPickle wrote (byte strings as SHORT_BINSTRING and BINSTRING); Python 3 has read them back before they are kept.
            Pixel (channel, y, x) of image r of batch b (0 is the test batch) is 40 b + 11 r + 80 channel + 5 y + 3 x mod 256.
resize/     an image and what Pillow resizes its centre square to, cut out as StyleGAN's dataset tool does
images/     one picture in many formats and colour types, and in opaque/ what Pillow converts each to: turned by its EXIF
            orientation, laid over white, 8 bits

Everything is deterministic; `versions.json` says what wrote it.
"""

import argparse
import gzip
import io
import json
import pickle
import platform
import struct
import tarfile
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

IMAGES_PER_BATCH = 3


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        if len(obj) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(obj)) + obj)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes

    def save_array(self, array):
        """The instructions of numpy.ndarray.__reduce__ at the time, module names and byte strings included."""
        self.write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n")
        self.write(pickle.GLOBAL + b"numpy\nndarray\n")
        self.save(0)
        self.write(pickle.TUPLE1)
        self.save(b"b")
        self.write(pickle.TUPLE3 + pickle.REDUCE)
        self.memoize(array)
        self.write(pickle.MARK)
        self.save(1)
        self.save(array.shape)
        self.write(pickle.GLOBAL + b"numpy\ndtype\n")
        self.save(b"u1")
        self.save(0)
        self.save(1)
        self.write(pickle.TUPLE3 + pickle.REDUCE + pickle.MARK)
        for item in (3, b"|", None, None, None, -1, -1, 0):
            self.save(item)
        self.write(pickle.TUPLE + pickle.BUILD)
        self.save(bool(array.flags.f_contiguous))
        self.save(array.tobytes(order="A"))
        self.write(pickle.TUPLE + pickle.BUILD)

    dispatch[np.ndarray] = save_array


def batch_images(batch):
    image = np.arange(IMAGES_PER_BATCH).reshape(-1, 1, 1, 1)
    channel, y, x = np.ogrid[:3, :32, :32]
    values = 40 * batch + 11 * image + 80 * channel + 5 * y + 3 * x
    return (values % 256).astype(np.uint8).reshape(IMAGES_PER_BATCH, 3072)


def batch_labels(batch):
    return [(batch + 3 * image) % 10 for image in range(IMAGES_PER_BATCH)]


def python_batch(batch):
    data = batch_images(batch)
    if batch == 2:
        data = np.asfortranarray(data)
    content = {
        b"batch_label": f"training batch {batch} of 5".encode(),
        b"labels": batch_labels(batch),
        b"data": data,
        b"filenames": [f"image_{batch}_{image}.png".encode() for image in range(IMAGES_PER_BATCH)],
    }
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(content)
    read = pickle.loads(out.getvalue(), encoding="bytes")
    assert read.keys() == content.keys() and np.array_equal(read[b"data"], data) and read[b"labels"] == content[b"labels"]
    return out.getvalue()


def binary_batch(batch):
    labels = np.array(batch_labels(batch), np.uint8).reshape(-1, 1)
    return np.hstack([labels, batch_images(batch)]).tobytes()


def write_archive(path, folder, members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for name, content in members:
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def write_cifar10(out):
    out.mkdir(parents=True, exist_ok=True)
    # The published archives are not in order either.
    order = [4, 0, 3, 2, 5, 1]
    name = lambda batch: f"data_batch_{batch}" if batch else "test_batch"
    members = [(name(batch) + ".bin", binary_batch(batch)) for batch in order]
    write_archive(out / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", [("readme.html", b"<html>"), *members])
    members = [(name(batch), python_batch(batch)) for batch in order]
    meta = pickle.dumps({"num_cases_per_batch": IMAGES_PER_BATCH}, protocol=2)
    write_archive(out / "cifar-10-python.tar.gz", "cifar-10-batches-py", [("batches.meta", meta), *members])


def picture(width, height, seed):
    """Smooth colours, hard edges and noise."""
    generator = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 3 + y / 5)], -1)
    smooth[height // 4 : height // 2, width // 4 : width // 2] = [255, 0, 255]
    smooth[height // 2 :, : width // 3] = [0, 0, 0]
    return np.clip(smooth + generator.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def write_resize(out):
    out.mkdir(parents=True, exist_ok=True)
    array = picture(61, 48, 1)
    Image.fromarray(array).save(out / "source.png")
    height, width = array.shape[:2]
    side = min(height, width)
    square = array[(height - side) // 2 : (height + side) // 2, (width - side) // 2 : (width + side) // 2]
    square = Image.fromarray(square)
    for size in (8, 17, 32, 75):
        square.resize((size, size), Image.Resampling.LANCZOS).save(out / f"lanczos_{size}.png")
    for size in (8, 16, 24, 48, 96):
        # Whole factors only: elsewhere Pillow's box takes whole pixels, and the exact area does not.
        square.resize((size, size), Image.Resampling.BOX).save(out / f"area_{size}.png")


def opaque(image, gray):
    image = ImageOps.exif_transpose(image)
    if image.mode == "I;16":
        array = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((array + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        array = np.asarray(image).astype(np.uint32)
        colour, alpha = array[..., :3], array[..., 3:]
        image = Image.fromarray(((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))
    return image.convert("L" if gray else "RGB")


def write_images(out):
    (out / "opaque").mkdir(parents=True, exist_ok=True)
    array = picture(24, 18, 2)
    rgb = Image.fromarray(array)
    gray = rgb.convert("L")
    ramp = np.linspace(0, 255, 24).astype(np.uint8)
    alpha = Image.fromarray(np.broadcast_to(ramp, (18, 24)).copy())
    rgba, la = rgb.copy(), gray.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = rgb.quantize(16)
    generator = np.random.Generator(np.random.PCG64(3))
    deep = Image.fromarray(generator.integers(0, 65536, (18, 24), dtype=np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    second = Image.fromarray(255 - array)

    save = lambda image, name, **options: image.save(out / name, **options)
    save(rgb, "rgb.png")
    save(rgba, "rgba.png")
    save(gray, "gray.png")
    save(la, "gray_alpha.png")
    save(deep, "gray_16_bits.png")
    save(gray.convert("1"), "one_bit.png")
    save(palette, "palette.png")
    save(palette, "palette_transparent.png", transparency=3)
    save(rgb, "rgb.jpg", quality=90)
    save(gray, "gray.jpeg", quality=90)
    save(rgb, "progressive.JPG", quality=90, progressive=True)
    save(rgb.convert("CMYK"), "cmyk.jpg", quality=95)
    save(rgb, "turned.jpg", quality=90, exif=turned)
    save(rgb, "lossless.webp", lossless=True)
    save(rgba, "alpha.webp", lossless=True, exact=True)
    save(rgb, "lossy.webp", quality=80)
    save(palette, "palette.gif")
    save(palette, "animated.gif", save_all=True, append_images=[second.quantize(16)], duration=100)
    save(rgb, "rgb.bmp")
    save(gray, "gray.bmp")
    for path in sorted(out.iterdir()):
        if path.is_file():
            image = Image.open(path)
            opaque(image, image.mode in ("1", "L", "LA")).save(out / "opaque" / f"{path.name}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--out", type=Path, default=here.parent / "crates/data/tests/fixtures")
    out = parser.parse_args().out
    write_cifar10(out / "cifar10")
    write_resize(out / "resize")
    write_images(out / "images")
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__}
    (out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
