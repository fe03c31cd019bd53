//! Saves and restores sequences, in the format of [`session`](lapidary_formats::session).
//!
//! The contents of the cache are saved by position. A restored sequence can therefore continue with
//! another length of the context, other ubatches, and with or without rings.

use std::io::{self, Read, Write};

use lapidary_formats::session::{Header, Reader, SessionError, Writer};
use thiserror::Error;

use super::state::{Cache, Sequence};
use super::{Config, State, StateOptions};
use crate::kernels::KvType;

/// A restored session.
#[derive(Debug)]
pub struct Saved {
    /// The state, which continues as if it had never been saved.
    pub state: State,
    /// The tokens that the state holds.
    pub ids: Vec<u32>,
    /// The note that was saved with it.
    pub note: String,
}

/// Why a saved session cannot be restored. No message names the file, which is not known here.
#[derive(Debug, Error)]
pub enum SavedError {
    /// The file cannot be read, or is damaged.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session was saved with other weights or another tokenizer.
    #[error("was saved by another model")]
    Model,
    /// The session has another type of KV cache.
    #[error("was saved with a KV cache of type {found}, not {}", expected.name())]
    Kv {
        /// The type in the file.
        found: String,
        /// The type that was asked for.
        expected: KvType,
    },
    /// The session does not fit the context.
    #[error("has {tokens} tokens, but the context holds {n_ctx}")]
    TooLong {
        /// Tokens of the session.
        tokens: usize,
        /// Positions of the context.
        n_ctx: usize,
    },
    /// The fingerprint is that of the model, but the contents do not fit the model.
    #[error("is not a session of this model: {0}")]
    Shape(&'static str),
}

impl State {
    /// Saves the sequence, whose tokens are `ids`, with a `note`. It is written layer by layer and
    /// is not copied in memory. `model` is the model's fingerprint, which covers everything that
    /// the values depend on.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Panics
    /// If the number of ids is not the number of positions.
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

    /// Restores a sequence from a file of `len` bytes, without evaluating anything. The sequence
    /// gets these options.
    ///
    /// # Errors
    /// If the file is damaged, was saved by another model or with another type of cache, or does
    /// not fit the context.
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
            // The positions fit in a `usize`, because they were compared with the context.
            let positions = positions.start as usize..positions.end as usize;
            cache.k.restore(positions.clone(), |row| reader.read(row))?;
            cache.v.restore(positions, |row| reader.read(row))?;
        }
        let Header { ids, note, .. } = reader.finish()?;
        state.sequence.len = ids.len();
        Ok(Saved { state, ids, note })
    }

    /// Checks that the contents described by `header` fit this state.
    fn check(&self, config: &Config, model: &str, header: &Header) -> Result<(), SavedError> {
        let StateOptions { n_ctx, kv, .. } = *self.options();
        if header.model != model {
            return Err(SavedError::Model);
        }
        if header.kv != kv.name() {
            return Err(SavedError::Kv { found: header.kv.clone(), expected: kv });
        }
        let tokens = header.ids.len();
        if tokens > n_ctx {
            return Err(SavedError::TooLong { tokens, n_ctx });
        }
        if header.ids.iter().any(|id| *id as usize >= config.n_vocab) {
            return Err(SavedError::Shape("it has tokens outside the vocabulary"));
        }
        let row_bytes = config.n_head_kv * kv.head_bytes(config.head_dim);
        if header.row_bytes != row_bytes as u64 {
            return Err(SavedError::Shape("its rows have another size"));
        }
        if header.first.len() != config.n_layer() {
            return Err(SavedError::Shape("it has another number of layers"));
        }
        let missing = |(first, cache): (&u64, &Cache)| *first > cache.first_for(tokens) as u64;
        match header.first.iter().zip(&self.sequence.cache).any(missing) {
            true => Err(SavedError::Shape("it lacks rows that the next token attends to")),
            false => Ok(()),
        }
    }
}
