//! Malformed files: each is refused with the right message.

use super::*;

/// Counts and lengths that no file can hold, and whose products overflow.
const ABSURD: [u64; 4] = [1 << 31, 1 << 61, 1 << 63, u64::MAX];

/// Asserts the error message.
fn says(raw: Raw, expected: &str) {
    assert_eq!(raw.refused().to_string(), expected);
}

/// A file with one tensor of this description, and more data than it needs.
fn described(dims: &[u64], ty: u32, offset: u64) -> Raw {
    Raw::new().tensor(b"t", dims, ty, offset).data(1024)
}

#[test]
fn truncation_at_every_byte() {
    let bytes = small().bytes();
    assert!(open(&bytes).is_ok());
    for n in 0..bytes.len() {
        let cause = malformed(&bytes[..n]);
        use Malformed::*;
        let expected = matches!(cause, Count { .. } | Truncated { .. } | OutOfFile { .. });
        assert!(expected, "{n} bytes: {cause}");
    }
    let last = malformed(&bytes[..bytes.len() - 1]).to_string();
    let expected =
        "tensor \"y\" has 34 bytes at offset 64 of a data section of 97 bytes: the file \
                    is truncated";
    assert_eq!(last, expected);
}

#[test]
fn counts_of_keys_that_overflow() {
    for n in ABSURD {
        let raw = Raw { counts: Some((2, n)), ..small() };
        let len = raw.bytes().len();
        let expected = "metadata keys, more than a file of";
        says(raw, &format!("the header declares {n} {expected} {len} bytes can hold"));
    }
    // One key more than there are, or one less: the bytes that follow are misread.
    for n in [1, 3] {
        assert!(open(&Raw { counts: Some((2, n)), ..small() }.bytes()).is_err());
    }
}

#[test]
fn counts_of_tensors_that_overflow() {
    for n in ABSURD {
        let raw = Raw { counts: Some((n, 2)), ..small() };
        let len = raw.bytes().len();
        let expected = "tensors, more than a file of";
        says(raw, &format!("the header declares {n} {expected} {len} bytes can hold"));
    }
    assert!(open(&Raw { counts: Some((3, 2)), ..small() }.bytes()).is_err());
}

#[test]
fn string_lengths_that_overflow() {
    for n in ABSURD {
        let value = Raw::new().key(b"k", 8, &n.to_le_bytes());
        let expected = format!(
            "the value of metadata key \"k\" needs {n} bytes at byte 45, but the file has 64"
        );
        says(value, &expected);
        let mut key = Raw::new();
        key.metadata.push(n.to_le_bytes().to_vec());
        let expected = format!("metadata key 1 of 1 needs {n} bytes at byte 32, but the file has");
        let cause = Raw { counts: Some((0, 1)), ..key }.data(32).refused().to_string();
        assert!(cause.starts_with(&expected), "{cause}");
    }
}

#[test]
fn array_lengths_that_overflow() {
    for n in ABSURD {
        for ty in [0, 2, 4, 6, 7, 8, 10, 12] {
            let cause = Raw::new().key(b"k", 9, &array(ty, n, b"")).refused();
            let Malformed::Truncated { place, .. } = &cause else { panic!("{cause}") };
            assert_eq!(place, "the value of metadata key \"k\"");
        }
    }
    let floats = Raw::new().key(b"k", 9, &array(6, 1 << 63, b""));
    let expected = format!(
        "the value of metadata key \"k\" needs {} bytes at byte 49, but the file has 64",
        u64::MAX
    );
    says(floats, &expected);
}

#[test]
fn arrays_of_arrays() {
    let mut nested = array(4, 0, b"");
    for _ in 0..1000 {
        nested = array(9, 1, &nested);
    }
    for value in [array(9, 1, &array(4, 0, b"")), array(9, 1 << 63, b""), nested] {
        let expected =
            "the value of metadata key \"k\" is an array of arrays, which is not supported";
        says(Raw::new().key(b"k", 9, &value), expected);
    }
}

#[test]
fn unusable_alignments() {
    for n in [0, 1, 4, 33, 1 << 17, 1 << 31, u32::MAX] {
        let expected = "expected a u32 power of two from 8 to 65536";
        let raw = small().u32("general.alignment", n);
        says(raw, &format!("general.alignment is {n} (u32), {expected}"));
    }
    let finer = small().u32("general.alignment", 8);
    assert_eq!(open(&finer.bytes()).unwrap().alignment(), 8);
}

#[test]
fn alignments_of_another_type() {
    let expected = "expected a u32 power of two from 8 to 65536";
    for (ty, value, found) in
        [(10, &32u64.to_le_bytes()[..], "32 (u64)"), (8, &string(b"32"), "32 (str)")]
    {
        let raw = small().key(b"general.alignment", ty, value);
        says(raw, &format!("general.alignment is {found}, {expected}"));
    }
}

#[test]
fn dimensions_whose_product_overflows() {
    for dims in [&[1 << 32, 1 << 32][..], &[1 << 16; 4], &[1 << 31, 1 << 31, 4], &[u64::MAX, 2]] {
        says(described(dims, 0, 0), "tensor \"t\" is too large for any machine");
    }
}

#[test]
fn the_largest_dimension_twice() {
    let max = i64::MAX as u64;
    says(described(&[max, 2], 0, 0), "tensor \"t\" is too large for any machine");
    says(described(&[2, max], 0, 0), "tensor \"t\" is too large for any machine");
}

#[test]
fn dimensions_whose_size_in_bytes_overflows() {
    for (dims, ty) in [(&[1 << 62][..], 0), (&[1 << 61, 2], 0), (&[1 << 63], 1)] {
        says(described(dims, ty, 0), "tensor \"t\" is too large for any machine");
    }
    // Nearly the whole address space: padding this to the alignment would overflow.
    let expected = format!(
        "tensor \"t\" has {} bytes at offset 0 of a data section of 1024 bytes: the file is truncated",
        u64::MAX - 3
    );
    says(described(&[(1 << 62) - 1], 0, 0), &expected);
}

#[test]
fn tensors_whose_total_size_overflows() {
    let half = 1u64 << 61;
    let raw = Raw::new().tensor(b"t", &[half], 0, 0).tensor(b"u", &[half], 0, 1 << 63);
    let expected = "tensor \"t\" has 9223372036854775808 bytes at offset 0 of a data section of 0 \
                    bytes: the file is truncated";
    says(raw, expected);
}

#[test]
fn a_dimension_of_zero() {
    for dims in [&[0][..], &[32, 0, 2], &[0, u64::MAX]] {
        says(described(dims, 0, 0), "tensor \"t\" has a dimension of zero");
    }
}

#[test]
fn no_dimensions_or_too_many() {
    for n in [0, 5, 6, 100_000] {
        let expected = format!("tensor \"t\" has {n} dimensions, expected 1 to 4");
        says(described(&vec![1; n], 0, 0), &expected);
    }
}

#[test]
fn rows_that_are_not_whole_blocks() {
    let expected = "tensor \"t\" has rows of 33 values, not a multiple of Q8_0's block length 32";
    says(described(&[33], 8, 0), expected);
    let expected = "tensor \"t\" has rows of 128 values, not a multiple of Q4_K's block length 256";
    says(described(&[128, 2], 12, 0), expected);
}

#[test]
fn overlapping_offsets() {
    let raw = |offset| small().tensor(b"t", &[8], 0, offset).data(256);
    says(raw(0), "tensors \"x\" and \"t\" overlap");
    says(raw(32), "tensors \"x\" and \"t\" overlap");
    says(raw(96), "tensors \"y\" and \"t\" overlap");
    assert!(open(&raw(128).bytes()).is_ok());
}

#[test]
fn misaligned_offsets() {
    for offset in [1, 8, 129, (1 << 63) + 1] {
        let expected =
            format!("tensor \"t\" begins at offset {offset}, not a multiple of the alignment 32");
        says(described(&[8], 0, offset), &expected);
    }
}

#[test]
fn offsets_past_the_end() {
    for offset in [1024, 1 << 63, u64::MAX - 31] {
        let expected = format!(
            "tensor \"t\" has 32 bytes at offset {offset} of a data section of 1024 bytes: the file is \
             truncated"
        );
        says(described(&[8], 0, offset), &expected);
    }
}

#[test]
fn empty_keys() {
    says(Raw::new().key(b"", 7, &[0]), "metadata key 1 of 1 is empty");
}

#[test]
fn duplicate_keys() {
    let twice = Raw::new().key(b"k", 7, &[0]).key(b"k", 4, &[0; 4]);
    says(twice, "metadata key \"k\" occurs twice");
}

#[test]
fn keys_that_are_too_long() {
    let expected = "metadata key 1 of 1 is 65536 bytes long, at most 65535 are allowed";
    says(Raw::new().key(&[b'k'; 65_536], 7, &[0]), expected);
    assert!(open(&Raw::new().key(&[b'k'; 65_535], 7, &[0]).bytes()).is_ok());
}

#[test]
fn empty_tensor_names() {
    says(Raw::new().tensor(b"", &[8], 0, 0).data(32), "tensor name 1 of 1 is empty");
}

#[test]
fn duplicate_tensors() {
    let twice = Raw::new().tensor(b"t", &[8], 0, 0).tensor(b"t", &[8], 0, 32).data(64);
    says(twice, "tensor \"t\" occurs twice");
}

#[test]
fn tensor_names_that_are_too_long() {
    let expected = "tensor name 1 of 1 is 64 bytes long, at most 63 are allowed";
    says(Raw::new().tensor(&[b't'; 64], &[8], 0, 0).data(32), expected);
    assert!(open(&Raw::new().tensor(&[b't'; 63], &[8], 0, 0).data(32).bytes()).is_ok());
}

#[test]
fn strings_that_are_not_utf8() {
    let expected = "metadata key 1 of 1 has a string at byte 32 that is not UTF-8";
    says(Raw::new().key(b"\xff", 7, &[0]), expected);
    let expected = "tensor name 1 of 1 has a string at byte 32 that is not UTF-8";
    says(Raw::new().tensor(b"\xc3(", &[8], 0, 0).data(32), expected);
    let token = Raw::new().key(b"k", 9, &array(8, 1, &string(b"\xff")));
    says(token, "the value of metadata key \"k\" has a string at byte 57 that is not UTF-8");
}

#[test]
fn unsupported_versions() {
    for version in [0, 1, 4, 1000] {
        let expected = format!("GGUF version {version} is not supported, only 2 and 3");
        says(Raw { version, ..small() }, &expected);
    }
}

#[test]
fn big_endian_files() {
    for bytes in [b"FUGG\0\0\0\x03", b"GGUF\0\0\0\x03", b"GGUF\0\0\0\x02"] {
        let cause = malformed(bytes).to_string();
        assert_eq!(cause, "big-endian GGUF files are not supported");
    }
}

#[test]
fn another_magic() {
    let cause = malformed(b"tjgg\x01\0\0\0").to_string();
    assert_eq!(cause, "not a GGUF file: it begins with \"tjgg\"");
    let cause = malformed(b"\x1b[2J\0\0\0\0").to_string();
    assert_eq!(cause, "not a GGUF file: it begins with \"\\x1b[2J\"");
}

#[test]
fn an_html_page_or_a_pointer_in_place_of_the_file() {
    let cause = malformed(b"<!DOCTYPE html><html>").to_string();
    assert!(cause.starts_with("not a GGUF file but an HTML page"), "{cause}");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    let cause = malformed(pointer).to_string();
    assert!(cause.starts_with("not a GGUF file but a Git LFS pointer"), "{cause}");
}

#[test]
fn a_missing_file() {
    assert!(matches!(Gguf::open("no/such/file.gguf"), Err(GgufError::Open { .. })));
    assert!(matches!(Gguf::open("src"), Err(GgufError::Open { .. })));
}

#[test]
fn unknown_value_types() {
    for ty in [13, 99, u32::MAX] {
        let expected = format!("the value of metadata key \"k\" has the unknown type {ty}");
        says(Raw::new().key(b"k", ty, b""), &expected);
        says(Raw::new().key(b"k", 9, &array(ty, 1, b"")), &expected);
    }
}

#[test]
fn invalid_booleans() {
    let expected =
        |n| format!("the value of metadata key \"k\" has the boolean value {n}, expected 0 or 1");
    says(Raw::new().key(b"k", 7, &[2]), &expected(2));
    says(Raw::new().key(b"k", 9, &array(7, 2, &[1, 3])), &expected(3));
}

#[test]
fn unknown_and_unsupported_tensor_types() {
    for (ty, name) in [
        (4, "Q4_2, removed from GGUF"),
        (15, "Q8_K"),
        (40, "NVFP4"),
        (26, "I32"),
        (7777, "unknown"),
        (u32::MAX, "unknown"),
    ] {
        let expected = format!("tensor \"t\" has the type {ty} ({name}), which is not supported");
        says(described(&[256], ty, 0), &expected);
    }
}

#[test]
fn control_characters_are_escaped_in_messages() {
    let key = b"\x1b[31mred\xe2\x80\xae";
    let twice = Raw::new().key(key, 7, &[0]).key(key, 7, &[0]);
    says(twice, "metadata key \"\\u{1b}[31mred\\u{202e}\" occurs twice");
    let value = Raw::new().key(key, 13, b"");
    let expected = "the value of metadata key \"\\u{1b}[31mred\\u{202e}\" has the unknown type 13";
    says(value, expected);
    let tensor = Raw::new().tensor(b"\x07\xc2\x9b", &[0], 0, 0);
    says(tensor, "tensor \"\\u{7}\\u{9b}\" has a dimension of zero");
    let gguf = open(&Raw::new().key(b"k", 8, &string(b"a\x1b[2J\xe2\x80\xaeb")).bytes()).unwrap();
    assert_eq!(gguf.get("k").unwrap().to_string(), "a\\u{1b}[2J\\u{202e}b");
    let message = gguf.u32("k").unwrap_err().to_string();
    assert!(
        message.ends_with("holds str a\\u{1b}[2J\\u{202e}b, expected an unsigned 32-bit integer")
    );
}

/// Keys may be 64 KB long, which is too long for a message.
#[test]
fn long_keys_are_truncated_in_messages() {
    let key = [b'k'; 65_535];
    let twice = Raw::new().key(&key, 7, &[0]).key(&key, 7, &[0]);
    says(twice, &format!("metadata key \"{}…\" occurs twice", "k".repeat(200)));
}
