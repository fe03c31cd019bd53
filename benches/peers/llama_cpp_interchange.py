#!/usr/bin/env python3
"""Open our GGUF files in llama.cpp, and compare logits and recipes with it.

    llama_cpp_interchange.py F16.gguf [FILE.gguf ...] [--goldens tests/goldens/transformers]
        [--own DIR] [--keep DIR] [--out RESULT.json]

Run by hand, in a virtual environment with `llama-cpp-python` (built from source), `gguf` and
`numpy`. All files are of the tiny model; the first one is its F16 file, the others are ours of any
recipe, one per recipe.

1. Logits. Each file is loaded (context 512, one batch, KV cache in f32) and fed the ids of
   tiny.json. The normalized mean squared error (NMSE: squared difference over squared reference)
   is taken against the golden logits of transformers, and against our own logits of the same file
   when `--own` holds them as NAME.logits.f32 for NAME.gguf ([tokens, vocabulary] f32).
2. Recipes. llama.cpp quantizes the F16 file into every recipe; the type of each tensor is compared
   with our file of that recipe, found by general.file_type. `--keep` keeps llama.cpp's files, so
   that we can run them in turn.
3. llama.cpp's own Q4_K_M file is put through step 1 as well, as the mark for ours.

Prints two tables and writes all numbers as JSON. Exits with 1 when a tensor type differs.
"""
import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader, LlamaFileType

from llama_cpp_logits import compare, llama_logits, quiet

HERE = Path(__file__).resolve().parent
RECIPES = {"F16": 1, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q4_K_M": 15, "Q4_K_S": 14,
           "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "Q2_K": 10}


def recipe_of(path):
    number = GGUFReader(path).fields["general.file_type"].contents()
    return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")


def tensor_types(path):
    return {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}


def quantize(source, target, recipe):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = RECIPES[recipe]
    params.nthread = 2
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if status != 0:
        raise SystemExit(f"llama.cpp could not quantize {source} to {recipe}")


def measure_logits(files, own, ids, golden):
    table = []
    print(f"{'file':28} {'recipe':7} {'against':14} {'NMSE':>10} {'largest':>9} {'KL':>10} {'same best':>9}")
    for label, path in files:
        logits = llama_logits(path, ids)
        references = {"transformers": golden}
        ours = own / f"{path.stem}.logits.f32" if own else None
        if ours and ours.exists():
            references["ours"] = np.fromfile(ours, "<f4").reshape(len(ids), -1)
        for name, reference in references.items():
            row = {"file": label, "recipe": recipe_of(path), "against": name, **compare(logits, reference)}
            table.append(row)
            print(f"{label:28} {row['recipe']:7} {name:14} {row['nmse']:10.3e} {row['largest']:9.5f} "
                  f"{row['kl']:10.3e} {row['same_best']:9.3f}")
        if "ours" in references:
            row = {"file": label, "recipe": recipe_of(path), "against": "transformers, by us",
                   **compare(references["ours"], golden)}
            table.append(row)
            print(f"{'  the same file run by us':28} {row['recipe']:7} {'transformers':14} {row['nmse']:10.3e} "
                  f"{row['largest']:9.5f} {row['kl']:10.3e} {row['same_best']:9.3f}")
    return table


def measure_recipes(f16, files, folder):
    """Let llama.cpp make every recipe and compare tensor types with our file of the same recipe."""
    ours = {recipe_of(path): path for path in files}
    table = []
    print(f"\n{'recipe':7} {'llama.cpp: tensors of each type':58} compared with ours")
    for recipe in RECIPES:
        target = folder / f"llama-cpp-{recipe}.gguf"
        quantize(f16, target, recipe)
        theirs = tensor_types(target)
        row = {"recipe": recipe, "llama_cpp": dict(Counter(theirs.values())), "file": None, "differ": {}}
        verdict = "no file given"
        if recipe in ours:
            mine = tensor_types(ours[recipe])
            row["file"] = ours[recipe].name
            row["differ"] = {name: [mine.get(name), theirs.get(name)] for name in sorted(mine.keys() | theirs.keys())
                             if mine.get(name) != theirs.get(name)}
            verdict = f"{len(row['differ'])} differ" if row["differ"] else "all equal"
        table.append(row)
        counts = ", ".join(f"{n} {t}" for t, n in sorted(row["llama_cpp"].items()))
        print(f"{recipe:7} {counts:58} {verdict}")
        for name, (mine, other) in row["differ"].items():
            print(f"        {name}: ours {mine}, llama.cpp {other}")
    return table


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("files", nargs="+", type=Path)
    args.add_argument("--goldens", type=Path, default=HERE / "../../tests/goldens/transformers")
    args.add_argument("--own", type=Path)
    args.add_argument("--keep", type=Path)
    args.add_argument("--out", type=Path)
    args = args.parse_args()
    llama_cpp.llama_log_set(quiet, None)
    ids = json.loads((args.goldens / "tiny.json").read_text())["ids"]
    golden = np.fromfile(args.goldens / "tiny.logits.f32", "<f4").reshape(len(ids), -1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "llama-cpp-Q4_K_M.gguf"
        quantize(args.files[0], mark, "Q4_K_M")
        logits = measure_logits([(p.name, p) for p in args.files] + [("llama.cpp's own Q4_K_M", mark)], args.own, ids, golden)
        recipes = measure_recipes(args.files[0], args.files, folder)
    if args.out:
        args.out.write_text(json.dumps({
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "machine": platform.machine(),
            "tokens": len(ids), "logits": logits, "recipes": recipes,
        }, indent=1) + "\n")
    sys.exit(any(row["differ"] for row in recipes))


if __name__ == "__main__":
    main()
