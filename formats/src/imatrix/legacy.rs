//! Importance matrices in llama.cpp's format before GGUF: little-endian, without a magic.
//!
//! First the number of entries (i32). For each entry: the length of its name (i32), the name, the
//! number of chunks (i32), the number of values (i32) and the values (f32), which are means times
//! the number of chunks. Then, except in the oldest files, the number of chunks (i32), the length
//! of the data set's name (i32) and that name.

use super::gguf::f32s;
use super::{Entry, Imatrix, Malformed};
use crate::map::stand_in;

/// Fewest bytes of an entry: three numbers, one byte of a name and one value.
const MIN_ENTRY: usize = 3 * 4 + 1 + 4;

/// Parses a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Imatrix, Malformed> {
    if let Some(what) = stand_in(bytes) {
        return Err(Malformed::StandIn(what));
    }
    let mut cursor = Cursor { bytes, at: 0, place: "the number of entries".into() };
    let (count, len) = (cursor.i32()?, bytes.len());
    let most = len / MIN_ENTRY;
    if !usize::try_from(count).is_ok_and(|n| (1..=most).contains(&n)) {
        return Err(Malformed::Entries { count, most, len });
    }
    let mut imatrix = Imatrix::default();
    for i in 1..=count {
        cursor.place = format!("entry {i} of {count}");
        let name = cursor.name()?;
        let entry = cursor.entry()?;
        if imatrix.entries.insert(name.to_owned(), entry).is_some() {
            return Err(Malformed::Duplicate { place: cursor.place, name: name.to_owned() });
        }
    }
    if cursor.at < len {
        cursor.place = "what follows the entries".into();
        imatrix.chunk_count = cursor.i32()?.try_into().unwrap_or(0);
        let dataset = cursor.i32()?;
        let dataset = cursor.take(usize::try_from(dataset).unwrap_or(0))?;
        if !dataset.is_empty() {
            // This is a path, and nothing depends on it.
            imatrix.datasets.push(String::from_utf8_lossy(dataset).into_owned());
        }
    }
    match len - cursor.at {
        0 => Ok(imatrix),
        extra => Err(Malformed::Trailing { at: cursor.at, extra }),
    }
}

/// A position in the bytes of a file, and a description of what is being read there.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    place: String,
}

impl<'a> Cursor<'a> {
    /// The next `n` bytes.
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        match self.bytes[self.at..].get(..n) {
            Some(bytes) => {
                self.at += n;
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

    fn i32(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?;
        Ok(i32::from_le_bytes(*bytes.first_chunk().expect("four bytes were taken")))
    }

    /// A length, which must be positive.
    fn len(&mut self) -> Result<usize, Malformed> {
        let (at, found) = (self.at, self.i32()?);
        let len = usize::try_from(found).ok().filter(|len| *len > 0);
        len.ok_or_else(|| Malformed::Length { place: self.place.clone(), at, found })
    }

    fn name(&mut self) -> Result<&'a str, Malformed> {
        let (len, at) = (self.len()?, self.at);
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8 { place: self.place.clone(), at })
    }

    /// Reads what follows the name.
    fn entry(&mut self) -> Result<Entry, Malformed> {
        let count = self.i32()? as f32;
        let values = self.len()?;
        let bytes = self.take(values.saturating_mul(4))?;
        Ok(Entry { sums: f32s(bytes).collect(), count })
    }
}
