//! The files of a model: a GGUF file or a checkpoint directory, with the same interface for both.

mod error;
mod layout;
mod note;
mod stop_ids;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use error::SourceError;
pub use note::Note;
pub use stop_ids::STOP_IDS_KEY;

use lapidary_formats::checkpoint::Checkpoint;
use lapidary_formats::gguf::Gguf;
use lapidary_formats::map::MappedFile;
use lapidary_formats::tensor::TensorView;
use lapidary_formats::vocab::Vocab;

use super::config::{Config, ConfigError};
use super::tensors::{tensors, Role, TensorKind, TensorSpec};
use super::{RowSource, WrongPath};
use layout::Layout;
use stop_ids::declared_stop_ids;

/// An opened model. Everything that can be checked without reading the weights has been checked:
/// all tensors exist and have the shapes that the configuration asks for.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    config: Config,
    tensors: Vec<TensorSpec>,
    stop_ids: Vec<u32>,
    notes: Vec<Note>,
}

#[derive(Debug)]
enum File {
    Gguf(Box<Gguf>),
    Checkpoint(Box<Checkpoint>, Layout),
}

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

    /// Whether a tensor adds nothing to the configuration and the tensors of the model: an output
    /// matrix that is the embedding or has to give way to it, or RoPE's frequencies. (GGUF's
    /// `rope_freqs.weight` changes them, and is refused as unknown.)
    fn is_ignorable(&self, name: &str) -> bool {
        match self {
            Self::Gguf(_) => false,
            Self::Checkpoint(_, layout) => {
                layout.lm_head.as_deref() == Some(name) || name.ends_with("rotary_emb.inv_freq")
            }
        }
    }
}

impl Source {
    /// Opens a GGUF file (or any file of a split one) or a checkpoint directory.
    ///
    /// # Errors
    /// If it cannot be read, is not a model of the Gemma family, lacks a tensor, or contradicts
    /// itself.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let io = |error: std::io::Error| match WrongPath::of_missing(path) {
            Some(wrong) if error.kind() == std::io::ErrorKind::NotFound => {
                SourceError::WrongPath { path: path.to_owned(), error: wrong }
            }
            _ => SourceError::Io { path: path.to_owned(), error },
        };
        let opened = match std::fs::metadata(path).map_err(io)?.is_dir() {
            true => open_checkpoint(path),
            false => open_gguf(path),
        };
        let (file, config) = opened.map_err(|error| match WrongPath::of(path) {
            Some(error) => SourceError::WrongPath { path: path.to_owned(), error },
            None => error,
        })?;
        // Checked before a list of the tensors is made, so that a false number of layers cannot
        // make it huge.
        let (layers, found) = (config.n_layer(), file.tensors().count());
        if layers > found {
            return Err(SourceError::Layers { path: path.to_owned(), layers, tensors: found });
        }
        let mut notes = Vec::new();
        let untied = match &file {
            File::Gguf(g) => g.tensor(&TensorKind::Output.name(None)).is_some(),
            File::Checkpoint(c, layout) => {
                checkpoint_notes(c, &mut notes);
                is_untied(c, layout, &mut notes)
            }
        };
        let tensors = tensors(&config, untied);
        let stop_ids = declared_stop_ids(&file, &config, &mut notes)?;
        let mut source = Self { path: path.to_owned(), file, config, tensors, stop_ids, notes };
        match source.check_tensors()? {
            0 => {}
            vision => source.notes.insert(0, Note::Vision(vision)),
        }
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

    /// What is left out or taken in another way than the files say. The vocabulary has its own list
    /// ([`Vocab::left_out`]).
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The tensor of a specification in its file.
    ///
    /// # Panics
    /// If `spec` is not one of [`tensors`](Self::tensors), which were checked on opening.
    pub fn tensor(&self, spec: &TensorSpec) -> TensorView<'_> {
        self.file.find(spec).expect("tensors were checked when the model was opened")
    }

    /// The files of the weights. A GGUF file's metadata are in the first.
    pub fn maps(&self) -> Box<dyn Iterator<Item = &MappedFile> + '_> {
        match &self.file {
            File::Gguf(g) => Box::new(g.maps()),
            File::Checkpoint(c, _) => Box::new(c.maps()),
        }
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

    /// The ids of the tokens that end a text: all that the model declares, and, as in llama.cpp, the
    /// ends that its vocabulary has ([`Vocab::ends`]). Fine-tunes often leave `<eos>` declared and end
    /// their turns with `<|im_end|>`.
    pub fn stop_ids(&self, vocab: &Vocab) -> Vec<u32> {
        let mut ids: Vec<u32> = vocab.eos.into_iter().chain(vocab.eot).collect();
        ids.extend(vocab.ends());
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

/// What is unusual about a checkpoint's files.
fn checkpoint_notes(c: &Checkpoint, notes: &mut Vec<Note>) {
    let keys = Config::unknown_keys(c.config());
    let found = [
        (c.lacks_index(), Note::NoIndex),
        (c.config().quantized, Note::QuantizationConfig),
        (!keys.is_empty(), Note::UnknownKeys(keys)),
    ];
    notes.extend(found.into_iter().filter(|(is_so, _)| *is_so).map(|(_, note)| note));
}

/// Whether a checkpoint has an output matrix of its own. As in transformers, one that differs from
/// the embedding gives way to it if the configuration says that the two are one.
fn is_untied(c: &Checkpoint, layout: &Layout, notes: &mut Vec<Note>) -> bool {
    let (tied, differs) = (c.config().tie_word_embeddings, layout.has_own_output(c));
    if tied && differs {
        notes.push(Note::OutputMatrix);
    }
    if !tied && layout.lm_head.is_none() {
        notes.push(Note::NoOutputMatrix);
    }
    !tied && differs
}
