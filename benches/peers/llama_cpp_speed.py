#!/usr/bin/env python3
"""Time lapidary and llama.cpp in turn on the same files and the same machine.

    llama_cpp_speed.py LAPIDARY FILE.gguf [FILE.gguf ...] [--threads 2] [--rounds 3] [-n 32]
        [--depths 0,4096] [-p 512,4096] [--streams 1,2,4,8] [--ik PYTHON] [--out RESULT.json]
        [--settings repack+flash repack flash neither] [--kv f16]

Run by hand, with the Python of a virtual environment that has `llama-cpp-python` (0.3.36), built from
source so that llama.cpp uses what the processor has. LAPIDARY is the path of the program.

Tests are named as llama-bench names them, speeds are tokens per second: `tg32@d4096` decodes 32
tokens one by one behind 4096 others, `pp512` evaluates a prompt of 512 tokens, `tg32x4` decodes 32 tokens
of each of four sequences together, whose tokens are all counted. Both sides run each
test once uncounted before the one that counts (`-r` for more), with random token ids, a cache in
f16 (`--kv q8_0`: in blocks of 8 bits, which llama.cpp has with flash attention only), and logits for
the last token only. At a depth the cache is filled once and rolled back after each test; the window's
cache of llama.cpp may have lost some of its oldest cells by then, but reads as many as before.

1. Calibration. llama.cpp gets the best of its settings, test by test: weights repacked or as they lie
   in the file (`use_extra_bufts`), flash attention on or off. They are tried on short runs: 8 tokens
   at the test's depth, or 256 tokens from the middle of the prompt, the better of two. `--settings`
   names those to try; a single one is taken untried. Fixed are: load by mmap, n_batch 2048, n_ubatch
   512, the cache of sliding layers no longer than their window needs (`swa_full` off), as llama.cpp's
   own programs have it.
2. Rounds. Ours, theirs, ours, theirs …: each side in a process of its own, one at a time, so that
   neither finds the memory of the other in its way. What is quoted is the median of the rounds, and
   the ratio of the medians.

`--ik` times ik_llama.cpp as well, by a Python that has `ik-llama-cpp-python`.

Prints one Markdown table of all files with the read bandwidth that `lapidary bench` found (10⁹ bytes
per second), a file's rows when it is done, and writes all numbers as JSON. The machine has to be idle: threads of llama.cpp (OpenMP)
spin while they wait for each other, and where another program holds a core, they wait long.
"""
import argparse
import ctypes
import importlib
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

# By engine: its package, and the module with the C functions.
ENGINES = {"llama.cpp": ("llama-cpp-python", "llama_cpp"),
           "ik_llama.cpp": ("ik-llama-cpp-python", "ik_llama_cpp._ctypes_api")}
# By name: whether weights are repacked, and flash attention.
KV_TYPES = {"f16": 1, "q8_0": 8}
SETTINGS = {"repack+flash": (True, True), "repack": (True, False), "flash": (False, True), "neither": (False, False)}
N_BATCH, N_UBATCH = 2048, 512
PROBE = {"tg": 8, "pp": 256}


class Test(NamedTuple):
    kind: str
    tokens: int
    depth: int
    streams: int = 1

    @property
    def name(self):
        streams = f"x{self.streams}" if self.streams > 1 else ""
        return f"{self.kind}{self.tokens}{streams}" + (f"@d{self.depth}" if self.depth else "")

    def probe(self):
        """A short test that takes as long per token."""
        tokens = min(self.tokens, PROBE[self.kind])
        middle = (self.tokens - tokens) // 2 if self.kind == "pp" else 0
        return Test(self.kind, tokens, self.depth + middle, self.streams)


class Sequence:
    """A model in llama.cpp or ik_llama.cpp, and one sequence that can be rolled back, or several of one length
    that are evaluated together."""

    def __init__(self, engine, file, n_ctx, threads, settings, kv, streams=1):
        api = self.api = importlib.import_module(ENGINES[engine][1])
        repack, flash = SETTINGS[settings]
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        if engine == "llama.cpp":
            params.load_mode, params.use_extra_bufts = api.LLAMA_LOAD_MODE_MMAP, repack
        else:
            params.use_mmap, params.repack_tensors = not repack, repack
        model = self.model = api.llama_model_load_from_file(str(file).encode(), params)
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = streams * n_ctx, N_BATCH, N_UBATCH
        params.n_seq_max, self.streams = streams, streams
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = KV_TYPES[kv]
        if engine == "llama.cpp":
            params.flash_attn_type, params.swa_full = int(flash), False
        else:
            params.flash_attn = flash
        self.context = model and api.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit(f"{engine} cannot load {file} with {settings}")
        n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        ids = random.Random(1)
        self.ids = [ids.randrange(n_vocab) for _ in range(n_ctx)]
        self.batch = api.llama_batch_init(N_BATCH, 0, 1)
        self.length = 0

    def evaluate(self, n):
        """Evaluate the next n tokens of each sequence."""
        together = N_BATCH // self.streams
        for start in range(self.length, self.length + n, together):
            batch, end = self.batch, min(start + together, self.length + n)
            batch.n_tokens = (end - start) * self.streams
            for i in range(batch.n_tokens):
                at, sequence = start + i // self.streams, i % self.streams
                batch.token[i], batch.pos[i] = self.ids[at], at
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = at + 1 == self.length + n
            if self.api.llama_decode(self.context, batch) != 0:
                raise SystemExit(f"cannot evaluate tokens {start} to {end}")
        self.length += n

    def roll_back(self, length):
        if hasattr(self.api, "llama_memory_seq_rm"):
            remove, memory = self.api.llama_memory_seq_rm, self.api.llama_get_memory(self.context)
        else:
            remove, memory = self.api._lib.llama_kv_cache_seq_rm, self.context
            remove.argtypes, remove.restype = [ctypes.c_void_p] + [ctypes.c_int32] * 3, ctypes.c_bool
        if not all(remove(memory, sequence, length, -1) for sequence in range(self.streams)):
            raise SystemExit(f"cannot roll back to {length} tokens")
        self.length = length

    def close(self):
        self.api.llama_free(self.context)
        if hasattr(self.api, "llama_model_free"):
            self.api.llama_model_free(self.model)
        else:
            self.api.llama_free_model(self.model)

    def speeds(self, test, repetitions):
        """Tokens per second of each repetition, after one that does not count."""
        self.evaluate(test.depth - self.length)
        speeds = []
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            for tokens in [test.tokens] if test.kind == "pp" else [1] * test.tokens:
                self.evaluate(tokens)
            speeds.append(test.tokens * self.streams / (time.perf_counter() - start))
            self.roll_back(test.depth)
        return speeds[1:]


def work(job):
    """What a process of its own does: some tests with one engine and one setting of it."""
    tests = sorted((Test(*test) for test in job["tests"]), key=lambda test: (test.streams, test.depth))
    speeds = {}
    for streams in dict.fromkeys(test.streams for test in tests):
        group = [test for test in tests if test.streams == streams]
        n_ctx = max(test.depth + test.tokens for test in group)
        sequence = Sequence(job["engine"], job["file"], n_ctx, job["threads"], job["settings"], job["kv"], streams)
        speeds |= {test.name: sequence.speeds(test, job["repetitions"]) for test in group}
        sequence.close()
    return speeds


class Peer:
    """llama.cpp or its fork, on one file."""

    def __init__(self, name, python, file, threads, kv):
        self.name, self.python, self.file, self.threads, self.kv = name, python, file, threads, kv
        self.settings, self.calibration = {}, {}

    def run(self, tests, settings, repetitions):
        job = {"engine": self.name, "file": str(self.file), "threads": self.threads, "tests": tests,
               "settings": settings, "repetitions": repetitions, "kv": self.kv}
        return json.loads(call([self.python, __file__, "--worker"], json.dumps(job)).splitlines()[-1])

    def calibrate(self, tests, candidates):
        """Find the best settings of each test."""
        for settings in candidates if len(candidates) > 1 else []:
            say(f"{self.file.stem}: {self.name} with {settings}")
            found = self.run(sorted({test.probe() for test in tests}), settings, 2)
            self.calibration[settings] = {name: max(speeds) for name, speeds in found.items()}
        for test in tests:
            tried = {settings: speeds[test.probe().name] for settings, speeds in self.calibration.items()}
            self.settings[test.name] = max(tried, key=tried.get) if tried else candidates[0]

    def measure(self, tests, repetitions):
        speeds = {}
        for settings in SETTINGS:
            if group := [test for test in tests if self.settings[test.name] == settings]:
                found = self.run(group, settings, repetitions)
                speeds |= {name: statistics.mean(of) for name, of in found.items()}
        return speeds

    def version(self):
        code = f"import importlib.metadata as m; print(m.version({ENGINES[self.name][0]!r}))"
        return call([self.python, "-c", code]).strip()


class Lapidary:
    name = "lapidary"

    def __init__(self, program, file, threads, kv):
        self.program, self.file, self.threads, self.kv = program, file, threads, kv
        self.streams = []

    def measure(self, tests, repetitions):
        speeds = {}
        for kind, streams in dict.fromkeys((test.kind, test.streams) for test in tests):
            group = [test for test in tests if (test.kind, test.streams) == (kind, streams)]
            flags = ["-p", "0", "-n"] if kind == "tg" else ["-n", "0", "-p"]
            _, *lists, _ = zip(*group)
            tokens, depths = (",".join(map(str, dict.fromkeys(of))) for of in lists)
            found = json.loads(call([
                self.program, "bench", self.file, *flags, tokens, "--ctx-depth", depths, "--kv", self.kv,
                "--streams", str(streams), "--threads", str(self.threads), "-r", str(repetitions), "--json"]))
            self.streams.append(found["stream_gb_per_s"])
            speeds |= {result["test"]: result["tokens_per_second"] for result in found["results"]}
        return speeds


def call(command, text=""):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


def measure_file(file, args, peers):
    """All rounds of one file."""
    tests = [Test("tg", args.n, depth) for depth in args.depths if args.n]
    tests += [Test("tg", args.n, 0, streams) for streams in args.streams if streams > 1 and args.n]
    tests += [Test("pp", n, 0) for n in args.p if n]
    peers = [Peer(name, python, file, args.threads, args.kv) for name, python in peers]
    for peer in peers:
        peer.calibrate(tests, args.settings)
    ours = Lapidary(args.lapidary, file, args.threads, args.kv)
    rounds = []
    for i in range(args.rounds):
        rounds.append({})
        for side in [ours, *peers]:
            say(f"{file.stem}: round {i + 1} of {args.rounds}, {side.name}")
            rounds[-1][side.name] = side.measure(tests, args.r)

    def medians(side):
        return {test.name: statistics.median(speeds[side][test.name] for speeds in rounds) for test in tests}

    return {
        "file": file.name, "stream_gb_per_s": max(ours.streams), "medians": {side: medians(side) for side in rounds[0]},
        "rounds": rounds, "settings": {peer.name: peer.settings for peer in peers},
        "calibration": {peer.name: peer.calibration for peer in peers},
    }


def print_head(peers):
    names = [name for name, _ in peers]
    columns = ["recipe", "test", *(f"{name} t/s" for name in names), "lapidary t/s",
               *(f"ratio to {name}" for name in names), "read GB/s"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)


def print_rows(result, peers):
    medians = result["medians"]
    for test, ours in medians["lapidary"].items():
        theirs = [medians[name][test] for name, _ in peers]
        cells = [Path(result["file"]).stem, test, *(f"{speed:.2f}" for speed in theirs), f"{ours:.2f}",
                 *(f"{ours / speed:.2f}" for speed in theirs), f"{result['stream_gb_per_s']:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def print_settings(results):
    for result in results:
        for name, settings in result["settings"].items():
            used = ", ".join(f"{test} {best}" for test, best in settings.items())
            print(f"\n{Path(result['file']).stem}, settings of {name}: {used}")


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapidary", type=Path)
    args.add_argument("files", nargs="+", type=Path)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("-r", type=int, default=1)
    args.add_argument("-n", type=int, default=32)
    args.add_argument("--depths", type=numbers, default=[0, 4096])
    args.add_argument("-p", type=numbers, default=[512, 4096])
    args.add_argument("--streams", type=numbers, default=[1])
    args.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    args.add_argument("--kv", choices=KV_TYPES, default="f16")
    args.add_argument("--ik", metavar="PYTHON")
    args.add_argument("--out", type=Path)
    args = args.parse_args()
    args.lapidary = args.lapidary.resolve()
    peers = [("llama.cpp", sys.executable)] + ([("ik_llama.cpp", args.ik)] if args.ik else [])
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"the load average is {load:.2f}: the numbers will be no good")
    info = Path("/proc/cpuinfo")
    processor = re.findall(r"model name\s*: (.*)", info.read_text())[:1] if info.exists() else []
    versions = {ENGINES[name][0]: Peer(name, python, None, 0, args.kv).version() for name, python in peers}
    versions["lapidary"] = call([args.lapidary, "--version"]).split()[-1]
    results = []
    print_head(peers)
    # What is measured is printed and written at once, because the files take hours together.
    for file in args.files:
        results.append(measure_file(file, args, peers))
        print_rows(results[-1], peers)
        if args.out:
            args.out.write_text(json.dumps({
                "versions": versions, "machine": platform.machine(), "processor": processor, "system": platform.platform(),
                "load_average_before": load, "threads": args.threads, "kv": args.kv, "repetitions": args.r,
                "n_batch": N_BATCH, "n_ubatch": N_UBATCH, "results": results,
            }, indent=1) + "\n")
    print_settings(results)


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        print(json.dumps(work(json.load(sys.stdin))))
    else:
        main()
