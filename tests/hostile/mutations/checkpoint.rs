//! Checkpoints.

use std::fs;

use serde_json::{json, Value};
use tempfile::TempDir;

use super::{overwrite, scribble, small, Random, Trials, ODD};

/// Checkpoints of other structure that are tried.
const CHECKPOINTS: usize = 30_000;

/// A checkpoint of which one file after the other is changed.
struct CheckpointDir(TempDir);

impl CheckpointDir {
    fn new() -> Self {
        let dir = Self(TempDir::new().unwrap());
        small::write_checkpoint(dir.0.path());
        dir
    }

    fn trials(&self) -> Trials {
        Trials::new(self.0.path(), self.len())
    }

    fn len(&self) -> usize {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len() as usize).sum()
    }

    /// Tries it out with other bytes in one file.
    fn try_out(&self, name: &str, bytes: &[u8], trials: &mut Trials) {
        let path = self.0.path().join(name);
        let sound = fs::read(&path).unwrap();
        overwrite(&path, bytes);
        trials.try_out(self.0.path(), self.len());
        overwrite(&path, &sound);
    }
}

const JSON_FILES: [&str; 4] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn checkpoints_truncated_at_every_byte() {
    let dir = CheckpointDir::new();
    let mut trials = dir.trials();
    let (header, data) = small::safetensors();
    let header = header.to_string();
    for name in JSON_FILES {
        let bytes = fs::read(dir.0.path().join(name)).unwrap();
        (0..bytes.len()).for_each(|len| dir.try_out(name, &bytes[..len], &mut trials));
    }
    let bytes = small::safetensors_bytes(&header, &data);
    // Of the data every 7th, which is all there is to tell.
    let lens = (0..8 + header.len()).chain((8 + header.len()..bytes.len()).step_by(7));
    lens.for_each(|len| dir.try_out("model.safetensors", &bytes[..len], &mut trials));
    trials.try_out(dir.0.path(), dir.len());
    assert_eq!(trials.accepted, 2, "only whole ones");
    trials.report("checkpoint truncated at every byte");
}

#[test]
fn checkpoint_headers_with_every_byte_changed() {
    let dir = CheckpointDir::new();
    let mut trials = dir.trials();
    let header = 8 + small::safetensors().0.to_string().len();
    for (name, end) in [("config.json", usize::MAX), ("model.safetensors", header)] {
        let sound = fs::read(dir.0.path().join(name)).unwrap();
        for at in 0..end.min(sound.len()) {
            for other in [sound[at] ^ 1, sound[at] ^ 0x80, 0, b'"', b'9'] {
                let mut bytes = sound.clone();
                bytes[at] = other;
                dir.try_out(name, &bytes, &mut trials);
            }
        }
    }
    trials.report("checkpoint headers, every byte changed");
}

#[test]
fn checkpoints_of_other_structure() {
    let dir = CheckpointDir::new();
    let mut trials = dir.trials();
    let (header, data) = small::safetensors();
    let read = |name| serde_json::from_slice(&fs::read(dir.0.path().join(name)).unwrap()).unwrap();
    let sound: [Value; 4] = JSON_FILES.map(read);
    let random = &mut Random(2);
    for _ in 0..CHECKPOINTS {
        let which = random.below(JSON_FILES.len() + 2);
        let (name, value) = match JSON_FILES.get(which) {
            Some(name) => (*name, &sound[which]),
            None => ("model.safetensors", &header),
        };
        let mut changed = value.clone();
        for _ in 0..=random.below(2) {
            change_json(&mut changed, random);
        }
        let mut bytes = changed.to_string().into_bytes();
        if random.below(8) == 0 {
            let odd = random.one_of(&ODD);
            scribble(&mut bytes, odd, random);
        }
        if name == "model.safetensors" {
            let len = match random.below(8) {
                0 => random.one_of(&ODD),
                _ => bytes.len() as u64,
            };
            bytes = [&len.to_le_bytes(), &*bytes, &*data].concat();
        }
        dir.try_out(name, &bytes, &mut trials);
    }
    trials.report("checkpoint of other structure");
}

/// Changes one value somewhere inside.
fn change_json(value: &mut Value, random: &mut Random) {
    let inner = match value {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).cloned().unwrap();
            match random.below(8) {
                0 => {
                    let taken = map.remove(&key).unwrap();
                    let other =
                        random.one_of(&["", "../x", "rope_scaling", "a\u{202e}", "lm_head.weight"]);
                    map.insert(other.into(), taken);
                    return;
                }
                1 => {
                    map.remove(&key);
                    return;
                }
                _ => map.get_mut(&key),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(6) {
                0 => {
                    let copy = list[at].clone();
                    list.push(copy);
                    return;
                }
                1 => {
                    list.remove(at);
                    return;
                }
                _ => list.get_mut(at),
            }
        }
        _ => None,
    };
    // Sometimes it is the whole list.
    match inner {
        Some(inner) if random.below(8) > 0 => change_json(inner, random),
        _ => *value = odd_json(random),
    }
}

fn odd_json(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(1e300),
        3 => json!(""),
        4 => json!(random.one_of(&[
            "<bos>",
            "../x",
            "gemma",
            "\u{1b}[2J",
            "{{ messages * 9 }}",
            "BF16"
        ])),
        5 => json!([]),
        6 => json!({}),
        7 => json!([[[[1, 2], "x"], null]]),
        8 => json!(true),
        _ => json!(random.one_of(&ODD)),
    }
}
