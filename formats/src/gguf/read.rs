//! A GGUF model, opened for reading.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::Cursor;
use super::error::{GgufError, Malformed};
use super::parse::{parse, parse_metadata, Entry, Parsed, Tensor};
use super::value::{Array, Value, ValueType};
use crate::map::MappedFile;
use crate::tensor::TensorView;

/// A GGUF model: one file, or all of its split files `NAME-00001-of-0000N.gguf`.
///
/// Opening maps the files and checks every count, length, offset, string and shape in their
/// headers, so that what is read later needs no checks. Metadata and tensors are borrowed from the
/// maps. Strings that are not UTF-8 are refused everywhere, in token lists too: SentencePiece spells
/// bytes as `<0xNN>`, so no Gemma file has any.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    /// One file, or the split files in order.
    files: Vec<File>,
    /// By tensor name: the index of the file, and the tensor's index in that file.
    by_name: HashMap<String, (usize, usize)>,
}

#[derive(Debug)]
struct File {
    map: Arc<MappedFile>,
    parsed: Parsed,
}

impl Gguf {
    /// Opens `path`. If it is a split file of a model, the other split files are opened too; they
    /// must be in the same directory.
    ///
    /// # Errors
    /// If a file cannot be mapped, is not a little-endian GGUF file of version 2 or 3, is truncated
    /// or inconsistent, or if split files are missing or do not belong together.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        let path = path.as_ref().to_owned();
        let first = File::open(path.clone())?;
        let files = match first.split()? {
            Some((number, count)) => open_splits(first, number, count)?,
            None => vec![first],
        };
        let mut by_name = HashMap::new();
        for (f, file) in files.iter().enumerate() {
            for (t, tensor) in file.parsed.tensors.iter().enumerate() {
                if by_name.insert(tensor.name.clone(), (f, t)).is_some() {
                    return Err(file.malformed(Malformed::DuplicateTensor(tensor.name.clone())));
                }
            }
        }
        let gguf = Gguf { path, files, by_name };
        gguf.check_tensor_count()?;
        Ok(gguf)
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.files[0].parsed.version
    }

    /// The alignment of the tensors, in bytes.
    pub fn alignment(&self) -> usize {
        self.files[0].parsed.alignment
    }

    /// Size of the file or of all split files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.map.bytes().len() as u64).sum()
    }

    /// The file, or all split files.
    pub fn maps(&self) -> impl Iterator<Item = &MappedFile> {
        self.files.iter().map(|file| &*file.map)
    }

    /// The bytes before the tensors' descriptions, of the first file if the model is split.
    pub(super) fn metadata_bytes(&self) -> &[u8] {
        let file = &self.files[0];
        let end = file.parsed.metadata.last().map_or(0, |entry| entry.range.end);
        &file.map.bytes()[..end]
    }

    /// The value of a metadata key, of the first file if the model is split.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.files[0].get(key)
    }

    /// All metadata in the file's order, of the first file if the model is split.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let file = &self.files[0];
        file.parsed.metadata.iter().filter_map(|e| Some((e.key.as_str(), file.value(e)?)))
    }

    /// All metadata, as [`metadata`](Self::metadata) gives it, but with each value's bytes as they
    /// are in the file. Those bytes depend on nothing else in the file.
    pub fn raw_metadata(&self) -> impl Iterator<Item = (&str, ValueType, &[u8])> {
        let file = &self.files[0];
        file.parsed
            .metadata
            .iter()
            .filter_map(|e| Some((e.key.as_str(), e.ty, file.map.bytes().get(e.range.clone())?)))
    }

    /// The map that holds the metadata's values, to be shared with long-lived borrowers.
    pub(super) fn metadata_map(&self) -> &Arc<MappedFile> {
        &self.files[0].map
    }

    /// The value of a key that holds an integer, of any type if it fits; `None` if it is absent.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an unsigned 32-bit integer", |v| v.as_int())
    }

    /// As [`u32`](Self::u32), for 64 bits.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an unsigned 64-bit integer", |v| v.as_int())
    }

    /// The value of a key that holds a floating-point number of either type; `None` if absent.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a floating-point number", |v| v.as_f32())
    }

    /// The value of a key that holds a boolean; `None` if absent.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |v| v.as_bool())
    }

    /// The value of a key that holds a string; `None` if absent.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |v| v.as_str())
    }

    /// The value of a key that holds an array; `None` if absent.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>, GgufError> {
        self.typed(key, "an array", |v| v.as_array())
    }

    /// All tensors, in the files' order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.files.iter().flat_map(|f| f.parsed.tensors.iter().map(|t| f.view(t)))
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (file, tensor) = *self.by_name.get(name)?;
        let file = &self.files[file];
        Some(file.view(&file.parsed.tensors[tensor]))
    }

    /// The file that `part`, bytes of a tensor, lies in, and the byte range there.
    pub fn place(&self, part: &[u8]) -> Option<(&Path, Range<usize>)> {
        self.files.iter().find_map(|f| Some((f.map.path(), f.map.place(part)?)))
    }

    /// Releases the memory of `part`, bytes of a tensor, until it is read again.
    pub fn release(&self, part: &[u8]) {
        self.files.iter().for_each(|f| f.map.release(part));
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong_type = || GgufError::ValueType {
            path: self.path.clone(),
            key: key.to_owned(),
            found: format!("{} {value}", value.ty()),
            expected,
        };
        convert(value).map(Some).ok_or_else(wrong_type)
    }

    fn check_tensor_count(&self) -> Result<(), GgufError> {
        if self.files.len() == 1 {
            return Ok(());
        }
        let found = self.by_name.len() as u64;
        match self.u64("split.tensors.count")? {
            Some(count) if count != found => Err(GgufError::Split {
                path: self.path.clone(),
                cause: format!("split.tensors.count is {count}, but there are {found} tensors"),
            }),
            _ => Ok(()),
        }
    }
}

impl File {
    fn open(path: PathBuf) -> Result<File, GgufError> {
        let map = MappedFile::open(path.clone())
            .map_err(|error| GgufError::Open { path: path.clone(), error })?;
        match parse(map.bytes()) {
            Ok(parsed) => Ok(File { map: Arc::new(map), parsed }),
            Err(cause) => Err(GgufError::Malformed { path, cause }),
        }
    }

    fn get(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.parsed.metadata.iter().find(|e| e.key == key)?)
    }

    /// The value of an entry. It was checked when the file was opened, but it is `None` if somebody
    /// has changed the file since.
    fn value(&self, entry: &Entry) -> Option<Value<'_>> {
        Value::read(&mut Cursor::new(self.map.bytes().get(entry.range.clone())?), entry.ty).ok()
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

    /// The number (from 0) of this split file and the number of split files; `None` if the model is
    /// not split.
    fn split(&self) -> Result<Option<(u32, u32)>, GgufError> {
        let int = |key: &str| match self.get(key).map(|value| value.as_int()) {
            Some(None) => Err(self.split_error(format!("{key} is not an unsigned integer"))),
            Some(number) => Ok(number),
            None => Ok(None),
        };
        match (int("split.no")?, int("split.count")?) {
            (_, None | Some(0 | 1)) => Ok(None),
            (Some(number), Some(count)) if number < count => Ok(Some((number, count))),
            _ => Err(self.split_error("split.no is missing or not less than split.count".into())),
        }
    }

    fn split_error(&self, cause: String) -> GgufError {
        GgufError::Split { path: self.map.path().to_owned(), cause }
    }

    fn malformed(&self, cause: Malformed) -> GgufError {
        GgufError::Malformed { path: self.map.path().to_owned(), cause }
    }
}

/// The metadata of a file that begins with `bytes`; its tensors may be missing.
///
/// # Errors
/// If it is not a GGUF file, or ends within the metadata.
pub fn read_metadata(bytes: &[u8]) -> Result<Vec<(String, Value<'_>)>, Malformed> {
    let entries = parse_metadata(&mut Cursor::new(bytes))?.entries.into_iter();
    let value = |e: Entry| {
        let value = Value::read(&mut Cursor::new(&bytes[e.range]), e.ty)?;
        Ok((e.key, value))
    };
    entries.map(value).collect()
}

/// Opens the other split files of the model that `opened`, number `number` of `count`, belongs to.
fn open_splits(opened: File, number: u32, count: u32) -> Result<Vec<File>, GgufError> {
    let name = opened.map.path().file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let suffix = |i: u32| format!("-{:05}-of-{count:05}.gguf", i + 1);
    let Some(prefix) = name.strip_suffix(&suffix(number)).map(str::to_owned) else {
        let cause =
            format!("split file {} of {count} must be called NAME{}", number + 1, suffix(number));
        return Err(opened.split_error(cause));
    };
    let path = opened.map.path().to_owned();
    let mut opened = Some(opened);
    let mut files = Vec::new();
    for i in 0..count {
        if i == number {
            files.extend(opened.take());
            continue;
        }
        let sibling = path.with_file_name(format!("{prefix}{}", suffix(i)));
        if !sibling.exists() {
            let cause =
                format!("split file {} of {count} is missing: {}", i + 1, sibling.display());
            return Err(GgufError::Split { path, cause });
        }
        let file = File::open(sibling)?;
        if file.split()? != Some((i, count)) {
            let cause = format!("its metadata does not say split {} of {count}", i + 1);
            return Err(file.split_error(cause));
        }
        files.push(file);
    }
    Ok(files)
}
