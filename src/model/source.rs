//! The files of a model: a GGUF file or a checkpoint directory, with the same interface for both.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lapidary_formats::checkpoint::{Checkpoint, CheckpointError};
use lapidary_formats::gguf::{Gguf, GgufError};
use lapidary_formats::printable::Printable;
use lapidary_formats::tensor::TensorView;
use lapidary_formats::vocab::Vocab;
use thiserror::Error;

use super::config::{Config, ConfigError};
use super::tensors::{tensors, Role, TensorKind, TensorSpec};
use super::RowSource;

/// An opened model. Everything that can be checked without reading the weights has been checked:
/// all tensors exist and have the shapes that the configuration asks for.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    config: Config,
    tensors: Vec<TensorSpec>,
    stop_ids: Vec<u32>,
    left_out: usize,
}

#[derive(Debug)]
enum File {
    Gguf(Box<Gguf>),
    Checkpoint(Box<Checkpoint>, &'static Layout),
}

/// How the tensors of the text model are named in a checkpoint.
#[derive(Debug)]
struct Layout {
    /// Replaces `model.` at the beginning of their names.
    model: &'static str,
    /// Name of the output matrix.
    lm_head: &'static str,
}

/// In order: text models; the checkpoints of Gemma 3 with vision, as published; the same as written
/// by transformers since 4.52.
const LAYOUTS: [Layout; 3] = [
    Layout { model: "model.", lm_head: "lm_head.weight" },
    Layout { model: "language_model.model.", lm_head: "language_model.lm_head.weight" },
    Layout { model: "model.language_model.", lm_head: "lm_head.weight" },
];

/// Beginnings of the names of vision tensors, in checkpoints and in GGUF files with text and vision
/// together, as Ollama writes them.
const VISION: [&str; 6] = [
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "v.",
    "mm.",
];

impl Layout {
    fn of(c: &Checkpoint) -> &'static Self {
        let has_embedding =
            |layout: &&Self| c.tensor(&format!("{}embed_tokens.weight", layout.model)).is_some();
        LAYOUTS.iter().find(has_embedding).unwrap_or(&LAYOUTS[0])
    }

    /// The name of a tensor in the checkpoint.
    fn name(&self, spec: &TensorSpec) -> String {
        match spec.hf_name.strip_prefix(LAYOUTS[0].model) {
            Some(rest) => format!("{}{rest}", self.model),
            None => self.lm_head.to_owned(),
        }
    }
}

impl File {
    /// All tensors, in the order of the files.
    fn tensors(&self) -> Box<dyn Iterator<Item = TensorView<'_>> + '_> {
        match self {
            Self::Gguf(g) => Box::new(g.tensors()),
            Self::Checkpoint(c, _) => Box::new(c.tensors()),
        }
    }

    /// The name of a tensor in this file.
    fn name(&self, spec: &TensorSpec) -> String {
        match self {
            Self::Gguf(_) => spec.name.clone(),
            Self::Checkpoint(_, layout) => layout.name(spec),
        }
    }

    fn find(&self, spec: &TensorSpec) -> Option<TensorView<'_>> {
        match self {
            Self::Gguf(g) => g.tensor(&spec.name),
            Self::Checkpoint(c, layout) => c.tensor(&layout.name(spec)),
        }
    }

    /// Whether a tensor adds nothing to the configuration and the tensors of the model: a copy of the
    /// embedding as output matrix, or RoPE's frequencies. (GGUF's `rope_freqs.weight` changes them,
    /// and is refused as unknown.)
    fn is_ignorable(&self, name: &str) -> bool {
        match self {
            Self::Gguf(_) => false,
            Self::Checkpoint(_, layout) => {
                name == layout.lm_head || name.ends_with("rotary_emb.inv_freq")
            }
        }
    }
}

/// Why a model cannot be used. Every message names the file.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It does not exist, or cannot be accessed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path that was asked for.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// Not a readable GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not a readable checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its configuration cannot be used.
    #[error("{}: {error}", path.display())]
    Config {
        /// The model's file.
        path: PathBuf,
        /// What is wrong with it.
        error: ConfigError,
    },
    /// A tensor that the configuration requires does not exist.
    #[error("{}: tensor `{}` is missing", path.display(), Printable::new(name))]
    MissingTensor {
        /// The model's path.
        path: PathBuf,
        /// The tensor's name in that model.
        name: String,
    },
    /// A tensor that the configuration does not require. The model may be an adapter, or of another
    /// architecture.
    #[error("{}: tensor `{}` is not part of a {architecture} model", path.display(), Printable::new(name))]
    UnknownTensor {
        /// The model's path.
        path: PathBuf,
        /// The architecture that the model claims to have.
        architecture: &'static str,
        /// The tensor.
        name: String,
    },
    /// The shape of a tensor contradicts the configuration.
    #[error("{}: tensor `{}` has shape {found:?}, but the configuration asks for {expected:?}", path.display(), Printable::new(name))]
    Shape {
        /// The model's path.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Innermost dimension first.
        found: Vec<usize>,
        /// Innermost dimension first.
        expected: Vec<usize>,
    },
    /// The configuration has more layers than there are tensors.
    #[error("{}: the configuration asks for {layers} layers, but there are only {tensors} tensors", path.display())]
    Layers {
        /// The model's path.
        path: PathBuf,
        /// Layers of the configuration.
        layers: usize,
        /// Tensors of the model.
        tensors: usize,
    },
    /// A norm has values that are NaN or infinite, which would make all results NaN.
    #[error("{}: tensor `{}` has values that are NaN or infinite", path.display(), Printable::new(name))]
    NotFinite {
        /// The model's path.
        path: PathBuf,
        /// The tensor's name in that model.
        name: String,
    },
    /// The vocabulary and the embedding have different sizes.
    #[error("{}: the tokenizer has {pieces} pieces, but the embedding has {rows} rows", path.display())]
    Vocabulary {
        /// The model's path.
        path: PathBuf,
        /// Pieces of the vocabulary.
        pieces: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}

impl Source {
    /// Opens a GGUF file (or any file of a split one) or a checkpoint directory.
    ///
    /// # Errors
    /// If it cannot be read, is not a model of the Gemma family, lacks a tensor, or contradicts
    /// itself.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let (file, config) = match std::fs::metadata(path).map_err(io)?.is_dir() {
            true => open_checkpoint(path)?,
            false => open_gguf(path)?,
        };
        // Checked before a list of the tensors is made, so that a false number of layers cannot
        // make it huge.
        let (layers, found) = (config.n_layer(), file.tensors().count());
        if layers > found {
            return Err(SourceError::Layers { path: path.to_owned(), layers, tensors: found });
        }
        let untied = match &file {
            File::Gguf(g) => g.tensor(&TensorKind::Output.name(None)).is_some(),
            File::Checkpoint(c, layout) => has_own_output(c, layout),
        };
        let tensors = tensors(&config, untied);
        let stop_ids = declared_stop_ids(&file, &config)?;
        let mut source =
            Self { path: path.to_owned(), file, config, tensors, stop_ids, left_out: 0 };
        source.left_out = source.check_tensors()?;
        Ok(source)
    }

    /// The path under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.file {
            File::Gguf(g) => Some(g),
            File::Checkpoint(..) => None,
        }
    }

    /// The checkpoint, if it is one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.file {
            File::Gguf(_) => None,
            File::Checkpoint(c, _) => Some(c),
        }
    }

    /// All tensors of the model, in the order in which they are written.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Whether the model has an output matrix that is not the embedding.
    pub fn is_untied(&self) -> bool {
        self.output_kind() == TensorKind::Output
    }

    /// The kind of the output matrix: the embedding, unless the model has an output matrix of its
    /// own.
    pub fn output_kind(&self) -> TensorKind {
        match self.tensors.last().map(|spec| spec.kind) {
            Some(TensorKind::Output) => TensorKind::Output,
            _ => TensorKind::TokenEmbd,
        }
    }

    /// Number of vision tensors, which are left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The tensor of a specification in its file.
    ///
    /// # Panics
    /// If `spec` is not one of [`tensors`](Self::tensors), which were checked on opening.
    pub fn tensor(&self, spec: &TensorSpec) -> TensorView<'_> {
        self.file.find(spec).expect("tensors were checked when the model was opened")
    }

    /// The file that contains `part`, bytes of a tensor, and their range in it.
    pub fn place(&self, part: &[u8]) -> Option<(&Path, Range<usize>)> {
        match &self.file {
            File::Gguf(g) => g.place(part),
            File::Checkpoint(c, _) => c.place(part),
        }
    }

    /// Releases the memory of `part`, bytes of a tensor, until it is read again.
    pub fn release(&self, part: &[u8]) {
        match &self.file {
            File::Gguf(g) => g.release(part),
            File::Checkpoint(c, _) => c.release(part),
        }
    }

    /// Whether the stored values of a tensor are smaller by one than those that the model uses.
    /// That is so for the norms of a checkpoint.
    pub(super) fn lacks_one(&self, spec: &TensorSpec) -> bool {
        matches!(self.file, File::Checkpoint(..)) && spec.role() == Role::Norm
    }

    /// The multipliers of a norm, `[n]`. A GGUF file stores them; a checkpoint stores them minus
    /// one.
    ///
    /// # Errors
    /// If it has values that are NaN or infinite.
    pub fn norm(&self, spec: &TensorSpec) -> Result<Vec<f32>, SourceError> {
        let mut w = vec![0.0; spec.values()];
        self.rows(spec).read(0, &mut w);
        match w.iter().all(|w| w.is_finite()) {
            true => Ok(w),
            false => {
                let name = self.file.name(spec);
                Err(SourceError::NotFinite { path: self.path.clone(), name })
            }
        }
    }

    /// The vocabulary, which has as many pieces as the embedding has rows.
    ///
    /// # Errors
    /// If it cannot be read, or has another size than the embedding.
    pub fn vocab(&self) -> Result<Vocab, SourceError> {
        let vocab = match &self.file {
            File::Gguf(g) => Vocab::from_gguf(g)?,
            File::Checkpoint(c, _) => c.vocab()?,
        };
        let (pieces, rows) = (vocab.pieces.len(), self.config.n_vocab);
        if pieces != rows {
            return Err(SourceError::Vocabulary { path: self.path.clone(), pieces, rows });
        }
        Ok(vocab)
    }

    /// The model's own chat template, if it has one.
    pub fn chat_template(&self) -> Result<Option<String>, SourceError> {
        Ok(match &self.file {
            File::Gguf(g) => g.str("tokenizer.chat_template")?.map(str::to_owned),
            File::Checkpoint(c, _) => c.chat_template()?,
        })
    }

    /// The ids of the tokens that end a text: all that the model declares, including
    /// `<end_of_turn>`.
    pub fn stop_ids(&self, vocab: &Vocab) -> Vec<u32> {
        let mut ids: Vec<u32> = vocab.eos.into_iter().chain(vocab.eot).collect();
        ids.extend(&self.stop_ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Checks that the tensors are those of the configuration. Returns the number of vision
    /// tensors, which are left out.
    fn check_tensors(&self) -> Result<usize, SourceError> {
        let path = || self.path.clone();
        let name = |spec| self.file.name(spec);
        for spec in &self.tensors {
            let view = self
                .file
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
        let known: HashSet<String> = self.tensors.iter().map(name).collect();
        let (architecture, mut left_out) = (self.config.architecture, 0);
        for TensorView { name, .. } in self.file.tensors() {
            if known.contains(name) || self.file.is_ignorable(name) {
                continue;
            }
            if !(architecture.has_vision() && VISION.iter().any(|part| name.starts_with(part))) {
                let (architecture, name) = (architecture.name(), name.to_owned());
                return Err(SourceError::UnknownTensor { path: path(), architecture, name });
            }
            left_out += 1;
        }
        Ok(left_out)
    }
}

fn open_checkpoint(path: &Path) -> Result<(File, Config), SourceError> {
    let c = Checkpoint::open(path)?;
    let config = Config::from_checkpoint(c.config())
        .map_err(|error| SourceError::Config { path: c.config_path(), error })?;
    let layout = Layout::of(&c);
    Ok((File::Checkpoint(Box::new(c), layout), config))
}

fn open_gguf(path: &Path) -> Result<(File, Config), SourceError> {
    let g = Gguf::open(path)?;
    let config = Config::from_gguf(&g).map_err(|error| match error {
        // The error already names the file.
        ConfigError::Gguf(error) => SourceError::Gguf(error),
        error => SourceError::Config { path: path.to_owned(), error },
    })?;
    Ok((File::Gguf(Box::new(g)), config))
}

/// The ids that end a text, except those that the vocabulary names itself.
fn declared_stop_ids(file: &File, config: &Config) -> Result<Vec<u32>, SourceError> {
    let c = match file {
        // The key for the end of a message holds a third id. If its value is not a number, it is
        // ignored.
        File::Gguf(g) => {
            let id = g.u32("tokenizer.ggml.eom_token_id").ok().flatten();
            return Ok(id.into_iter().collect());
        }
        File::Checkpoint(c, _) => c,
    };
    let checked = |id: &i64| match u32::try_from(*id) {
        Ok(n) if (n as usize) < config.n_vocab => Ok(n),
        _ => {
            let rule = format!("the vocabulary has {} pieces", config.n_vocab);
            let (key, value) = ("eos_token_id".to_owned(), id.to_string());
            let error = ConfigError::Value { key, value, rule };
            Err(SourceError::Config { path: c.stop_ids().path.clone(), error })
        }
    };
    c.stop_ids().ids.iter().map(checked).collect()
}

/// Whether the checkpoint's `lm_head.weight` differs from its embedding. Some fine-tunes have an
/// output matrix of their own, and some checkpoints store a copy of the embedding. `config.json`
/// does not say reliably which is the case, so the bytes decide.
fn has_own_output(c: &Checkpoint, layout: &Layout) -> bool {
    let embd = c.tensor(&format!("{}embed_tokens.weight", layout.model));
    match (c.tensor(layout.lm_head), embd) {
        (Some(output), Some(embd)) => output.ty != embd.ty || output.data != embd.data,
        _ => false,
    }
}
