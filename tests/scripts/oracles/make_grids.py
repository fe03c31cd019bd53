#!/usr/bin/env python3
"""Print the grids of the IQ types as formats/src/quant/grids.rs has them, from Python's gguf.

    make_grids.py

A grid is a list of points. Each coordinate is one of a few values, and the number of a point has their indices as
its digits, the first coordinate's as the lowest. Points are in the order of their numbers, so a grid is written
as a set: bit i of the table says whether the point with number i belongs to it.
"""
import numpy as np
from gguf import quants

GRIDS = [quants.IQ1_S, quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S]


def numbers(kind):
    kind.init_grid()
    values = [int(v) for v in kind.grid_map]
    points = kind.grid.reshape(kind.grid_shape)
    digits = np.array([[values.index(int(x)) for x in point] for point in points])
    numbers = digits @ (len(values) ** np.arange(digits.shape[1]))
    assert (np.diff(numbers) > 0).all(), f"{kind.__name__} is not in order"
    return numbers, len(values) ** digits.shape[1]


def main():
    for kind in GRIDS:
        members, of = numbers(kind)
        words = [0] * -(-of // 64)
        for n in members:
            words[n // 64] |= 1 << int(n) % 64
        print(f"#[rustfmt::skip]\nconst {kind.__name__}_SET: [u64; {len(words)}] = [")
        for i in range(0, len(words), 5):
            print("    " + " ".join(f"{word:#018x}," for word in words[i:i + 5]))
        print("];\n")


if __name__ == "__main__":
    main()
