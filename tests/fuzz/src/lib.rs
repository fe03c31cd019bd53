//! What the targets share: a sound model, and places for bytes that are read from files.

#[path = "../../hostile/small.rs"]
pub mod small;

use std::fs;
use std::path::{Path, PathBuf};

use lapidary::chat::ChatTemplate;
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Source, State, StateOptions};
use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};
use tempfile::TempDir;

/// The files of a checkpoint, in the order in which the target `checkpoint` numbers them.
pub const FILES: [&str; 9] = [
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "added_tokens.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
];

/// A directory whose files change.
pub struct Place(TempDir);

impl Place {
    /// An empty one, in memory where the system has a place for that.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self(dir.expect("a directory can be made"))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file with `bytes` in it.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("a file can be removed");
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// What models run on.
pub fn cpu() -> Cpu {
    Cpu::new(std::num::NonZeroUsize::new(1), Isa::best()).expect("one thread can be had")
}

/// Does everything with the model at `path`, as far as it is one.
pub fn use_model(path: &Path, cpu: &Cpu) -> Option<()> {
    let source = Source::open(path).ok()?;
    let vocab = source.vocab().ok()?;
    source.stop_ids(&vocab);
    let template = source.chat_template().ok()?;
    // What templates do is another target's.
    let _ = ChatTemplate::new(template.as_deref(), "<bos>", "<eos>");
    let tokenizer = Tokenizer::new(vocab).ok()?;
    let ids = tokenizer.encode_with_bos("the hen\u{0}\u{1F9D0}<bos>  ", Special::Trusted);
    tokenizer.decode(&ids, ControlPieces::Show);
    let model = Model::on(cpu.clone(), &source).ok()?;
    let mut state = State::new(model.config(), StateOptions::new(16, KvType::Q8_0));
    let logits = model.forward_last(&mut state, &ids[..ids.len().min(6)]).ok()?;
    assert!(logits.iter().all(|x| x.is_finite()));
    Some(())
}
