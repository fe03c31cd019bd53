//! Checkpoints: one file, which the first byte chooses, is replaced by the rest.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use lapidary::kernels::Cpu;
use lapidary_fuzz::{cpu, small, use_model, Place, FILES};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<(Place, Cpu)> = LazyLock::new(|| {
    let place = Place::new();
    small::write_checkpoint(place.path());
    (place, cpu())
});

fuzz_target!(|bytes: &[u8]| {
    let Some((number, bytes)) = bytes.split_first() else { return };
    let (place, cpu) = &*PLACE;
    let name = FILES[usize::from(*number) % FILES.len()];
    let sound = fs::read(place.path().join(name)).ok();
    // An index is read where there is no single file.
    let index = name == FILES[7];
    let weights = index.then(|| fs::read(place.path().join(FILES[0])).expect("it is there"));
    if weights.is_some() {
        place.remove(FILES[0]);
        place.file("shard.safetensors", &[]);
    }
    place.file(name, bytes);
    use_model(place.path(), cpu);
    match sound {
        Some(sound) => drop(place.file(name, &sound)),
        None => place.remove(name),
    }
    weights.iter().for_each(|bytes| drop(place.file(FILES[0], bytes)));
});
