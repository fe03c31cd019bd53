//! Gemma 2: blueprint ([`Config`]), what is read ([`Weights`]), what is written ([`State`]: a
//! [`Sequence`] and a [`Workspace`]), and the forward pass over them ([`Model`]).

mod batch;
mod config;
mod error;
mod forward;
mod memory;
mod observer;
mod pick;
mod read_ahead;
mod saved;
mod source;
mod state;
mod tensors;
mod weights;

pub use batch::BatchEntry;
pub use config::{Config, ConfigError};
pub use error::ModelError;
pub use forward::{logit_blocks, Model, Rows};
pub use memory::{Load, Memory};
pub use observer::{Observer, Readers};
pub use pick::MemoryRequest;
pub use saved::{Saved, SavedError};
pub use source::{Source, SourceError};
pub use state::{Sequence, State, StateOptions, Workspace, N_UBATCH};
pub use tensors::{block_name, tensors, Role, TensorSpec, OUTPUT, OUTPUT_NORM, TOKEN_EMBD};
pub use weights::{Layer, Weights};
