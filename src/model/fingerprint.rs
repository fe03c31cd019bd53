//! A fingerprint, which tells models apart and depends on nothing but the model.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use lapidary_formats::gguf::Checksum;
use lapidary_formats::map::{FileState, MappedFile};
use lapidary_formats::tensor::TensorView;

use super::{Source, SourceError};

/// The files of a checkpoint that determine the result of a conversion, besides the weights.
const FILES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Size of a sample in bytes, and number of samples per tensor.
const PAGE: usize = 4096;
const PAGES: usize = 8;

/// Bytes that are read at a time where all are.
const CHUNK: usize = 4 << 20;

/// How much of a model a fingerprint covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// A sample of the weights: up to eight pages of 4 KiB per tensor, evenly spread from the first
    /// page to the last. Another model differs in every tensor and therefore in the sample. A change
    /// in few places, such as a hole in a download, can lie between the pages and go unnoticed.
    #[default]
    Sample,
    /// Every byte of the weights, which takes as long as it takes to read them.
    Full,
}

/// The fingerprint of a model, as 16 hexadecimal digits. It covers the whole configuration and
/// tokenizer, and the names, types and shapes of all tensors, and their bytes as far as `extent` says.
/// It does not depend on paths, on times, or on how a model is split into files.
///
/// # Errors
/// If a file of the checkpoint cannot be read.
pub(super) fn fingerprint(source: &Source, extent: Extent) -> Result<String, SourceError> {
    let mut sum = Checksum::new();
    if let Some(gguf) = source.gguf() {
        let raw = gguf.raw_metadata();
        for (key, ty, value) in raw.filter(|(key, ..)| !key.starts_with("split.")) {
            add_bytes(&mut sum, key.as_bytes());
            sum.update(&(ty as u32).to_le_bytes());
            add_bytes(&mut sum, value);
        }
    }
    if let Some(checkpoint) = source.checkpoint() {
        for name in FILES {
            let path = checkpoint.dir().join(name);
            if path.exists() {
                let file = MappedFile::open(&path);
                let file = file.map_err(|error| SourceError::Io { path, error })?;
                add_bytes(&mut sum, name.as_bytes());
                add_bytes(&mut sum, file.bytes());
            }
        }
    }
    for spec in source.tensors() {
        tensor(&mut sum, source, &source.tensor(spec), extent)?;
    }
    Ok(format!("{:016x}", sum.value()))
}

/// The state of a model's files, as a number: the sizes, times and inodes that they had when they were
/// opened. It differs if one has been written to since, or replaced.
pub(super) fn state(source: &Source) -> u64 {
    let mut sum = Checksum::new();
    for FileState { len, modified, inode } in source.maps().map(MappedFile::state) {
        sum.update(&len.to_le_bytes());
        sum.update(&modified.to_le_bytes());
        sum.update(&inode.to_le_bytes());
    }
    sum.value()
}

/// Adds a tensor's description and its bytes or a sample of them. They are read from the file and not
/// through the map, where each access to a new page would read megabytes around it, and where a page
/// may be from before a change.
fn tensor(
    sum: &mut Checksum,
    source: &Source,
    view: &TensorView,
    extent: Extent,
) -> Result<(), SourceError> {
    add_bytes(sum, view.name.as_bytes());
    add_bytes(sum, view.ty.name().as_bytes());
    sum.update(&(view.shape.len() as u64).to_le_bytes());
    for dim in view.shape {
        sum.update(&(*dim as u64).to_le_bytes());
    }
    let (path, place) = source.place(view.data).expect("every tensor lies in a file");
    let error = |error| SourceError::Io { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(error)?;
    let mut page = Vec::with_capacity(PAGE);
    let len = view.data.len();
    let ranges: Box<dyn Iterator<Item = Range<usize>>> = match extent {
        Extent::Sample => Box::new(samples(len)),
        Extent::Full => {
            Box::new((0..len).step_by(CHUNK).map(|start| start..len.min(start + CHUNK)))
        }
    };
    for range in ranges {
        page.resize(range.len(), 0);
        let at = SeekFrom::Start((place.start + range.start) as u64);
        file.seek(at).and_then(|_| file.read_exact(&mut page)).map_err(error)?;
        sum.update(&page);
    }
    Ok(())
}

/// The ranges of the samples in a tensor of `len` bytes.
fn samples(len: usize) -> impl Iterator<Item = Range<usize>> {
    let pages = len.div_ceil(PAGE);
    let n = pages.min(PAGES);
    let starts = (0..n).map(move |i| i * (pages - 1) / (n - 1).max(1) * PAGE);
    starts.map(move |start| start..len.min(start + PAGE))
}

/// Adds bytes with their length, so that different lists of byte strings give different sums.
fn add_bytes(sum: &mut Checksum, bytes: &[u8]) {
    sum.update(&(bytes.len() as u64).to_le_bytes());
    sum.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tensors_are_sampled_completely() {
        for len in [1, PAGE, PAGE + 1, PAGES * PAGE - 100, PAGES * PAGE] {
            let taken: Vec<usize> = samples(len).flatten().collect();
            assert!(taken.into_iter().eq(0..len), "{len}");
        }
    }

    #[test]
    fn large_tensors_are_sampled_from_the_first_page_to_the_last() {
        for len in [PAGES * PAGE + 1, 100 * PAGE + 12, 2304 * 256_000 * 2] {
            let taken: Vec<Range<usize>> = samples(len).collect();
            assert_eq!(taken.len(), PAGES);
            assert_eq!((taken[0].start, taken[PAGES - 1].end), (0, len));
            assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "{taken:?}");
        }
    }
}
