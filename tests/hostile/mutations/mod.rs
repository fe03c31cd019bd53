//! Sound files with something changed, from the first byte that is read to the first token that is
//! computed: each is accepted or refused, without a panic and in little memory.

mod checkpoint;
mod gguf;

use std::fs::OpenOptions;
use std::io::Write;
use std::num::NonZeroUsize;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use lapidary::chat::{ChatTemplate, Message, Role};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Source, State, StateOptions};
use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};

use super::allocator::{measured, Memory};
use super::random::Random;
use super::{raw, small};

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

/// Puts `bytes` in the place of a file's. Emptied first, as `fs::write` does it, some file systems
/// write it to the disk every time.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
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
