//! `lapidary run` with `--draft` and `--lookup`: the same texts, what is said of them, and what is
//! refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::directory::copy_of;
use crate::fixtures::{micro, tiny};

const PROMPT: &str = "And it came to pass, when";

/// The small trained checkpoint in Q2_K.
static Q2_K: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("draft-Q2_K.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("convert").arg(tiny()).arg("-o").arg(&path).args(["-q", "Q2_K", "--force"]);
    assert!(command.output().unwrap().status.success());
    path
});

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(tiny()).args(["-p", PROMPT, "--threads", "1"]).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The last line of a run that is refused.
fn refused(args: &[&str], code: i32) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_text_is_the_same_with_drafts_and_they_are_counted() {
    let draft = Q2_K.to_str().unwrap();
    let longer = ["-n", "200", "--ctx", "64", "--context-shift"];
    let eight_bits = ["-n", "60", "--kv", "q8_0", "--ubatch-size", "8"];
    for options in [&["-n", "60"][..], &longer, &eight_bits, &["-n", "60", "--chat"]] {
        for sampling in [&["--temp", "0"][..], &["--seed", "1", "--repeat-penalty", "1.2"]] {
            let args = [options, sampling].concat();
            let plain = json(&args);
            assert!(plain.get("draft").is_none(), "{plain}");
            for drafter in [&["--draft", draft][..], &["--lookup"]] {
                for tokens in ["3", "auto"] {
                    let more = [drafter, &["--draft-tokens", tokens]].concat();
                    let found = json(&[&args[..], &more].concat());
                    for key in ["text", "stop", "generated_tokens", "shifts"] {
                        assert_eq!(found[key], plain[key], "{args:?} {more:?}");
                    }
                    let count = |key: &str| found["draft"][key].as_u64().unwrap();
                    assert!(count("accepted") <= count("drafted") && count("passes") > 0);
                }
            }
        }
    }
    let found = json(&["-n", "80", "--temp", "0", "--draft", draft, "--draft-tokens", "3"]);
    let draft = &found["draft"];
    assert!(draft["accepted"].as_u64().unwrap() > 10, "{draft}");
    assert!(draft["tokens_per_pass"].as_f64().unwrap() > 1.1, "{draft}");
}

#[test]
fn statistics_say_what_drafts_did() {
    let args = ["-n", "40", "--temp", "0", "--draft", Q2_K.to_str().unwrap()];
    let stderr = |args: &[&str]| String::from_utf8(run(args).stderr).unwrap();
    let said = stderr(&args);
    let line = said.lines().find(|line| line.starts_with("draft ")).unwrap();
    for part in ["tokens drafted", "accepted (", "tokens/pass", "times as fast as without"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!stderr(&args[..4]).contains("draft"));
}

#[test]
fn a_prompt_cache_goes_on_with_drafts_and_without() {
    let dir = TempDir::new().unwrap();
    let [plain, drafting] = ["plain", "drafting"].map(|name| dir.path().join(name));
    let first = ["-n", "30", "--temp", "0"];
    let second = ["-n", "60", "--temp", "0"];
    let cached = |path: &Path, args: &[&str], more: &[&str]| {
        json(&[args, &["--prompt-cache", path.to_str().unwrap()], more].concat())
    };
    let lookup = ["--lookup", "--draft-tokens", "8"];
    let model = ["--draft", Q2_K.to_str().unwrap(), "--draft-tokens", "4"];
    let keys = ["text", "prompt_evaluated"];
    let of = |found: Value| keys.map(|key| found[key].clone());
    assert_eq!(of(cached(&drafting, &first, &lookup)), of(cached(&plain, &first, &[])));
    assert_eq!(of(cached(&drafting, &second, &model)), of(cached(&plain, &second, &[])));
    assert_eq!(of(cached(&drafting, &second, &[])), of(cached(&plain, &second, &lookup)));
}

#[test]
fn another_vocabulary_is_refused_by_both_names() {
    let other = copy_of(&micro());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let path = other.path().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("<unused7>", "<nothing7>")).unwrap();
    }
    let said = refused(&["--draft", other.path().to_str().unwrap()], 1);
    let line = said.lines().last().unwrap();
    let names = [other.path().to_str().unwrap(), "tiny-gemma2", "<unused7>", "<nothing7>"];
    assert!(names.iter().all(|name| line.contains(name)), "{line}");
    let missing = refused(&["--draft", "no-such-file.gguf"], 1);
    assert!(missing.contains("no-such-file.gguf"), "{missing}");
}

#[test]
fn options_that_make_no_sense_together_are_refused() {
    let draft = Q2_K.to_str().unwrap();
    for (args, word) in [
        (&["--draft", draft, "--lookup"][..], "--lookup"),
        (&["--draft-tokens", "3"], "--draft"),
        (&["--lookup", "--draft-tokens", "0"], "auto or a number from 1 to 64"),
        (&["--lookup", "--draft-tokens", "65"], "auto or a number from 1 to 64"),
        (&["--lookup", "--draft-tokens", "many"], "auto or a number from 1 to 64"),
    ] {
        let said = refused(args, 2);
        assert!(said.contains(word), "{args:?}: {said}");
    }
}

#[test]
fn the_memory_plan_counts_drafts() {
    let part =
        |args: &[&str], name: &str| json(&[&["-n", "1"], args].concat())["memory"][name].clone();
    let number = |args: &[&str], name: &str| part(args, name).as_u64().unwrap();
    let draft = Q2_K.to_str().unwrap();
    let file = std::fs::metadata(&*Q2_K).unwrap().len();
    assert_eq!(number(&["--draft", draft], "file"), number(&[], "file") + file);
    assert_eq!(number(&["--draft", draft], "kv_cache"), 2 * number(&[], "kv_cache"));
    assert_eq!(part(&["--lookup"], "kv_cache"), part(&[], "kv_cache"));
    // Eight more rows of logits.
    let lookup = number(&["--lookup", "--draft-tokens", "8"], "buffers");
    assert_eq!(lookup, number(&[], "buffers") + 8 * 2048 * 4);
    // What is allowed is for both models.
    let all = number(&["--draft", draft], "total");
    let allowed = (all - 1).to_string();
    assert_eq!(part(&["--draft", draft, "--memory", &allowed], "kv"), "q8_0");
}
