//! GGUF files: the container, and a model in it up to its first logits.
#![no_main]

use std::sync::LazyLock;

use lapidary::kernels::Cpu;
use lapidary_formats::gguf::{read_metadata, Gguf};
use lapidary_formats::vocab::Vocab;
use lapidary_fuzz::{cpu, use_model, Place};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<(Place, Cpu)> = LazyLock::new(|| (Place::new(), cpu()));

fuzz_target!(|bytes: &[u8]| {
    let (place, cpu) = &*PLACE;
    let path = place.file("model.gguf", bytes);
    let _ = read_metadata(bytes);
    if let Ok(gguf) = Gguf::open(&path) {
        gguf.metadata().for_each(|(_, value)| drop(value.to_string()));
        gguf.tensors().for_each(|t| assert!(t.data.len() >= t.rows()));
        let _ = gguf.checksums();
        let _ = Vocab::from_gguf(&gguf);
    }
    use_model(&path, cpu);
});
