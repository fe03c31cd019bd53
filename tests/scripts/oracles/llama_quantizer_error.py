#!/usr/bin/env python3
"""Measure the rounding error of llama.cpp's own quantizers, as a mark for ours to reach.

    llama_quantizer_error.py [--data tests/goldens/quant] [--checkpoint tests/fixtures/tiny-gemma2]
                             [--out tests/goldens/quant/llama_cpp_rmse.json]

Needs a virtual environment with `llama-cpp-python` (built from source), `gguf` and `numpy`.
Run it again whenever the tiny checkpoint changes; without a checkpoint only the two synthetic
sets are measured. Takes about a minute.

Each data set is quantized by `ggml_quantize_chunk` (no importance matrix) and dequantized by
Python's gguf. The JSON gives, per data set and type, the root of the mean squared difference in
f64, and per data set its shape, its own root mean square and the CRC-32 of its f32 bytes, so
that a test can tell whether it reads the same weights. Types whose block does not divide the row
are left out.

Data sets: gaussian and laplace (rows of 1024, by make_quantizer_data.py), and from the trained
checkpoint layer 1's q_proj, gate_proj and down_proj and the embedding, rows as they are.
"""
import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from checkpoint import Checkpoint, widen

HERE = Path(__file__).resolve().parent
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
TENSORS = {
    "blk.1.attn_q": "model.layers.1.self_attn.q_proj.weight",
    "blk.1.ffn_gate": "model.layers.1.mlp.gate_proj.weight",
    "blk.1.ffn_down": "model.layers.1.mlp.down_proj.weight",
    "token_embd": "model.embed_tokens.weight",
}


def load_ggml():
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    library = next((package / "lib").glob("libggml-base.*"))
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                                         ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return ggml


def quantize(ggml, x, kind):
    """[rows, columns] f32 -> [rows, bytes] u8 by llama.cpp."""
    rows, columns = x.shape
    block, size = GGML_QUANT_SIZES[kind]
    out = np.zeros((rows, columns // block * size), np.uint8)
    written = ggml.ggml_quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert written == out.nbytes, (kind, written, out.nbytes)
    return out


def data_sets(folder, checkpoint):
    for name in ("gaussian", "laplace"):
        yield name, widen((folder / f"{name}.bf16").read_bytes(), "BF16").reshape(-1, 1024)
    if not any(checkpoint.glob("*.safetensors")):
        print(f"no checkpoint in {checkpoint}: the trained tensors are skipped")
        return
    weights = Checkpoint(checkpoint)
    for name, tensor in TENSORS.items():
        yield name, np.ascontiguousarray(weights[tensor])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=Path, default=HERE / "../../goldens/quant")
    args.add_argument("--checkpoint", type=Path, default=HERE / "../../fixtures/tiny-gemma2")
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/quant/llama_cpp_rmse.json")
    args = args.parse_args()
    ggml = load_ggml()
    result = {
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "gguf": importlib.metadata.version("gguf"),
        "data": {},
    }
    for name, x in data_sets(args.data, args.checkpoint):
        wide = x.astype(np.float64)
        errors = {}
        for kind in (GGMLQuantizationType[t] for t in TYPES):
            if x.shape[1] % GGML_QUANT_SIZES[kind][0] == 0:
                back = dequantize(quantize(ggml, x, kind), kind).reshape(x.shape)
                errors[kind.name] = float(np.sqrt(np.mean((back - wide) ** 2)))
        result["data"][name] = {
            "rows": x.shape[0], "columns": x.shape[1], "crc32": zlib.crc32(x.astype("<f4").tobytes()),
            "rms": float(np.sqrt(np.mean(wide ** 2))), "rmse": errors,
        }
        print(f"{name:16} [{x.shape[0]}, {x.shape[1]}]  " + "  ".join(f"{t} {e:.3e}" for t, e in errors.items()))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
