//! What several tests need: where the fixtures are, and how to compare.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::cell::Cell;
use std::path::{Path, PathBuf};

use lapidary::convert::Progress;
use lapidary::kernels::KvType;
use lapidary::model::Source;
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary_formats::gguf::{Header, Writer};

/// NMSE of logits against transformers', with a cache of f32. f32 against f32 with sums in another
/// order: errors are some 1e-7 of a value per sum, 1e-13 squared, and up to 2e-12 for one position
/// of 8192. A wrong scale, window or norm is 1e-4 and more.
pub const F32_NMSE: f64 = 1e-10;

/// Types of the cache; the NMSE that each is allowed over all positions of a golden, and at one
/// position of `long.json`. Rounding values to f16 is 1e-4 of each, 1e-8 squared. Rounding keys is
/// more, for the micro model's scores reach 50 and a weight changes by as much as its score: in all
/// 9e-8, and at most 4e-7 at one position of `long.json`, as in transformers when it rounds them. With
/// blocks of Q8_0 transformers has 5e-5 over micro and 7e-5 over `long.json`, 2e-4 at one position.
pub const CACHES: [(KvType, f64, f64); 3] =
    [(KvType::F32, F32_NMSE, F32_NMSE), (KvType::F16, 1e-6, 1e-6), (KvType::Q8_0, 1e-4, 1e-3)];

/// A path below `tests/`.
pub fn tests_dir(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The small trained checkpoint.
pub fn tiny() -> PathBuf {
    tests_dir("fixtures/tiny-gemma2")
}

/// The random checkpoint with odd sizes.
pub fn micro() -> PathBuf {
    tests_dir("fixtures/micro-gemma2")
}

/// The text that the trained checkpoint has not seen.
pub fn held_out() -> PathBuf {
    tests_dir("fixtures/held-out/kjv-held-out.txt")
}

/// The tokens of that text, by a model's own tokenizer.
pub fn held_out_ids(source: &Source) -> Vec<u32> {
    let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
    let text = std::fs::read_to_string(held_out()).unwrap();
    tokenizer.encode_with_bos(&text, Special::Plain)
}

/// A golden that transformers made, as JSON.
pub fn golden(name: &str) -> serde_json::Value {
    let path = tests_dir("goldens/transformers").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Token ids out of a golden.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Little-endian f32 values of a golden.
pub fn golden_f32(name: &str) -> Vec<f32> {
    let path = tests_dir("goldens/transformers").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Mean squared error over the mean square of what is expected.
pub fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 =
        found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    error / expected.iter().map(|x| square(f64::from(*x))).sum::<f64>()
}

/// The bytes of a file that was converted, but for its source's fingerprint: what has to be equal
/// when two files of the same values are converted.
pub fn but_for_the_fingerprint(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).unwrap();
    let key = b"lapidary.source.fingerprint";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    // After the key: the value's type, its length, and 16 digits.
    let digits = at + key.len() + 4 + 8;
    bytes[digits..digits + 16].fill(b'-');
    bytes
}

/// Stops a conversion at the question after the `n`th: after `n` tensors of one slice each.
pub struct StopAt {
    /// Questions that are answered with no.
    pub n: usize,
    /// Questions asked so far.
    pub asked: Cell<usize>,
}

impl StopAt {
    /// Nothing asked yet.
    pub fn new(n: usize) -> Self {
        Self { n, asked: Cell::new(0) }
    }
}

impl Progress for StopAt {
    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() > self.n
    }
}

/// Writes a GGUF model again as two splits, `split-00001-of-00002.gguf` and its fellow.
pub fn split(model: &Path, dir: &Path) -> [PathBuf; 2] {
    let source = Source::open(model).unwrap();
    let gguf = source.gguf().unwrap();
    let tensors: Vec<_> = gguf.tensors().collect();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    [(0u16, first), (1, second)].map(|(number, tensors)| {
        let mut header = Header::new();
        if number == 0 {
            gguf.metadata().for_each(|(key, value)| header.set(key, value));
        }
        // A header writes no split.* keys: these get their names when everything is written.
        header.set("split-no", number);
        header.set("split-count", 2u16);
        for t in tensors {
            header.add_tensor(t.name, t.ty, t.shape).unwrap();
        }
        let mut writer = Writer::new(Vec::new(), header).unwrap();
        tensors.iter().for_each(|t| writer.write(t.data).unwrap());
        let mut bytes = writer.finish().unwrap();
        for at in 0..bytes.len() - 6 {
            if bytes[at..].starts_with(b"split-") {
                bytes[at + 5] = b'.';
            }
        }
        let path = dir.join(format!("split-{:05}-of-00002.gguf", number + 1));
        std::fs::write(&path, bytes).unwrap();
        path
    })
}
