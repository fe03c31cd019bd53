//! A collection that is interrupted, and goes on to the same bytes.

use std::fs::{self, File};
use std::io::{Read, Seek};

use lapidary::hessian::{About, Options};
use lapidary::kernels::Isa;
use lapidary_formats::gguf::Header;

use super::{model, options, tokens, Place, N_CTX};

/// A collection that can be interrupted and gone on with.
struct Interrupted<'a> {
    place: &'a Place,
    about: About,
    header: Header,
    tokens: Vec<u32>,
    file: File,
}

impl<'a> Interrupted<'a> {
    fn new(place: &'a Place, tokens: Vec<u32>, options: Options) -> Self {
        let about = About::new(place.fingerprint(), "text".to_owned(), &tokens, options).unwrap();
        let header = about.header(&model(&place.source, 1, Isa::best())).unwrap();
        Self { place, about, header, tokens, file: tempfile::tempfile().unwrap() }
    }

    /// Goes on after the tensors with the checksums `finished`, until `stop` parts of the work are done.
    /// Returns the number of tensors that were kept.
    fn go_on(&self, finished: Vec<u64>, threads: usize, stop: usize) -> Result<usize, String> {
        let model = model(&self.place.source, threads, Isa::best());
        (&self.file).rewind().unwrap();
        let header = self.header.clone();
        let progress = &mut |done: usize, _: usize| done < stop;
        let done = self.about.collect(&model, &self.tokens, header, &self.file, finished, progress);
        done.map_err(|error| error.to_string())
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut file, mut bytes) = (&self.file, Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// The checksums of the tensors that are finished.
    fn finished(&self) -> Vec<u64> {
        let stored = self.header.stored_checksums(&self.bytes()).unwrap();
        stored.into_iter().take_while(|checksum| *checksum != 0).collect()
    }
}

#[test]
fn what_was_interrupted_anywhere_goes_on_to_the_same_bytes() {
    let place = Place::new("micro-gemma2");
    let options = Options { fisher: true, ..options(N_CTX, usize::MAX) };
    let tokens = tokens(9 * N_CTX);
    let whole = place.collect("whole", &tokens, options, 2, Isa::best());
    let whole = fs::read(whole).unwrap();
    // Nine chunks in three layers and the output, and eight of them back through each layer. A layer is
    // stored with its last chunk; those of a layer are four inputs, with rows that were held out, and
    // seven outputs. Between them is one tensor for the logits.
    let stops = [(1, 0), (9, 0), (10, 8), (27, 16), (28, 24), (36, 24), (37, 27), (44, 27)];
    for (stop, tensors) in stops.into_iter().chain([(45, 34), (53, 41), (60, 41)]) {
        let interrupted = Interrupted::new(&place, tokens.clone(), options);
        let error = interrupted.go_on(Vec::new(), 1, stop).unwrap_err();
        assert_eq!(error, "cancelled");
        let finished = interrupted.finished();
        assert_eq!(finished.len(), tensors, "after {stop}");
        // Once more, before anything new is finished.
        interrupted.go_on(finished.clone(), 2, 1).unwrap_err();
        assert_eq!(interrupted.finished(), finished);
        assert_eq!(interrupted.go_on(finished, 3, usize::MAX), Ok(tensors));
        assert!(interrupted.bytes() == whole, "after {stop}");
    }
}

#[test]
fn a_layer_that_is_not_complete_is_collected_anew() {
    let place = Place::new("micro-gemma2");
    let options = Options { fisher: true, ..options(N_CTX, usize::MAX) };
    let interrupted = Interrupted::new(&place, tokens(9 * N_CTX), options);
    interrupted.go_on(Vec::new(), 2, usize::MAX).unwrap();
    let (whole, checksums) = (interrupted.bytes(), interrupted.finished());
    assert_eq!(checksums.len(), interrupted.header.tensors().len());
    let start = interrupted.header.encode().len() as u64;
    for (i, tensor) in interrupted.header.tensors().iter().enumerate() {
        // The file ends within this tensor.
        interrupted.file.set_len(start + tensor.offset + tensor.bytes / 2).unwrap();
        let kept = interrupted.go_on(checksums[..i].to_vec(), 2, usize::MAX).unwrap();
        // Eight tensors are of each layer's inputs, and seven of its outputs; two of the output matrix, one of
        // the logits, and the last of the embedded tokens.
        let complete = [8, 16, 24, 26, 27, 34, 41, 48];
        assert_eq!(kept, complete.into_iter().filter(|n| *n <= i).max().unwrap_or(0));
        assert!(interrupted.bytes() == whole, "{}", tensor.name);
    }
}
