"""Read a Hugging Face checkpoint directory with numpy: every tensor as f32, from one shard or many."""
import json
from pathlib import Path

import numpy as np


def widen(raw, dtype):
    """Converts little-endian bytes of a safetensors dtype to f32."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype("<f4")


class Checkpoint:
    """`names` lists the tensors, `dtype[name]` and `shape[name]` describe them, `[name]` loads one."""

    def __init__(self, folder):
        self.place, self.dtype, self.shape = {}, {}, {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            with open(file, "rb") as f:
                length = int.from_bytes(f.read(8), "little")
                header = json.loads(f.read(length))
            for name, t in header.items():
                if name != "__metadata__":
                    start, end = t["data_offsets"]
                    self.place[name] = (file, 8 + length + start, end - start)
                    self.dtype[name], self.shape[name] = t["dtype"], tuple(t["shape"])
        if not self.place:
            raise SystemExit(f"{folder}: no *.safetensors file with tensors")
        self.names = list(self.place)

    def __contains__(self, name):
        return name in self.place

    def __getitem__(self, name):
        file, start, size = self.place[name]
        with open(file, "rb") as f:
            f.seek(start)
            return widen(f.read(size), self.dtype[name]).reshape(self.shape[name])
