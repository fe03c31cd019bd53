//! Saved sessions: the header, and rows as many as it says.
#![no_main]

use lapidary_formats::session::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(bytes, bytes.len() as u64) else { return };
    let header = reader.header().clone();
    if header.first.iter().all(|first| *first == header.ids.len() as u64) {
        // No rows, of whatever length.
        return;
    }
    let mut row = vec![0; usize::try_from(header.row_bytes).expect("it fits the file")];
    for layer in 0..header.first.len() {
        for _ in header.positions(layer).chain(header.positions(layer)) {
            reader.read(&mut row).expect("the length was compared");
        }
    }
    let _ = reader.finish();
});
