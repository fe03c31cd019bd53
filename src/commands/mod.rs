//! One module per command, and modules that several commands share.

pub mod bench;
pub mod convert;
pub mod demo;
pub mod hessian;
pub mod imatrix;
pub mod inspect;
pub mod perplexity;
pub mod run;
pub mod sandbox;
pub mod serve;
pub mod verify;

mod answer;
mod budget;
mod bundled;
mod calibration;
mod check;
mod conversation;
mod draft;
mod importance;
pub mod interrupt;
mod json;
mod memory;
mod new_file;
mod options;
mod prompt;
mod prompt_cache;
mod sampling;
mod size;
mod stats;
mod template;
pub mod terminal;
mod text;
