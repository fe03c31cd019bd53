//! The readers and writers of files, and the arithmetic on blocks.

mod checkpoint;
mod gguf;
mod imatrix;
mod quant;
mod second_order;
mod session;

#[path = "../../tests/common/blocks.rs"]
mod blocks;
