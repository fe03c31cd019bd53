//! Whether two models have the same vocabulary, so that one can draft for the other.

use lapidary_formats::vocab::Vocab;
use thiserror::Error;

/// The first difference of two vocabularies.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VocabularyDifference {
    /// Their lengths.
    #[error("the model has {model} tokens, the draft model {draft}")]
    Length {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the draft model.
        draft: usize,
    },
    /// The text of a token.
    #[error("token {id} is {model:?} in the model, but {draft:?} in the draft model")]
    Piece {
        /// The token.
        id: u32,
        /// Its text in the model.
        model: String,
        /// Its text in the draft model.
        draft: String,
    },
    /// The id of a special token.
    #[error("{what} is {} in the model, but {} in the draft model", number(model), number(draft))]
    Special {
        /// Which special token.
        what: &'static str,
        /// Its id in the model.
        model: Option<u32>,
        /// Its id in the draft model.
        draft: Option<u32>,
    },
}

fn number(id: &Option<u32>) -> String {
    id.map_or("no token".to_owned(), |id| format!("token {id}"))
}

/// How many more tokens one of the vocabularies may have at its end. Gemma 3's models that see have 64
/// that the small ones lack, for images and as padding. llama.cpp allows as many.
const MAX_MORE: usize = 128;

/// Compares what ids stand for, of those that both have. Scores and kinds, which only matter when
/// text is split, may differ, and so may the end of a turn if one of the vocabularies names none.
///
/// # Errors
/// The first difference.
pub fn compare_vocabularies(model: &Vocab, draft: &Vocab) -> Result<(), VocabularyDifference> {
    let (length, draft_length) = (model.pieces.len(), draft.pieces.len());
    if length.abs_diff(draft_length) > MAX_MORE {
        return Err(VocabularyDifference::Length { model: length, draft: draft_length });
    }
    let differs = |id: &u32| model.pieces.text_bytes(*id) != draft.pieces.text_bytes(*id);
    if let Some(id) = (0..length.min(draft_length) as u32).find(differs) {
        let [model, draft] = [model, draft].map(|vocab| vocab.pieces.text(id).to_owned());
        return Err(VocabularyDifference::Piece { id, model, draft });
    }
    let either_names_none = model.eot.is_none() || draft.eot.is_none();
    let special = [
        ("the beginning of a text", model.bos, draft.bos, true),
        ("the end of a text", model.eos, draft.eos, true),
        ("the end of a turn", model.eot, draft.eot, !either_names_none),
    ];
    match special.into_iter().find(|(_, model, draft, counts)| *counts && model != draft) {
        Some((what, model, draft, _)) => Err(VocabularyDifference::Special { what, model, draft }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use lapidary_formats::vocab::{Piece, PieceKind};

    use super::*;

    fn vocab(texts: &[&str]) -> Vocab {
        let piece = |(i, text): (usize, &&str)| Piece {
            text: text.to_string().into(),
            score: i as f32,
            kind: PieceKind::Normal,
        };
        Vocab {
            pieces: texts.iter().enumerate().map(piece).collect(),
            bos: Some(0),
            eos: Some(1),
            eot: Some(2),
            unk: None,
            pad: None,
            add_bos: true,
            add_space_prefix: false,
            add_eos: false,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn what_ids_stand_for_must_be_equal() {
        let model = vocab(&["a", "b", "c"]);
        let compare =
            |draft: &Vocab| compare_vocabularies(&model, draft).map_err(|e| e.to_string());
        assert_eq!(compare(&model.clone()), Ok(()));
        assert_eq!(compare(&Vocab { eot: None, unk: Some(2), ..model.clone() }), Ok(()));
        let words = |draft: &Vocab| compare(draft).unwrap_err();
        assert_eq!(compare(&vocab(&["a", "b", "c", "d"])), Ok(()));
        assert_eq!(compare(&vocab(&["a", "b"])), Ok(()));
        let long: Vec<&str> = ["a", "b", "c"].into_iter().chain(["d"; MAX_MORE + 1]).collect();
        assert_eq!(words(&vocab(&long)), "the model has 3 tokens, the draft model 132");
        assert_eq!(
            words(&vocab(&["a", "c", "b"])),
            "token 1 is \"b\" in the model, but \"c\" in the draft model"
        );
        assert_eq!(
            words(&Vocab { eos: None, ..model.clone() }),
            "the end of a text is token 1 in the model, but no token in the draft model"
        );
        assert_eq!(
            words(&Vocab { eot: Some(1), ..model.clone() }),
            "the end of a turn is token 2 in the model, but token 1 in the draft model"
        );
    }
}
