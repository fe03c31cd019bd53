//! Checksums of tensors. Lapidary stores them in the metadata of the files that it writes, so that
//! damaged copies are detected and `--resume` knows which tensors of a conversion are complete.
//!
//! - `lapidary.checksum.type`: the algorithm, `xxh3-64`.
//! - `lapidary.checksum.layout`: a checksum of the tensors' names, types and shapes. Programs that
//!   rewrite a file with other tensors often copy metadata that they do not know. The checksums
//!   then belong to another file, and this key shows it.
//! - `lapidary.checksum.tensors`: one checksum per tensor, in the file's order; 0 for a tensor that
//!   has not been completely written.

use super::checksum::{Checksum, CHECKSUMS_KEY};
use super::read::Gguf;
use super::write::Header;
use crate::quant::QuantType;

const TYPE_KEY: &str = "lapidary.checksum.type";
const LAYOUT_KEY: &str = "lapidary.checksum.layout";
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

impl Header {
    /// Adds metadata keys for the tensors' checksums, all 0 until
    /// [`Writer::write_checksums`](super::Writer::write_checksums) fills them in. Call this after
    /// all tensors have been added.
    pub fn reserve_checksums(&mut self) {
        let tensors = self.tensors();
        let layout = layout(tensors.iter().map(|t| (t.name.as_str(), t.ty, t.shape.as_slice())));
        let zeros = vec![0u64; tensors.len()];
        self.set(TYPE_KEY, TYPE);
        self.set(LAYOUT_KEY, layout);
        self.set(CHECKSUMS_KEY, zeros);
    }

    /// The checksums in `file`, if it begins with this header apart from the checksums' values;
    /// otherwise `None`. Incomplete tensors have 0. The list is empty if `file` ends within the
    /// header.
    pub fn stored_checksums(&self, file: &[u8]) -> Option<Vec<u64>> {
        let header = self.encode();
        let end = self.checksum_slot()?.range().end;
        let start = end - size_of::<u64>() * self.tensors().len();
        let len = file.len().min(header.len());
        let is_same = |from: usize, to: usize| {
            let range = from.min(len)..to.min(len);
            file[range.clone()] == header[range]
        };
        if !is_same(0, start) || !is_same(end, len) {
            return None;
        }
        let (sums, _) = file[..len].get(start..end).unwrap_or_default().as_chunks();
        let sums = if len < header.len() { &[] } else { sums };
        Some(sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect())
    }
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
