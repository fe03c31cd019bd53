//! Models of the Gemma family: the architectures and what their layers do ([`Architecture`],
//! [`LayerSpec`]), sizes and constants ([`Config`]), the files of a model ([`Source`]), the weights
//! ([`Weights`]), the mutable state ([`State`]: a [`Sequence`] and a [`Workspace`]), and the
//! forward and the backward pass ([`Model`]).

mod architecture;
mod backward;
mod batch;
mod config;
mod error;
mod fingerprint;
mod forward;
mod layerwise;
mod observer;
mod read_ahead;
mod rows;
mod saved;
mod source;
mod state;
mod tensors;
mod weights;
mod wrong_path;

pub use architecture::{Architecture, LayerSpec};
pub use backward::GradientObserver;
pub use batch::BatchEntry;
pub use config::{Config, ConfigError};
pub use error::ModelError;
pub use fingerprint::Extent;
pub use forward::{logit_blocks, Model, Rows};
pub use layerwise::Stream;
pub use observer::{Observer, Readers};
pub use rows::{RowSource, TensorRows};
pub use saved::{Saved, SavedError};
pub use source::{Note, Source, SourceError, STOP_IDS_KEY};
pub use state::{Sequence, State, StateOptions, Workspace, LOGIT_ROWS, N_UBATCH};
pub use tensors::{tensors, Role, TensorKind, TensorSpec};
pub use weights::{Layer, Weights};
pub use wrong_path::WrongPath;
