//! Saved sessions: written, read back, and damaged in every way.

use lapidary_formats::session::{Header, Reader, SessionError, Writer, MAGIC, VERSION};

fn header() -> Header {
    Header {
        model: "0123456789abcdef".into(),
        kv: "q8_0".into(),
        note: "höre".into(),
        row_bytes: 6,
        ids: vec![2, 700, u32::MAX, 4],
        first: vec![1, 0, 4],
    }
}

/// Keys and values of 3, 4 and 0 positions.
fn rows() -> Vec<u8> {
    (0..2 * (3 + 4) * 6).collect()
}

fn file() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    rows().chunks(5).for_each(|part| writer.write(part).unwrap());
    writer.finish().unwrap()
}

/// Reads `bytes` as a file of length `len`, and returns its header and rows.
fn read_as(bytes: &[u8], len: u64) -> Result<(Header, Vec<u8>), SessionError> {
    let mut reader = Reader::new(bytes, len)?;
    let n: u64 = (0..3).map(|layer| reader.header().positions(layer).count() as u64).sum();
    let mut rows = vec![0; (2 * n * reader.header().row_bytes) as usize];
    for part in rows.chunks_mut(7) {
        reader.read(part)?;
    }
    Ok((reader.finish()?, rows))
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<u8>), SessionError> {
    read_as(bytes, bytes.len() as u64)
}

/// A file whose header fields `change` has modified, with a correct checksum.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    const PRELUDE: usize = 8 + 4 + 8;
    let rows = 2 * (3 + 4) * 6 + 8;
    let file = file();
    let (header, rows) = file.split_at(file.len() - rows);
    let mut fields = header[PRELUDE..header.len() - 8].to_vec();
    change(&mut fields);
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    bytes.extend((fields.len() as u64).to_le_bytes());
    bytes.extend(fields);
    let sum = lapidary_formats::gguf::Checksum::of(&bytes);
    [&bytes, &sum.to_le_bytes()[..], rows].concat()
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(read(&file()).unwrap(), (header(), rows()));
    assert_eq!(file(), forged(|_| ()));
}

#[test]
fn a_session_may_be_empty() {
    let header = Header { ids: Vec::new(), first: vec![0; 3], note: String::new(), ..header() };
    let bytes = Writer::new(Vec::new(), &header).unwrap().finish().unwrap();
    assert_eq!(read(&bytes).unwrap(), (header, Vec::new()));
}

#[test]
fn every_truncation_is_refused() {
    let file = file();
    for len in 0..file.len() {
        let error = read(&file[..len]).unwrap_err();
        match len {
            0..8 => assert!(matches!(error, SessionError::Magic), "{len}: {error}"),
            _ => assert!(matches!(error, SessionError::Length { .. }), "{len}: {error}"),
        }
        // A file that turns out to be shorter than `len` while it is read.
        let error = read_as(&file[..len], file.len() as u64).unwrap_err();
        assert!(matches!(error, SessionError::Io(_)), "{len}: {error}");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(matches!(read(&longer), Err(SessionError::Length { .. })));
}

#[test]
fn every_changed_bit_is_refused() {
    let file = file();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            let error = read(&changed).unwrap_err();
            match at {
                0..8 => assert!(matches!(error, SessionError::Magic)),
                8..12 => assert!(matches!(error, SessionError::Version { .. })),
                12..20 => assert!(matches!(
                    error,
                    SessionError::Length { .. } | SessionError::Checksum { part: "header" }
                )),
                _ => assert!(matches!(error, SessionError::Checksum { .. }), "{at}: {error}"),
            }
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

/// A header with a correct checksum is still checked.
#[test]
fn invalid_numbers_are_refused() {
    let field = |bytes: Vec<u8>| match read(&bytes) {
        Err(SessionError::Field { field }) => field,
        other => panic!("{other:?}"),
    };
    let put = |at: usize, number: u64| {
        field(forged(|fields| fields[at..at + 8].copy_from_slice(&number.to_le_bytes())))
    };
    let (kv, note) = (8 + 16, 8 + 16 + 8 + 4);
    let row_bytes = note + 8 + "höre".len();
    let (ids, first) = (row_bytes + 8, row_bytes + 8 + 8 + 4 * 4);
    for huge in [1 << 20, u64::MAX / 8 + 1, u64::MAX / 4 + 2, u64::MAX] {
        assert_eq!(put(0, huge), "model");
        assert_eq!(put(kv, huge), "kv");
        assert_eq!(put(note, huge), "note");
        assert_eq!(put(ids, huge), "ids");
        assert_eq!(put(first, huge), "first");
        assert_eq!(put(first + 8, huge), "first");
        let bytes = forged(|f| f[row_bytes..row_bytes + 8].copy_from_slice(&huge.to_le_bytes()));
        assert!(matches!(read(&bytes), Err(SessionError::Length { .. })));
    }
    assert_eq!(put(first, 2), "length");
    // A sparse file: its length alone must not make the reader allocate that much.
    let hole = [&MAGIC[..], &VERSION.to_le_bytes(), &(1u64 << 40).to_le_bytes()].concat();
    let read = read_as(&hole, 1 << 41);
    assert!(matches!(read, Err(SessionError::Field { field: "length" })));
    assert_eq!(field(forged(|fields| fields.push(0))), "length");
    assert_eq!(field(forged(|fields| fields.truncate(3))), "model");
    assert_eq!(field(forged(|fields| fields[8] = 0xff)), "model");
}
