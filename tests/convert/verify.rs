//! `lapidary verify`: what is sound passes, whoever wrote it, and what is not is found and named.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::model::Source;
use lapidary::verify::{verify, Finding, Problem, Verified};
use lapidary_formats::gguf::{Gguf, Header, Writer};
use tempfile::TempDir;

use crate::fixtures::{micro, tiny};
use crate::splits::split;

/// The random model, converted to `recipe` in a directory of its own.
fn converted(recipe: Recipe) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("micro.gguf");
    let source = Source::open(&micro()).unwrap();
    let plan = Plan::of_recipe(&source, recipe);
    convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
    (dir, out)
}

fn verified(path: &Path) -> Verified {
    verify(path, Some(2), &mut ()).unwrap_or_else(|e| panic!("{e}"))
}

fn command(path: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("verify").arg(path).args(more).output().unwrap()
}

/// Where tensor `name` lies in the file.
fn range(path: &Path, name: &str) -> Range<usize> {
    let gguf = Gguf::open(path).unwrap();
    gguf.place(gguf.tensor(name).unwrap().data).unwrap().1
}

/// Changes bytes of a file.
fn edit(path: &Path, edit: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Writes a file anew, with the metadata that `edit` makes of those it has.
fn rewritten(path: &Path, name: &str, edit: impl FnOnce(&Gguf, &mut Header)) -> PathBuf {
    let gguf = Gguf::open(path).unwrap();
    let mut header = Header::new();
    edit(&gguf, &mut header);
    for t in gguf.tensors() {
        header.add_tensor(t.name, t.ty, t.shape).unwrap();
    }
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    gguf.tensors().for_each(|t| writer.write(t.data).unwrap());
    let out = path.with_file_name(name);
    fs::write(&out, writer.finish().unwrap()).unwrap();
    out
}

/// As another program would have written it, and `more` that is to be tried out.
fn without_ours(path: &Path, name: &str, more: impl FnOnce(&mut Header)) -> PathBuf {
    rewritten(path, name, |gguf, header| {
        let theirs = gguf.metadata().filter(|(key, _)| !key.starts_with("lapidary."));
        theirs.for_each(|(key, value)| header.set(key, value));
        more(header);
    })
}

#[test]
fn what_was_converted_is_sound() {
    for recipe in Recipe::all() {
        let (_dir, out) = converted(recipe);
        let verified = verified(&out);
        assert_eq!(verified.findings, [], "{recipe}");
        assert_eq!((verified.tensors, verified.checksums), (36, 36));
    }
}

#[test]
fn checkpoints_are_looked_at_too() {
    for checkpoint in [micro(), tiny()] {
        let verified = verified(&checkpoint);
        assert_eq!((verified.findings, verified.checksums), (vec![], 0));
    }
}

#[test]
fn any_changed_byte_is_found_in_its_tensor() {
    let (_dir, out) = converted(Recipe::Q4_K_M);
    for name in ["token_embd.weight", "blk.1.attn_norm.weight", "output.weight"] {
        let range = range(&out, name);
        for at in [range.start, range.start + range.len() / 2, range.end - 1] {
            edit(&out, |bytes| bytes[at] ^= 1);
            let findings = verified(&out).findings;
            let [Finding { path, tensor, problem: Problem::Checksum { stored, found } }] =
                &*findings
            else {
                panic!("{findings:?}")
            };
            assert_eq!((path, tensor.as_deref()), (&out, Some(name)));
            assert_ne!(stored, found);
            edit(&out, |bytes| bytes[at] ^= 1);
        }
    }
    assert_eq!(verified(&out).findings, []);
}

#[test]
fn blocks_that_are_not_finite_are_found_with_their_row() {
    // Between them the recipes have every type, and a block of ones has a scale that is NaN in each.
    let mut types = std::collections::BTreeSet::new();
    for recipe in Recipe::all() {
        let (_dir, out) = converted(recipe);
        let name = "blk.1.ffn_down.weight";
        let (row, rows, row_bytes, block_bytes) = {
            let gguf = Gguf::open(&out).unwrap();
            let view = gguf.tensor(name).unwrap();
            types.insert(view.ty);
            (17, view.rows(), view.data.len() / view.rows(), view.ty.traits().block_bytes)
        };
        let at = range(&out, name).start + row * row_bytes;
        edit(&out, |bytes| bytes[at..at + block_bytes].fill(0xff));
        let plain = without_ours(&out, "plain.gguf", |_| {});
        let expected = Problem::NotFinite { rows: 1, first: row, block: 0, of: rows };
        for (path, n) in [(&out, 2), (&plain, 1)] {
            let findings = verified(path).findings;
            assert_eq!(findings.len(), n, "{recipe}: {findings:?}");
            let last = findings.last().unwrap();
            assert_eq!((last.tensor.as_deref(), &last.problem), (Some(name), &expected));
        }
    }
    assert!(types.len() > 6, "{types:?}");
}

#[test]
fn norms_are_looked_at_as_well() {
    let (_dir, out) = converted(Recipe::Q8_0);
    let at = range(&out, "output_norm.weight").start + 4 * 50;
    edit(&out, |bytes| bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes()));
    let findings = verified(&out).findings;
    let problem = Problem::NotFinite { rows: 1, first: 0, block: 50, of: 1 };
    assert!(findings.iter().any(|finding| finding.problem == problem), "{findings:?}");
}

#[test]
fn files_of_other_programs_pass_with_a_note() {
    let (_dir, out) = converted(Recipe::Q4_K_M);
    let plain = without_ours(&out, "plain.gguf", |_| {});
    let found = verified(&plain);
    assert_eq!((&*found.findings, found.tensors, found.checksums), ([].as_slice(), 36, 0));
    let output = command(&plain, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("checksums are missing"), "{text}");
    assert!(text.contains("no problems found"), "{text}");
}

/// What llama.cpp's quantizer does: all metadata are copied, and the tensors are others.
#[test]
fn checksums_that_were_copied_to_another_file_raise_no_alarm() {
    let ((_a, q4), (_b, q8)) = (converted(Recipe::Q4_K_M), converted(Recipe::Q8_0));
    let stale = rewritten(&q8, "stale.gguf", |_, header| {
        let q4 = Gguf::open(&q4).unwrap();
        q4.metadata().for_each(|(key, value)| header.set(key, value));
    });
    let found = verified(&stale);
    assert_eq!((&*found.findings, found.checksums), ([].as_slice(), 0));
    assert!(found.no_checksums.unwrap().contains("another"));
}

#[test]
fn splits_are_named() {
    let (dir, out) = converted(Recipe::Q4_K_M);
    let splits = split(&out, dir.path());
    let found = verified(&splits[0]);
    assert_eq!((&*found.findings, found.checksums), ([].as_slice(), 36));
    let last = fs::metadata(&splits[1]).unwrap().len() as usize - 1;
    edit(&splits[1], |bytes| bytes[last] ^= 0x80);
    let findings = verified(&splits[0]).findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].path, splits[1]);
    assert_eq!(findings[0].tensor.as_deref(), Some("output.weight"));
}

#[test]
fn a_tokenizer_or_template_that_cannot_be_used_is_a_finding() {
    let (_dir, out) = converted(Recipe::Q8_0);
    type Edit = fn(&mut Header);
    let edits: [(Edit, &str); 4] = [
        (|h| h.set("tokenizer.chat_template", "{% if"), "the chat template cannot be parsed"),
        (|h| h.set("tokenizer.ggml.eom_token_id", 2048u32), "eom_token_id is token 2048"),
        (|h| h.set("tokenizer.ggml.bos_token_id", 4000u32), "bos has the id 4000"),
        (|h| h.set("tokenizer.ggml.model", "gpt2"), "\"gpt2\" is not supported"),
    ];
    for (i, (edit, cause)) in edits.into_iter().enumerate() {
        let path = without_ours(&out, &format!("{i}.gguf"), edit);
        let findings = verified(&path).findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        let text = findings[0].to_string();
        assert!(text.contains(cause), "{text}");
        assert_eq!(text.matches(path.to_str().unwrap()).count(), 1, "{text}");
    }
}

#[test]
fn what_is_no_gemma_2_is_said_and_looked_at_all_the_same() {
    let (_dir, out) = converted(Recipe::Q8_0);
    let other = without_ours(&out, "other.gguf", |h| h.set("general.architecture", "llama"));
    let found = verified(&other);
    assert_eq!(found.tensors, 36);
    assert_eq!(found.findings.len(), 1, "{:?}", found.findings);
    assert!(matches!(&found.findings[0].problem, Problem::Model(cause) if cause.contains("llama")));
}

#[test]
fn for_people() {
    let (_dir, out) = converted(Recipe::Q4_K_M);
    let output = command(&out, &["--threads", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("36 tensors") && text.contains("36 checksums compared"), "{text}");

    let at = range(&out, "blk.2.ffn_up.weight").start + 1000;
    edit(&out, |bytes| bytes[at] ^= 4);
    let output = command(&out, &[]);
    let [text, error] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = format!("{}: tensor `blk.2.ffn_up.weight`: its bytes have changed", out.display());
    assert!(text.lines().any(|l| l.starts_with(&line)), "{text}");
    assert!(!text.contains("no problems found"), "{text}");
    assert_eq!(error, format!("lapidary: {}: 1 problem found\n", out.display()));
}

#[test]
fn for_programs() {
    let (_dir, out) = converted(Recipe::Q4_K_M);
    let json = |output: Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    let sound = json(command(&out, &["--json"]));
    assert_eq!((&sound["ok"], &sound["checksums"]), (&true.into(), &36.into()));
    let range = range(&out, "token_embd.weight");
    // A row has three blocks of 22 bytes.
    edit(&out, |bytes| bytes[range.start + 66 * 2000..range.start + 66 * 2001].fill(0xff));
    let output = command(&out, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found = json(output);
    assert_eq!(found["ok"], false);
    let kinds: Vec<_> = found["findings"].as_array().unwrap().iter().map(|f| &f["kind"]).collect();
    assert_eq!(kinds, ["checksum", "not_finite"]);
    assert_eq!(found["findings"][1]["first_row"], 2000);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let (_dir, out) = converted(Recipe::Q4_K_M);
    let bytes = fs::read(&out).unwrap();
    for (len, cause) in [(bytes.len() - 32, "truncated"), (20_000, "needs"), (0, "needs")] {
        fs::write(&out, &bytes[..len]).unwrap();
        let output = command(&out, &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), b"".as_slice()), "{stderr}");
        assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
        assert!(stderr.contains(out.to_str().unwrap()) && stderr.contains(cause), "{stderr}");
    }
}
