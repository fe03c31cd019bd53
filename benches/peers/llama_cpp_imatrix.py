#!/usr/bin/env python3
"""Compare an importance matrix of ours with llama.cpp's activations, and quantize with it there.

    llama_cpp_imatrix.py MODEL.gguf TEXT IMATRIX.gguf

Run by hand, in a virtual environment with `llama-cpp-python` 0.3.36 (built from source), `gguf` and
`numpy`. IMATRIX.gguf is what `lapidary imatrix MODEL.gguf -f TEXT` wrote, MODEL.gguf best the F32
file of the tiny model: llama.cpp quantizes to Q4_K_M from it.

1. llama.cpp evaluates the same chunks, and a callback adds up the squares of what every matrix is
   multiplied with. The normalized mean squared error (NMSE: squared difference over squared
   reference) of our sums is printed for each kind of matrix.
2. llama.cpp quantizes MODEL.gguf without and with our entries, those of the embedding included.
   Every matrix that it quantized has to differ, so that every entry was found and used.

Exits with 1 when an entry is missing, differs by more than the bound, or was not used.
"""
import argparse
import ctypes
import re
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader

# Two programs' sums of products in single precision; the cache is in f16 on both sides.
BOUND = 1e-6
F32, Q4_K_M = 0, 15


class Tensor(ctypes.Structure):
    """The beginning of ggml's struct ggml_tensor."""


Tensor._fields_ = [
    ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4), ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32), ("src", ctypes.POINTER(Tensor) * 10), ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
]


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    """The results below say what matters."""


def read(path):
    """Chunks, tokens of a chunk, and sums and count by matrix."""
    reader = GGUFReader(path)
    fields, tensors = reader.fields, {t.name: t.data for t in reader.tensors}
    assert fields["general.type"].contents() == "imatrix"
    entries = {name.removesuffix(".in_sum2"): (sums.reshape(-1), float(tensors[name.replace(".in_sum2", ".counts")].item()))
               for name, sums in tensors.items() if name.endswith(".in_sum2")}
    print(f"{path.name}: {len(entries)} entries, datasets {fields['imatrix.datasets'].contents()}")
    return fields["imatrix.chunk_count"].contents(), fields["imatrix.chunk_size"].contents(), entries


class Collector:
    def __init__(self):
        self.sums, self.counts = {}, {}
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self.see)

    def see(self, address, ask, _data):
        tensor = Tensor.from_address(address)
        if not tensor.src[0] or not tensor.src[1]:
            return not ask
        weight, rows = tensor.src[0].contents, tensor.src[1].contents
        name = weight.name.decode()
        # Matrices of the model times floats, and not norms, which have one dimension.
        wanted = name.endswith(".weight") and weight.ne[1] > 1 and rows.type == F32
        if ask:
            return wanted
        if wanted:
            n, cols = rows.ne[1], rows.ne[0]
            assert rows.ne[2] == rows.ne[3] == 1 and rows.nb[0] == 4
            raw = ctypes.string_at(rows.data, (n - 1) * rows.nb[1] + cols * 4)
            x = np.stack([np.frombuffer(raw, "<f4", cols, i * rows.nb[1]) for i in range(n)]).astype(np.float64)
            self.sums[name] = self.sums.get(name, 0) + (x * x).sum(axis=0)
            self.counts[name] = self.counts.get(name, 0) + n
        return True


def collect(path, text, chunks, size):
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    raw = text.read_bytes()
    tokens = (llama_cpp.llama_token * (len(raw) + 1))()
    n = llama_cpp.llama_tokenize(vocab, raw, len(raw), tokens, len(tokens), True, False)
    assert n >= chunks * size, f"{text} has {n} tokens"
    collector = Collector()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = size
    params.cb_eval = collector.callback
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(size, 0, 1)
    for chunk in range(chunks):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = size
        for i in range(size):
            batch.token[i] = tokens[chunk * size + i] if i else llama_cpp.llama_vocab_bos(vocab)
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = i, 1, 0, 1
        assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return collector


def compare(ours, theirs):
    good, worst = True, {}
    for name, (sums, count) in ours.items():
        if name not in theirs.sums:
            print(f"FAIL  {name}: llama.cpp multiplies with no such matrix")
            good = False
            continue
        reference = theirs.sums[name]
        error = float(((sums - reference) ** 2).sum() / (reference ** 2).sum())
        if not error <= BOUND or count != theirs.counts[name]:
            print(f"FAIL  {name}: NMSE {error:.3e}, {count} tokens of {theirs.counts[name]}")
            good = False
        kind = re.sub(r"blk\.\d+\.", "", name)
        worst[kind] = max(worst.get(kind, 0.0), error)
    for name in theirs.sums.keys() - ours.keys():
        print(f"FAIL  {name}: no entry")
        good = False
    for kind, error in worst.items():
        print(f"{kind:20} largest NMSE {error:.3e}")
    return good


def llama_quantize(source, target, params, entries):
    """By llama.cpp, with the importance matrix if it has entries."""
    means = {name: (sums / count).astype(np.float32) for name, (sums, count) in entries.items()}
    data = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for slot, (name, mean) in zip(data, means.items()):
        slot.name, slot.size = name.encode(), len(mean)
        slot.data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if means:
        params.imatrix = data
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) != 0:
        raise SystemExit(f"llama.cpp could not quantize {source} to {target}")


def quantize(source, target, entries):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = Q4_K_M, 1
    llama_quantize(source, target, params, entries)
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(target).tensors}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", type=Path)
    args.add_argument("text", type=Path)
    args.add_argument("imatrix", type=Path)
    args = args.parse_args()
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    chunks, size, entries = read(args.imatrix)
    good = compare(entries, collect(args.model, args.text, chunks, size))
    with tempfile.TemporaryDirectory() as folder:
        plain = quantize(args.model, Path(folder) / "plain.gguf", {})
        weighted = quantize(args.model, Path(folder) / "weighted.gguf", entries)
    quantized = [name for name, (kind, _) in plain.items() if kind != "F32"]
    unused = [name for name in quantized if plain[name] == weighted[name]]
    print(f"llama.cpp quantized {len(quantized)} matrices; the entries made no difference to {unused or 'none'}")
    sys.exit(not good or bool(unused))


if __name__ == "__main__":
    main()
