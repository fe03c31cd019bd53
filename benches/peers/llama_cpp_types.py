#!/usr/bin/env python3
"""Files that llama.cpp quantizes to types which Lapidary only reads, run by both programs.

    llama_cpp_types.py LAPIDARY LOGITS F16.gguf TEXT [--chunks 20] [--goldens tests/goldens/transformers]
        [--keep DIR] [--out RESULT.json]

Run by hand, in a virtual environment with `llama-cpp-python` 0.3.36 (built from source), `gguf` and `numpy`.
LAPIDARY is the program, LOGITS its example of that name, F16.gguf the F16 file of the tiny model.

llama.cpp quantizes the file to each of its mixes of these types, with an importance matrix that LAPIDARY makes of
TEXT. Of each file it prints the tensors of each type; the normalized mean squared error (NMSE: squared difference
over squared reference) and the Kullback-Leibler divergence of llama.cpp's logits of the ids of tiny.json from ours;
and the perplexity of TEXT in both programs. The KV cache is in f32.
"""
import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import llama_cpp
import numpy as np
from gguf import GGUFReader

from llama_cpp_family import measure_perplexity
from llama_cpp_imatrix import llama_quantize, read
from llama_cpp_logits import compare, llama_logits, quiet

HERE = Path(__file__).resolve().parent
# llama.cpp's numbers of the mixes. MXFP4 is meant for experts; `pure` makes it the type of every matrix.
MIXES = {"IQ1_S": 24, "IQ1_M": 31, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ2_M": 29, "IQ3_XXS": 23, "IQ3_XS": 22,
         "IQ3_S": 26, "IQ3_M": 27, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38}
PURE = {"MXFP4"}


def quantize(source, target, mix, entries):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = MIXES[mix], 2, mix in PURE
    llama_quantize(source, target, params, entries)


def our_logits(program, tokens, file, folder):
    subprocess.run([program, tokens, folder, file], check=True)
    return np.fromfile(folder / f"{file.stem}.logits.f32", "<f4")


def our_perplexity(program, file, args):
    command = [program, "perplexity", file, "-f", args.text, "--chunks", str(args.chunks), "--kv", "f32", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["perplexity"]


def measure(mix, args, entries, folder):
    file = folder / f"llama-cpp-{mix}.gguf"
    quantize(args.f16, file, mix, entries)
    tokens = args.goldens / "tiny.json"
    theirs = llama_logits(file, json.loads(tokens.read_text())["ids"])
    ours = our_logits(args.logits, tokens, file, folder).reshape(theirs.shape)
    their_perplexity = measure_perplexity(SimpleNamespace(file=file, text=args.text, chunks=args.chunks, threads=2))
    types = Counter(t.tensor_type.name for t in GGUFReader(file).tensors if t.tensor_type.name != "F32")
    return {"mix": mix, "types": dict(types), **compare(theirs, ours),
            "perplexity": {"ours": our_perplexity(args.lapidary, file, args), "llama.cpp": their_perplexity["perplexity"]}}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapidary", type=Path)
    args.add_argument("logits", type=Path)
    args.add_argument("f16", type=Path)
    args.add_argument("text", type=Path)
    args.add_argument("--chunks", type=int, default=20)
    args.add_argument("--goldens", type=Path, default=HERE / "../../tests/goldens/transformers")
    args.add_argument("--keep", type=Path)
    args.add_argument("--out", type=Path)
    args = args.parse_args()
    llama_cpp.llama_log_set(quiet, None)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        imatrix = folder / "imatrix.gguf"
        command = [args.lapidary, "imatrix", args.f16, "-f", args.text, "-o", imatrix, "--force"]
        subprocess.run(command, check=True, capture_output=True)
        _, _, entries = read(imatrix)
        for mix in MIXES:
            row = measure(mix, args, entries, folder)
            found.append(row)
            perplexity = row["perplexity"]
            types = ", ".join(f"{n} {ty}" for ty, n in sorted(row["types"].items()))
            print(f"| {mix} | {types} | {row['nmse']:.1e} | {row['kl']:.1e} | {perplexity['ours']:.4f} "
                  f"| {perplexity['llama.cpp']:.4f} |", flush=True)
    if args.out:
        about = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "machine": platform.machine()}
        args.out.write_text(json.dumps(about | {"files": found}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
