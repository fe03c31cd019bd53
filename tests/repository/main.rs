//! What the documents and the layout of the repository promise, checked on its text: imports point one
//! way, and what the documents name exists.

mod documents;
mod imports;
mod source;
