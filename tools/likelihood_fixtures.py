#!/usr/bin/env python3
"""Reference numbers for `crates/eval/tests/likelihood/reference.rs`: the bound over a data set, in float64.

    python tools/likelihood_fixtures.py [--out crates/eval/tests/fixtures/likelihood.json]

The process, its tables, the terms and the random numbers are those of `diffusion_fixtures.py` (PyTorch's distributions,
Philox written out a second time). Here come a second time: the order of images, the strata and their draws, and the
statistics (numpy, scipy.stats).
"""

import argparse
import json
import math
import platform
from pathlib import Path

import numpy as np
import scipy
import torch
from diffusion_fixtures import LN2, PURPOSE, Process, f32, normals, numbers, random_block, toy_network
from scipy import stats
from torch.distributions import Normal, kl_divergence

OUT = Path(__file__).resolve().parent.parent / "crates/eval/tests/fixtures/likelihood.json"
PURPOSE["shuffle"] = 3
T, BETA_START, BETA_END = 30, 1e-3, 0.15
SHAPE = (3, 2, 2)
IMAGES, SEED = 7, 2**33 + 5


def below(seed, purpose, step, sample, element, bound):
    """A uniform integer from the 64 bits of an element."""
    words = random_block(seed, purpose, step, sample, element // 2)
    high, low = words[element % 2 * 2 : element % 2 * 2 + 2]
    return ((high << 32 | low) * bound) >> 64


def image_order(seed, count):
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = below(seed, "shuffle", 0, 0, last, last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def strata_of(process, terms):
    """(first, length): singles, and ranges of which two steps are drawn, of equal weight: four fifths
    -log(1-alphas_cumprod), one fifth t."""
    if terms == T:
        return [(t, 1) for t in range(T)]
    log_noise = np.log(1 - process.tables["alphas_cumprod"])
    level = 0.8 * (log_noise - log_noise[0]) / np.ptp(log_noise) + 0.2 * np.arange(T) / (T - 1)
    strata, budget = [(0, 1)], terms - 1
    while (first := sum(length for _, length in strata)) < T:
        left = T - first
        share = (level[-1] - level[first - 1]) / budget
        rise = level[first:] - level[first - 1]
        if budget == 2:
            length = left
        elif budget % 2 or budget == left or rise[0] >= share:
            length = 1
        else:
            wide = np.flatnonzero(rise[1:] >= 2 * share)
            length = min(left - budget + 2, wide[0] + 2 if len(wide) else T)
        strata.append((first, int(length)))
        budget -= min(length, 2)
    return strata


def draw(strata, seed, image):
    drawn = []
    for first, length in strata:
        if length == 1:
            drawn.append([first])
            continue
        one = below(seed, "timestep", first, image, 0, length)
        other = [t for t in range(length) if t != one][below(seed, "timestep", first, image, 1, length - 1)]
        drawn.append(sorted([first + one, first + other]))
    return drawn


def term(process, x_start, image, t, cdf):
    noise = torch.tensor(normals(SEED, "forward_noise", t, image, math.prod(SHAPE))).reshape(1, *SHAPE)
    step = np.array([t])
    x_t = process.q_sample(x_start, step, noise)
    mean, log_var, pred = process.p_mean_variance("eps", "fixed_large", True, toy_network(x_t, step), None, x_t, step)
    bits = process.bound_terms(x_start, x_t, step, mean, log_var, cdf).item()
    return bits, ((pred - x_start) ** 2).mean().item()


def prior(process, x_start):
    signal = process.tables["alphas_cumprod"][-1]
    last = Normal(math.sqrt(signal) * x_start, torch.full_like(x_start, math.sqrt(1 - signal)))
    return (kl_divergence(last, Normal(torch.zeros_like(x_start), torch.ones_like(x_start))).mean() / LN2).item()


def estimate(values):
    """Mean, standard error, and 95 % interval."""
    values = np.array(values)
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=error)
    return [values.mean(), error, low, high]


def rmse(values):
    mean, error, low, high = estimate(values)
    root = math.sqrt(mean)
    return [127.5 * v for v in (root, error / (2 * root), math.sqrt(max(low, 0)), math.sqrt(max(high, 0)))]


def case(process, pixels, terms, cdf):
    strata = strata_of(process, terms)
    rows, choice, drawn_terms = [], [], []
    for image in image_order(SEED, IMAGES):
        x_start = f32(np.array(pixels[image]) / 127.5 - 1).reshape(1, *SHAPE)
        drawn = draw(strata, SEED, image)
        values = [[term(process, x_start, image, t, cdf) for t in ts] for ts in drawn]
        sums = [length * np.mean([bits for bits, _ in v]) for (_, length), v in zip(strata, values)]
        # The variance of the mean of a sample without replacement, times the square of the stratum's size.
        choice.append(sum(
            length**2 * np.var([bits for bits, _ in v], ddof=1) / 2 * (1 - 2 / length)
            for (_, length), v in zip(strata, values)
            if length > 1
        ))
        p = prior(process, x_start)
        after = [p + sum(sums[s + 1 :]) for s in range(len(strata))]
        within = [np.mean([bits * (t - first) for t, (bits, _) in zip(ts, v)])
                  for (first, _), ts, v in zip(strata, drawn, values)]
        rows.append({
            "image": image, "prior": p, "distortion": sums[0], "rate": p + sum(sums[1:]), "total": p + sum(sums),
            "bits": [s / length for s, (_, length) in zip(sums, strata)],
            "rates": [a + w for a, w in zip(after, within)],
            "mse": [np.mean([mse for _, mse in v]) for v in values],
        })
        drawn_terms.append({"steps": sum(drawn, []), "bits": numbers([b for v in values for b, _ in v])})
    column = lambda key: estimate([row[key] for row in rows])
    columns = lambda key, how: [numbers(how([row[key][s] for row in rows])) for s in range(len(strata))]
    return {
        "terms": terms, "cdf": cdf, "strata": strata,
        "images": [row["image"] for row in rows],
        "drawn": drawn_terms,
        "totals": numbers([row["total"] for row in rows]),
        "bits_per_dim": numbers(column("total")), "rate": numbers(column("rate")),
        "distortion": numbers(column("distortion")), "prior": numbers(column("prior"), 12),
        "standard_error_of_choice": float(np.sqrt(np.mean(choice) / IMAGES)),
        "step_bits": columns("bits", estimate), "step_rates": columns("rates", estimate), "step_rmse": columns("mse", rmse),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    process = Process(T, BETA_START, BETA_END)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, size=(IMAGES, math.prod(SHAPE)))
    # Black and white, whose bins are open.
    pixels[:, 0], pixels[:, 1] = 0, 255
    fixture = {
        "versions": {
            "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "torch": torch.__version__,
        },
        "timesteps": T, "beta_start": BETA_START, "beta_end": BETA_END, "shape": SHAPE, "seed": SEED,
        "pixels": pixels.tolist(),
        "cases": [case(process, pixels.tolist(), terms, cdf)
                  for terms, cdf in ((T, "tanh"), (T, "erf"), (9, "tanh"), (12, "erf"))],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
