//! Importance matrices as GGUF files, as llama.cpp's `llama-imatrix` writes them. An entry has two
//! tensors: `NAME.in_sum2` of `[cols]` or `[cols, matrices]`, and `NAME.counts`, one per matrix.

use std::collections::BTreeMap;
use std::io::Write;

use super::{Entry, Imatrix, ImatrixError, Malformed};
use crate::gguf::{Array, Gguf, GgufError, Header, Writer};
use crate::quant::QuantType;
use crate::tensor::TensorView;

const KIND: &str = "imatrix";
const KIND_KEY: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Reads the importance matrix in `gguf`.
pub(super) fn read(gguf: &Gguf) -> Result<Imatrix, ImatrixError> {
    let datasets = gguf.array(DATASETS)?.as_ref().and_then(Array::strings);
    let imatrix = Imatrix {
        datasets: datasets.map(|names| names.map(str::to_owned).collect()).unwrap_or_default(),
        chunk_count: gguf.u32(CHUNK_COUNT)?.unwrap_or(0),
        chunk_size: gguf.u32(CHUNK_SIZE)?.unwrap_or(0),
        entries: BTreeMap::new(),
    };
    let kind = gguf.str(KIND_KEY)?.unwrap_or(KIND);
    let entries = if kind == KIND { entries(gguf) } else { Err(Malformed::Kind(kind.to_owned())) };
    match entries {
        Ok(entries) => Ok(Imatrix { entries, ..imatrix }),
        Err(cause) => Err(ImatrixError::Malformed { path: gguf.path().to_owned(), cause }),
    }
}

/// The entries by name. Other tensors are ignored: some programs also store sums of the values
/// themselves, `NAME.in_sum`.
fn entries(gguf: &Gguf) -> Result<BTreeMap<String, Entry>, Malformed> {
    let partner = |tensor: TensorView, name: String| {
        let unpaired = || Malformed::Unpaired { name: tensor.name.into(), missing: name.clone() };
        gguf.tensor(&name).ok_or_else(unpaired)
    };
    let mut entries = BTreeMap::new();
    for tensor in gguf.tensors() {
        if let Some(name) = tensor.name.strip_suffix(SUMS) {
            let counts = partner(tensor, format!("{name}{COUNTS}"))?;
            entries.insert(name.to_owned(), entry(tensor, counts)?);
        } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
            partner(tensor, format!("{name}{SUMS}"))?;
        }
    }
    match entries.is_empty() {
        true => Err(Malformed::NoEntries),
        false => Ok(entries),
    }
}

/// Reads one entry. If it is for several matrices, their sums and counts are added up.
fn entry(sums: TensorView, counts: TensorView) -> Result<Entry, Malformed> {
    for tensor in [sums, counts] {
        if tensor.ty != QuantType::F32 {
            return Err(Malformed::Type { name: tensor.name.to_owned(), found: tensor.ty });
        }
    }
    let (len, matrices) = (sums.len(), counts.len());
    if len % matrices != 0 {
        let name = sums.name.to_owned();
        return Err(Malformed::Counts { name, sums: len, counts: matrices });
    }
    let mut total = vec![0.0; len / matrices];
    for (i, x) in f32s(sums.data).enumerate() {
        total[i % (len / matrices)] += x;
    }
    Ok(Entry { sums: total, count: f32s(counts.data).sum() })
}

/// Decodes little-endian floats.
pub(super) fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// See [`Imatrix::write`].
pub(super) fn write<W: Write>(imatrix: &Imatrix, out: W) -> Result<W, GgufError> {
    let mut header = Header::new();
    header.set(KIND_KEY, KIND);
    header.set(DATASETS, imatrix.datasets.clone());
    header.set(CHUNK_COUNT, imatrix.chunk_count);
    header.set(CHUNK_SIZE, imatrix.chunk_size);
    for (name, entry) in &imatrix.entries {
        header.add_tensor(format!("{name}{SUMS}"), QuantType::F32, &[entry.sums.len()])?;
        header.add_tensor(format!("{name}{COUNTS}"), QuantType::F32, &[1])?;
    }
    let mut writer = Writer::new(out, header)?;
    for entry in imatrix.entries.values() {
        let sums: Vec<u8> = entry.sums.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(&sums)?;
        writer.write(&entry.count.to_le_bytes())?;
    }
    writer.finish()
}
