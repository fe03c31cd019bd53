//! Importance matrices: other programs' files are read, what is written is read back, and malformed
//! files are refused for the right reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lapidary_formats::gguf::{Gguf, GgufError, Header, Writer};
use lapidary_formats::imatrix::{Entry, Flaw, Imatrix, ImatrixError, Malformed};
use lapidary_formats::quant::QuantType;
use proptest::prelude::*;
use tempfile::TempDir;

const Q: &str = "blk.0.attn_q.weight";
const DOWN: &str = "blk.1.ffn_down.weight";

/// A file made by `make_imatrix.py`.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/imatrix").join(name)
}

fn open(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("some.imatrix");
    fs::write(&path, bytes).unwrap();
    Imatrix::open(path)
}

#[track_caller]
fn malformed(bytes: &[u8]) -> Malformed {
    match open(bytes) {
        Err(error @ ImatrixError::Malformed { .. }) => {
            assert!(error.to_string().contains("some.imatrix: "), "{error}");
            let ImatrixError::Malformed { cause, .. } = error else { unreachable!() };
            cause
        }
        other => panic!("expected a malformed file, found {other:?}"),
    }
}

fn entry(sums: &[f32], count: f32) -> Entry {
    Entry { sums: sums.to_vec(), count }
}

/// Checks an entry that contains a NaN, which `==` cannot compare.
#[track_caller]
fn assert_down(found: &Entry, count: f32) {
    assert_eq!(found.count, count);
    let means = [0.25, 0.0, 8.0, f32::NAN, 0.125, 1.0];
    assert_eq!(found.sums.len(), means.len());
    for (sum, mean) in found.sums.iter().zip(means) {
        assert!(*sum == mean * count || sum.is_nan() && mean.is_nan(), "{:?}", found.sums);
    }
}

#[test]
fn a_gguf_file_of_another_program_is_read() {
    let found = Imatrix::open(golden("small.gguf")).unwrap();
    assert_eq!(found.datasets, ["wiki.train.raw", "Grüße.txt"]);
    assert_eq!((found.chunk_count, found.chunk_size), (3, 512));
    let experts = "blk.1.ffn_gate_exps.weight";
    assert_eq!(found.entries.keys().collect::<Vec<_>>(), [Q, DOWN, experts]);
    assert_eq!(found.entries[Q], entry(&[0.5, 1.0, 2.0, 4.0].map(|x| x * 1536.0), 1536.0));
    assert_down(&found.entries[DOWN], 1536.0);
    // An entry for several matrices becomes their sum.
    assert_eq!(found.entries[experts], entry(&[128.0, 256.0], 1024.0));
}

#[test]
fn a_file_of_the_older_format_is_read() {
    let found = Imatrix::open(golden("small.dat")).unwrap();
    assert_eq!(found.datasets, ["Grüße.txt"]);
    assert_eq!((found.chunk_count, found.chunk_size), (3, 0));
    assert_eq!(found.entries.keys().collect::<Vec<_>>(), [Q, DOWN]);
    assert_eq!(found.entries[Q], entry(&[1.5, 3.0, 6.0, 12.0], 3.0));
    assert_down(&found.entries[DOWN], 3.0);
}

#[test]
fn both_formats_give_the_same_weights() {
    for name in ["small.gguf", "small.dat"] {
        let imatrix = Imatrix::open(golden(name)).unwrap();
        let found = imatrix.importance(Q, 4).unwrap();
        assert_eq!(
            (found.weights, found.repaired),
            ([0.5, 1.0, 2.0, 4.0].map(|x| x / 1.875).into(), 0)
        );
        let found = imatrix.importance(DOWN, 6).unwrap();
        // The zero gets the smallest weight, the NaN the mean of the others: 9.375 / 4.
        let repaired = [0.25, 0.125, 8.0, 2.34375, 0.125, 1.0];
        let mean = repaired.iter().sum::<f32>() / 6.0;
        assert_eq!(found.repaired, 2);
        for (weight, expected) in found.weights.iter().zip(repaired) {
            // Equal but for one or two roundings.
            assert!((weight * mean / expected - 1.0).abs() < 1e-6, "{:?}", found.weights);
        }
        assert_eq!(imatrix.importance(Q, 5), Err(Flaw::Length { found: 4, expected: 5 }));
        assert_eq!(imatrix.importance("blk.0.attn_k.weight", 4), Err(Flaw::Missing));
    }
}

fn any_imatrix() -> impl Strategy<Value = Imatrix> {
    let sums = prop::collection::vec(-1e30f32..1e30, 1..40);
    let entry = (sums, 0f32..1e6).prop_map(|(sums, count)| Entry { sums, count });
    let entries = prop::collection::btree_map("[a-z.0-9]{1,40}", entry, 1..6);
    let datasets = prop::collection::vec(any::<String>(), 0..3);
    (datasets, any::<u32>(), any::<u32>(), entries).prop_map(
        |(datasets, chunk_count, chunk_size, entries)| Imatrix {
            datasets,
            chunk_count,
            chunk_size,
            entries,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(imatrix in any_imatrix()) {
        let bytes = imatrix.write(Vec::new()).unwrap();
        prop_assert_eq!(&bytes, &imatrix.write(Vec::new()).unwrap());
        prop_assert_eq!(open(&bytes).unwrap(), imatrix);
    }

    #[test]
    fn bytes_changed_at_random_never_panic(
        dat in any::<bool>(),
        changes in prop::collection::vec((0usize..2000, any::<u8>()), 1..4),
    ) {
        let mut bytes = fs::read(golden(if dat { "small.dat" } else { "small.gguf" })).unwrap();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(imatrix) = open(&bytes) {
            for (name, entry) in &imatrix.entries {
                let cols = entry.sums.len();
                if let Ok(found) = imatrix.importance(name, cols) {
                    prop_assert!(found.weights.iter().all(|w| w.is_finite() && *w > 0.0));
                    let mean = found.weights.iter().sum::<f32>() / cols as f32;
                    prop_assert!((mean - 1.0).abs() < 1e-5, "{}", mean);
                }
            }
        }
    }
}

/// llama.cpp's writer omits trailing dimensions of one, and writes an entry's sums first.
#[test]
fn files_are_laid_out_as_llama_cpp_does_it() {
    let entries =
        BTreeMap::from([("b".into(), entry(&[4.0], 2.0)), ("a".into(), entry(&[1.0, 2.0], 3.0))]);
    let imatrix = Imatrix { datasets: vec!["t".into()], chunk_count: 1, chunk_size: 3, entries };
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("imatrix.gguf");
    fs::write(&path, imatrix.write(Vec::new()).unwrap()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let keys: Vec<_> = gguf.metadata().map(|(k, v)| format!("{k} {} {v}", v.ty())).collect();
    let expected = [
        "general.type str imatrix",
        "imatrix.datasets array str[1]: t",
        "imatrix.chunk_count u32 1",
        "imatrix.chunk_size u32 3",
    ];
    assert_eq!(keys, expected);
    let tensors: Vec<_> = gguf.tensors().map(|t| format!("{} {:?}", t.name, t.shape)).collect();
    assert_eq!(tensors, ["a.in_sum2 [2]", "a.counts [1]", "b.in_sum2 [1]", "b.counts [1]"]);
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let bytes = fs::read(golden("small.gguf")).unwrap();
    for n in 0..bytes.len() {
        // Only padding follows the last tensor.
        let padding = bytes[n..].iter().all(|b| *b == 0) && bytes.len() - n < 32;
        assert!(open(&bytes[..n]).is_err() || padding, "{n} bytes");
    }
    let bytes = fs::read(golden("small.dat")).unwrap();
    // The oldest files end after the entries.
    let tail = 4 + 4 + "Grüße.txt".len();
    for n in 0..bytes.len() {
        match open(&bytes[..n]) {
            Ok(found) => assert_eq!((n, found.datasets.len()), (bytes.len() - tail, 0)),
            Err(_) => {
                let cause = malformed(&bytes[..n]);
                let expected =
                    matches!(cause, Malformed::Truncated { .. } | Malformed::Entries { .. });
                assert!(expected, "{n} bytes: {cause}");
            }
        }
    }
}

/// A file of the older format.
fn dat(count: i32, entries: &[Vec<u8>], tail: &[u8]) -> Vec<u8> {
    [&count.to_le_bytes()[..], &entries.concat(), tail].concat()
}

/// An entry of such a file, with lengths that may be wrong.
fn dat_entry(len: i32, name: &[u8], values: i32, sums: &[f32]) -> Vec<u8> {
    let sums: Vec<u8> = sums.iter().flat_map(|x| x.to_le_bytes()).collect();
    [&len.to_le_bytes(), name, &1i32.to_le_bytes(), &values.to_le_bytes(), &sums].concat()
}

#[test]
fn false_counts_and_lengths_are_refused() {
    let good = || dat_entry(1, b"a", 1, &[1.0]);
    assert_eq!(open(&dat(1, &[good()], b"")).unwrap().entries["a"], entry(&[1.0], 1.0));
    for count in [0, -1, 2, i32::MAX, i32::MIN] {
        let cause = malformed(&dat(count, &[good()], b""));
        assert!(
            matches!(cause, Malformed::Entries { count: found, most: 1, .. } if found == count)
        );
    }
    for len in [0, -1, i32::MIN] {
        let cause = malformed(&dat(1, &[dat_entry(len, b"a", 1, &[1.0])], b""));
        assert!(matches!(cause, Malformed::Length { at: 4, found, .. } if found == len));
        let cause = malformed(&dat(1, &[dat_entry(1, b"a", len, &[1.0])], b""));
        assert!(matches!(cause, Malformed::Length { at: 13, found, .. } if found == len));
    }
    for len in [20, i32::MAX] {
        let cause = malformed(&dat(1, &[dat_entry(len, b"a", 1, &[1.0])], b""));
        assert!(matches!(cause, Malformed::Truncated { at: 8, .. }), "{cause}");
        let cause = malformed(&dat(1, &[dat_entry(1, b"a", len, &[1.0])], b""));
        assert!(matches!(cause, Malformed::Truncated { at: 17, .. }), "{cause}");
    }
    let cause = malformed(&dat(1, &[dat_entry(1, b"\xff", 1, &[1.0])], b""));
    assert_eq!(cause, Malformed::NotUtf8 { place: "entry 1 of 1".into(), at: 8 });
    let cause = malformed(&dat(2, &[good(), good()], b""));
    assert_eq!(cause, Malformed::Duplicate { place: "entry 2 of 2".into(), name: "a".into() });
    let cause = malformed(&dat(1, &[good()], &[0; 11]));
    assert_eq!(cause, Malformed::Trailing { at: 29, extra: 3 });
}

#[test]
fn files_that_are_not_an_importance_matrix_are_named() {
    let cause = malformed(b"This is a text, and not short enough to be taken for something else.");
    assert!(matches!(cause, Malformed::Entries { .. }), "{cause}");
    assert!(matches!(malformed(b"<!DOCTYPE html><html>"), Malformed::StandIn(_)));
    assert!(matches!(malformed(b""), Malformed::Truncated { at: 0, .. }));
    assert!(matches!(open(b"GGUF").unwrap_err(), ImatrixError::Gguf(GgufError::Malformed { .. })));
    let missing = Imatrix::open("no/such/file.dat").unwrap_err();
    assert!(missing.to_string().starts_with("no/such/file.dat: "), "{missing}");
}

/// A GGUF file of this `general.type` with these tensors, all zero.
fn gguf(kind: Option<&str>, tensors: &[(&str, QuantType, &[usize])]) -> Vec<u8> {
    let mut header = Header::new();
    if let Some(kind) = kind {
        header.set("general.type", kind);
    }
    for (name, ty, shape) in tensors {
        header.add_tensor(*name, *ty, shape).unwrap();
    }
    let bytes: Vec<u64> = header.tensors().iter().map(|t| t.bytes).collect();
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    bytes.iter().for_each(|n| writer.write(&vec![0; *n as usize]).unwrap());
    writer.finish().unwrap()
}

#[test]
fn gguf_files_without_the_required_tensors_are_refused() {
    use QuantType::{F16, F32};
    let sums = ("a.in_sum2", F32, &[4usize][..]);
    let counts = ("a.counts", F32, &[1usize][..]);
    // Metadata may be missing and is then unknown.
    let found = open(&gguf(None, &[sums, counts])).unwrap();
    assert_eq!((found.datasets.len(), found.chunk_count, found.chunk_size), (0, 0, 0));
    assert_eq!(found.importance("a", 4), Err(Flaw::Count(0.0)));

    let cause = malformed(&gguf(Some("model"), &[sums, counts]));
    assert_eq!(cause, Malformed::Kind("model".into()));
    assert_eq!(malformed(&gguf(None, &[])), Malformed::NoEntries);
    assert_eq!(malformed(&gguf(None, &[("a.weight", F32, &[4])])), Malformed::NoEntries);
    let unpaired = |name: &str, missing: &str| Malformed::Unpaired {
        name: name.into(),
        missing: missing.into(),
    };
    assert_eq!(malformed(&gguf(None, &[sums])), unpaired("a.in_sum2", "a.counts"));
    assert_eq!(malformed(&gguf(None, &[counts])), unpaired("a.counts", "a.in_sum2"));
    for (sums, counts, name) in [(F16, F32, "a.in_sum2"), (F32, F16, "a.counts")] {
        let cause =
            malformed(&gguf(None, &[("a.in_sum2", sums, &[4]), ("a.counts", counts, &[1])]));
        assert_eq!(cause, Malformed::Type { name: name.into(), found: F16 });
    }
    let cause = malformed(&gguf(None, &[sums, ("a.counts", F32, &[1, 3])]));
    assert_eq!(cause, Malformed::Counts { name: "a.in_sum2".into(), sums: 4, counts: 3 });
}

#[test]
fn entries_that_no_file_can_hold_are_not_written() {
    let of = |name: String, sums| {
        let entries = BTreeMap::from([(name, Entry { sums, count: 1.0 })]);
        Imatrix { entries, ..Imatrix::default() }
    };
    assert!(matches!(of("a".into(), vec![]).write(Vec::new()), Err(GgufError::Describe(_))));
    assert!(matches!(of("a".repeat(60), vec![1.0]).write(Vec::new()), Err(GgufError::Describe(_))));
    let mut room = [0; 40];
    assert!(matches!(of("a".into(), vec![1.0]).write(&mut room[..]), Err(GgufError::Write(_))));
}
