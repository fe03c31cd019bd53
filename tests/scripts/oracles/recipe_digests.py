#!/usr/bin/env python3
"""Write one checksum for each file that `lapidary convert` makes of a fixture and a recipe.

    recipe_digests.py LAPIDARY [--out tests/goldens/recipes/digests.json]

Converts both Gemma 2 fixtures to every recipe with the program LAPIDARY. The checksum is the CRC-32 of the
whole file. The file says which version of Lapidary made it, so a new version number changes them all. Otherwise run it
again only if a change is meant to change what a recipe gives, and say so in CHANGELOG.md.
"""
import argparse
import json
import subprocess
import tempfile
import zlib
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
RECIPES = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS",
           "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapidary", type=Path)
    args.add_argument("--out", type=Path, default=TESTS / "goldens/recipes/digests.json")
    args = args.parse_args()
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in ("tiny-gemma2", "micro-gemma2"):
            for recipe in RECIPES:
                out = Path(folder) / f"{model}-{recipe}.gguf"
                command = [args.lapidary, "convert", TESTS / "fixtures" / model, "-o", out, "-q", recipe]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                digests.setdefault(model, {})[recipe] = zlib.crc32(out.read_bytes())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
