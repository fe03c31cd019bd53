//! Continues a conversion, or a collection of statistics, that was interrupted. The unfinished file is its
//! own journal: its header describes source and result, and has the checksums of the finished tensors.

use std::path::Path;

use lapidary_formats::gguf::{
    read_metadata, Checksum, Header, Value, CHECKSUMS_KEY, HEADER_CHECKSUM_KEY,
};
use lapidary_formats::map::MappedFile;

use super::metadata::{FINGERPRINT, RECIPE, VERSION};
use super::target::Target;
use super::{ConvertError, Progress};
use crate::hessian;
use crate::model::Source;

/// Bytes whose checksum is computed before their memory is released.
const CHUNK_BYTES: usize = 4 << 20;

/// How much of an unfinished file is usable.
#[derive(Debug, Default)]
pub struct Finished {
    /// Checksums of the complete tensors, which are the first ones of the file.
    pub checksums: Vec<u64>,
    /// Where the last of them ends, in bytes from the beginning of the file; 0 if there is none.
    pub len: u64,
}

/// Finds out how much of the unfinished file of `target` is usable for a file with `header` that is made
/// from `source`. Every tensor that counts as finished has been read and compared with its checksum.
/// `bytes_in` says how many bytes need not be read from the source for a tensor that is finished, by
/// its number in the header.
///
/// # Errors
/// If something else is begun in the file, the source's files have changed since, the file cannot be
/// read, or `progress` cancels.
pub fn finished_tensors(
    target: &Target,
    source: &Source,
    header: &Header,
    bytes_in: &dyn Fn(usize) -> u64,
    progress: &mut dyn Progress,
) -> Result<Finished, ConvertError> {
    let part = target.unfinished();
    let (map, mut finished) = (open(part)?, Finished::default());
    let expected = header.encode();
    let checksums = header.stored_checksums(map.bytes());
    let checksums = checksums.ok_or_else(|| other(part, map.bytes(), &expected))?;
    let state = header.stored_header_checksum(&expected).map(|(state, _)| state);
    match header.stored_header_checksum(map.bytes()) {
        // A file that was complete does not say any more of which state of the source it is. It needs
        // more of the source only if it was damaged since; then the fingerprint alone decides.
        Some((found, false)) if Some(found) != state => {
            let source_path = source.path().to_owned();
            return Err(ConvertError::StateChanged { path: part.to_owned(), source_path });
        }
        _ => {}
    }
    let offsets = header.tensors().iter().map(|t| expected.len() as u64 + t.offset);
    let ends = offsets.skip(1).chain([header.file_bytes()]);
    let tensors = header.tensors().iter().zip(checksums).zip(ends).enumerate();
    for (i, ((info, checksum), end)) in tensors {
        let at = expected.len() + info.offset as usize;
        let Some(bytes) = map.bytes().get(at..end as usize) else { break };
        let (data, padding) = bytes.split_at(info.bytes as usize);
        let is_padded = padding.iter().all(|byte| *byte == 0);
        if !is_padded || checksum_of(&map, data, progress)? != checksum {
            break;
        }
        finished.checksums.push(checksum);
        finished.len = end;
        progress.tensor(&info.name);
        progress.advanced(bytes_in(i), info.bytes);
    }
    Ok(finished)
}

/// The checksum of part of a file. Only a little of it is in memory at a time.
fn checksum_of(
    map: &MappedFile,
    data: &[u8],
    progress: &mut dyn Progress,
) -> Result<u64, ConvertError> {
    let mut checksum = Checksum::new();
    for chunk in data.chunks(CHUNK_BYTES) {
        if progress.cancelled() {
            return Err(ConvertError::Cancelled);
        }
        checksum.update(chunk);
        map.release(chunk);
    }
    Ok(checksum.value())
}

/// Decides what happens to the unfinished file of `target` after `error` has stopped the work on it. The
/// file is kept if the weights are not the cause and at least one tensor is finished; the returned error
/// then says so.
pub fn keep_unfinished(target: Target, header: &Header, error: ConvertError) -> ConvertError {
    use ConvertError::{Cancelled, Check, Output, Write};
    if !matches!(error, Cancelled | Check { .. } | Output { .. } | Write { .. }) {
        return error;
    }
    let stored =
        open(target.unfinished()).ok().and_then(|map| header.stored_checksums(map.bytes()));
    let finished = stored.iter().flatten().take_while(|checksum| **checksum != 0).count();
    if finished == 0 {
        return error;
    }
    let (part, tensors) = (target.unfinished().to_owned(), header.tensors().len());
    target.keep();
    ConvertError::Unfinished { part, finished, tensors, cause: Box::new(error) }
}

fn open(part: &Path) -> Result<MappedFile, ConvertError> {
    let error = |error| ConvertError::Output { path: part.to_owned(), error };
    MappedFile::open(part).map_err(error)
}

/// The error for a file that does not begin with the header `expected`. It names the first key that
/// differs; the most telling keys are compared first.
fn other(part: &Path, found: &[u8], expected: &[u8]) -> ConvertError {
    let path = part.to_owned();
    let metadata = read_metadata(found).and_then(|found| Ok((found, read_metadata(expected)?)));
    match metadata.ok().and_then(|(found, expected)| difference(&found, &expected)) {
        Some((what, found, expected)) => {
            ConvertError::OtherConversion { path, what, found, expected }
        }
        None => {
            let cause = "has no header from which a conversion could continue";
            ConvertError::Unsuitable { path, cause }
        }
    }
}

/// The first difference between the metadata of two headers: a name for the key, and both values.
fn difference(
    found: &[(String, Value)],
    expected: &[(String, Value)],
) -> Option<(String, String, String)> {
    let named = [
        (RECIPE, "recipe"),
        (FINGERPRINT, "source of fingerprint"),
        (hessian::MODEL, "source of fingerprint"),
        (hessian::TEXT, "text of checksum"),
        (hessian::FISHER_TOKENS, "number of tokens with gradients"),
        (VERSION, "version"),
    ];
    let keys = expected.iter().chain(found).map(|(key, _)| (key.as_str(), key.as_str()));
    let mut keys = named
        .into_iter()
        .chain(keys.filter(|(key, _)| ![CHECKSUMS_KEY, HEADER_CHECKSUM_KEY].contains(key)));
    keys.find_map(|(key, what)| {
        let (found, expected) = (value(found, key), value(expected, key));
        let text = |value: Option<Value>| value.map_or("absent".into(), |v| v.to_string());
        (found != expected).then(|| (what.to_owned(), text(found), text(expected)))
    })
}

fn value<'a>(metadata: &[(String, Value<'a>)], key: &str) -> Option<Value<'a>> {
    metadata.iter().find(|(k, _)| k == key).map(|(_, value)| *value)
}
