#!/usr/bin/env python3
"""Write the two synthetic data sets for measuring quantizer errors, and energies of columns.

    make_quantizer_data.py [--out tests/goldens/quant]

gaussian.bf16 and laplace.bf16: 65,536 values each, standard deviation 0.02 (about that of a
trained projection), little-endian bfloat16, rounded to nearest even. Read them as 64 rows of
1024. energies.f32: the importance of each of 1024 columns, log-normal with a deviation of 1.5, so
that some columns are a hundred times as important as others, as with the mean squares of
activations. The random stream is fixed, so a second run writes the same bytes.
"""
import argparse
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SEED, COUNT, STD, COLUMNS = 31, 65536, 0.02, 1024


def to_bf16(x):
    """Round f32 to bfloat16 bits, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/quant")
    out = args.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    for name, x in [("gaussian", rng.normal(0, STD, COUNT)), ("laplace", rng.laplace(0, STD / 2**0.5, COUNT))]:
        (out / f"{name}.bf16").write_bytes(to_bf16(x).tobytes())
        print(f"{name}: {COUNT} values, standard deviation {x.std():.5f}, largest {abs(x).max():.4f}")
    energies = rng.lognormal(0, 1.5, COLUMNS)
    (out / "energies.f32").write_bytes(energies.astype("<f4").tobytes())
    print(f"energies: from {energies.min():.4f} to {energies.max():.1f}")


if __name__ == "__main__":
    main()
