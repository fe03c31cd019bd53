"""llama.cpp's logits of given tokens, and how they compare with others: shared by the programs beside it."""
import ctypes

import llama_cpp
import numpy as np

GGML_F32 = 0


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    """llama.cpp reports every key that it reads and every tensor it quantizes; results say what matters."""


class Model:
    """A file in llama.cpp, and one sequence: KV cache in f32, no flash attention, one batch for all that is given."""

    def __init__(self, path, n_ctx=512, threads=2):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = GGML_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = self.model and llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.bos = llama_cpp.llama_vocab_bos(self.vocab)
        self.batch = llama_cpp.llama_batch_init(n_ctx, 0, 1)
        self.length = 0

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.length = 0

    def evaluate(self, ids, wanted=None):
        """Logits of the `wanted` ones of the next tokens (all of them by default), [wanted, n_vocab] f32"""
        wanted = range(len(ids)) if wanted is None else wanted
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, self.length + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, False
        for i in wanted:
            batch.logits[i] = True
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise SystemExit(f"llama.cpp cannot evaluate {len(ids)} tokens after {self.length}")
        self.length += len(ids)
        rows = (llama_cpp.llama_get_logits_ith(self.context, i) for i in wanted)
        return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)).copy() for row in rows])

    def tokenize(self, text):
        """With <bos> where the file wants it; nothing in the text is a control token."""
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 2))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), True, False)
        return list(ids[:n])

    def text_of(self, ids):
        raw = b""
        for token in ids:
            piece = ctypes.create_string_buffer(256)
            n = llama_cpp.llama_token_to_piece(self.vocab, token, piece, len(piece), 0, True)
            raw += piece.raw[:n]
        return raw.decode(errors="replace")


def llama_logits(path, ids):
    """[tokens, vocabulary] f32 as llama.cpp computes them"""
    model = Model(path)
    logits = model.evaluate(ids)
    model.close()
    return logits


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def compare(logits, reference):
    """NMSE, largest difference, mean Kullback-Leibler divergence and share of equal best tokens"""
    a, b = logits.astype(np.float64), reference.astype(np.float64)
    p, q = log_softmax(b), log_softmax(a)
    return {
        "nmse": float(((a - b) ** 2).sum() / (b ** 2).sum()),
        "largest": float(np.abs(a - b).max()),
        "kl": float((np.exp(p) * (p - q)).sum(axis=1).mean()),
        "same_best": float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
    }
