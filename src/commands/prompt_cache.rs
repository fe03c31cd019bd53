//! `run --prompt-cache`: a session that is saved for the next run.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use clap::Args;
use lapidary::chat::Turn;
use lapidary::generate::Session;
use lapidary::model::{ModelError, RowSource, Saved, Source, State};
use tempfile::NamedTempFile;

use super::interrupt;

/// Bytes that are read or written at a time.
const BUFFER: usize = 1 << 20;

/// What becomes of a sequence when its context is full, and when it ends.
#[derive(Args, Debug)]
pub struct SessionArgs {
    /// When the context is full, forget the oldest half of the text, or the oldest messages of a
    /// conversation, and go on
    #[arg(long)]
    pub context_shift: bool,
    /// Go on from what FILE holds of an earlier run, and save to it what this one has read and
    /// written; a conversation goes on where it was left
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
}

impl SessionArgs {
    /// The file, if one was named.
    pub fn prompt_cache(&self, source: &Source) -> anyhow::Result<Option<PromptCache>> {
        self.prompt_cache.as_deref().map(|path| PromptCache::new(path, source)).transpose()
    }
}

/// A file that sessions of one model are saved in.
pub struct PromptCache {
    path: PathBuf,
    /// The model's.
    fingerprint: String,
}

impl PromptCache {
    fn new(path: &Path, source: &Source) -> anyhow::Result<Self> {
        let cache = Self { path: path.to_owned(), fingerprint: source.fingerprint()? };
        // Rather now than when everything has been evaluated.
        cache.temporary().with_context(|| cache.cannot_save())?;
        Ok(cache)
    }

    /// Puts what the file holds in the place of `session`; gives the turns of its conversation.
    /// Without a file there is nothing to do.
    ///
    /// # Errors
    /// If the file is anything else than a session of this model and these settings.
    pub fn restore(&self, session: &mut Session<'_>) -> anyhow::Result<Vec<Turn>> {
        let name = || self.path.display().to_string();
        // Asked before opening, which would wait for the other end of a pipe.
        let len = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(name),
            Ok(metadata) if !metadata.is_file() => bail!("{}: is not a regular file", name()),
            Ok(metadata) => metadata.len(),
        };
        let from = BufReader::with_capacity(BUFFER, File::open(&self.path).with_context(name)?);
        let (model, state) = (session.model(), session.state());
        let saved = State::restore(model.config(), *state.options(), &self.fingerprint, from, len);
        let Saved { state, ids, note } = saved.with_context(name)?;
        let turns = match note.as_str() {
            "" => Vec::new(),
            note => serde_json::from_str(note)
                .with_context(|| format!("{}: its conversation makes no sense", name()))?,
        };
        session.resume(state, ids);
        Ok(turns)
    }

    /// Saves `session`, and the `turns` of its conversation: under another name first, so that
    /// there is always a whole file. Only its owner may read it. Ctrl-C leaves the file as it was.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, session: &Session<'_>, turns: &[Turn]) -> anyhow::Result<()> {
        let (state, ids) = (session.state(), session.ids());
        if ids.is_empty() {
            return Ok(());
        }
        let note = if turns.is_empty() { String::new() } else { serde_json::to_string(turns)? };
        interrupt::clear();
        let saved = || -> io::Result<()> {
            let out = UntilInterrupted(self.temporary()?);
            let out = BufWriter::with_capacity(BUFFER, out);
            let out = state.save(&self.fingerprint, ids, &note, out)?;
            let UntilInterrupted(file) =
                out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        saved().with_context(|| self.cannot_save())
    }

    /// Saves after a session that came to its end or to an error, such as a reader that went away, which
    /// says more than that it cannot be saved. Only what the model itself failed on is no sequence.
    ///
    /// # Errors
    /// What it ended with, or that it cannot be saved.
    pub fn save_after<T>(
        &self,
        session: &Session<'_>,
        turns: &[Turn],
        ended: anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if ended.as_ref().is_err_and(|error| error.is::<ModelError>()) {
            return ended;
        }
        let saved = self.save(session, turns);
        let ended = ended?;
        saved.map(|()| ended)
    }

    fn cannot_save(&self) -> String {
        format!("{}: cannot save the session", self.path.display())
    }

    /// A new file beside it, mode 0600, which is gone when it is dropped.
    fn temporary(&self) -> io::Result<NamedTempFile> {
        let dir = match self.path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        tempfile::Builder::new().prefix(".lapidary-session-").tempfile_in(dir)
    }
}

/// A file that is written until Ctrl-C is pressed.
struct UntilInterrupted(NamedTempFile);

impl Write for UntilInterrupted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // No `ErrorKind::Interrupted`, after which it would be tried again.
        interrupt::check().map_err(io::Error::other)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
