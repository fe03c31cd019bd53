//! Shards, single and many.

use super::*;

/// A checkpoint of two shards with one tensor each, and an index of them.
fn sharded() -> Dir {
    let dir = Dir::new();
    dir.remove("model.safetensors");
    dir.write("a.safetensors", &shard("x"));
    dir.write("b.safetensors", &shard("y"));
    dir.index(json!({"x": "a.safetensors", "y": "b.safetensors"}));
    dir
}

fn shard(tensor: &str) -> Vec<u8> {
    safetensors(&json!({tensor: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), 8)
}

impl Dir {
    fn index(&self, weight_map: Value) {
        let index = json!({"metadata": {"total_size": 16}, "weight_map": weight_map});
        self.json("model.safetensors.index.json", &index);
    }
}

/// Why a single file with one tensor `t` is refused.
fn refused(entry: Value, n: usize) -> CheckpointError {
    let dir = Dir::new();
    dir.write("model.safetensors", &safetensors(&json!({"t": entry}), n));
    dir.refused()
}

#[test]
fn shards_are_read_as_one() {
    let checkpoint = sharded().open().unwrap();
    assert_eq!(checkpoint.tensors().map(|t| t.name).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(checkpoint.tensor("y").unwrap().data.len(), 8);
}

#[test]
fn shard_names_that_leave_the_directory_are_refused() {
    let outside = ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", ""];
    for name in outside.into_iter().chain(["..\\a.safetensors", "C:a", "./a.safetensors"]) {
        let dir = sharded();
        dir.index(json!({"x": name}));
        let error = dir.refused();
        assert!(
            matches!(error, CheckpointError::ShardName { ref shard, .. } if shard == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn shards_that_disagree_with_the_index_are_refused() {
    let dir = sharded();
    dir.index(json!({"x": "a.safetensors", "y": "c.safetensors"}));
    let error = dir.refused();
    assert!(
        matches!(error, CheckpointError::MissingShard { ref shard, .. } if shard == "c.safetensors")
    );
    for (tensor, shard) in [("z", "b.safetensors"), ("x", "b.safetensors")] {
        dir.index(json!({"w": "a.safetensors", tensor: shard}));
        dir.write("a.safetensors", &super::weights::shard("w"));
        let error = dir.refused();
        assert!(
            matches!(error, CheckpointError::NotInShard { tensor: ref t, .. } if t == tensor),
            "{error}"
        );
    }
    let dir = sharded();
    dir.write("b.safetensors", &shard("x"));
    assert!(matches!(dir.refused(), CheckpointError::DuplicateTensor { .. }));
    dir.write("model.safetensors.index.json", b"{}");
    assert!(matches!(dir.refused(), CheckpointError::Json { .. }));
}

#[test]
fn what_lies_in_the_place_of_a_shard_is_named() {
    let dir = sharded();
    dir.write("b.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    assert!(dir.refused().to_string().contains("git lfs pull"));
    dir.write("b.safetensors", b"\n<html><body>404</body></html>");
    assert!(dir.refused().to_string().contains("HTML"));
}

#[test]
fn a_directory_without_safetensors_says_what_it_has() {
    let dir = Dir::new();
    dir.remove("model.safetensors");
    assert!(matches!(dir.refused(), CheckpointError::NoWeights { hint: "", .. }));
    dir.write("pytorch_model.bin", b"");
    assert!(dir.refused().to_string().contains("save the model as safetensors"));
    dir.write("adapter_config.json", b"{}");
    assert!(dir.refused().to_string().contains("merge it"));
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let bytes = embedding();
    for n in 0..bytes.len() {
        let dir = Dir::new();
        dir.write("model.safetensors", &bytes[..n]);
        match dir.refused() {
            CheckpointError::Header { .. } => assert!(n < 8),
            CheckpointError::Length { found, expected, .. } => {
                assert_eq!(found, n as u64);
                assert!(expected == bytes.len() as u64 || n < bytes.len() - 128);
            }
            other => panic!("{n} bytes: {other}"),
        }
    }
    let dir = Dir::new();
    dir.write("model.safetensors", &[bytes, vec![0]].concat());
    assert!(matches!(dir.refused(), CheckpointError::Length { .. }));
}

#[test]
fn headers_that_are_none_are_refused() {
    let dir = Dir::new();
    for len in [100_000_001, u64::MAX] {
        dir.write("model.safetensors", &[&len.to_le_bytes()[..], b"{}"].concat());
        assert!(matches!(dir.refused(), CheckpointError::Header { .. }));
    }
    for json in ["[]", "{]", "\u{0}{}", ""] {
        let head = (json.len() as u64).to_le_bytes();
        dir.write("model.safetensors", &[&head[..], json.as_bytes()].concat());
        assert!(matches!(dir.refused(), CheckpointError::Header { .. }), "{json}");
    }
}

#[test]
fn tensors_that_cannot_be_are_named() {
    let (big, max) = (1u64 << 62, u64::MAX);
    for (entry, n) in [
        (json!({"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}), 8),
        (json!({"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}), 8),
        (json!({"dtype": "X7", "shape": [8], "data_offsets": [0, 8]}), 8),
        (json!({"dtype": "F32", "shape": [8]}), 8),
        (json!({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}), 8),
        (json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), 0),
        (json!({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), 8),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}), 12),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}), 8),
        (json!({"dtype": "F32", "shape": [big, 4], "data_offsets": [0, 0]}), 0),
        (json!({"dtype": "F32", "shape": [big], "data_offsets": [0, max]}), 0),
    ] {
        let error = refused(entry.clone(), n);
        assert!(
            matches!(error, CheckpointError::Tensor { ref tensor, .. } if tensor == "t"),
            "{entry}: {error}"
        );
    }
    let far = json!({"dtype": "F16", "shape": [1u64 << 62], "data_offsets": [0, 1u64 << 63]});
    assert!(matches!(refused(far, 8), CheckpointError::Length { .. }));
    let two = json!({
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    });
    let dir = Dir::new();
    dir.write("model.safetensors", &safetensors(&two, 12));
    let error = dir.refused();
    assert!(matches!(error, CheckpointError::Tensor { ref tensor, .. } if tensor == "b"));
}
