"""What other programs make of the same images: crates/eval/tests/fixtures/inception.safetensors.

    python tools/inception_fixtures.py --peers DIR --weights inception-2015-12-05-to-768.safetensors --cifar10 DIR

Needs torch, torchvision, pytorch-fid 0.3.0, pillow, scipy, safetensors; DIR of `--peers` holds the unpacked packages torch_fidelity
(0.4.0) and cleanfid (0.1.35). Images and the weights of the random network follow from their names (tools/portable_values.py), so
only results are kept. All are in double precision where the other program allows it.

  resize/{mode}/{height}x{width}    32 x 32 values spread over the 299 x 299 x 3 result, after the change of range
  random/2048, random/logits        features and unbiased logits of 2 images [32, 32, 3] by pytorch-fid's network in float64
  real/{dims}                       the same with the real weights up to Mixed_6e; and of the images resized by the other two modes
  metrics/*                         FID, IS, KID, precision and recall of portable features
  cifar10/{dims}                    pytorch-fid's FID of the first 150 test against the first 150 training images of CIFAR-10
"""

import argparse
import pathlib
import sys
import tempfile

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_fid import fid_score, inception

import portable_values

OUT = pathlib.Path(__file__).parent.parent / "crates/eval/tests/fixtures/inception.safetensors"
SIZES = [(32, 32), (299, 299), (17, 40), (400, 350)]


def image(name, height, width):
    """Pixels [height, width, 3]: 24-bit noise, its upper 8 bits."""
    v = portable_values.symmetric(name, (height, width, 3))
    return np.floor((v + 1) * 128).astype(np.uint8)


def pytorch_fid_input(pixels):
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1


def torch_fidelity_input(pixels):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    return (interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False) - 128) / 128


def clean_input(pixels):
    from cleanfid.resize import build_resizer

    x = build_resizer("clean")(pixels)
    return (torch.from_numpy(x).permute(2, 0, 1)[None] - 128) / 128


MODES = {"pytorch-fid": pytorch_fid_input, "torch-fidelity": torch_fidelity_input, "clean": clean_input}


def spread(x):
    """32 x 32 elements of [1, 3, 299, 299] as [299, 299, 3], evenly spread in memory."""
    flat = x[0].permute(1, 2, 0).reshape(-1).numpy().astype(np.float32)
    return flat[np.arange(1024) * len(flat) // 1024]


def random_state(model):
    """Weights from their names: the paper's variance times 2, so that ReLU keeps the size; normalisations off the identity."""
    state = {}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape)
        if name.endswith("num_batches_tracked"):
            state[name] = value
            continue
        if name.endswith("running_mean"):
            numbers = portable_values.scaled(name, shape, 0.1)
        elif name.endswith("running_var"):
            numbers = np.float32(1) + portable_values.scaled(name, shape, 0.3)
        elif len(shape) == 4:
            numbers = portable_values.parameter(name, shape) * np.float32(np.sqrt(2))
        else:
            numbers = portable_values.parameter(name, shape)
        state[name] = torch.from_numpy(numbers)
    return state


def network(state, dims, dtype):
    """pytorch-fid's network with these weights."""
    inception.load_state_dict_from_url = lambda *_, **__: state
    block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]
    return inception.InceptionV3([block], resize_input=False, normalize_input=False).to(dtype).eval()


def fid_inception_state():
    """The names and shapes of the whole network."""
    inner = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    inner.Mixed_5b = inception.FIDInceptionA(192, pool_features=32)
    inner.Mixed_5c = inception.FIDInceptionA(256, pool_features=64)
    inner.Mixed_5d = inception.FIDInceptionA(288, pool_features=64)
    inner.Mixed_6b = inception.FIDInceptionC(768, channels_7x7=128)
    inner.Mixed_6c = inception.FIDInceptionC(768, channels_7x7=160)
    inner.Mixed_6d = inception.FIDInceptionC(768, channels_7x7=160)
    inner.Mixed_6e = inception.FIDInceptionC(768, channels_7x7=192)
    inner.Mixed_7b = inception.FIDInceptionE_1(1280)
    inner.Mixed_7c = inception.FIDInceptionE_2(2048)
    return inner


def pooled(model, x):
    with torch.no_grad():
        return model(x)[0].mean(dim=(2, 3))


def cifar10(folder, file, count):
    raw = np.fromfile(pathlib.Path(folder) / file, np.uint8, count * 3073).reshape(count, 3073)
    return raw[:, 1:].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)


def pytorch_fid_of(first, second, state, dims):
    """pytorch-fid's own program on folders of PNG files."""
    inception.load_state_dict_from_url = lambda *_, **__: state
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, images in (("a", first), ("b", second)):
            path = pathlib.Path(folder) / name
            path.mkdir()
            for index, pixels in enumerate(images):
                Image.fromarray(pixels).save(path / f"{index:05}.png")
            paths.append(str(path))
        return fid_score.calculate_fid_given_paths(paths, 50, torch.device("cpu"), dims, num_workers=0)


def metrics():
    from torch_fidelity import metric_isc, metric_kid, metric_prc

    logits = portable_values.scaled("logits", (203, 1008), 6.0)
    isc = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    # Features of like scale, the second set shifted; 300 rows of 24, and 20 rows for singular covariances.
    first = portable_values.symmetric("first", (300, 24))
    second = np.float32(0.9) * portable_values.symmetric("second", (300, 24)) + np.float32(0.1)

    def fid(a, b):
        return fid_score.calculate_frechet_distance(
            a.astype(np.float64).mean(0), np.cov(a.astype(np.float64), rowvar=False),
            b.astype(np.float64).mean(0), np.cov(b.astype(np.float64), rowvar=False))

    options = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    kid = metric_kid.kernel_mmd(first.astype(np.float64), second.astype(np.float64), **options)
    precision, recall = metric_prc.calculate_precision_recall_full(
        torch.from_numpy(first).double(), torch.from_numpy(second).double(), 3)
    numbers = {
        "isc": [isc["inception_score_mean"], isc["inception_score_std"]],
        "fid": [fid(first, second)],
        "fid_singular": [fid(first[:20], second[:20])],
        "kid": [kid],
        "precision_recall": [precision, recall],
    }
    return {f"metrics/{name}": np.array(value, np.float64) for name, value in numbers.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cifar10", required=True)
    args = parser.parse_args()
    sys.path.insert(0, args.peers)
    torch.manual_seed(0)
    out = metrics()
    for height, width in SIZES:
        pixels = image(f"image.{height}x{width}", height, width)
        for mode, to_input in MODES.items():
            out[f"resize/{mode}/{height}x{width}"] = spread(to_input(pixels))

    images = [image(f"image.{index}", 32, 32) for index in range(2)]
    whole = fid_inception_state()
    state = random_state(whole)
    x = torch.cat([pytorch_fid_input(pixels) for pixels in images])
    features = pooled(network(state, 2048, torch.float64), x.double())
    single = pooled(network(state, 2048, torch.float32), x).double()
    print("float32 against float64, relative:", ((single - features).abs().max() / features.square().mean().sqrt()).item())
    print("features: rms", features.square().mean().sqrt().item())
    out["random/2048"] = features.float().numpy()
    out["random/logits"] = (features @ state["fc.weight"].double().T).float().numpy()

    real = {**state, **{k: torch.from_numpy(v) for k, v in safetensors.numpy.load_file(args.weights).items()}}
    for dims in (64, 192, 768):
        out[f"real/{dims}"] = pooled(network(real, dims, torch.float64), x.double()).float().numpy()
    for mode in ("torch-fidelity", "clean"):
        y = torch.cat([MODES[mode](pixels) for pixels in images])
        out[f"real/768/{mode}"] = pooled(network(real, 768, torch.float64), y.double()).float().numpy()

    test = cifar10(args.cifar10, "test_batch.bin", 150)
    train = cifar10(args.cifar10, "data_batch_1.bin", 150)
    for dims in (64, 192, 768):
        fid = pytorch_fid_of(test, train, real, dims)
        print(f"CIFAR-10, {dims}: {fid}")
        out[f"cifar10/{dims}"] = np.array([fid], np.float64)

    OUT.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"torch": torch.__version__, "pytorch-fid": "0.3.0", "torch-fidelity": "0.4.0", "clean-fid": "0.1.35"}
    safetensors.numpy.save_file(out, OUT, metadata)
    print(OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
