//! Where a model comes from: a GGUF file or a checkpoint directory, seen alike.

use std::ops::Range;
use std::path::{Path, PathBuf};

use lapidary_formats::checkpoint::{Checkpoint, CheckpointError};
use lapidary_formats::gguf::{Gguf, GgufError};
use lapidary_formats::printable::Printable;
use lapidary_formats::tensor::TensorView;
use lapidary_formats::vocab::Vocab;
use thiserror::Error;

use super::config::{Config, ConfigError};
use super::tensors::{tensors, TensorSpec, OUTPUT};

/// An opened model with everything checked that can be without reading the weights: its tensors
/// are all there and have the shapes that its configuration asks for.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    config: Config,
    tensors: Vec<TensorSpec>,
}

#[derive(Debug)]
enum File {
    Gguf(Box<Gguf>),
    Checkpoint(Box<Checkpoint>),
}

impl File {
    /// All tensors, in the files' order.
    fn tensors(&self) -> Box<dyn Iterator<Item = TensorView<'_>> + '_> {
        match self {
            Self::Gguf(g) => Box::new(g.tensors()),
            Self::Checkpoint(c) => Box::new(c.tensors()),
        }
    }
}

/// Why a model cannot be used. Every message names the file.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Neither a file nor a directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not a readable GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not a readable checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its configuration is not Gemma 2's.
    #[error("{}: {error}", path.display())]
    Config {
        /// The model.
        path: PathBuf,
        /// What is wrong with it.
        error: ConfigError,
    },
    /// A tensor that the configuration implies is not there.
    #[error("{}: tensor `{}` is missing", path.display(), Printable::new(name))]
    MissingTensor {
        /// The model.
        path: PathBuf,
        /// The tensor, by its name in that model.
        name: String,
    },
    /// A tensor that the configuration does not know: perhaps an adapter or another architecture.
    #[error("{}: tensor `{}` is not part of a Gemma 2 model", path.display(), Printable::new(name))]
    UnknownTensor {
        /// The model.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor whose shape disagrees with the configuration.
    #[error("{}: tensor `{}` has shape {found:?}, its configuration asks for {expected:?}", path.display(), Printable::new(name))]
    Shape {
        /// The model.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Innermost dimension first.
        found: Vec<usize>,
        /// Innermost dimension first.
        expected: Vec<usize>,
    },
    /// The configuration has more layers than there can be with so few tensors.
    #[error("{}: its configuration asks for {layers} layers, but there are only {tensors} tensors", path.display())]
    Layers {
        /// The model.
        path: PathBuf,
        /// Layers of the configuration.
        layers: usize,
        /// Tensors of the model.
        tensors: usize,
    },
    /// A norm that would make everything NaN.
    #[error("{}: tensor `{}` has values that are NaN or infinite", path.display(), Printable::new(name))]
    NotFinite {
        /// The model.
        path: PathBuf,
        /// The tensor, by its name in that model.
        name: String,
    },
    /// The vocabulary and the embedding differ in size.
    #[error("{}: the tokenizer has {pieces} pieces, the embedding {rows} rows", path.display())]
    Vocabulary {
        /// The model.
        path: PathBuf,
        /// Pieces of the vocabulary.
        pieces: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}

impl Source {
    /// Opens a GGUF file (or any part of a split one) or a checkpoint directory.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let config = |error| match error {
            // It names the file by itself.
            ConfigError::Gguf(error) => SourceError::Gguf(error),
            error => SourceError::Config { path: path.to_owned(), error },
        };
        let (file, config) = if std::fs::metadata(path).map_err(io)?.is_dir() {
            let c = Checkpoint::open(path)?;
            let config = Config::from_checkpoint(c.config()).map_err(config)?;
            (File::Checkpoint(Box::new(c)), config)
        } else {
            let g = Gguf::open(path)?;
            let config = Config::from_gguf(&g).map_err(config)?;
            (File::Gguf(Box::new(g)), config)
        };
        // Nothing larger than a model of so many tensors is described.
        let (layers, found) = (config.n_layer, file.tensors().count());
        if layers > found {
            return Err(SourceError::Layers { path: path.to_owned(), layers, tensors: found });
        }
        let untied = match &file {
            File::Gguf(g) => g.tensor(OUTPUT).is_some(),
            File::Checkpoint(c) => has_own_head(c),
        };
        let tensors = tensors(&config, untied);
        let source = Self { path: path.to_owned(), file, config, tensors };
        source.check_tensors()?;
        Ok(source)
    }

    /// The path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's blueprint.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.file {
            File::Gguf(g) => Some(g),
            File::Checkpoint(_) => None,
        }
    }

    /// The checkpoint, if it is one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.file {
            File::Gguf(_) => None,
            File::Checkpoint(c) => Some(c),
        }
    }

    /// Every tensor of the model, in the order in which they are written.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Whether the head is a matrix of its own.
    pub fn is_untied(&self) -> bool {
        self.tensors.iter().any(|t| t.name == OUTPUT)
    }

    /// The tensor of a specification, as it lies in the file.
    ///
    /// # Panics
    /// If `spec` is not one of [`tensors`](Self::tensors), which were checked on opening.
    pub fn tensor(&self, spec: &TensorSpec) -> TensorView<'_> {
        self.find(spec).expect("tensors were checked when the model was opened")
    }

    /// The file that a part of a tensor lies in, and where.
    pub fn place(&self, part: &[u8]) -> Option<(&Path, Range<usize>)> {
        match &self.file {
            File::Gguf(g) => g.place(part),
            File::Checkpoint(c) => c.place(part),
        }
    }

    /// Gives back the memory of a part of a tensor, until it is read again.
    pub fn release(&self, part: &[u8]) {
        match &self.file {
            File::Gguf(g) => g.release(part),
            File::Checkpoint(c) => c.release(part),
        }
    }

    /// The multiplier of a norm, `[n]`: what a GGUF file holds, one more than a checkpoint holds.
    ///
    /// # Errors
    /// If it has values that are NaN or infinite.
    pub fn norm(&self, spec: &TensorSpec) -> Result<Vec<f32>, SourceError> {
        let view = self.tensor(spec);
        let mut w = vec![0.0; view.len()];
        (view.ty.traits().dequantize)(view.data, &mut w);
        if matches!(self.file, File::Checkpoint(_)) {
            w.iter_mut().for_each(|w| *w += 1.0);
        }
        match w.iter().all(|w| w.is_finite()) {
            true => Ok(w),
            false => {
                let name = view.name.to_owned();
                Err(SourceError::NotFinite { path: self.path.clone(), name })
            }
        }
    }

    /// The vocabulary, as large as the embedding.
    pub fn vocab(&self) -> Result<Vocab, SourceError> {
        let vocab = match &self.file {
            File::Gguf(g) => Vocab::from_gguf(g)?,
            File::Checkpoint(c) => c.vocab()?,
        };
        let (pieces, rows) = (vocab.pieces.len(), self.config.n_vocab);
        if pieces != rows {
            return Err(SourceError::Vocabulary { path: self.path.clone(), pieces, rows });
        }
        Ok(vocab)
    }

    /// The model's chat template, if it brings one.
    pub fn chat_template(&self) -> Result<Option<String>, SourceError> {
        Ok(match &self.file {
            File::Gguf(g) => g.str("tokenizer.chat_template")?.map(str::to_owned),
            File::Checkpoint(c) => c.chat_template()?,
        })
    }

    /// The token ids that end a text: those that the model declares, `<end_of_turn>` among them.
    pub fn stop_ids(&self, vocab: &Vocab) -> Vec<u32> {
        let mut ids: Vec<u32> = vocab.eos.into_iter().chain(vocab.eot).collect();
        match &self.file {
            // End of message: where a third id is kept. One that is no number ends nothing.
            File::Gguf(g) => ids.extend(g.u32("tokenizer.ggml.eom_token_id").ok().flatten()),
            File::Checkpoint(c) => ids.extend(&c.generation().eos_token_ids),
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn find(&self, spec: &TensorSpec) -> Option<TensorView<'_>> {
        match &self.file {
            File::Gguf(g) => g.tensor(&spec.name),
            File::Checkpoint(c) => c.tensor(&spec.hf_name),
        }
    }

    fn check_tensors(&self) -> Result<(), SourceError> {
        let name = |spec: &TensorSpec| match &self.file {
            File::Gguf(_) => spec.name.clone(),
            File::Checkpoint(_) => spec.hf_name.clone(),
        };
        let path = || self.path.clone();
        for spec in &self.tensors {
            let view = self
                .find(spec)
                .ok_or_else(|| SourceError::MissingTensor { path: path(), name: name(spec) })?;
            if view.shape != spec.shape {
                return Err(SourceError::Shape {
                    path: path(),
                    name: name(spec),
                    found: view.shape.to_vec(),
                    expected: spec.shape.clone(),
                });
            }
        }
        let known: std::collections::HashSet<String> = self.tensors.iter().map(name).collect();
        let unknown = |found: &str| !known.contains(found) && !is_ignorable(found);
        match self.file.tensors().map(|t| t.name).find(|n| unknown(n)) {
            Some(name) => Err(SourceError::UnknownTensor { path: path(), name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Tensors that carry nothing the configuration does not: a tied head written out, RoPE's
/// frequencies. (GGUF's `rope_freqs.weight` changes them, and is refused as unknown.)
fn is_ignorable(name: &str) -> bool {
    name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq")
}

/// Whether the checkpoint's `lm_head.weight` says something else than its embedding. Fine-tunes
/// with a real head exist, and so do checkpoints that write the tied one out; `config.json` is
/// not reliable on which, so the bytes decide.
fn has_own_head(c: &Checkpoint) -> bool {
    let embd = c.tensor("model.embed_tokens.weight");
    match (c.tensor("lm_head.weight"), embd) {
        (Some(head), Some(embd)) => head.ty != embd.ty || head.data != embd.data,
        _ => false,
    }
}
