//! Conversion, by the library and by the command: the types that are chosen, the bytes that are
//! written, and what is left behind by a conversion that fails or is stopped.

mod budget;
mod calibrate;
mod changing;
mod digests;
mod errors;
mod foreign;
mod header;
mod overwrite;
mod place;
mod recipes;
mod resume;
mod second_order;
mod splits;
mod statistics;
mod stop;
mod values;
mod verify;

#[path = "../common/blocks.rs"]
mod blocks;
#[path = "../common/directory.rs"]
mod directory;
#[path = "../common/fixtures.rs"]
mod fixtures;
#[path = "../common/nmse.rs"]
mod nmse;
