//! Writes a GGUF file from front to back: first the header, then the tensors in the header's order.
//! Header values that are known only later are filled in afterwards.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;

use super::checksum::{Checksum, CHECKSUMS_KEY};
use super::error::{GgufError, Malformed};
use super::owned::{encode_str, OwnedValue};
use super::parse::tensor_bytes;
use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_NAME, VERSION};
use crate::quant::QuantType;

/// A tensor of a file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Type of its blocks.
    pub ty: QuantType,
    /// Innermost dimension first.
    pub shape: Vec<usize>,
    /// Where it begins in the data section, in bytes.
    pub offset: u64,
    /// Its size in bytes, without padding.
    pub bytes: u64,
}

/// Metadata and tensor descriptions of a file to be written. They keep the order in which they were
/// added, so the same calls give the same bytes.
#[derive(Clone, Debug, Default)]
pub struct Header {
    metadata: Vec<(String, OwnedValue)>,
    /// The index of each key in `metadata`: a file that is copied may have a million keys.
    index: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
}

impl Header {
    /// A header without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata key. If the key exists already, its value is replaced and it keeps its
    /// position.
    ///
    /// `general.alignment` and the `split.*` keys are ignored. They describe how a file is laid out,
    /// and must not be copied from another file: this writes a single file aligned to 32 bytes.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<OwnedValue>) {
        let (key, value) = (key.into(), value.into());
        if key == ALIGNMENT_KEY || key.starts_with("split.") {
            return;
        }
        match self.index.get(&key) {
            Some(i) => self.metadata[*i].1 = value,
            None => {
                self.index.insert(key.clone(), self.metadata.len());
                self.metadata.push((key, value));
            }
        }
    }

    /// Appends a tensor. `shape` has the innermost dimension first.
    ///
    /// # Errors
    /// If the file could not be read again: the name is empty, longer than 63 bytes or already
    /// used; there is no dimension, more than four, or one of zero; rows are not a whole number of
    /// blocks; or a size overflows.
    pub fn add_tensor(
        &mut self,
        name: impl Into<String>,
        ty: QuantType,
        shape: &[usize],
    ) -> Result<(), GgufError> {
        let name = name.into();
        let info = self.describe(name, ty, shape).map_err(GgufError::Describe)?;
        self.tensors.push(info);
        Ok(())
    }

    /// The tensors, in the order in which they are to be written.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The metadata, in the order in which they are to be written.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &OwnedValue)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Where the value of `key` will be in the file; `None` if there is no such key.
    pub fn slot(&self, key: &str) -> Option<Slot> {
        let mut out = self.encode_counts();
        for (k, value) in &self.metadata {
            encode_str(k, &mut out);
            let start = out.len();
            value.encode(&mut out);
            if k == key {
                return Some(Slot(start..out.len()));
            }
        }
        None
    }

    /// Where the checksums will be in the file, if [`reserve_checksums`](Self::reserve_checksums)
    /// has added them.
    pub fn checksum_slot(&self) -> Option<Slot> {
        self.slot(CHECKSUMS_KEY)
    }

    /// Exact size of the file to be written, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.encode().len() as u64 + self.data_bytes()
    }

    fn describe(
        &self,
        name: String,
        ty: QuantType,
        shape: &[usize],
    ) -> Result<TensorInfo, Malformed> {
        if name.is_empty() {
            return Err(Malformed::Empty { place: "the name of a tensor".into() });
        }
        if name.len() > MAX_NAME {
            let (place, len) = (format!("the tensor name {name:?}"), name.len());
            return Err(Malformed::TooLong { place, len, max: MAX_NAME });
        }
        if self.tensors.iter().any(|t| t.name == name) {
            return Err(Malformed::DuplicateTensor(name));
        }
        if !ty.traits().stored {
            return Err(Malformed::TensorType { name, number: ty as u32, type_name: ty.name() });
        }
        let bytes = tensor_bytes(&name, ty, shape)? as u64;
        let offset = self.data_bytes();
        let end = offset.checked_add(bytes).and_then(|end| end.checked_add(ALIGNMENT as u64));
        end.ok_or_else(|| Malformed::TooLarge(name.clone()))?;
        Ok(TensorInfo { name, ty, shape: shape.to_vec(), offset, bytes })
    }

    /// Bytes of the data section, including the padding after the last tensor.
    fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |t| (t.offset + t.bytes).next_multiple_of(ALIGNMENT as u64))
    }

    /// The header's bytes, padded so that the data section follows.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_metadata();
        for tensor in &self.tensors {
            encode_str(&tensor.name, &mut out);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
            out.extend((tensor.ty as u32).to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }

    /// Everything before the tensors' descriptions.
    pub(super) fn encode_metadata(&self) -> Vec<u8> {
        let mut out = self.encode_counts();
        for (key, value) in &self.metadata {
            encode_str(key, &mut out);
            value.encode(&mut out);
        }
        out
    }

    /// Everything before the metadata.
    fn encode_counts(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        out
    }
}

/// The bytes of a metadata value in a file, including its type. They can be overwritten with a value
/// of the same length ([`Writer::replace`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot(Range<usize>);

impl Slot {
    /// The byte range in the file.
    pub fn range(&self) -> Range<usize> {
        self.0.clone()
    }
}

/// Writes a file: `new` writes the header, then each tensor follows, padded with zeros.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    header: Header,
    /// Checksums of the complete tensors; the tensor after them is being written.
    checksums: Vec<u64>,
    /// Bytes of that tensor written so far.
    written: u64,
    /// The checksum of those bytes.
    checksum: Checksum,
    /// Where the checksums go, if the header has them.
    slot: Option<Slot>,
}

impl<W: Write> Writer<W> {
    /// Writes the header to `out`, which should be buffered.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn new(mut out: W, header: Header) -> Result<Self, GgufError> {
        out.write_all(&header.encode())?;
        Ok(Self::after(Vec::new(), out, header))
    }

    /// A writer whose next tensor is the one after those with `checksums`.
    fn after(checksums: Vec<u64>, out: W, header: Header) -> Self {
        let slot = header.checksum_slot();
        Self { out, header, checksums, written: 0, checksum: Checksum::new(), slot }
    }

    /// Appends to the current tensor's bytes. When the tensor is complete, the next becomes current.
    /// A tensor may be written in any number of calls, but no call may go past its end.
    ///
    /// # Errors
    /// If there are more bytes than the current tensor still needs, or `out` cannot be written.
    pub fn write(&mut self, data: &[u8]) -> Result<(), GgufError> {
        let room = self.current().map_or(0, |t| t.bytes) - self.written;
        let len = data.len() as u64;
        if len > room {
            let tensor = self.current().or(self.header.tensors.last());
            let name = tensor.map(|t| t.name.clone()).unwrap_or_default();
            return Err(GgufError::TensorOverflow { name, extra: len - room });
        }
        self.out.write_all(data)?;
        self.checksum.update(data);
        self.written += len;
        if len == room && len > 0 {
            let padding = self.written.next_multiple_of(ALIGNMENT as u64) - self.written;
            self.out.write_all(&[0; ALIGNMENT][..padding as usize])?;
            self.checksums.push(std::mem::take(&mut self.checksum).value());
            self.written = 0;
        }
        Ok(())
    }

    /// The checksums of the complete tensors.
    pub fn checksums(&self) -> &[u64] {
        &self.checksums
    }

    /// Hands to the system what is buffered.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn flush(&mut self) -> Result<(), GgufError> {
        Ok(self.out.flush()?)
    }

    /// Flushes the file and returns `out`.
    ///
    /// # Errors
    /// If a tensor is incomplete, or `out` cannot be written.
    pub fn finish(mut self) -> Result<W, GgufError> {
        if let Some(tensor) = self.current() {
            return Err(GgufError::TensorUnderflow {
                name: tensor.name.clone(),
                written: self.written,
                bytes: tensor.bytes,
            });
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn current(&self) -> Option<&TensorInfo> {
        self.header.tensors.get(self.checksums.len())
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Continues a file in which the header and the first tensors, those with `checksums`, are
    /// complete.
    ///
    /// # Errors
    /// If `out` cannot seek to where the next tensor begins.
    ///
    /// # Panics
    /// If there are more checksums than tensors.
    pub fn resume(mut out: W, header: Header, checksums: Vec<u64>) -> Result<Self, GgufError> {
        let data = match header.tensors.get(checksums.len()) {
            Some(next) => next.offset,
            None if header.tensors.len() == checksums.len() => header.data_bytes(),
            None => panic!("more checksums than tensors"),
        };
        out.seek(SeekFrom::Start(header.encode().len() as u64 + data))?;
        Ok(Self::after(checksums, out, header))
    }

    /// Writes the header to `out`, which should be buffered and empty; or goes on after the first tensors if
    /// they are complete and have these `checksums`, as [`resume`](Self::resume) does. The checksums of
    /// other tensors that are in the header of `out` are replaced by 0.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If there are more checksums than tensors.
    pub fn after_complete(out: W, header: Header, checksums: Vec<u64>) -> Result<Self, GgufError> {
        let mut writer = match checksums.is_empty() {
            true => Self::new(out, header),
            false => Self::resume(out, header, checksums),
        }?;
        writer.write_checksums()?;
        Ok(writer)
    }

    /// Writes the checksums of the complete tensors into the header, and 0 for the others. Does
    /// nothing if the header has no checksums.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If tensors were added to the header after [`Header::reserve_checksums`].
    pub fn write_checksums(&mut self) -> Result<(), GgufError> {
        let Some(slot) = self.slot.clone() else { return Ok(()) };
        let mut checksums = self.checksums.clone();
        checksums.resize(self.header.tensors.len(), 0);
        self.replace(&slot, checksums)
    }

    /// Overwrites the header value at `slot` with `value`.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If the new value takes more or fewer bytes than the old one.
    pub fn replace(&mut self, slot: &Slot, value: impl Into<OwnedValue>) -> Result<(), GgufError> {
        let mut bytes = Vec::new();
        value.into().encode(&mut bytes);
        assert_eq!(bytes.len(), slot.0.len(), "a header keeps its length");
        let end = self.out.stream_position()?;
        self.out.seek(SeekFrom::Start(slot.0.start as u64))?;
        self.out.write_all(&bytes)?;
        self.out.seek(SeekFrom::Start(end))?;
        Ok(())
    }
}
