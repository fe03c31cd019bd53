//! Parses the header of one GGUF file: from bytes to checked descriptions, in one pass.

use std::collections::HashSet;
use std::ops::Range;

use super::cursor::Cursor;
use super::error::Malformed;
use super::value::{Value, ValueType};
use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_DIMS, MAX_KEY, MAX_NAME};
use crate::map::stand_in;
use crate::printable::Printable;
use crate::quant::QuantType;

/// The contents of a file's header, all checked against the file's length.
#[derive(Debug)]
pub(super) struct Parsed {
    pub version: u32,
    pub alignment: usize,
    pub metadata: Vec<Entry>,
    pub tensors: Vec<Tensor>,
}

/// A metadata entry; the value stays in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub ty: ValueType,
    pub range: Range<usize>,
}

/// A tensor's description.
#[derive(Debug)]
pub(super) struct Tensor {
    pub name: String,
    pub ty: QuantType,
    /// Innermost dimension first.
    pub shape: Vec<usize>,
    /// The range of its bytes in the file.
    pub range: Range<usize>,
}

/// Fewest bytes of a metadata entry: length and one byte of the key, type, one byte of value.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor's description: length and one byte of the name, number of dimensions,
/// one dimension, type, offset.
const MIN_DESCRIPTION: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Parses the header at the beginning of `bytes`, a whole file. Takes time linear in the header's
/// length and at most a small multiple of that in memory, whatever counts the header declares.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let Metadata { version, n_tensors, entries: metadata } = parse_metadata(&mut cursor)?;
    let alignment = alignment(bytes, &metadata)?;
    let descriptions = descriptions(&mut cursor, n_tensors)?;
    let tensors = locate_tensors(descriptions, cursor.at, bytes.len(), alignment)?;
    Ok(Parsed { version, alignment, metadata, tensors })
}

/// Everything in a header before the tensor descriptions.
pub(super) struct Metadata {
    version: u32,
    n_tensors: u64,
    pub entries: Vec<Entry>,
}

/// Parses everything before the tensor descriptions; the rest of the file may be missing.
pub(super) fn parse_metadata(cursor: &mut Cursor) -> Result<Metadata, Malformed> {
    let version = version(cursor)?;
    cursor.place("the header".into());
    let n_tensors = cursor.u64()?;
    let n_entries = cursor.u64()?;
    let len = cursor.bytes.len();
    for (what, count, least) in
        [("tensors", n_tensors, MIN_DESCRIPTION), ("metadata keys", n_entries, MIN_ENTRY)]
    {
        if count > len as u64 / least {
            return Err(Malformed::Count { what, count, len });
        }
    }
    let entries = metadata(cursor, n_entries)?;
    Ok(Metadata { version, n_tensors, entries })
}

/// Checks the magic and the version.
fn version(cursor: &mut Cursor) -> Result<u32, Malformed> {
    cursor.place("the header".into());
    let head = cursor.bytes.get(..4).unwrap_or(cursor.bytes);
    if !MAGIC.starts_with(head) {
        if head.iter().rev().eq(&MAGIC) {
            return Err(Malformed::BigEndian);
        }
        return Err(match stand_in(cursor.bytes) {
            Some(what) => Malformed::StandIn(what),
            None => Malformed::Magic(head.to_vec()),
        });
    }
    cursor.take(4)?;
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(Malformed::BigEndian),
        version => Err(Malformed::Version(version)),
    }
}

fn metadata(cursor: &mut Cursor, count: u64) -> Result<Vec<Entry>, Malformed> {
    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    for i in 0..count {
        cursor.place(format!("metadata key {} of {count}", i + 1));
        let key = cursor.name(MAX_KEY)?;
        cursor.place(format!("the value of metadata key \"{}\"", Printable::new(key)));
        let ty = ValueType::read(cursor)?;
        let start = cursor.at;
        Value::read(cursor, ty)?;
        if !seen.insert(key) {
            return Err(Malformed::DuplicateKey(key.to_owned()));
        }
        entries.push(Entry { key: key.to_owned(), ty, range: start..cursor.at });
    }
    Ok(entries)
}

fn alignment(bytes: &[u8], metadata: &[Entry]) -> Result<usize, Malformed> {
    let Some(entry) = metadata.iter().find(|e| e.key == ALIGNMENT_KEY) else {
        return Ok(ALIGNMENT);
    };
    match Value::read(&mut Cursor::new(&bytes[entry.range.clone()]), entry.ty)? {
        Value::U32(n) if n.is_power_of_two() && (8..=65_536).contains(&n) => Ok(n as usize),
        value => Err(Malformed::Alignment(format!("{value} ({})", value.ty()))),
    }
}

/// A tensor's description as the file states it.
struct Description<'a> {
    name: &'a str,
    ty: QuantType,
    shape: Vec<usize>,
    /// From the beginning of the data section, in bytes.
    offset: u64,
}

fn descriptions<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
) -> Result<Vec<Description<'a>>, Malformed> {
    let (mut descriptions, mut seen) = (Vec::new(), HashSet::new());
    for i in 0..count {
        cursor.place(format!("tensor name {} of {count}", i + 1));
        let name = cursor.name(MAX_NAME)?;
        if !seen.insert(name) {
            return Err(Malformed::DuplicateTensor(name.to_owned()));
        }
        cursor.place(format!("the description of tensor {name:?}"));
        let dims = cursor.u32()? as usize;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(Malformed::Dimensions { name: name.to_owned(), dims });
        }
        let mut shape = Vec::with_capacity(dims);
        for _ in 0..dims {
            let dim = usize::try_from(cursor.u64()?);
            shape.push(dim.map_err(|_| Malformed::TooLarge(name.to_owned()))?);
        }
        let ty = tensor_type(name, cursor.u32()?)?;
        descriptions.push(Description { name, ty, shape, offset: cursor.u64()? });
    }
    Ok(descriptions)
}

/// Finds every tensor's bytes and checks that they are aligned, lie in the file and do not overlap
/// with another tensor's. The data section begins at the first aligned byte after the header, which
/// ends at byte `header`.
fn locate_tensors(
    descriptions: Vec<Description>,
    header: usize,
    len: usize,
    alignment: usize,
) -> Result<Vec<Tensor>, Malformed> {
    let start = header.next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(descriptions.len());
    for Description { name, ty, shape, offset } in descriptions {
        let bytes = tensor_bytes(name, ty, &shape)?;
        if offset % alignment as u64 != 0 {
            return Err(Malformed::Misaligned { name: name.to_owned(), offset, alignment });
        }
        let begin = usize::try_from(offset).ok().and_then(|o| o.checked_add(start));
        let range = begin.and_then(|b| Some(b..b.checked_add(bytes)?)).filter(|r| r.end <= len);
        let range = range.ok_or_else(|| Malformed::OutOfFile {
            name: name.to_owned(),
            offset,
            bytes,
            available: len.saturating_sub(start),
        })?;
        tensors.push(Tensor { name: name.to_owned(), ty, shape, range });
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    match order.windows(2).find(|w| w[1].range.start < w[0].range.end) {
        Some(w) => Err(Malformed::Overlap { first: w[0].name.clone(), second: w[1].name.clone() }),
        None => Ok(tensors),
    }
}

/// The type with ggml's number `number`, if it is one that files may contain.
fn tensor_type(name: &str, number: u32) -> Result<QuantType, Malformed> {
    let stored = QuantType::from_ggml(number).filter(|ty| ty.traits().stored);
    stored.ok_or_else(|| Malformed::TensorType {
        name: name.to_owned(),
        number,
        type_name: unsupported_name(number),
    })
}

/// Size of a tensor in bytes, after all checks of its shape. Also used for tensors to be written.
pub(super) fn tensor_bytes(name: &str, ty: QuantType, shape: &[usize]) -> Result<usize, Malformed> {
    if !(1..=MAX_DIMS).contains(&shape.len()) {
        return Err(Malformed::Dimensions { name: name.to_owned(), dims: shape.len() });
    }
    if shape.contains(&0) {
        return Err(Malformed::ZeroDimension(name.to_owned()));
    }
    let too_large = || Malformed::TooLarge(name.to_owned());
    let (cols, rows) = (shape[0], &shape[1..]);
    if cols % ty.block_len() != 0 {
        return Err(Malformed::RowLength { name: name.to_owned(), cols, ty });
    }
    // The number of values has to fit as well: with less than a byte per value it is the larger one.
    shape.iter().try_fold(1, |n: usize, dim| n.checked_mul(*dim)).ok_or_else(too_large)?;
    let row = ty.row_bytes(cols).ok_or_else(too_large)?;
    rows.iter().try_fold(row, |n, dim| n.checked_mul(*dim)).ok_or_else(too_large)
}

/// ggml's names of the types that are not supported, for the error message
/// ([ggml.h](https://github.com/ggml-org/ggml/blob/master/include/ggml.h), `enum ggml_type`).
fn unsupported_name(number: u32) -> &'static str {
    match number {
        4 => "Q4_2, removed from GGUF",
        5 => "Q4_3, removed from GGUF",
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        31..=33 => "repacked Q4_0, removed from GGUF",
        36..=38 => "repacked IQ4_NL, removed from GGUF",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        _ => "unknown",
    }
}
