//! GGUF files.

use std::fs;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use lapidary_formats::gguf::Gguf;
use tempfile::TempDir;

use super::raw::RawGguf;
use super::{overwrite, scribble, small, Random, Trials, ODD};

/// Files of other structure that are tried.
const FILES: usize = 70_000;

/// A GGUF file that is changed in place.
struct GgufFile {
    dir: TempDir,
    sound: Vec<u8>,
}

impl GgufFile {
    fn new() -> Self {
        let file = Self { dir: TempDir::new().unwrap(), sound: small::gguf(|_| ()) };
        fs::write(file.path(), &file.sound).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("model.gguf")
    }

    fn trials(&self) -> Trials {
        Trials::new(&self.path(), self.sound.len())
    }

    /// Where the data section begins.
    fn header_len(&self) -> usize {
        let gguf = Gguf::open(self.path()).unwrap();
        gguf.tensors().map(|t| gguf.place(t.data).unwrap().1.start).min().unwrap()
    }
}

/// Writes `bytes` at `at`.
fn patch(file: &mut fs::File, at: usize, bytes: &[u8]) {
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn gguf_files_truncated_at_every_byte() {
    let file = GgufFile::new();
    let mut trials = file.trials();
    let writer = OpenOptions::new().write(true).open(file.path()).unwrap();
    for len in (0..file.sound.len()).rev() {
        writer.set_len(len as u64).unwrap();
        trials.try_out(&file.path(), len);
    }
    // The last tensor is followed by padding, which nobody needs.
    assert!(trials.accepted < 33, "{}", trials.accepted);
    trials.report("GGUF truncated at every byte");
}

#[test]
fn gguf_headers_with_every_byte_changed() {
    let file = GgufFile::new();
    let mut trials = file.trials();
    let mut writer = OpenOptions::new().write(true).open(file.path()).unwrap();
    for at in 0..file.header_len() {
        let byte = file.sound[at];
        for other in [byte ^ 1, byte ^ 0x80, 0, 0xff, byte.wrapping_add(1)] {
            if other != byte {
                patch(&mut writer, at, &[other]);
                trials.try_out(&file.path(), file.sound.len());
            }
        }
        patch(&mut writer, at, &[byte]);
    }
    trials.report("GGUF header, every byte changed");
}

#[test]
fn gguf_files_of_other_structure() {
    let file = GgufFile::new();
    let mut trials = file.trials();
    let sound = RawGguf::of(&Gguf::open(file.path()).unwrap(), &file.sound);
    assert_eq!(sound.encode(), file.sound);
    let random = &mut Random(1);
    for _ in 0..FILES {
        let mut raw = sound.clone();
        for _ in 0..=random.below(3) {
            change_gguf(&mut raw, random);
        }
        let mut bytes = raw.encode();
        if random.below(8) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        overwrite(&file.path(), &bytes);
        trials.try_out(&file.path(), bytes.len());
    }
    trials.report("GGUF of other structure");
}

/// Changes one thing.
fn change_gguf(raw: &mut RawGguf, random: &mut Random) {
    let (entry, tensor) = (random.below(raw.metadata.len()), random.below(raw.tensors.len()));
    let odd = random.one_of(&ODD);
    match random.below(16) {
        _ if raw.metadata.is_empty() || raw.tensors.is_empty() => raw.more = (odd, odd),
        0 => raw.more.0 = odd,
        1 => raw.more.1 = odd,
        2 => drop(raw.metadata.remove(entry)),
        3 => {
            let copy = raw.metadata[entry].clone();
            raw.metadata.insert(random.below(raw.metadata.len()), copy);
        }
        4 => raw.metadata[entry].1 = odd as u32,
        // A value of another key's type.
        5 => {
            let (_, ty, value) = raw.metadata[random.below(raw.metadata.len())].clone();
            (raw.metadata[entry].1, raw.metadata[entry].2) = (ty, value);
        }
        6 => scribble(&mut raw.metadata[entry].2, odd, random),
        7 => scribble(&mut raw.metadata[entry].0, odd, random),
        8 => {
            let key = [&b"general.alignment"[..], b"split.count", b"gemma2.expert_count"];
            let value = (odd as u32).to_le_bytes().to_vec();
            raw.metadata.push((random.one_of(&key).to_vec(), 4, value));
        }
        9 => drop(raw.tensors.remove(tensor)),
        10 => {
            let copy = raw.tensors[tensor].clone();
            raw.tensors.push(copy);
        }
        11 => scribble(&mut raw.tensors[tensor].0, odd, random),
        12 => {
            let dims = &mut raw.tensors[tensor].1;
            let dim = random.below(dims.len());
            match random.below(4) {
                0 => dims.push(odd),
                1 => drop(dims.pop()),
                2 => dims.reverse(),
                _ => dims[dim] = odd,
            }
        }
        13 => raw.tensors[tensor].2 = random.below(45) as u32,
        14 => {
            let other = raw.tensors[random.below(raw.tensors.len())].3;
            raw.tensors[tensor].3 = random.one_of(&[odd, other, other + 32, odd << 5]);
        }
        _ => {
            let data = &mut raw.data;
            let at = random.below(data.len());
            data[at] = odd as u8;
        }
    }
}
