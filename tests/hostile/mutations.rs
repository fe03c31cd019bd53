//! Sound files with something changed, from the first byte that is read to the first token that is
//! computed: each is accepted or refused, without a panic and in little memory.

use std::fs;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use lapidary::chat::{ChatTemplate, Message, Role};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Source, State, StateOptions};
use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};
use lapidary_formats::gguf::Gguf;
use serde_json::{json, Value};
use tempfile::TempDir;

use super::allocator::{measured, Memory};
use super::raw::RawGguf;
use super::small;

/// Random mutations of each kind of model.
const GGUFS: usize = 70_000;
const CHECKPOINTS: usize = 30_000;

/// Numbers that counts, lengths, sizes and ids are wrong with.
const ODD: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    31,
    33,
    255,
    269,
    271,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Random numbers that come again with their seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// What was tried, and what became of it.
struct Trials {
    cpu: Cpu,
    /// What a sound file takes that is not its own size: tables of a fixed length, buffers.
    fixed: usize,
    tried: usize,
    accepted: usize,
    panics: usize,
    /// The largest allocation.
    largest: usize,
    /// The most at any time, and the length of the file that took it.
    peak: (usize, usize),
}

impl Trials {
    /// None yet. The sound model at `path`, of `len` bytes, says what is normal.
    fn new(path: &Path, len: usize) -> Self {
        let cpu = Cpu::new(NonZeroUsize::new(1), Isa::best()).unwrap();
        let mut trials =
            Self { cpu, fixed: 0, tried: 0, accepted: 0, panics: 0, largest: 0, peak: (0, 0) };
        // The first run of all fills what is kept for later ones.
        trials.try_out(path, len);
        trials.fixed = measured(|| use_all(path, &trials.cpu)).1.peak;
        assert_eq!((trials.accepted, trials.panics), (1, 0));
        trials
    }

    /// Tries out the model at `path`, of `len` bytes.
    fn try_out(&mut self, path: &Path, len: usize) {
        let run = AssertUnwindSafe(|| use_all(path, &self.cpu));
        let (result, Memory { largest, peak }) = measured(|| catch_unwind(run));
        self.tried += 1;
        self.accepted += usize::from(matches!(result, Ok(Ok(()))));
        self.panics += usize::from(result.is_err());
        self.largest = self.largest.max(largest);
        self.peak = self.peak.max((peak, len));
        let allowed = 2 * self.fixed + 16 * len;
        assert!(self.fixed == 0 || peak <= allowed, "{peak} bytes for a file of {len}");
    }

    fn report(&self, what: &str) {
        let Self { tried, accepted, panics, largest, peak, .. } = self;
        println!(
            "{what}: {tried} tried, {accepted} accepted, {} refused, {panics} panics; largest \
             allocation {largest} bytes, at most {} at a time for a file of {} ({} when sound)",
            tried - accepted,
            peak.0,
            peak.1,
            self.fixed,
        );
        assert_eq!(*panics, 0);
        assert!(*accepted > 0 && accepted < tried);
    }
}

/// Does everything with a model that commands do, with as little text as can be.
fn use_all(path: &Path, cpu: &Cpu) -> Result<(), String> {
    let source = Source::open(path).map_err(|e| e.to_string())?;
    let vocab = source.vocab().map_err(|e| e.to_string())?;
    let stop_ids = source.stop_ids(&vocab);
    let spelling = |id: Option<u32>| id.map_or("", |id| vocab.pieces.text(id)).to_owned();
    let (bos, eos) = (spelling(vocab.bos), spelling(vocab.eos));
    let template = source.chat_template().map_err(|e| e.to_string())?;
    let template = ChatTemplate::new(template.as_deref(), &bos, &eos).map_err(|e| e.to_string())?;
    let tokenizer = Tokenizer::new(vocab).map_err(|e| e.to_string())?;
    let ids = tokenizer.encode_with_bos("the hen\u{0}\u{1F9D0}<bos>  ", Special::Trusted);
    tokenizer.decode(&ids, ControlPieces::Show);
    let message = Message { role: Role::User, content: "the".into() };
    template.encode(&tokenizer, &[message], true).map_err(|e| e.to_string())?;
    let model = Model::on(cpu.clone(), &source).map_err(|e| e.to_string())?;
    let mut state = State::new(model.config(), StateOptions::new(16, KvType::Q8_0));
    let logits = model.forward_last(&mut state, &ids[..ids.len().min(6)]);
    let logits = logits.map_err(|e| e.to_string())?;
    assert!(logits.iter().all(|x| x.is_finite()));
    assert!(stop_ids.len() <= 1000);
    Ok(())
}

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

/// Puts `bytes` in the place of a file's. Emptied first, as `fs::write` does it, some file systems
/// write it to the disk every time.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
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
    for _ in 0..GGUFS {
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

/// Writes over some bytes, or puts in or takes out some.
fn scribble(bytes: &mut Vec<u8>, odd: u64, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(4) {
        0 => bytes.insert(at, odd as u8),
        1 if !bytes.is_empty() => drop(bytes.remove(at)),
        2 => {
            let odd = odd.to_le_bytes();
            let n = random.one_of(&[1, 4, 8]).min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&odd[..n]);
        }
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
    }
}

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
