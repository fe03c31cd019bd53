#!/usr/bin/env python3
"""Write a part of the calibration texts to calibrate on, and other parts of them to measure on.

    second_order_texts.py OUT [--without TEXT]

OUT/calibration.txt has the beginning of each kind of text in src/calibration/texts, OUT/prose.txt, OUT/markdown.txt,
OUT/chat.txt and OUT/languages.txt have the last 30,000 characters of theirs: llama_cpp_second_order.py calibrates on
the former and measures on the latter. Conversations are written with Gemma's turn markers, which the programs read as
plain text. `--without` leaves out the documents that share eight words in a row with TEXT, such as those of the Bible
for a model that was trained on it.
"""
import argparse
import json
from pathlib import Path

TEXTS = Path(__file__).resolve().parents[2] / "src/calibration/texts"
SEPARATOR = "\n\n\n\n"
FILES = {"prose": "prose.txt", "languages": "languages.txt", "markdown": "markdown.md", "code": "code.txt",
         "chat": "chat.jsonl"}
CALIBRATE = {"prose": 60_000, "languages": 110_000, "markdown": 45_000, "code": 60_000, "chat": 50_000}  # characters
MEASURE, MEASURED = 30_000, ["prose", "markdown", "chat", "languages"]


def shingles(text, words=8):
    split = text.lower().split()
    return {" ".join(split[at : at + words]) for at in range(len(split) - words + 1)}


def turns(line):
    """A conversation as Gemma's chat template has it, without <bos>."""
    roles = {"user": "user", "assistant": "model"}
    return "".join(f"<start_of_turn>{roles[message['role']]}\n{message['content']}<end_of_turn>\n"
                   for message in json.loads(line)["messages"])


def read(kind, known):
    text = (TEXTS / FILES[kind]).read_text()
    if kind == "chat":
        return "\n".join(map(turns, text.splitlines()))
    documents = text.rstrip("\n").split(SEPARATOR)
    return SEPARATOR.join(document for document in documents if not known & shingles(document)) + "\n"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--without", type=Path)
    args = args.parse_args()
    known = shingles(args.without.read_text()) if args.without else set()
    texts = {kind: read(kind, known) for kind in FILES}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "calibration.txt").write_text("\n".join(texts[kind][:length] for kind, length in CALIBRATE.items()))
    for kind in MEASURED:
        assert len(texts[kind]) >= CALIBRATE[kind] + MEASURE, f"{FILES[kind]} is too short to be divided"
        (args.out / f"{kind}.txt").write_text(texts[kind][-MEASURE:])


if __name__ == "__main__":
    main()
