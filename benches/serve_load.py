#!/usr/bin/env python3
"""How fast a server answers several streams at a time.

    serve_load.py [--streams 1,2,4,8] [--prompt 64] [--tokens 64] [--rounds 3] [--json] URL

for instance, beside `lapidary serve MODEL --parallel 8 --port 8080`,

    serve_load.py http://127.0.0.1:8080

Standard library only. Each stream asks /v1/completions for `--tokens` tokens after a prompt of `--prompt`
random ones, its own, so that nothing is in a cache. By number of streams, medians of the rounds:

- tokens/s: of all streams together, while all of them are answered: from the last first token to the
  first end;
- first: seconds until the first token, of the median stream and of the last one;
- slowest: tokens/s of the slowest stream as a share of the fastest, from their first tokens to their ends.
"""
import argparse
import http.client
import json
import random
import statistics
import sys
import threading
import time
from urllib.parse import urlsplit


def stream(url: str, prompt: list[int], tokens: int, times: list[float]) -> None:
    """Asks for one answer; `times`: when it was asked, and then when each token came."""
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=600)
    body = {"model": "any", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
            "ignore_eos": True, "logprobs": 0}
    times.append(time.monotonic())
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read().decode()}")
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        now, chunk = time.monotonic(), json.loads(line[6:])
        if "error" in chunk:
            raise RuntimeError(chunk["error"])
        for choice in chunk["choices"]:
            # A character may take several tokens, which come together.
            times.extend([now] * len((choice.get("logprobs") or {}).get("tokens", [])))
    connection.close()


def round_(url: str, streams: int, prompt: int, tokens: int) -> dict:
    """One round of `streams` at a time."""
    failed: list[BaseException] = []
    times: list[list[float]] = [[] for _ in range(streams)]

    def run(times: list[float]) -> None:
        try:
            ids = [2] + [random.randrange(1000, 4000) for _ in range(prompt - 1)]
            stream(url, ids, tokens, times)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(times,)) for times in times]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if failed:
        raise failed[0]
    begin, end = max(t[1] for t in times), min(t[-1] for t in times)
    within = sum(sum(begin < at <= end for at in t[1:]) for t in times)
    first = sorted(t[1] - t[0] for t in times)
    speeds = [(len(t) - 2) / (t[-1] - t[1]) for t in times]
    return {"tokens_per_second": within / (end - begin), "first_median": statistics.median(first),
            "first_last": first[-1], "slowest": min(speeds) / max(speeds)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    counts = [int(n) for n in args.streams.split(",")]
    round_(args.url, 1, args.prompt, 4)
    # In turn, so that what else the machine does meets all of them.
    rounds: dict[int, list[dict]] = {n: [] for n in counts}
    for _ in range(args.rounds):
        for n in counts:
            rounds[n].append(round_(args.url, n, args.prompt, args.tokens))
    result = {n: {key: statistics.median(r[key] for r in rs) for key in rs[0]} for n, rs in rounds.items()}
    if args.json:
        print(json.dumps(result))
        return 0
    print("streams  tokens/s  of one  first token, s  slowest")
    one = result.get(1, {}).get("tokens_per_second")
    for n, r in result.items():
        times = f"{r['tokens_per_second'] / one:5.2f}" if one else "    -"
        print(f"{n:7}  {r['tokens_per_second']:8.2f}  {times}   {r['first_median']:5.2f} to {r['first_last']:5.2f}"
              f"  {100 * r['slowest']:6.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
