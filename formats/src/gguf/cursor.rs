//! Reads a header's bytes from front to back. Every step is checked, and every error says where it
//! happened.

use byteorder::{ByteOrder, LE};

use super::error::Malformed;

/// A position in the bytes of a file, and a description of what is being read there.
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub place: String,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, place: String::new() }
    }

    /// Describes what is read from here on, for error messages.
    pub fn place(&mut self, place: String) {
        self.place = place;
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: u64) -> Result<&'a [u8], Malformed> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(Malformed::Truncated {
                place: self.place.clone(),
                at: self.at,
                wanted: n,
                len: self.bytes.len(),
            }),
        }
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// The next four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4).map(LE::read_u32)
    }

    /// The next eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.take(8).map(LE::read_u64)
    }

    /// A string: a length of eight bytes, then as many bytes of UTF-8.
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u64()?;
        let at = self.at;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8 { place: self.place.clone(), at })
    }

    /// A key or tensor name: a string of 1 to `max` bytes.
    pub fn name(&mut self, max: usize) -> Result<&'a str, Malformed> {
        let name = self.string()?;
        match name.len() {
            0 => Err(Malformed::Empty { place: self.place.clone() }),
            len if len > max => Err(Malformed::TooLong { place: self.place.clone(), len, max }),
            _ => Ok(name),
        }
    }
}
