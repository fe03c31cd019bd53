//! Tokenizers of strange vocabularies on strange texts: up to the first zero byte there are pieces, a
//! line each; then a byte for their kind, and the text.
#![no_main]

use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};
use lapidary_formats::vocab::{Piece, PieceKind, Vocab};
use lapidary_fuzz::small;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == 0) else { return };
    let (Ok(lines), Some((kind, text))) =
        (std::str::from_utf8(&bytes[..end]), bytes[end + 1..].split_first())
    else {
        return;
    };
    let strange = PieceKind::from_number(u32::from(kind % 7)).unwrap_or(PieceKind::Normal);
    let base = small::vocab();
    let more = lines.split('\n').enumerate().map(|(i, line)| {
        let kind = if i % 2 == 0 { strange } else { PieceKind::Normal };
        Piece { text: line.into(), score: -(i as f32), kind }
    });
    let pieces = base.pieces.iter().chain(more).collect();
    let Ok(tokenizer) = Tokenizer::new(Vocab { pieces, ..base.clone() }) else { return };
    let ids = tokenizer.encode_bytes(text, Special::Plain).expect("every byte has a piece");
    let back = tokenizer.decode_bytes(&ids, ControlPieces::Show);
    // A literal ▁ comes back as a space.
    let spaces = |bytes: &[u8]| {
        let text: String =
            bytes.utf8_chunks().map(|chunk| chunk.valid().replace('▁', " ")).collect();
        text
    };
    assert_eq!(spaces(&back), spaces(text));
    tokenizer.encode(&String::from_utf8_lossy(text), Special::Trusted);
    let mut stream = tokenizer.stream(ControlPieces::Omit);
    for id in text.chunks(2).map(|pair| pair.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)))
    {
        stream.push(id);
    }
    stream.finish();
});
