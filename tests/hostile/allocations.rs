//! Files made to take memory: each is full of what its reader has to keep the most of.

use std::fs;
use std::path::Path;

use lapidary::model::Source;
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::checkpoint::{vocab_from_dir, Checkpoint};
use lapidary_formats::gguf::{Gguf, Header, Writer};
use lapidary_formats::imatrix::Imatrix;
use lapidary_formats::quant::QuantType;
use serde_json::json;
use tempfile::TempDir;

use super::allocator::measured;
use super::raw::RawGguf;
use super::small;

/// Entries of a list: enough for constant costs not to matter.
const MANY: usize = 100_000;

/// What the largest allocation, and all at one time, may be of the file's length. A tensor's
/// description of 33 bytes is kept in 72 and its name, which a growing list holds three times while
/// it is moved.
const LARGEST: usize = 8;
const PEAK: usize = 24;

/// Asserts what reading `bytes` as the file `name` may take. The result is dropped.
fn bounded<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) {
    let dir = TempDir::new().unwrap();
    if !name.ends_with(".gguf") {
        small::write_checkpoint(dir.path());
    }
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let (_, memory) = measured(|| drop(read(&path)));
    let len = bytes.len();
    let times = |n: usize| n as f64 / len as f64;
    println!("{len} bytes: largest {:.1}x, peak {:.1}x", times(memory.largest), times(memory.peak));
    assert!(memory.largest <= LARGEST * len, "{memory:?} for {len} bytes");
    assert!(memory.peak <= PEAK * len, "{memory:?} for {len} bytes");
}

fn open(path: &Path) -> Gguf {
    Gguf::open(path).unwrap()
}

/// Names of as few bytes as can be.
fn short_names() -> impl Iterator<Item = String> {
    (0..MANY).map(|i| format!("{i:x}"))
}

fn written(header: Header) -> Vec<u8> {
    let sizes: Vec<u64> = header.tensors().iter().map(|t| t.bytes).collect();
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    sizes.into_iter().for_each(|n| writer.write(&vec![0; n as usize]).unwrap());
    writer.finish().unwrap()
}

#[test]
fn many_keys() {
    let mut header = Header::new();
    short_names().for_each(|name| header.set(name, 0u8));
    bounded("keys.gguf", &written(header), open);
}

#[test]
fn many_tensors() {
    let mut raw = RawGguf::default();
    // Without data, so that the descriptions are all there is: the last one is refused.
    let tensor = |name: String| (name.into_bytes(), vec![1], 0, 0);
    raw.tensors = short_names().map(tensor).collect();
    bounded("tensors.gguf", &raw.encode(), |path| Gguf::open(path).unwrap_err());
}

#[test]
fn an_array_of_empty_strings() {
    let mut header = Header::new();
    header.set("strings", vec![String::new(); MANY]);
    bounded("strings.gguf", &written(header), |path| {
        let gguf = open(path);
        gguf.metadata().map(|(_, value)| value.to_string()).collect::<Vec<_>>()
    });
}

#[test]
fn a_vocabulary_of_empty_pieces() {
    let empty = |h: &mut Header| {
        h.set("tokenizer.ggml.tokens", vec![String::new(); MANY]);
        h.set("tokenizer.ggml.scores", vec![0f32; MANY]);
        h.set("tokenizer.ggml.token_type", vec![1i32; MANY]);
    };
    bounded("pieces.gguf", &small::gguf(empty), |path| {
        Source::open(path).unwrap().vocab().unwrap_err()
    });
}

#[test]
fn pieces_that_are_found_before_merging() {
    // User-defined, and no two with more than a byte in common.
    let texts: Vec<String> = (0..small::N_VOCAB)
        .map(|i| {
            let first = char::from_u32(0x100 + i as u32).unwrap();
            format!("{first}{}", "x".repeat(1000))
        })
        .collect();
    let matched = |h: &mut Header| {
        h.set("tokenizer.ggml.tokens", texts);
        h.set("tokenizer.ggml.token_type", vec![4i32; small::N_VOCAB]);
    };
    let bytes = small::gguf(matched);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("matched.gguf");
    fs::write(&path, &bytes).unwrap();
    let index = || Tokenizer::new(Source::open(&path).unwrap().vocab().unwrap()).unwrap();
    let (tokenizer, memory) = measured(index);
    drop(tokenizer);
    // Every byte of a piece becomes a node of 20 bytes, which a growing list holds three times while
    // it is moved. There is a limit to their number.
    assert!(memory.peak <= 64 * bytes.len(), "{memory:?} for {} bytes", bytes.len());
}

/// Without a limit, a hundred megabytes of such pieces would take six gigabytes.
#[test]
fn more_pieces_to_find_than_any_model_has() {
    let n = 5000;
    let piece = |i: usize| lapidary_formats::vocab::Piece {
        text: format!("{i:04}{}", "x".repeat(1000)).into(),
        score: 0.0,
        kind: lapidary_formats::vocab::PieceKind::UserDefined,
    };
    let pieces = (0..n).map(piece).collect();
    let vocab = lapidary_formats::vocab::Vocab { pieces, ..small::vocab() };
    let error = Tokenizer::new(vocab).unwrap_err().to_string();
    let expected =
        "the pieces that are matched before merging (control and user-defined ones) are too \
                    many or too long";
    assert_eq!(error, expected);
}

#[test]
fn importance_of_many_matrices() {
    let mut header = Header::new();
    for i in 0..1000 {
        header.add_tensor(format!("{i:x}.in_sum2"), QuantType::F32, &[1]).unwrap();
        header.add_tensor(format!("{i:x}.counts"), QuantType::F32, &[1]).unwrap();
    }
    bounded("imatrix.gguf", &written(header), |path| Imatrix::open(path).unwrap());
    let mut dat = (MANY as i32).to_le_bytes().to_vec();
    for name in short_names() {
        dat.extend((name.len() as i32).to_le_bytes());
        dat.extend(name.as_bytes());
        dat.extend([1i32, 1, 0].iter().flat_map(|n| n.to_le_bytes()));
    }
    bounded("imatrix.dat", &dat, |path| Imatrix::open(path).unwrap());
}

fn checkpoint(path: &Path) -> Result<Checkpoint, impl std::fmt::Debug> {
    Checkpoint::open(path.parent().unwrap())
}

fn vocab(path: &Path) {
    drop(vocab_from_dir(path.parent().unwrap(), small::N_VOCAB).unwrap_err());
}

#[test]
fn a_safetensors_header_of_many_tensors() {
    let entry = r#"{"dtype":"F16","shape":[1],"data_offsets":[0,2]}"#;
    let entries: Vec<String> = short_names().map(|name| format!("\"{name}\":{entry}")).collect();
    let bytes = small::safetensors_bytes(&format!("{{{}}}", entries.join(",")), &[0; 2]);
    bounded("model.safetensors", &bytes, |path| checkpoint(path).unwrap_err());
}

#[test]
fn a_tensor_of_many_dimensions() {
    let entry = json!({"dtype": "F16", "shape": vec![1; MANY], "data_offsets": [0, 2]});
    let bytes = small::safetensors_bytes(&json!({"t": entry}).to_string(), &[0; 2]);
    bounded("model.safetensors", &bytes, |path| checkpoint(path).unwrap_err());
}

#[test]
fn an_index_of_many_tensors() {
    let entries: Vec<String> = short_names().map(|name| format!("\"{name}\":\"a\"")).collect();
    let text = format!("{{\"weight_map\":{{{}}}}}", entries.join(","));
    bounded("model.safetensors.index.json", text.as_bytes(), |path| {
        fs::remove_file(path.with_file_name("model.safetensors")).unwrap();
        checkpoint(path).unwrap_err()
    });
}

#[test]
fn a_tokenizer_of_many_merges() {
    let mut tokenizer = small::tokenizer_json();
    tokenizer["model"]["merges"] = json!(vec![""; MANY]);
    tokenizer["model"]["vocab"]["one more"] = json!(small::N_VOCAB);
    bounded("tokenizer.json", tokenizer.to_string().as_bytes(), vocab);
}

#[test]
fn a_tokenizer_of_many_pieces() {
    let mut tokenizer = small::tokenizer_json();
    let pieces = short_names().enumerate().map(|(id, text)| (text, json!(id)));
    tokenizer["model"]["vocab"] = pieces.collect::<serde_json::Map<_, _>>().into();
    bounded("tokenizer.json", tokenizer.to_string().as_bytes(), vocab);
}

/// An empty piece is two bytes of `tokenizer.model`, and 48 of memory.
#[test]
fn a_sentencepiece_model_of_empty_pieces() {
    bounded("tokenizer.model", &[0x0a, 0].repeat(MANY), vocab);
}
