//! The tensors of a checkpoint: one safetensors file, or the shards that an index names.
//!
//! [The format](https://github.com/huggingface/safetensors#format): eight bytes with the length
//! of a JSON header, the header, and the tensors' bytes without gaps. The header's types are those
//! of the `safetensors` crate. The checks are made here, so that every error names its tensor.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Component, Path};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::unique::unique;
use super::{parse_json, read, CheckpointError, MAX_TABLES};
use crate::map::MappedFile;
use crate::quant::QuantType;
use crate::tensor::TensorView;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Largest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;
/// Longest name of a tensor in bytes, and largest number of dimensions. The format has no limits, but
/// Gemma's longest name has 56 bytes, and no model has a tensor of more than five dimensions.
const MAX_NAME: usize = 1024;
const MAX_DIMS: usize = 8;

/// All tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Weights {
    shards: Vec<Shard>,
    /// Whether nothing but the names of the files says that they are the checkpoint's.
    by_file_name: bool,
    /// By tensor name: the index of the shard, and the tensor's index in that shard.
    by_name: HashMap<String, (usize, usize)>,
}

#[derive(Debug)]
struct Shard {
    map: MappedFile,
    /// In the order of their bytes.
    tensors: Vec<Tensor>,
}

#[derive(Debug)]
struct Tensor {
    name: String,
    ty: QuantType,
    /// Innermost dimension first.
    shape: Vec<usize>,
    /// The range of its bytes in the file.
    range: Range<usize>,
}

/// The header of a safetensors file: tensor descriptions by name, and strings under `__metadata__`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Header<'a> {
    #[serde(borrow, deserialize_with = "unique")]
    entries: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(deserialize_with = "unique")]
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Maps the weights in `dir`. A single file is preferred to an index, as in transformers.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if dir.join(SINGLE).exists() {
            return Self::new(vec![Shard::open(&dir.join(SINGLE))?]);
        }
        if !dir.join(INDEX).exists() {
            return Self::without_index(dir);
        }
        let file = read(&dir.join(INDEX))?;
        let index: Index = parse_json(&file, MAX_TABLES)?;
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            check_shard_name(file.path(), tensor, shard)?;
            numbers.insert(shard, 0);
        }
        let mut shards = Vec::with_capacity(numbers.len());
        for (name, number) in &mut numbers {
            let path = dir.join(name);
            if !path.exists() {
                let (path, shard) = (file.path().to_owned(), (*name).to_owned());
                return Err(CheckpointError::MissingShard { path, shard });
            }
            *number = shards.len();
            shards.push(Shard::open(&path)?);
        }
        let weights = Self::new(shards)?;
        for (tensor, shard) in &index.weight_map {
            let number = numbers[shard.as_str()];
            if weights.by_name.get(tensor).is_none_or(|(n, _)| *n != number) {
                let path = weights.shards[number].map.path().to_owned();
                return Err(CheckpointError::NotInShard { path, tensor: tensor.clone() });
            }
        }
        Ok(weights)
    }

    /// Maps the shards in `dir` whose names say that they belong together, or a single file with a
    /// name of its own.
    fn without_index(dir: &Path) -> Result<Self, CheckpointError> {
        let error = |error| CheckpointError::Open { path: dir.to_owned(), error };
        let entries = std::fs::read_dir(dir).map_err(error)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names
            .filter(|name| name.ends_with(".safetensors") && !name.starts_with("adapter_"))
            .collect();
        names.sort();
        let numbers: Vec<_> = names.iter().map(|name| shard_number(name)).collect();
        match (numbers.first(), names.len()) {
            (Some(Some((_, of))), _) => {
                let missing = (1..=*of).find(|n| !numbers.contains(&Some((*n, *of))));
                if let Some(n) = missing {
                    let shard = format!("model-{n:05}-of-{of:05}.safetensors");
                    return Err(CheckpointError::MissingShard { path: dir.to_owned(), shard });
                }
                if numbers.iter().any(|number| number.is_none_or(|(_, n)| n != *of)) {
                    let hint = ": there are other weights beside a set of shards";
                    return Err(CheckpointError::NoWeights { dir: dir.to_owned(), hint });
                }
            }
            (Some(None), 1) => {}
            _ => return Err(CheckpointError::NoWeights { dir: dir.to_owned(), hint: hint(dir) }),
        }
        let shards = names.iter().map(|name| Shard::open(&dir.join(name)));
        let weights = Self::new(shards.collect::<Result<_, _>>()?)?;
        Ok(Self { by_file_name: true, ..weights })
    }

    /// Whether there is no index, and no single file of the usual name.
    pub fn by_file_name(&self) -> bool {
        self.by_file_name
    }

    /// The files.
    pub fn maps(&self) -> impl Iterator<Item = &MappedFile> {
        self.shards.iter().map(|shard| &shard.map)
    }

    fn new(shards: Vec<Shard>) -> Result<Self, CheckpointError> {
        let mut by_name = HashMap::new();
        for (s, shard) in shards.iter().enumerate() {
            for (t, tensor) in shard.tensors.iter().enumerate() {
                if by_name.insert(tensor.name.clone(), (s, t)).is_some() {
                    let (path, tensor) = (shard.map.path().to_owned(), tensor.name.clone());
                    return Err(CheckpointError::DuplicateTensor { path, tensor });
                }
            }
        }
        Ok(Self { shards, by_file_name: false, by_name })
    }

    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.shards.iter().flat_map(|s| s.tensors.iter().map(|t| s.view(t)))
    }

    pub fn place(&self, part: &[u8]) -> Option<(&Path, Range<usize>)> {
        self.shards.iter().find_map(|s| Some((s.map.path(), s.map.place(part)?)))
    }

    pub fn release(&self, part: &[u8]) {
        self.shards.iter().for_each(|s| s.map.release(part));
    }

    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (shard, tensor) = *self.by_name.get(name)?;
        let shard = &self.shards[shard];
        Some(shard.view(&shard.tensors[tensor]))
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        let map = read(path)?;
        let tensors = header(&map)?;
        Ok(Self { map, tensors })
    }

    fn view<'a>(&'a self, tensor: &'a Tensor) -> TensorView<'a> {
        TensorView {
            name: &tensor.name,
            ty: tensor.ty,
            shape: &tensor.shape,
            // In range: this was checked when the file was opened, and a map keeps its length.
            data: &self.map.bytes()[tensor.range.clone()],
        }
    }
}

/// The number of a shard, and of how many, by its name: `model-00002-of-00003.safetensors`.
fn shard_number(name: &str) -> Option<(usize, usize)> {
    let (number, of) =
        name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
    let is_number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(of)).then(|| Some((number.parse().ok()?, of.parse().ok()?)))?
}

/// The tensors described by the header of a safetensors file, in the order of their bytes.
fn header(map: &MappedFile) -> Result<Vec<Tensor>, CheckpointError> {
    let bytes = map.bytes();
    let error = |cause: String| CheckpointError::Header { path: map.path().to_owned(), cause };
    let tensor_error = |tensor: &str, cause: String| CheckpointError::Tensor {
        path: map.path().to_owned(),
        tensor: tensor.to_owned(),
        cause,
    };
    let (head, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| error(format!("it has only {} bytes", bytes.len())))?;
    let len = u64::from_le_bytes(*head);
    if len > MAX_HEADER {
        return Err(error(format!("its header of {len} bytes is over the limit of {MAX_HEADER}")));
    }
    // No overflow: the limit is far below the largest `usize` on any machine that can map a model.
    let start = 8 + len as usize;
    let json = rest.get(..len as usize).ok_or_else(|| length_error(map, start as u64))?;
    let Header { entries } = serde_json::from_slice(json).map_err(|e| error(e.to_string()))?;
    let mut infos = Vec::with_capacity(entries.len());
    for (name, raw) in entries {
        if name.is_empty() || name.len() > MAX_NAME {
            let cause = format!("its name has {} bytes, expected 1 to {MAX_NAME}", name.len());
            return Err(tensor_error(&name, cause));
        }
        if name != "__metadata__" {
            let info: TensorInfo =
                serde_json::from_str(raw.get()).map_err(|e| tensor_error(&name, e.to_string()))?;
            infos.push((name, info));
        }
    }
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut tensors = Vec::with_capacity(infos.len());
    let mut end = 0;
    for (name, info) in infos {
        let size = check_info(&info, end).map_err(|cause| tensor_error(&name, cause))?;
        let (ty, range) = (size.0, end..info.data_offsets.1);
        end = range.end;
        let shape = info.shape.into_iter().rev().collect();
        let range = range.start.saturating_add(start)..range.end.saturating_add(start);
        tensors.push(Tensor { name, ty, shape, range });
    }
    match (end as u64).checked_add(start as u64) {
        Some(expected) if expected == bytes.len() as u64 => Ok(tensors),
        expected => Err(length_error(map, expected.unwrap_or(u64::MAX))),
    }
}

fn length_error(map: &MappedFile, expected: u64) -> CheckpointError {
    let (path, found) = (map.path().to_owned(), map.bytes().len() as u64);
    CheckpointError::Length { path, found, expected }
}

/// Checks a tensor's description. Its bytes must begin at `start` of the data section. Returns its
/// type and size in bytes.
fn check_info(info: &TensorInfo, start: usize) -> Result<(QuantType, usize), String> {
    let ty = match info.dtype {
        Dtype::F32 => QuantType::F32,
        Dtype::F16 => QuantType::F16,
        Dtype::BF16 => QuantType::BF16,
        other => {
            return Err(format!(
            "type {other:?} is not supported, only F32, F16 and BF16: weights that are quantized \
                 already have to be replaced by the original ones"
        ))
        }
    };
    if info.shape.len() > MAX_DIMS {
        return Err(format!("{} dimensions, at most {MAX_DIMS} are supported", info.shape.len()));
    }
    let values = info.shape.iter().try_fold(1, |n: usize, dim| n.checked_mul(*dim));
    let bytes = values.and_then(|n| ty.row_bytes(n));
    let bytes = bytes.ok_or_else(|| format!("shape {:?} is too large", info.shape))?;
    if bytes == 0 {
        return Err(format!("shape {:?} has a zero dimension", info.shape));
    }
    let (from, to) = info.data_offsets;
    if from != start {
        return Err(format!("its bytes begin at {from}, those before it end at {start}"));
    }
    if to.checked_sub(from) != Some(bytes) {
        let shape = &info.shape;
        return Err(format!("shape {shape:?} takes {bytes} bytes, its offsets are {from} to {to}"));
    }
    Ok((ty, bytes))
}

/// Checks that a shard is a file in the checkpoint's directory, so that an index reaches no others.
fn check_shard_name(path: &Path, tensor: &str, shard: &str) -> Result<(), CheckpointError> {
    let mut parts = Path::new(shard).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    // Checks the separators of every system, so that all systems refuse the same checkpoints.
    match plain && !shard.contains(['/', '\\', ':']) && !shard.contains(char::is_control) {
        true => Ok(()),
        false => Err(CheckpointError::ShardName {
            path: path.to_owned(),
            shard: shard.to_owned(),
            tensor: tensor.to_owned(),
        }),
    }
}

/// Names what a directory without safetensors weights has instead, and what to do about it.
fn hint(dir: &Path) -> &'static str {
    if dir.join("adapter_config.json").exists() {
        ": this is an adapter; merge it into its base model first"
    } else if dir.join("pytorch_model.bin").exists()
        || dir.join("pytorch_model.bin.index.json").exists()
    {
        ": pytorch_model.bin is not supported; save the model as safetensors first"
    } else {
        ""
    }
}
