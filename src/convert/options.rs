//! How a conversion works, and who learns how far it is.

use crate::kernels::Isa;

/// How a conversion works.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How many threads work; as many as there are processors if not given. The file's bytes do
    /// not depend on it.
    pub threads: Option<usize>,
    /// The instructions used, on which the bytes do not depend either.
    pub isa: Isa,
    /// Whether a file that is there already may be replaced.
    pub force: bool,
    /// Whether to go on with what an earlier conversion of the same model to the same output and
    /// recipe has left unfinished, if it has left anything.
    pub resume: bool,
    /// Whether every byte of the source is read before and after the conversion, to be sure that it
    /// has not changed in between, nor since an interrupted conversion. Without this, files are
    /// compared by size, time and inode.
    pub verify_source: bool,
}

/// Learns how far a conversion is. Every method does nothing unless it is overridden; `()` learns
/// nothing.
pub trait Progress {
    /// A plan is being made; `values` values are going to be looked at.
    fn measuring(&mut self, _values: u64) {}
    /// Everything has been checked; `bytes` bytes of tensors are going to be read.
    fn started(&mut self, _bytes: u64) {}
    /// The next tensor, by its GGUF name.
    fn tensor(&mut self, _name: &str) {}
    /// That many bytes more have been read from the source and converted, or need not be because
    /// they were found finished; or values measured.
    fn advanced(&mut self, _bytes_in: u64, _bytes_out: u64) {}
    /// All tensors are written; what remains is to wait for the disk.
    fn finished(&mut self) {}
    /// Whether to stop; asked before every chunk.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}
