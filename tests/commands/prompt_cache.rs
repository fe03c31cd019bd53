//! `lapidary run --prompt-cache`: what a run evaluates again, and what files it refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lapidary_formats::session::Reader;
use serde_json::Value;
use tempfile::TempDir;

use crate::directory::names;
use crate::fixtures::{held_out, micro, tiny};

const PROMPT: &str = "And it came to pass, when";

/// A folder with the file of a session in it.
struct Cache {
    dir: TempDir,
    path: PathBuf,
}

impl Cache {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("session");
        Self { dir, path }
    }

    /// Runs greedily, so that the text depends on nothing but the model.
    fn output(&self, model: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command.arg("run").arg(model).args(["--temp", "0", "--json", "--prompt-cache"]);
        command.arg(&self.path).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Value {
        let output = self.output(&tiny(), args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What is said about a file that is not taken. It stays as it is, and nothing else is left.
    fn refused(&self, model: &Path, args: &[&str]) -> String {
        let before = std::fs::read(&self.path).ok();
        let output = self.output(model, args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_eq!(std::fs::read(&self.path).ok(), before);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line = stderr.strip_suffix('\n').unwrap();
        assert_eq!(line.lines().count(), 1, "{stderr}");
        let name = format!("lapidary: {}: ", self.path.display());
        line.strip_prefix(&name).unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }
}

fn count(found: &Value, key: &str) -> u64 {
    found[key].as_u64().unwrap_or_else(|| panic!("{key} in {found}"))
}

#[test]
fn a_second_run_evaluates_one_token() {
    for kv in ["f16", "q8_0", "f32"] {
        let cache = Cache::new();
        let args = ["-p", PROMPT, "-n", "16", "--kv", kv];
        let first = cache.run(&args);
        assert_eq!(first["prompt_evaluated"], first["prompt_tokens"]);
        for _ in 0..2 {
            let second = cache.run(&args);
            assert_eq!(second["prompt_evaluated"], 1);
            assert_eq!(second["text"], first["text"]);
        }
        assert_eq!(cache.names(), ["session"]);
    }
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_session_file() {
    use std::os::unix::fs::PermissionsExt;
    let cache = Cache::new();
    let mode = || std::fs::metadata(&cache.path).unwrap().permissions().mode() & 0o777;
    cache.run(&["-p", PROMPT, "-n", "1"]);
    assert_eq!(mode(), 0o600);
    // Neither what others could read before.
    std::fs::set_permissions(&cache.path, PermissionsExt::from_mode(0o644)).unwrap();
    cache.run(&["-p", PROMPT, "-n", "1"]);
    assert_eq!(mode(), 0o600);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_session_so_far() {
    use std::io::Read;
    let cache = Cache::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(tiny()).args(["-p", PROMPT, "-n", "-1", "--ctx", "100000"]);
    command.arg("--prompt-cache").arg(&cache.path).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(cache.names(), ["session"]);
    // Whole, and with the prompt: how much more there is, no one knows.
    let file = std::fs::read(&cache.path).unwrap();
    let held = Reader::new(&file[..], file.len() as u64).unwrap().header().ids.clone();
    let found = cache.run(&["-p", PROMPT, "-n", "1", "--ctx", "100000"]);
    assert!(held.len() as u64 >= count(&found, "prompt_tokens"));
}

/// A text that goes on where the last one ended, and one that has only its beginning in common.
#[test]
fn the_common_beginning_of_prompts_is_reused() {
    let cache = Cache::new();
    let first = cache.run(&["-p", PROMPT, "-n", "16"]);
    let answer = first["text"].as_str().unwrap();
    let longer = format!("{PROMPT}{answer} and David went up to the house");
    let other = format!("{PROMPT} Saul was dead");
    for (prompt, at_least) in [(&longer, 20), (&other, 6)] {
        let found = cache.run(&["-p", prompt, "-n", "8"]);
        let known = count(&found, "prompt_tokens") - count(&found, "prompt_evaluated");
        assert!(known >= at_least, "{found}");
        let fresh = Cache::new().run(&["-p", prompt, "-n", "8"]);
        assert_eq!(found["text"], fresh["text"]);
    }
    // Nothing but BOS, and other options: whatever was saved, the text is a fresh run's.
    let chat = ["--chat", "-p", "And who art thou?", "-n", "8", "--threads", "1"];
    let found = cache.run(&chat);
    assert_eq!(count(&found, "prompt_tokens") - count(&found, "prompt_evaluated"), 1);
    assert_eq!(found["text"], Cache::new().run(&chat)["text"]);
}

/// Its window is 64 and its rings hold 768 positions; the text is longer.
#[test]
fn rings_that_wrapped_are_saved_too() {
    let text: String = std::fs::read_to_string(held_out()).unwrap().chars().take(3000).collect();
    let cache = Cache::new();
    let args = ["-p", &text, "-n", "30"];
    let first = cache.run(&args);
    assert!(count(&first, "prompt_tokens") > 800, "{first}");
    let second = cache.run(&args);
    assert_eq!(second["prompt_evaluated"], 1);
    assert_eq!(second["text"], first["text"]);
    // Back before what the rings still have.
    let beginning: String = text.chars().take(300).collect();
    let args = ["-p", &beginning, "-n", "30"];
    let found = cache.run(&args);
    assert_eq!(found["prompt_evaluated"], found["prompt_tokens"]);
    assert_eq!(found["text"], Cache::new().run(&args)["text"]);
}

#[test]
fn a_shifted_context_is_saved_as_it_is() {
    let cache = Cache::new();
    let args = ["-p", PROMPT, "-n", "60", "--ctx", "24", "--context-shift"];
    let first = cache.run(&args);
    assert!(count(&first, "shifts") > 1);
    let second = cache.run(&args);
    assert_eq!(second["text"], first["text"]);
    // The beginning of the text is gone, but for BOS.
    assert_eq!(count(&second, "prompt_evaluated"), count(&second, "prompt_tokens") - 1);
}

#[test]
fn a_session_fits_any_context_that_is_long_enough() {
    let cache = Cache::new();
    let args = ["-p", PROMPT, "-n", "16"];
    let first = cache.run(&args);
    let tokens = count(&first, "prompt_tokens") + 15;
    let again = |ctx: u64| [&args[..], &["--ctx", &ctx.to_string()]].concat().join("\n");
    for ctx in [tokens, 600] {
        let args = again(ctx);
        let found = cache.run(&args.split('\n').collect::<Vec<_>>());
        assert_eq!((&found["prompt_evaluated"], &found["text"]), (&1.into(), &first["text"]));
    }
    let args = again(tokens - 1);
    let error = cache.refused(&tiny(), &args.split('\n').collect::<Vec<_>>());
    assert_eq!(error, format!("has {tokens} tokens, but the context holds {}", tokens - 1));
}

#[test]
fn sessions_of_other_models_and_cache_types_are_refused() {
    let cache = Cache::new();
    cache.run(&["-p", PROMPT, "-n", "4"]);
    let args = ["-p", PROMPT, "-n", "4"];
    assert_eq!(cache.refused(&micro(), &args), "was saved by another model");
    let q8_0 = [&args[..], &["--kv", "q8_0"]].concat();
    assert_eq!(cache.refused(&tiny(), &q8_0), "was saved with a KV cache of type f16, not q8_0");
    // The same model in another file has other values.
    let file = cache.dir.path().join("tiny.gguf");
    let mut convert = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    convert.arg("convert").arg(tiny()).args(["-q", "Q8_0", "-o"]).arg(&file);
    assert!(convert.output().unwrap().status.success());
    assert_eq!(cache.refused(&file, &args), "was saved by another model");
}

#[test]
fn damaged_files_are_refused() {
    let cache = Cache::new();
    let args = ["-p", PROMPT, "-n", "4"];
    cache.run(&args);
    let whole = std::fs::read(&cache.path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&cache.path, bytes).unwrap();
        cache.refused(&tiny(), &args)
    };
    for bytes in [&b""[..], b"GGUF\x03\0\0\0 and more than twenty bytes"] {
        assert_eq!(refused(bytes), "is not a saved session; name another file");
    }
    let cut = refused(&whole[..whole.len() - 1]);
    assert!(cut.starts_with("is damaged: it has"), "{cut}");
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        refused(&bytes)
    };
    let version = changed(8);
    let expected =
        "is a session of version 0, but this program reads version 1; delete it to start over";
    assert_eq!(version, expected);
    let damaged = |part| {
        format!("is damaged: the checksum of its {part} does not match; delete it to start over")
    };
    assert_eq!(changed(30), damaged("header"));
    for at in [whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        assert_eq!(changed(at), damaged("rows"));
    }
    std::fs::write(&cache.path, &whole).unwrap();
    assert_eq!(cache.run(&args)["prompt_evaluated"], 1);
}

#[test]
fn a_path_that_cannot_be_written_is_reported_before_evaluation() {
    let mut cache = Cache::new();
    let args = ["-p", PROMPT, "-n", "4"];
    cache.path = cache.dir.path().to_owned();
    assert_eq!(cache.refused(&tiny(), &args), "is not a regular file");
    cache.path = cache.dir.path().join("nowhere/session");
    let error = cache.refused(&tiny(), &args);
    assert!(error.starts_with("cannot save the session"), "{error}");
}

/// A disk that runs full, as far as a limit on the size of files can play it: what was saved before
/// stays, and nothing is left beside it.
#[cfg(unix)]
#[test]
fn a_save_that_fails_leaves_the_file_as_it_was() {
    let cache = Cache::new();
    cache.run(&["-p", PROMPT, "-n", "1"]);
    let before = std::fs::read(&cache.path).unwrap();
    // Without the trap the system ends the process instead of failing the write. 16 blocks are 8 or
    // 16 kB, 60 tokens some 100.
    let script = r#"trap '' XFSZ; ulimit -f 16; exec "$0" run "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_lapidary")]).arg(tiny());
    command.args(["-p", PROMPT, "-n", "60", "--temp", "0", "--prompt-cache"]).arg(&cache.path);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // The answer was there before.
    assert!(output.stdout.len() > 60, "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line = stderr.lines().last().unwrap();
    let expected = format!("lapidary: {}: cannot save the session: ", cache.path.display());
    assert!(line.starts_with(&expected) && line.contains("too large"), "{stderr}");
    assert_eq!(cache.names(), ["session"]);
    assert!(std::fs::read(&cache.path).unwrap() == before);
}

#[test]
#[cfg(unix)]
fn a_session_is_saved_when_the_reader_of_the_output_goes_away() {
    use std::io::Read;
    let cache = Cache::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(tiny()).args(["--temp", "0", "-p", PROMPT, "-n", "-1"]);
    command.args(["--ctx", "100000", "--prompt-cache"]).arg(&cache.path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 20]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cache.names(), ["session"]);
    let known = cache.run(&["-p", PROMPT, "-n", "3"]);
    assert!(known["prompt_evaluated"].as_u64() < known["prompt_tokens"].as_u64(), "{known}");
}

#[test]
#[cfg(unix)]
fn what_is_no_session_is_never_replaced() {
    let cache = Cache::new();
    std::os::unix::fs::symlink("nothing", &cache.path).unwrap();
    assert!(cache.refused(&tiny(), &["-p", PROMPT]).contains("is a symbolic link to a file that"));
    std::fs::remove_file(&cache.path).unwrap();

    // A file that gets the name while the model writes.
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(tiny()).args(["-p", PROMPT, "-n", "-1", "--ctx", "100000"]);
    command.arg("--prompt-cache").arg(&cache.path).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    std::fs::write(&cache.path, "somebody's file").unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("session: cannot save the session: File exists"), "{stderr}");
    assert_eq!(std::fs::read(&cache.path).unwrap(), b"somebody's file");
    assert_eq!(cache.names(), ["session"]);
}

/// Another name of a session keeps what it had.
#[test]
fn a_hard_link_to_a_session_is_not_written_to() {
    let cache = Cache::new();
    cache.run(&["-p", PROMPT, "-n", "1"]);
    let (before, link) = (std::fs::read(&cache.path).unwrap(), cache.dir.path().join("link"));
    std::fs::hard_link(&cache.path, &link).unwrap();
    cache.run(&["-p", PROMPT, "-n", "5"]);
    assert_eq!(std::fs::read(&link).unwrap(), before);
    assert_ne!(std::fs::read(&cache.path).unwrap(), before);
}
