//! Second-order statistics: layer by layer the same activations as in one pass, the file and what is
//! wrong with others.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use half::bf16;
use lapidary::convert::{
    convert, ConvertError, Options as ConvertOptions, Plan, Recipe, SecondOrder,
};
use lapidary::hessian::{About, FileError, HessianFile, Inputs, Options};
use lapidary::kernels::second_order::{panels, Gram};
use lapidary::kernels::{Activations, Cpu, Isa, KvType};
use lapidary::model::{
    Extent, GradientObserver, Model, Observer, Readers, RowSource, Source, State, StateOptions,
};
use lapidary_formats::gguf::{Gguf, Header, Writer};
use lapidary_formats::imatrix::Imatrix;
use lapidary_formats::quant::Effort;
use tempfile::TempDir;

use crate::fixtures::tests_dir;

const MODELS: [&str; 4] = ["micro-gemma1", "micro-gemma2", "micro-gemma3", "micro-vaultgemma"];

/// More than the window of the local layers, and no multiple of anything.
const N_CTX: usize = 43;

fn source(name: &str) -> Source {
    Source::open(&tests_dir("fixtures").join(name)).unwrap()
}

fn model(source: &Source, threads: usize, isa: Isa) -> Model<'_> {
    Model::on(Cpu::new(NonZeroUsize::new(threads), isa).unwrap(), source).unwrap()
}

/// Ids all over the vocabulary.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * i * 31 + i * 7) % 2000).collect()
}

fn options(n_ctx: usize, limit: usize) -> Options {
    Options {
        n_ctx: NonZeroUsize::new(n_ctx).unwrap(),
        chunks: None,
        bos: Some(2),
        limit,
        fisher: false,
    }
}

fn state(model: &Model<'_>, n_ctx: usize) -> State {
    State::new(model.config(), StateOptions::new(n_ctx, KvType::F16))
}

/// Remembers the inputs of all matrices.
#[derive(Default)]
struct Recorder(Vec<(Readers, Vec<f32>)>);

impl Observer for Recorder {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        self.0.push((readers, rows.x().to_vec()));
    }
}

/// What a pass through all layers shows of each chunk.
fn recorded(model: &Model<'_>, tokens: &[u32], n_ctx: usize) -> Vec<Recorder> {
    let mut state = State::new(
        model.config(),
        StateOptions { n_ubatch: n_ctx, ..StateOptions::new(n_ctx, KvType::F16) },
    );
    let chunks = tokens.chunks_exact(n_ctx).map(|chunk| {
        let (mut recorder, mut chunk) = (Recorder::default(), chunk.to_vec());
        chunk[0] = 2;
        state.truncate(0);
        model.observe(&mut state, &chunk, &mut recorder).unwrap();
        recorder
    });
    chunks.collect()
}

#[test]
fn layer_by_layer_the_inputs_are_those_of_one_pass() {
    for name in MODELS {
        let source = source(name);
        let model = model(&source, 2, Isa::best());
        let (mut state, mut chunk) = (state(&model, N_CTX), tokens(N_CTX));
        chunk[0] = 2;
        let want = recorded(&model, &tokens(N_CTX), N_CTX).remove(0).0;
        // Another text in between leaves nothing behind.
        let mut other = model.embedded(&mut state, &tokens(N_CTX / 2)).unwrap();
        let mut stream = model.embedded(&mut state, &chunk).unwrap();
        let mut found = Recorder::default();
        for layer in 0..model.config().n_layer() {
            model.take_through(&mut state, layer, &mut other, &mut ()).unwrap();
            model.take_through(&mut state, layer, &mut stream, &mut found).unwrap();
        }
        model.show_output(&mut state, &stream, &mut found);
        assert_eq!(found.0.len(), want.len(), "{name}");
        for ((readers, x), (of, y)) in want.iter().zip(&found.0) {
            assert_eq!(readers, of, "{name}");
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(x) == bits(y), "{name}: {readers:?}");
        }
    }
}

/// Collects the statistics of a fixture in a file.
struct Place {
    source: Source,
    dir: TempDir,
}

impl Place {
    fn new(name: &str) -> Self {
        Self { source: source(name), dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fingerprint(&self) -> String {
        self.source.fingerprint(Extent::Sample).unwrap()
    }

    fn collect(
        &self,
        name: &str,
        tokens: &[u32],
        options: Options,
        threads: usize,
        isa: Isa,
    ) -> PathBuf {
        let model = model(&self.source, threads, isa);
        let about = About::new(self.fingerprint(), "text".to_owned(), tokens, options).unwrap();
        let path = self.path(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let header = about.header(&model).unwrap();
        about.collect(&model, tokens, header, &file, Vec::new(), &mut |_, _| true).unwrap();
        path
    }

    fn open(&self, path: &Path) -> Result<HessianFile, FileError> {
        HessianFile::open(path, &self.fingerprint())
    }

    fn inputs(&self) -> Vec<Inputs> {
        Inputs::of(self.source.config(), self.source.output_kind())
    }
}

#[test]
fn the_file_has_the_sums_of_what_one_pass_shows() {
    for name in MODELS {
        let place = Place::new(name);
        // Nine chunks and a rest; the eighth is held out.
        let tokens = tokens(9 * N_CTX + 5);
        let path = place.collect("a", &tokens, options(N_CTX, usize::MAX), 2, Isa::best());
        let file = place.open(&path).unwrap();
        let model = model(&place.source, 1, Isa::best());
        let chunks = recorded(&model, &tokens, N_CTX);
        let mut summed: Vec<_> = tokens.chunks_exact(N_CTX).map(<[u32]>::to_vec).collect();
        summed.iter_mut().for_each(|chunk| chunk[0] = 2);
        summed.remove(7);
        assert_eq!(file.chunks().unwrap(), summed);
        for inputs in place.inputs() {
            let mut gram = Gram::new(inputs.cols);
            let x = |chunk: &Recorder| {
                chunk.0.iter().find(|(readers, _)| *readers == inputs.readers).unwrap().1.clone()
            };
            for (i, chunk) in chunks.iter().enumerate().filter(|(i, _)| *i != 7) {
                assert!(i < 9);
                gram.add(model.cpu(), &panels(&x(chunk), inputs.cols, 0..inputs.cols));
            }
            let [found] = &file.grams(inputs).unwrap()[..] else { panic!("one part") };
            assert_eq!((found.columns(), found.rows()), (inputs.cols, 8 * N_CTX));
            assert!(found.sums() == gram.sums(), "{name}: {:?}", inputs.readers);
            let held_out: Vec<f32> =
                x(&chunks[7]).iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            assert!(file.held_out(inputs).unwrap() == held_out, "{name}: {:?}", inputs.readers);
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_instructions() {
    let place = Place::new("micro-gemma2");
    let tokens = tokens(9 * N_CTX);
    let want = place.collect("a", &tokens, options(N_CTX, usize::MAX), 1, Isa::SCALAR);
    let want = fs::read(want).unwrap();
    for (i, isa) in Isa::available().into_iter().enumerate() {
        let path = place.collect(&i.to_string(), &tokens, options(N_CTX, usize::MAX), 1 + i, isa);
        assert!(fs::read(path).unwrap() == want, "{}", isa.name());
    }
}

#[test]
fn parts_are_what_the_whole_has_on_its_diagonal() {
    let place = Place::new("micro-gemma2");
    let tokens = tokens(3 * N_CTX);
    let open = |name, limit| {
        let path = place.collect(name, &tokens, options(N_CTX, limit), 2, Isa::best());
        place.open(&path).unwrap()
    };
    let (whole, parts) =
        (open("whole", usize::MAX), open("parts", Options::columns_within(40_000)));
    let model = model(&place.source, 2, Isa::best());
    let chunks = recorded(&model, &tokens, N_CTX);
    let mut most = 0;
    for inputs in place.inputs() {
        let grams = parts.grams(inputs).unwrap();
        most = most.max(grams.len());
        let diagonal: Vec<f32> = grams.iter().flat_map(Gram::diagonal).collect();
        assert_eq!(diagonal, whole.grams(inputs).unwrap()[0].diagonal());
        let mut start = 0;
        for part in &grams {
            // 40 kB: a square of 70 columns twice.
            assert!(part.columns() <= 70 && part.columns().is_multiple_of(32));
            let columns = start..start + part.columns();
            let mut gram = Gram::new(part.columns());
            for chunk in &chunks {
                let mut x = chunk.0.iter().filter(|(readers, _)| *readers == inputs.readers);
                let x = &x.next().unwrap().1;
                gram.add(model.cpu(), &panels(x, inputs.cols, columns.clone()));
            }
            assert!(part.sums() == gram.sums());
            start = columns.end;
        }
        assert_eq!(start, inputs.cols);
        // Fewer than eight chunks leave none to be held out.
        assert!(parts.held_out(inputs).unwrap().is_empty());
    }
    assert!(most > 1);
}

/// Longer than what is evaluated together otherwise.
#[test]
fn chunks_may_be_longer_than_a_ubatch() {
    let place = Place::new("micro-gemma3");
    let tokens = tokens(700);
    let path = place.collect("a", &tokens, options(700, usize::MAX), 2, Isa::best());
    let file = place.open(&path).unwrap();
    let model = model(&place.source, 2, Isa::best());
    let inputs = *place.inputs().last().unwrap();
    let chunk = recorded(&model, &tokens, 700).remove(0);
    let mut gram = Gram::new(inputs.cols);
    gram.add(model.cpu(), &panels(&chunk.0.last().unwrap().1, inputs.cols, 0..inputs.cols));
    assert!(file.grams(inputs).unwrap()[0].sums() == gram.sums());
}

#[test]
fn a_text_that_is_too_short_or_stopped_is_an_error() {
    let place = Place::new("micro-gemma2");
    let about = |n| About::new(String::new(), String::new(), &tokens(n), options(N_CTX, 96));
    let error = about(N_CTX - 1).unwrap_err().to_string();
    assert_eq!(error, format!("the text has {} tokens, but one chunk needs {N_CTX}", N_CTX - 1));
    let (about, model) = (about(2 * N_CTX).unwrap(), model(&place.source, 1, Isa::best()));
    let mut asked = 0;
    let file = tempfile::tempfile().unwrap();
    let header = about.header(&model).unwrap();
    let progress = &mut |done: usize, all: usize| {
        // Three layers and the output, twice.
        assert_eq!(all, 8);
        asked = done;
        done < 3
    };
    let error = about.collect(&model, &tokens(2 * N_CTX), header, &file, Vec::new(), progress);
    assert_eq!(error.unwrap_err().to_string(), "cancelled");
    assert_eq!(asked, 3);
}

/// The sums of the squares of the gradients of logits.
struct Logits(Vec<f64>);

impl GradientObserver for Logits {
    fn logits(&mut self, gradient: &[f32]) {
        for row in gradient.chunks_exact(self.0.len()) {
            self.0.iter_mut().zip(row).for_each(|(sum, g)| *sum += f64::from(*g).powi(2));
        }
    }
}

#[test]
fn the_file_has_the_gradients_of_logits_and_of_embedded_tokens() {
    let place = Place::new("micro-gemma3");
    let (n, tokens) = (2, tokens(2 * N_CTX));
    let options = Options { fisher: true, ..options(N_CTX, usize::MAX) };
    let file = place.open(&place.collect("a", &tokens, options, 2, Isa::best())).unwrap();
    assert_eq!(file.gradients(), Some(n * N_CTX));
    let model = model(&place.source, 1, Isa::best());
    let (config, mut state) = (model.config(), state(&model, N_CTX));
    let (mut logits, mut embedded) = (Logits(vec![0.0; config.n_vocab]), vec![0.0; config.n_embd]);
    for (i, chunk) in tokens.chunks_exact(N_CTX).enumerate() {
        let mut chunk = chunk.to_vec();
        chunk[0] = 2;
        let mut streams = vec![model.embedded(&mut state, &chunk).unwrap()];
        for layer in 0..config.n_layer() {
            let mut stream = streams[layer].clone();
            model.take_through(&mut state, layer, &mut stream, &mut ()).unwrap();
            streams.push(stream);
        }
        let last = &streams[config.n_layer()];
        let gradient = model.sampled_gradient(&mut state, last, i as u64, &mut logits);
        let mut gradient = gradient.unwrap();
        for layer in (0..config.n_layer()).rev() {
            let before = &streams[layer];
            model.take_back(&mut state, layer, before, &mut gradient, &mut ()).unwrap();
        }
        for (at, (x, g)) in streams[0].x().iter().zip(&gradient).enumerate() {
            embedded[at % config.n_embd] += (f64::from(*x) * f64::from(*g)).powi(2);
        }
    }
    let rounded = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect::<Vec<_>>();
    assert_eq!(file.embedded(config.n_embd).unwrap(), Some(rounded(embedded)));
    assert_eq!(file.logits(config.n_vocab).unwrap(), Some(rounded(logits.0)));
    // Without gradients there is nothing of them.
    let options = Options { fisher: false, ..options };
    let file = place.open(&place.collect("b", &tokens, options, 2, Isa::best())).unwrap();
    assert_eq!((file.gradients(), file.logits(config.n_vocab).unwrap()), (None, None));
}

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

/// Writes `path` anew, with other metadata or tensors.
fn rewritten(
    path: &Path,
    keep: impl Fn(&str) -> bool,
    set: impl FnOnce(&mut Header),
    edit: impl Fn(&str, &mut [u8]),
) -> PathBuf {
    let gguf = Gguf::open(path).unwrap();
    let mut header = Header::new();
    gguf.metadata().filter(|(key, _)| keep(key)).for_each(|(key, value)| header.set(key, value));
    set(&mut header);
    let tensors = || gguf.tensors().filter(|t| keep(t.name));
    tensors().for_each(|t| header.add_tensor(t.name, t.ty, t.shape).unwrap());
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    for t in tensors() {
        let mut data = t.data.to_vec();
        edit(t.name, &mut data);
        writer.write(&data).unwrap();
    }
    let out = path.with_file_name("other");
    fs::write(&out, writer.finish().unwrap()).unwrap();
    out
}

/// What a conversion with the statistics in `path` says; it writes nothing.
#[track_caller]
fn refused(place: &Place, path: &Path) -> String {
    let plan = |file| {
        let second_order = SecondOrder::new(file, Effort::Default)?;
        second_order.imatrix(&place.source)?;
        let mut plan = Plan::of_recipe(&place.source, Recipe::Q4_K_M);
        plan.second_order = Some(std::sync::Arc::new(second_order));
        Ok::<_, ConvertError>(plan)
    };
    let error = match place.open(path) {
        Err(error) => error.to_string(),
        Ok(file) => {
            let out = place.path("out.gguf");
            let done = plan(file).and_then(|plan| {
                convert(&place.source, &out, &plan, ConvertOptions::default(), &mut ())
            });
            let error = done.expect_err("statistics that cannot be used").to_string();
            let _ = fs::remove_file(place.path("out.gguf.part"));
            assert!(!out.exists());
            error
        }
    };
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn other_files_and_damaged_ones_are_refused_in_one_line() {
    let place = Place::new("micro-gemma2");
    let good = place.collect("good", &tokens(9 * N_CTX), options(N_CTX, 64), 2, Isa::best());
    let check = |path: &Path, cause: &str| {
        let error = refused(&place, path);
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains(cause), "{error}");
    };
    check(&place.path("nothing"), "");
    fs::write(place.path("text"), "not a GGUF file").unwrap();
    check(&place.path("text"), "GGUF");
    let plan = Plan::of_recipe(&place.source, Recipe::Q8_0);
    let gguf = place.path("model.gguf");
    convert(&place.source, &gguf, &plan, ConvertOptions::default(), &mut ()).unwrap();
    check(&gguf, "it has no second-order statistics; `lapidary hessian` makes them");
    let imatrix = place.path("imatrix.gguf");
    Imatrix::default().write(File::create(&imatrix).unwrap()).unwrap();
    check(&imatrix, "it has no second-order statistics");
    let other = Place::new("micro-gemma3");
    let others = other.collect("other", &tokens(N_CTX), options(N_CTX, 64), 2, Isa::best());
    check(&others, "these statistics are those of another model");

    let bytes = fs::read(&good).unwrap();
    for len in [0, 20, bytes.len() / 2, bytes.len() - 100] {
        fs::write(place.path("cut"), &bytes[..len]).unwrap();
        check(&place.path("cut"), "");
    }
    let all = |_: &str| true;
    let nothing = |_: &str, _: &mut [u8]| ();
    for key in ["hessian.tokens", "hessian.columns"] {
        let damaged = rewritten(&good, |name| name != key, |_| (), nothing);
        check(&damaged, &format!("`{key}` is missing or 0"));
        let damaged = rewritten(&good, all, |header| header.set(key, 0u32), nothing);
        check(&damaged, &format!("`{key}` is missing or 0"));
    }
    for name in ["blk.0.attn_in.1", "blk.2.ffn_out.0", "output.0"] {
        let damaged = rewritten(&good, |other| other != name, |_| (), nothing);
        check(&damaged, &format!("the tensor {name} is missing or has not"));
    }
    // Parts that other limits would make are none of this file's.
    let damaged = rewritten(&good, all, |header| header.set("hessian.columns", 32u64), nothing);
    check(&damaged, "is missing or has not");
}

#[test]
fn values_that_cannot_be_right_are_refused() {
    let place = Place::new("micro-gemma2");
    let good =
        place.collect("good", &tokens(9 * N_CTX), options(N_CTX, usize::MAX), 2, Isa::best());
    let check = |name: &str, at: usize, value: &[u8]| {
        let damaged = rewritten(
            &good,
            |_| true,
            |_| (),
            |other, data| {
                if other == name {
                    data[at..at + value.len()].copy_from_slice(value);
                }
            },
        );
        let error = refused(&place, &damaged);
        let cause = format!("the tensor {name} has values that cannot be right");
        assert!(error.contains(&cause), "{error}");
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (name, at) in [("blk.1.attn_in.0", 0), ("blk.0.ffn_out.0", 4 * 777), ("output.0", 64)] {
            check(name, at, &value.to_le_bytes());
        }
    }
    // The first value is the square of the first column.
    check("blk.1.attn_out.0", 0, &(-1.0f32).to_le_bytes());
    check("blk.1.ffn_in.held_out", 2 * 50, &bf16::NAN.to_le_bytes());
}

/// Sums that no inputs give but that are finite: whatever they are, the file is whole and finite.
#[test]
fn a_strangers_sums_give_a_sound_file() {
    let place = Place::new("micro-gemma2");
    let good =
        place.collect("good", &tokens(3 * N_CTX), options(N_CTX, usize::MAX), 2, Isa::best());
    let mut state = 1u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let tables: Vec<f32> = (0..1 << 16).map(|_| next() as f32 / (1 << 23) as f32 - 1.0).collect();
    for size in [1.0, 1e-44, 3e38] {
        // The diagonal is not below zero, and all else is larger than it may be.
        let damaged = rewritten(
            &good,
            |_| true,
            |_| (),
            |_, data| {
                let n = (1..).find(|n| 16 * Gram::len(16 * n) * 4 >= data.len()).unwrap();
                let mut place = 0;
                for p in 0..n {
                    for k in 0..16 * (p + 1) {
                        for i in 0..16 {
                            let x = tables[(place * 31) % tables.len()] * size;
                            let x = if k == 16 * p + i { (x * 1e-3).abs() } else { x };
                            data[4 * place..][..4].copy_from_slice(&x.to_le_bytes());
                            place += 1;
                        }
                    }
                }
            },
        );
        let second_order = SecondOrder::new(place.open(&damaged).unwrap(), Effort::Best).unwrap();
        let mut plan = Plan::of_recipe(&place.source, Recipe::Q4_K_M);
        plan.second_order = Some(std::sync::Arc::new(second_order));
        let out = place.path("out.gguf");
        let options = ConvertOptions { force: true, ..ConvertOptions::default() };
        convert(&place.source, &out, &plan, options, &mut ()).unwrap();
        let verified = lapidary::verify::verify(&out, Some(2), &mut ()).unwrap();
        assert_eq!(verified.findings, [], "{size:e}");
    }
}
