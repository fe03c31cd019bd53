//! GGUF: what is written is read back, and malformed files are refused for the right reason.

mod checksums;
mod malformed;
mod round_trip;
mod splits;
mod vocab;

use std::fs;

use lapidary_formats::gguf::{Gguf, GgufError, Header, Malformed, Writer};
use lapidary_formats::quant::QuantType;
use tempfile::TempDir;

/// The bytes of a file, assembled by hand so that they can be wrong.
#[derive(Clone)]
struct Raw {
    version: u32,
    /// Written instead of the real numbers of tensors and keys.
    counts: Option<(u64, u64)>,
    metadata: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

impl Raw {
    fn new() -> Self {
        Self { version: 3, counts: None, metadata: vec![], tensors: vec![], data: 0 }
    }

    fn key(mut self, key: &[u8], ty: u32, value: &[u8]) -> Self {
        self.metadata.push([string(key), ty.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.key(key.as_bytes(), 4, &value.to_le_bytes())
    }

    fn tensor(mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Self {
        let mut bytes = string(name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
        bytes.extend(ty.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    /// Appends a data section of `n` bytes.
    fn data(mut self, n: usize) -> Self {
        self.data = n;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = (self.tensors.len() as u64, self.metadata.len() as u64);
        let (n_tensors, n_keys) = self.counts.unwrap_or(counts);
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(n_keys.to_le_bytes());
        bytes.extend(self.metadata.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend((0..self.data).map(|i| i as u8));
        bytes
    }

    /// The error with which the file is refused.
    fn refused(&self) -> Malformed {
        malformed(&self.bytes())
    }
}

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s].concat()
}

fn array(ty: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

fn open(bytes: &[u8]) -> Result<Gguf, GgufError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    Gguf::open(path)
}

fn malformed(bytes: &[u8]) -> Malformed {
    match open(bytes) {
        Err(GgufError::Malformed { path, cause }) => {
            assert!(path.ends_with("model.gguf"));
            cause
        }
        other => panic!("expected a malformed file, found {other:?}"),
    }
}

/// Two tensors and a key; the file ends with the last tensor's bytes.
fn small() -> Raw {
    Raw::new()
        .u32("answer", 42)
        .key(b"words", 9, &array(8, 2, &[string(b"a"), string(b"bc")].concat()))
        .tensor(b"x", &[8, 2], 0, 0)
        .tensor(b"y", &[32], 8, 64)
        .data(64 + 34)
}

/// Writes a file whose tensors have different contents, at most `n` bytes per call.
fn write(header: Header, n: usize) -> Vec<u8> {
    let tensors = header.tensors().to_vec();
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    for (i, t) in tensors.iter().enumerate() {
        contents(i, t.bytes as usize).chunks(n).for_each(|c| writer.write(c).unwrap());
    }
    writer.finish().unwrap()
}

fn contents(tensor: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|b| (b * 7 + tensor + 1) as u8).collect()
}

#[test]
fn a_file_made_by_hand_is_read() {
    for version in [2, 3] {
        let gguf = open(&Raw { version, ..small() }.bytes()).unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (version, 32));
        assert_eq!(gguf.u32("answer").unwrap(), Some(42));
        assert_eq!(gguf.u64("answer").unwrap(), Some(42));
        assert_eq!(gguf.u32("question").unwrap(), None);
        let words = gguf.array("words").unwrap().unwrap();
        assert_eq!(words.strings().unwrap().collect::<Vec<_>>(), ["a", "bc"]);
        assert!(words.f32s().is_none());
        let y = gguf.tensor("y").unwrap();
        assert_eq!((y.ty, y.shape, y.data.len(), y.data[0]), (QuantType::Q8_0, &[32][..], 34, 64));
        assert_eq!(gguf.tensors().map(|t| t.name).collect::<Vec<_>>(), ["x", "y"]);
        assert!(gguf.tensor("z").is_none());
    }
}

#[test]
fn a_getter_of_the_wrong_type_names_the_key() {
    let gguf = open(&small().bytes()).unwrap();
    let message = gguf.str("answer").unwrap_err().to_string();
    assert!(message.contains("\"answer\" holds u32 42, expected a string"), "{message}");
    assert!(gguf.f32("answer").is_err());
    assert!(gguf.bool("answer").is_err());
    assert!(gguf.array("answer").is_err());
    assert!(gguf.u32("words").is_err());
    let negative = Raw::new().key(b"n", 5, &(-1i32).to_le_bytes());
    assert!(open(&negative.bytes()).unwrap().u32("n").is_err());
}
