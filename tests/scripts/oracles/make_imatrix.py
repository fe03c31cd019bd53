#!/usr/bin/env python3
"""Write two small importance matrices with fixed numbers, for the tests of the reader.

    make_imatrix.py [--out tests/goldens/imatrix]

small.gguf, written by Python's gguf: two dense entries, one of which contains a zero and a NaN; one
entry of three matrices; and tensors of another program (`NAME.in_sum`). small.dat, in the older
format: the dense entries again, and the data set's name at the end.
"""
import argparse
import struct
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

HERE = Path(__file__).resolve().parent

CHUNKS, CHUNK = 3, 512
DATASETS = ["wiki.train.raw", "Grüße.txt"]
Q, DOWN = "blk.0.attn_q.weight", "blk.1.ffn_down.weight"
EXPERTS = "blk.1.ffn_gate_exps.weight"

# Mean squares by column. They are powers of two, so that means times counts are exact.
MEANS = {
    Q: [0.5, 1.0, 2.0, 4.0],
    DOWN: [0.25, 0.0, 8.0, float("nan"), 0.125, 1.0],
}


class Writer(GGUFWriter):
    def add_architecture(self):
        """An importance matrix has no architecture."""


def write_gguf(path):
    writer = Writer(path, arch="")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", DATASETS)
    writer.add_uint32("imatrix.chunk_count", CHUNKS)
    writer.add_uint32("imatrix.chunk_size", CHUNK)
    tokens = CHUNKS * CHUNK
    for name, means in MEANS.items():
        sums = np.array([means], "<f4") * np.float32(tokens)
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", np.array([[tokens]], "<f4"))
        writer.add_tensor(f"{name}.in_sum", -sums)
    # Three matrices with two columns; the second matrix was never used.
    writer.add_tensor(f"{EXPERTS}.counts", np.array([[1000], [0], [24]], "<f4"))
    writer.add_tensor(f"{EXPERTS}.in_sum2", np.array([[100, 200], [0, 0], [28, 56]], "<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_dat(path):
    def string(s):
        return struct.pack("<i", len(s.encode())) + s.encode()

    out = struct.pack("<i", len(MEANS))
    for name, means in MEANS.items():
        values = np.array(means, "<f4") * np.float32(CHUNKS)
        out += string(name) + struct.pack("<ii", CHUNKS, len(values)) + values.tobytes()
    out += struct.pack("<i", CHUNKS) + string(DATASETS[1])
    path.write_bytes(out)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/imatrix")
    out = args.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_gguf(out / "small.gguf")
    write_dat(out / "small.dat")
    for name in ("small.gguf", "small.dat"):
        print(f"{name}: {(out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
