//! A saved session: the token ids of a sequence, and the keys and values that a model has made of
//! them, so that it can go on without evaluating them again.
//!
//! All numbers are little-endian, and counts have eight bytes:
//!
//! | | |
//! |---|---|
//! | `magic` | [`MAGIC`] |
//! | `version` | u32, [`VERSION`] |
//! | `len` | bytes of the header that follow |
//! | `model`, `kv`, `note` | strings, each a count and as many bytes of UTF-8 |
//! | `row_bytes` | of a layer's keys, or of its values, at one position |
//! | `ids` | a count, and as many u32 |
//! | `first` | a count, and for each layer the first position that has rows |
//! | checksum | u64, of everything above |
//! | rows | by layer: keys, then values, from `first` to the last position |
//! | checksum | u64, of the rows |
//!
//! There is nothing after that. A row is the key/value heads in order, each in whole units of 32
//! values, as the cache stores them: halves, floats, or blocks of Q8_0. Where a row lies in memory,
//! and how much room there is, is no part of it.

use std::io::{self, Read, Write};
use std::ops::Range;

use byteorder::{ReadBytesExt, WriteBytesExt, LE};
use thiserror::Error;

use crate::gguf::Checksum;

/// The first bytes of a file.
pub const MAGIC: [u8; 8] = *b"LAPIDSES";

/// Of the layout. It changes as well when a model makes other numbers of the same tokens.
pub const VERSION: u32 = 1;

/// What comes before the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tells models apart.
    pub model: String,
    /// What keys and values are stored as.
    pub kv: String,
    /// Whatever the writer wants to know again.
    pub note: String,
    /// Bytes of a layer's keys, or of its values, at one position.
    pub row_bytes: u64,
    /// The tokens, one a position.
    pub ids: Vec<u32>,
    /// By layer, the first position that has rows; they reach to the last.
    pub first: Vec<u64>,
}

/// Why a file cannot be read as a session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// It cannot be read or written at all.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else.
    #[error("is not a saved session")]
    Magic,
    /// Of a version that is not known here.
    #[error("is a session of version {found}, this program knows version {VERSION}")]
    Version {
        /// What it says.
        found: u32,
    },
    /// Shorter or longer than its header says.
    #[error("is damaged: it has {found} bytes where its header asks for {expected}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes that there should be; `u64::MAX` stands for more as well.
        expected: u64,
    },
    /// Bytes are not those that were written.
    #[error("is damaged: the checksum of its {part} does not agree")]
    Checksum {
        /// Which bytes.
        part: &'static str,
    },
    /// A header whose checksum is right and whose contents make no sense.
    #[error("is damaged: its header's {field} makes no sense")]
    Field {
        /// Which part of the header.
        field: &'static str,
    },
}

/// Bytes before the header's strings.
const PRELUDE: u64 = (MAGIC.len() + size_of::<u32>() + size_of::<u64>()) as u64;
/// The most bytes of the header's strings and lists: a file with a hole in it can be larger than any
/// memory. The longest context has 2^24 tokens.
const MAX_FIELDS: u64 = 1 << 28;
/// Bytes of a checksum.
const SUM: u64 = size_of::<u64>() as u64;

impl Header {
    /// The positions of a layer that have rows.
    pub fn positions(&self, layer: usize) -> Range<u64> {
        self.first[layer]..self.ids.len() as u64
    }

    /// Bytes of all rows; `None` if they are more than can be counted.
    fn rows_len(&self) -> Option<u64> {
        let positions = self.first.iter().try_fold(0u64, |sum, first| {
            sum.checked_add((self.ids.len() as u64).checked_sub(*first)?)
        });
        positions?.checked_mul(2)?.checked_mul(self.row_bytes)
    }

    /// Everything up to the rows.
    fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let count = |n: usize| (n as u64).to_le_bytes();
        for text in [&self.model, &self.kv, &self.note] {
            fields.extend(count(text.len()));
            fields.extend(text.as_bytes());
        }
        fields.extend(self.row_bytes.to_le_bytes());
        fields.extend(count(self.ids.len()));
        fields.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        fields.extend(count(self.first.len()));
        fields.extend(self.first.iter().flat_map(|first| first.to_le_bytes()));
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(count(fields.len()));
        bytes.extend(fields);
        let sum = Checksum::of(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    fn decode(fields: &[u8]) -> Result<Self, SessionError> {
        let mut fields = Fields(fields);
        let model = fields.string("model")?;
        let kv = fields.string("kv")?;
        let note = fields.string("note")?;
        let row_bytes = fields.u64("row_bytes")?;
        let (ids, _) = fields.take("ids", size_of::<u32>())?.as_chunks();
        let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let (first, _) = fields.take("first", size_of::<u64>())?.as_chunks();
        let first: Vec<u64> = first.iter().map(|first| u64::from_le_bytes(*first)).collect();
        if !fields.0.is_empty() {
            return Err(SessionError::Field { field: "length" });
        }
        if first.iter().any(|first| *first > ids.len() as u64) {
            return Err(SessionError::Field { field: "first" });
        }
        Ok(Self { model, kv, note, row_bytes, ids, first })
    }
}

/// What is left of a header.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn u64(&mut self, field: &'static str) -> Result<u64, SessionError> {
        let (number, rest) = self.0.split_first_chunk().ok_or(SessionError::Field { field })?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    /// A count, and as many items of `size` bytes.
    fn take(&mut self, field: &'static str, size: usize) -> Result<&'a [u8], SessionError> {
        let n = usize::try_from(self.u64(field)?).ok().and_then(|n| n.checked_mul(size));
        let (items, rest) =
            n.and_then(|n| self.0.split_at_checked(n)).ok_or(SessionError::Field { field })?;
        self.0 = rest;
        Ok(items)
    }

    fn string(&mut self, field: &'static str) -> Result<String, SessionError> {
        let text = std::str::from_utf8(self.take(field, 1)?);
        Ok(text.map_err(|_| SessionError::Field { field })?.to_owned())
    }
}

/// Writes a session, front to back.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    sum: Checksum,
    /// Bytes of rows that are to come.
    left: u64,
}

impl<W: Write> Writer<W> {
    /// Writes what comes before the rows.
    ///
    /// # Errors
    /// If that cannot be written.
    ///
    /// # Panics
    /// If the header asks for more rows than can be counted, or a layer's begin past the last id.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        let left = header.rows_len().expect("rows of a session that there is");
        out.write_all(&header.encode())?;
        Ok(Self { out, sum: Checksum::new(), left })
    }

    /// Writes the next rows, or a part of them.
    ///
    /// # Errors
    /// If they cannot be written.
    ///
    /// # Panics
    /// If they are more than the header says.
    pub fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(rows.len() as u64).expect("no more rows than announced");
        self.sum.update(rows);
        self.out.write_all(rows)
    }

    /// Ends the file and flushes it.
    ///
    /// # Errors
    /// If that cannot be written.
    ///
    /// # Panics
    /// If rows are missing.
    pub fn finish(mut self) -> io::Result<W> {
        assert_eq!(self.left, 0, "fewer rows than announced");
        self.out.write_u64::<LE>(self.sum.value())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads a session, front to back.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    header: Header,
    sum: Checksum,
}

impl<R: Read> Reader<R> {
    /// Reads what comes before the rows of a file of `len` bytes. Nothing larger than the file is
    /// allocated, whatever it says.
    ///
    /// # Errors
    /// If it is no session of this version, is damaged up to the rows, or has not the length that it
    /// says.
    pub fn new(mut from: R, len: u64) -> Result<Self, SessionError> {
        let mut begin = [0; PRELUDE as usize];
        let have = begin.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        from.read_exact(&mut begin[..have])?;
        if !begin.starts_with(&MAGIC) {
            return Err(SessionError::Magic);
        }
        let mut numbers = &begin[MAGIC.len()..];
        let (version, fields) = (numbers.read_u32::<LE>()?, numbers.read_u64::<LE>()?);
        if version != VERSION && have == begin.len() {
            return Err(SessionError::Version { found: version });
        }
        // With no rows there are two checksums still.
        let least = fields.saturating_add(PRELUDE + 2 * SUM);
        if len < least {
            return Err(SessionError::Length { found: len, expected: least });
        }
        if fields > MAX_FIELDS {
            return Err(SessionError::Field { field: "length" });
        }
        let mut bytes = begin.to_vec();
        bytes.resize(begin.len() + fields as usize, 0);
        from.read_exact(&mut bytes[begin.len()..])?;
        if from.read_u64::<LE>()? != Checksum::of(&bytes) {
            return Err(SessionError::Checksum { part: "header" });
        }
        let header = Header::decode(&bytes[begin.len()..])?;
        let expected = header.rows_len().and_then(|rows| rows.checked_add(least));
        let expected = expected.unwrap_or(u64::MAX);
        if len != expected {
            return Err(SessionError::Length { found: len, expected });
        }
        Ok(Self { from, header, sum: Checksum::new() })
    }

    /// What comes before the rows.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next rows, or a part of them.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read(&mut self, rows: &mut [u8]) -> Result<(), SessionError> {
        self.from.read_exact(rows)?;
        self.sum.update(rows);
        Ok(())
    }

    /// Says whether the rows, all of which have been read, are those that were written.
    ///
    /// # Errors
    /// If they are not.
    pub fn finish(mut self) -> Result<Header, SessionError> {
        if self.from.read_u64::<LE>()? != self.sum.value() {
            return Err(SessionError::Checksum { part: "rows" });
        }
        Ok(self.header)
    }
}
