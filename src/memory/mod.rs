//! What a run will hold in memory, computed from the model's configuration before anything is
//! allocated; and, where memory is short, what a sequence is given (`request`).

mod request;

pub use request::MemoryRequest;

use crate::grammar::Grammars;
use crate::model::{tensors, Config, Role, Sequence, StateOptions, Workspace, LOGIT_ROWS};
use crate::sampling::Sampler;
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

impl Memory {
    /// For a file of `file` bytes, and sequences that fill what each may take, on `threads`.
    pub fn new(
        config: &Config,
        file: u64,
        options: StateOptions,
        threads: usize,
        load: Load,
    ) -> Self {
        let norms = tensors(config, false).into_iter().filter(|spec| spec.role() == Role::Norm);
        let norms = norms.map(|spec| spec.values() * size_of::<f32>()).sum::<usize>();
        let grammars = match load {
            Load::One => 0,
            Load::Engine { .. } => Grammars::predicted_heap_bytes(config.n_vocab),
        };
        let tokenizer = Tokenizer::predicted_heap_bytes(config.n_vocab) + grammars;
        Self {
            file,
            kv_cache: (load.sequences() * Sequence::bytes(config, options)) as u64,
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

/// What a pass works in, the logits of the positions that are wanted together, and what is picked from
/// them on so many threads.
fn buffers(config: &Config, options: StateOptions, threads: usize, load: Load) -> usize {
    let sequences = load.sequences();
    let rows = options.n_ctx.min(options.n_ubatch) + sequences - 1;
    let (logit_rows, samplers) = match load {
        Load::One => (1, 1),
        // Somebody may ask for those of a whole prompt.
        Load::Engine { parallel } => (LOGIT_ROWS, parallel.min(threads)),
    };
    let logits = logit_rows * config.n_vocab * size_of::<f32>();
    let sampling = samplers * Sampler::predicted_heap_bytes(config.n_vocab);
    Workspace::bytes(config, options, rows, sequences) + logits + sampling
}
