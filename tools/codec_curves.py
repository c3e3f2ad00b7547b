"""Sizes of our files beside JPEG, WebP, AVIF and JPEG XL, at every error and without any.

    cargo build --release
    python tools/codec_curves.py --ddpm target/release/ddpm --model models/mnist32 --data mnist:DIR:test --n 100 \
        --likelihood LIKELIHOOD/test.csv --out OUT

Writes lossy.csv (codec, setting, bytes, bits_per_dim, rmse), lossless.csv, curve.csv (every step of our file) and
codec.svg. All codecs but ours get the images twice: each in a file of its own, and all on one sheet, which spares the
headers. --likelihood is what `ddpm likelihood` wrote of the same data: from its RMSE by t follows the rate of the chain
of all steps with the variance of the files (fixed small), which no file is below. Needs Pillow (with WebP and AVIF),
numpy, matplotlib, and cjxl and djxl of JPEG XL. Linear schedule, T = 1000.
"""

import argparse
import csv
import io
import json
import math
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image

QUALITIES = [1, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98]
DISTANCES = [0.5, 1, 2, 3, 5, 8, 12, 16, 20, 25]


def run(ddpm, *arguments):
    done = subprocess.run([ddpm, *map(str, arguments), "--json", "-q"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def pillow(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    data = buffer.getvalue()
    return len(data), np.asarray(Image.open(io.BytesIO(data)).convert(image.mode), dtype=np.float64)


def jxl(image, *options):
    with tempfile.TemporaryDirectory() as folder:
        source, coded, back = (f"{folder}/{name}" for name in ("a.png", "a.jxl", "b.png"))
        image.save(source)
        subprocess.run(["cjxl", source, coded, "-e", "9", "--quiet", *options], check=True, capture_output=True)
        subprocess.run(["djxl", coded, back, "--quiet"], check=True, capture_output=True)
        return pathlib.Path(coded).stat().st_size, np.asarray(Image.open(back).convert(image.mode), dtype=np.float64)


def sheet(images):
    columns = math.ceil(math.sqrt(len(images)))
    size = images[0].size
    whole = Image.new(images[0].mode, (columns * size[0], math.ceil(len(images) / columns) * size[1]))
    for index, image in enumerate(images):
        whole.paste(image, (index % columns * size[0], index // columns * size[1]))
    return whole


def lossy(images):
    def rgb(image):
        return image

    codecs = {
        "JPEG": [(q, lambda i, q=q: pillow(i, format="JPEG", quality=q, optimize=True)) for q in QUALITIES],
        "WebP": [(q, lambda i, q=q: pillow(i.convert("RGB"), format="WEBP", quality=q, method=6)) for q in QUALITIES],
        "AVIF": [(q, lambda i, q=q: pillow(rgb(i), format="AVIF", quality=q, speed=2)) for q in QUALITIES],
        "JPEG XL": [(d, lambda i, d=d: jxl(i, "-d", str(d))) for d in DISTANCES],
    }
    rows = []
    for layout, pictures in (("sheet", [sheet(images)]), ("files", images)):
        for name, settings in codecs.items():
            if layout == "files" and name == "JPEG XL":
                settings = settings[::3]
            for setting, code in settings:
                total, error, pixels = 0, 0.0, 0
                for picture in pictures:
                    size, back = code(picture)
                    exact = np.asarray(picture.convert("RGB") if back.ndim == 3 else picture, dtype=np.float64)
                    total += size
                    error += ((back - exact) ** 2).sum()
                    pixels += back.size
                rows.append((name, layout, setting, total, math.sqrt(error / pixels)))
    return rows


def lossless(images):
    def png(image):
        return pillow(image, format="PNG", optimize=True)

    codecs = {
        "PNG": png,
        "WebP": lambda i: pillow(i.convert("RGB"), format="WEBP", lossless=True, quality=100, method=6),
        "JPEG XL": lambda i: jxl(i, "-d", "0"),
    }
    for name, code in codecs.items():
        for layout, pictures in (("sheet", [sheet(images)]), ("files", images)):
            yield name, layout, sum(code(picture)[0] for picture in pictures)


def theory(path):
    """(rate, rmse) of the chain of all steps, fixed small, from RMSE by t."""
    mse = {}
    for row in csv.DictReader(open(path)):
        for t in range(int(row["first_t"]), int(row["last_t"]) + 1):
            mse[t] = (float(row["rmse"]) / 127.5) ** 2
    steps = len(mse)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, steps))
    snr = alphas / (1 - alphas)
    rate, points = 0.0, []
    for t in range(steps - 1, -1, -1):
        points.append((rate, 127.5 * math.sqrt(mse[t])))
        if t:
            rate += 0.5 * (snr[t - 1] - snr[t]) * mse[t] / math.log(2)
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddpm", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--likelihood")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    source = [args.model, args.data, "--n", args.n]

    ours = run(args.ddpm, "compress", *source, "--out", out / "all.ddpm", "--curve", out / "curve.csv")
    exact = run(args.ddpm, "compress", *source, "--out", out / "lossless.ddpm", "--lossless")
    run(args.ddpm, "decompress", args.model, out / "lossless.ddpm", "--out", out / "images")
    images = [Image.open(path).copy() for path in sorted((out / "images").glob("*.png"))]
    numbers = sum(np.asarray(image).size for image in images)
    print(json.dumps(ours), json.dumps(exact), sep="\n")

    rows = [("ddpm", "file", row["bytes"], row["bytes"], float(row["rmse"])) for row in csv.DictReader(open(out / "curve.csv"))]
    rows += lossy(images)
    with open(out / "lossy.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["codec", "layout", "setting", "bytes", "bits_per_dim", "rmse"])
        for name, layout, setting, size, rmse in rows:
            writer.writerow([name, layout, setting, size, 8 * int(size) / numbers, rmse])
    with open(out / "lossless.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["codec", "layout", "bytes", "bits_per_dim"])
        writer.writerow(["ddpm", "file", exact["bytes"], exact["bits_per_dim"]])
        for name, layout, size in lossless(images):
            writer.writerow([name, layout, size, 8 * size / numbers])

    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    points = [(8 * int(size) / numbers, rmse) for name, _, _, size, rmse in rows if name == "ddpm"]
    axes.plot(*zip(*points[len(images) // 2 :]), label="ddpm, every prefix of one file", color="black", lw=2)
    if args.likelihood:
        axes.plot(*zip(*theory(args.likelihood)), label="rate of all 1000 steps (theory)", color="black", ls=":")
    for name in ("JPEG", "WebP", "AVIF", "JPEG XL"):
        points = [(8 * size / numbers, rmse) for codec, layout, _, size, rmse in rows if (codec, layout) == (name, "sheet")]
        axes.plot(*zip(*sorted(points)), marker=".", label=f"{name}, one sheet")
    axes.set(xlim=(0.02, 4), xscale="log", yscale="log", ylim=(0.4, 80), xlabel="bits/dim", ylabel="RMSE (0 to 255)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "codec.svg")


if __name__ == "__main__":
    main()
