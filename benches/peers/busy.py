#!/usr/bin/env python3
"""Time decoding while other processes want the cores, and while none does.

    busy.py LAPIDARY FILE.gguf [FILE.gguf ...] [--hogs 1] [--pin 0,1] [--threads 1,2] [--rounds 5]
        [-n 64] [-r 5] [--llama PYTHON] [--ik PYTHON] [--settings repack+flash] [--out RESULT.json]

Run by hand on Linux, with any Python. LAPIDARY is the path of the program. `--llama` times llama.cpp too, by
a Python that has `llama-cpp-python`, and `--ik` ik_llama.cpp, by one that has `ik-llama-cpp-python`; both
as `llama_cpp_speed.py` does, with one of its settings.

A hog is a process that computes without end. `--pin` gives the cores that hogs are tied to, in turn;
otherwise the system moves them as it likes. In each round every program decodes `-n` tokens `-r` times,
with each number of threads, without hogs and then with them. What is printed is the median of the rounds, in
tokens per second; the last column divides the busy speed by the idle speed with the first number of
threads, so that 1 means nothing was lost. The load average shows whether the machine was busy anyway.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from llama_cpp_speed import SETTINGS, Lapidary, Peer, Test, numbers, say

KV = "f16"
STATES = ("idle", "busy")


@contextlib.contextmanager
def hogs(n, cores):
    """Keep n processes computing, on some of the cores if any are given."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        for i, process in enumerate(processes if cores else []):
            os.sched_setaffinity(process.pid, {cores[i % len(cores)]})
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def sides(file, threads, args):
    """The programs, ready to measure a file with so many threads."""
    peers = [Peer(name, python, file, threads, KV)
             for name, python in (("llama.cpp", args.llama), ("ik_llama.cpp", args.ik)) if python]
    return [Lapidary(args.lapidary, file, threads, KV), *peers]


def measure_file(file, args):
    """Tokens per second by program, number of threads and state: a list of all rounds."""
    test, speeds = Test("tg", args.n, 0), {}
    for i in range(args.rounds):
        for state in STATES:
            say(f"{file.stem}: round {i + 1} of {args.rounds}, {state}")
            with hogs(args.hogs if state == "busy" else 0, args.pin):
                for threads in args.threads:
                    for side in sides(file, threads, args):
                        if isinstance(side, Peer):
                            side.settings = {test.name: args.settings}
                        speed = side.measure([test], args.r)[test.name]
                        speeds.setdefault((side.name, threads, state), []).append(speed)
    return speeds


def print_table(results, args):
    print("| file | program | threads | idle t/s | busy t/s | busy / first idle |\n" + "|---" * 6 + "|")
    for name, speeds in results.items():
        medians = {key: statistics.median(rounds) for key, rounds in speeds.items()}
        for program in dict.fromkeys(program for program, *_ in medians):
            first = medians[program, args.threads[0], "idle"]
            for threads in args.threads:
                idle, busy = (medians[program, threads, state] for state in STATES)
                print(f"| {name} | {program} | {threads} | {idle:.2f} | {busy:.2f} | {busy / first:.2f} |")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapidary", type=Path)
    args.add_argument("files", nargs="+", type=Path)
    args.add_argument("--hogs", type=int, default=1)
    args.add_argument("--pin", type=numbers, default=[])
    args.add_argument("--threads", type=numbers, default=[1, 2])
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("-n", type=int, default=64)
    args.add_argument("-r", type=int, default=5)
    args.add_argument("--llama", metavar="PYTHON")
    args.add_argument("--ik", metavar="PYTHON")
    args.add_argument("--settings", choices=SETTINGS, default="repack+flash")
    args.add_argument("--out", type=Path)
    args = args.parse_args()
    args.lapidary = args.lapidary.resolve()
    load = os.getloadavg()[0]
    results = {file.stem: measure_file(file, args) for file in args.files}
    print_table(results, args)
    print(f"\n{args.hogs} hogs; the load average before was {load:.2f}")
    if args.out:
        rows = [{"file": name, "program": program, "threads": threads, "state": state, "tokens_per_second": rounds}
                for name, speeds in results.items() for (program, threads, state), rounds in speeds.items()]
        args.out.write_text(json.dumps({"hogs": args.hogs, "pin": args.pin, "load_average_before": load,
                                        "repetitions": args.r, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
