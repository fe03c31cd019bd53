//! Safetensors files: their tensors, to be renamed, changed and written again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{json, Value};

/// A tensor as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Reads a file.
pub fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..end]).unwrap();
    let tensor = |(name, entry): (String, Value)| {
        let range: (usize, usize) = serde_json::from_value(entry["data_offsets"].clone()).ok()?;
        let dtype = entry["dtype"].as_str()?.to_owned();
        let shape = serde_json::from_value(entry["shape"].clone()).ok()?;
        Some((name, Tensor { dtype, shape, bytes: bytes[end + range.0..end + range.1].to_vec() }))
    };
    header.into_iter().filter_map(tensor).collect()
}

/// Writes a file.
pub fn write(path: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, Tensor { dtype, shape, bytes }) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert(name.clone(), entry);
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// The same values of BF16 as F32, whose upper half a BF16 is.
pub fn widened(tensor: &Tensor) -> Tensor {
    assert_eq!(tensor.dtype, "BF16");
    let bytes = tensor.bytes.as_chunks::<2>().0.iter().flat_map(|&[a, b]| [0, 0, a, b]).collect();
    Tensor { dtype: "F32".into(), shape: tensor.shape.clone(), bytes }
}
