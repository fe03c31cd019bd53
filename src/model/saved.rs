//! Sequences that outlive the process: a state as [`session`](lapidary_formats::session) has it.
//!
//! What is saved is what the cache holds, by position, so that it can go on in a context of another
//! length, in other ubatches, with rings or without.

use std::io::{self, Read, Write};

use lapidary_formats::session::{Header, Reader, SessionError, Writer};
use thiserror::Error;

use super::state::{Cache, Sequence};
use super::{Config, State, StateOptions};
use crate::kernels::KvType;

/// What a saved session gives back.
#[derive(Debug)]
pub struct Saved {
    /// Goes on as if it had never been saved.
    pub state: State,
    /// The tokens that it holds.
    pub ids: Vec<u32>,
    /// What was saved with it.
    pub note: String,
}

/// Why a saved session cannot be gone on with. No message names the file, which is not known here.
#[derive(Debug, Error)]
pub enum SavedError {
    /// It cannot be read, or is damaged.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Other weights, or another tokenizer.
    #[error("was saved by another model")]
    Model,
    /// Keys and values of another type.
    #[error("holds keys and values as {found}, not as {}", wanted.name())]
    Kv {
        /// What it says.
        found: String,
        /// What was asked for.
        wanted: KvType,
    },
    /// More positions than there is room for.
    #[error("holds {tokens} tokens, the context takes {n_ctx}")]
    TooLong {
        /// Tokens of the session.
        tokens: usize,
        /// Positions that there may be.
        n_ctx: usize,
    },
    /// It agrees with the model's fingerprint, and not with the model.
    #[error("is no session of this model: its {0}")]
    Shape(&'static str),
}

impl State {
    /// Saves the sequence, whose tokens are `ids`, with a `note`, layer by layer and without a copy
    /// of it. `model` tells models apart: all that the numbers depend on.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Panics
    /// If there are not as many ids as positions.
    pub fn save<W: Write>(&self, model: &str, ids: &[u32], note: &str, out: W) -> io::Result<W> {
        let Sequence { len, options, cache, .. } = &self.sequence;
        assert_eq!(ids.len(), *len, "one token a position");
        let mut row = Vec::new();
        let header = Header {
            model: model.to_owned(),
            kv: options.kv.name().to_owned(),
            note: note.to_owned(),
            row_bytes: cache.first().map_or(0, |cache| cache.k.row_bytes()) as u64,
            ids: ids.to_vec(),
            first: cache.iter().map(|cache| cache.k.positions().start as u64).collect(),
        };
        let mut writer = Writer::new(out, &header)?;
        for rows in cache.iter().flat_map(|cache| [&cache.k, &cache.v]) {
            for pos in rows.positions() {
                row.clear();
                rows.append_row(pos, &mut row);
                writer.write(&row)?;
            }
        }
        writer.finish()
    }

    /// The sequence that was saved in a file of `len` bytes, in what `options` allow. Nothing is
    /// evaluated.
    ///
    /// # Errors
    /// If the file is damaged, of another model or type of cache, or does not fit the context.
    pub fn restore(
        config: &Config,
        options: StateOptions,
        model: &str,
        from: impl Read,
        len: u64,
    ) -> Result<Saved, SavedError> {
        let mut reader = Reader::new(from, len)?;
        let mut state = Self::new(config, options);
        state.check(config, model, reader.header())?;
        for (layer, cache) in state.sequence.cache.iter_mut().enumerate() {
            let positions = reader.header().positions(layer);
            // They were compared with the context, which is counted so too.
            let positions = positions.start as usize..positions.end as usize;
            cache.k.restore(positions.clone(), |row| reader.read(row))?;
            cache.v.restore(positions, |row| reader.read(row))?;
        }
        let Header { ids, note, .. } = reader.finish()?;
        state.sequence.len = ids.len();
        Ok(Saved { state, ids, note })
    }

    /// Whether what comes after `header` can be this state's.
    fn check(&self, config: &Config, model: &str, header: &Header) -> Result<(), SavedError> {
        let StateOptions { n_ctx, kv, .. } = *self.options();
        if header.model != model {
            return Err(SavedError::Model);
        }
        if header.kv != kv.name() {
            return Err(SavedError::Kv { found: header.kv.clone(), wanted: kv });
        }
        let tokens = header.ids.len();
        if tokens > n_ctx {
            return Err(SavedError::TooLong { tokens, n_ctx });
        }
        if header.ids.iter().any(|id| *id as usize >= config.n_vocab) {
            return Err(SavedError::Shape("tokens are not in the vocabulary"));
        }
        let row_bytes = config.n_head_kv * kv.head_bytes(config.head_dim);
        if header.row_bytes != row_bytes as u64 {
            return Err(SavedError::Shape("rows have another size"));
        }
        if header.first.len() != config.n_layer() {
            return Err(SavedError::Shape("layers are not as many"));
        }
        let missing = |(first, cache): (&u64, &Cache)| *first > cache.first_for(tokens) as u64;
        match header.first.iter().zip(&self.sequence.cache).any(missing) {
            true => Err(SavedError::Shape("rows are not all there that the next token sees")),
            false => Ok(()),
        }
    }
}
