//! `run --prompt-cache`: saves a session for the next run.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use clap::Args;
use lapidary::chat::Turn;
use lapidary::generate::Session;
use lapidary::model::{Extent, ModelError, RowSource, Saved, Source, State};
use lapidary_formats::session::MAGIC;
use tempfile::NamedTempFile;

use super::interrupt;
use super::new_file::new_file_beside;

/// Bytes per read or write.
const BUFFER: usize = 1 << 20;

/// What happens when the context is full, and whether the session is saved.
#[derive(Args, Debug)]
pub struct SessionArgs {
    /// When the context is full, forget the oldest half of the text, or the oldest messages of a
    /// conversation, and continue
    #[arg(long)]
    pub context_shift: bool,
    /// Continue from the session that an earlier run saved in FILE, and save this run's session
    /// there; a conversation continues where it ended
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
}

impl SessionArgs {
    /// The session file, if one was named.
    pub fn prompt_cache(&self, source: &Source) -> anyhow::Result<Option<PromptCache>> {
        self.prompt_cache.as_deref().map(|path| PromptCache::new(path, source)).transpose()
    }
}

/// A file in which a session of one model is saved.
pub struct PromptCache {
    path: PathBuf,
    /// The fingerprint of the model.
    fingerprint: String,
}

impl PromptCache {
    fn new(path: &Path, source: &Source) -> anyhow::Result<Self> {
        if path.is_symlink() && !path.exists() {
            bail!(
                "{}: is a symbolic link to a file that does not exist; delete it, or name that file",
                path.display()
            );
        }
        let cache =
            Self { path: path.to_owned(), fingerprint: source.fingerprint(Extent::Sample)? };
        // Finds out now, and not after the whole evaluation, if the file cannot be written.
        cache.temporary().with_context(|| cache.cannot_save())?;
        Ok(cache)
    }

    /// Replaces `session` with the saved one and returns the turns of its conversation. If there is
    /// no file, does nothing and returns no turns.
    ///
    /// # Errors
    /// If the file is not a session of this model with these settings.
    pub fn restore(&self, session: &mut Session<'_>) -> anyhow::Result<Vec<Turn>> {
        let name = || self.path.display().to_string();
        // Checked before opening, because opening a pipe would wait for its other end.
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
            note => serde_json::from_str(note).with_context(|| {
                format!(
                    "{}: the conversation in it cannot be read; delete it to start over",
                    name()
                )
            })?,
        };
        session.resume(state, ids);
        Ok(turns)
    }

    /// Saves `session` and the `turns` of its conversation. Writes to a temporary file first, so
    /// that there is a complete file at any time. Only its owner may read it. Ctrl-C leaves the old
    /// file as it was.
    ///
    /// # Errors
    /// If the file cannot be written.
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
            // Whatever got this name since the run began, and is no session, is kept.
            match begins_like_a_session(&self.path) {
                Ok(true) => file.persist(&self.path)?,
                _ => file.persist_noclobber(&self.path)?,
            };
            Ok(())
        };
        saved().with_context(|| self.cannot_save())
    }

    /// Saves the session after a run that returned `ended`, also if that is an error, for example
    /// because the reader of the output went away. An error of the model is the exception, because
    /// its sequence is of no use. If both the run and saving fail, the run's error is returned, as
    /// it says more.
    ///
    /// # Errors
    /// The run's error, or that the session cannot be saved.
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

    /// Creates the file that gets the session file's name when it is complete.
    fn temporary(&self) -> io::Result<NamedTempFile> {
        new_file_beside(&self.path, ".lapidary-session-")
    }
}

/// Whether the file at `path` begins as sessions do.
fn begins_like_a_session(path: &Path) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    // Checked before opening, because opening a pipe would wait for its other end.
    let is_file = std::fs::metadata(path)?.is_file();
    Ok(is_file && File::open(path)?.read_exact(&mut magic).is_ok() && magic == MAGIC)
}

/// A file whose writes fail once Ctrl-C has been pressed.
struct UntilInterrupted(NamedTempFile);

impl Write for UntilInterrupted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not `ErrorKind::Interrupted`: callers would try again.
        interrupt::check().map_err(io::Error::other)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
