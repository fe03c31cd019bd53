//! The command line on bad input: exit code 1, one line on stderr that names the file and the
//! cause, nothing half-written left behind.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::directory::{copy_of, names};
use crate::fixtures::{held_out, tiny};

fn lapidary<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(args);
    command
}

/// Runs a command that has to fail, and checks that its one line names `file` and says `cause`.
fn fails(mut command: Command, file: &Path, cause: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(output.stdout, b"", "{stderr}");
    assert_eq!(stderr.matches('\n').count(), 1, "more than one line:\n{stderr}");
    assert!(stderr.starts_with("lapidary: ") && stderr.ends_with('\n'), "{stderr}");
    assert!(stderr.contains(file.to_str().unwrap()), "{stderr} does not name {}", file.display());
    assert!(stderr.contains(cause), "{stderr} does not say `{cause}`");
}

/// Runs every command that reads a model on `model`, with nothing else wrong.
fn every_command_fails(model: &Path, file: &Path, cause: &str) {
    let dir = TempDir::new().unwrap();
    let (text, target) = (held_out(), dir.path().join("out.gguf"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let commands = [
        vec!["convert".into(), path(model), "-o".into(), path(&target)],
        vec!["imatrix".into(), path(model), "-f".into(), path(&text), "-o".into(), path(&target)],
        vec!["run".into(), path(model), "-p".into(), "In the beginning".into()],
        vec!["perplexity".into(), path(model), "-f".into(), path(&text)],
        vec![
            "perplexity".into(),
            path(&tiny()),
            "-f".into(),
            path(&text),
            "--reference".into(),
            path(model),
        ],
        vec!["bench".into(), path(model), "-p1".into(), "-n1".into(), "-r1".into()],
        vec!["inspect".into(), path(model)],
    ];
    for args in commands {
        fails(lapidary(&args), file, cause);
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

/// Changes `config.json` of a copy.
fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = dir.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
}

/// A GGUF file without tensors whose only key names its architecture.
fn gguf_of(architecture: &str) -> Vec<u8> {
    let string = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let counts = [0u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
    let string_type = 8u32.to_le_bytes();
    [
        b"GGUF".as_slice(),
        &3u32.to_le_bytes(),
        &counts,
        &string("general.architecture"),
        &string_type,
        &string(architecture),
    ]
    .concat()
}

fn prompt_file(dir: &TempDir, content: &[u8]) -> PathBuf {
    let path = dir.path().join("prompt.txt");
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_missing_model() {
    let path = Path::new("/nowhere/model.gguf");
    every_command_fails(path, path, "No such file or directory");
}

#[test]
fn a_directory_without_a_checkpoint() {
    let dir = TempDir::new().unwrap();
    every_command_fails(dir.path(), dir.path(), "config.json");
}

#[test]
fn a_checkpoint_of_another_architecture() {
    let dir = copy_of(&tiny());
    edit_config(dir.path(), |config| {
        config.insert("model_type".into(), "llama".into());
        config.insert("architectures".into(), vec!["LlamaForCausalLM"].into());
    });
    every_command_fails(dir.path(), dir.path(), "lama");
}

#[test]
fn a_gguf_file_of_another_architecture() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("llama.gguf");
    fs::write(&path, gguf_of("llama")).unwrap();
    every_command_fails(&path, &path, "llama");
}

#[test]
fn a_file_that_is_not_a_model() {
    every_command_fails(&held_out(), &held_out(), "GGUF");
}

#[test]
fn a_truncated_shard() {
    let dir = copy_of(&tiny());
    let path = dir.path().join("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
    every_command_fails(dir.path(), &path, "");
}

#[test]
fn a_shard_without_a_header() {
    let dir = copy_of(&tiny());
    let path = dir.path().join("model.safetensors");
    fs::write(&path, b"").unwrap();
    every_command_fails(dir.path(), &path, "");
}

#[test]
fn a_checkpoint_without_a_tokenizer() {
    let dir = copy_of(&tiny());
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    let args = ["run".as_ref(), dir.path().as_os_str(), "-p".as_ref(), "In".as_ref()];
    fails(lapidary(args), dir.path(), "tokenizer");
}

#[test]
fn a_shape_that_the_configuration_does_not_ask_for() {
    let dir = copy_of(&tiny());
    edit_config(dir.path(), |config| {
        config.insert("intermediate_size".into(), 1024.into());
    });
    every_command_fails(dir.path(), dir.path(), "has shape");
}

fn convert(target: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(["convert".as_ref(), tiny().as_os_str()]);
    command.arg("-o").arg(target).args(more);
    command
}

#[test]
fn a_target_that_cannot_be_written() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("missing").join("out.gguf");
    fails(convert(&target, &[]), &target, "No such file or directory");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_target_that_exists_already() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("out.gguf");
    fs::write(&target, "precious").unwrap();
    fails(convert(&target, &[]), &target, "--force");
    assert_eq!(names(dir.path()), ["out.gguf"]);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_text_shorter_than_a_chunk() {
    let dir = TempDir::new().unwrap();
    let text = prompt_file(&dir, b"In the beginning God created the heaven and the earth.");
    let model = tiny();
    let args = ["perplexity".as_ref(), model.as_os_str(), "-f".as_ref(), text.as_os_str()];
    fails(lapidary(args), &text, "tokens, but one chunk needs 512");
}

#[test]
fn an_empty_or_missing_text() {
    let dir = TempDir::new().unwrap();
    let model = tiny();
    let args = |text: &Path| {
        lapidary(["perplexity".as_ref(), model.as_os_str(), "-f".as_ref(), text.as_os_str()])
    };
    let text = prompt_file(&dir, b"");
    fails(args(&text), &text, "one chunk needs 512");
    let missing = dir.path().join("missing.txt");
    fails(args(&missing), &missing, "No such file or directory");
}

/// `lapidary run` with a prompt file.
fn run_file(prompt: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(["run".as_ref(), tiny().as_os_str()]);
    command.arg("--file").arg(prompt).args(more);
    command
}

#[test]
fn a_prompt_file_that_cannot_be_used() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing.txt");
    fails(run_file(&missing, &[]), &missing, "No such file or directory");
    let path = prompt_file(&dir, b"");
    fails(run_file(&path, &[]), &path, "empty");
    let path = prompt_file(&dir, b"\n");
    fails(run_file(&path, &[]), &path, "empty");
    let path = prompt_file(&dir, b"In the \xff beginning");
    fails(run_file(&path, &[]), &path, "not UTF-8 from byte 7 on");
}

#[test]
fn a_prompt_longer_than_the_context() {
    let dir = TempDir::new().unwrap();
    let path = prompt_file(&dir, &b"a b c d e f g h ".repeat(8));
    let too_long = run_file(&path, &["--ctx", "16"]);
    fails(too_long, &path, "tokens, but the context holds 16: use a larger --ctx");
}

#[test]
fn no_prompt_at_all() {
    let mut command = lapidary(["run".as_ref(), tiny().as_os_str()]);
    command.write_stdin("");
    fails(command, Path::new("standard input"), "the prompt is empty");
}

#[test]
fn a_sampling_parameter_out_of_range() {
    for (flag, value) in [("--temp", "-1"), ("--temp", "nan"), ("--top-p", "1.5"), ("--min-p", "2")]
    {
        let mut command = lapidary(["run".as_ref(), tiny().as_os_str()]);
        command.args(["-p", "In the beginning"]).arg(format!("{flag}={value}"));
        let output = command.output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{flag} {value}: {output:?}");
    }
}

#[test]
fn a_wrong_command_line_is_explained_by_usage() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["polish"],
        &["run", "model.gguf", "-p", "a", "--file", "b"],
        &["run", "model.gguf", "-p", "a", "--kv", "f8"],
        &["run", "model.gguf", "-p", "a", "-n", "-2"],
        &["run", "model.gguf", "-p", "a", "--threads", "100000"],
        &["run", "model.gguf", "-p", "a", "--isa", "mmx"],
        &["perplexity", "model.gguf", "-f", "text", "--chunks", "0"],
        &["imatrix", "model.gguf", "-f", "text"],
    ];
    for args in wrong {
        lapidary(args).assert().code(2).stdout("");
    }
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("out.gguf");
    let output = convert(&target, &["--quant", "Q9_Z"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("Q9_Z"));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_closed_output_is_not_an_error() {
    let dir = TempDir::new().unwrap();
    let (model, text, target) = (tiny(), held_out(), dir.path().join("out.gguf"));
    let commands: [&[&OsStr]; 6] = [
        &["convert".as_ref(), model.as_ref(), "-o".as_ref(), target.as_ref(), "-qQ8_0".as_ref()],
        &["run".as_ref(), model.as_ref(), "-p".as_ref(), "In".as_ref(), "-n4".as_ref()],
        &[
            "perplexity".as_ref(),
            model.as_ref(),
            "-f".as_ref(),
            text.as_ref(),
            "--chunks=1".as_ref(),
            "--ctx=16".as_ref(),
        ],
        &["inspect".as_ref(), model.as_ref()],
        &["demo".as_ref()],
        &["--help".as_ref()],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lapidary"));
        let output = command.args(args).stdin(Stdio::null()).stdout(writer).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn version_and_help() {
    lapidary(["--version"]).assert().success().stdout(concat!(
        "lapidary ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    ));
    for command in ["convert", "imatrix", "run", "perplexity", "inspect", "demo"] {
        let help = lapidary([command, "--help"]).output().unwrap();
        assert!(help.status.success());
        assert!(String::from_utf8(help.stdout).unwrap().contains("Usage: lapidary "));
    }
}

#[test]
fn the_demo_leaves_other_files_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    let args = ["demo".as_ref(), "--dir".as_ref(), dir.path().as_os_str()];
    fails(lapidary(args), dir.path(), "the directory is not empty");
    assert_eq!(names(dir.path()), ["mine.txt"]);
}

#[test]
fn ctrl_c_ends_the_demo_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_lapidary"))
        .arg("demo")
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line says that the checkpoint is written.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(names(dir.path()).len(), 1);
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(130), b"".as_slice()));
    assert_eq!(names(dir.path()), [""; 0]);
}
