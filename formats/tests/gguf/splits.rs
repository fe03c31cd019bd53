//! Models that are split into several files.

use std::path::{Path, PathBuf};

use super::*;

/// Split file `i` of `n`, with one tensor.
fn split(i: u16, n: u16) -> Raw {
    Raw::new()
        .key(b"split.no", 2, &i.to_le_bytes())
        .key(b"split.count", 2, &n.to_le_bytes())
        .key(b"split.tensors.count", 5, &i32::from(n).to_le_bytes())
        .tensor(format!("t{i}").as_bytes(), &[8], 0, 0)
        .data(32)
}

fn write_splits(dir: &Path, splits: &[Raw]) -> Vec<PathBuf> {
    let n = splits.len();
    let path = |i| dir.join(format!("model-{:05}-of-{n:05}.gguf", i + 1));
    splits.iter().enumerate().for_each(|(i, raw)| fs::write(path(i), raw.bytes()).unwrap());
    (0..n).map(path).collect()
}

#[test]
fn any_split_file_opens_all() {
    let dir = TempDir::new().unwrap();
    let splits: Vec<Raw> = (0..3).map(|i| split(i, 3).u32("first", i.into())).collect();
    let paths = write_splits(dir.path(), &splits);
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.path(), path);
        assert_eq!(gguf.u32("first").unwrap(), Some(0));
        assert_eq!(gguf.tensors().map(|t| t.name).collect::<Vec<_>>(), ["t0", "t1", "t2"]);
        assert!(gguf.tensor("t2").is_some());
        assert_eq!(gguf.file_bytes(), 3 * splits[0].bytes().len() as u64);
    }
    fs::remove_file(&paths[1]).unwrap();
    let message = Gguf::open(&paths[2]).unwrap_err().to_string();
    assert!(message.contains("split file 2 of 3 is missing"), "{message}");
}

#[test]
fn split_files_that_do_not_belong_together_are_refused() {
    let refused = |splits: &[Raw]| {
        let dir = TempDir::new().unwrap();
        let paths = write_splits(dir.path(), splits);
        Gguf::open(&paths[0]).unwrap_err()
    };
    assert!(matches!(refused(&[split(0, 2), split(0, 2)]), GgufError::Split { .. }));
    assert!(matches!(refused(&[split(0, 2), split(1, 3)]), GgufError::Split { .. }));
    assert!(matches!(refused(&[split(0, 2), small()]), GgufError::Split { .. }));
    assert!(matches!(refused(&[split(5, 2), split(1, 2)]), GgufError::Split { .. }));
    let one_more = split(1, 2).tensor(b"u", &[8], 0, 32).data(64);
    assert!(matches!(refused(&[split(0, 2), one_more]), GgufError::Split { .. }));
    let twice = Raw { tensors: split(0, 2).tensors, ..split(1, 2) };
    assert!(matches!(
        refused(&[split(0, 2), twice]),
        GgufError::Malformed { cause: Malformed::DuplicateTensor(_), .. }
    ));
    assert!(matches!(open(&split(0, 2).bytes()), Err(GgufError::Split { .. })));
}
