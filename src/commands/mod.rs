//! One module per command, and what several of them share.

pub mod bench;
pub mod convert;
pub mod demo;
pub mod imatrix;
pub mod inspect;
pub mod perplexity;
pub mod run;
pub mod sandbox;
pub mod serve;
pub mod verify;

mod budget;
mod bundled;
mod check;
mod conversation;
mod generate;
mod importance;
pub mod interrupt;
mod memory;
mod prompt;
mod prompt_cache;
mod shift;
mod size;
mod stats;
mod text;

use std::num::NonZeroUsize;

use clap::Args;
use lapidary::kernels::{Cpu, Isa, KvType, ThreadPoolError};

/// Parses `--kv`.
fn kv_type(name: &str) -> Result<KvType, String> {
    KvType::ALL.into_iter().find(|kv| kv.name() == name).ok_or_else(|| {
        let names = KvType::ALL.map(KvType::name);
        format!("it is one of {}", names.join(", "))
    })
}

/// More threads than any machine has cores for would take minutes to start, and all of its memory.
const MAX_THREADS: usize = 1024;

/// Parses `--threads`.
fn threads(number: &str) -> Result<NonZeroUsize, String> {
    match number.parse() {
        Ok(threads) if usize::from(threads) <= MAX_THREADS => Ok(threads),
        _ => Err(format!("it is a number from 1 to {MAX_THREADS}")),
    }
}

/// What kernels run on.
#[derive(Args, Debug)]
pub struct CpuArgs {
    /// Threads [default: one for each physical core]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// Instructions to use, scalar for the reference [default: the best of this machine]
    #[arg(long, value_name = "SET", value_parser = isa)]
    isa: Option<Isa>,
}

impl CpuArgs {
    /// Starts the threads.
    pub fn cpu(&self) -> Result<Cpu, ThreadPoolError> {
        Cpu::new(self.threads, self.isa.unwrap_or_default())
    }
}

/// Parses `--isa`.
fn isa(name: &str) -> Result<Isa, String> {
    let available = Isa::available();
    available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
        let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
        format!("this machine has {}", names.join(", "))
    })
}
