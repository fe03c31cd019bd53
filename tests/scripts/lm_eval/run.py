#!/usr/bin/env python3
"""Has lm-evaluation-harness measure the bundled model through `lapidary serve`, twice: one request at a
time, and many at once in batches. The results must be equal and better than chance.

    run.py LAPIDARY

Needs the packages `lm_eval[api]` and `transformers`; nothing is downloaded.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE.parent.parent / "fixtures"
MODEL = FIXTURES / "tiny-gemma2"
TASKS = "verses,verses_likelihood,verses_written"
CONTEXT = 1024
VERSES = 40


def verses():
    """Verses in two halves, the second half also with its words in three other orders."""
    text = (FIXTURES / "held-out" / "kjv-held-out.txt").read_text()
    halves = [line.split(": ", 1) for line in text.splitlines() if 80 < len(line) < 300]
    halves = [half for half in halves if len(half) == 2][:VERSES]
    chance = random.Random(1)
    for begin, end in halves:
        words = end.split()
        ends = [" ".join(chance.sample(words, len(words))) for _ in range(3)] + [end]
        chance.shuffle(ends)
        yield {"begin": begin + ":", "ends": ends, "true_end": ends.index(end)}


def measure(url, work, name, batch, concurrent):
    """Returns the results of all tasks."""
    arguments = {
        "model": "tiny",
        "base_url": f"{url}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": MODEL,
        "max_length": CONTEXT,
        "num_concurrent": concurrent,
        "add_bos_token": True,
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
    command += ["--tasks", TASKS, "--include_path", HERE, "--batch_size", str(batch)]
    command += ["--output_path", work / name, "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "home")}
    offline["TQDM_DISABLE"] = "1"
    subprocess.run(command, cwd=work, env={**os.environ, **offline}, check=True)
    (results,) = (work / name).rglob("results_*.json")
    measured = json.loads(results.read_text())["results"]
    numbers = {
        task: {key: value for key, value in found.items() if isinstance(value, float)}
        for task, found in measured.items()
    }
    samples = {}
    for path in sorted((work / name).rglob("samples_*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines.sort(key=lambda line: line["doc_id"])
        samples[path.name.rsplit("_", 1)[0]] = [line["resps"] for line in lines]
    return numbers, samples


def main():
    (binary,) = sys.argv[1:]
    binary = pathlib.Path(binary).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "verses.json").write_text("\n".join(map(json.dumps, verses())))
        command = [binary, "serve", MODEL, "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                url = next(line for line in process.stderr if line.startswith("listening on "))
                url = url.removeprefix("listening on ").strip()
                one = measure(url, work, "one", batch=1, concurrent=1)
                many = measure(url, work, "many", batch=4, concurrent=4)
            finally:
                process.terminate()
    assert one == many, (one, many)
    numbers, samples = one
    assert len(samples) == 3 and all(len(found) == VERSES for found in samples.values()), samples
    print(json.dumps(numbers, indent=2))
    assert numbers["verses"]["acc,none"] > 0.8, "chance is 0.25"
    assert 1 < numbers["verses_likelihood"]["bits_per_byte,none"] < 2
    print("lm-evaluation-harness: as it should be")


if __name__ == "__main__":
    main()
