//! `lapidary serve`, as clients see it: a program of its own, asked over TCP.
#![cfg(unix)]

mod capacity;
mod chat;
mod client;
mod completions;
mod drafts;
mod formats;
mod guard;
mod ollama;
mod running;
mod status;
