#!/usr/bin/env python3
"""What llama.cpp makes of a GGUF file of any Gemma: logits, perplexity, greedy tokens, speed.

    llama_cpp_family.py logits FILE.gguf IDS.json [REFERENCE.logits.f32] [--save OUT.logits.f32]
    llama_cpp_family.py perplexity FILE.gguf TEXT [--chunks 20]
    llama_cpp_family.py greedy FILE.gguf TEXT [-n 64] [--prompt-tokens 100] [--least 0.05]
    llama_cpp_family.py speed FILE.gguf [--runs 5]
    llama_cpp_family.py golden FILE.gguf TEXT [the options of perplexity and greedy]

Run by hand, in a virtual environment with `llama-cpp-python` 0.3.36 (built from source) and `numpy`. All
commands know `--threads 2` and `--out RESULT.json`; what they find is printed as well.

logits: IDS.json has the tokens under `ids`, and under `positions` those whose logits the reference has (all
    of them by default), as the goldens of transformers and `logits.rs` write them. Normalized mean squared error
    (NMSE: squared difference over squared reference), Kullback-Leibler divergence, share of equal best tokens.
perplexity: as llama.cpp's own program: the text is tokenized once, cut into disjoint chunks of 512, <bos> goes
    over the first token of each, the second half is scored.
greedy: N tokens after the first run of the text's lines, of at least so many tokens, after which the best token's
    logit is at every step ahead of the second best's by `--least` or more, and half of the N tokens differ.
speed: median of the runs, in tokens per second: pp512, and tg64 behind an empty cache, with the settings of
    `llama_cpp_speed.py` that are fastest.
golden: greedy and perplexity in one file, for tests.

The KV cache is in f32, without flash attention, but for `speed`.
"""
import argparse
import importlib.metadata
import json
import math
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import llama_cpp
import numpy as np

from llama_cpp_logits import Model, compare, log_softmax, quiet
from llama_cpp_speed import SETTINGS, Sequence, Test

N_CTX = 512
SPEED_TESTS = [Test("pp", 512, 0), Test("tg", 64, 0)]


def measure_logits(args):
    given = json.loads(args.ids.read_text())
    ids, positions = given["ids"], given.get("positions", range(len(given["ids"])))
    model = Model(args.file, max(N_CTX, len(ids)), args.threads)
    logits = model.evaluate(ids, positions)
    if args.save:
        logits.astype("<f4").tofile(args.save)
    found = {"tokens": len(ids), "positions": len(positions), "n_vocab": model.n_vocab}
    if args.reference:
        reference = np.fromfile(args.reference, "<f4").reshape(len(positions), -1)
        found["reference"] = args.reference.name
        found |= compare(logits[:, :reference.shape[1]], reference)
    return found


def measure_perplexity(args):
    """See make_goldens.py's function of that name."""
    model = Model(args.file, N_CTX, args.threads)
    ids = model.tokenize(args.text.read_text())
    chunks = min(args.chunks or len(ids), len(ids) // N_CTX)
    scored = range(N_CTX // 2, N_CTX - 1)
    losses = []
    for chunk in range(chunks):
        window = [model.bos] + ids[chunk * N_CTX + 1 : (chunk + 1) * N_CTX]
        model.clear()
        logits = model.evaluate(window, scored)
        losses.append([float(-log_softmax(row.astype(np.float64))[window[j + 1]]) for j, row in zip(scored, logits)])
        print(f"chunk {chunk + 1} of {chunks}: {np.exp(np.mean(losses)):.4f}", file=sys.stderr)
    mean, deviation = float(np.mean(losses)), float(np.std(losses))
    tokens = chunks * len(scored)
    return {
        "n_ctx": N_CTX, "text_tokens": len(ids), "chunks": chunks, "tokens_scored": tokens, "nll": mean,
        "perplexity": math.exp(mean), "standard_error": math.exp(mean) * deviation / math.sqrt(tokens - 1),
        "chunk_nll": [statistics.mean(chunk) for chunk in losses],
    }


def prompts(model, text, least_tokens):
    """Runs of lines with at least so many tokens, and their ids"""
    prompt = ""
    for line in (line for line in text.splitlines() if " " in line):
        prompt = f"{prompt}\n{line}" if prompt else line
        ids = model.tokenize(prompt)
        if len(ids) >= least_tokens:
            yield prompt, ids
            prompt = ""


def greedy(model, ids, n, least):
    """Greedy tokens and their gaps; ends early when a gap is below `least`."""
    model.clear()
    (logits,) = model.evaluate(ids, [len(ids) - 1])
    tokens, gaps = [], []
    while len(tokens) < n:
        second, best = np.argpartition(logits, -2)[-2:]
        if logits[second] > logits[best]:
            second, best = best, second
        tokens.append(int(best))
        gaps.append(float(logits[best] - logits[second]))
        if gaps[-1] < least:
            break
        if len(tokens) < n:
            (logits,) = model.evaluate([int(best)])
    return tokens, gaps


def measure_greedy(args):
    model = Model(args.file, N_CTX, args.threads)
    for i, (prompt, ids) in enumerate(prompts(model, args.text.read_text(), args.prompt_tokens)):
        tokens, gaps = greedy(model, ids, args.n, args.least)
        print(f"prompt {i + 1}: {len(tokens)} tokens, gap {min(gaps):.3f}, {len(set(tokens))} different", file=sys.stderr)
        if min(gaps) >= args.least and len(set(tokens)) >= args.n / 2:
            return {"prompt": prompt, "prompt_ids": ids, "greedy_ids": tokens, "text": model.text_of(tokens),
                    "smallest_gap": min(gaps), "gaps": [round(gap, 4) for gap in gaps]}
    raise SystemExit(f"no prompt has {args.n} tokens with gaps of {args.least} and more")


def measure_speed(args):
    """Each setting in a process of its own, and the fastest one by test."""
    found = {}
    for settings in SETTINGS:
        command = [sys.executable, __file__, "--worker", str(args.file), str(args.threads), str(args.runs), settings]
        speeds = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for test, runs in speeds.items():
            median = statistics.median(runs)
            if median > found.get(test, {"median": 0.0})["median"]:
                found[test] = {"median": median, "settings": settings, "runs": runs}
    return found


def speed_worker(file, threads, runs, settings):
    sequence = Sequence("llama.cpp", file, N_CTX, int(threads), settings, "f16")
    return {test.name: sequence.speeds(test, int(runs)) for test in SPEED_TESTS}


def measure_golden(args):
    return {**measure_greedy(args), "perplexity": measure_perplexity(args)}


COMMANDS = {"logits": measure_logits, "perplexity": measure_perplexity, "greedy": measure_greedy,
            "speed": measure_speed, "golden": measure_golden}


def print_table(found, indent=""):
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            print_table(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{name:16} {len(value)} values")
        else:
            print(f"{indent}{name:16} {value:.6g}" if isinstance(value, float) else f"{indent}{name:16} {value!r}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument("file", type=Path)
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--out", type=Path)
        if name == "logits":
            command.add_argument("ids", type=Path)
            command.add_argument("reference", type=Path, nargs="?")
            command.add_argument("--save", type=Path)
        if name in ("perplexity", "greedy", "golden"):
            command.add_argument("text", type=Path)
        if name in ("perplexity", "golden"):
            command.add_argument("--chunks", type=int)
        if name in ("greedy", "golden"):
            command.add_argument("-n", type=int, default=64)
            command.add_argument("--prompt-tokens", type=int, default=100)
            command.add_argument("--least", type=float, default=0.05)
        if name == "speed":
            command.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


def main():
    args = parse()
    llama_cpp.llama_log_set(quiet, None)
    found = COMMANDS[args.command](args)
    print_table(found)
    if args.out:
        about = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "machine": platform.machine(),
                 "threads": args.threads, "command": args.command, "file": args.file.name}
        lines = (f' "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in (about | found).items())
        args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        llama_cpp.llama_log_set(quiet, None)
        print(json.dumps(speed_worker(*sys.argv[2:])))
    else:
        main()
