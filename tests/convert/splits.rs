//! A model in several files.

use std::path::{Path, PathBuf};

use lapidary::model::Source;
use lapidary_formats::gguf::{Header, Writer};

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
