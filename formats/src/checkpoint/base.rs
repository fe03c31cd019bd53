//! What both `tokenizer.model` and `tokenizer.json` provide, before the lists of added tokens are
//! applied.

use crate::vocab::{Piece, PieceKind};

/// The contents of a tokenizer's own file.
pub(super) struct Base {
    pub pieces: Vec<Piece<'static>>,
    pub special: SpecialIds,
}

/// Special ids that a tokenizer's own file gives.
#[derive(Default)]
pub(super) struct SpecialIds {
    pub unk: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// The unused piece for an embedding row without a token, as llama.cpp's converter writes it.
pub(super) fn filler(id: usize) -> Piece<'static> {
    Piece { text: format!("[PAD{id}]").into(), score: -10_000.0, kind: PieceKind::Unused }
}
