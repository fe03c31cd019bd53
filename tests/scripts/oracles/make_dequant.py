#!/usr/bin/env python3
"""Write blocks of every weight type, and the weights that Python's gguf dequantizes from them.

    make_dequant.py [--out tests/goldens/quant]

For each type there are two files: TYPE.blocks, the raw blocks, and TYPE.f32, their weights as
little-endian f32, computed by `gguf.quants.dequantize`. The payload bytes are random, except in
three blocks at the beginning: all 0x00, all 0xFF, and alternating. The types with a grid have as many
blocks as it takes to name every point of it.
The f16 scale fields are finite: first zero, minus zero, subnormal, negative, tiny
and large values, then random ones. F16 and BF16 have 4096 values each, which include the
two zeros, subnormals, the largest finite value and the infinities, but no NaN.

The random stream is fixed, so a second run writes the same bytes.
"""
import argparse
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from gguf.quants import dequantize

HERE = Path(__file__).resolve().parent
SEED = 20240627

# Byte offsets of the f16 scale fields within a block.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0],
    "IQ3_XXS": [0], "IQ3_S": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [],
}

# By type: the points of its grid, and the points in a block.
GRIDS = {
    "IQ1_S": (2048, 32), "IQ1_M": (2048, 32), "IQ2_XXS": (256, 32), "IQ2_XS": (512, 32), "IQ2_S": (1024, 32),
    "IQ3_XXS": (256, 64), "IQ3_S": (512, 64),
}

# f16 bit patterns that every scale field has first.
EDGE_SCALES = [
    0x0000,  # +0
    0x8000,  # -0
    0x0001,  # smallest subnormal
    0x83FF,  # largest subnormal, negative
    0x0400,  # smallest normal
    0x3C00,  # 1
    0xBC00,  # -1
    0x7BFF,  # 65504, the largest finite value
    0xFBFF,  # -65504
    0x1419,  # about 0.001, the size a trained weight has
    0x9419,
]


def scales(rng, n, shift):
    """n finite f16 bit patterns: the edge cases, rotated by `shift`, then random ones."""
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    infinite = (bits & 0x7C00) == 0x7C00
    bits[infinite] ^= 0x4000
    edge = np.roll(np.array(EDGE_SCALES, np.uint16), shift)
    bits[3:3 + len(edge)] = edge[:max(0, n - 3)]
    bits[:3] = [0x2E66, 0xAE66, 0x2E66]  # about 0.1, for the three special payloads
    return bits


def blocks(rng, kind):
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    n = 24 if weights == 256 else 128
    points, per_block = GRIDS.get(kind, (0, 1))
    n = max(n, 3 + points // per_block)
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    raw[0], raw[1], raw[2, ::2], raw[2, 1::2] = 0x00, 0xFF, 0xAA, 0x55
    for k in range(points):
        name_point(kind, raw[3 + k // per_block], k % per_block, k)
    if kind == "IQ1_M":
        # The bits of the f16 scale are the top four of each of four words.
        d = scales(rng, n, 0)
        for word in range(4):
            raw[:, 49 + 2 * word] = raw[:, 49 + 2 * word] & 15 | (d >> (4 * word) & 15) << 4
    if kind == "MXFP4":
        # The exponent of the scale: the first two are subnormal, and sums of the largest are infinite.
        raw[:, 0] = np.minimum(raw[:, 0], 240)
        raw[3:6, 0] = [0, 1, 2]
    for k, at in enumerate(SCALES[kind]):
        raw[:, at:at + 2] = scales(rng, n, 4 * k).astype("<u2").view(np.uint8).reshape(n, 2)
    return raw


def name_point(kind, raw, i, k):
    """Make point k of the grid the i-th of a block."""
    def bits(byte, first, width, value):
        raw[byte] = int(raw[byte]) & ~(((1 << width) - 1) << first) | value << first

    low, high = k & 255, k >> 8
    raw[{"IQ1_M": i, "IQ2_XS": 2 + 2 * i, "IQ2_XXS": 2 + i // 4 * 8 + i % 4}.get(kind, 2 + i)] = low
    if kind == "IQ1_S":
        word = 34 + i // 4 * 2
        value = int.from_bytes(raw[word:word + 2].tobytes(), "little") & ~(7 << i % 4 * 3) | high << i % 4 * 3
        raw[word:word + 2] = list(value.to_bytes(2, "little"))
    elif kind == "IQ1_M":
        bits(32 + i // 2, i % 2 * 4, 3, high)
    elif kind == "IQ2_XS":
        bits(3 + 2 * i, 0, 1, high)
    elif kind == "IQ2_S":
        bits(66 + i // 4, i % 4 * 2, 2, high)
    elif kind == "IQ3_S":
        bits(66 + i // 8, i % 8, 1, high)


def check_points(kind, raw):
    """Without any point of the grid, a weight of these blocks would not be a number."""
    grid = getattr(quants, kind).grid
    for k in range(GRIDS[kind][0]):
        point = grid[..., k, :].copy()
        grid[..., k, :] = np.nan
        assert np.isnan(dequantize(raw, GGMLQuantizationType[kind])).any(), (kind, k)
        grid[..., k, :] = point


def halves(rng, kind):
    """4096 values of a 16-bit float type; NaN patterns are turned into finite ones."""
    exponent, lead = (0x7C00, 0x4000) if kind == "F16" else (0x7F80, 0x4000)
    bits = rng.integers(0, 1 << 16, 4096, dtype=np.uint16)
    bits[(bits & exponent) == exponent] ^= lead
    edge = [0x0000, 0x8000, 0x0001, 0x8001, exponent, exponent | 0x8000, exponent - 1,
            (exponent - 1) | 0x8000, ~exponent & 0x7FFF, 0x3C00, 0xBC00, 0x3F80, 0xBF80]
    bits[:len(edge)] = edge
    return bits.astype("<u2").view(np.uint8).reshape(1, -1)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/quant")
    out = args.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for i, kind in enumerate(["F16", "BF16", *SCALES]):
        rng = np.random.default_rng([SEED, i])
        raw = blocks(rng, kind) if kind in SCALES else halves(rng, kind)
        weights = dequantize(raw, GGMLQuantizationType[kind]).astype("<f4")
        assert not np.isnan(weights).any(), kind
        assert kind in ("F16", "BF16") or np.isfinite(weights).all(), kind
        if kind in GRIDS:
            check_points(kind, raw)
        (out / f"{kind}.blocks").write_bytes(raw.tobytes())
        (out / f"{kind}.f32").write_bytes(weights.tobytes())
        print(f"{kind:7} {raw.size:6} bytes -> {weights.size} weights, largest {np.abs(weights).max():.6g}")


if __name__ == "__main__":
    main()
