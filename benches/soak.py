#!/usr/bin/env python3
"""Run lapidary for a long time and see whether its memory stays what it was.

    soak.py [--minutes 30] [--warm-up 60] LAPIDARY ARGUMENTS ...

for instance

    soak.py target/release/lapidary run MODEL -p Once -n -1 --ctx 2048 --context-shift
    soak.py target/release/lapidary perplexity MODEL -f TEXT

Linux. The command is started again when it ends by itself before the time is over; what it prints is
thrown away. Resident memory (VmRSS) is looked at every second; what it takes during the warm-up does not
count. Prints the least, the most, and both as shares of the first that counts, by run; exits with 1 if
one was more than 1 % away from it, or a command failed.
"""
import argparse
import subprocess
import sys
import time


def resident(process: int) -> int:
    """Resident bytes of a process, 0 when it has ended."""
    try:
        with open(f"/proc/{process}/status") as status:
            lines = [line for line in status if line.startswith("VmRSS:")]
    except FileNotFoundError:
        return 0
    return int(lines[0].split()[1]) * 1024 if lines else 0


def watch(command: list[str], end: float, warm_up: float) -> tuple[list[int], int]:
    """Runs `command` until it ends or `end` has come: its samples after the warm-up, its exit code."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        begin, samples = time.monotonic(), []
        while process.poll() is None and time.monotonic() < end:
            time.sleep(1)
            bytes_ = resident(process.pid)
            if bytes_ and time.monotonic() - begin > warm_up:
                samples.append(bytes_)
        asked = process.poll() is None
        if asked:
            process.terminate()
        _, stderr = process.communicate()
        # 128 and SIGTERM.
        code = 0 if asked and process.returncode == 143 else process.returncode
        if code:
            sys.stderr.write(stderr.decode(errors="replace"))
        return samples, code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=60)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("there is nothing to run")
    end, failed = time.monotonic() + 60 * args.minutes, False
    while time.monotonic() < end:
        samples, code = watch(args.command, end, args.warm_up)
        failed |= code != 0
        if code:
            print(f"ended with {code}")
            break
        if not samples:
            continue
        first, low, high = samples[0], min(samples), max(samples)
        away = max(high / first - 1, 1 - low / first)
        failed |= away > 0.01
        print(f"{len(samples)} s: {low / 1e6:.1f} to {high / 1e6:.1f} MB, {first / 1e6:.1f} at first: "
              f"{100 * (low / first - 1):+.2f} % to {100 * (high / first - 1):+.2f} %", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
