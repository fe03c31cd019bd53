#!/usr/bin/env python3
"""Measure the rounding error of llama.cpp's quantizers, as the reference for Lapidary's.

    llama_quantizer_error.py [--data tests/goldens/quant] [--checkpoint tests/fixtures/tiny-gemma2]
                             [--gemma3 MODEL.gguf] [--out tests/goldens/quant/llama_cpp_rmse.json]

Needs a virtual environment with `llama-cpp-python` (built from source), `gguf` and `numpy`.
Run it again whenever the tiny checkpoint changes. Without a checkpoint only the two synthetic
sets are measured. Takes about a minute.

Each data set is quantized by `ggml_quantize_chunk` and dequantized by Python's gguf, with and
without the importance of its columns. For each data set and type, the JSON has the root of the mean
squared difference in f64 (`rmse`), and the same weighted by importance (`weighted_rmse`, for which
the quantizer was given the importance). For each data set it has its shape, its own root mean
square and the CRC-32 of its f32 bytes, so that a test can tell whether it reads the same weights.
Types whose block length does not divide the row are left out.

Data sets: gaussian and laplace (rows of 1024, made by make_quantizer_data.py); layer 1's q_proj,
gate_proj and down_proj and the embedding of the trained checkpoint, with their own rows; and, if
the file that gemma3_crc.py fetches is given, the first 2^20 weights of the embedding of Gemma 3
270M, which are Q8_0 there, in rows of 1024. The importance of the checkpoint's columns is that of
`tiny_imatrix.gguf`, which `lapidary imatrix tests/fixtures/tiny-gemma2 -f
tests/fixtures/held-out/kjv-held-out.txt` makes; for the others it is `energies.f32`, made by
make_quantizer_data.py.
"""
import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from checkpoint import Checkpoint, widen

HERE = Path(__file__).resolve().parent
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
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


def quantize(ggml, x, kind, importance=None):
    """[rows, columns] f32 -> [rows, bytes] u8 by llama.cpp."""
    rows, columns = x.shape
    block, size = GGML_QUANT_SIZES[kind]
    out = np.zeros((rows, columns // block * size), np.uint8)
    written = ggml.ggml_quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, rows, columns,
                                       None if importance is None else importance.ctypes.data)
    assert written == out.nbytes, (kind, written, out.nbytes)
    return out


def importances(folder):
    """The importance of the columns, by data set."""
    energies = np.frombuffer((folder / "energies.f32").read_bytes(), "<f4")
    tensors = {t.name: t.data for t in GGUFReader(folder / "tiny_imatrix.gguf").tensors}
    for name in TENSORS:
        sums, count = tensors[f"{name}.weight.in_sum2"].ravel(), tensors[f"{name}.weight.counts"].ravel()[0]
        yield name, np.ascontiguousarray(sums / count, np.float32)
    for name in ("gaussian", "laplace", "gemma3_270m.token_embd"):
        yield name, energies


def data_sets(folder, checkpoint, gemma3):
    for name in ("gaussian", "laplace"):
        yield name, widen((folder / f"{name}.bf16").read_bytes(), "BF16").reshape(-1, 1024)
    if not any(checkpoint.glob("*.safetensors")):
        print(f"no checkpoint in {checkpoint}: the trained tensors are skipped")
        return
    weights = Checkpoint(checkpoint)
    for name, tensor in TENSORS.items():
        yield name, np.ascontiguousarray(weights[tensor])
    if gemma3:
        embedding = next(t for t in GGUFReader(gemma3).tensors if t.name == "token_embd.weight")
        rows = -(-(1 << 20) // int(embedding.shape[0]))
        values = dequantize(embedding.data[:rows], embedding.tensor_type).astype(np.float32)
        yield "gemma3_270m.token_embd", np.ascontiguousarray(values.ravel()[:1 << 20].reshape(-1, 1024))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=Path, default=HERE / "../../goldens/quant")
    args.add_argument("--checkpoint", type=Path, default=HERE / "../../fixtures/tiny-gemma2")
    args.add_argument("--gemma3", type=Path)
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/quant/llama_cpp_rmse.json")
    args = args.parse_args()
    ggml = load_ggml()
    result = {
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "gguf": importlib.metadata.version("gguf"),
        "data": {},
    }
    known = dict(importances(args.data))
    for name, x in data_sets(args.data, args.checkpoint, args.gemma3):
        wide, importance = x.astype(np.float64), known[name]
        w = importance.astype(np.float64) / importance.mean()
        errors, weighted = {}, {}
        for kind in (GGMLQuantizationType[t] for t in TYPES):
            if x.shape[1] % GGML_QUANT_SIZES[kind][0] == 0:
                back = dequantize(quantize(ggml, x, kind), kind).reshape(x.shape)
                errors[kind.name] = float(np.sqrt(np.mean((back - wide) ** 2)))
                back = dequantize(quantize(ggml, x, kind, importance), kind).reshape(x.shape)
                weighted[kind.name] = float(np.sqrt(np.mean(w * (back - wide) ** 2)))
        result["data"][name] = {
            "rows": x.shape[0], "columns": x.shape[1], "crc32": zlib.crc32(x.astype("<f4").tobytes()),
            "rms": float(np.sqrt(np.mean(wide ** 2))), "rmse": errors, "weighted_rmse": weighted,
        }
        print(f"{name:16} [{x.shape[0]}, {x.shape[1]}]  " + "  ".join(f"{t} {e:.3e}" for t, e in errors.items()))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
