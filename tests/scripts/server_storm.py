#!/usr/bin/env python3
"""Sends a server requests of badly behaved clients, and checks that it is afterwards as it was before.

    server_storm.py [--requests 500] [--rounds 1] [--seed 1] LAPIDARY MODEL

It starts `LAPIDARY serve MODEL` itself (Linux only). Each round sends this many requests, 16 at a time,
chosen at random by the seed: complete and streamed answers; clients that disconnect before, during and after
the body and during the answer; slow readers; bodies that are too long, not JSON, not UTF-8, nested without end
or of another type; headers without end; prompts that are too long; and data that is not HTTP. Each must get the
right answer, or have its connection closed where that is right. After a round nothing may be running or waiting,
and a prompt must get the same answer as at first. With 40 rounds or more, the memory in the second half must stay
within 2 %: an allocator takes ten thousand requests to reach its final size. The KV caches, whose memory is
allocated as they fill, are filled before the first round.
"""
import argparse
import collections
import json
import queue
import random
import re
import socket
import subprocess
import sys
import threading
import time

CLIENTS = 16
PARALLEL, CONTEXT = 4, 512


class Server:
    """A server that runs while the context is open."""

    def __init__(self, lapidary: str, model: str):
        command = [lapidary, "serve", model, "--port", "0", "--parallel", str(PARALLEL), "--queue", "8",
                   "--ctx", str(CONTEXT)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on http://[^:]+:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def resident(self) -> int:
        """Resident memory in bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

    def health(self) -> dict:
        reply = talk(self, request("GET", "/health", b""))
        return json.loads(reply.split(b"\r\n\r\n", 1)[1])


def request(method: str, path: str, body: bytes, kind: str = "application/json", length: int | None = None) -> bytes:
    head = (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n")
    return head.encode() + body


def ask(body: dict) -> bytes:
    return request("POST", "/v1/completions", json.dumps(body).encode())


def talk(server: Server, data: bytes) -> bytes:
    """Sends everything and reads everything; if the connection is reset, returns what was read before."""
    reply = b""
    with server.connect() as connection:
        try:
            connection.sendall(data)
        except OSError:
            pass  # The server need not read a body that is too long.
        try:
            while data := connection.recv(1 << 16):
                reply += data
        except OSError:
            pass
    return reply


def status(reply: bytes) -> int:
    """The status code of a reply, 0 if there is none."""
    return int(reply.split(None, 2)[1]) if reply.startswith(b"HTTP/1.1 ") else 0


def answer(chance: random.Random, **more) -> dict:
    words = " ".join(chance.choice(["and", "the", "king", "went", "unto", "David"]) for _ in range(chance.randrange(1, 60)))
    return {"prompt": words, "max_tokens": chance.randrange(1, 40), "ignore_eos": True, "seed": chance.randrange(99), **more}


def whole(server, chance):
    return status(talk(server, ask(answer(chance)))) in (200, 429)


def streamed(server, chance):
    reply = talk(server, ask(answer(chance, stream=True, n=chance.choice([1, 1, 3]))))
    return status(reply) == 429 or b"data: [DONE]" in reply


def slow_reader(server, chance):
    with server.connect() as connection:
        connection.sendall(ask(answer(chance, stream=True, logprobs=5)))
        reply = b""
        while data := connection.recv(256):
            reply += data
            time.sleep(0.002)
    return status(reply) == 429 or b"data: [DONE]" in reply


def goes_away(server, chance):
    """Disconnects during the request, right after it, or during the answer."""
    data = ask({**answer(chance, stream=chance.random() < 0.7), "max_tokens": 400})
    with server.connect() as connection:
        connection.sendall(data[:chance.choice([0, 10, len(data) - 5, len(data), len(data)])])
        if chance.random() < 0.5:
            connection.settimeout(0.2)
            try:
                connection.recv(chance.randrange(1, 4000))
            except OSError:
                pass
    return True


def refused(expected: set[int], make):
    return lambda server, chance: status(talk(server, make(chance))) in expected


BAD_JSON = [b"", b"{", b'{"prompt": "a"', b'{"prompt": "a",}', b"[1, 2", b'{"prompt": NaN}', b"null", b'"text"', b"\xef\xbb\xbf{}"]
# How often each kind is chosen, and what does it.
KINDS = {
    "whole": (12, whole),
    "streamed": (12, streamed),
    "slow reader": (4, slow_reader),
    "goes away": (20, goes_away),
    "body too long": (3, refused({413, 0}, lambda _: request("POST", "/v1/completions", b'{"prompt": "' + b"a" * (5 << 20) + b'"}'))),
    "no JSON": (5, refused({400}, lambda c: request("POST", "/v1/chat/completions", c.choice(BAD_JSON)))),
    "no UTF-8": (5, refused({400}, lambda _: request("POST", "/v1/completions", b'{"prompt": "\xff\xfe\xc3"}'))),
    "nested": (3, refused({400}, lambda _: request("POST", "/v1/completions", b'{"prompt": ' + b"[" * 100_000))),
    "no JSON by name": (3, refused({415}, lambda _: request("POST", "/v1/completions", b"{}", "text/plain"))),
    "prompt too long": (3, refused({400}, lambda _: ask({"prompt": "and he went " * 2000}))),
    "head without end": (3, refused({400, 431, 0}, lambda _: b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * (1 << 20))),
    "no HTTP": (3, refused({400, 0}, lambda c: c.randbytes(300) + b"\r\n\r\n")),
    "unknown path": (2, refused({404}, lambda _: request("POST", "/../../etc/passwd", b"{}"))),
}


def round_(server: Server, requests: int, seed: int) -> collections.Counter:
    """Runs one round; returns how many requests of each kind were handled correctly."""
    chance = random.Random(seed)
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(requests):
        name = chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        jobs.put((name, random.Random(chance.randrange(1 << 30))))
    counts: collections.Counter = collections.Counter()
    failed = []

    def client():
        while True:
            try:
                name, chance = jobs.get_nowait()
            except queue.Empty:
                return
            try:
                good = KINDS[name][1](server, chance)
            except Exception as error:
                good, name = False, f"{name}: {error!r}"
            if good:
                counts[name] += 1
            else:
                failed.append(name)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if failed:
        raise SystemExit(f"handled wrongly: {failed}")
    return counts


def fill(server: Server) -> None:
    """Fills all KV caches."""
    def one(word: str) -> None:
        data = ask({"prompt": word, "max_tokens": CONTEXT - 16, "ignore_eos": True})
        if status(talk(server, data)) != 200:
            raise SystemExit("a request for a whole context failed")

    threads = [threading.Thread(target=one, args=(f"{n} times",)) for n in range(PARALLEL)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lapidary")
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with Server(args.lapidary, args.model) as server:
        probe = ask({"prompt": "And it came to pass", "max_tokens": 20, "temperature": 0})

        def said():
            return json.loads(talk(server, probe).split(b"\r\n\r\n", 1)[1])["choices"][0]["text"]

        fill(server)
        first, resident = said(), []
        for number in range(args.rounds):
            counts = round_(server, args.requests, args.seed + number)
            for _ in range(100):
                health = server.health()
                if health["busy"] == 0 and health["waiting"] == 0:
                    break
                time.sleep(0.1)
            else:
                raise SystemExit(f"the queue does not become empty: {health}")
            if said() != first:
                raise SystemExit("a prompt gets another answer than at first")
            resident.append(server.resident())
            shown = ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))
            print(f"round {number + 1}: {sum(counts.values())} handled correctly ({shown}); {resident[-1] / 1e6:.1f} MB")
        later = resident[len(resident) // 2:]
        if args.rounds >= 40 and max(later) > 1.02 * min(later):
            raise SystemExit(f"the memory grows: {later}")
        if server.process.poll() is not None:
            raise SystemExit("the server has exited")
    return 0


if __name__ == "__main__":
    sys.exit(main())
