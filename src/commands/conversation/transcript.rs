//! Saves and loads conversations as readable files: a JSON array of messages, as in OpenAI's API.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{bail, Context};
use lapidary::chat::{Message, Role, Turn};

use crate::commands::new_file::new_file_beside;
use crate::commands::text::MARK;

/// Largest file that is read, in bytes: many times what a context holds.
const MAX_FILE: u64 = 64 << 20;

/// Writes a conversation. With `overwrite`, it replaces a file that holds a conversation, and no
/// other file. The name is given to a new file when that is complete: other names of the old file
/// (hard links) keep the old contents.
pub fn save(
    path: &Path,
    system: Option<&str>,
    turns: &[Turn],
    overwrite: bool,
) -> anyhow::Result<()> {
    let system = system.map(|text| Turn::new(Role::System, text).message);
    let messages: Vec<_> =
        system.into_iter().chain(turns.iter().map(|turn| turn.message.clone())).collect();
    let text = serde_json::to_string_pretty(&messages)?;
    if overwrite && fs::symlink_metadata(path).is_ok() && load(path).is_err() {
        bail!("{}: is not a saved conversation, so it is not replaced", path.display());
    }
    let saved = || -> io::Result<()> {
        let mut file = new_file_beside(path, ".lapidary-conversation-")?;
        writeln!(file, "{text}")?;
        file.as_file().sync_all()?;
        match overwrite {
            true => file.persist(path)?,
            false => file.persist_noclobber(path)?,
        };
        Ok(())
    };
    match saved() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{0} exists already; /save! {0} replaces it", path.display())
        }
        saved => saved.with_context(|| path.display().to_string()),
    }
}

/// Reads a conversation. Returns the text of the system message, if there is one, and the other
/// messages, in which user and assistant must alternate.
pub fn load(path: &Path) -> anyhow::Result<(Option<String>, Vec<Turn>)> {
    let read = || -> anyhow::Result<_> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            bail!("it is not a file of at most {} MB", MAX_FILE >> 20);
        }
        let text = fs::read_to_string(path)?;
        let text = text.strip_prefix(MARK).unwrap_or(&text);
        let messages: Vec<Message> = serde_json::from_str(text)
            .context(r#"it is not an array of messages, [{"role": "user", "content": "…"}, …]"#)?;
        let mut turns: Vec<_> =
            messages.into_iter().map(|message| Turn { message, ids: None }).collect();
        let system = turns.first().is_some_and(|turn| turn.message.role == Role::System);
        let system = system.then(|| turns.remove(0).message.content);
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        if turns.iter().zip(roles).any(|(turn, role)| turn.message.role != role) {
            bail!(
                "its user and assistant messages must alternate, after at most one system message"
            );
        }
        Ok((system, turns))
    };
    read().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_conversation_loads_and_is_replaced_only_on_request() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("chat.json");
        let turns = vec![
            Turn::new(Role::User, "Who art thou?\n\"Ä\""),
            Turn::answer("I am he.", vec![1, 2]),
            Turn::new(Role::User, "Whence?"),
        ];
        save(&path, Some("Be brief."), &turns, false).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("[\n  {\n    \"role\": \"system\",\n    \"content\": \"Be brief.\"")
        );
        assert!(!text.contains("ids"), "{text}");
        let (system, loaded) = load(&path).unwrap();
        assert_eq!(system.as_deref(), Some("Be brief."));
        let messages = |turns: &[Turn]| -> Vec<Message> {
            turns.iter().map(|turn| turn.message.clone()).collect()
        };
        assert_eq!(messages(&loaded), messages(&turns));
        let error = save(&path, None, &[], false).unwrap_err().to_string();
        assert!(error.contains("/save! "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        save(&path, None, &[], true).unwrap();
        assert_eq!(load(&path).unwrap(), (None, Vec::new()));
    }

    #[test]
    fn only_a_conversation_is_replaced() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let turns = [Turn::new(Role::User, "Who art thou?")];
        for contents in ["GGUF and a model", "", "{}", "my notes"] {
            fs::write(path("other"), contents).unwrap();
            let error = save(&path("other"), None, &turns, true).unwrap_err().to_string();
            assert!(error.contains("other: is not a saved conversation"), "{error}");
            assert_eq!(fs::read_to_string(path("other")).unwrap(), contents);
        }
        save(&path("a.json"), None, &[], true).unwrap();
        let before = fs::read_to_string(path("a.json")).unwrap();
        fs::hard_link(path("a.json"), path("b.json")).unwrap();
        save(&path("a.json"), None, &turns, true).unwrap();
        assert_eq!(load(&path("a.json")).unwrap().1, turns);
        assert_eq!(fs::read_to_string(path("b.json")).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn files_that_are_not_conversations_are_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("chat.json");
        for (text, part) in [
            ("", "not an array of messages"),
            ("{}", "not an array of messages"),
            (r#"[{"role": "tool", "content": "x"}]"#, "not an array of messages"),
            (r#"[{"role": "user"}]"#, "not an array of messages"),
            (r#"[{"role": "assistant", "content": "x"}]"#, "must alternate"),
            (
                r#"[{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]"#,
                "alternate",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains(part) && error.contains("chat.json"), "{text}: {error}");
        }
        assert!(load(dir.path()).is_err());
        assert!(load(&dir.path().join("none")).is_err());
    }
}
