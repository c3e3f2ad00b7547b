#!/usr/bin/env python3
"""Reference numbers for `crates/diffusion/tests/reference`, from numpy, scipy, PyTorch and diffusers.

    python tools/diffusion_fixtures.py [--out crates/diffusion/tests/fixtures/diffusion.json]

Everything is float64 and takes another way than the Rust code wherever there is one:

    posterior q(x_{t-1} | x_t, x_0)    the product of two Gaussians by their precisions, instead of eq. 7
    gradients of the losses            PyTorch's autograd, instead of closed forms
    divergences, the exact decoder     torch.distributions, scipy.stats.norm
    ancestral and DDIM steps           diffusers' schedulers, their float32 tables replaced by float64 ones

Noise is not stored: Philox4x32-10 and the Box-Muller transform are written out here a second time.
Inputs are float32 numbers. Images are NHWC. Infinite table entries are null.
"""

import argparse
import json
import math
import platform
from pathlib import Path

import diffusers
import numpy as np
import scipy
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

OUT = Path(__file__).resolve().parent.parent / "crates/diffusion/tests/fixtures/diffusion.json"
SCHEDULES = ["linear", "quad", "const", "warmup10", "warmup50", "jsd", "cosine"]
PREDICTIONS = ["eps", "xstart", "xprev"]
VARIANCES = ["fixed_small", "fixed_large", "learned"]
BETA_START, BETA_END = 1e-4, 0.02
LN2 = math.log(2)

# Random numbers: crates/engine/src/random.rs, a second time.

PURPOSE = {"timestep": 5, "forward_noise": 6, "latent": 7, "reverse_noise": 8}


def philox4x32(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def random_block(seed, purpose, step, sample, block):
    counter = [block, step, sample & 0xFFFFFFFF, (sample >> 32) << 8 | PURPOSE[purpose]]
    return philox4x32(counter, [seed & 0xFFFFFFFF, seed >> 32])


def drawn_timestep(seed, sample, T):
    words = random_block(seed, "timestep", 0, sample, 0)
    return (words[0] << 32 | words[1]) * T >> 64


def normals(seed, purpose, step, sample, count):
    """Float32 numbers, as float64."""
    out = []
    for block in range((count + 3) // 4):
        words = random_block(seed, purpose, step, sample, block)
        for radius_word, angle_word in (words[:2], words[2:]):
            radius = math.sqrt(-2 * math.log((radius_word + 0.5) / 2**32))
            angle = 2 * math.pi * angle_word / 2**32
            out += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(out[:count]).astype(np.float32).astype(np.float64)


def batch_normals(seed, purpose, step, first_sample, shape):
    rows = [normals(seed, purpose, step, first_sample + i, math.prod(shape[1:])) for i in range(shape[0])]
    return np.stack(rows).reshape(shape)


# The process.


def betas_of(schedule, T, start=BETA_START, end=BETA_END):
    if schedule == "linear":
        return np.linspace(start, end, T)
    if schedule == "quad":
        return np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2
    if schedule == "const":
        return np.full(T, end)
    if schedule in ("warmup10", "warmup50"):
        steps = int(T * {"warmup10": 0.1, "warmup50": 0.5}[schedule])
        betas = np.full(T, end)
        betas[:steps] = np.linspace(start, end, steps)
        return betas
    if schedule == "jsd":
        return 1 / np.linspace(T, 1, T)
    signal = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    return np.array([min(1 - signal[t + 1] / signal[t], 0.999) for t in range(T)])


def check_betas_against_diffusers():
    names = {"linear": "linear", "quad": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    for ours, theirs in names.items():
        scheduler = DDPMScheduler(beta_schedule=theirs, beta_start=BETA_START, beta_end=BETA_END)
        np.testing.assert_allclose(betas_of(ours, 1000), scheduler.betas.numpy(), rtol=2e-5)


def posterior(betas, t):
    """(coefficient of x_0, coefficient of x_t, variance) of q(x_{t-1} | x_t, x_0)."""
    alpha = 1 - betas[t]
    signal_prev = np.prod(1 - betas[:t])
    if t == 0:
        return 1.0, 0.0, 0.0
    # q(x_t | x_{t-1}) as a function of x_{t-1}, times q(x_{t-1} | x_0).
    likelihood_precision, prior_precision = alpha / betas[t], 1 / (1 - signal_prev)
    variance = 1 / (likelihood_precision + prior_precision)
    return variance * prior_precision * math.sqrt(signal_prev), variance * math.sqrt(alpha) / betas[t], variance


def tables_of(betas):
    T = len(betas)
    with np.errstate(divide="ignore"):
        signal = np.cumprod(1 - betas)
        post = np.array([posterior(betas, t) for t in range(T)])
        log_post = np.log(post[:, 2])
        log_post[0] = log_post[1] if T > 1 else math.log(betas[0])
        large = np.log(betas)
        large[0] = log_post[0]
        return {
            "betas": betas,
            "alphas_cumprod": signal,
            "alphas_cumprod_prev": np.append(1.0, signal[:-1]),
            "sqrt_alphas_cumprod": np.sqrt(signal),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - signal),
            "log_one_minus_alphas_cumprod": np.log(1 - signal),
            "sqrt_recip_alphas_cumprod": 1 / np.sqrt(signal),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 - signal) / np.sqrt(signal),
            "posterior_variance": post[:, 2],
            "posterior_log_variance_clipped": log_post,
            "posterior_mean_coef1": post[:, 0],
            "posterior_mean_coef2": post[:, 1],
            "fixed_large_log_variance": large,
        }


class Process:
    def __init__(self, T, start, end):
        self.settings = {"timesteps": T, "beta_start": start, "beta_end": end}
        self.betas = betas_of("linear", T, start, end)
        self.tables = tables_of(self.betas)

    def at(self, name, t):
        return torch.tensor(self.tables[name][t]).reshape(-1, 1, 1, 1)

    def q_sample(self, x_start, t, noise):
        signal = self.at("alphas_cumprod", t)
        return signal.sqrt() * x_start + (1 - signal).sqrt() * noise

    def posterior_mean(self, x_start, x_t, t):
        return self.at("posterior_mean_coef1", t) * x_start + self.at("posterior_mean_coef2", t) * x_t

    def p_mean_variance(self, prediction, variance, clip, output, log_variance, x_t, t):
        signal = self.at("alphas_cumprod", t)
        if prediction == "eps":
            x_start = (x_t - (1 - signal).sqrt() * output) / signal.sqrt()
        elif prediction == "xstart":
            x_start = output
        else:
            x_start = (output - self.at("posterior_mean_coef2", t) * x_t) / self.at("posterior_mean_coef1", t)
        if clip:
            x_start = x_start.clamp(-1, 1)
        mean = output if prediction == "xprev" else self.posterior_mean(x_start, x_t, t)
        if variance == "learned_range":
            low, high = self.at("posterior_log_variance_clipped", t), torch.tensor(self.betas[t]).log().reshape(-1, 1, 1, 1)
            part = (log_variance + 1) / 2
            log_variance = part * high + (1 - part) * low
        elif variance != "learned":
            name = {"fixed_small": "posterior_log_variance_clipped", "fixed_large": "fixed_large_log_variance"}
            log_variance = self.at(name[variance], t).expand_as(x_t)
        return mean, log_variance, x_start

    def bound_terms(self, x_start, x_t, t, mean, log_variance, cdf):
        """Bits/dim of each sample."""
        sigma = (0.5 * log_variance).exp()
        true = Normal(self.posterior_mean(x_start, x_t, t), (0.5 * self.at("posterior_log_variance_clipped", t)).exp())
        divergence = kl_divergence(true, Normal(mean, sigma))
        decoder = decoder_nll(x_start, mean, sigma, cdf)
        first = torch.tensor(t).reshape(-1, 1, 1, 1) == 0
        return torch.where(first, decoder, divergence).mean((1, 2, 3)) / LN2


def decoder_nll(x, mean, sigma, cdf):
    def cumulative(z):
        if cdf == "erf":
            return 0.5 * (1 + torch.erf(z / math.sqrt(2)))
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    upper, lower = cumulative((x - mean + 1 / 255) / sigma), cumulative((x - mean - 1 / 255) / sigma)
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return -probability.clamp(min=1e-12).log()


# What goes into the file.


def numbers(values, digits=9):
    """Nine digits hold a float32 number exactly."""
    array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float64)
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in array.ravel().tolist()]


def fine(values):
    """For comparisons in float64."""
    return numbers(values, 12)


def coarse(values):
    """For results of float32 arithmetic."""
    return numbers(values, 7)


def schedules():
    small = {name: {k: fine(v) for k, v in tables_of(betas_of(name, 10)).items()} for name in SCHEDULES}
    single = {name: {k: fine(v) for k, v in tables_of(betas_of(name, 1)).items()} for name in SCHEDULES}
    at = [0, 1, 99, 100, 499, 500, 998, 999]
    large = {}
    for name in SCHEDULES:
        tables = tables_of(betas_of(name, 1000))
        large[name] = {k: fine(v[at]) for k, v in tables.items() if k in ("betas", "alphas_cumprod", "posterior_variance")}
    return {"t10": small, "t1": single, "t1000": {"at": at, "tables": large}}


def f32(array):
    return torch.tensor(np.asarray(array).astype(np.float32).astype(np.float64))


SHAPE = (4, 2, 1, 2)


def reverse_and_losses(rng):
    process = Process(20, 1e-3, 0.2)
    t = np.array([0, 1, 7, 19])
    total_batch = 6
    # 8-bit values, black and white among them.
    x_start = f32(np.array([0, 255, 130, 40, 255, 3, 77, 128, 200, 0, 9, 250, 31, 100, 160, 220]) / 127.5 - 1).reshape(SHAPE)
    noise = f32(rng.normal(size=SHAPE))
    x_t = f32(process.q_sample(x_start, t, noise))
    mu = process.posterior_mean(x_start, x_t, t)
    spread = f32(rng.uniform(-1, 1, size=(3,) + SHAPE))
    outputs = {
        "eps": f32(noise + 0.7 * spread[0]),
        "xstart": f32(x_start + 0.05 * spread[1]),
        "xprev": f32(mu + 0.04 * spread[2]),
    }
    log_variance = f32(process.at("fixed_large_log_variance", t) + f32(rng.uniform(-0.5, 0.5, size=SHAPE)))

    plain_outputs, learned_outputs, reverse, losses = {}, {}, [], []
    # Places in the range between the two fixed variances, and beyond it.
    places = f32(rng.uniform(-1.2, 1.2, size=SHAPE))
    second_halves = {"learned": log_variance, "learned_range": places}
    range_outputs = {}
    for prediction in PREDICTIONS:
        for variance in (*VARIANCES, "learned_range"):
            learned = variance in second_halves
            raw = outputs[prediction].clone()
            if learned:
                raw = torch.cat([raw, second_halves[variance]], dim=3)
            kept = {"learned": learned_outputs, "learned_range": range_outputs}.get(variance, plain_outputs)
            kept[prediction] = numbers(raw)
            raw.requires_grad_(True)
            output, channels = raw[..., : SHAPE[3]], raw[..., SHAPE[3] :]
            for clip in (False, True):
                mean, log_var, pred = process.p_mean_variance(prediction, variance, clip, output, channels, x_t, t)
                reverse.append({
                    "prediction": prediction, "variance": variance, "clip": clip,
                    "mean": coarse(mean), "log_variance": numbers(log_var), "pred_xstart": coarse(pred),
                })

            mean, log_var, _ = process.p_mean_variance(prediction, variance, False, output, channels, x_t, t)
            of = {"kl": process.bound_terms(x_start, x_t, t, mean, log_var, "tanh")}
            target = {"eps": noise, "xstart": x_start, "xprev": mu}[prediction]
            squared = ((target - output) ** 2).mean((1, 2, 3))
            if learned:
                # L_hybrid of Nichol & Dhariwal 2021: the bound sees a mean that it cannot change.
                stopped, _, _ = process.p_mean_variance(prediction, variance, False, output.detach(), channels, x_t, t)
                bound = process.bound_terms(x_start, x_t, t, stopped, log_var, "tanh")
                of["hybrid"] = squared + 1e-3 * len(process.betas) * bound
            else:
                of["mse"] = squared
            for loss, values in of.items():
                (gradient,) = torch.autograd.grad(values.sum() / total_batch, raw, retain_graph=True)
                losses.append({
                    "loss": loss, "prediction": prediction, "variance": variance,
                    "losses": coarse(values), "gradient": coarse(gradient),
                })
    return {
        "process": process.settings, "shape": SHAPE, "t": t.tolist(), "total_batch": total_batch,
        "x_start": numbers(x_start), "noise": numbers(noise), "x_t": numbers(x_t),
        "posterior_mean": numbers(mu),
        "plain_outputs": plain_outputs, "learned_outputs": learned_outputs, "range_outputs": range_outputs,
        "reverse": reverse, "losses": losses,
    }


def decoder():
    rows = []
    for x in (-1.0, -0.6, 0.2, 1.0):
        for offset in (-0.02, 0.0, 0.004, 0.03, 0.6):
            for log_variance in (-10.0, -7.0, -3.0, 0.0):
                sigma = math.exp(0.5 * log_variance)
                nll = [
                    decoder_nll(*(torch.tensor(v, dtype=torch.float64) for v in (x, x + offset, sigma)), cdf).item()
                    for cdf in ("tanh", "erf")
                ]
                # scipy's exact tails, where differences of numbers near 1 would cancel.
                lower, upper = (-offset - 1 / 255) / sigma, (-offset + 1 / 255) / sigma
                if x < -0.999:
                    probability = norm.cdf(upper)
                elif x > 0.999:
                    probability = norm.sf(lower)
                else:
                    probability = norm.sf(lower) - norm.sf(upper) if lower > 0 else norm.cdf(upper) - norm.cdf(lower)
                nll[1] = -math.log(max(probability, 1e-12))
                # Numbers near the floor have too few correct digits in the tanh formula as published.
                if nll[0] < 12 or nll[0] > 27.6:
                    rows.append(fine([x, x + offset, log_variance, nll[0], nll[1]]))
    return rows


def drawn():
    """What training draws for three samples of two numbers."""
    seed, first_sample, count = 2**40 + 3, 2**33 - 1, 3
    t = [drawn_timestep(seed, first_sample + i, 1000) for i in range(count)]
    noise = [normals(seed, "forward_noise", t[i], first_sample + i, 2) for i in range(count)]
    return {"seed": seed, "first_sample": first_sample, "t": t, "noise": numbers(np.concatenate(noise))}


def toy_network(x_t, t):
    """What `ToyDenoiser` of the Rust test computes; NHWC, one t for each sample."""
    t = torch.as_tensor(np.asarray(t, dtype=np.float64)).reshape(-1, 1, 1, 1) / 1000
    channel = torch.arange(x_t.shape[3], dtype=torch.float64)
    return 1.2 * x_t / (1 + x_t.abs()) + 0.3 * t - 0.1 * channel


def bound():
    process = Process(20, 1e-3, 0.2)
    seed, first_sample, shape = 5, 40, (2, 2, 1, 2)
    x_start = f32(np.array([0, 255, 130, 40, 200, 3, 77, 128]) / 127.5 - 1).reshape(shape)
    cases = []
    for cdf in ("tanh", "erf"):
        bits, mse = [], []
        for step in range(20):
            t = np.full(shape[0], step)
            noise = torch.tensor(batch_normals(seed, "forward_noise", step, first_sample, shape))
            x_t = process.q_sample(x_start, t, noise)
            mean, log_var, pred = process.p_mean_variance("eps", "fixed_large", True, toy_network(x_t, t), None, x_t, t)
            bits.append(process.bound_terms(x_start, x_t, t, mean, log_var, cdf).tolist())
            mse.append(((pred - x_start) ** 2).mean((1, 2, 3)).tolist())
        cases.append({"cdf": cdf, "bits_per_dim": [numbers(row) for row in bits], "xstart_mse": [numbers(row) for row in mse]})
    signal = process.tables["alphas_cumprod"][-1]
    last = Normal(math.sqrt(signal) * x_start, torch.full_like(x_start, math.sqrt(1 - signal)))
    prior = kl_divergence(last, Normal(torch.zeros_like(x_start), torch.ones_like(x_start))).mean((1, 2, 3)) / LN2
    return {
        "process": process.settings, "shape": shape, "seed": seed, "first_sample": first_sample,
        "x_start": numbers(x_start), "prior": fine(prior), "cases": cases,
    }


def in_float64(scheduler):
    scheduler.betas = torch.tensor(betas_of("linear", 1000))
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.final_alpha_cumprod = scheduler.one
    return scheduler


SAMPLER_SHAPE = (2, 2, 1, 2)
SEED, FIRST_SAMPLE = 0x1_0000_0007, 2**32 - 1
PREDICTION_TYPES = {"eps": "epsilon", "xstart": "sample"}


def chain(scheduler, steps, step, keep_every=1):
    """Runs a scheduler; `step(output, t, x, z)` returns its output object."""
    scheduler.set_timesteps(steps)
    x = torch.tensor(batch_normals(SEED, "latent", 0, FIRST_SAMPLE, SAMPLER_SHAPE))
    rows = []
    for i, t in enumerate(scheduler.timesteps.tolist()):
        last = i == steps - 1
        # diffusers adds noise in a last step with t > 0; the paper never does in the last step.
        z = np.zeros(SAMPLER_SHAPE) if last else batch_normals(SEED, "reverse_noise", t, FIRST_SAMPLE, SAMPLER_SHAPE)
        result = step(toy_network(x, [t]), t, x, torch.tensor(z))
        x = result.prev_sample
        if last or i % keep_every == 0:
            rows.append({"t": t, "x": coarse(x), "pred_xstart": coarse(result.pred_original_sample)})
    return rows


def ancestral_chain(prediction, variance, clip, spacing, steps, keep_every=1):
    scheduler = in_float64(DDPMScheduler(
        prediction_type=PREDICTION_TYPES[prediction], variance_type=variance, clip_sample=clip, timestep_spacing=spacing,
    ))

    def step(output, t, x, z):
        scheduling_ddpm.randn_tensor = lambda *_, **__: z
        return scheduler.step(output, t, x)

    return {
        "prediction": prediction, "variance": variance, "clip": clip, "spacing": spacing, "steps": steps,
        "keep_every": keep_every, "chain": chain(scheduler, steps, step, keep_every),
    }


def ddim_chain(prediction, clip, spacing, steps, eta):
    scheduler = in_float64(DDIMScheduler(
        prediction_type=PREDICTION_TYPES[prediction], clip_sample=clip, timestep_spacing=spacing,
    ))

    def step(output, t, x, z):
        return scheduler.step(output, t, x, eta=eta, variance_noise=z)

    return {
        "prediction": prediction, "clip": clip, "spacing": spacing, "steps": steps, "eta": eta,
        "keep_every": 1, "chain": chain(scheduler, steps, step),
    }


def spacings():
    rows = []
    for T, steps in ((1000, 1), (1000, 7), (1000, 16), (1000, 50), (37, 5), (37, 36)):
        for spacing in ("leading", "trailing", "linspace"):
            scheduler = DDPMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
            scheduler.set_timesteps(steps)
            kept = scheduler.timesteps.tolist()[::-1]
            # diffusers' trailing spacing gives one step too many for some numbers, by rounding of a float.
            assert len(kept) == steps, (T, steps, spacing)
            rows.append({"timesteps": T, "steps": steps, "spacing": spacing, "kept": kept})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    check_betas_against_diffusers()
    fixtures = {
        "versions": {
            "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "torch": torch.__version__, "diffusers": diffusers.__version__,
        },
        "schedules": schedules(),
        "training": reverse_and_losses(np.random.default_rng(2020)),
        "drawn": drawn(),
        "decoder": decoder(),
        "bound": bound(),
        "spacings": spacings(),
        "sampling": {
            "shape": SAMPLER_SHAPE, "seed": SEED, "first_sample": FIRST_SAMPLE,
            "ancestral": [ancestral_chain("eps", "fixed_large", True, "leading", 1000, keep_every=100)] + [
                ancestral_chain(prediction, variance, clip, spacing, 5)
                for prediction in PREDICTION_TYPES
                for variance in ("fixed_small", "fixed_large")
                for clip in (False, True)
                for spacing in ("leading", "trailing", "linspace")
            ],
            # With other numbers of steps, diffusers' DDIM takes t - ⌊T/K⌋ for the previous step, which is not always one.
            "ddim": [
                ddim_chain(prediction, clip, spacing, 5, eta)
                for prediction in PREDICTION_TYPES
                for clip in (False, True)
                for spacing in ("leading", "trailing")
                for eta in (0.0, 0.5, 1.0)
            ],
        },
    }
    out.write_text(json.dumps(fixtures, separators=(",", ":")) + "\n")
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
