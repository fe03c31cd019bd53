#!/usr/bin/env python3
"""Check a Gemma 2 GGUF file against the checkpoint that it was made from, with Python's gguf as reader.

    check_gguf.py FILE.gguf CHECKPOINT_DIR

Prints one line per check and exits with 1 if one fails. Checked are: the keys that llama.cpp's
converter writes for the architecture gemma2, and their values; the vocabulary, against
tokenizer.model or else tokenizer.json; that the tensors are complete, have the right shapes, are
in order, aligned and without gaps; and the weights. F32, F16 and BF16 tensors must equal the
checkpoint rounded to that type, norms must be 1 + w in F32, and for quantized tensors the error
relative to the root mean square of the weights must stay below a limit for the type.
"""
import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, LlamaFileType
from gguf.quants import dequantize

from checkpoint import Checkpoint

LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}

# Largest error allowed, relative to the root mean square of the tensor. llama.cpp's own quantizers
# stay below two thirds of it on Laplace-distributed data (llama_cpp_rmse.json).
BOUND = {"Q8_0": 0.012, "Q6_K": 0.035, "Q5_1": 0.07, "Q5_K": 0.07, "Q5_0": 0.085, "Q4_1": 0.15,
         "Q4_K": 0.14, "Q4_0": 0.17, "Q3_K": 0.28, "Q2_K": 0.55}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

failures = 0


def check(good, what):
    global failures
    failures += not good
    print(("ok    " if good else "FAIL  ") + what)
    return good


def close(a, b):
    return a is not None and math.isclose(a, b, rel_tol=1e-6)


def check_keys(keys, config):
    """Checks required keys and their values, then keys that need only be right if present."""
    expected = {
        "general.architecture": "gemma2",
        "general.quantization_version": 2,
        "gemma2.context_length": config["max_position_embeddings"],
        "gemma2.embedding_length": config["hidden_size"],
        "gemma2.block_count": config["num_hidden_layers"],
        "gemma2.feed_forward_length": config["intermediate_size"],
        "gemma2.attention.head_count": config["num_attention_heads"],
        "gemma2.attention.head_count_kv": config["num_key_value_heads"],
        "gemma2.attention.key_length": config["head_dim"],
        "gemma2.attention.value_length": config["head_dim"],
        "gemma2.attention.sliding_window": config["sliding_window"],
        "gemma2.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "gemma2.attn_logit_softcapping": config["attn_logit_softcapping"],
        "gemma2.final_logit_softcapping": config["final_logit_softcapping"],
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.bos_token_id": config.get("bos_token_id", 2),
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": config.get("pad_token_id", 0),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }
    optional = {
        "general.type": "model",
        "general.alignment": 32,
        "tokenizer.ggml.add_eos_token": False,
        "gemma2.vocab_size": config["vocab_size"],
        "gemma2.rope.freq_base": config.get("rope_theta", 10000.0),
        "gemma2.rope.dimension_count": config["head_dim"],
        "gemma2.attention.scale": config["query_pre_attn_scalar"] ** -0.5,
    }
    optional = {key: value for key, value in optional.items() if key in keys}
    for key, value in {**expected, **optional}.items():
        found = keys.get(key)
        same = close(found, value) if isinstance(value, float) else found == value
        check(same, f"{key} = {found}" + ("" if same else f", expected {value}"))
    eos = config.get("eos_token_id", 1)
    found = keys.get("tokenizer.ggml.eos_token_id")
    check(found in (eos if isinstance(eos, list) else [eos]), f"tokenizer.ggml.eos_token_id = {found}")
    kind = keys.get("general.file_type")
    known = kind in [t.value for t in LlamaFileType]
    check(known, f"general.file_type = {LlamaFileType(kind).name if known else kind}")
    check(bool(keys.get("general.name")), f"general.name = {keys.get('general.name')!r}")


def reference_vocabulary(folder):
    """The pieces of the checkpoint's vocabulary, [(text, type, score)], from either tokenizer file."""
    from sentencepiece import sentencepiece_model_pb2 as spm
    proto = spm.ModelProto()
    if (folder / "tokenizer.model").exists():
        proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    else:
        from rebuild_spm import rebuild
        proto = rebuild(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    return [(p.piece, p.type, p.score) for p in proto.pieces]


def check_vocabulary(keys, config, folder):
    tokens, scores, types = (keys.get(f"tokenizer.ggml.{name}") or [] for name in ("tokens", "scores", "token_type"))
    size = config["vocab_size"]
    if not check(len(tokens) == len(scores) == len(types) == size,
                 f"{len(tokens)} tokens, {len(scores)} scores, {len(types)} types for {size} embeddings"):
        return
    pieces = reference_vocabulary(folder)
    wrong = [i for i, (text, kind, _) in enumerate(pieces)
             if tokens[i] != (text.replace("\u2581", " ") if kind == USER_DEFINED else text)]
    check(not wrong, f"texts of {len(pieces)} tokens, runs of spaces written as spaces" + (f"; wrong: {wrong[:8]}" if wrong else ""))
    # llama.cpp writes <unk>, <unusedN>, <mask>, <2mass> and [@BOS@] as CONTROL, whatever the model file has
    loose = {UNKNOWN: (UNKNOWN, CONTROL), USER_DEFINED: (USER_DEFINED, CONTROL)}
    wrong = [i for i, (_, kind, _) in enumerate(pieces) if types[i] not in loose.get(kind, (kind,))]
    check(not wrong, "types of the tokens" + (f"; wrong: {wrong[:8]}" if wrong else ""))
    for name in ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"):
        i = tokens.index(name) if name in tokens else None
        check(i is not None and types[i] == CONTROL, f"{name} is CONTROL token {i}")
    normal = [i for i, (_, kind, _) in enumerate(pieces) if kind == NORMAL]
    same_order = (np.argsort([-scores[i] for i in normal], kind="stable")
                  == np.argsort([-pieces[i][2] for i in normal], kind="stable")).all()
    check(bool(same_order), "scores put the normal tokens in the order of the checkpoint's")


def expected_tensors(config, weights):
    """GGUF name -> checkpoint name"""
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for i in range(config["num_hidden_layers"]):
        for ours, theirs in LAYER.items():
            names[f"blk.{i}.{ours}.weight"] = f"model.layers.{i}.{theirs}.weight"
    if "lm_head.weight" in weights and not np.array_equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"]):
        names["output.weight"] = "lm_head.weight"
    return names


def to_bf16(x):
    bits = x.astype("<f4").view("<u4")
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype("<u4").view("<f4")


def check_weights(tensor, want):
    """The problem with one tensor (None if there is none), and the relative error if it is quantized."""
    kind, name = tensor.tensor_type.name, tensor.name
    if want.ndim == 1:
        if kind != "F32":
            return f"{name} is {kind}, norms must be F32", None
        want = np.float32(1) + want
    if kind in ("F32", "F16", "BF16"):
        got = dequantize(tensor.data, tensor.tensor_type).reshape(want.shape)
        with np.errstate(over="ignore"):
            rounded = {"F32": want, "F16": want.astype("<f2").astype("<f4"), "BF16": to_bf16(want)}[kind]
        wrong = int((got != rounded).sum())
        return (f"{name} ({kind}): {wrong} weights differ" if wrong else None), None
    squares, total = 0.0, float((want.astype(np.float64) ** 2).sum())
    rows = max(1, (1 << 24) // want.shape[1])
    for at in range(0, want.shape[0], rows):
        got = dequantize(tensor.data[at:at + rows], tensor.tensor_type).reshape(-1, want.shape[1])
        squares += float(((got.astype(np.float64) - want[at:at + rows]) ** 2).sum())
    error = math.sqrt(squares / total) if total else math.sqrt(squares)
    if not error <= BOUND.get(kind, 0.0):
        return f"{name} ({kind}): relative error {error:.4f}, bound {BOUND.get(kind)}", error
    return None, error


def check_tensors(reader, config, weights):
    names = expected_tensors(config, weights)
    found = {t.name: t for t in reader.tensors}
    check(not names.keys() - found.keys(), f"{len(names)} tensors expected; missing: {sorted(names.keys() - found.keys())[:8] or 'none'}")
    check(not found.keys() - names.keys(), f"tensors that do not belong: {sorted(found.keys() - names.keys())[:8] or 'none'}")
    check(len(found) == len(reader.tensors), "no tensor name occurs twice")

    at, in_place = reader.data_offset, True
    for t in reader.tensors:  # llama.cpp refuses any other layout
        in_place &= int(t.data_offset) == at
        at = -(-(int(t.data_offset) + int(t.n_bytes)) // reader.alignment) * reader.alignment
    check(in_place, f"tensor data in the order of the list, each padded to {reader.alignment} bytes, nothing in between")
    end, size = int(reader.tensors[-1].data_offset + reader.tensors[-1].n_bytes), reader.data.size
    check(end <= size <= at, f"the file ends with the last tensor ({end} of {size} bytes)")

    by_type = {}
    for name, source in names.items():
        if name in found:
            tensor, want = found[name], weights[source]
            shape = tuple(int(n) for n in tensor.shape)[::-1]
            if not shape == want.shape:
                check(False, f"{name}: shape {shape}, the checkpoint has {want.shape}")
                continue
            problem, error = check_weights(tensor, want)
            if problem:
                check(False, problem)
            by_type.setdefault(tensor.tensor_type.name, []).append((not problem, error or 0.0))
    for kind, results in sorted(by_type.items()):
        good = sum(ok for ok, _ in results)
        worst = max(error for _, error in results)
        check(good == len(results), f"{kind:5} {good} of {len(results)} tensors hold the checkpoint's weights"
              + (f", largest relative error {worst:.4f}, bound {BOUND.get(kind)}" if worst else ", exactly"))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("file", type=Path)
    args.add_argument("checkpoint", type=Path)
    args = args.parse_args()
    config = json.loads((args.checkpoint / "config.json").read_text())
    try:
        reader = GGUFReader(args.file)
    except (ValueError, IndexError, KeyError) as problem:
        print(f"FAIL  Python's gguf cannot read {args.file.name}: {problem}")
        sys.exit(1)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    check(keys["GGUF.version"] == 3, f"GGUF version {keys['GGUF.version']}")
    check_keys(keys, config)
    check_vocabulary(keys, config, args.checkpoint)
    check_tensors(reader, config, Checkpoint(args.checkpoint))
    print(f"{args.file.name}: " + (f"{failures} checks failed" if failures else "all checks passed"))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
