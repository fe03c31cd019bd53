//! Checksums in the header: added while a file is written, and read back.

use std::io::Cursor;

use lapidary_formats::gguf::{
    read_metadata, Checksum, Checksums, CHECKSUMS_KEY, HEADER_CHECKSUM_KEY,
};

use super::*;

/// Three tensors, two of which do not end at a multiple of 32, and their checksums' keys.
fn header() -> Header {
    let mut header = Header::new();
    header.set("answer", 42u32);
    header.add_tensor("x", QuantType::F32, &[5, 3]).unwrap();
    header.add_tensor("y", QuantType::Q8_0, &[64]).unwrap();
    header.add_tensor("z", QuantType::F16, &[16, 2]).unwrap();
    header.reserve_checksums();
    header
}

fn data(header: &Header, i: usize) -> Vec<u8> {
    contents(i, header.tensors()[i].bytes as usize)
}

/// Writes the tensors from `from` to `to`, a few bytes at a time.
fn write_tensors(writer: &mut Writer<Cursor<Vec<u8>>>, header: &Header, from: usize, to: usize) {
    for i in from..to {
        data(header, i).chunks(7).for_each(|bytes| writer.write(bytes).unwrap());
        writer.write_checksums().unwrap();
    }
}

fn whole() -> Vec<u8> {
    let header = header();
    let mut writer = Writer::new(Cursor::new(Vec::new()), header.clone()).unwrap();
    write_tensors(&mut writer, &header, 0, 3);
    writer.finish().unwrap().into_inner()
}

#[test]
fn the_algorithm_is_xxh3() {
    // Expected values are from the reference: xxhsum -H3 of an empty file and of the three bytes.
    assert_eq!(Checksum::of(b""), 0x2d06_8005_38d3_94c2);
    assert_eq!(Checksum::of(b"abc"), 0x78af_5f94_892f_3950);
    let long: Vec<u8> = (0..10_000u32).map(|i| ((i * i) >> 3) as u8).collect();
    let mut pieces = Checksum::new();
    long.chunks(77).for_each(|piece| pieces.update(piece));
    assert_eq!(pieces.value(), Checksum::of(&long));
}

#[test]
fn every_tensors_checksum_is_stored() {
    let gguf = open(&whole()).unwrap();
    let expected: Vec<u64> = gguf.tensors().map(|t| Checksum::of(t.data)).collect();
    assert_eq!(gguf.checksums(), Checksums::Stored(expected));
    assert_eq!(open(&small().bytes()).unwrap().checksums(), Checksums::Absent);
}

#[test]
fn a_file_can_be_continued_after_any_tensor() {
    let header = header();
    for n in 0..=3 {
        let mut writer = Writer::new(Cursor::new(Vec::new()), header.clone()).unwrap();
        write_tensors(&mut writer, &header, 0, n);
        let checksums = writer.checksums().to_vec();
        // The rest is missing, or will be overwritten.
        let begun = whole();
        let stored = header.stored_checksums(&begun).unwrap();
        assert_eq!(stored[..n], checksums);
        let mut writer = match n {
            0 => Writer::new(Cursor::new(begun), header.clone()).unwrap(),
            _ => Writer::resume(Cursor::new(begun), header.clone(), checksums.clone()).unwrap(),
        };
        writer.write_checksums().unwrap();
        write_tensors(&mut writer, &header, n, 3);
        assert!(writer.finish().unwrap().into_inner() == whole(), "{n}");
    }
}

#[test]
fn an_incomplete_file_is_told_from_another_file() {
    let (header, whole) = (header(), whole());
    let len = header.encode().len();
    // No checksum can be trusted before the header is complete.
    for cut in [0, 3, 40, len - 1] {
        assert_eq!(header.stored_checksums(&whole[..cut]), Some(vec![]), "{cut}");
    }
    assert_eq!(header.stored_checksums(&whole[..len]).unwrap().len(), 3);
    let tensors = header.checksum_slot().unwrap().range().end;
    let own = header.slot(HEADER_CHECKSUM_KEY).unwrap().range().end;
    for at in 0..len {
        let mut other = whole.clone();
        other[at] ^= 1;
        let is_checksum = (tensors - 3 * 8..tensors).contains(&at) || (own - 8..own).contains(&at);
        assert_eq!(header.stored_checksums(&other).is_some(), is_checksum, "{at}");
    }
}

/// A file with the checksum of its header.
fn sealed() -> (Header, Vec<u8>) {
    let (header, mut file) = (header(), Cursor::new(whole()));
    header.seal(&mut file).unwrap();
    (header, file.into_inner())
}

#[test]
fn the_header_has_a_checksum() {
    let (header, bytes) = sealed();
    let mut unsealed = whole();
    assert_eq!(header.stored_header_checksum(&unsealed), Some((0, false)));
    assert!(matches!(header.stored_header_checksum(&bytes), Some((_, true))));
    assert_eq!(header.stored_header_checksum(&bytes[..100]), None);
    assert!(open(&bytes).unwrap().has_intact_header());
    assert!(!open(&unsealed).unwrap().has_intact_header());
    // Nothing else has changed.
    let own = header.slot(HEADER_CHECKSUM_KEY).unwrap().range();
    unsealed[own.clone()].copy_from_slice(&bytes[own]);
    assert_eq!(unsealed, bytes);
    // Sealing again changes nothing.
    let mut again = Cursor::new(bytes.clone());
    header.seal(&mut again).unwrap();
    assert_eq!(again.into_inner(), bytes);
    assert!(open(&small().bytes()).unwrap().has_intact_header());
}

/// Every bit but those of the number of tensors: a file with fewer is what a program makes that copies
/// the metadata to another file. (A model without one of its tensors is refused for that reason.)
#[test]
fn every_bit_of_the_header_counts() {
    let (header, bytes) = sealed();
    let len = header.encode().len();
    for at in (0..8).chain(16..len) {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let Ok(gguf) = open(&damaged) else { continue };
            // The padding after the descriptions is no part of the header.
            let is_padding = bytes[at..len].iter().all(|byte| *byte == 0);
            assert!(!gguf.has_intact_header() || is_padding, "{at} {bit}");
        }
    }
}

#[test]
fn metadata_that_were_copied_with_their_checksum_raise_no_alarm() {
    let (_, bytes) = sealed();
    let gguf = open(&bytes).unwrap();
    let mut copy = Header::new();
    gguf.metadata().for_each(|(key, value)| copy.set(key, value));
    copy.set("answer", 43u32);
    copy.add_tensor("x", QuantType::F16, &[5, 3]).unwrap();
    let mut writer = Writer::new(Cursor::new(Vec::new()), copy).unwrap();
    writer.write(&[0; 30]).unwrap();
    let copy = writer.finish().unwrap().into_inner();
    assert!(open(&copy).unwrap().has_intact_header());
}

#[test]
fn values_of_the_same_length_are_replaced() {
    let mut header = header();
    header.set("error", 0.0f64);
    let (error, answer) = (header.slot("error").unwrap(), header.slot("answer").unwrap());
    assert_eq!(header.slot("question"), None);
    let mut writer = Writer::new(Cursor::new(Vec::new()), header.clone()).unwrap();
    write_tensors(&mut writer, &header, 0, 2);
    writer.replace(&error, 0.125f64).unwrap();
    write_tensors(&mut writer, &header, 2, 3);
    writer.replace(&answer, 43u32).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert_eq!(bytes.len() as u64, header.file_bytes());
    let gguf = open(&bytes).unwrap();
    assert_eq!(gguf.f32("error").unwrap(), Some(0.125));
    assert_eq!(gguf.u32("answer").unwrap(), Some(43));
    assert_eq!(gguf.tensor("z").unwrap().data, data(&header, 2));
}

#[test]
#[should_panic(expected = "a header keeps its length")]
fn values_of_another_length_are_refused() {
    let header = header();
    let mut writer = Writer::new(Cursor::new(Vec::new()), header.clone()).unwrap();
    let _ = writer.replace(&header.slot("answer").unwrap(), 43u64);
}

#[test]
fn checksums_of_other_tensors_are_useless() {
    let useless =
        |header| matches!(open(&write(header, 100)).unwrap().checksums(), Checksums::Useless(_));
    assert!(!useless(header()));
    let mut more = header();
    more.add_tensor("more", QuantType::F32, &[4]).unwrap();
    assert!(useless(more));
    let mut unknown = header();
    unknown.set("lapidary.checksum.type", "crc32");
    assert!(useless(unknown));
    let mut strange = header();
    strange.set(CHECKSUMS_KEY, vec![1.5f32; 3]);
    assert!(useless(strange));
}

#[test]
fn metadata_is_read_without_tensors() {
    let (header, whole) = (header(), whole());
    let end = header.checksum_slot().unwrap().range().end;
    for len in [end, end + 10, whole.len()] {
        let metadata = read_metadata(&whole[..len]).unwrap();
        let keys: Vec<&str> = metadata.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, header.metadata().map(|(key, _)| key).collect::<Vec<_>>());
        assert_eq!(metadata[0].1.as_int(), Some(42));
    }
    assert!(read_metadata(&whole[..end - 1]).is_err());
    assert!(read_metadata(b"something else").is_err());
}
