#!/usr/bin/env python3
"""Write the token ids of every text of the corpus, and list where the two public oracles disagree.

    make_tokenizer_goldens.py TOKENIZER_DIR OUT [--corpus tests/goldens/tokenizer/corpus.jsonl]

TOKENIZER_DIR holds tokenizer.model and tokenizer.json of one vocabulary (rebuild_spm.py makes
the first from the second). The reference is SentencePiece with tokenizer.model:

    ids.plain.bin    <pad> <eos> <bos> <start_of_turn> <end_of_turn> are CONTROL pieces, which
                     SentencePiece never matches in text: the ids that user content must get
    ids.special.bin  the same five are USER_DEFINED pieces, which are matched in text: the ids that
                     a trusted template must get

Both files hold, for each text in the order of the corpus, a u32 count and as many u32 ids,
little-endian. No BOS is added.

tokenizers.json lists the texts for which the `tokenizers` library with tokenizer.json gives other
ids than ids.special.bin, by reason: how many, and their indices in the corpus. A reason is
found by removing a quirk from the text and encoding it again. A disagreement without a known
reason is printed, kept as "unexplained", and makes the script fail.
"""
import argparse
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
CONTROL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]

# Known ways in which `tokenizers` differs from SentencePiece, each with a change of the text that avoids it.
QUIRKS = {
    "unk": (
        "`tokenizers` finds the text <unk> as the unknown piece; SentencePiece never does",
        lambda text: text.replace("<unk>", "<unx>"),
    ),
    "meta-space": (
        "`tokenizers` finds pieces of several \u2581 in the raw text, before spaces become \u2581; SentencePiece "
        "finds them after, so a literal \u2581 joins the spaces beside it",
        lambda text: text.replace("\u2581", " "),
    ),
}


def sentencepiece_with(path, kind):
    """A SentencePiece processor for a tokenizer.model whose five control pieces are changed to `kind`."""
    proto = spm.ModelProto()
    proto.ParseFromString(path.read_bytes())
    pieces = {p.piece: p for p in proto.pieces}
    for name in CONTROL:
        pieces[name].type = spm.ModelProto.SentencePiece.Type.Value(kind)
    return SentencePieceProcessor(model_proto=proto.SerializeToString())


def packed(ids):
    return np.array([n for row in ids for n in (len(row), *row)], "<u4").tobytes()


def why(text, agree):
    """The smallest set of quirks that explains why the two oracles disagree on a text."""
    for count in range(1, len(QUIRKS) + 1):
        for names in combinations(QUIRKS, count):
            changed = text
            for name in names:
                changed = QUIRKS[name][1](changed)
            if agree(changed):
                return " and ".join(names)
    return "unexplained"


def as_json(report):
    """Indented JSON, with each list of indices on one line."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text) + "\n"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--corpus", type=Path, default=HERE / "../../goldens/tokenizer/corpus.jsonl")
    args = args.parse_args()
    texts = [json.loads(line) for line in args.corpus.read_text(encoding="utf-8").split("\n") if line]
    args.out.mkdir(parents=True, exist_ok=True)

    special = sentencepiece_with(args.tokenizer / "tokenizer.model", "USER_DEFINED")
    plain = sentencepiece_with(args.tokenizer / "tokenizer.model", "CONTROL")
    library = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))

    def agree(text):
        return special.encode(text) == library.encode(text, add_special_tokens=False).ids

    differ = {}
    for index, text in enumerate(texts):
        if not agree(text):
            differ[index] = reason = why(text, agree)
            if reason == "unexplained":
                print(f"{index}: {text!r}\n  SentencePiece {special.encode(text, out_type=str)}"
                      f"\n  tokenizers    {library.encode(text, add_special_tokens=False).tokens}")

    special_ids, plain_ids = special.encode(texts), plain.encode(texts)
    (args.out / "ids.special.bin").write_bytes(packed(special_ids))
    (args.out / "ids.plain.bin").write_bytes(packed(plain_ids))
    counts = Counter(differ.values())
    report = {
        "texts": len(texts), "agree": len(texts) - len(differ),
        "reasons": {name: text for name, (text, _) in QUIRKS.items()}, "counts": counts,
        "differ": {reason: [i for i, r in differ.items() if r == reason] for reason in counts},
    }
    (args.out / "tokenizers.json").write_text(as_json(report))
    print(f"{len(texts)} texts, {sum(map(len, special_ids))} ids; control text changes "
          f"{sum(a != b for a, b in zip(special_ids, plain_ids))}; `tokenizers` differs on {len(differ)}: {dict(counts)}")
    if counts["unexplained"]:
        raise SystemExit("some disagreements have no known reason")


if __name__ == "__main__":
    main()
