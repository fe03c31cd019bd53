//! `tokenizer.model`: the fields that are needed of SentencePiece's protobuf
//! ([sentencepiece_model.proto](https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto)).

use std::path::Path;

use prost::Message;

use super::base::{Base, SpecialIds};
use super::{read, CheckpointError};
use crate::vocab::{Piece, PieceKind, VocabError};

/// [`ModelProto`] without the pieces' contents. Counting pieces with it takes no memory for them,
/// however many a file declares.
#[derive(Message)]
struct Count {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Empty>,
}

#[derive(Message)]
struct Empty {}

#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
}

#[derive(Message)]
struct SentencePiece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    /// [`PieceKind`]'s number; absent means normal.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Message)]
struct TrainerSpec {
    /// 1 unigram, 2 BPE, 3 word, 4 character; absent means unigram.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    /// The proto's defaults are 0, 1, 2 and -1; -1 means that there is no such piece.
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pad_id: Option<i32>,
}

/// Reads `tokenizer.model`, which may have at most `vocab_size` pieces.
pub(super) fn read_model(path: &Path, vocab_size: usize) -> Result<Base, CheckpointError> {
    let file = read(path)?;
    let proto_error = |error| CheckpointError::SentencePiece { path: path.to_owned(), error };
    let vocab_error = |cause| CheckpointError::Vocab { path: path.to_owned(), cause };
    let count = Count::decode(file.bytes()).map_err(proto_error)?.pieces.len();
    if count > vocab_size {
        return Err(vocab_error(VocabError::too_many_pieces(count, vocab_size)));
    }
    let model = ModelProto::decode(file.bytes()).map_err(proto_error)?;
    convert(model).map_err(vocab_error)
}

fn convert(model: ModelProto) -> Result<Base, VocabError> {
    let spec = model.trainer_spec.unwrap_or_default();
    let model_type = match spec.model_type.unwrap_or(1) {
        2 => None,
        1 => Some("unigram".to_owned()),
        other => Some(format!("number {other}")),
    };
    if let Some(model_type) = model_type {
        return Err(VocabError::Model(model_type));
    }
    let mut pieces = Vec::with_capacity(model.pieces.len());
    for (id, piece) in model.pieces.into_iter().enumerate() {
        let number = piece.kind.unwrap_or(PieceKind::Normal as i32) as u32;
        let kind = PieceKind::from_number(number).ok_or(VocabError::Kind { id, kind: number })?;
        let (text, score) = (piece.piece.unwrap_or_default(), piece.score.unwrap_or_default());
        pieces.push(Piece { text: text.into(), score, kind });
    }
    let id = |id: Option<i32>, default: i32| u32::try_from(id.unwrap_or(default)).ok();
    let special = SpecialIds {
        unk: id(spec.unk_id, 0),
        bos: id(spec.bos_id, 1),
        eos: id(spec.eos_id, 2),
        pad: id(spec.pad_id, -1),
    };
    Ok(Base { pieces, special })
}
