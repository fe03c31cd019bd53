//! The binary as a shell sees it. `convert` and `serve` have test binaries of their own.

mod bench;
mod cli;
mod conversation;
mod drafts;
mod exit_codes;
mod inspect;
mod memory;
mod messages;
mod outputs;
mod prompt_cache;
mod run;
mod signals;
mod terminal;
mod texts;

#[path = "../common/directory.rs"]
mod directory;
#[path = "../common/fixtures.rs"]
mod fixtures;
#[path = "../common/goldens.rs"]
mod goldens;
