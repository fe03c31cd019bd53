//! A GGUF file in its parts, each of which may be wrong.

use lapidary_formats::gguf::Gguf;

/// A name, dimensions, a type's number and an offset.
pub type RawTensor = (Vec<u8>, Vec<u64>, u32, u64);

/// The parts of a file.
#[derive(Clone, Default)]
pub struct RawGguf {
    /// Key, type's number, value.
    pub metadata: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<RawTensor>,
    pub data: Vec<u8>,
    /// Added to the numbers of tensors and of keys that are declared.
    pub more: (u64, u64),
}

impl RawGguf {
    /// The parts of a sound file.
    pub fn of(gguf: &Gguf, bytes: &[u8]) -> Self {
        let metadata = gguf
            .raw_metadata()
            .map(|(key, ty, value)| (key.as_bytes().to_vec(), ty as u32, value.to_vec()))
            .collect();
        let place = |data: &[u8]| gguf.place(data).unwrap().1.start;
        let start = gguf.tensors().map(|t| place(t.data)).min().unwrap();
        let tensor = |t: lapidary_formats::tensor::TensorView| {
            let dims = t.shape.iter().map(|dim| *dim as u64).collect();
            (t.name.as_bytes().to_vec(), dims, t.ty as u32, (place(t.data) - start) as u64)
        };
        let tensors = gguf.tensors().map(tensor).collect();
        Self { metadata, tensors, data: bytes[start..].to_vec(), more: (0, 0) }
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).wrapping_add(self.more.0).to_le_bytes());
        out.extend((self.metadata.len() as u64).wrapping_add(self.more.1).to_le_bytes());
        for (key, ty, value) in &self.metadata {
            string(key, &mut out);
            out.extend(ty.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, ty, offset) in &self.tensors {
            string(name, &mut out);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

fn string(s: &[u8], out: &mut Vec<u8>) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}
