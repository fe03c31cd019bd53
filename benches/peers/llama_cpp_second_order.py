#!/usr/bin/env python3
"""Second-order rounding against llama.cpp with an importance matrix, in Kullback-Leibler divergence from the original.

    llama_cpp_second_order.py LAPIDARY MODEL CALIBRATION TEXT... [--recipes Q4_K_M,Q3_K_M] [--efforts best,max]
        [--by-llama-cpp Q4_K_M] [--ctx 512] [--chunks N] [--threads 2] [--keep DIR] [--out RESULT.json]

Run by hand, in a virtual environment with `llama-cpp-python` 0.3.36 (built from source), `gguf` and `numpy`. LAPIDARY
is the program; MODEL a checkpoint directory, or a GGUF file that is quantized again; CALIBRATION a text for the
importance matrix and the second-order statistics, both made by LAPIDARY, for the effort `max` with Fisher information;
every TEXT one to measure on.
The texts of the record are written by tests/scripts/fixtures/kjv.py and second_order_texts.py.

MODEL is quantized to each recipe by llama.cpp with the importance matrix, by LAPIDARY with the same matrix, and by
LAPIDARY with the statistics at each of the efforts. The types of all tensors must be equal; where llama.cpp's own
choice differs from ours, it is given our types, and the recipe is marked with a star. All files are measured by
`lapidary perplexity --reference MODEL`, as `run` would run them. Files of the recipes in `--by-llama-cpp` are measured
by llama.cpp as well, on the first TEXT: its logits of the same positions of the same chunks against its logits of the
original, both programs with the KV cache in f32.

Prints a Markdown table for each text: mean and 99th percentile of the divergence in nats; how much lower the mean of
each effort is than llama.cpp's; whether it is below llama.cpp's next larger file; and the largest recipe of
llama.cpp's that it is below. Recipes are in the order of their sizes. The JSON has all figures, with standard errors,
and for each of our files the time and the matrices that were rounded by importance alone. `--keep` keeps all files, and
uses the importance matrix and the statistics that a run before left there. Exits with 1 if a mean is above llama.cpp's,
or types differ.
"""
import argparse
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType

from llama_cpp_imatrix import llama_quantize, read
from llama_cpp_logits import Model, log_softmax, quiet

RECIPES = ["Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
           "Q8_0"]
THEIRS, OURS = "llama.cpp, imatrix", "imatrix"


def lapidary(args, *command):
    command = [args.lapidary, *map(str, command)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def statistics(args, folder):
    """The files of the importance matrix and of the second-order statistics, with Fisher information if `max` needs
    it. Those without are another file, so that `--keep` does not go on with them."""
    commands = {"imatrix": ["imatrix"], "hessian": ["hessian"], "fisher": ["hessian", "--fisher"]}
    files = []
    for name in ["imatrix", "fisher" if "max" in args.efforts else "hessian"]:
        file = folder / f"{name}.gguf"
        if not file.exists():
            command, *options = commands[name]
            lapidary(args, command, args.model, "-f", args.calibration, "-o", file, *options)
        files.append(file)
    return files


def original_for_llama_cpp(args, folder):
    if args.model.is_file():
        return args.model
    file = folder / "F32.gguf"
    lapidary(args, "convert", args.model, "-o", file, "-q", "F32", "--force")
    return file


def tensor_types(path):
    return {t.name: t.tensor_type for t in GGUFReader(path).tensors}


def quantize_theirs(args, source, target, recipe, entries, types=None):
    """By llama.cpp with the importance matrix, to its own choice of types or to `types` by tensor"""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = LlamaFileType[f"MOSTLY_{recipe}"].value, args.threads
    params.allow_requantize = True
    if types:
        quantized = {name: ty for name, ty in types.items() if ty != GGMLQuantizationType.F32}
        overrides = (llama_cpp.llama_model_tensor_override * (len(quantized) + 1))()
        for slot, (name, ty) in zip(overrides, quantized.items()):
            slot.pattern, slot.type = f"^{re.escape(name)}$".encode(), ty.value
        params.tt_overrides = overrides
        params.token_embedding_type = types["token_embd.weight"].value
    llama_quantize(source, target, params, entries)


def convert(args, target, recipe, *options):
    report = lapidary(args, "convert", args.model, "-o", target, "-q", recipe, *options, "--force", "--json")
    report = json.loads(report)
    return {"seconds": report["seconds"], "rounded_by_importance": report["rounded_by_importance"]}


def make_files(args, recipe, source, folder):
    """The files of a recipe by side, reports of ours, and whether llama.cpp had to be given the types"""
    imatrix, hessian = statistics(args, folder)
    files = {side: folder / f"{side.replace(', ', '-')}-{recipe}.gguf" for side in [THEIRS, OURS, *args.efforts]}
    reports = {OURS: convert(args, files[OURS], recipe, "--imatrix", imatrix)}
    for effort in args.efforts:
        reports[effort] = convert(args, files[effort], recipe, "--hessian", hessian, "--effort", effort)
    types = tensor_types(files[OURS])
    quantize_theirs(args, source, files[THEIRS], recipe, args.entries)
    given = tensor_types(files[THEIRS]) != types
    if given:
        quantize_theirs(args, source, files[THEIRS], recipe, args.entries, types)
    for side, file in files.items():
        if tensor_types(file) != types:
            raise SystemExit(f"{recipe}: the types of {side} are not those of {OURS}")
    return files, reports, given


def measure(args, file, text, *options):
    options += ("--chunks", args.chunks) if args.chunks else ()
    found = lapidary(args, "perplexity", file, "--reference", args.model, "-f", text, "--ctx", args.ctx,
                     "--threads", args.threads, "--json", *options)
    return json.loads(found)


def measure_by_llama_cpp(args, source, files, text):
    """Divergence of each file by llama.cpp: mean and 99th percentile over the second half of every chunk"""
    models = {side: Model(file, args.ctx, args.threads) for side, file in {"original": source, **files}.items()}
    original = models.pop("original")
    ids = original.tokenize(text.read_text())
    chunks = [ids[at : at + args.ctx] for at in range(0, len(ids) - args.ctx + 1, args.ctx)][: args.chunks]
    wanted = range(args.ctx // 2, args.ctx - 1)
    found = {side: [] for side in files}
    for chunk in chunks:
        chunk = [original.bos, *chunk[1:]]
        original.clear()
        p = log_softmax(original.evaluate(chunk, wanted).astype(np.float64))
        for side, model in models.items():
            model.clear()
            q = log_softmax(model.evaluate(chunk, wanted).astype(np.float64))
            found[side].extend((np.exp(p) * (p - q)).sum(axis=1))
    for model in [original, *models.values()]:
        model.close()
    return {side: {"mean": float(np.mean(kl)), "percentile_99": float(np.quantile(kl, 0.99)), "tokens": len(kl)}
            for side, kl in found.items()}


def kl(result, text, side):
    return result["measured"][text][side]["kl_divergence"]


def rows(args, results, text):
    """Lines of the table of a text, the recipes in the order of llama.cpp's file sizes"""
    ordered = sorted(results, key=lambda recipe: results[recipe]["bytes"])
    theirs = {recipe: kl(results[recipe], text, THEIRS)["mean"] for recipe in ordered}
    for i, recipe in enumerate(ordered):
        result = results[recipe]
        cells = [recipe + ("*" if result["given_types"] else "")]
        for side in [THEIRS, OURS, *args.efforts]:
            found = kl(result, text, side)
            cells.append(f"{found['mean']:.6f} / {found['percentile_99']:.4f}")
        for effort in args.efforts:
            mean, larger = kl(result, text, effort)["mean"], ordered[i + 1 :]
            below = [other for other in ordered[i:] if mean < theirs[other]]
            next_one = f"{'yes' if mean < theirs[larger[0]] else 'no'}, {larger[0]}" if larger else "–"
            gain = f"{100 * (1 - mean / theirs[recipe]):.1f} %" if theirs[recipe] else "–"
            cells += [gain, next_one, below[-1] if below else "none"]
        yield f"| {' | '.join(cells)} |"


def print_table(args, results, text):
    names = ["recipe", *(f"{side}: mean / 99 %" for side in [THEIRS, OURS, *args.efforts])]
    for effort in args.efforts:
        names += [f"{effort}, lower by", "below the next larger", "below llama.cpp's"]
    some = next(iter(results.values()))["measured"][text][OURS]
    print(f"\n{text}: {some['tokens']} tokens scored in {some['chunks']} chunks of {args.ctx}\n")
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    print("\n".join(rows(args, results, text)), flush=True)


def print_by_llama_cpp(results):
    print("\n| recipe | file | by llama.cpp: mean / 99 % | by lapidary: mean / 99 % |\n|---|---|---|---|")
    for recipe, result in results.items():
        for side, found in result["by_llama_cpp"].items():
            ours = result["cache_in_f32"][side]["kl_divergence"]
            print(f"| {recipe} | {side} | {found['mean']:.6f} / {found['percentile_99']:.4f} "
                  f"| {ours['mean']:.6f} / {ours['percentile_99']:.4f} |")


def parse():
    def names(text):
        return text.split(",")

    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["lapidary", "model", "calibration"]:
        args.add_argument(name, type=Path)
    args.add_argument("texts", type=Path, nargs="+")
    args.add_argument("--recipes", type=names, default=RECIPES)
    args.add_argument("--efforts", type=names, default=["best"])
    args.add_argument("--by-llama-cpp", type=names, default=[])
    args.add_argument("--ctx", type=int, default=512)
    args.add_argument("--chunks", type=int)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--keep", type=Path)
    args.add_argument("--out", type=Path)
    return args.parse_args()


def main():
    args = parse()
    llama_cpp.llama_log_set(quiet, None)
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source = original_for_llama_cpp(args, folder)
        imatrix, _ = statistics(args, folder)
        _, _, args.entries = read(imatrix)
        for recipe in args.recipes:
            files, reports, given = make_files(args, recipe, source, folder)
            result = results[recipe] = {"bytes": files[THEIRS].stat().st_size, "given_types": given, "reports": reports}
            result["measured"] = {text.name: {side: measure(args, file, text) for side, file in files.items()}
                                  for text in args.texts}
            if recipe in args.by_llama_cpp:
                text = args.texts[0]
                result["by_llama_cpp"] = measure_by_llama_cpp(args, source, files, text)
                result["cache_in_f32"] = {side: measure(args, file, text, "--kv", "f32")
                                          for side, file in files.items()}
            means = {side: f"{kl(result, args.texts[0].name, side)['mean']:.6f}" for side in files}
            print(f"{recipe}: {means}, {reports}", file=sys.stderr, flush=True)
            if not args.keep:
                for file in files.values():
                    file.unlink()
    if args.out:
        args.out.write_text(json.dumps({
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "machine": platform.machine(),
            "calibration": args.calibration.name, "ctx": args.ctx, "recipes": results,
        }, indent=1) + "\n")
    for text in args.texts:
        print_table(args, results, text.name)
    if args.by_llama_cpp:
        print_by_llama_cpp({recipe: results[recipe] for recipe in args.by_llama_cpp})
    sys.exit(any(kl(result, text.name, effort)["mean"] > kl(result, text.name, THEIRS)["mean"]
                 for result in results.values() for text in args.texts for effort in args.efforts))


if __name__ == "__main__":
    main()
