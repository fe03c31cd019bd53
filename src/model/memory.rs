//! What a run will hold in memory, computed from the model's blueprint before anything is allocated.

use super::state::LOGIT_ROWS;
use super::{Config, StateOptions};
use crate::tokenizer::Tokenizer;

/// What a model has to do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One sequence.
    One,
    /// As many as [an engine](crate::engine) has.
    Engine {
        /// At least one.
        parallel: usize,
    },
}

impl Load {
    fn sequences(self) -> usize {
        match self {
            Load::One => 1,
            Load::Engine { parallel } => parallel,
        }
    }
}

/// Bytes that are resident at most while texts are generated, by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The mapped file: weights, the pieces' texts and metadata.
    pub file: u64,
    /// Keys and values of full contexts, one for each sequence.
    pub kv_cache: u64,
    /// Activations of one ubatch of a long prompt and of the other sequences' tokens beside it, and the
    /// logits of those positions that are wanted together.
    pub buffers: u64,
    /// The tokenizer's tables, and those that keep answers to a format.
    pub tokenizer: u64,
    /// The program itself, and what each of its threads works in.
    pub program: u64,
}

/// The program's code and data, the parsed header, what a terminal or a progress bar takes. Measured.
const PROGRAM: usize = 12 << 20;

/// A thread's stack and the rows of weights that it has unpacked, as far as they are touched. Measured.
const THREAD: usize = 3 << 19;

/// Bytes for each logit besides the logit: the sampler's copy, and the candidates it sorts.
const SAMPLING: usize = 12;

/// Bytes of [`Grammars`](crate::grammar::Grammars) for each piece of the vocabulary. Measured.
const GRAMMARS: usize = 352;

/// Positions of a span.
const SPAN: usize = 256;

/// Values of an output for which the lists of a matrix product hold one reference (16 bytes).
const ITEM: usize = 48;

impl Memory {
    /// For a file of `file` bytes, and sequences that fill what each may take, on `threads`.
    pub fn new(
        config: &Config,
        file: u64,
        options: StateOptions,
        threads: usize,
        load: Load,
    ) -> Self {
        let norms = (4 * config.n_layer + 1) * config.n_embd * size_of::<f32>();
        let grammars = match load {
            Load::One => 0,
            Load::Engine { .. } => config.n_vocab * GRAMMARS,
        };
        let tokenizer = Tokenizer::predicted_heap_bytes(config.n_vocab) + grammars;
        Self {
            file,
            kv_cache: (load.sequences() * kv_cache(config, options)) as u64,
            buffers: buffers(config, options, threads, load) as u64,
            tokenizer: tokenizer as u64,
            program: (PROGRAM + norms + threads * THREAD) as u64,
        }
    }

    /// All parts together.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// What there has to be of address space: an allocator reserves more than it uses, glibc's 64 MiB
    /// for each thread (<https://sourceware.org/glibc/wiki/MallocInternals>), and a thread has a stack.
    pub fn address_space(&self, threads: usize) -> u64 {
        let thread: u64 = (64 << 20) + (2 << 20);
        // The thread pool, and the threads that read ahead and that wait for Ctrl-C.
        self.total() + thread * (threads as u64 + 1)
    }

    /// The parts by name.
    pub fn parts(&self) -> [(&'static str, u64); 5] {
        [
            ("file", self.file),
            ("kv_cache", self.kv_cache),
            ("buffers", self.buffers),
            ("tokenizer", self.tokenizer),
            ("program", self.program),
        ]
    }
}

fn kv_cache(config: &Config, options: StateOptions) -> usize {
    let positions: usize = (0..config.n_layer).map(|l| options.capacity(config, l)).sum();
    positions * 2 * config.n_head_kv * options.kv.head_bytes(config.head_dim)
}

/// As in `Buffers`: x and delta; q, k, v; the two inputs of matrices, each with a quantized form of at
/// most a byte and a quarter for each value (Q8_0 in panels); attention's spans, of every
/// sequence; logits, and what is picked from them on so many threads.
fn buffers(config: &Config, options: StateOptions, threads: usize, load: Load) -> usize {
    let rows = options.n_ctx.min(options.n_ubatch) + load.sequences() - 1;
    let widest = config.n_ff.max(config.n_embd_q());
    let inputs = config.n_embd + widest;
    let values = 2 * config.n_embd + config.n_embd_q() + 2 * config.n_embd_kv() + inputs;
    let row = values * size_of::<f32>() + inputs * 5 / 4 + widest / ITEM * 16;
    let rope = config.head_dim * size_of::<f32>();
    // For each span of a head: the query, its scores, and the sum of values.
    let spans = options.n_ctx.div_ceil(SPAN) * load.sequences();
    let spans = spans * config.n_head * (2 * config.head_dim + SPAN);
    let (logit_rows, pickers) = match load {
        Load::One => (1, 1),
        // Somebody may ask for a whole prompt's, and how likely a token was before it was picked.
        Load::Engine { parallel } => (LOGIT_ROWS, parallel.min(threads)),
    };
    let logits = config.n_vocab * (logit_rows * size_of::<f32>() + pickers * SAMPLING);
    rows * (row + rope) + spans * size_of::<f32>() + logits
}
