//! A trained file that others wrote: every tensor of a public Gemma 3 270M Q4_K_M file against the
//! checksums that Python's `gguf` gives for it. The file (250 MB) is not in the repository:
//! `tests/scripts/oracles/gemma3_crc.py` fetches it, `LAPIDARY_GEMMA3` says where it is.

use lapidary_formats::gguf::Gguf;

use crate::fixtures::tests_dir;

#[test]
fn every_tensor_of_a_strangers_file_dequantizes_as_in_python() {
    let Some(path) = std::env::var_os("LAPIDARY_GEMMA3") else {
        println!("skipped: LAPIDARY_GEMMA3 names no file");
        return;
    };
    let gguf = Gguf::open(std::path::Path::new(&path)).unwrap();
    let golden = tests_dir("goldens/quant/gemma3_270m_crc.json");
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let golden = golden["tensors"].as_object().unwrap();
    assert_eq!(gguf.tensors().count(), golden.len());
    for tensor in gguf.tensors() {
        let expected = &golden[tensor.name];
        assert_eq!(tensor.ty.name(), expected["type"], "{}", tensor.name);
        assert_eq!(serde_json::json!(tensor.shape), expected["shape"], "{}", tensor.name);
        let mut values = vec![0.0f32; tensor.len()];
        (tensor.ty.traits().dequantize)(tensor.data, &mut values);
        let mut crc = crc32fast::Hasher::new();
        values.iter().for_each(|x| crc.update(&x.to_le_bytes()));
        assert_eq!(
            u64::from(crc.finalize()),
            expected["crc32"].as_u64().unwrap(),
            "{}",
            tensor.name
        );
    }
    println!("{} tensors equal", golden.len());
}
