//! Checksums of tensors and of the header. Lapidary stores them in the metadata of the files that it
//! writes, so that damaged copies are detected and `--resume` knows which tensors of a conversion are
//! complete.
//!
//! - `lapidary.checksum.type`: the algorithm, `xxh3-64`.
//! - `lapidary.checksum.layout`: a checksum of the tensors' names, types and shapes. Programs that
//!   rewrite a file with other tensors often copy metadata that they do not know. The checksums
//!   then belong to another file, and this key shows it.
//! - `lapidary.checksum.header`: a checksum of everything before the tensors' descriptions, in which
//!   the values of these three keys count as zeros, and of where the tensors begin. If both this and
//!   the layout differ, a program has copied the metadata to another file; if one of them does, or a
//!   key is missing, the file is damaged.
//! - `lapidary.checksum.tensors`: one checksum per tensor, in the file's order; 0 for a tensor that
//!   has not been completely written.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use super::checksum::{Checksum, CHECKSUMS_KEY};
use super::read::Gguf;
use super::write::{Header, Slot};
use crate::quant::QuantType;

const TYPE_KEY: &str = "lapidary.checksum.type";
const LAYOUT_KEY: &str = "lapidary.checksum.layout";
/// The key of the header's checksum. Until a file is complete, other numbers can stand there.
pub const HEADER_CHECKSUM_KEY: &str = "lapidary.checksum.header";
/// The only algorithm so far.
const TYPE: &str = "xxh3-64";

/// The tensor checksums that a file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// None: another program or an older version wrote the file.
    Absent,
    /// Checksums that cannot be compared. The text says why and follows the word "checksums".
    Useless(&'static str),
    /// One for each tensor, in the order of [`Gguf::tensors`].
    Stored(Vec<u64>),
}

impl Gguf {
    /// The checksums that are stored in the file.
    pub fn checksums(&self) -> Checksums {
        let list = match self.get(CHECKSUMS_KEY) {
            None => return Checksums::Absent,
            Some(value) => value.as_array().and_then(|list| list.collect(|sum| sum.as_int())),
        };
        let tensors = self.tensors();
        let layout = layout(tensors.map(|t| (t.name, t.ty, t.shape)));
        if self.get(TYPE_KEY).and_then(|ty| ty.as_str()) != Some(TYPE) {
            Checksums::Useless("use an algorithm that this program does not know")
        } else if self.get(LAYOUT_KEY).and_then(|sum| sum.as_int()) != Some(layout) {
            Checksums::Useless("belong to another file, whose metadata was copied")
        } else {
            match list {
                Some(list) if list.len() == self.tensors().count() => Checksums::Stored(list),
                _ => Checksums::Useless("are not one number for each tensor"),
            }
        }
    }
}

impl Gguf {
    /// Whether the header is the one that was written, as far as the file has checksums of its own.
    pub fn has_intact_header(&self) -> bool {
        let value =
            |key: &str| self.raw_metadata().find(|(k, ..)| *k == key).map(|(.., value)| value);
        let own = OWN_KEYS.map(value);
        let has_all = own.iter().all(Option::is_some) && value(CHECKSUMS_KEY).is_some();
        let has_none = own.iter().all(Option::is_none) && value(CHECKSUMS_KEY).is_none();
        if has_none || self.maps().count() > 1 {
            // Another program wrote the file, or split it and wrote headers of its own.
            return true;
        }
        if !has_all {
            return false;
        }
        let [ty, described, own] = own.map(Option::unwrap_or_default);
        let places =
            [ty, described, own].map(|value| self.metadata_map().place(value).unwrap_or_default());
        let starts = self.tensors().map(|t| self.place(t.data).map_or(0, |(_, place)| place.start));
        let found = header_checksum(self.metadata_bytes(), &places, starts);
        let layout = layout(self.tensors().map(|t| (t.name, t.ty, t.shape)));
        match (own == found.to_le_bytes(), described == layout.to_le_bytes()) {
            (true, true) => ty.ends_with(TYPE.as_bytes()),
            (is_same, has_layout) => !is_same && !has_layout,
        }
    }
}

/// The keys whose values are no part of what the header's checksum covers: they tell of damage by
/// themselves.
const OWN_KEYS: [&str; 3] = [TYPE_KEY, LAYOUT_KEY, HEADER_CHECKSUM_KEY];

/// The checksum of a header: of everything before the tensors' descriptions, where the bytes in
/// `places` count as zeros, and of where the tensors begin in the file.
fn header_checksum(
    metadata: &[u8],
    places: &[Range<usize>; 3],
    starts: impl Iterator<Item = usize>,
) -> u64 {
    let mut metadata = metadata.to_vec();
    places.iter().for_each(|place| metadata[place.clone()].fill(0));
    let mut checksum = Checksum::new();
    checksum.update(&metadata);
    starts.for_each(|start| checksum.update(&(start as u64).to_le_bytes()));
    checksum.value()
}

impl Header {
    /// Writes the checksum of the header that `file`, which is otherwise complete, begins with. Does
    /// nothing if the header has no room for it.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn seal(&self, file: &mut (impl Read + Write + Seek)) -> io::Result<()> {
        let Some(places) = self.own_places() else { return Ok(()) };
        let mut metadata = vec![0; self.encode_metadata().len()];
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut metadata)?;
        let checksum = header_checksum(&metadata, &places, self.starts());
        file.seek(SeekFrom::Start(places[2].start as u64))?;
        file.write_all(&checksum.to_le_bytes())?;
        file.flush()
    }

    /// Adds metadata keys for the tensors' checksums, all 0 until
    /// [`Writer::write_checksums`](super::Writer::write_checksums) fills them in, and for the header's,
    /// 0 until [`seal`](Self::seal) does. Call this after all tensors have been added.
    pub fn reserve_checksums(&mut self) {
        let tensors = self.tensors();
        let layout = layout(tensors.iter().map(|t| (t.name.as_str(), t.ty, t.shape.as_slice())));
        let zeros = vec![0u64; tensors.len()];
        self.set(TYPE_KEY, TYPE);
        self.set(LAYOUT_KEY, layout);
        self.set(HEADER_CHECKSUM_KEY, 0u64);
        self.set(CHECKSUMS_KEY, zeros);
    }

    /// The checksums in `file`, if it begins with this header apart from the values of the checksums;
    /// otherwise `None`. Incomplete tensors have 0. The list is empty if `file` ends within the
    /// header.
    pub fn stored_checksums(&self, file: &[u8]) -> Option<Vec<u64>> {
        let header = self.encode();
        let sums = values_of(self.checksum_slot()?, self.tensors().len());
        let [_, _, own] = self.own_places()?;
        let len = file.len().min(header.len());
        let is_same = |from: usize, to: usize| {
            let range = from.min(len)..to.min(len);
            file[range.clone()] == header[range]
        };
        let mut places = [own, sums.clone()];
        places.sort_by_key(|place| place.start);
        let [a, b] = places;
        if !is_same(0, a.start) || !is_same(a.end, b.start) || !is_same(b.end, len) {
            return None;
        }
        let (sums, _) = file[..len].get(sums).unwrap_or_default().as_chunks();
        let sums = if len < header.len() { &[] } else { sums };
        Some(sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect())
    }

    /// The number in the place of the header's checksum in `file`, which begins with this header, and
    /// whether it is that checksum.
    pub fn stored_header_checksum(&self, file: &[u8]) -> Option<(u64, bool)> {
        let metadata = file.get(..self.encode_metadata().len())?;
        let places = self.own_places()?;
        let stored = u64::from_le_bytes(metadata[places[2].clone()].try_into().ok()?);
        Some((stored, stored == header_checksum(metadata, &places, self.starts())))
    }

    /// Where the tensors will begin in the file.
    fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        let len = self.encode().len();
        self.tensors().iter().map(move |tensor| len + tensor.offset as usize)
    }

    /// Where the values of [`OWN_KEYS`] are.
    fn own_places(&self) -> Option<[Range<usize>; 3]> {
        let place = |key| {
            let slot = self.slot(key)?.range();
            // After the value's type.
            Some(slot.start + size_of::<u32>()..slot.end)
        };
        let [ty, layout, own] = OWN_KEYS.map(place);
        Some([ty?, layout?, own?])
    }
}

/// Where the last `n` numbers of 64 bits in a slot are.
fn values_of(slot: Slot, n: usize) -> Range<usize> {
    let end = slot.range().end;
    end - n * size_of::<u64>()..end
}

/// The checksum of the tensors' descriptions.
fn layout<'a>(tensors: impl Iterator<Item = (&'a str, QuantType, &'a [usize])>) -> u64 {
    let mut checksum = Checksum::new();
    for (name, ty, shape) in tensors {
        let numbers = [name.len(), ty as usize, shape.len()];
        for number in numbers.iter().chain(shape) {
            checksum.update(&(*number as u64).to_le_bytes());
        }
        checksum.update(name.as_bytes());
    }
    checksum.value()
}
