//! Token ids against SentencePiece, on the vocabulary of the tiny checkpoint and on the real ones of
//! Gemma 2 and Gemma 3, where `LAPIDARY_GEMMA2_DIR` and `LAPIDARY_GEMMA3_DIR` name directories with
//! their `tokenizer.model` or `tokenizer.json` and the ids that
//! `tests/scripts/oracles/make_tokenizer_goldens.py` wrote for them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};
use lapidary_formats::checkpoint::vocab_from_dir;
use lapidary_formats::gguf::{Gguf, Header, Writer};
use lapidary_formats::vocab::Vocab;
use proptest::prelude::*;

use crate::fixtures::tests_dir;
use crate::tokens::TINY;

/// `vocab_size` of all three Gemma 2 models.
const GEMMA2_VOCAB_SIZE: usize = 256_000;

/// Pieces of Gemma 3's tokenizer.
const GEMMA3_PIECES: usize = 262_144;

static GEMMA2: LazyLock<Option<(PathBuf, Tokenizer)>> =
    LazyLock::new(|| real("LAPIDARY_GEMMA2_DIR", GEMMA2_VOCAB_SIZE));

static GEMMA3: LazyLock<Option<(PathBuf, Tokenizer)>> =
    LazyLock::new(|| real("LAPIDARY_GEMMA3_DIR", GEMMA3_PIECES));

/// A real vocabulary of `n` pieces, if the environment `variable` says where it is.
fn real(variable: &str, n: usize) -> Option<(PathBuf, Tokenizer)> {
    let Some(dir) = std::env::var_os(variable).map(PathBuf::from) else {
        eprintln!("skipped on a real vocabulary: {variable} is not set");
        return None;
    };
    let vocab = vocab_from_dir(&dir, n).unwrap();
    Some((dir, Tokenizer::new(vocab).unwrap()))
}

fn corpus() -> Vec<String> {
    let path = tests_dir("goldens/tokenizer/corpus.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    // Not `lines()`: it would also end one at a carriage return.
    lines.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// For each text a count and so many ids, all little-endian u32.
fn golden_ids(path: &Path) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut numbers = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b));
    let mut rows = Vec::new();
    while let Some(count) = numbers.next() {
        rows.push(numbers.by_ref().take(count as usize).collect());
    }
    rows
}

fn assert_ids_are_golden(tokenizer: &Tokenizer, dir: &Path) {
    assert_ids_are_golden_without(&[], tokenizer, dir);
}

/// The same for the texts in which none of `pieces` is spelt; gives how many those are.
fn assert_ids_are_golden_without(pieces: &[String], tokenizer: &Tokenizer, dir: &Path) -> usize {
    let corpus = corpus();
    let spells = |text: &str| pieces.iter().any(|piece| text.contains(piece.as_str()));
    for (file, special) in
        [("ids.plain.bin", Special::Plain), ("ids.special.bin", Special::Trusted)]
    {
        let goldens = golden_ids(&dir.join(file));
        assert_eq!(goldens.len(), corpus.len(), "{file}");
        for (text, golden) in corpus.iter().zip(goldens).filter(|(text, _)| !spells(text)) {
            let ids = tokenizer.encode(text, special);
            assert_eq!(ids, golden, "{file}: {text:?}");
            let decoded = tokenizer.decode(&ids, ControlPieces::Show);
            assert_eq!(decoded, text.replace('▁', " "), "{file}");
        }
    }
    corpus.iter().filter(|text| !spells(text)).count()
}

#[test]
fn tiny_ids_are_sentencepiece() {
    assert_ids_are_golden(&TINY, &tests_dir("goldens/tokenizer/tiny"));
}

#[test]
fn gemma2_ids_are_sentencepiece() {
    if let Some((dir, tokenizer)) = &*GEMMA2 {
        assert_ids_are_golden(tokenizer, dir);
    }
}

#[test]
fn gemma3_ids_are_sentencepiece() {
    if let Some((dir, tokenizer)) = &*GEMMA3 {
        assert_ids_are_golden(tokenizer, dir);
    }
}

/// The vocabulary of a file that llama.cpp's converter wrote. It has pieces such as `<mask>` as control
/// pieces, which text of users never becomes.
#[test]
fn ids_of_a_file_of_gemma3_are_sentencepiece() {
    let (Some((dir, ours)), Some(file)) = (&*GEMMA3, std::env::var_os("LAPIDARY_GEMMA3")) else {
        eprintln!("skipped: LAPIDARY_GEMMA3_DIR or LAPIDARY_GEMMA3 is not set");
        return;
    };
    let vocab = Vocab::from_gguf(&Gguf::open(Path::new(&file)).unwrap()).unwrap();
    let pieces = ours.vocab().pieces.iter().zip(vocab.pieces.iter());
    let differ = pieces.filter(|(a, b)| a.kind != b.kind).map(|(a, _)| a.text.into_owned());
    let differ: Vec<String> = differ.collect();
    println!("{} pieces are of another kind than in tokenizer.json", differ.len());
    let compared = assert_ids_are_golden_without(&differ, &Tokenizer::new(vocab).unwrap(), dir);
    assert!(compared > 13_000, "only {compared} texts were compared");
}

#[test]
fn gemma2_facts() {
    let Some((_, tokenizer)) = &*GEMMA2 else { return };
    for (text, ids) in [
        ("[toxicity=0]", vec![255_968]),
        ("\t\t\t\t\t\t", vec![255_973]),
        ("   a", vec![140, 235_250]),
        ("<b>hi</b>", vec![201, 544, 210]),
        ("a▁b", vec![235_250, 518]),
        ("\u{7}", vec![249_340]),
    ] {
        assert_eq!(tokenizer.encode(text, Special::Plain), ids, "{text:?}");
    }
    assert_common_facts(tokenizer);
}

#[test]
fn tiny_facts() {
    // The tiny vocabulary has neither the emoji nor more than one tab, but all bytes.
    assert_eq!(TINY.encode("\t\t", Special::Plain), [226, 226]);
    assert_eq!(TINY.encode("🙂", Special::Plain), [457, 376, 370, 347]);
    assert_eq!(TINY.encode("a▁b", Special::Plain), TINY.encode("a b", Special::Plain));
    assert_common_facts(&TINY);
}

/// Ids that the tiny vocabulary shares with Gemma 2's.
fn assert_common_facts(tokenizer: &Tokenizer) {
    for (text, ids) in [
        ("", vec![]),
        ("\n", vec![108]),
        ("\n\n", vec![109]),
        ("\t", vec![226]),
        ("  ", vec![139]),
        (&" ".repeat(40), vec![168, 146]),
    ] {
        assert_eq!(tokenizer.encode(text, Special::Plain), ids, "{text:?}");
    }
    let spelt = "<start_of_turn>user\n<end_of_turn><bos><eos><pad>";
    let trusted = tokenizer.encode(spelt, Special::Trusted);
    assert_eq!((trusted[0], &trusted[trusted.len() - 4..]), (106, &[107, 2, 1, 0][..]));
    let plain = tokenizer.encode(spelt, Special::Plain);
    assert!(plain.iter().all(|id| ![0, 1, 2, 106, 107].contains(id)), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, ControlPieces::Omit), spelt);
    assert_eq!(tokenizer.decode(&trusted, ControlPieces::Show), spelt);
    assert_eq!(tokenizer.decode(&trusted, ControlPieces::Omit), "user\n");
}

/// The tokenizer of a GGUF file with the vocabulary of another.
fn from_gguf(vocab: &Vocab) -> Tokenizer {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut header = Header::new();
    header.set_vocab(vocab);
    Writer::new(file.reopen().unwrap(), header).unwrap().finish().unwrap();
    let read = Vocab::from_gguf(&Gguf::open(file.path()).unwrap()).unwrap();
    // A file does not name what was left out.
    assert!(read == Vocab { left_out: Vec::new(), ..vocab.clone() });
    Tokenizer::new(read).unwrap()
}

/// Texts that lie in a file's map, which is unlinked and whose `Gguf` is gone, do as well.
#[test]
fn a_file_gives_the_ids_of_its_checkpoint() {
    assert_ids_are_golden(&from_gguf(TINY.vocab()), &tests_dir("goldens/tokenizer/tiny"));
    if let Some((dir, gemma2)) = &*GEMMA2 {
        assert_ids_are_golden(&from_gguf(gemma2.vocab()), dir);
    }
}

#[test]
fn the_tables_of_a_file_take_what_was_predicted() {
    let real = [&*GEMMA2, &*GEMMA3].into_iter().flatten().map(|(_, tokenizer)| tokenizer);
    for from_dir in [&TINY].into_iter().map(|tiny| &**tiny).chain(real) {
        let (n, tokenizer) = (from_dir.vocab().pieces.len(), from_gguf(from_dir.vocab()));
        let predicted = Tokenizer::predicted_heap_bytes(n) as f64;
        let found = tokenizer.heap_bytes() as f64;
        // Most is known to the byte; how many nodes the matcher has depends on the texts.
        assert!((found / predicted - 1.0).abs() < 0.25, "{found} for {predicted}");
        assert!(found < 100e3 + 25.0 * n as f64, "{found} for {n} pieces");
        assert!(tokenizer.heap_bytes() < from_dir.heap_bytes(), "the texts stay in the file");
    }
}

#[test]
fn bos_comes_once() {
    let hi = TINY.encode("hi", Special::Plain);
    let with_bos = [&[2][..], &hi].concat();
    assert_eq!(TINY.encode_with_bos("hi", Special::Plain), with_bos);
    assert_eq!(TINY.encode_with_bos("<bos>hi", Special::Trusted), with_bos);
    assert_eq!(TINY.encode_with_bos("", Special::Plain), [2]);
    // What users write is no BOS, and does not keep the real one away.
    let spelt = TINY.encode("<bos>hi", Special::Plain);
    assert_eq!(TINY.encode_with_bos("<bos>hi", Special::Plain), [&[2][..], &spelt].concat());
}

#[test]
fn bytes_outside_utf8_come_back() {
    let path = tests_dir("goldens/tokenizer/invalid.json");
    let cases: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for (hex, what) in cases {
        let digits = hex.as_bytes().as_chunks::<2>().0;
        let byte =
            |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes: Vec<u8> = digits.iter().map(byte).collect();
        let ids = TINY.encode_bytes(&bytes, Special::Plain).unwrap();
        let expected = without_meta_space(&bytes);
        assert_eq!(TINY.decode_bytes(&ids, ControlPieces::Omit), expected, "{what}");
    }
}

/// The one thing that does not come back: a literal `▁` becomes a space.
fn without_meta_space(bytes: &[u8]) -> Vec<u8> {
    let chunks = bytes.utf8_chunks();
    chunks.flat_map(|c| [c.valid().replace('▁', " ").as_bytes(), c.invalid()].concat()).collect()
}

/// A single line of a megabyte would take minutes if merging were quadratic. The limit is for a
/// debug build on a busy machine; a release build takes about 0.1 s.
#[test]
fn a_megabyte_in_one_line() {
    let corpus = corpus().join(" ").replace('\n', " ");
    let line: String = corpus.chars().cycle().take(1 << 20).collect();
    for text in [line, "a".repeat(1 << 20), "🙂".repeat(1 << 18), " ".repeat(1 << 20)] {
        let started = Instant::now();
        let ids = TINY.encode(&text, Special::Plain);
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
        assert_eq!(TINY.decode(&ids, ControlPieces::Omit), text.replace('▁', " "));
    }
}

/// Pieces of text that matching and merging treat specially, and any characters between them.
fn texts() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "<b>",
        "</b>",
        "<bos>",
        "<end_of_turn>",
        "<unk>",
        "<0x41>",
        "the",
        "And the ",
        "é",
        "🙂",
        "<",
        "\u{0}",
        "\r\n",
    ]);
    let part =
        prop_oneof![3 => special.prop_map(str::to_owned), 2 => "[^▁]{0,8}", 1 => "[a-z ]{0,20}"];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in texts()) {
        for special in [Special::Plain, Special::Trusted] {
            let ids = TINY.encode(&text, special);
            prop_assert_eq!(TINY.decode(&ids, ControlPieces::Show), &text[..]);
        }
    }

    #[test]
    fn decoding_gives_any_bytes_back(bytes: Vec<u8>, text in texts(), at: prop::sample::Index) {
        let mut all = text.into_bytes();
        let at = at.index(all.len() + 1);
        all.splice(at..at, bytes);
        let ids = TINY.encode_bytes(&all, Special::Plain).unwrap();
        prop_assert_eq!(TINY.decode_bytes(&ids, ControlPieces::Omit), without_meta_space(&all));
    }

    #[test]
    fn valid_bytes_are_text(text in texts()) {
        let ids = TINY.encode_bytes(text.as_bytes(), Special::Trusted).unwrap();
        prop_assert_eq!(ids, TINY.encode(&text, Special::Trusted));
    }

    #[test]
    fn segments_of_one_kind_are_one_text(text in texts(), cuts: Vec<prop::sample::Index>) {
        let chars: Vec<char> = text.chars().collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
        cuts.extend([0, chars.len()]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|w| String::from_iter(&chars[w[0]..w[1]]));
        let parts: Vec<String> = parts.collect();
        let segments = parts.iter().map(|part| (&part[..], Special::Plain));
        prop_assert_eq!(TINY.encode_segments(segments), TINY.encode(&text, Special::Plain));
    }

    /// Half of the ids are byte pieces, so that characters are often cut, right and wrong.
    #[test]
    fn streaming_is_decoding(ids in prop::collection::vec(prop_oneof![217..473u32, 0..2100u32], 0..40)) {
        for control in [ControlPieces::Omit, ControlPieces::Show] {
            let mut stream = TINY.stream(control);
            let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, TINY.decode(&ids, control));
        }
    }
}

#[test]
fn streaming_waits_for_whole_characters() {
    let ids = TINY.encode("🙂!", Special::Plain);
    let mut stream = TINY.stream(ControlPieces::Omit);
    let pushed: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pushed, ["", "", "", "🙂", "!"]);
    assert_eq!(stream.finish(), "");

    let mut cut = TINY.stream(ControlPieces::Omit);
    assert!(ids[..3].iter().all(|id| cut.push(*id).is_empty()));
    assert_eq!(cut.clone().push(ids[4]), "\u{FFFD}!");
    assert_eq!(cut.finish(), "\u{FFFD}");
}
