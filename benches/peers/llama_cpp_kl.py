#!/usr/bin/env python3
"""What our quantizers and llama.cpp's cost a model, in Kullback-Leibler divergence from the original.

    llama_cpp_kl.py LAPIDARY CHECKPOINT TEXT [--recipes Q8_0,Q4_K_M] [--ctx 512] [--chunks N]
        [--threads N] [--keep DIR] [--out RESULT.json]

Run by hand, in a virtual environment with `llama-cpp-python` and `gguf`. LAPIDARY is the path of the
program, CHECKPOINT a directory of Gemma 2, TEXT a UTF-8 file that the model was not trained on.

LAPIDARY converts the checkpoint to F16. That file is quantized to each recipe twice, by LAPIDARY and by
llama.cpp's `llama_model_quantize` without an importance matrix, so that both start from the same
weights; tensor types are checked to be equal. Both files are then measured by
`lapidary perplexity --reference CHECKPOINT`: the same kernels, tokens and positions, so that only the
quantizers differ. `--keep` keeps the files.

Prints a Markdown table: mean divergence and its 99th percentile in nats, the ratio of the perplexities
(cut to original) and the share of positions with the same best token, ours beside llama.cpp's, each with
its standard error. Writes all figures as JSON.
"""
import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
from gguf import GGUFReader, LlamaFileType

RECIPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K"]
SIDES = ["ours", "llama_cpp"]


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    """llama.cpp reports every tensor it quantizes."""


def lapidary(args, *command):
    return subprocess.run([args.lapidary, *map(str, command)], check=True, capture_output=True, text=True).stdout


def quantize_ours(args, f16, target, recipe):
    lapidary(args, "convert", f16, "-o", target, "-q", recipe, "--force")


def quantize_theirs(f16, target, recipe):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = LlamaFileType[f"MOSTLY_{recipe}"].value
    if llama_cpp.llama_model_quantize(str(f16).encode(), str(target).encode(), params) != 0:
        raise SystemExit(f"llama.cpp could not quantize {f16} to {recipe}")


def tensor_types(path):
    return {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}


def measure(args, file):
    options = ["--ctx", args.ctx, "--json"]
    options += ["--chunks", args.chunks] if args.chunks else []
    options += ["--threads", args.threads] if args.threads else []
    return json.loads(lapidary(args, "perplexity", file, "--reference", args.checkpoint, "-f", args.text, *options))


def row(recipe, found):
    def cells(figure):
        return [figure(found[side]) for side in SIDES]

    columns = [
        cells(lambda f: f"{f['kl_divergence']['mean']:.6f} ± {f['kl_divergence']['standard_error']:.6f}"),
        cells(lambda f: f"{f['kl_divergence']['percentile_99']:.5f}"),
        cells(lambda f: f"{f['ratio']['value']:.5f} ± {f['ratio']['standard_error']:.5f}"),
        cells(lambda f: f"{100 * f['same_top']['value']:.2f} ± {100 * f['same_top']['standard_error']:.2f} %"),
    ]
    return f"| {recipe} | " + " | ".join(cell for pair in columns for cell in pair) + " |"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapidary", type=Path)
    args.add_argument("checkpoint", type=Path)
    args.add_argument("text", type=Path)
    args.add_argument("--recipes", type=lambda names: names.split(","), default=RECIPES)
    args.add_argument("--ctx", type=int, default=512)
    args.add_argument("--chunks", type=int)
    args.add_argument("--threads", type=int)
    args.add_argument("--keep", type=Path)
    args.add_argument("--out", type=Path)
    args = args.parse_args()
    llama_cpp.llama_log_set(quiet, None)
    results, differ = {}, False
    names = ["KL divergence", "99 %", "perplexity, ratio", "same top"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        f16 = folder / "F16.gguf"
        lapidary(args, "convert", args.checkpoint, "-o", f16, "-q", "F16", "--force")
        print("| recipe | " + " | ".join(f"{name}, {side}" for name in names for side in ["ours", "llama.cpp's"]) + " |")
        print("|---|" + "---|" * 2 * len(names))
        for recipe in args.recipes:
            files = {side: folder / f"{side}-{recipe}.gguf" for side in SIDES}
            quantize_ours(args, f16, files["ours"], recipe)
            quantize_theirs(f16, files["llama_cpp"], recipe)
            ours, theirs = (tensor_types(files[side]) for side in SIDES)
            if ours != theirs:
                differ = True
                print(f"{recipe}: tensor types differ, {ours} and {theirs}", file=sys.stderr)
            results[recipe] = {side: measure(args, files[side]) for side in SIDES}
            print(row(recipe, results[recipe]), flush=True)
    first = results[args.recipes[0]]["ours"]
    print(f"\n{first['tokens']} tokens scored in {first['chunks']} chunks of {args.ctx}")
    if args.out:
        args.out.write_text(json.dumps({
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "machine": platform.machine(),
            "text": args.text.name, "ctx": args.ctx, "recipes": results,
        }, indent=1) + "\n")
    sys.exit(differ)


if __name__ == "__main__":
    main()
