//! Predicts the memory of a run from the model's configuration, before anything is allocated; and
//! if memory is short, chooses the options of the sequences (`request`).

mod request;

pub use request::MemoryRequest;

use crate::grammar::Grammars;
use crate::model::{tensors, Config, Role, Sequence, StateOptions, Workspace, LOGIT_ROWS};
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

/// How many sequences there are at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One sequence.
    One,
    /// As many as the slots of an [engine](crate::engine).
    Engine {
        /// Number of slots, at least one.
        parallel: usize,
        /// Bytes that the requests of its clients may take together.
        requests: usize,
    },
}

impl Load {
    fn sequences(self) -> usize {
        match self {
            Load::One => 1,
            Load::Engine { parallel, .. } => parallel,
        }
    }
}

/// What drafting adds to a run.
#[derive(Clone, Copy, Debug)]
pub struct Drafting<'c> {
    /// Most tokens of a draft.
    pub tokens: usize,
    /// The draft model, if there is one: its configuration, and the size of its file in bytes.
    pub model: Option<(&'c Config, u64)>,
}

/// Most resident memory while text is generated, in bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The mapped files: weights, texts of the SentencePiece pieces and metadata.
    pub file: u64,
    /// The KV cache, with the context of every sequence full.
    pub kv_cache: u64,
    /// The activations of the largest pass, which is one ubatch of a prompt and one token of every
    /// other sequence; and the logits that are computed together.
    pub buffers: u64,
    /// The tables of the tokenizer and of the constraints for JSON answers.
    pub tokenizer: u64,
    /// The program itself, the working memory of its threads, and the requests of an engine's clients.
    pub program: u64,
}

/// The program's code and data, the parsed header, and what a terminal or a progress bar needs.
/// Measured.
const PROGRAM: usize = 12 << 20;

/// The touched part of a thread's stack, and the rows of weights that it unpacks. Measured.
const THREAD: usize = 3 << 19;

impl Memory {
    /// The memory for a file of `file` bytes, sequences whose contexts are full, and this many
    /// threads.
    pub fn new(
        config: &Config,
        file: u64,
        options: StateOptions,
        threads: usize,
        load: Load,
    ) -> Self {
        let (grammars, requests) = match load {
            Load::One => (0, 0),
            Load::Engine { requests, .. } => {
                (Grammars::predicted_heap_bytes(config.n_vocab), requests)
            }
        };
        let tokenizer = Tokenizer::predicted_heap_bytes(config.n_vocab) + grammars;
        Self {
            file,
            kv_cache: (load.sequences() * Sequence::bytes(config, options)) as u64,
            buffers: buffers(config, options, threads, load) as u64,
            tokenizer: tokenizer as u64,
            program: (PROGRAM + norms(config) + threads * THREAD + requests) as u64,
        }
    }

    /// The same with drafts: a second model with sequences of its own, and rows for drafted tokens
    /// in the passes of the first. The draft model reads at most a ubatch at a time, or two tokens
    /// of each sequence.
    pub fn with_drafting(
        mut self,
        config: &Config,
        options: StateOptions,
        load: Load,
        drafting: Drafting<'_>,
    ) -> Self {
        let sequences = load.sequences();
        // What an engine computes at a time is counted already.
        let logit_rows = if load == Load::One { drafting.tokens } else { 0 };
        // One sequence reads a ubatch or decodes, and a draft is shorter than a ubatch.
        let rows = Workspace::bytes(config, options, (sequences - 1) * drafting.tokens, 0);
        self.buffers += (rows + logit_rows * config.n_vocab * size_of::<f32>()) as u64;
        if let Some((draft, file)) = drafting.model {
            let rows = options.n_ctx.min(options.n_ubatch) + 2 * sequences;
            let logits = sequences.min(LOGIT_ROWS) * draft.n_vocab * size_of::<f32>();
            self.file += file;
            self.kv_cache += (sequences * Sequence::bytes(draft, options)) as u64;
            self.buffers += (Workspace::bytes(draft, options, rows, sequences) + logits) as u64;
            self.program += norms(draft) as u64;
        }
        self
    }

    /// The sum of all parts.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The address space that is needed, in bytes. An allocator reserves more than it uses, glibc's
    /// up to 64 MiB per thread (<https://sourceware.org/glibc/wiki/MallocInternals>), and each
    /// thread has a stack.
    pub fn address_space(&self, threads: usize) -> u64 {
        let thread: u64 = (64 << 20) + (2 << 20);
        // One more than the thread pool, which includes the main thread: one thread reads ahead and
        // one waits for Ctrl-C.
        self.total() + thread * (threads as u64 + 1)
    }

    /// The names and sizes of the parts.
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

/// Bytes of the norms, which are copied from the file.
fn norms(config: &Config) -> usize {
    let norms = tensors(config, false).into_iter().filter(|spec| spec.role() == Role::Norm);
    norms.map(|spec| spec.values() * size_of::<f32>()).sum()
}

/// The buffers of a pass, the logits that are computed together, and the samplers on this many
/// threads.
fn buffers(config: &Config, options: StateOptions, threads: usize, load: Load) -> usize {
    let sequences = load.sequences();
    let rows = options.n_ctx.min(options.n_ubatch) + sequences - 1;
    let (logit_rows, samplers) = match load {
        Load::One => (1, 1),
        // A request may ask for the logits of its whole prompt.
        Load::Engine { parallel, .. } => (LOGIT_ROWS, parallel.min(threads)),
    };
    let logits = logit_rows * config.n_vocab * size_of::<f32>();
    let sampling = samplers * Sampler::predicted_heap_bytes(config.n_vocab);
    Workspace::bytes(config, options, rows, sequences) + logits + sampling
}
