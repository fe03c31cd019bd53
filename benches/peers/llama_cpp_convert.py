#!/usr/bin/env python3
"""Time a checkpoint's way to a k-quant file: lapidary in one step, llama.cpp in two, in turn.

    llama_cpp_convert.py LAPIDARY CHECKPOINT WORK_DIR [--recipe Q4_K_M] [--rounds 2] [--threads 2]
        [--converter convert_hf_to_gguf.py] [--out RESULT.json]

Run by hand, with the Python of a virtual environment that has `llama-cpp-python` (0.3.36), built from
source with native flags, and whatever `--converter`, llama.cpp's own from the same sources, needs
(torch, transformers). Without `--converter` the first step is left out: lapidary writes the BF16 file
that llama.cpp's quantizer begins with, and its time is not counted.

Rounds: ours, theirs, ours, theirs …, every step in a process of its own. The checkpoint is read once
before, so that it lies in the page cache as far as it fits. Quoted are medians: seconds, 10⁶ bytes
per second read and written, the ratio, and the peak of anonymous memory (RssAnon, sampled; mapped
pages of the source, which the system can take back at any time, aside).
"""
import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

# llama.cpp's LLAMA_FTYPE numbers.
FTYPES = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q4_K_M": 15, "Q4_K_S": 14, "Q3_K_L": 13,
          "Q3_K_M": 12, "Q3_K_S": 11, "Q2_K": 10}
QUANTIZE = """
import sys, llama_cpp
source, target, ftype, threads = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(ftype), int(threads)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), params))
"""


def anonymous(pid):
    """Bytes of anonymous memory of a process."""
    try:
        with open(f"/proc/{pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["RssAnon"].split()[0]) * 1024
    except (FileNotFoundError, KeyError, ProcessLookupError):
        return 0


def run(command):
    """(seconds, peak bytes of anonymous memory)"""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.05)
    seconds = time.monotonic() - start
    reader.join()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {errors[0].decode(errors='replace')[-2000:]}")
    return seconds, peak


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapidary")
    args.add_argument("checkpoint", type=Path)
    args.add_argument("work", type=Path)
    args.add_argument("--recipe", default="Q4_K_M", choices=FTYPES)
    args.add_argument("--rounds", type=int, default=2)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--converter", type=Path)
    args.add_argument("--out", type=Path)
    args = args.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    ours, wide, theirs = (str(args.work / name) for name in ("ours.gguf", "bf16.gguf", "theirs.gguf"))
    threads, ftype = str(args.threads), str(FTYPES[args.recipe])
    convert = [args.lapidary, "convert", str(args.checkpoint), "--force", "--threads", threads]
    steps = {"lapidary": [*convert, "-o", ours, "-q", args.recipe]}
    if args.converter:
        steps["llama.cpp convert"] = [sys.executable, str(args.converter), str(args.checkpoint),
                                      "--outfile", wide, "--outtype", "bf16"]
    else:
        run([*convert, "-o", wide, "-q", "BF16"])
    steps["llama.cpp quantize"] = [sys.executable, "-c", QUANTIZE, wide, theirs, ftype, threads]
    for shard in args.checkpoint.glob("*.safetensors"):
        with open(shard, "rb") as f:
            while f.read(1 << 24):
                pass
    results = {step: [] for step in steps}
    for i in range(args.rounds):
        for step, command in steps.items():
            results[step].append(run(command))
            print(f"round {i + 1} of {args.rounds}: {step} {results[step][-1][0]:.1f} s", file=sys.stderr)
    read = sum(shard.stat().st_size for shard in args.checkpoint.glob("*.safetensors"))
    written = Path(ours).stat().st_size
    median = {step: statistics.median(seconds for seconds, _ in runs) for step, runs in results.items()}
    peak = {step: max(peak for _, peak in runs) for step, runs in results.items()}
    print("| step | s | MB/s read | anonymous memory, MB |\n|---|---|---|---|")
    for step, seconds in median.items():
        print(f"| {step} | {seconds:.1f} | {read / seconds / 1e6:.0f} | {peak[step] / 1e6:.0f} |")
    theirs = sum(seconds for step, seconds in median.items() if step != "lapidary")
    print(f"\nlapidary writes {written / median['lapidary'] / 1e6:.0f} MB/s; llama.cpp takes "
          f"{theirs / median['lapidary']:.1f} times as long")
    if args.out:
        args.out.write_text(json.dumps({"recipe": args.recipe, "read": read, "written": written,
                                        "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
