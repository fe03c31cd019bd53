//! One malformed file after the other, each refused for its own reason.

use super::*;

#[test]
fn truncation_at_every_byte_is_an_error() {
    let bytes = small().bytes();
    assert!(open(&bytes).is_ok());
    for n in 0..bytes.len() {
        let cause = malformed(&bytes[..n]);
        use Malformed::*;
        let expected = matches!(cause, Count { .. } | Truncated { .. } | OutOfFile { .. });
        assert!(expected, "{n} bytes: {cause}");
    }
}

#[test]
fn what_is_no_gguf_file_is_called_by_its_name() {
    assert_eq!(malformed(b"tjgg\x01\0\0\0"), Malformed::Magic(b"tjgg".to_vec()));
    assert_eq!(malformed(b"FUGG\0\0\0\x03"), Malformed::BigEndian);
    assert_eq!(malformed(b"GGUF\0\0\0\x03"), Malformed::BigEndian);
    assert!(matches!(malformed(b"<!DOCTYPE html><html>"), Malformed::StandIn(_)));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    assert!(matches!(malformed(pointer), Malformed::StandIn(_)));
    for version in [0, 1, 4, 1000] {
        assert_eq!(Raw { version, ..small() }.refused(), Malformed::Version(version));
    }
    assert!(matches!(Gguf::open("no/such/file.gguf"), Err(GgufError::Open { .. })));
    assert!(matches!(Gguf::open("src"), Err(GgufError::Open { .. })));
}

#[test]
fn counts_and_lengths_that_wrap_are_refused() {
    for counts in [(3, 2), (2, 3)] {
        assert!(open(&Raw { counts: Some(counts), ..small() }.bytes()).is_err());
    }
    let truncated = |raw: Raw| matches!(raw.refused(), Malformed::Truncated { .. });
    for n in [1 << 31, 1 << 63, u64::MAX] {
        for counts in [(n, 2), (2, n)] {
            let cause = Raw { counts: Some(counts), ..small() }.refused();
            assert!(matches!(cause, Malformed::Count { count, .. } if count == n));
        }
        let len = n.to_le_bytes();
        assert!(truncated(Raw::new().key(b"k", 8, &len)));
        for ty in [0, 2, 4, 6, 7, 8, 10, 12] {
            assert!(truncated(Raw::new().key(b"k", 9, &array(ty, n, b""))));
        }
        let mut raw = Raw::new();
        raw.metadata.push(len.to_vec());
        assert!(truncated(raw));
    }
}

#[test]
fn values_of_unknown_form_are_refused() {
    let cause = Raw::new().key(b"k", 13, b"").refused();
    assert!(matches!(cause, Malformed::UnknownValueType { number: 13, .. }));
    let cause = Raw::new().key(b"k", 9, &array(99, 1, b"")).refused();
    assert!(matches!(cause, Malformed::UnknownValueType { number: 99, .. }));
    let cause = Raw::new().key(b"k", 9, &array(9, 1, &array(4, 0, b""))).refused();
    assert!(matches!(cause, Malformed::NestedArray { .. }));
    let cause = Raw::new().key(b"k", 7, &[2]).refused();
    assert!(matches!(cause, Malformed::Bool { found: 2, .. }));
    let cause = Raw::new().key(b"k", 9, &array(7, 2, &[1, 3])).refused();
    assert!(matches!(cause, Malformed::Bool { found: 3, .. }));
}

#[test]
fn names_that_cannot_be_are_refused() {
    let two = |key: &[u8]| Raw::new().key(key, 7, &[0]).key(key, 7, &[0]);
    assert!(matches!(two(b"").refused(), Malformed::Empty { .. }));
    assert_eq!(two(b"k").refused(), Malformed::DuplicateKey("k".into()));
    assert!(matches!(two(&[b'k'; 65_536]).refused(), Malformed::TooLong { len: 65_536, .. }));
    assert!(matches!(two(b"\xff").refused(), Malformed::NotUtf8 { .. }));
    let two = |name: &[u8]| {
        Raw::new().tensor(name, &[8], 0, 0).tensor(name, &[8], 0, 32).data(64).refused()
    };
    assert!(matches!(two(b""), Malformed::Empty { .. }));
    assert_eq!(two(b"t"), Malformed::DuplicateTensor("t".into()));
    assert!(matches!(two(&[b't'; 64]), Malformed::TooLong { len: 64, max: 63, .. }));
    assert!(matches!(two(b"\xc3("), Malformed::NotUtf8 { .. }));
    let token = Raw::new().key(b"k", 9, &array(8, 1, &string(b"\xff")));
    assert!(matches!(token.refused(), Malformed::NotUtf8 { .. }));
}

#[test]
fn alignments_of_no_use_are_refused() {
    for n in [0, 1, 4, 33, 1 << 31, u32::MAX] {
        assert!(matches!(small().u32("general.alignment", n).refused(), Malformed::Alignment(_)));
    }
    let other_type = small().key(b"general.alignment", 10, &32u64.to_le_bytes());
    assert_eq!(other_type.refused(), Malformed::Alignment("32 (u64)".into()));
    let finer = small().u32("general.alignment", 8);
    assert_eq!(open(&finer.bytes()).unwrap().alignment(), 8);
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let refused = |dims: &[u64], ty: u32| Raw::new().tensor(b"t", dims, ty, 0).data(1024).refused();
    assert!(matches!(refused(&[], 0), Malformed::Dimensions { dims: 0, .. }));
    assert!(matches!(refused(&[1; 5], 0), Malformed::Dimensions { dims: 5, .. }));
    assert!(matches!(refused(&[0], 0), Malformed::ZeroDimension(_)));
    assert!(matches!(refused(&[32, 0, 2], 0), Malformed::ZeroDimension(_)));
    for dims in [&[i64::MAX as u64, 2][..], &[1 << 32, 1 << 32], &[1 << 62], &[u64::MAX]] {
        assert!(matches!(refused(dims, 0), Malformed::TooLarge(_)), "{dims:?}");
    }
    assert!(matches!(
        refused(&[1 << 40, 1 << 23], 2),
        Malformed::OutOfFile { .. } | Malformed::TooLarge(_)
    ));
    assert!(matches!(refused(&[33], 8), Malformed::RowLength { cols: 33, .. }));
    assert!(matches!(refused(&[128, 2], 12), Malformed::RowLength { cols: 128, .. }));
}

#[test]
fn unsupported_tensor_types_are_called_by_their_names() {
    for (ty, name) in [(20, "IQ4_NL"), (15, "Q8_K"), (26, "I32"), (7777, "unknown")] {
        let cause = Raw::new().tensor(b"t", &[256], ty, 0).data(4096).refused();
        let Malformed::TensorType { number, type_name, .. } = cause else { panic!("{cause}") };
        assert_eq!((number, type_name), (ty, name));
    }
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let refused = |offset: u64| small().tensor(b"t", &[8], 0, offset).data(256).refused();
    assert!(matches!(refused(129), Malformed::Misaligned { offset: 129, .. }));
    assert!(matches!(refused(256), Malformed::OutOfFile { .. }));
    assert!(matches!(refused(1 << 63), Malformed::OutOfFile { .. }));
    assert!(matches!(refused(u64::MAX - 31), Malformed::OutOfFile { .. }));
    let overlap = |first: &str, second: &str| Malformed::Overlap {
        first: first.into(),
        second: second.into(),
    };
    assert_eq!(refused(32), overlap("x", "t"));
    assert_eq!(refused(96), overlap("y", "t"));
}
