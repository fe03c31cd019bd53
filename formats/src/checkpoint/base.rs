//! What `tokenizer.model` and `tokenizer.json` both give, before the lists of added tokens are laid
//! over it.

use serde::Deserialize;

use crate::vocab::{Piece, PieceKind};

/// What a tokenizer's own file says.
pub(super) struct Base {
    pub pieces: Vec<Piece<'static>>,
    pub special: SpecialIds,
}

/// Ids that a tokenizer's own file names.
#[derive(Default)]
pub(super) struct SpecialIds {
    pub unk: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// A token that was added to a trained tokenizer, or whose handling was changed.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    /// Present in `tokenizer.json`; the key of the map in `tokenizer_config.json`.
    #[serde(default)]
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
}

/// The unused piece for an embedding row that no token has, as llama.cpp's converter writes it.
pub(super) fn filler(id: usize) -> Piece<'static> {
    Piece { text: format!("[PAD{id}]").into(), score: -10_000.0, kind: PieceKind::Unused }
}
