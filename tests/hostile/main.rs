//! Files of strangers: whatever is in them, an answer or an error that names the place, and never a
//! panic, nor more memory than a small multiple of the file.
//!
//! What is wrong with a container's bytes has its tests beside the readers
//! (`formats/tests/gguf/malformed.rs`, `formats/tests/checkpoint/`), what is wrong with templates in
//! `tests/library/chat.rs`. Here is the rest: models that contradict themselves, files made to take
//! memory, and a hundred thousand mutations. The allocator counts for every test of this binary.

mod allocations;
mod allocator;
mod damage;
mod file;
mod model;
mod mutations;
mod random;
mod raw;
mod small;
mod templates;

#[path = "../common/blocks.rs"]
mod blocks;
