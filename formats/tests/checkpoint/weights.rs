//! Weights in one file and in several shards.

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

/// The error for a checkpoint whose only file has one tensor `t`, described by `entry`.
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
    let more = ["..\\a.safetensors", "C:a", "./a.safetensors", "\x1b[2J.safetensors", "a\0"];
    for name in outside.into_iter().chain(more) {
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
fn shards_that_are_missing_are_named() {
    let dir = sharded();
    dir.index(json!({"x": "a.safetensors", "y": "c.safetensors"}));
    let message = dir.refused().to_string();
    assert!(message.ends_with("index.json: shard \"c.safetensors\" is missing"), "{message}");
}

#[test]
fn shards_that_lack_the_tensor_are_refused() {
    let dir = sharded();
    for (tensor, shard) in [("z", "b.safetensors"), ("x", "b.safetensors")] {
        dir.index(json!({"w": "a.safetensors", tensor: shard}));
        dir.write("a.safetensors", &super::weights::shard("w"));
        let error = dir.refused();
        assert!(
            matches!(error, CheckpointError::NotInShard { tensor: ref t, .. } if t == tensor),
            "{error}"
        );
    }
}

#[test]
fn tensors_in_two_shards_are_refused() {
    let dir = sharded();
    dir.write("b.safetensors", &shard("x"));
    let message = dir.refused().to_string();
    let expected = "b.safetensors: tensor \"x\" occurs in another shard too";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn invalid_indexes_are_refused() {
    let dir = sharded();
    dir.write("model.safetensors.index.json", b"{}");
    assert!(matches!(dir.refused(), CheckpointError::Json { .. }));
}

#[test]
fn tensors_that_an_index_has_twice_are_refused() {
    let dir = sharded();
    let index = r#"{"weight_map": {"x": "a.safetensors", "x": "../../etc/passwd"}}"#;
    dir.write("model.safetensors.index.json", index.as_bytes());
    let message = dir.refused().to_string();
    assert!(message.contains("index.json: \"x\" occurs twice"), "{message}");
}

#[test]
fn a_git_lfs_pointer_in_place_of_a_shard_is_named() {
    let dir = sharded();
    dir.write("b.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    let message = dir.refused().to_string();
    let expected =
        "b.safetensors: not the file that was asked for but a Git LFS pointer to it: fetch \
                    the file itself with `git lfs pull`";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn an_html_page_in_place_of_a_shard_is_named() {
    let dir = sharded();
    dir.write("b.safetensors", b"\n<html><body>404</body></html>");
    let message = dir.refused().to_string();
    let expected =
        "b.safetensors: not the file that was asked for but an HTML page, probably a login \
                    or error page saved by a download";
    assert!(message.ends_with(expected), "{message}");
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
fn oversized_headers_are_refused() {
    let dir = Dir::new();
    for len in [100_000_001, 1 << 63, u64::MAX] {
        dir.write("model.safetensors", &[&len.to_le_bytes()[..], b"{}"].concat());
        let message = dir.refused().to_string();
        let expected = format!("its header of {len} bytes is over the limit of 100000000");
        assert!(message.ends_with(&expected), "{message}");
    }
    dir.write("model.safetensors", &[&100_000_000u64.to_le_bytes()[..], b"{}"].concat());
    let message = dir.refused().to_string();
    let expected = "has 10 bytes, but its header asks for 100000008: the download is incomplete";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn invalid_headers_are_refused() {
    let dir = Dir::new();
    for json in ["[]", "{]", "\u{0}{}", ""] {
        let head = (json.len() as u64).to_le_bytes();
        dir.write("model.safetensors", &[&head[..], json.as_bytes()].concat());
        assert!(matches!(dir.refused(), CheckpointError::Header { .. }), "{json}");
    }
}

#[test]
fn impossible_tensors_are_named() {
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

#[test]
fn tensors_that_a_header_has_twice_are_refused() {
    let entry = r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;
    let json = format!(r#"{{"t": {entry}, "t": {entry}}}"#);
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend([0; 8]);
    let dir = Dir::new();
    dir.write("model.safetensors", &bytes);
    let message = dir.refused().to_string();
    assert!(message.contains("not a safetensors file: \"t\" occurs twice"), "{message}");
}

#[test]
fn tensors_without_a_name_or_with_one_too_long_are_refused() {
    for name in [String::new(), "t".repeat(1025)] {
        let dir = Dir::new();
        let entry = json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]});
        dir.write("model.safetensors", &safetensors(&json!({name.as_str(): entry}), 8));
        let message = dir.refused().to_string();
        let expected = format!("its name has {} bytes, expected 1 to 1024", name.len());
        assert!(message.ends_with(&expected), "{message}");
    }
}

#[test]
fn too_many_dimensions_are_refused() {
    let entry = json!({"dtype": "F32", "shape": vec![1; 100_000], "data_offsets": [0, 4]});
    let message = refused(entry, 4).to_string();
    let expected = "tensor \"t\": 100000 dimensions, at most 8 are supported";
    assert!(message.ends_with(expected), "{message}");
}
