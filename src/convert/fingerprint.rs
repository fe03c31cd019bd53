//! Which model a file was made from, as a number that depends on the model alone.

use lapidary_formats::gguf::Checksum;
use lapidary_formats::map::MappedFile;
use lapidary_formats::tensor::TensorView;

use crate::model::{Source, SourceError};

/// The files of a checkpoint, but for its weights, that decide what is written.
const FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// Bytes of a sample, and how many samples of a tensor are taken.
const PAGE: usize = 4096;
const PAGES: usize = 8;

/// The fingerprint of a model in 16 hexadecimal digits: of its configuration and its tokenizer
/// whole, of its tensors the names, types, shapes and a sample of the bytes. Paths and times are no
/// part of it, nor how a model is split over files.
///
/// The sample is up to eight pages of 4 KiB a tensor, evenly spread from the first to the last.
/// Another model differs in every tensor and so in the sample; a change in few places, such as a
/// download with a hole in it, can lie between the pages and is not seen.
///
/// # Errors
/// If a file of the checkpoint cannot be read.
pub(super) fn fingerprint(source: &Source) -> Result<String, SourceError> {
    let mut sum = Checksum::new();
    if let Some(gguf) = source.gguf() {
        let raw = gguf.raw_metadata();
        for (key, ty, value) in raw.filter(|(key, ..)| !key.starts_with("split.")) {
            part(&mut sum, key.as_bytes());
            sum.update(&(ty as u32).to_le_bytes());
            part(&mut sum, value);
        }
    }
    if let Some(checkpoint) = source.checkpoint() {
        for name in FILES {
            let path = checkpoint.dir().join(name);
            if path.exists() {
                let file = MappedFile::open(&path);
                let file = file.map_err(|error| SourceError::Io { path, error })?;
                part(&mut sum, name.as_bytes());
                part(&mut sum, file.bytes());
            }
        }
    }
    for spec in source.tensors() {
        let view = source.tensor(spec);
        tensor(&mut sum, &view);
        source.release(view.data);
    }
    Ok(format!("{:016x}", sum.value()))
}

/// A tensor's description and its sample.
fn tensor(sum: &mut Checksum, view: &TensorView) {
    part(sum, view.name.as_bytes());
    part(sum, view.ty.name().as_bytes());
    for dim in view.shape {
        sum.update(&(*dim as u64).to_le_bytes());
    }
    let pages = view.data.len().div_ceil(PAGE);
    let samples = pages.min(PAGES);
    for i in 0..samples {
        let at = i * (pages - 1) / (samples - 1).max(1) * PAGE;
        sum.update(&view.data[at..view.data.len().min(at + PAGE)]);
    }
}

/// Bytes and their number, so that no two lists of them look alike.
fn part(sum: &mut Checksum, bytes: &[u8]) {
    sum.update(&(bytes.len() as u64).to_le_bytes());
    sum.update(bytes);
}

#[cfg(test)]
mod tests {
    use lapidary_formats::quant::QuantType;

    use super::*;

    fn of(shape: &[usize], data: &[u8]) -> u64 {
        let mut sum = Checksum::new();
        tensor(&mut sum, &TensorView { name: "t", ty: QuantType::F32, shape, data });
        sum.value()
    }

    #[test]
    fn small_tensors_are_taken_whole() {
        let data = vec![7; PAGE * PAGES - 100];
        let shape = [data.len() / 4];
        for at in [0, 1, PAGE - 1, PAGE, 5 * PAGE + 17, data.len() - 1] {
            let mut changed = data.clone();
            changed[at] ^= 1;
            assert_ne!(of(&shape, &changed), of(&shape, &data), "byte {at}");
        }
    }

    #[test]
    fn large_tensors_are_sampled_from_the_first_page_to_the_last() {
        let data = vec![7; PAGE * 100 + 12];
        let shape = [data.len() / 4];
        let is_seen = |at: usize| {
            let mut changed = data.clone();
            changed[at] ^= 1;
            of(&shape, &changed) != of(&shape, &data)
        };
        assert!([0, PAGE - 1, data.len() - 1].into_iter().all(is_seen));
        let seen = (0..=100).filter(|page| is_seen(page * PAGE + 5)).count();
        assert_eq!(seen, PAGES);
    }

    #[test]
    fn shapes_count_where_bytes_are_equal() {
        let data = [0; 96];
        assert_ne!(of(&[4, 6], &data), of(&[6, 4], &data));
        assert_ne!(of(&[24], &data), of(&[24, 1], &data));
    }
}
