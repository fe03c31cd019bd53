//! The library: the forward pass and its cache, tokens, chat templates, grammars, the engine, and
//! what is measured with them.

mod backward;
mod cache;
mod chat;
mod checkpoints;
mod drafts;
mod engine;
mod family;
mod gemma3;
mod grammar;
mod hessian;
mod imatrix;
mod isa;
mod logits;
mod long_context;
mod perplexity;
mod saved;
mod together;
mod tokenizer;
mod tokens;
mod transformers;

#[path = "../common/directory.rs"]
mod directory;
#[path = "../common/fixtures.rs"]
mod fixtures;
#[path = "../common/goldens.rs"]
mod goldens;
#[path = "../common/nmse.rs"]
mod nmse;
#[path = "../common/safetensors.rs"]
mod safetensors;
