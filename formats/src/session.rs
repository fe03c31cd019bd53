//! A saved session: the token ids of a sequence, and the keys and values that a model computed for
//! them, so that a later run continues without evaluating them again.
//!
//! All numbers are little-endian, and counts have eight bytes:
//!
//! | | |
//! |---|---|
//! | `magic` | [`MAGIC`] |
//! | `version` | u32, [`VERSION`] |
//! | `len` | bytes of the header after this field, without the checksum |
//! | `model`, `kv`, `note` | strings, each a count and as many bytes of UTF-8 |
//! | `row_bytes` | bytes of one layer's keys, or of its values, at one position |
//! | `ids` | a count, and as many u32 |
//! | `first` | a count, and for each layer the first position that has rows |
//! | checksum | u64, of everything above |
//! | rows | layer by layer: keys, then values, from `first` to the last position |
//! | checksum | u64, of the rows |
//!
//! Nothing follows. A row holds the key/value heads in order, each padded to a multiple of 32
//! values, as the KV cache stores them: as f16, as f32, or as Q8_0 blocks. The file does not record
//! where a row was in memory or how large the cache was.

use std::io::{self, Read, Write};
use std::ops::Range;

use byteorder::{ReadBytesExt, WriteBytesExt, LE};
use thiserror::Error;

use crate::gguf::Checksum;

/// The first bytes of a session file.
pub const MAGIC: [u8; 8] = *b"LAPIDSES";

/// Version of the layout. It also changes when a model computes other numbers from the same tokens.
pub const VERSION: u32 = 1;

/// Everything before the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Identifies the model.
    pub model: String,
    /// The type that keys and values are stored as.
    pub kv: String,
    /// Any text that the writer wants back on reading.
    pub note: String,
    /// Bytes of one layer's keys, or of its values, at one position.
    pub row_bytes: u64,
    /// The tokens, one per position.
    pub ids: Vec<u32>,
    /// For each layer the first position that has rows. All positions after it have rows too.
    pub first: Vec<u64>,
}

/// Why a file cannot be read as a saved session. The caller adds the file's name.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is something else.
    #[error("is not a saved session; name another file")]
    Magic,
    /// The file has another version of the format.
    #[error("is a session of version {found}, but this program reads version {VERSION}; delete it to start over")]
    Version {
        /// The file's version.
        found: u32,
    },
    /// The file is shorter or longer than its header says.
    #[error("is damaged: it has {found} bytes, but its header asks for {expected}; delete it to start over")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes that the header asks for; `u64::MAX` if the sum overflows.
        expected: u64,
    },
    /// The bytes are not those that were written.
    #[error("is damaged: the checksum of its {part} does not match; delete it to start over")]
    Checksum {
        /// What the checksum covers: `header` or `rows`.
        part: &'static str,
    },
    /// The header's checksum is right, but a field is invalid.
    #[error("is damaged: its header has an invalid {field}; delete it to start over")]
    Field {
        /// Name of the field.
        field: &'static str,
    },
}

/// Bytes before the header's strings.
const PRELUDE: u64 = (MAGIC.len() + size_of::<u32>() + size_of::<u64>()) as u64;
/// Largest size of the header's strings and lists, in bytes. A sparse file can be larger than any
/// memory, so its length alone is no limit. The longest context has 2^24 tokens.
const MAX_FIELDS: u64 = 1 << 28;
/// Bytes of a checksum.
const SUM: u64 = size_of::<u64>() as u64;

impl Header {
    /// The positions of a layer that have rows.
    pub fn positions(&self, layer: usize) -> Range<u64> {
        self.first[layer]..self.ids.len() as u64
    }

    /// Bytes of all rows; `None` if that overflows.
    fn rows_len(&self) -> Option<u64> {
        let positions = self.first.iter().try_fold(0u64, |sum, first| {
            sum.checked_add((self.ids.len() as u64).checked_sub(*first)?)
        });
        positions?.checked_mul(2)?.checked_mul(self.row_bytes)
    }

    /// The bytes of everything before the rows.
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

/// The bytes of a header that have not been decoded yet.
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
    /// Bytes of rows still to be written.
    left: u64,
}

impl<W: Write> Writer<W> {
    /// Writes everything before the rows.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If the total size of the rows overflows, or a layer's rows begin past the last id.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        let left = header.rows_len().expect("the rows of a session in memory can be counted");
        out.write_all(&header.encode())?;
        Ok(Self { out, sum: Checksum::new(), left })
    }

    /// Writes the next bytes of the rows.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If these are more bytes than the header says.
    pub fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(rows.len() as u64).expect("no more rows than announced");
        self.sum.update(rows);
        self.out.write_all(rows)
    }

    /// Writes the checksum and flushes.
    ///
    /// # Errors
    /// If `out` cannot be written.
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
    /// Reads everything before the rows of a file of `len` bytes. Never allocates more than the
    /// file's size, whatever the header says.
    ///
    /// # Errors
    /// If the file is not a session of this version, if its header is damaged, or if its length is not
    /// the one that the header asks for.
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
        // Even a file without rows has two checksums.
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

    /// Everything before the rows.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next bytes of the rows.
    ///
    /// # Errors
    /// If `from` cannot be read.
    pub fn read(&mut self, rows: &mut [u8]) -> Result<(), SessionError> {
        self.from.read_exact(rows)?;
        self.sum.update(rows);
        Ok(())
    }

    /// Compares the checksum of the rows, all of which must have been read.
    ///
    /// # Errors
    /// If it does not match or cannot be read.
    pub fn finish(mut self) -> Result<Header, SessionError> {
        if self.from.read_u64::<LE>()? != self.sum.value() {
            return Err(SessionError::Checksum { part: "rows" });
        }
        Ok(self.header)
    }
}
