//! Importance matrices of both formats, and the weights that quantizers take from them.
#![no_main]

use std::sync::LazyLock;

use lapidary_formats::imatrix::Imatrix;
use lapidary_fuzz::Place;
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

fuzz_target!(|bytes: &[u8]| {
    let Ok(imatrix) = Imatrix::open(PLACE.file("imatrix", bytes)) else { return };
    for (name, entry) in &imatrix.entries {
        if let Ok(importance) = imatrix.importance(name, entry.sums.len()) {
            assert!(importance.weights.iter().all(|w| w.is_finite() && *w > 0.0));
        }
    }
});
