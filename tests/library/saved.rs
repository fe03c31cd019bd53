//! Sequences that are saved and restored: they go on to the same bits, whatever room they get.

use std::ops::Range;

use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Config, Model, Rows, Saved, SavedError, Source, State, StateOptions};
use lapidary_formats::session::{Header, Reader, SessionError, Writer};

use crate::fixtures::{micro, tiny};
use crate::tokens::held_out_ids;

/// Micro's window is 16, so that a ring with ubatches of up to 241 holds a span of 256.
const N_UBATCH: usize = 40;

/// More than twice a ring.
const LONG: usize = 700;

/// Tokens whose logits are looked at after a sequence was restored: they see the most of what it held.
const FIRST: usize = 16;

const MODEL: &str = "0123456789abcdef";

/// On one thread: these are thousands of steps that are too small to share.
fn load(source: &Source) -> Model<'_> {
    Model::load(source, Some(1)).unwrap()
}

fn options(kv: KvType) -> StateOptions {
    StateOptions { n_ubatch: N_UBATCH, ..StateOptions::new(LONG, kv) }
}

/// Logits of the [`FIRST`] of `ids` and of the last, evaluated in pieces of `piece` tokens.
fn logits(model: &Model<'_>, state: &mut State, ids: &[u32], piece: usize) -> Vec<f32> {
    let (mut all, mut at) = (Vec::new(), 0);
    for piece in ids.chunks(piece) {
        let sink = |row: usize, logits: &mut [f32]| {
            if at + row < FIRST || at + row == ids.len() - 1 {
                all.extend_from_slice(logits);
            }
        };
        let rows = if at < FIRST { Rows::All } else { Rows::Last };
        model.forward(state, piece, rows, sink).unwrap();
        at += piece.len();
    }
    all
}

/// A sequence of `ids`.
fn state(model: &Model<'_>, options: StateOptions, ids: &[u32]) -> State {
    let mut state = State::new(model.config(), options);
    model.forward_last(&mut state, ids).unwrap();
    state
}

fn save(state: &State, ids: &[u32]) -> Vec<u8> {
    state.save(MODEL, ids, "a note", Vec::new()).unwrap()
}

fn restore(config: &Config, options: StateOptions, file: &[u8]) -> Result<Saved, SavedError> {
    State::restore(config, options, MODEL, file, file.len() as u64)
}

/// The ways to go on: as before, with other ubatches and so other rings, and without rings.
fn rooms(kv: KvType, n_ctx: usize) -> [StateOptions; 4] {
    let options = StateOptions { n_ctx, ..options(kv) };
    [
        options,
        StateOptions { n_ubatch: 300, ..options },
        StateOptions { n_ubatch: 1, ..options },
        StateOptions { rings: false, ..options },
    ]
}

#[test]
fn a_restored_sequence_goes_on_with_the_bits_of_a_fresh_one() {
    let source = Source::open(&micro()).unwrap();
    let model = load(&source);
    let (config, ids) = (model.config(), &held_out_ids(&source)[..LONG]);
    for kv in KvType::ALL {
        let mut fresh = Vec::new();
        let sink = |_: usize, logits: &mut [f32]| fresh.extend_from_slice(logits);
        model.forward(&mut State::new(config, options(kv)), ids, Rows::All, sink).unwrap();
        // Before the ring has wrapped, just when it is full, and after.
        for len in [1, 100, 256, 257, 600] {
            let mut going_on = state(&model, options(kv), &ids[..len]);
            let file = save(&going_on, &ids[..len]);
            let expected = logits(&model, &mut going_on, &ids[len..], LONG);
            let rows =
                |rows: Range<usize>| &fresh[rows.start * config.n_vocab..rows.end * config.n_vocab];
            let of_fresh = [rows(len..len + FIRST), rows(LONG - 1..LONG)].concat();
            assert!(expected == of_fresh, "{kv:?}, {len} tokens");
            for (i, room) in rooms(kv, LONG).into_iter().enumerate() {
                let Saved { mut state, ids: saved, note } = restore(config, room, &file).unwrap();
                assert_eq!((saved.as_slice(), note.as_str()), (&ids[..len], "a note"));
                assert_eq!((state.len(), state.options()), (len, &room));
                // It is saved again as it was, but for what a smaller ring has no room for.
                assert!(i > 0 || save(&state, &saved) == file, "{kv:?}, {len} tokens");
                let piece = [1, 33, 100][i % 3];
                let found = logits(&model, &mut state, &ids[len..], piece);
                assert!(found == expected, "{kv:?}, {len} tokens, {room:?}");
            }
        }
    }
}

/// A ring of 256 positions after 600 has those from 344 on, which is what 359 and later ones see. More
/// room brings back nothing that was forgotten, and takes nothing away.
#[test]
fn a_restored_sequence_goes_back_as_far_as_it_could() {
    let source = Source::open(&micro()).unwrap();
    let model = load(&source);
    let (config, ids) = (model.config(), &held_out_ids(&source)[..LONG]);
    for kv in KvType::ALL {
        let mut long = state(&model, options(kv), &ids[..600]);
        let file = save(&long, &ids[..600]);
        // And one that went back before it was saved.
        assert_eq!(long.truncate(450), 450);
        let shorter = save(&long, &ids[..450]);
        let mut fresh = State::new(config, options(kv));
        let last = model.forward_last(&mut fresh, &ids[..421]).unwrap();
        for room in rooms(kv, LONG) {
            for file in [&file, &shorter] {
                for (back, kept) in [(358, 0), (359, 359)] {
                    let mut state = restore(config, room, file).unwrap().state;
                    assert_eq!(state.truncate(back), kept, "{kv:?}, {room:?}");
                    let found = model.forward_last(&mut state, &ids[kept..421]).unwrap();
                    assert!(found == last, "{kv:?}, {room:?}");
                }
                // What is written after a longer time overwrites the oldest first, as ever.
                let Saved { mut state, ids: saved, .. } = restore(config, room, file).unwrap();
                for piece in ids[saved.len()..].chunks(7) {
                    model.forward_last(&mut state, piece).unwrap();
                }
                assert_eq!(state.truncate(690), 690);
            }
        }
    }
}

#[test]
fn a_context_of_another_length_will_do_if_the_tokens_fit() {
    let source = Source::open(&micro()).unwrap();
    let model = load(&source);
    let (config, ids) = (model.config(), held_out_ids(&source));
    let file = save(&state(&model, options(KvType::Q8_0), &ids[..300]), &ids[..300]);
    let mut going_on = state(&model, options(KvType::Q8_0), &ids[..300]);
    let expected = model.forward_last(&mut going_on, &ids[300..301]).unwrap();
    for n_ctx in [301, 512, 100_000] {
        for room in rooms(KvType::Q8_0, n_ctx) {
            let mut state = restore(config, room, &file).unwrap().state;
            let found = model.forward_last(&mut state, &ids[300..301]).unwrap();
            assert!(found == expected, "{room:?}");
        }
    }
    assert!(restore(config, StateOptions::new(300, KvType::Q8_0), &file).is_ok());
    let error = restore(config, StateOptions::new(299, KvType::Q8_0), &file).unwrap_err();
    assert_eq!(error.to_string(), "has 300 tokens, but the context holds 299");
}

/// The same instructions or others, the same threads or others: the same file.
#[test]
fn a_file_tells_nothing_of_the_machine() {
    let source = Source::open(&tiny()).unwrap();
    let ids = &held_out_ids(&source)[..90];
    for kv in KvType::ALL {
        let file = |isa: &Isa| {
            let cpu = Cpu::new(std::num::NonZeroUsize::new(2), *isa).unwrap();
            let model = Model::on(cpu, &source).unwrap();
            let options = StateOptions { n_ubatch: 16, ..StateOptions::new(100, kv) };
            save(&state(&model, options, ids), ids)
        };
        let files: Vec<Vec<u8>> = Isa::available().iter().map(file).collect();
        assert!(files.iter().all(|file| *file == files[0]), "{kv:?}");
        let mut reader = Reader::new(&files[0][..], files[0].len() as u64).unwrap();
        let config = source.config();
        let row = config.n_head_kv * kv.head_bytes(config.head_dim);
        assert_eq!(reader.header().row_bytes, row as u64);
        reader.read(&mut vec![0; 2 * config.n_layer() * row * ids.len()]).unwrap();
        reader.finish().unwrap();
    }
}

#[test]
fn what_is_not_this_models_is_refused() {
    let source = Source::open(&micro()).unwrap();
    let model = load(&source);
    let (config, ids) = (model.config(), &held_out_ids(&source)[..20]);
    let options = options(KvType::F16);
    let file = save(&state(&model, options, ids), ids);
    let header = Reader::new(&file[..], file.len() as u64).unwrap().header().clone();

    let other = State::restore(config, options, "another", &file[..], file.len() as u64);
    assert!(matches!(other, Err(SavedError::Model)));
    for kv in [KvType::F32, KvType::Q8_0] {
        let error = restore(config, StateOptions { kv, ..options }, &file).unwrap_err();
        let expected = format!("was saved with a KV cache of type f16, not {}", kv.name());
        assert_eq!(error.to_string(), expected);
    }
    let forged = |change: &dyn Fn(&mut Header)| {
        let mut header = header.clone();
        change(&mut header);
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        let rows =
            (0..header.first.len()).map(|layer| header.positions(layer).count()).sum::<usize>();
        writer.write(&vec![0; 2 * rows * header.row_bytes as usize]).unwrap();
        let file = writer.finish().unwrap();
        match restore(config, options, &file) {
            Ok(_) => None,
            Err(SavedError::Shape(what)) => Some(what),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(forged(&|_| ()), None);
    // Position 20 sees those from 5 on in the local layers, the even ones, and all in the others.
    assert_eq!(forged(&|h| h.first[0] = 5), None);
    assert!(forged(&|h| h.first[0] = 6).unwrap().contains("next token attends to"));
    assert!(forged(&|h| h.first[1] = 1).unwrap().contains("next token attends to"));
    assert!(forged(&|h| h.ids[3] = config.n_vocab as u32).unwrap().contains("vocabulary"));
    assert!(forged(&|h| h.row_bytes += 1).unwrap().contains("size"));
    assert!(forged(&|h| h.row_bytes = 0).unwrap().contains("size"));
    assert!(forged(&|h| h.first.push(0)).unwrap().contains("layers"));
    assert!(forged(&|h| h.first.clear()).unwrap().contains("layers"));
}

/// Every cut, and a change in every part of a whole file, rows included.
#[test]
fn what_is_damaged_is_refused() {
    let source = Source::open(&micro()).unwrap();
    let model = load(&source);
    let (config, ids) = (model.config(), &held_out_ids(&source)[..3]);
    let file = save(&state(&model, options(KvType::Q8_0), ids), ids);
    for at in 0..file.len() {
        let short = restore(config, options(KvType::Q8_0), &file[..at]);
        assert!(matches!(short, Err(SavedError::Session(_))), "{at}");
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        let changed = restore(config, options(KvType::Q8_0), &changed);
        assert!(matches!(changed, Err(SavedError::Session(_))), "{at}");
    }
    let whole =
        State::restore(config, options(KvType::Q8_0), MODEL, &file[..50], file.len() as u64);
    assert!(matches!(whole, Err(SavedError::Session(SessionError::Io(_)))));
}
