"""Pseudo-random numbers that any language reproduces bit for bit from a name and an index.

Fixtures leave out what this file can make: weights and inputs follow from their names alone.
The Rust tests hold the same few lines (`crates/models/tests/diffusers_parity/portable_values.rs`).

Element `i` of the tensor called `name` comes from a 24-bit uniform number u(name, i):

    h(name, i) = splitmix64(fnv1a64(name) + i * 0x9E3779B97F4A7C15)      all modulo 2^64
    u(name, i) = (h >> 40) / 2^24                                        in [0, 1), exact in float32
    v(name, i) = 2 u - 1                                                 in [-1, 1), exact in float32

with

    fnv1a64(bytes of the UTF-8 name):  a = 0xCBF29CE484222325; for each byte b: a = (a ^ b) * 0x100000001B3
    splitmix64(z):  z += 0x9E3779B97F4A7C15
                    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
                    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
                    return z ^ (z >> 31)

`i` counts in the memory order of the tensor as PyTorch has it (row-major over its shape).
Products and sums of `v` with a scale are single float32 operations, rounded one by one (no fused multiply-add).
"""

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = 0xFFFFFFFFFFFFFFFF


def fnv1a64(name: str) -> int:
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def splitmix64(z: np.ndarray) -> np.ndarray:
    """Elementwise over uint64; numpy's array arithmetic wraps."""
    z = z + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def symmetric(name: str, shape) -> np.ndarray:
    """v(name, i): float32, uniform in [-1, 1), of `shape`."""
    index = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64)
    bits = splitmix64(np.uint64(fnv1a64(name)) + index * np.uint64(GOLDEN))
    unit = (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    return (np.float32(2) * unit - np.float32(1)).reshape(shape)


def scaled(name: str, shape, scale: float) -> np.ndarray:
    """v(name, i) * float32(scale)."""
    return symmetric(name, shape) * np.float32(scale)


def parameter(name: str, shape) -> np.ndarray:
    """The value of a network's parameter, from its diffusers name and PyTorch shape (float32).

    Weights with two or more dimensions: v * float32(sqrt(3 / fan_in)), fan_in = product(shape[1:]), the root
    in float64 (variance 1 / fan_in). Biases (names ending in `.bias`): v * 0.1f. Normalisation weights
    (one-dimensional, ending in `.weight`): 1 + v * 0.1f.
    """
    if len(shape) >= 2:
        return scaled(name, shape, np.sqrt(3.0 / np.prod(shape[1:], dtype=np.float64)))
    if name.endswith(".bias"):
        return scaled(name, shape, 0.1)
    if name.endswith(".weight"):
        return np.float32(1) + scaled(name, shape, 0.1)
    raise ValueError(f"{name} {tuple(shape)} is neither a weight nor a bias")
