//! Several sequences in one pass, and sequences that begin as another does: the bits of each by itself.

use lapidary::kernels::KvType;
use lapidary::model::{BatchEntry, Model, Rows, Sequence, Source, State, StateOptions, Workspace};

use crate::fixtures::micro;
use crate::tokens::held_out_ids;

/// Micro's window is 16, and a ring with this ubatch holds 256 positions.
const N_UBATCH: usize = 40;

/// More than twice a ring.
const LONG: usize = 700;

fn options(kv: KvType) -> StateOptions {
    StateOptions { n_ubatch: N_UBATCH, ..StateOptions::new(LONG, kv) }
}

/// Logits of all of `ids`, from an empty sequence that nobody shares a pass with.
fn alone(model: &Model<'_>, kv: KvType, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let mut state = State::new(model.config(), options(kv));
    model.forward(&mut state, ids, Rows::All, |_, logits| all.push(logits.to_vec())).unwrap();
    all
}

/// Reads `ids` in ubatches.
fn read(model: &Model<'_>, work: &mut Workspace, sequence: &mut Sequence, ids: &[u32]) {
    for tokens in ids.chunks(N_UBATCH) {
        model.evaluate_batch(work, &mut [BatchEntry { sequence, tokens }]).unwrap();
    }
}

/// Three texts that begin at other times and go on in other pieces, one of which laps its ring.
#[test]
fn a_pass_over_many_gives_each_the_bits_it_has_alone() {
    let source = Source::open(&micro()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let all = held_out_ids(&source);
    let texts = [&all[..LONG], &all[100..400], &all[1000..1090]];
    let pieces = [[40, 1, 33], [1, 2, 17], [1, 1, 1]];
    for kv in KvType::ALL {
        let expected = texts.map(|ids| alone(&model, kv, ids));
        let mut work = Workspace::new(model.config());
        let mut sequences = texts.map(|_| Sequence::new(model.config(), options(kv)));
        for step in 0.. {
            let mut batch = Vec::new();
            let mut texts_of_rows = Vec::new();
            for (i, sequence) in sequences.iter_mut().enumerate() {
                let at = sequence.len();
                let n = pieces[i][step % 3].min(texts[i].len() - at);
                // The last text joins when the others have come some way.
                if n > 0 && (i < 2 || step > 10) {
                    texts_of_rows.extend((at..at + n).map(|at| (i, at)));
                    batch.push(BatchEntry { sequence, tokens: &texts[i][at..at + n] });
                }
            }
            if batch.is_empty() {
                break;
            }
            model.evaluate_batch(&mut work, &mut batch).unwrap();
            // Some rows, not in one run.
            let rows: Vec<usize> = (0..texts_of_rows.len()).step_by(3).collect();
            let logits = model.logits_of(&mut work, &rows).unwrap();
            for (row, logits) in rows.iter().zip(logits.chunks(model.config().n_vocab)) {
                let (text, at) = texts_of_rows[*row];
                assert!(logits == expected[text][at], "{kv:?}: text {text} at {at}, step {step}");
            }
        }
        assert_eq!(sequences.map(|s| s.len()), texts.map(<[u32]>::len));
    }
}

/// A copy goes on as what it was copied from would have, wherever the rings are, and also in a sequence
/// that held more before.
#[test]
fn a_copy_of_a_beginning_goes_on_with_the_same_bits() {
    let source = Source::open(&micro()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let all = held_out_ids(&source);
    let mut work = Workspace::new(model.config());
    for kv in KvType::ALL {
        let expected = alone(&model, kv, &all[..LONG]);
        // Of 600 positions a ring of 256 has those from 344 on; a position sees the 15 before it.
        for (had, len, kept) in
            [(200, 130, 130), (256, 256, 256), (600, 600, 600), (600, 359, 359), (600, 358, 0)]
        {
            for before in [0, 90, 650] {
                let new = || Sequence::new(model.config(), options(kv));
                let (mut from, mut to) = (new(), new());
                read(&model, &mut work, &mut from, &all[..had]);
                read(&model, &mut work, &mut to, &all[1000..1000 + before]);
                assert_eq!(from.keeps(len), kept);
                assert_eq!(to.copy_from(&from, len), kept, "{kv:?}, {len} of {had}");
                assert_eq!((to.len(), from.len()), (kept, had));
                for (sequence, at) in [(&mut to, kept), (&mut from, had)] {
                    read(&model, &mut work, sequence, &all[at..LONG]);
                    let last = (LONG - at - 1) % N_UBATCH;
                    let logits = model.logits_of(&mut work, &[last]).unwrap();
                    assert!(logits == expected[LONG - 1], "{kv:?}, {len} of {had} over {before}");
                }
            }
        }
    }
}
