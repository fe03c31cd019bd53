//! Transport: what is the same whichever dialect a client speaks.

pub mod app;
pub mod body;
pub mod connections;
pub mod dialect;
pub mod error;
pub mod fields;
pub mod guard;
pub mod json;
pub mod log;
mod page;
pub mod router;
pub mod sse;
mod status;
