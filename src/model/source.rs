//! Where a model comes from: a GGUF file or a checkpoint directory, seen alike.

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

/// An opened model with everything checked that can be without reading the weights: its tensors
/// are all there and have the shapes that its configuration asks for.
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

/// Where the tensors of the text model lie in a checkpoint.
#[derive(Debug)]
struct Layout {
    /// What stands for `model.` in their names.
    model: &'static str,
    /// What the output matrix is called.
    lm_head: &'static str,
}

/// All text; beside other parts, as the checkpoints of Gemma 3 were published; and as transformers has
/// written them since 4.52.
const LAYOUTS: [Layout; 3] = [
    Layout { model: "model.", lm_head: "lm_head.weight" },
    Layout { model: "language_model.model.", lm_head: "language_model.lm_head.weight" },
    Layout { model: "model.language_model.", lm_head: "lm_head.weight" },
];

/// What the names of tensors begin with that read images: in checkpoints, and in GGUF files that hold
/// text and vision together, as Ollama writes them.
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
    /// All tensors, in the files' order.
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
    /// Its configuration cannot be used.
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
    #[error("{}: tensor `{}` is not part of a {architecture} model", path.display(), Printable::new(name))]
    UnknownTensor {
        /// The model.
        path: PathBuf,
        /// What the model says that it is.
        architecture: &'static str,
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
    ///
    /// # Errors
    /// If it cannot be read, is no model of the Gemma family, lacks a tensor, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let (file, config) = match std::fs::metadata(path).map_err(io)?.is_dir() {
            true => open_checkpoint(path)?,
            false => open_gguf(path)?,
        };
        // Nothing larger than a model of so many tensors is described.
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

    /// The path it was opened under.
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

    /// Every tensor of the model, in the order in which they are written.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Whether the output matrix is not the embedding.
    pub fn is_untied(&self) -> bool {
        self.output_kind() == TensorKind::Output
    }

    /// The kind of tensor that gives the logits: the embedding, unless the model has an output matrix of
    /// its own.
    pub fn output_kind(&self) -> TensorKind {
        match self.tensors.last().map(|spec| spec.kind) {
            Some(TensorKind::Output) => TensorKind::Output,
            _ => TensorKind::TokenEmbd,
        }
    }

    /// How many tensors are left out because they read images.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The tensor of a specification, as it lies in the file.
    ///
    /// # Panics
    /// If `spec` is not one of [`tensors`](Self::tensors), which were checked on opening.
    pub fn tensor(&self, spec: &TensorSpec) -> TensorView<'_> {
        self.file.find(spec).expect("tensors were checked when the model was opened")
    }

    /// The file that a part of a tensor lies in, and where.
    pub fn place(&self, part: &[u8]) -> Option<(&Path, Range<usize>)> {
        match &self.file {
            File::Gguf(g) => g.place(part),
            File::Checkpoint(c, _) => c.place(part),
        }
    }

    /// Gives back the memory of a part of a tensor, until it is read again.
    pub fn release(&self, part: &[u8]) {
        match &self.file {
            File::Gguf(g) => g.release(part),
            File::Checkpoint(c, _) => c.release(part),
        }
    }

    /// Whether the values of a tensor are one less than the model computes with: a checkpoint's norms.
    pub(super) fn lacks_one(&self, spec: &TensorSpec) -> bool {
        matches!(self.file, File::Checkpoint(..)) && spec.role() == Role::Norm
    }

    /// The multipliers of a norm, `[n]`: what a GGUF file holds, one more than a checkpoint holds.
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

    /// The vocabulary, as large as the embedding.
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

    /// The model's chat template, if it brings one.
    pub fn chat_template(&self) -> Result<Option<String>, SourceError> {
        Ok(match &self.file {
            File::Gguf(g) => g.str("tokenizer.chat_template")?.map(str::to_owned),
            File::Checkpoint(c, _) => c.chat_template()?,
        })
    }

    /// The token ids that end a text: those that the model declares, `<end_of_turn>` among them.
    pub fn stop_ids(&self, vocab: &Vocab) -> Vec<u32> {
        let mut ids: Vec<u32> = vocab.eos.into_iter().chain(vocab.eot).collect();
        ids.extend(&self.stop_ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether the tensors are those of the configuration; gives how many others are left out.
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
            if known.contains(name) || is_ignorable(name) {
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
        // It names the file by itself.
        ConfigError::Gguf(error) => SourceError::Gguf(error),
        error => SourceError::Config { path: path.to_owned(), error },
    })?;
    Ok((File::Gguf(Box::new(g)), config))
}

/// The ids that end a text, as far as the vocabulary does not name them itself.
fn declared_stop_ids(file: &File, config: &Config) -> Result<Vec<u32>, SourceError> {
    let c = match file {
        // End of message: where a third id is kept. One that is no number ends nothing.
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

/// Tensors that carry nothing the configuration does not: a tied output matrix written out, RoPE's
/// frequencies. (GGUF's `rope_freqs.weight` changes them, and is refused as unknown.)
fn is_ignorable(name: &str) -> bool {
    LAYOUTS.iter().any(|layout| layout.lm_head == name) || name.ends_with("rotary_emb.inv_freq")
}

/// Whether the checkpoint's `lm_head.weight` says something else than its embedding. Fine-tunes
/// with an output matrix of their own exist, and so do checkpoints that write the tied one out;
/// `config.json` is not reliable on which, so the bytes decide.
fn has_own_output(c: &Checkpoint, layout: &Layout) -> bool {
    let embd = c.tensor(&format!("{}embed_tokens.weight", layout.model));
    match (c.tensor(layout.lm_head), embd) {
        (Some(output), Some(embd)) => output.ty != embd.ty || output.data != embd.data,
        _ => false,
    }
}
