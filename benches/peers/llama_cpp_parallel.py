#!/usr/bin/env python3
"""How fast llama.cpp decodes several sequences together: what its server's slots can have at best.

    llama_cpp_parallel.py [--threads 2] [--streams 1,2,4,8] [--prompt 64] [--tokens 32] [--rounds 3]
        [--settings repack+flash repack flash neither] FILE.gguf

By hand, with the Python of a virtual environment that has `llama-cpp-python` (0.3.36). Each step is one
`llama_decode` with one token of every sequence and the logits of each, as in llama.cpp's `llama-batched-bench`;
tokens are random, picking them costs nothing here. By setting (weights repacked or as they lie in the
file, flash attention) and number of sequences, tokens per second of all together: the median of the
rounds. See `llama_cpp_speed.py` for the settings, `serve_load.py` for the other side.
"""
import argparse
import random
import statistics
import sys
import time

import llama_cpp as api

from llama_cpp_speed import SETTINGS


class Sequences:
    """A model, and sequences that are decoded together."""

    def __init__(self, file: str, n: int, n_ctx: int, threads: int, settings: str):
        repack, flash = SETTINGS[settings]
        params = api.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, repack
        self.model = api.llama_model_load_from_file(file.encode(), params)
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = n * n_ctx, n, 2048, 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type, params.swa_full = int(flash), False
        self.context = self.model and api.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot load {file} with {settings}")
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(2048, 0, n)

    def decode(self, tokens: list[tuple[int, int, bool]]) -> None:
        """One pass: a sequence, a position, and whether logits are wanted, of each token."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (sequence, position, logits) in enumerate(tokens):
            batch.token[i], batch.pos[i] = random.randrange(self.n_vocab), position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, logits
        if api.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp cannot decode")

    def speed(self, n: int, prompt: int, steps: int) -> float:
        """Tokens per second of `n` sequences behind prompts of their own."""
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        for sequence in range(n):
            self.decode([(sequence, at, at + 1 == prompt) for at in range(prompt)])
        self.decode([(sequence, prompt, True) for sequence in range(n)])
        start = time.perf_counter()
        for step in range(1, steps + 1):
            self.decode([(sequence, prompt + step, True) for sequence in range(n)])
        return n * steps / (time.perf_counter() - start)

    def close(self) -> None:
        api.llama_free(self.context)
        api.llama_model_free(self.model)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    args = parser.parse_args()
    counts = [int(n) for n in args.streams.split(",")]
    api.llama_backend_init()
    print("settings      " + "".join(f"{n:>9}" for n in counts), flush=True)
    for settings in args.settings:
        n_ctx = args.prompt + args.tokens + 2
        sequences = Sequences(args.file, max(counts), n_ctx, args.threads, settings)
        speeds: dict[int, list[float]] = {n: [] for n in counts}
        for _ in range(args.rounds):
            for n in counts:
                speeds[n].append(sequences.speed(n, args.prompt, args.tokens))
        sequences.close()
        print(f"{settings:14}" + "".join(f"{statistics.median(speeds[n]):9.2f}" for n in counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
